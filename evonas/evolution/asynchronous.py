"""The engine where a generation is whatever results come next."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from .candidate import Candidate
from .engine import Engine


class AsynchronousEngine(Engine):
    """An ``Engine`` whose generations end after as many new genomes were told as they have places, whichever these are
    (steady-state evolution in batches): no result is waited for, members and who goes on are settled again and again,
    and a candidate that is lost needs no word, but that a surrogate goes on believing in it.

    Results count in the order in which they are told: ``placed`` says where the next one would, and every run looks as
    if each generation had been asked for and told before the next. Told in the order in which it was asked for, it is
    what ``Engine`` does. While the front is closed (see ``close``) a generation does wait for all that was asked for.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._adopted: Candidate | None = None

    def placed(self, candidate: Candidate) -> Candidate:
        """The candidate at the place where its result counts if it is told now: the first that is free, in the
        generation that runs; of an adopted one its own."""
        if candidate == self._adopted:
            return candidate
        taken = self._taken()
        first = self._numbers.size(self.generation) if candidate.rung else 0
        index = next(i for i in itertools.count(first) if i not in taken)
        return replace(candidate, generation=self.generation, index=index)

    def _taken(self) -> set[int]:
        return {child.index for child in self._children.get(self.generation, ())}

    def adopt(self, candidate: Candidate) -> bool:
        """Take a candidate that was evaluated before an interruption as asked for, to be told at once; False where that
        can't be: its genome is known at that rung, or not at the one below, or its place, as ``placed`` had told it, is
        none of the generation that runs, or taken."""
        before = self.archive.get(candidate.genome.id)
        fits = candidate.generation == self.generation and candidate.index not in self._taken()
        new = candidate.genome.id not in self.seen
        if not fits or (before is None or before.rung != candidate.rung - 1 if candidate.rung else not new):
            return False
        self._adopted = candidate
        self.seen.add(candidate.genome.id)
        if candidate.rung:
            self._climbed[candidate.genome.id] = candidate.rung
            self._promoted = [c for c in self._promoted if c.genome.id != candidate.genome.id]
        else:
            self._asked += 1
        self._hand_out(candidate)
        return True

    def withdraw(self) -> None:
        """Forget all that was asked for and not told: nothing of it is being evaluated any more. It may be asked for
        again."""
        for candidate in (c for waiting in self._outstanding.values() for c in waiting.values()):
            if candidate.rung:
                self._lower(candidate)
            else:
                self.seen.discard(candidate.genome.id)
                self._asked -= 1
        self._outstanding = {}

    @property
    def places(self) -> int:
        """How many new genomes the generation that runs takes."""
        self.prepare()
        size = self._numbers.size(self.generation)
        return min(size, len(self._first)) if self.generation == 0 else size

    @property
    def closing(self) -> bool:
        """Whether the front is being closed."""
        return self._closing

    @property
    def asking(self) -> int:
        """The generation of the next new genome, if as many as have been asked for are told before it."""
        return self._numbers.place(self._asked)[0]

    def _is_complete(self, generation: int) -> bool:
        told = self._children.get(generation, ())
        full = sum(not child.rung for child in told) >= self.places
        if not (self._promoted or any(self._outstanding.values())):
            return full or (bool(told) and (self.exhausted or not self._offspring_wanted))
        return full and (not self._closing or bool(self.pending()))

    def _end_generation(self, n: int | None) -> list[Candidate]:
        if not (self._promoted or any(self._outstanding.values())):
            if self._is_complete(self.generation):
                self._finish_generation()
            else:
                self._promote()
        return self._take_promoted(len(self._promoted) if n is None else n)

    def _first_index(self) -> int:
        asked_for = self._outstanding.get(self.generation, ())
        return max([super()._first_index(), *(index + 1 for index in asked_for)])

    def _alone(self, promoted: list[Candidate]) -> list[Candidate]:
        return promoted

    def _forget(self, generation: int) -> None:
        self._outstanding = {g: waiting for g, waiting in self._outstanding.items() if waiting}

    def _has_begun(self) -> bool:
        return bool(self._told.get(self.generation))
