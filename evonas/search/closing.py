"""When a budget nears its end: what of it the front needs to be trained to the last rung."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CLOSING_SHARE = 0.5  # of a budget, at most, for the closing trainings


class Left(NamedTuple):
    """Of one budget, in its own unit: what is ``left`` and what there was (``whole``); what the next ``generation``
    takes; and what it ``costs`` to train each unfinished member to the end, the most wanted first, ``lanes`` of them
    side by side. ``alone``: a member that has no others beside it is no faster for that."""

    left: float
    whole: float
    generation: float
    costs: Sequence[float]
    lanes: int = 1
    alone: bool = False

    @property
    def closing(self) -> bool:
        """Whether another generation would be paid from what the affordable need."""
        needed = self._together([self.costs[k] for k in self.affordable])
        return self.left <= min(needed, CLOSING_SHARE * self.whole) + self.generation

    @property
    def affordable(self) -> set[int]:
        """Places of the members that can be trained to the end: each in turn that fits beside those before it."""
        chosen: list[int] = []
        for k in range(len(self.costs)):
            if self._together([self.costs[c] for c in (*chosen, k)]) <= self.left:
                chosen.append(k)
        return set(chosen)

    def _together(self, costs: Sequence[float]) -> float:
        total = sum(costs) / self.lanes
        return max(total, *costs) if self.alone and costs else total


class Pace:
    """What the trainings of a run take. ``rungs`` are the tokens seen at each."""

    def __init__(self, rungs: Sequence[int]) -> None:
        self._steps = np.diff(rungs, prepend=0)
        self._of: dict[str, dict[int, float]] = {}  # genome -> rung -> seconds
        self._sorted: list[list[float]] = [[] for _ in rungs]
        self._growth: list[list[float]] = [[] for _ in rungs]  # times the seconds of the same genome a rung below

    def note(self, genome_id: str, rung: int, seconds: float) -> None:
        """A training from the rung below to ``rung`` took so many seconds."""
        of = self._of.setdefault(genome_id, {})
        of[rung] = seconds
        bisect.insort(self._sorted[rung], seconds)
        if rung - 1 in of:
            bisect.insort(self._growth[rung], seconds / of[rung - 1])

    def typical(self, peers: int = 1) -> dict[int, float]:
        """Rung -> median seconds, of those with so many trainings."""
        return {rung: _median(seconds) for rung, seconds in enumerate(self._sorted) if len(seconds) >= peers}

    def step(self, rung: int) -> int:
        """Tokens that a training sees between the rung below and this one."""
        return int(self._steps[rung])

    def to_the_end(self, genome_id: str, rung: int) -> float:
        """Seconds that training the genome from that rung to the last one will take.

        Its own seconds at its rung are multiplied by what rungs have taken beside those below them: on a GPU, where
        most of a short training is its start, far less than the tokens say.
        """
        seconds = self._of.get(genome_id, {}).get(rung, self.typical().get(rung, 0.0))
        total = 0.0
        for above in range(rung + 1, len(self._steps)):
            growth = self._growth[above]
            seconds *= _median(growth) if growth else self._steps[above] / self._steps[above - 1]
            total += seconds
        return total


def _median(ordered: Sequence[float]) -> float:
    return ordered[len(ordered) // 2]
