"""Ranks, crowding and hypervolume against brute force, DEAP and pencil and paper."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from deap import tools
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evonas.evolution import Individual, ParetoFitness, hypervolume, hypervolume_box, minimised, non_dominated
from evonas.evolution.selection import (
    crowding_by_rank,
    crowding_distance,
    hypervolume_contributions,
    hypervolume_gain,
    most_gained,
    pareto_rank,
)
from evonas.genome import Genome

quick = settings(deadline=None, derandomize=True, max_examples=150)
# Small whole numbers, so that ties and equal rows are common.
grids = hnp.arrays(float, st.tuples(st.integers(0, 14), st.integers(1, 5)), elements=st.integers(0, 4).map(float))


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def brute_front(points: np.ndarray) -> np.ndarray:
    return np.array([not any(dominates(q, p) for q in points) for p in points], dtype=bool)


def brute_rank(points: np.ndarray) -> np.ndarray:
    rank = np.full(len(points), -1)
    level = 0
    while (rank < 0).any():
        left = np.flatnonzero(rank < 0)
        rank[left[brute_front(points[left])]] = level
        level += 1
    return rank


@quick
@given(grids)
def test_front_and_ranks_are_the_definition(points):
    front, rank = non_dominated(points), pareto_rank(points)
    assert front.dtype == bool and front.tolist() == brute_front(points).tolist()
    assert rank.tolist() == brute_rank(points).tolist()
    assert ((rank == 0) == front).all()


def test_equal_rows_are_all_kept():
    points = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [2.0, 2.0]])
    assert non_dominated(points).tolist() == [True, True, True, False]
    assert pareto_rank(points).tolist() == [0, 0, 0, 1]


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 5))
def test_crowding_is_deaps(seed, n, m):
    # Distinct values: how ties are ordered is nobody's business. DEAP divides by the number of objectives too.
    points = np.random.default_rng(seed).permuted(np.tile(np.arange(n, dtype=float) ** 1.5, (m, 1)), axis=1).T
    individuals = [Individual(Genome({"i": i}), ParetoFitness(["min"] * m, p), i) for i, p in enumerate(points)]
    tools.emo.assignCrowdingDist(individuals)
    assert crowding_distance(points) == pytest.approx([i.fitness.crowding_dist for i in individuals])


def test_crowding_by_hand():
    points = np.array([[0.0, 10.0], [1.0, 6.0], [4.0, 5.0], [10.0, 0.0]])
    # Neighbours' gap over the range, averaged over the objectives: (4/10 + 5/10) / 2 and (9/10 + 6/10) / 2.
    assert crowding_distance(points) == pytest.approx([np.inf, 0.45, 0.75, np.inf])
    assert crowding_distance(np.ones((3, 2))).tolist() == [np.inf, 0.0, np.inf]


@quick
@given(grids.filter(len))
def test_crowding_never_turns_into_nonsense(points):
    distance = crowding_distance(points)
    assert not np.isnan(distance).any() and (distance >= 0).all() and np.isinf(distance).any()


def test_crowding_is_taken_within_each_front():
    first = np.array([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0]])
    points = np.concatenate([first, first + 10])
    found = crowding_by_rank(points, pareto_rank(points))
    assert found.tolist() == 2 * crowding_distance(first).tolist()


def test_minimised_turns_maxima_round():
    values = np.array([[1.0, 2.0], [3.0, -4.0]])
    assert minimised(values, ["min", "max"]).tolist() == [[1, -2], [3, 4]]
    assert minimised(np.zeros((0, 2)), ["min", "max"]).shape == (0, 2)


# -- hypervolume ---------------------------------------------------------------------------------------------------

UNIT = (np.zeros(2), np.ones(2))


@pytest.mark.parametrize(
    "points, volume",
    [
        ([[0.0, 0.0]], 1.0),
        ([[0.5, 0.5]], 0.25),
        ([[0.25, 0.75], [0.75, 0.25]], 0.75 * 0.25 + 0.25 * 0.5),
        ([[0.5, 0.5], [0.6, 0.6]], 0.25),
        ([[0.5, 0.5], [0.5, 0.5]], 0.25),
        ([[1.0, 0.0]], 0.0),
        ([[0.0, 2.0], [0.5, 0.5]], 0.25),
        ([[-1.0, 0.0]], 2.0),
        ([[2.0, 2.0]], 0.0),
    ],
)
def test_hypervolume_by_hand(points, volume):
    assert hypervolume(np.array(points), *UNIT) == pytest.approx(volume)


def test_hypervolume_of_nothing_and_in_other_dimensions():
    assert hypervolume(np.zeros((0, 2)), *UNIT) == 0.0
    assert hypervolume(np.array([[0.25]]), np.zeros(1), np.ones(1)) == pytest.approx(0.75)
    assert hypervolume(np.full((1, 4), 0.5), np.zeros(4), np.ones(4)) == pytest.approx(1 / 16)


def test_hypervolume_is_in_units_of_the_box():
    ideal, reference = np.array([10.0, -5.0]), np.array([20.0, 95.0])
    assert hypervolume(np.array([[15.0, 45.0]]), ideal, reference) == pytest.approx(0.25)


@settings(quick, max_examples=60)
@given(hnp.arrays(int, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.integers(0, 5)))
def test_hypervolume_counts_the_dominated_cells(points):
    m = points.shape[1]
    cells = sum(any((p <= cell).all() for p in points) for cell in map(np.array, itertools.product(range(5), repeat=m)))
    found = hypervolume(points.astype(float), np.zeros(m), np.full(m, 5.0))
    assert found == pytest.approx(cells / 5**m)
    assert hypervolume(points[::-1].astype(float), np.zeros(m), np.full(m, 5.0)) == pytest.approx(found)


def test_the_box_leaves_a_margin_and_has_a_volume():
    ideal, reference = hypervolume_box(np.array([[1.0, 30.0], [2.0, 10.0], [3.0, 10.0]]))
    assert ideal.tolist() == [1, 10] and reference == pytest.approx([3.2, 32])
    for single in ([5.0, -2.0], [0.0, 0.0], [1e-9, 1e9]):
        point = np.array([single])
        ideal, reference = hypervolume_box(point)
        assert (reference > ideal).all() and hypervolume(point, ideal, reference) == pytest.approx(1.0)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_a_gain_is_what_the_whole_hypervolume_grows_by(m):
    rng, box = np.random.default_rng(m), (np.zeros(m), np.ones(m))
    front = rng.random((60, m))
    front = front[non_dominated(front)]
    for point in 1.2 * rng.random((200, m)):
        grown = hypervolume(np.vstack([front, point]), *box) - hypervolume(front, *box)
        assert hypervolume_gain(front, point, *box) == pytest.approx(grown, abs=1e-12)
    assert hypervolume_gain(front[:0], np.full(m, 0.5), *box) == pytest.approx(0.5**m)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_no_gain_is_above_what_can_be_gained(m):
    rng, box = np.random.default_rng(m), (np.full(m, 0.1), np.ones(m))
    front, new = rng.random((60, m)), 1.2 * rng.random((200, m))
    front = front[non_dominated(front)]
    gains = np.array([hypervolume_gain(front, point, *box) for point in new])
    most = most_gained(front, new, *box)
    assert (most >= gains - 1e-12).all() and (most <= gains + 1e-12).any()
    # Beside a single point it is the gain.
    gains = [hypervolume_gain(front[:1], point, *box) for point in new]
    assert most_gained(front[:1], new, *box) == pytest.approx(np.array(gains), abs=1e-12)
    assert most_gained(front[:0], new, *box) == pytest.approx(
        np.array([hypervolume(point[None], *box) for point in new]), abs=1e-12
    )


def test_what_each_adds_by_hand():
    """The box ends at 4.4: alone each holds a rectangle of (1 - 0) x (4.4 - 4), (4 - 1) x (4 - 1), (4.4 - 4) x 1."""
    points = np.array([[0.0, 4.0], [1.0, 1.0], [4.0, 0.0]])
    assert hypervolume_contributions(points, [0, 1, 2]) == pytest.approx(np.array([0.4, 9, 0.4]) / 4.4**2)
    assert hypervolume_contributions(points, [1]) == pytest.approx([9 / 4.4**2])
    assert hypervolume_contributions(points, []).shape == (0,)
    assert hypervolume_contributions(np.vstack([points, points[:1]]), [0]) == pytest.approx([0.0])
