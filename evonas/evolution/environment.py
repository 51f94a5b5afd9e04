"""Who survives and who becomes a parent: NSGA-II, NSGA-III and a binary tournament."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from deap import tools

from .fitness import Individual, ParetoFitness
from .selection import nsga2_order

_MOST = 2**24  # numbers in an array of NSGA-III's

Pair = tuple[Individual, Individual]


def select_nsga2(individuals: Sequence[Individual], k: int, rng: np.random.Generator) -> list[Individual]:
    """The best ``k`` by Pareto rank, then crowding distance (Deb et al. 2002); feasible ones first.

    Ranks come from ``moocore``: DEAP's own sorting is three orders of magnitude slower on large populations.
    """
    feasible, infeasible = _split(individuals)
    chosen = [feasible[i] for i in _nsga2_order(feasible)[:k]]
    return chosen + infeasible[: k - len(chosen)]


def select_nsga3(individuals: Sequence[Individual], k: int, rng: np.random.Generator) -> list[Individual]:
    """The best ``k`` by Pareto rank, then by niches around reference directions (Deb and Jain 2014, DEAP's
    implementation); feasible ones first."""
    feasible, infeasible = _split(individuals)
    if len(feasible) > k:
        scaled = _scaled(feasible)
        m = len(scaled[0].fitness.wvalues)
        # DEAP makes arrays of this size; with fewer directions several share one.
        directions = tools.uniform_reference_points(m, p=_partitions(m, min(k, max(m, _MOST // (len(scaled) * m)))))
        # DEAP's niching shuffles with numpy's global generator: lend it a state of ours and give its own back.
        state = np.random.get_state()  # noqa: NPY002
        try:
            np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
            feasible = [feasible[i.index] for i in tools.selNSGA3(scaled, k, directions)]
        finally:
            np.random.set_state(state)  # noqa: NPY002
    return list(feasible) + infeasible[: k - len(feasible)]


def _scaled(individuals: Sequence[Individual]) -> list[Individual]:
    """Stand-ins, numbered by their places, with objectives from 0 to 1. DEAP takes intercepts, which are distances from
    the ideal point, for points and subtracts the ideal once more: that is right where it is 0 alone."""
    points = np.negative([i.fitness.wvalues for i in individuals]) / 2  # no range is too large for a number so
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    rows = ((points - low) / np.where(extent > 0, extent, 1.0)).tolist()
    least = ("min",) * points.shape[1]
    return [Individual(i.genome, ParetoFitness(least, row), k) for k, (i, row) in enumerate(zip(individuals, rows))]


class Tournament:
    """Parents by binary tournaments on rank and crowding, different ones where the population allows.

    A generation asks for parents once for every child: the order of the population is remembered while the same list,
    which must not be changed in place, is given again.
    """

    def __init__(self) -> None:
        self._population: Sequence[Individual] = ()
        self._order: list[Individual] = []

    def _ordered(self, population: Sequence[Individual]) -> list[Individual]:
        if population is not self._population:
            feasible, infeasible = _split(population)
            self._order = [feasible[i] for i in _nsga2_order(feasible)] + infeasible
            self._population = population
        return self._order

    def pairs(self, population: Sequence[Individual], n: int, rng: np.random.Generator) -> list[Pair]:
        """Parents of ``n`` children at once."""
        order = self._ordered(population)
        first, second = tournament_places(n, len(order), rng)
        return [(order[a], order[b]) for a, b in zip(first.tolist(), second.tolist())]

    def __call__(self, population: Sequence[Individual], k: int, rng: np.random.Generator) -> list[Individual]:
        self._ordered(population)
        taken: list[int] = []
        while len(taken) < k:
            before = sorted(taken) if len(taken) < len(self._order) else []
            left = len(self._order) - len(before)
            place = int(rng.choice(left, size=min(2, left), replace=False).min())
            for other in before:
                place += place >= other
            taken.append(place)
        return [self._order[place] for place in taken]


def best_places(points: np.ndarray, violations: np.ndarray, births: np.ndarray, k: int) -> np.ndarray:
    """Places of the best ``k`` of n, best first, as ``select_nsga2`` has them: ``points`` (n, m), minimised, of the
    feasible; after these the others by ``violations`` (n,), then ``births`` (n,)."""
    feasible, others = (np.flatnonzero(mask) for mask in (violations == 0, violations > 0))
    order = feasible[nsga2_order(points[feasible], births[feasible])]
    return np.concatenate([order, others[np.lexsort((births[others], violations[others]))]])[:k]


def distinct_places(n: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``n`` times two different places below ``size``, drawn evenly; twice 0 where there is only that."""
    a, b = ((rng.random(n) * most).astype(int) for most in (size, max(size - 1, 1)))
    return a, b + ((b >= a) & (size > 1))


def tournament_places(n: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places (n,) and (n,) of both parents of ``n`` children in an order from best to worst, by binary tournaments;
    different ones where there are two."""
    first = _winners(n, size, rng)
    second = _winners(n, max(size - 1, 1), rng)
    return first, second + ((second >= first) & (size > 1))


def _winners(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    return np.minimum(*distinct_places(n, size, rng))


def _split(individuals: Sequence[Individual]) -> tuple[list[Individual], list[Individual]]:
    feasible = [i for i in individuals if i.feasible]
    infeasible = sorted((i for i in individuals if not i.feasible), key=lambda i: (i.fitness.violation, i.index))
    return feasible, infeasible


def _nsga2_order(individuals: Sequence[Individual]) -> list[int]:
    if not individuals:
        return []
    points = np.negative([i.fitness.wvalues for i in individuals])
    return nsga2_order(points, np.array([i.index for i in individuals])).tolist()


def _partitions(m: int, k: int) -> int:
    """The fewest partitions of the unit simplex in ``m`` dimensions that give ``k`` reference directions."""
    p = 1
    while math.comb(p + m - 1, m - 1) < k:
        p += 1
    return p
