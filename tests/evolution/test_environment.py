"""Environmental selection and the choice of parents."""

from __future__ import annotations

import random

import numpy as np
import pytest
from deap import tools
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.evolution import Individual, ParetoFitness, environment, pareto_rank
from evonas.evolution.environment import Tournament, select_nsga2, select_nsga3
from evonas.evolution.selection import crowding_by_rank
from evonas.evolution.strata import ParentsByStrata
from evonas.genome import Genome

quick = settings(deadline=None, derandomize=True, max_examples=100)


def individuals(points, violations=()) -> list[Individual]:
    m = len(points[0]) if len(points) else 2
    good = [Individual(Genome({"i": i}), ParetoFitness(["min"] * m, p), i) for i, p in enumerate(points)]
    start = len(good)
    fitnesses = [ParetoFitness(["min"] * m, (), v) for v in violations]
    return good + [Individual(Genome({"i": i}), f, i) for i, f in enumerate(fitnesses, start)]


def indices(chosen) -> list[int]:
    return [i.index for i in chosen]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


SELECTIONS = pytest.mark.parametrize("select", [select_nsga2, select_nsga3])


@quick
@given(st.integers(0, 2**32 - 1), st.integers(2, 25), st.integers(2, 4), st.data())
def test_nsga2_keeps_the_best_by_rank_and_crowding(seed, n, m, data):
    points = rng(seed).random((n, m))
    k = data.draw(st.integers(1, n))
    people = individuals(points)
    ranks = pareto_rank(points)
    crowding = crowding_by_rank(points, ranks)
    chosen = select_nsga2(people, k, rng())

    def quality(indices):
        return sorted((ranks[i], -crowding[i]) for i in indices)

    assert len(set(indices(chosen))) == k
    assert quality(indices(chosen)) == quality(range(n))[:k]
    # ... which is what DEAP's much slower one keeps, up to ties.
    np.testing.assert_allclose(quality(indices(tools.selNSGA2(people, k))), quality(indices(chosen)))
    assert indices(select_nsga2(people[::-1], k, rng(1))) == indices(chosen)


@SELECTIONS
def test_infeasible_ones_only_fill_up_smaller_violation_first(select):
    people = individuals([[3.0, 3.0], [1.0, 1.0]], violations=[0.5, 0.1, 0.3, 0.1])
    assert indices(select(people, 1, rng())) == [1]
    assert set(indices(select(people, 2, rng()))) == {0, 1}
    assert indices(select(people, 5, rng()))[2:] == [3, 5, 4]
    assert len(select(people, 99, rng())) == 6
    assert indices(select(people[2:], 2, rng())) == [3, 5]
    assert select([], 3, rng()) == []


def test_equal_values_are_settled_by_age():
    people = individuals([[1.0, 1.0]] * 6)
    # All on one front, and only the two ends of the list have an infinite crowding distance.
    assert indices(select_nsga2(people, 6, rng())) == [0, 5, 1, 2, 3, 4]
    assert indices(select_nsga2(people, 3, rng())) == [0, 5, 1]


@SELECTIONS
def test_a_front_that_fits_is_kept_whole(select):
    front = [[i / 9, 1 - i / 9, 0.5, 0.5] for i in range(10)]
    people = individuals([*[[x + 1 for x in p] for p in front], *front])
    assert set(indices(select(people, 10, rng()))) == set(range(10, 20))
    assert set(indices(select(people, 14, rng()))) > set(range(10, 20))


def test_nsga3_spreads_over_the_reference_directions():
    spread = tools.uniform_reference_points(4, p=4)  # 35 of them
    corner = np.array([0.96, 0.02, 0.01, 0.01]) + 0.005 * rng().standard_normal((150, 4))
    corner /= corner.sum(axis=1, keepdims=True)  # on the same plane: nobody dominates anybody
    people = individuals(np.concatenate([corner, spread]))
    chosen = indices(select_nsga3(people, 35, rng()))
    assert len(set(chosen)) == 35 and sum(i >= 150 for i in chosen) >= 30


@pytest.mark.parametrize("shift", [1.5, -40.0, 4096.0])
def test_nsga3_does_not_care_where_an_objective_begins_or_what_its_unit_is(shift):
    points = rng(4).random((80, 4))
    points = np.vstack([np.eye(4), points / points.sum(axis=1, keepdims=True)])  # a plane, its ends within the worst
    points = np.round(points * 2**20) / 2**20
    chosen = indices(select_nsga3(individuals(points), 20, rng()))
    assert indices(select_nsga3(individuals(points + np.array([0, shift, 0, -shift])), 20, rng())) == chosen
    assert indices(select_nsga3(individuals(points * np.array([1, 2.0**20, 1, 2.0**-20])), 20, rng())) == chosen


def test_nsga3_of_thousands_takes_as_many_directions_as_there_is_memory_for(monkeypatch):
    taken = []
    made = tools.uniform_reference_points
    monkeypatch.setattr(tools, "uniform_reference_points", lambda m, p: taken.append(made(m, p)) or taken[-1])
    people = individuals(rng().random((200, 4)))
    assert len(set(indices(select_nsga3(people, 100, rng())))) == 100 and len(taken[0]) >= 100
    monkeypatch.setattr(environment, "_MOST", 200 * 4 * 30)
    assert len(set(indices(select_nsga3(people, 100, rng())))) == 100 and 30 <= len(taken[1]) < 60


def test_nsga3_is_a_function_of_its_generator_and_leaves_the_global_ones_alone():
    points = rng(3).random((60, 4))
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = random.getstate(), np.random.get_state()  # noqa: NPY002
        found.append(indices(select_nsga3(individuals(points), 20, rng(5))))
        after = random.getstate(), np.random.get_state()  # noqa: NPY002
        assert before[0] == after[0] and before[1][2] == after[1][2] and (before[1][1] == after[1][1]).all()
    assert found[0] == found[1]
    assert any(indices(select_nsga3(individuals(points), 20, rng(s))) != found[0] for s in range(6, 16))


def test_nsga3_gives_the_global_generator_back_after_an_error(monkeypatch):
    def broken(*args):
        np.random.random()  # noqa: NPY002
        raise RuntimeError("broken")

    monkeypatch.setattr(tools, "selNSGA3", broken)
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[2]  # noqa: NPY002
    with pytest.raises(RuntimeError, match="broken"):
        select_nsga3(individuals(rng().random((9, 4))), 3, rng())
    assert np.random.get_state()[2] == before  # noqa: NPY002


@pytest.mark.parametrize(
    "points",
    [
        np.ones((12, 4)),
        np.tile(np.arange(12.0)[:, None], (1, 4)),
        np.column_stack([np.arange(12.0), -np.arange(12.0), np.zeros(12), np.ones(12)]),
        np.column_stack([np.arange(12.0), -np.arange(12.0), 1e12 * np.arange(12.0), 1e-12 * np.arange(12.0)]),
    ],
)
def test_nsga3_takes_degenerate_objectives(points):
    assert len(set(indices(select_nsga3(individuals(points), 7, rng())))) == 7


# -- parents -------------------------------------------------------------------------------------------------------


@quick
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(0, 4), st.integers(1, 4))
def test_parents_are_different_where_they_can_be(seed, feasible, infeasible, k):
    people = individuals(rng(seed).random((feasible, 2)), violations=[0.1] * infeasible)
    if not people:
        return
    chosen = Tournament()(people, k, rng(seed))
    assert len(chosen) == k and set(chosen) <= set(people)
    assert len(set(chosen)) == min(k, len(people))
    assert indices(Tournament()(people, k, rng(seed))) == indices(chosen)


def test_a_population_is_ordered_once_however_many_children_it_has(monkeypatch):
    orders, order = [], environment._nsga2_order
    monkeypatch.setattr(environment, "_nsga2_order", lambda people: orders.append(len(people)) or order(people))
    tournament, source = Tournament(), rng(5)
    first, second = (individuals(source.random((n, 2))) for n in (30, 20))
    for people in (first, second):
        for _ in range(10):
            assert set(tournament(people, 2, source)) <= set(people)
    assert orders == [30, 20]
    assert set(tournament(first, 30, source)) == set(first) and orders == [30, 20, 30]


def test_better_ones_are_parents_more_often():
    people = individuals([[float(i), float(i)] for i in range(5)], violations=[0.1, 0.9])
    counts = np.zeros(7)
    source, tournament = rng(4), Tournament()
    for _ in range(3000):
        for parent in tournament(people, 1, source):
            counts[parent.index] += 1
    # A tournament of two of seven: the best wins all its 6 of 21 pairs, the worst none.
    assert counts / counts.sum() == pytest.approx(np.arange(6, -1, -1) / 21, abs=0.03)


@pytest.mark.parametrize("choose", [Tournament(), ParentsByStrata(Tournament(), lambda: {1: (0.0, 1.0)})])
@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_parents_of_many_children_are_pairs_of_different_ones(choose, size):
    people = individuals(rng(size).random((size, 2)))
    pairs = choose.pairs(people, 200, rng(1))
    assert len(pairs) == 200 and {i for pair in pairs for i in pair} <= set(people)
    assert all((one is other) == (size == 1) for one, other in pairs)
    assert [indices(pair) for pair in choose.pairs(people, 200, rng(1))] == [indices(pair) for pair in pairs]


def test_many_pairs_are_drawn_as_single_ones_are():
    people = individuals([[float(i), float(i)] for i in range(5)], violations=[0.1, 0.9])
    source, tournament = rng(6), Tournament()
    one_by_one = [indices(tournament(people, 2, source)) for _ in range(6000)]
    at_once = [indices(pair) for pair in tournament.pairs(people, 6000, source)]
    shares = [np.histogram2d(*zip(*found), bins=7, range=[(0, 7)] * 2)[0] / 6000 for found in (one_by_one, at_once)]
    assert shares[1] == pytest.approx(shares[0], abs=0.03)
