"""The part of the engine that says who goes on to a higher rung, and what is expected there."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..genome import Genome
from .archive import Archive
from .candidate import Candidate
from .environment import select_nsga2
from .fitness import Individual
from .rungs import Ladder, described, due, traits_in, unchanged
from .selection import hypervolume_contributions, non_dominated
from .strata import interleaved, stratum_elites

_EARLY = 4  # that go on to each rung before they are due, where the first generation is a part: enough for its model
_WORTH = 1e-4  # of the box around the front, that one has to add to its hypervolume to be set aside
_LATEST = 600  # of those that have climbed tell what to expect of others: enough for it, however long the run


class Climbing(Archive):
    """What ``Engine`` knows of rungs; see there."""

    def __init__(self, *archive: Any) -> None:
        super().__init__(*archive)
        self._promoted: list[Candidate] = []  # of the generation that runs, not asked for yet
        self._born = 0  # genomes told in finished generations, whatever came of them
        self._climbed: dict[str, int] = {}  # genome id -> the rung it was last asked for, where that is above 0
        self._described: dict[str, np.ndarray] = {}
        self.reserve: list[Individual] = []  # expected on the front, though the population had no place for them
        self._ladder: tuple[list[Individual], Ladder] | None = None  # of those that had climbed when it was asked for
        self._closing, self._offspring_wanted = False, True  # see ``close``
        self._finishing: frozenset[str] | None = None
        self._by_price = False  # whether the promoted were chosen so

    def _take_promoted(self, count: int) -> list[Candidate]:
        out, self._promoted = self._promoted[:count], self._promoted[count:]
        for candidate in out:
            self._hand_out(candidate)
        return out

    def _hand_out(self, candidate: Candidate) -> None:
        self._outstanding.setdefault(candidate.generation, {})[candidate.index] = candidate

    def outstanding(self) -> list[Candidate]:
        """Those asked for and not told."""
        return [candidate for waiting in self._outstanding.values() for candidate in waiting.values()]

    def pending(self) -> list[Genome]:
        """Those asked for at the first rung and not told."""
        return [candidate.genome for candidate in self.outstanding() if not candidate.rung]

    def steady(self) -> dict[int, tuple[float, float]]:
        """Places of the objectives that rungs do not change, by most of those that have climbed (none before), with
        their ranges over all that was feasible; minimised."""
        climbed = [i.told for i in self.climbed() if i.rung > 0]
        if not climbed:
            return {}
        same = unchanged(*zip(*((told[0], told[-1]) for told in climbed)))
        ranges = np.transpose(self._ranges)
        if not np.isfinite(ranges).all():  # nothing was feasible
            return {}
        return {j: (least, most) for j, (least, most) in enumerate(ranges.tolist()) if same[j]}

    def climbed(self) -> list[Individual]:
        """The latest that have been asked for above the first rung, latest first."""
        latest = itertools.islice(reversed(self._climbed), _LATEST)
        return [self.archive[i] for i in latest if i in self.archive]

    def ladder(self) -> Ladder:
        """What each rung lets one expect of the last one, from the latest that have climbed."""
        climbed = sorted(self.climbed(), key=lambda i: i.index)
        # Asked for several times a generation; individuals are replaced when they are told something, never changed.
        if self._ladder is None or self._ladder[0] != climbed:
            told = [(i.told, self._description(i.genome)) for i in climbed]
            self._ladder = climbed, Ladder(told, self.rungs, len(self.names), traits_in(self.space))
        return self._ladder[1]

    def _description(self, genome: Genome) -> np.ndarray:
        if genome.id not in self._described:
            self._described[genome.id] = described(self.space, genome)
        return self._described[genome.id]

    def _expect(self, individuals: Sequence[Individual]) -> None:
        """Set the fitness of those below the last rung to what is expected of them there."""
        below = [i for i in individuals if 0 <= i.rung < self.rungs - 1]
        if below:
            genomes = [self._description(i.genome) for i in below]
            for individual, values in zip(below, self.ladder().expected([i.told for i in below], genomes)):
                individual.fitness = self._fitness(values, max(self.breaks(values), individual.violation))

    def close(self, offspring: bool = True, only: Iterable[str] | None = None) -> None:
        """From now on all members that are expected on the front go on, so that they have been trained to the end when
        the search ends: ``rungs - 1`` generations bring them there. Without ``offspring`` nothing else is asked for,
        and of the members ``only`` these genomes go on. The last call counts; ``reopen`` takes it back."""
        self._choose_by(True, offspring, None if only is None else frozenset(only))

    def reopen(self) -> None:
        self._choose_by(False, True, None)

    def _choose_by(self, closing: bool, offspring: bool, only: frozenset[str] | None) -> None:
        before = self._closing, self._offspring_wanted, self._finishing, self._by_price
        how = closing, offspring, only, self.frugal
        self._closing, self._offspring_wanted, self._finishing = closing, offspring, only
        if before != how and not self._has_begun():
            for candidate in self._promoted:
                self._lower(candidate)
            self._promoted = []
            self._promote()

    def _lower(self, candidate: Candidate) -> None:
        """One that was to go on stays where it is."""
        if candidate.rung > 1:
            self._climbed[candidate.genome.id] = candidate.rung - 1
        else:
            del self._climbed[candidate.genome.id]

    def _has_begun(self) -> bool:
        """Whether something of the generation that runs was asked for."""
        return bool(self._outstanding.get(self.generation) or self._told.get(self.generation))

    def unfinished(self, beyond: bool = False) -> list[Individual]:
        """Those below the last rung that are to go on: seed genomes; then members and reserve that are expected on the
        front, what adds most to its hypervolume first, or, where constraints rule all of them out and none has come to
        where that is judged, the one that comes closest; with ``beyond`` all other feasible ones, by rank and crowding.
        """
        told = {i.genome.id: i for i in (*self._seeds_below(), *self._hopeful(beyond))}
        return list(told.values())

    def _seeds_below(self) -> list[Individual]:
        told = [self.archive[g.id] for g in self.seed_genomes if g.id in self.archive]
        return sorted((i for i in told if i.rung < self.rungs - 1), key=lambda i: i.index)

    def _hopeful(self, beyond: bool) -> list[Individual]:
        last = self.rungs - 1
        feasible = [i for i in (*self.population, *self.reserve) if i.feasible]
        if not feasible and not any(i.rung == last for i in self.archive.values()):
            measured = [i for i in self.population if i.rung >= 0]  # the others can't go on
            return sorted(measured, key=lambda i: i.fitness.violation)[:1]
        gains = self._gains(feasible)
        wanted = [i for i in feasible if i.genome.id in gains]
        prices = self._prices_of(wanted)
        wanted.sort(key=lambda i: (-gains[i.genome.id] / prices[i.genome.id], i.index))
        if beyond:
            ranked = select_nsga2(feasible, len(feasible), np.random.default_rng(0))
            wanted += [i for i in ranked if i.rung < last and i.genome.id not in gains]
        return wanted

    def _prices_of(self, individuals: Sequence[Individual]) -> dict[str, float]:
        """Genome id -> what an evaluation takes beside others, by what it took at the first rung; all alike unless the
        engine is to be ``frugal``."""
        known = {i.genome.id: self.prices.get(i.genome.id, 0.0) if self.frugal else 1.0 for i in individuals}
        paid = [price for price in known.values() if price > 0]
        typical = float(np.median(paid)) if paid else 1.0
        return {genome_id: price if price > 0 else typical for genome_id, price in known.items()}

    def _gains(self, feasible: Sequence[Individual]) -> dict[str, float]:
        """Genome id -> what it adds to the hypervolume, of those below the last rung on the front that is expected of
        these and of what was told at the last rung."""
        people = list({i.genome.id: i for i in (*self.best, *feasible)}.values())
        front = [i for i, keep in zip(people, non_dominated(self.points(people))) if keep]
        below = [k for k, i in enumerate(front) if i.rung < self.rungs - 1]
        gains = hypervolume_contributions(self.points(front), below)
        return {front[k].genome.id: gain for k, gain in zip(below, gains)}

    def _set_aside(self, left: Iterable[Individual]) -> None:
        """Of those that have left the population, which may hold less than a front, keep who is expected on it and adds
        something: as the models learn, some that looked worse turn out to belong there."""
        left = [i for i in left if 0 <= i.rung < self.rungs - 1]
        gains = self._gains([i for i in (*self.population, *left) if i.feasible]) if left else {}
        worth = [i for i in left if gains.get(i.genome.id, 0.0) >= _WORTH]
        worth = sorted(worth, key=lambda i: (-gains[i.genome.id], i.index))[: self.population_size]
        self.reserve = sorted(worth, key=lambda i: i.index)

    def promoted(self) -> list[Candidate]:
        """Those that go on to a higher rung in the generation that begins, as long as they were not asked for."""
        return list(self._promoted)

    def waiting(self) -> set[str]:
        """Ids of the genomes that are being evaluated or may still come again at a higher rung."""
        ids = {i.genome.id for i in (*self.population, *self.reserve) if i.rung < self.rungs - 1}
        on_their_way = (*self._promoted, *self.outstanding())
        return ids | {c.genome.id for c in on_their_way} | {g.id for g in self.seed_genomes}

    def _line(self) -> list[Individual]:
        """Who goes on before whom: as soon as there is a front to add to, those that are expected on it, who adds most
        first; then the members by rank and crowding, among them the best of each stratum."""
        hopeful = self._hopeful(False) if self.best else ()
        best_first = select_nsga2(self.population, len(self.population), np.random.default_rng(0))
        elites = stratum_elites(best_first, self.steady(), self.population_size // 2)
        return [*hopeful, *interleaved(best_first, elites), *(self.reserve if self.exhausted else ())]

    def _promote(self) -> None:
        """Choose who goes on in the generation that begins: seed genomes in any case, then as they stand in line."""
        self._by_price = self.frugal
        if self.rungs == 1:
            return
        seeds = {genome.id for genome in self.seed_genomes}
        last = self.unfinished(beyond=self._finishing is not None) if self._closing else []
        last = [i for i in last if self._finishing is None or i.genome.id in self._finishing]
        closing = {i.genome.id for i in last}
        chosen = [i for i in self._seeds_below() if self._finishing is None or i.genome.id in closing]
        chosen = [i for i in chosen if self._climbed.get(i.genome.id, 0) == i.rung]
        line = [i for i in (*last, *self._line()) if i.genome.id not in seeds]
        for rung in range(self.rungs - 1, 0, -1):
            there = sum(reached >= rung for i, reached in self._climbed.items() if i not in seeds)
            at_rung = {i.genome.id: i for i in line if i.rung == rung - 1}
            waiting = [i for i in at_rung.values() if self._climbed.get(i.genome.id, 0) == i.rung]
            first = sum(i.genome.id in closing for i in waiting)
            early = min(_EARLY, self._numbers.first // 2) if self._in_parts else 0
            share = max(due(rung, self._born, self.reduction), early) - there
            if not self._offspring_wanted:  # what is left is for the front
                share = first
            elif self.exhausted:  # nothing new is left to try: what there is may train to the end
                share = len(waiting)
            chosen += waiting[: max(share, first)]
        # After those that are new, and after what was asked for of this generation.
        asked_for = self._outstanding.get(self.generation, ())
        index = max([self._numbers.size(self.generation), *(k + 1 for k in asked_for)])
        for k, individual in enumerate(chosen):
            rung = individual.rung + 1
            self._climbed[individual.genome.id] = rung
            self._promoted.append(Candidate(individual.genome, (), "promote", self.generation, index + k, rung))
