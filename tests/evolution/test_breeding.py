"""Children: many at once are as those one by one."""

from __future__ import annotations

import numpy as np
import pytest
from deap import base

from evonas.evolution import Engine, mate, mutate
from evonas.evolution.breeding import breeds_at_once, offspring
from evonas.evolution.environment import Tournament
from evonas.evolution.fitness import Individual, ParetoFitness
from evonas.genome import space_from_dict
from evonas.record import Objective

SPACE = space_from_dict(
    {"kind": "custom", "length": "n", "genes": {"n": [1, 2, 3], "a": {"low": 0.0, "high": 1.0}, "b": list("uvwxyz")},
     "layers": {"w": {"low": 0, "high": 99}}}
)  # fmt: skip


def toolbox(**replaced) -> base.Toolbox:
    made = base.Toolbox()
    made.register("mate", replaced.get("mate", mate))
    made.register("mutate", replaced.get("mutate", mutate))
    made.register("select_parents", Tournament())
    return made


def people(n: int = 12) -> list[Individual]:
    rng = np.random.default_rng(0)
    return [
        Individual(SPACE.sample(rng), ParetoFitness(("min", "min"), rng.random(2).tolist()), k, [(0.0, 0.0)])
        for k in range(n)
    ]


def born(tools: base.Toolbox, n: int = 2000) -> list:
    return offspring(tools, SPACE, people(), n, np.random.default_rng(1))


def test_without_parents_children_are_sampled():
    found = offspring(toolbox(), SPACE, [], 5, np.random.default_rng(0))
    assert [(p.parents, p.operator) for p in found] == [((), "sample")] * 5
    assert all(SPACE.contains(p.genome) for p in found)


def test_children_say_what_has_made_them():
    ids, found = {p.genome.id for p in people()}, born(toolbox(), 300)
    for proposal in found:
        assert SPACE.contains(proposal.genome) and set(proposal.parents) <= ids and proposal.operator
        assert ("mate" in proposal.operator) == (len(set(proposal.parents)) == 2)
    # A mutation may undo a crossover.
    assert sum(p.genome.id in p.parents for p in found) < 9


@pytest.mark.parametrize("what", [lambda p: len(p.parents), lambda p: p.operator, lambda p: p.parents[0]])
def test_many_at_once_are_distributed_as_one_by_one(what):
    one_by_one = toolbox(mate=lambda *a: mate(*a))
    assert breeds_at_once(toolbox()) and not breeds_at_once(one_by_one)
    shares = []
    for found in (born(toolbox()), born(one_by_one)):
        values, counts = np.unique([what(p) for p in found], return_counts=True)
        shares.append(dict(zip(values.tolist(), (counts / len(found)).tolist())))
    assert all(abs(shares[0].get(v, 0) - shares[1].get(v, 0)) < 0.05 for v in {*shares[0], *shares[1]})


def test_an_operator_that_was_set_plainly_is_used():
    engine = Engine(SPACE, [Objective("a"), Objective("b")], population_size=6, seed=0)
    engine.toolbox.mate = lambda first, second, space, rng: first
    for _ in range(3):
        for c in engine.ask():
            engine.tell(c, {"a": c.genome["a"], "b": -c.genome["a"]})
    assert engine.generation == 3


def test_what_screening_has_proposed_says_so():
    engine = Engine(SPACE, [Objective("a"), Objective("b")], population_size=14, seed=0, surrogate=True)
    told = []
    for _ in range(4):
        for c in engine.ask():
            told.append(c)
            engine.tell(c, {"a": c.genome["a"], "b": 1 - c.genome["a"] ** 0.5 + 0.01 * c.genome["n"]})
    screened = [c for c in told if c.operator.startswith("screened+")]
    assert screened and all(c.generation > 0 and c.parents for c in screened)
