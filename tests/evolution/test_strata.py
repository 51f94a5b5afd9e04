"""Survivors, parents and promotions kept apart by size."""

from __future__ import annotations

import numpy as np
import pytest

from evonas.evolution import Engine
from evonas.evolution.environment import Tournament, select_nsga2, select_nsga3
from evonas.evolution.fitness import Individual, ParetoFitness
from evonas.evolution.strata import ParentsByStrata, interleaved, select_by_strata, stratum_elites
from evonas.genome import Genome, space_from_dict
from evonas.record import Objective

TIME = {1: (1.0, 100.0)}
RNG = np.random.default_rng(0)


def individual(index: int, loss: float, time: float, violation: float = 0.0) -> Individual:
    values = () if violation else (loss, time)
    return Individual(Genome({"n": index}), ParetoFitness(("min", "min"), values, violation), index)


# Small ones look best by far: the front is the first three, what is larger is dominated.
MEMBERS = [individual(k, loss, time) for k, (loss, time) in enumerate(
    [(3.0, 1), (2.5, 1.5), (2.0, 2), (2.6, 9), (2.4, 10), (2.3, 90), (2.2, 100), (2.9, 2), (2.8, 2)]
)]  # fmt: skip


def indices(individuals) -> list[int]:
    return [i.index for i in individuals]


def test_the_best_of_each_stratum_large_ones_first():
    assert indices(stratum_elites(MEMBERS, TIME, 2)) == [6, 2]
    assert indices(stratum_elites(MEMBERS, TIME, 3)) == [6, 4, 2]
    assert indices(stratum_elites(MEMBERS[::-1], TIME, 3)) == [6, 4, 2]


@pytest.mark.parametrize("steady", [{}, {0: (0.0, 3.0), **TIME}], ids=["nothing", "everything"])
def test_where_nothing_tells_size_from_quality_there_are_none(steady):
    assert stratum_elites(MEMBERS, steady, 4) == []
    assert stratum_elites([], TIME, 4) == [] and stratum_elites(MEMBERS[:2], TIME, 4) == []
    chosen = select_by_strata(MEMBERS, 4, RNG, select=select_nsga2, steady=lambda: steady)
    assert chosen == select_nsga2(MEMBERS, 4, RNG)


def test_sizes_all_alike_are_one_stratum():
    alike = [individual(k, 3.0 - k, 5.0) for k in range(4)]
    assert indices(stratum_elites(alike, TIME, 3)) == [3]


def test_strata_are_those_of_the_whole_run():
    """Of what is left of it: the largest stratum stays the largest, empty or not."""
    few = [m for m in MEMBERS if m.fitness.values[1] < 10]
    assert indices(stratum_elites(few, TIME, 2)) == [2]
    assert indices(stratum_elites(few, {1: (1.0, 9.0)}, 2)) == [3, 2]
    zero = {1: (0.0, 100.0)}  # no logarithm of it
    assert indices(stratum_elites(MEMBERS, zero, 2)) == [6, 2]


def test_what_is_expected_beyond_what_was_told_leaves_the_scale_as_it_is():
    """A model may expect a time below 0: the others are told apart by their logarithms all the same."""
    assert indices(stratum_elites([*MEMBERS, individual(9, 3.5, -0.1)], TIME, 3)) == [6, 4, 2]
    assert indices(stratum_elites([*MEMBERS, individual(9, 2.1, 400.0)], TIME, 3)) == [9, 4, 2]


def test_infeasible_ones_are_no_elite_and_come_last():
    broken = individual(20, 0.0, 0.0, violation=1.0)
    assert 20 not in indices(stratum_elites([broken, *MEMBERS], TIME, 4))
    chosen = select_by_strata([broken, *MEMBERS], 9, RNG, select=select_nsga2, steady=lambda: TIME)
    assert 20 not in indices(chosen)
    assert 20 in indices(select_by_strata([broken, *MEMBERS], 10, RNG, select=select_nsga2, steady=lambda: TIME))


def test_survivors_are_of_all_sizes_and_each_once():
    for k in range(1, len(MEMBERS) + 1):
        chosen = indices(select_by_strata(MEMBERS, k, RNG, select=select_nsga2, steady=lambda: TIME))
        assert len(chosen) == len(set(chosen)) == k
        assert k < 4 or 6 in chosen
    assert 6 not in indices(select_nsga2(MEMBERS, 3, RNG))


@pytest.mark.parametrize("select", [select_nsga2, select_nsga3])
def test_who_is_better_takes_the_places_of_who_was_there(select):
    rng = np.random.default_rng(0)
    old = [individual(k, float(loss), 50.0 + k) for k, loss in enumerate(rng.uniform(5, 9, 16))]
    new = [individual(20 + k, float(loss), 2.0 + k) for k, loss in enumerate(rng.uniform(1, 2, 8))]
    chosen = indices(select_by_strata([*old, *new], 16, rng, select=select, steady=lambda: TIME))
    assert len(set(chosen)) == 16 and {i.index for i in new} <= set(chosen)


def test_every_other_pair_of_parents_is_drawn_from_all():
    def draw(steady, seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        return indices(ParentsByStrata(Tournament(), lambda: steady)(MEMBERS, 2, rng))

    drawn = [draw(TIME, seed) for seed in range(400)]
    assert all(len(set(pair)) == 2 for pair in drawn)
    last = sum(7 in pair for pair in drawn), sum(7 in draw({}, seed) for seed in range(400))
    assert last[0] > 2 * last[1] and last[0] < 120


def test_interleaved_takes_turns():
    assert interleaved("abcd", "dx") == list("adbxc")
    assert interleaved("", "ab") == ["a", "b"] and interleaved("ab", "") == ["a", "b"]


def test_large_sizes_are_there_to_the_end_although_they_look_bad_early():
    space = space_from_dict(
        {"kind": "custom", "genes": {"size": {"low": 1, "high": 100}, "rate": {"low": 0.0, "high": 1.0}}}
    )

    def told(candidate) -> dict[str, float]:
        g, tokens = candidate.genome, 4.0 ** (candidate.rung + 1)
        loss = 10 / (1 + 0.02 * g.size) + g.size / tokens + (g.rate - 0.7) ** 2
        return {"loss": loss, "time": float(g.size)}

    for seed in range(3):
        goals = (Objective("loss"), Objective("time"))
        engine = Engine(space, goals, population_size=12, offspring_size=6, rungs=3, reduction=4, seed=seed)
        while engine.generation < 25:
            for candidate in engine.ask():
                engine.tell(candidate, told(candidate))
        ((place, (low, high)),) = engine.steady().items()
        sizes = [i.genome.size for i in engine.archive.values()]
        assert (place, low, high) == (1, min(sizes), max(sizes)) and low <= 2 and high > 90
        # The largest of six strata begins at the sixth root of that range; without strata it is empty in the end.
        sizes = sorted(m.genome.size for m in engine.population)
        assert sizes[-1] >= high ** (5 / 6) and sizes[0] < 3


def test_what_is_steady_is_told_by_most():
    engine = Engine(
        space_from_dict({"kind": "custom", "genes": {"size": {"low": 1, "high": 100}}}),
        (Objective("loss"), Objective("time")), population_size=8, rungs=2, reduction=2, seed=0,
    )  # fmt: skip
    assert engine.steady() == {}
    remeasured = []
    while engine.generation < 6:
        for c in engine.ask():
            if c.rung and not remeasured:  # one latency was measured once more
                remeasured.append(c)
            time = c.genome.size * (1.01 if c in remeasured else 1.0)
            engine.tell(c, {"loss": 1.0 + 1 / (1 + c.rung), "time": time})
    assert list(engine.steady()) == [1]
