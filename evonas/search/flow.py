"""The loop without a barrier: whenever a worker is free, there is something for it to do."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from ..evolution import AsynchronousEngine, Candidate
from ..executors import Call, Failure
from ..record import Outcome, Record
from ..store import told_records
from .loop import Limits, Search, size_of
from .measuring import outcome_of
from .verdict import MENDABLE, TRIES, bugs_at_the_end


class AsynchronousSearch(Search):
    """``Search`` with an ``AsynchronousEngine``: a candidate is asked for, measured and sent off as soon as a worker is
    free, and each result counts at once. What is stored looks like a run in which a generation is done before the next
    begins; which results make it up depends on how long they took. Whoever is measured is so while the trainings pause.
    While the front is closed, workers may have nothing to do.
    """

    engine: AsynchronousEngine

    def _restore(self) -> None:
        super()._restore()
        self._flying: dict[str, tuple[Candidate, Outcome]] = {}  # by genome id
        self._batch: list[tuple[Candidate, Record]] = []  # placed, of what is not committed
        self._next: list[Candidate] = []  # asked for, as they go on
        self._closing = False  # whether a budget is spent but for the front

    def _go_on(self, limits: Limits) -> str:
        self._limits = limits
        self._begin()
        if self.engine.generation < self.engine.until:
            self._take_up()
        flow = self.executor.stream(self._next_call, timeout=self._timeout_now, deadline=limits.deadline)
        with contextlib.closing(flow):  # what it began is stopped where something goes wrong
            for key, result in flow:
                self._arrived(*self._flying.pop(key), result)
        self._next = []
        self.engine.withdraw()
        if self.engine.generation < self.engine.until and self._is_over(limits):
            while self._is_worth_a_generation() and self.engine.finish():
                self._settle_generation()
            return "budget"
        if self.engine.generation >= self.engine.until:
            return "generations" if self.engine.until == limits.generations else "patience"
        return "budget" if self._closing else "exhausted"

    def _is_worth_a_generation(self) -> bool:
        """Whether what was told of the one that runs, which the deadline cuts short, counts as one: had all failed, it
        would be done again."""
        here = (record for placed, record in self._batch if placed.generation == self.engine.generation)
        return any(record.status in ("ok", "infeasible") for record in here)

    def _begin(self) -> None:
        """A generation begins."""
        self.engine.until = self._goal(self._limits)
        if self.engine.generation >= self.engine.until or self._is_over(self._limits):
            return
        self._closing = self._close(self.engine.until, self._limits)
        new = 0 if self._closing else self.engine.places
        self.listener.generation_started(self.engine.generation, new + len(self.engine.promoted()))

    def _take_up(self) -> None:
        """Results of what an interruption cut short count as they are, but for failures that are to be done again, as
        ``_finished`` has it."""
        found = [(rung, record) for rung, asked, record in told_records(self.store) if asked]
        bugs = {id(r) for r in bugs_at_the_end(self.store.records, self.evaluator.measured_names)}
        for generation in sorted({r.generation for _, r in found if r.generation >= self.engine.generation}):
            here = [(rung, record) for rung, record in found if record.generation == generation]
            again = self._again([record for _, record in here], sum(not rung for rung, _ in here), bugs)
            for rung, record in here:
                if rung >= len(self.evaluator.rungs) or id(record) in again:
                    continue
                entry = self.store.genomes[record.genome_id]
                where = record.generation, record.index
                candidate = Candidate(entry.genome, entry.parents, entry.operator, *where, rung)
                if self.engine.adopt(candidate, *self._told_here(record)):
                    self._account.pay(rung, record)
                    self._batch.append((candidate, record))
            self.engine.advance()
            self._settle_generation()

    def _again(self, records: list[Record], new: int, bugs: set[int]) -> set[int]:
        """Which of a generation's records, so many of them of new genomes, failed and are to be done again."""
        failed = all(record.status not in ("ok", "infeasible") for record in records)
        whole = not 0 < new < self.engine.places or self.engine.exhausted or self._closing
        times = {id(record): self._times_tried(record) for record in records}
        rounds = max(times.values(), default=0)

        def is_due(record: Record) -> bool:
            tried = times[id(record)]
            return tried < rounds or (tried < TRIES and ((failed and whole) or id(record) in bugs))

        return {id(record) for record in records if record.status in MENDABLE and is_due(record)}

    def _times_tried(self, record: Record) -> int:
        """In its generation, wherever: done again it may come in another place."""
        records = self.store.records_of(record.genome_id)
        return sum(r.generation == record.generation and not r.revised for r in records)

    def _next_call(self) -> Call | None:
        """A training for a worker that is free, None where there is none for now."""
        while not self._is_over(self._limits) and (candidate := self._ask()) is not None:
            self._measurements.measure([candidate.genome], self._account.timeout(), self._limits.deadline)
            known = self._measurements.known(candidate.genome)
            if known is None:
                return None  # the deadline came before its measurement
            placed = self.engine.placed(candidate)
            record = self._without_training(placed, known)
            if record is None:
                self._flying[candidate.genome.id] = candidate, known
                self._account.begin(candidate.rung)
                return Call("train", (candidate.genome, candidate.rung), candidate.genome.id)
            self._account.pay(candidate.rung, record)
            self._tell(candidate, placed, self._keep(placed, record))
            self._verdict.kept_untrained()
        return None

    def _ask(self) -> Candidate | None:
        """The next candidate, who goes on before who is new and of those the longest first, so that workers finish
        together; none beyond the last generation, nor beyond one in which the front is closed."""
        while not self._next and self.engine.generation < self.engine.until:
            last = self.engine.generation + 1 if self.engine.closing else self.engine.until
            if not (self.engine.promoted() or self.engine.asking < last):
                return None
            found = self.engine.ask(max(1, len(self.engine.promoted())))
            self._next = sorted(found, key=lambda candidate: -size_of(candidate.genome))
            if not self._settle_generation() and not found:
                return None
        return self._next.pop(0) if self._next else None

    def _arrived(self, candidate: Candidate, known: Outcome, result: Outcome | Failure) -> None:
        """A training has ended."""
        outcome = outcome_of(result)
        if outcome is None:
            return
        if "seconds" in outcome.cost:
            left = max(outcome.cost["seconds"] - self.executor.paused, 0.0)
            outcome = replace(outcome, cost={**outcome.cost, "seconds": left})
        placed = self.engine.placed(candidate)
        record = self._keep(placed, self._trained(placed, known, outcome))
        self._verdict.after_training(record, self._times_tried(record))
        self._tell(candidate, placed, record)

    def _tell(self, candidate: Candidate, placed: Candidate, record: Record) -> None:
        """Tell a result that is stored."""
        self.engine.tell(candidate, *self._told_here(record))
        self._batch.append((placed, record))
        self._settle_generation()

    def _settle_generation(self) -> bool:
        """Commit the generation that has come to its end, and the next where that has, too; whether one has."""
        ended = False
        while (generation := self.store.done) < self.engine.generation:
            ended = True
            batch = [entry for entry in self._batch if entry[0].generation == generation]
            self._batch = [entry for entry in self._batch if entry[0].generation > generation]
            records = [record for _, record in batch]
            self._judge(generation, records)
            self._commit(generation, [placed for placed, _ in batch])
            self._verdict.after_commit(generation, records)
            self._begin()
            self.engine.advance()
        return ended

    def _under_way(self) -> float:
        typical = self._account.pace.typical()
        half_done = (typical.get(candidate.rung, 0.0) / 2 for candidate, _ in self._flying.values())
        return sum(half_done) / self.executor.workers

    def _timeout_now(self) -> float:
        return self._account.timeout(max((candidate.rung for candidate, _ in self._flying.values()), default=0))
