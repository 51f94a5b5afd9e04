"""Near-ties: which measured values can't be told apart where it decides who is on the front.

n rows, m objectives, all minimised
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ..record import Record
from .selection import minimised, non_dominated

CLEAR = 2.0  # standard errors of a difference, beyond which two values are told apart


def near_ties(values: np.ndarray, spreads: np.ndarray, measured: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows, one of them at least on the front of ``values`` (n, m), of which one would dominate the other if
    the objectives that are ``measured`` (m,) and in which they differ by no more than ``CLEAR`` times their joint
    ``spreads`` (n, m) came out the other way. Equal values are one measurement, or exact, and no tie.
    """
    front = np.flatnonzero(non_dominated(values))
    if not len(front) or not measured.any():
        return []
    ties = []
    for i in front:
        gap = np.abs(values - values[i])
        unclear = measured & (gap > 0) & (gap <= CLEAR * np.hypot(spreads, spreads[i]))
        better, worse = (((values <= values[i]) | unclear).all(axis=1), ((values >= values[i]) | unclear).all(axis=1))
        for k in np.flatnonzero((better | worse) & unclear.any(axis=1)):
            # Whoever is clearly dominated by another is out, whatever this pair comes to.
            if k in front or not _clearly_out(values, spreads, measured, front, k):
                ties.append((min(i, k), max(i, k)))
    return sorted({(int(a), int(b)) for a, b in ties})


def tied_records(
    records: Sequence[Record], names: Sequence[str], directions: Sequence[str], measured: Collection[str]
) -> list[tuple[int, int]]:
    """``near_ties`` of records that hold the objectives ``names``, those in ``measured`` by a clock or a meter."""
    found = [[r.measures[n] for n in names] for r in records]
    values = minimised(np.array([[m.value for m in row] for row in found]), directions)
    spreads = np.array([[m.spread for m in row] for row in found]).reshape(values.shape)
    return near_ties(values, spreads, np.array([n in measured for n in names]))


def _clearly_out(values, spreads, measured, front, k: int) -> bool:
    ahead = values[k] - values[front]
    clear = ~measured | (ahead > CLEAR * np.hypot(spreads[front], spreads[k]))
    return bool(((ahead >= 0) & clear).all(axis=1).any())
