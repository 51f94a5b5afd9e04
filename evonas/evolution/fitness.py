"""DEAP fitness and individual, made for runs whose objectives are chosen at run time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

from deap import base

from ..genome import Genome


class ParetoFitness(base.Fitness):
    """A ``deap.base.Fitness`` that carries its own weights and a constraint violation.

    ``directions`` are "min" or "max", one per objective. An individual with ``violation`` > 0 is dominated by every
    feasible one, and by infeasible ones of smaller violation (Deb 2000, "An efficient constraint handling method for
    genetic algorithms"). Non-finite values are refused: DEAP would rank a NaN into the first front.
    """

    weights: tuple[float, ...] = ()

    def __init__(self, directions: Sequence[str] = (), values: Sequence[float] = (), violation: float = 0.0) -> None:
        self.weights = _weights(tuple(directions))
        self.violation = float(violation)
        if not all(map(math.isfinite, (*values, self.violation))):
            raise ValueError(f"a fitness takes finite values, got {tuple(values)}, violation {violation}")
        if len(values):  # all that DEAP's constructor does
            self.values = values

    def dominates(self, other: ParetoFitness, obj: slice = slice(None)) -> bool:
        if self.violation != other.violation:
            return self.violation < other.violation
        return super().dominates(other, obj)

    def __deepcopy__(self, memo: dict) -> ParetoFitness:
        copy = type(self)()
        copy.weights, copy.wvalues, copy.violation = self.weights, self.wvalues, self.violation
        return copy


@cache
def _weights(directions: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(1.0 if d == "max" else -1.0 for d in directions)


class Individual:
    """A genome with its fitness, as DEAP's selection operators expect it.

    ``index`` is the order of birth. ``told`` holds the objectives (and what else the engine watches) as they were
    measured, one row per rung reached so far, and ``violation`` by how much constraints were told to be broken;
    ``fitness`` is what they make one expect at the last rung, constraints included, and exactly what was told of one
    that is there. ``partly`` holds by name what is known of one that broke constraints before it had all values of the
    first rung.
    """

    __slots__ = ("fitness", "genome", "index", "partly", "told", "violation")

    def __init__(
        self,
        genome: Genome,
        fitness: ParetoFitness,
        index: int,
        told: Sequence[tuple[float, ...]] = (),
        violation: float = 0.0,
        partly: Mapping[str, float] | None = None,
    ) -> None:
        self.genome, self.fitness, self.index, self.told = genome, fitness, index, tuple(told)
        self.violation, self.partly = violation, dict(partly or {})

    @property
    def feasible(self) -> bool:
        return self.fitness.violation == 0.0

    @property
    def rung(self) -> int:
        """The last rung it has reached, -1 where it has not all values of the first."""
        return len(self.told) - 1

    def __repr__(self) -> str:
        return f"Individual({self.genome.id}, {self.fitness.values})"
