"""The part of the engine that keeps what was told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import EvonasError
from ..genome import Genome
from ..record import Objective
from .candidate import Candidate, check_goals, finite
from .fitness import Individual, ParetoFitness
from .selection import dominates, hypervolume, minimised, non_dominated


class Archive:
    """What ``Engine`` was told; see there.

    n individuals, m objectives
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        rungs: int,
        watched: Sequence[str],
        broken: Callable[[Mapping[str, float]], float] | None,
        goals: Mapping[str, float] | None,
    ) -> None:
        self.objectives, self.rungs = tuple(objectives), rungs
        self.directions = tuple(o.direction for o in objectives)
        self.names = (*(o.name for o in objectives), *watched)
        self.broken = broken or (lambda values: 0.0)
        self.goals = check_goals(goals or {}, self.objectives)
        self.archive: dict[str, Individual] = {}  # every candidate that was evaluated and did not fail
        self.failed: dict[str, Genome] = {}  # every candidate that failed, at whatever rung
        self.prices: dict[str, float] = {}  # genome id -> what its evaluation at the first rung took
        self.frugal = False  # whether what is gained counts by what it takes
        self.box: tuple[np.ndarray, np.ndarray] | None = None  # ideal and reference point of the hypervolume
        m = len(self.objectives)
        self._ranges = np.full(m, np.inf), np.full(m, -np.inf)  # of the feasible, minimised
        self._at: Counter[int] = Counter()  # rung -> how many of the archive are there
        self._best: list[Individual] = []  # the non-dominated ones at the last rung, by what was told
        self._best_rows = np.zeros((0, m))  # what that was, minimised

    def _individual(
        self, candidate: Candidate, number: int, values: Mapping[str, float] | None, violation: float
    ) -> Individual | None:
        """What it is with these results, None where it has failed; see ``Engine.tell``. ``number`` counts candidates
        through the run."""
        before = self.archive.get(candidate.genome.id) if candidate.rung else None
        birth = number if before is None else before.index
        if not (math.isfinite(violation) and violation >= 0):
            raise EvonasError(f"violation {violation}; it takes a finite number, 0 when all constraints are met")
        if values is None:
            worse = ParetoFitness(self.directions, (), violation)
            return Individual(candidate.genome, worse, birth) if violation > 0 else None
        missing = [name for name in self.names if name not in values]
        if missing:
            raise EvonasError(f"tell needs a value for every objective; missing: {', '.join(missing)}")
        numbers = tuple(finite(name, values[name]) for name in self.names)
        told = (*(before.told if before else ()), numbers)
        return Individual(candidate.genome, self._fitness(numbers, violation), birth, told)

    def _fitness(self, numbers: Sequence[float], violation: float) -> ParetoFitness:
        objectives = () if violation > 0 else self.wanted(np.array(numbers[: len(self.objectives)])).tolist()
        return ParetoFitness(self.directions, objectives, violation)

    def wanted(self, values: np.ndarray) -> np.ndarray:
        """Objectives (..., m) with what is better than its goal taken as the goal."""
        for j, (o, direction) in enumerate(zip(self.objectives, self.directions)):
            if o.name in self.goals:
                values = values.copy()
                worse = np.minimum if direction == "max" else np.maximum
                values[..., j] = worse(values[..., j], self.goals[o.name])
        return values

    def _note(self, candidate: Candidate, individual: Individual | None) -> None:
        if individual is None:
            self.failed[candidate.genome.id] = candidate.genome
        before = self.archive.get(candidate.genome.id)
        if before is not None:
            self._at[before.rung] -= 1
        if individual is None or not individual.told:
            self.archive.pop(candidate.genome.id, None)  # it did well until this rung
            return
        self.archive[candidate.genome.id] = individual
        self._at[individual.rung] += 1
        if individual.feasible:
            row = np.negative(individual.fitness.wvalues)
            self._ranges = np.minimum(self._ranges[0], row), np.maximum(self._ranges[1], row)
        if individual.rung == self.rungs - 1 and individual.feasible:
            self._note_best(individual)

    def _note_best(self, individual: Individual) -> None:
        """Kept up to date one by one: a long run has far too many to look through in every generation."""
        row, rows = self._told_points([individual])[0], self._best_rows
        if dominates(rows, row).any():
            return
        kept = [(i, r) for i, r, falls in zip(self._best, rows, dominates(row, rows).tolist()) if not falls]
        kept = sorted([*kept, (individual, row)], key=lambda pair: pair[0].index)
        self._best, self._best_rows = [i for i, _ in kept], np.array([r for _, r in kept])

    def _successes(self, rung: int) -> list[Individual]:
        # In order of birth, not of arrival, so that results are the same to the last bit.
        found = (i for i in self.archive.values() if i.rung == rung and self._meets(i))
        return sorted(found, key=lambda i: i.index)

    def _meets(self, individual: Individual) -> bool:
        """Whether what was told of it breaks no constraint; below the last rung that is no judgement yet."""
        if individual.rung == self.rungs - 1:
            return individual.feasible
        return self.broken(dict(zip(self.names, individual.told[-1]))) <= 0

    def points(self, individuals: Sequence[Individual]) -> np.ndarray:
        """Objectives (n, m), minimised, as members are compared: below the last rung what is expected there."""
        # wvalues are maximised by DEAP's convention.
        rows = [[-w for w in i.fitness.wvalues] for i in individuals]
        return np.array(rows, dtype=float).reshape(-1, len(self.objectives))

    def _told_points(self, individuals: Sequence[Individual]) -> np.ndarray:
        """What was told last, minimised; a goal changes nothing of it."""
        rows = [i.told[-1][: len(self.objectives)] for i in individuals]
        return minimised(np.array(rows, dtype=float), self.directions)

    def reached(self) -> list[int]:
        """How many genomes have been told at each rung and are still in the race."""
        return [sum(n for r, n in self._at.items() if r >= rung) for rung in range(self.rungs)]

    def at_the_top(self) -> list[Individual]:
        """Those at the highest rung that any has reached that break no constraint, in order of birth."""
        return self._successes(self._highest())

    def _highest(self) -> int:
        return max((rung for rung, n in self._at.items() if n), default=0)

    def front(self) -> list[Individual]:
        """The non-dominated individuals among those at the highest rung that any has reached, by what was told there;
        best in the first objective first."""
        members = self._best if self._highest() == self.rungs - 1 else self.at_the_top()
        points = self._told_points(members)
        chosen = [(tuple(row), i.index, i) for i, row, keep in zip(members, points, non_dominated(points)) if keep]
        return [i for *_, i in sorted(chosen, key=lambda c: c[:2])]

    def hypervolume(self) -> float:
        """Hypervolume of what was told at the last rung, in units of the box that was drawn around the candidates when
        the first of them had come there and the first population, or two generations, had been told; 0 before that."""
        if self.box is None:
            return 0.0
        return hypervolume(self.points(self._best), *self.box)
