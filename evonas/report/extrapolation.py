"""From a run's last rung to the length of its long trainings: what a calibration lets one expect of every genome there.

A calibration trains a few genomes much longer. How the loss changes from the last rung to there is learned from them as
the search learns it from rung to rung (``evolution.rungs.RungModel``: the losses so far and the genes), and told of the
others with the error that the model makes of a genome left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import EvonasError
from ..evolution.rungs import RungModel
from ..genome import SearchSpace, space_from_dict
from ..record import Record
from ..store import Store

FEWEST = 6  # long trainings of genomes at the last rung, below which nothing is extrapolated


class Extrapolation(NamedTuple):
    """``losses`` genome id -> loss expected after the long training, of every genome at the last rung;
    ``left_out`` the same of those that were trained so long, each from the others alone; ``error`` the root mean square
    of what that was off by, nats."""

    losses: dict[str, float]
    left_out: dict[str, float]
    error: float


def extrapolate(
    store: Store, told: Mapping[str, Sequence[Record]], rungs: int, long: Mapping[str, float]
) -> Extrapolation | None:
    """None where fewer than ``FEWEST`` of the genomes at the last of ``rungs`` were trained longer.

    Args:
        told: records with a loss of each genome, rung by rung, as ``losses_told`` gives them.
        long: genome id -> loss after the long training.
    """
    ids = [i for i, records in told.items() if len(records) == rungs]
    known = [i for i in ids if i in long]
    if len(known) < FEWEST:
        return None
    last = {i: told[i][-1].measures["loss"].value for i in ids}
    try:
        space = space_from_dict(store.header["space"])
        features = dict(zip(ids, _features(store, space, [told[i] for i in ids])))
        left_out = each_left_out({i: features[i] for i in known}, last, long)
        losses = dict(zip(ids, _expected(known, ids, features, last, long)))
    except (EvonasError, KeyError, TypeError, ValueError):  # a run from elsewhere: any space, any genes, any numbers
        return None
    error = float(np.sqrt(np.mean([(left_out[i] - long[i]) ** 2 for i in known])))
    return Extrapolation(losses, left_out, error) if np.isfinite([error, *losses.values()]).all() else None


def each_left_out(
    features: Mapping[str, np.ndarray], last: Mapping[str, float], long: Mapping[str, float]
) -> dict[str, float]:
    """What each genome's ``long`` loss is expected to be from its ``features`` and ``last`` loss by those of the
    others alone."""
    return {i: _expected([k for k in features if k != i], [i], features, last, long)[0] for i in features}


def _features(store: Store, space: SearchSpace, told: Sequence[Sequence[Record]]) -> np.ndarray:
    """(n, d): the loss at the last rung, its change from the one before, the genes."""
    losses = np.array([[r.measures["loss"].value for r in records[-2:]] for records in told])
    genes = np.array([space.encode(store.genomes[records[-1].genome_id].genome, per_layer=False) for records in told])
    return np.hstack([losses[:, -1:], np.diff(losses), genes])


def _expected(
    known: Sequence[str], of: Sequence[str], features: Mapping[str, np.ndarray], last: Mapping, long: Mapping
) -> list[float]:
    model = RungModel(np.array([features[i] for i in known]), np.array([[long[i] - last[i]] for i in known]))
    return model.expected(np.array([[last[i]] for i in of]), np.array([features[i] for i in of]))[:, 0].tolist()
