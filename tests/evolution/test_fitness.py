"""The fitness: DEAP's, without its global classes, and never with a NaN in it."""

from __future__ import annotations

import copy
import pickle

import pytest
from deap import base, tools

from evonas.evolution import Individual, ParetoFitness
from evonas.genome import Genome


def fitness(*values: float, violation: float = 0.0, directions=("min", "max")) -> ParetoFitness:
    return ParetoFitness(directions, values, violation)


def test_it_is_deaps_with_weights_of_its_own():
    one, other = fitness(1.0, 2.0), ParetoFitness(["min"] * 3, [1, 2, 3])
    assert isinstance(one, base.Fitness)
    assert one.weights == (-1.0, 1.0) and other.weights == (-1.0, -1.0, -1.0)
    assert one.values == (1.0, 2.0) and one.wvalues == (-1.0, 2.0) and one.valid


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_never_gets_in(bad):
    for values, violation in (((bad, 1.0), 0.0), ((1.0, bad), 0.0), ((1.0, 1.0), bad)):
        with pytest.raises(ValueError, match="finite"):
            fitness(*values, violation=violation)


def test_dominance_by_direction_and_then_by_violation():
    assert fitness(1, 2).dominates(fitness(1, 1)) and fitness(1, 2).dominates(fitness(2, 2))
    assert not fitness(1, 2).dominates(fitness(1, 2)) and not fitness(1, 1).dominates(fitness(2, 2))
    broken, worse = fitness(violation=0.1), fitness(violation=0.2)
    assert fitness(9, -9).dominates(broken) and not broken.dominates(fitness(9, -9))
    assert broken.dominates(worse) and not worse.dominates(broken) and not broken.dominates(fitness(violation=0.1))


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copies_are_whole(twin):
    for one in (fitness(1, 2), fitness(violation=0.5)):
        other = twin(one)
        assert (other.weights, other.wvalues, other.violation) == (one.weights, one.wvalues, one.violation)
        assert type(other) is ParetoFitness
    individual = Individual(Genome({"a": 1}), fitness(1, 2), 7)
    other = pickle.loads(pickle.dumps(individual))
    assert other.genome == individual.genome and other.index == 7 and other.fitness.values == (1, 2)
    assert "Individual" in repr(other) and other.feasible


def test_deaps_own_operators_take_it():
    individuals = [Individual(Genome({"i": i}), fitness(i, j), i) for i, j in enumerate([3, 2, 4, 4])]
    fronts = tools.sortNondominated(individuals, 4)
    assert [[i.index for i in front] for front in fronts] == [[0, 2], [1, 3]]
    assert {i.index for i in tools.selNSGA2(individuals, 2)} == {0, 2}
