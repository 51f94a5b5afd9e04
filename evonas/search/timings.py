"""What several measurements of each of some architectures say of it.

A machine's clock, its other users and its heat change all times together, between the measurements of a search by more
than a single one tells by its repeats. So what a round of measurements has in common is taken out, and how far a time
is known comes from how far those of one architecture lie apart, over all of them. What is common shows in architectures
that nobody chose for their times: those on a front owe their places to lucky ones too, and are slower the next time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..evolution.ties import deviation, without_mean
from ..record import MEASURED_AGAIN, Measure, Record, of_measurements

COMMON = 4  # architectures, from which on a round says how fast the machine is
_MOST = 100  # measurements that a record may claim without saying what they gave
_MEDIAN = 1.2533  # standard errors of a mean in that of a median, for three or more


class Timings:
    """Measurements of some architectures, more of them round by round.

    Args:
        known: (architecture id, a record that holds what was measured of it), several of one architecture alike.
        names: of the measured objectives.
    """

    def __init__(self, known: Sequence[tuple[str, Record]], names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._singles: dict[str, dict[str, list[float]]] = {}
        self._alike: dict[str, dict[str, int]] = defaultdict(dict)  # of these, the first that say nothing of errors
        self._claimed: dict[str, dict[str, float]] = defaultdict(dict)  # relative spreads as measured, by objective
        self._deviations: dict[str, float] = {}
        self._changed: set[str] = set()
        for architecture, record in known:
            if all(name in record.measures for name in self._names):
                of = self._singles[architecture] = {}
                for name in self._names:
                    m, found = record.measures[name], record.singles(name)
                    of[name] = found or min(record.times_measured, _MOST) * [m.value]  # earlier: a mean of several
                    self._alike[name][architecture] = len(of[name]) - len(without_mean(of[name]))
                    self._claimed[name][architecture] = m.spread / abs(m.value) if m.value else 0.0

    def add(self, found: Mapping[str, Mapping[str, Measure]], chosen: Collection[str] = ()) -> None:
        """One round: architecture id -> its measures. What those that are not ``chosen`` for their times are in common
        faster or slower than what is known so far is the machine's, where they are enough to tell; so times stay those
        of the search's state."""
        found = {a: m for a, m in found.items() if a in self._singles and self._is_sound(m)}
        for name in self._names:
            values = {a: measures[name].value for a, measures in found.items()}
            known = {a: float(np.median(self._singles[a][name])) for a in values}
            ratios = [v / known[a] for a, v in values.items() if known[a] and v and a not in chosen]
            common = float(np.median(ratios)) if len(ratios) >= COMMON else 1.0
            for architecture, value in values.items():
                self._singles[architecture][name].append(value / common)
            self._deviations[name] = self._deviation(name)
        self._changed |= found.keys()

    def _is_sound(self, measures: Mapping[str, Measure]) -> bool:
        return all(name in measures and math.isfinite(measures[name].value) for name in self._names)

    def revised(self, architecture: str, record: Record) -> Record:
        """The record with the median of what was measured of its architecture and the standard error of that; the
        record itself where nothing was added."""
        if architecture not in self._changed:
            return record
        measures = dict(record.measures)
        for name in self._names:
            value = float(np.median(self._singles[architecture][name]))
            measures[name] = replace(measures[name], value=value, spread=abs(value) * self._error(architecture, name))
        provenance = {**record.provenance, **of_measurements(self._singles[architecture])}
        return replace(record, measures=measures, cost={}, provenance=provenance, reason=MEASURED_AGAIN)

    def weighed(self, architecture: str, record: Record) -> Record:
        """As ``revised``, and one to which nothing was added with the error that so many measurements have here: what
        the repeats within one tell is less."""
        if architecture in self._changed or architecture not in self._singles or not self._deviations:
            return self.revised(architecture, record)
        measures = dict(record.measures)
        for name in self._names:
            m = measures[name]
            measures[name] = replace(m, spread=max(m.spread, abs(m.value) * self._error(architecture, name)))
        return replace(record, measures=measures)

    def _error(self, architecture: str, name: str) -> float:
        """Relative standard error of the median of its measurements."""
        n = len(self._singles[architecture][name])
        return self._deviations[name] * (_MEDIAN if n > 2 else 1) / math.sqrt(n)

    def _deviation(self, name: str) -> float:
        """Relative standard deviation of one measurement from the next; at least what repeats within one say."""
        told = (of[name][self._alike[name][architecture] :] for architecture, of in self._singles.items())
        between = deviation(told) or 0.0
        return max(between, float(np.median(list(self._claimed[name].values()))))
