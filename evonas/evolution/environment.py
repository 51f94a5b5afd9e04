"""Who survives and who becomes a parent: NSGA-II, NSGA-III and a binary tournament."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from deap import tools

from .fitness import Individual
from .selection import crowding_by_rank, pareto_rank


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
        m = len(feasible[0].fitness.wvalues)
        directions = tools.uniform_reference_points(m, p=_partitions(m, k))
        # DEAP's niching shuffles with numpy's global generator: lend it a state of ours and give its own back.
        state = np.random.get_state()  # noqa: NPY002
        try:
            np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
            feasible = tools.selNSGA3(list(feasible), k, directions)
        finally:
            np.random.set_state(state)  # noqa: NPY002
    return list(feasible) + infeasible[: k - len(feasible)]


def select_parents(population: Sequence[Individual], k: int, rng: np.random.Generator) -> list[Individual]:
    """``k`` parents by binary tournaments on rank and crowding, different ones where the population allows."""
    feasible, infeasible = _split(population)
    order = [feasible[i] for i in _nsga2_order(feasible)] + infeasible
    chosen: list[Individual] = []
    while len(chosen) < k:
        pool = [p for p in range(len(order)) if order[p] not in chosen] or list(range(len(order)))
        pair = rng.choice(pool, size=min(2, len(pool)), replace=False)
        chosen.append(order[min(pair)])
    return chosen


def _split(individuals: Sequence[Individual]) -> tuple[list[Individual], list[Individual]]:
    feasible = [i for i in individuals if i.feasible]
    infeasible = sorted((i for i in individuals if not i.feasible), key=lambda i: (i.fitness.violation, i.index))
    return feasible, infeasible


def _nsga2_order(individuals: Sequence[Individual]) -> list[int]:
    if not individuals:
        return []
    points = np.array([[-w for w in i.fitness.wvalues] for i in individuals])
    ranks = pareto_rank(points)
    crowding = crowding_by_rank(points, ranks)
    return sorted(range(len(individuals)), key=lambda i: (ranks[i], -crowding[i], individuals[i].index))


def _partitions(m: int, k: int) -> int:
    """The fewest partitions of the unit simplex in ``m`` dimensions that give ``k`` reference directions."""
    p = 1
    while math.comb(p + m - 1, m - 1) < k:
        p += 1
    return p
