"""Survivors, parents and promotions kept apart by size, where rungs mislead.

Short trainings favour small networks: they learn faster, and a large one is better only later. Selection by what a
short training lets one expect so ends with small ones alone, and none is left to carry what was learned to a larger
size. As in MAP-Elites (Mouret and Clune 2015), size is therefore divided into strata, and the best of each stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

import numpy as np

from .environment import Pair, Tournament, distinct_places
from .fitness import Individual

Select = Callable[[Sequence[Individual], int, np.random.Generator], list[Individual]]
# Objectives that no rung changes, by place, with the least and the most that the whole run has seen. (A range of those
# alive would shrink: the best of the largest stratum is seldom its largest.)
Ranges = Mapping[int, tuple[float, float]]
Steady = Callable[[], Ranges]


def stratum_elites(individuals: Sequence[Individual], steady: Ranges, n: int) -> list[Individual]:
    """The best feasible one of each of ``n`` strata, large ones first; none where nothing tells sizes apart.

    Size is what no rung changes: latency, memory. Each such objective counts within its range, by its logarithm where
    the range is positive. Best is least in the objectives that rungs do change, by the sum of their orders.
    """
    feasible = [i for i in individuals if i.feasible]
    m = len(feasible[0].fitness.wvalues) if feasible else 0
    if len(feasible) < 3 or not 0 < len(steady) < m:
        return []
    points = np.array([[-w for w in i.fitness.wvalues] for i in feasible])
    size = np.mean([_scaled(points[:, j], *steady[j]) for j in steady], axis=0)
    # Equal values share a place, so that what comes first does not depend on the order of arrival.
    places = [np.unique(points[:, j], return_inverse=True)[1] for j in range(m) if j not in steady]
    place = np.sum(places, axis=0)
    stratum = np.minimum((size * n).astype(int), n - 1)
    best: dict[int, int] = {}
    for k in sorted(range(len(feasible)), key=lambda k: (place[k], feasible[k].index)):
        best.setdefault(int(stratum[k]), k)
    return [feasible[best[s]] for s in sorted(best, reverse=True)]


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """From 0 to 1, on a scale by what was told: what is only expected may lie outside, even below 0."""
    values = np.clip(values, low, high)
    if low > 0:
        values, low, high = np.log(values), np.log(low), np.log(high)
    return (values - low) / (high - low) if high > low else np.zeros(len(values))


def select_by_strata(
    individuals: Sequence[Individual], k: int, rng: np.random.Generator, *, select: Select, steady: Steady
) -> list[Individual]:
    """The best of each of ``k // 2`` strata, and for the rest those that ``select`` puts first."""
    kept = stratum_elites(individuals, steady(), k // 2) if k < len(individuals) else []
    ids = {id(i) for i in kept}
    rest = select(individuals, k, rng)  # at least k - len(kept) of them are others
    return [i for i in rest if id(i) not in ids][: k - len(kept)] + kept


class ParentsByStrata:
    """Parents as the tournament chooses them, or, every other time, any: a size that looks worse has children too."""

    def __init__(self, tournament: Tournament, steady: Steady) -> None:
        self._tournament, self._steady = tournament, steady

    def __call__(self, population: Sequence[Individual], k: int, rng: np.random.Generator) -> list[Individual]:
        feasible = self._any_of(population)
        if not feasible or rng.random() < 0.5:
            return self._tournament(population, k, rng)
        return [feasible[j] for j in rng.choice(len(feasible), size=k, replace=len(feasible) < k)]

    def pairs(self, population: Sequence[Individual], n: int, rng: np.random.Generator) -> list[Pair]:
        """Parents of ``n`` children at once."""
        best, feasible = self._tournament.pairs(population, n, rng), self._any_of(population)
        if not feasible:
            return best
        first, second = distinct_places(n, len(feasible), rng)
        others = [(feasible[a], feasible[b]) for a, b in zip(first.tolist(), second.tolist())]
        return [pair if coin else other for pair, other, coin in zip(best, others, rng.random(n) < 0.5)]

    def _any_of(self, population: Sequence[Individual]) -> list[Individual]:
        """The feasible ones, where something tells sizes apart."""
        feasible = [i for i in population if i.feasible]
        m = len(feasible[0].fitness.wvalues) if feasible else 0
        return feasible if 0 < len(self._steady()) < m else []


def interleaved(best_first: Sequence[Individual], elites: Sequence[Individual]) -> list[Individual]:
    """One of each in turn, each individual once."""
    turns = (i for pair in zip_longest(best_first, elites) for i in pair if i is not None)
    return list({id(i): i for i in turns}.values())
