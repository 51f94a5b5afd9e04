"""From a run's last rung to the length of its long trainings: what a calibration lets one expect of every genome there.

A calibration trains a few genomes much longer. How the loss changes from the last rung to there is learned from them as
the search learns it from rung to rung (``evolution.rungs.RungModel``: the losses so far and the genome), and told of
the others with the error that the model makes of a genome left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import EvonasError
from ..evolution.rungs import RungModel, described, traits_in
from ..genome import space_from_dict
from ..record import Record
from ..store import Store

FEWEST, MOST = 6, 250  # long trainings of genomes at the last rung that it is learned from; the latest count
_REMAINS = (1.0, 0.75, 0.5)  # of what one genome is ahead of another at the last rung; see ``RungModel``


class Extrapolation(NamedTuple):
    """``losses`` genome id -> loss expected after the long training, of every genome at the last rung; ``left_out``
    what is expected of those that were trained so long by the others; ``error`` the root mean square of what that was
    off by, nats."""

    losses: dict[str, float]
    left_out: LeftOut
    error: float


class LeftOut(NamedTuple):
    """Genome id -> the long loss expected of it by the others alone, and what it is to be ranked by (see
    ``RungModel.left_out``)."""

    expected: dict[str, float]
    ranked: dict[str, float]


@np.errstate(over="ignore", invalid="ignore")  # the losses of a run from elsewhere may be of any size
def extrapolate(
    store: Store, told: Mapping[str, Sequence[Record]], rungs: int, long: Mapping[str, float]
) -> Extrapolation | None:
    """None where fewer than ``FEWEST`` of the genomes at the last of ``rungs`` were trained longer.

    Args:
        told: records with a loss of each genome, rung by rung, as ``losses_told`` gives them.
        long: genome id -> loss after the long training, in the order they were trained.
    """
    there = {i: records for i, records in told.items() if len(records) == rungs}
    known = [i for i in long if i in there][-MOST:]
    if len(known) < FEWEST:
        return None
    losses = {i: [r.measures["loss"].value for r in records] for i, records in there.items()}
    last = {i: row[-1] for i, row in losses.items()}
    try:
        space = space_from_dict(store.header["space"], stored=True)
        rows = {i: features(row, described(space, store.genomes[i].genome)) for i, row in losses.items()}
        model = _model({i: rows[i] for i in known}, last, long, traits_in(space))
        left_out = _left_out(known, model)
        found = model.expected(_column(last, rows), np.array([*rows.values()]))
        expected = dict(zip(rows, found[:, 0].tolist()))
    except (EvonasError, ArithmeticError, KeyError, TypeError, ValueError):  # from elsewhere: any space, any genes
        return None
    error = float(np.sqrt(np.square([left_out.expected[i] - long[i] for i in known]).mean()))
    return Extrapolation(expected, left_out, error) if np.isfinite([error, *expected.values()]).all() else None


def features(losses: Sequence[float], genome: np.ndarray) -> np.ndarray:
    """(d,): the last of the ``losses``, rung by rung, its change from the one before (0 without), the genome as
    ``described``."""
    return np.array([losses[-1], *(np.diff(losses[-2:]) if len(losses) > 1 else [0.0]), *genome])


def each_left_out(
    rows: Mapping[str, np.ndarray], last: Mapping[str, float], long: Mapping[str, float], traits: int = 0
) -> LeftOut:
    """What is expected of each genome of ``rows``, the ``features`` of those trained longer, by the others alone.
    ``traits``: see ``evolution.rungs.Ladder``."""
    return _left_out(rows, _model(rows, last, long, traits))


def _left_out(ids: Iterable[str], model: RungModel) -> LeftOut:
    return LeftOut(*(dict(zip(ids, found[:, 0].tolist())) for found in model.left_out))


def _model(
    rows: Mapping[str, np.ndarray], last: Mapping[str, float], long: Mapping[str, float], traits: int
) -> RungModel:
    alone = 2 + traits if traits else None  # beside the loss and its change
    return RungModel(np.array([*rows.values()]), _column(last, rows), _column(long, rows), alone, _REMAINS)


def _column(losses: Mapping[str, float], ids: Iterable[str]) -> np.ndarray:
    return np.array([[losses[i]] for i in ids])
