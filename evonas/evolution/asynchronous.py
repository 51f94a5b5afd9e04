"""The engine where a generation is whatever results come next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .candidate import Candidate
from .engine import Engine
from .fitness import Individual


class _Places:
    """Of one generation: what is taken, and the first that are free, for new genomes and for those that go on."""

    def __init__(self, size: int) -> None:
        self._taken: set[int] = set()
        self._free = [0, size]
        self._size = size
        self.new = 0  # new genomes told

    def free(self, rung: int) -> int:
        kind = int(rung > 0)
        while self._free[kind] in self._taken:
            self._free[kind] += 1
        return self._free[kind]

    def take(self, index: int) -> None:
        self._taken.add(index)
        self.new += index < self._size

    def __contains__(self, index: int) -> bool:
        return index in self._taken


class AsynchronousEngine(Engine):
    """An ``Engine`` whose generations end after as many new genomes were told as they have places, whichever these are
    (steady-state evolution in batches): the slowest is not waited for, members and who goes on are settled again and
    again, and who is lost holds nothing up, but that a surrogate goes on believing in it.

    Results count in the order in which they are told: ``placed`` says where the next one would, and every run looks as
    if each generation had been asked for and told before the next. Told in the order in which it was asked for, it is
    what ``Engine`` does. While the front is closed (see ``close``) a generation also waits for all that go on; at the
    end of a space that is exhausted it waits for everything.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._places: dict[int, _Places] = {}  # of the generation that runs and of later ones
        self.until: int | None = None  # generations, after which none ends any more

    def _places_of(self, generation: int) -> _Places:
        if generation not in self._places:
            self._places[generation] = _Places(self._numbers.size(generation))
        return self._places[generation]

    def placed(self, candidate: Candidate) -> Candidate:
        """The candidate at the place where its result counts if it is told now: the first that is free in the
        generation that runs, or, of a new one where this has no more and waits for those that go on, in a later one."""
        self.prepare()
        generation = self.generation
        while not candidate.rung and self._places_of(generation).new >= self._size_of(generation):
            generation += 1
        return replace(candidate, generation=generation, index=self._places_of(generation).free(candidate.rung))

    def _count(
        self, candidate: Candidate, placed: Candidate, values: Mapping[str, float] | None, violation: float
    ) -> None:
        super()._count(candidate, placed, values, violation)
        self._places_of(placed.generation).take(placed.index)

    def adopt(self, candidate: Candidate, values: Mapping[str, float] | None, violation: float = 0.0) -> bool:
        """Take and tell a candidate that was evaluated before an interruption, at the place that ``placed`` had told
        for it. No generation ends by it: ``advance`` has them end when all are told. False where it can't be: its
        genome is known at that rung, or not at the one below, or the place is of a generation that is done, or taken.
        """
        before = self.archive.get(candidate.genome.id)
        known = candidate.genome.id in self.seen if not candidate.rung else before is None
        behind = before is not None and candidate.rung and before.rung != candidate.rung - 1
        late = candidate.generation < self.generation
        if known or behind or late or candidate.index in self._places_of(candidate.generation):
            return False
        self.seen.add(candidate.genome.id)
        if candidate.rung:
            self._climbed[candidate.genome.id] = candidate.rung
            self._promoted = [c for c in self._promoted if c.genome.id != candidate.genome.id]
        else:
            self._asked += 1
        self._hand_out(candidate)
        self._count(candidate, candidate, values, violation)
        return True

    def withdraw(self) -> None:
        """Forget all that was asked for and not told: nothing of it is being evaluated any more. It may be asked for
        again."""
        for candidate in self.outstanding():
            if candidate.rung:
                self._lower(candidate)
            else:
                self.seen.discard(candidate.genome.id)
                self._asked -= 1
        self._outstanding, self._drawn = {}, 0  # of the first population, those asked for are skipped

    def finish(self) -> bool:
        """Withdraw what is outstanding, and end the generation that runs with what was told of it; False where nothing
        was."""
        self.withdraw()
        if told := bool(self._children.get(self.generation)):
            self._finish_generation()
        return told

    def advance(self) -> None:
        """End the generation that runs if it is complete: ``tell`` ends one at a time, so that each can be stored
        before the next, and results of the next may have come before."""
        if (self.until is None or self.generation < self.until) and self._is_complete(self.generation):
            self._finish_generation()

    def _finish_generations(self) -> None:
        self.advance()

    def ask(self, n: int | None = None) -> list[Candidate]:
        self.advance()
        return super().ask(n)

    @property
    def places(self) -> int:
        """How many new genomes the generation that runs takes."""
        self.prepare()
        return self._size_of(self.generation)

    @property
    def closing(self) -> bool:
        """Whether the front is being closed."""
        return self._closing

    @property
    def asking(self) -> int:
        """The generation of the next new genome, if as many as have been asked for are told before it."""
        return self._numbers.place(self._asked)[0]

    def unfinished(self, beyond: bool = False) -> list[Individual]:
        """As of ``Engine``, without those that are on their way."""
        return [i for i in super().unfinished(beyond) if self._climbed.get(i.genome.id, 0) == i.rung]

    def _seeds_below(self) -> list[Individual]:
        lately = self._told.get(self.generation, {})  # while the generation before waited: not to come twice in one
        return [i for i in super()._seeds_below() if i.genome.id not in lately]

    def _is_complete(self, generation: int) -> bool:
        full = self._places_of(generation).new >= self.places
        outstanding = self.outstanding()
        if not (self._promoted or outstanding):
            no_more = self.exhausted or not self._offspring_wanted
            return full or (no_more and bool(self._children.get(generation)))
        return full and not (self._closing and (self._promoted or any(c.rung for c in outstanding)))

    def _end_generation(self, n: int | None) -> list[Candidate]:
        if not (self._promoted or self.outstanding()):
            if self._is_complete(self.generation):
                self._finish_generation()
            else:
                self._promote()
        return self._take_promoted(len(self._promoted) if n is None else n)

    def _alone(self, promoted: list[Candidate]) -> list[Candidate]:
        return promoted

    def _forget(self, generation: int) -> None:
        self._outstanding = {g: waiting for g, waiting in self._outstanding.items() if waiting}
        self._places.pop(generation, None)

    def _has_begun(self) -> bool:
        return False  # who was not asked for yet may be chosen anew at any time
