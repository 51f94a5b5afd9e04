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
from .selection import hypervolume, hypervolume_gain, minimised, non_dominated

_MANY = 6  # objectives, of which a hypervolume of 1,200 points takes 5 s and what one of them adds less than 1 ms


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
        # Every candidate that failed, at whatever rung, or was found to break a constraint before it had all values.
        self.failed: dict[str, Genome] = {}
        self.refused: dict[str, Individual] = {}  # by genome id, those of them that broke a constraint
        self.prices: dict[str, float] = {}  # genome id -> what its evaluation at the first rung took
        self.frugal = False  # whether what is gained counts by what it takes
        self.box: tuple[np.ndarray, np.ndarray] | None = None  # ideal and reference point of the hypervolume
        m = len(self.objectives)
        self._at: Counter[int] = Counter()  # rung -> how many of the archive are there
        # By what was told, minimised; of the feasible alone. See `_take_in`.
        self._told_lately: list[Individual] = []
        self._told_ranges = np.full(m, np.inf), np.full(m, -np.inf)
        self._told_best: list[Individual] = []
        self._volume, self._added_up = 0.0, []  # hypervolume of many objectives, and whose that is; see `_add_up`

    def _individual(
        self, candidate: Candidate, number: int, values: Mapping[str, float] | None, violation: float
    ) -> Individual | None:
        """What it is with these results, None where it has failed; see ``Engine.tell``. ``number`` counts candidates
        through the run."""
        before = self.archive.get(candidate.genome.id) if candidate.rung else None
        birth = number if before is None else before.index
        if not (math.isfinite(violation) and violation >= 0):
            raise EvonasError(f"violation {violation}; it takes a finite number, 0 when all constraints are met")
        given = {name: finite(name, values[name]) for name in self.names if name in values} if values else {}
        missing = [name for name in self.names if name not in given]
        if missing and violation > 0:
            worse = ParetoFitness(self.directions, (), violation)
            return Individual(candidate.genome, worse, birth, (), violation, {} if candidate.rung else given)
        if values is None:
            return None
        if missing:
            raise EvonasError(f"tell needs a value for every objective; missing: {', '.join(missing)}")
        numbers = tuple(given[name] for name in self.names)
        told = (*(before.told if before else ()), numbers)
        return Individual(candidate.genome, self._fitness(numbers, violation), birth, told, violation)

    def _fitness(self, numbers: Sequence[float], violation: float) -> ParetoFitness:
        objectives = numbers[: len(self.objectives)]
        if self.goals:
            objectives = self.wanted(np.array(objectives)).tolist()
        return ParetoFitness(self.directions, () if violation > 0 else objectives, violation)

    def wanted(self, values: np.ndarray) -> np.ndarray:
        """Objectives (..., m) with what is better than its goal taken as the goal."""
        for j, (o, direction) in enumerate(zip(self.objectives, self.directions)):
            if o.name in self.goals:
                values = values.copy()
                worse = np.minimum if direction == "max" else np.maximum
                values[..., j] = worse(values[..., j], self.goals[o.name])
        return values

    def _note(self, candidate: Candidate, individual: Individual | None) -> None:
        if individual is None or not individual.told:
            self.failed[candidate.genome.id] = candidate.genome
            before = self.refused.get(candidate.genome.id)
            if individual is not None and not (before and before.partly):
                self.refused[candidate.genome.id] = individual
        before = self.archive.get(candidate.genome.id)
        if before is not None:
            self._at[before.rung] -= 1
        if individual is None or not individual.told:
            self.archive.pop(candidate.genome.id, None)  # it did well until this rung
            return
        self.archive[candidate.genome.id] = individual
        self._at[individual.rung] += 1
        if individual.feasible:
            self._told_lately.append(individual)

    def _put_in_order(self, children: Sequence[Candidate]) -> None:
        """Of a generation that is done, and of what was told of later ones: archive and failures are by birth, whatever
        the order of arrival was."""
        born = [c for c in children if not c.rung]
        for kept, members in ((self.archive, born), (self.failed, children), (self.refused, children)):
            for genome_id in (c.genome.id for c in members if c.genome.id in kept):
                kept[genome_id] = kept.pop(genome_id)

    def _take_in(self) -> None:
        """Bring ranges and best up to date, many at once and never from the beginning: a long run has far too many."""
        lately, self._told_lately = self._told_lately, []
        if not lately:
            return
        rows = minimised(self.wanted(self._last_told(lately)), self.directions)
        least, most = self._told_ranges
        self._told_ranges = np.minimum(least, rows.min(axis=0)), np.maximum(most, rows.max(axis=0))
        rivals = [*self._told_best, *(i for i in lately if i.rung == self.rungs - 1)]
        best = [i for i, keep in zip(rivals, non_dominated(self._told_points(rivals))) if keep]
        self._told_best = sorted(best, key=lambda i: i.index)

    @property
    def _ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and most (m,) of the objectives of all that was feasible, minimised."""
        self._take_in()
        return self._told_ranges

    @property
    def best(self) -> list[Individual]:
        """The non-dominated ones at the last rung, by what was told, in order of birth."""
        self._take_in()
        return self._told_best

    def _successes(self, rung: int) -> list[Individual]:
        # In order of birth, not of arrival, so that results are the same to the last bit.
        found = (i for i in self.archive.values() if i.rung == rung and self._meets(i))
        return sorted(found, key=lambda i: i.index)

    def _meets(self, individual: Individual) -> bool:
        """Whether what was told of it breaks no constraint; below the last rung that is no judgement yet."""
        if individual.rung == self.rungs - 1:
            return individual.feasible
        return not individual.violation and not self.breaks(individual.told[-1])

    def breaks(self, values: Sequence[float]) -> float:
        """By how much these, told or expected, break the constraints on them. What is expected may be no number for a
        constraint: that breaks it."""
        return self.breaks_partly(dict(zip(self.names, values)))

    def breaks_partly(self, known: Mapping[str, float]) -> float:
        """The same of some values; 0 where ``broken`` looks at others, or there are none."""
        if not known:
            return 0.0
        try:
            broken = self.broken(known)
        except KeyError:
            if len(known) == len(self.names):
                raise
            return 0.0
        return max(broken, 0.0) if math.isfinite(broken) else 1.0

    def unexplained(self, individual: Individual) -> float:
        """How much of the violation that it was told its values do not account for; it has some."""
        known = dict(zip(self.names, individual.told[-1])) if individual.told else individual.partly
        left = individual.violation - self.breaks_partly(known)
        return left if left > 1e-9 * individual.violation else 0.0

    def points(self, individuals: Sequence[Individual]) -> np.ndarray:
        """Objectives (n, m), minimised, as members are compared: below the last rung what is expected there."""
        # wvalues are maximised by DEAP's convention.
        rows = [[-w for w in i.fitness.wvalues] for i in individuals]
        return np.array(rows, dtype=float).reshape(-1, len(self.objectives))

    def _told_points(self, individuals: Sequence[Individual]) -> np.ndarray:
        """What was told last, minimised; a goal changes nothing of it."""
        return minimised(self._last_told(individuals), self.directions)

    def _last_told(self, individuals: Sequence[Individual]) -> np.ndarray:
        rows = np.array([i.told[-1] for i in individuals], dtype=float).reshape(len(individuals), len(self.names))
        return rows[:, : len(self.objectives)]

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
        members = self.best if self._highest() == self.rungs - 1 else self.at_the_top()
        points = self._told_points(members)
        chosen = [(tuple(row), i.index, i) for i, row, keep in zip(members, points, non_dominated(points)) if keep]
        return [i for *_, i in sorted(chosen, key=lambda c: c[:2])]

    def hypervolume(self) -> float:
        """Hypervolume of what was told at the last rung, in units of the box that was drawn around the candidates when
        the first of them had come there and the first population, or two generations, had been told; 0 before that."""
        if self.box is None:
            return 0.0
        if len(self.objectives) < _MANY:
            return hypervolume(self.points(self.best), *self.box)
        self._add_up()
        return self._volume

    def _add_up(self) -> None:
        """Of many objectives, add to the hypervolume what the best since the last time gain. It is rounded by when that
        is: at the end of each generation, restored or not."""
        if self.box is None or len(self.objectives) < _MANY:
            return
        before, self._added_up = self._added_up, self.best
        known, points = {i.genome.id for i in before}, self.points(before)
        for point in self.points([i for i in self._added_up if i.genome.id not in known]):
            self._volume += hypervolume_gain(points, point, *self.box)
            points = np.vstack([points, point])
