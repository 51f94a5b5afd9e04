"""Near-ties: which measured values can't be told apart where it decides who is on the front.

n rows, m objectives, all minimised
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np

from ..record import Record
from .selection import minimised, non_dominated

CLEAR = 2.0  # standard errors of a difference, beyond which two values are told apart
SINGLE = 0.01  # relative standard deviation of one timing from the next, where a run does not tell
_TELLING = 4  # differences from which it does
_MAD = 1.4826  # standard deviations of a normal distribution in a median absolute deviation


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
    """``near_ties`` of ``weighed`` records that hold the objectives ``names``, those in ``measured`` by a clock or a
    meter."""
    found = [[r.measures[n] for n in names] for r in weighed(records)]
    values = minimised(np.array([[m.value for m in row] for row in found]), directions)
    spreads = np.array([[m.spread for m in row] for row in found]).reshape(values.shape)
    return near_ties(values, spreads, np.array([n in measured for n in names]))


def _clearly_out(values, spreads, measured, front, k: int) -> bool:
    ahead = values[k] - values[front]
    clear = ~measured | (ahead > CLEAR * np.hypot(spreads[front], spreads[k]))
    return bool(((ahead >= 0) & clear).all(axis=1).any())


def weighed(records: Sequence[Record]) -> list[Record]:
    """The records, with the standard error that one timing has where they hold no more: how far several of one network
    lie apart, in these records or else by ``SINGLE``. The repeats within one tell of less. What has no spread is exact.
    """
    several = [r for r in records if r.times_measured > 1]
    names = {name for r in records for name, m in r.measures.items() if m.fidelity == "measured"}
    found = {n: deviation({tuple(without_mean(r.singles(n))) for r in several}, _TELLING) for n in names}
    of_one = {n: SINGLE if known is None else known for n, known in found.items()}
    return [r if r.times_measured > 1 else _with_errors(r, of_one) for r in records]


def _with_errors(record: Record, of_one: Mapping[str, float]) -> Record:
    least = {n: of_one[n] * abs(m.value) for n, m in record.measures.items() if m.fidelity == "measured"}
    changes = {n: replace(record.measures[n], spread=e) for n, e in least.items() if 0 < record.measures[n].spread < e}
    return replace(record, measures={**record.measures, **changes}) if changes else record


def deviation(several: Iterable[Sequence[float]], fewest: int = 1) -> float | None:
    """Relative standard deviation of one measurement from the next, the same for all, from what ``several`` of each
    network gave in turn (see ``without_mean``); None where these are fewer than ``fewest`` differences. One that
    something came between does not change it."""
    apart: list[float] = []
    for values in several:
        if len(values) > 1 and (middle := float(np.median(values))):
            apart += np.abs(np.diff(values) / middle / math.sqrt(2)).tolist()  # of each from the one before
    return _MAD * float(np.median(apart)) if len(apart) >= fewest else None


def without_mean(values: Sequence[float]) -> Sequence[float]:
    """Measurements of one network from the last on of the first ones that are alike: these stand for a mean of several,
    as runs of earlier versions have it, and say nothing of errors."""
    return values[sum(1 for _ in takewhile(values[0].__eq__, values)) - 1 :] if values else values
