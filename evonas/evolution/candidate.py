"""What an engine hands out, and what it refuses to take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from ..errors import EvonasError
from ..genome import Genome, SearchSpace
from ..record import Objective


@dataclass(frozen=True)
class Candidate:
    """A genome to evaluate, with the ids of its parents, the operator that made it and its place in the run.

    ``rung`` above 0: it was told at the rung below, and goes on to this one.
    """

    genome: Genome
    parents: tuple[str, ...]
    operator: str
    generation: int
    index: int
    rung: int = 0


@dataclass(frozen=True)
class Numbering:
    """Candidates are numbered through the run: those of the first generation, then generations of ``later`` ones."""

    first: int
    later: int

    def size(self, generation: int) -> int:
        return self.first if generation == 0 else self.later

    def start(self, generation: int) -> int:
        """The number of its first candidate: how many were born before."""
        return 0 if generation == 0 else self.first + (generation - 1) * self.later

    def number(self, candidate: Candidate) -> int:
        return self.start(candidate.generation) + candidate.index

    def place(self, number: int) -> tuple[int, int]:
        """(generation, index) of the candidate of that number."""
        if number < self.first:
            return 0, number
        generation, index = divmod(number - self.first, self.later)
        return generation + 1, index


def check_settings(
    space: SearchSpace,
    objectives: Sequence[Objective],
    population_size: int,
    offspring_size: int,
    initial_size: int,
    seed: int,
    seeds: Sequence[Genome],
) -> None:
    """Raise EvonasError where an engine can't be made of these."""
    sizes = ("population", population_size, 2), ("offspring", offspring_size, 1), ("initial", initial_size, 1)
    for name, size, least in sizes:
        if not _is_whole(size) or size < least:
            raise EvonasError(f"{name} size {size!r}; it takes a whole number of at least {least}")
    if not _is_whole(seed) or seed < 0:
        raise EvonasError(f"seed {seed!r}; it takes a whole number of at least 0")
    if not all(isinstance(o, Objective) for o in objectives):
        raise EvonasError("objectives are evonas.record.Objective", 'For example: Objective("error", "%", "min")')
    if not objectives or len({o.name for o in objectives}) != len(objectives):
        raise EvonasError("a search needs at least one objective, each named once")
    if len(seeds) > population_size:
        raise EvonasError(f"{len(seeds)} seed genomes do not fit a population of {population_size}")
    for genome in seeds:
        if not isinstance(genome, Genome):
            raise EvonasError(f"seed genome {genome!r} is no Genome", "SearchSpace.repair makes one of a dictionary.")
        problems = space.check(genome)
        if problems:
            raise EvonasError(f"seed genome {genome.id} lies outside the space: {'; '.join(problems)}")


def check_goals(goals: Mapping[str, float], objectives: Sequence[Objective]) -> dict[str, float]:
    """Raise EvonasError where a goal is of no objective or not finite."""
    names = [o.name for o in objectives]
    for name in goals:
        if name not in names:
            raise EvonasError(f"goal of {name!r}, which is no objective of this search", f"Its are {', '.join(names)}.")
    return {name: finite(name, value) for name, value in goals.items()}


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def finite(name: str, value: Any) -> float:
    """``value`` as a number; raises EvonasError naming the objective where it is not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        hint = "Tell None instead of the values of a candidate that failed."
        raise EvonasError(f"objective {name!r} is {value}; tell takes finite numbers", hint)
    return number
