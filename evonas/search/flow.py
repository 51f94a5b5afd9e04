"""The loop without a barrier: whenever a worker is free, there is something for it to do."""

from __future__ import annotations

from dataclasses import replace

from ..evolution import AsynchronousEngine, Candidate
from ..executors import Call, Failure
from ..record import Outcome, Record
from ..store import told_records
from .loop import Limits, Search
from .verdict import MENDABLE, TRIES, bugs_at_the_end


class AsynchronousSearch(Search):
    """``Search`` with an ``AsynchronousEngine``: a candidate is asked for, measured and sent off as soon as a worker is
    free, and each result counts at once. What is stored looks like a run in which a generation is done before the next
    begins; which results make it up depends on how long they took. Whoever is measured is so while the trainings pause.
    """

    engine: AsynchronousEngine

    def _restore(self) -> None:
        super()._restore()
        self._known_generation = self.engine.generation
        self._flying: dict[str, tuple[Candidate, Outcome]] = {}  # by genome id
        self._batch: list[tuple[Candidate, Record]] = []  # placed, of the generation that runs
        self._closing = False  # whether a budget is spent but for the front

    def _go_on(self, limits: Limits) -> str:
        self._limits = limits
        self.engine.withdraw()  # what a deadline has cut short
        self._begin()
        self._take_up()
        flow = self.executor.stream(self._next_call, timeout=self._timeout_now, deadline=limits.deadline)
        for key, result in flow:
            candidate, known = self._flying.pop(key)
            if isinstance(result, Failure):
                if result.status == "deadline":
                    continue
                result = Outcome(result.status, reason=result.reason)
            if "seconds" in result.cost:
                left = max(result.cost["seconds"] - self.executor.paused, 0.0)
                result = replace(result, cost={**result.cost, "seconds": left})
            placed = self.engine.placed(candidate)
            record = self._keep(placed, self._trained(placed, known, result))
            self._verdict.after_training(record, self._times_tried(record))
            self._count(candidate, placed, record)
        if self._is_over(limits):
            return "budget"
        if self.engine.generation >= self._goal_now:
            return "generations" if self._goal_now == limits.generations else "patience"
        return "budget" if self._closing else "exhausted"

    def _begin(self) -> None:
        """A generation begins."""
        self._goal_now = self._goal(self._limits)
        if self.engine.generation >= self._goal_now:
            return
        self._closing = self._close(self._goal_now, self._limits)
        new = 0 if self._closing else self.engine.offspring_size
        self.listener.generation_started(self.engine.generation, new + len(self.engine.promoted()))

    def _take_up(self) -> None:
        """Results of a generation that an interruption cut short count as they are, but for failures that are to be
        done again (see ``_finished``)."""
        done = self.engine.generation
        found = [(rung, r) for rung, asked, r in told_records(self.store) if asked and r.generation >= done]
        came = {id(record): k for k, record in enumerate(self.store.records)}
        found.sort(key=lambda entry: came[id(entry[1])])  # who goes on may have come before those that are new
        failed = all(record.status not in ("ok", "infeasible") for _, record in found)
        anew = failed and sum(not rung for rung, _ in found) >= self.engine.places
        bugs = {id(r) for r in bugs_at_the_end(self.store.records, self.evaluator.measured_names)}
        for rung, record in found:
            again = (anew or id(record) in bugs) and self._times_tried(record) < TRIES
            if rung >= len(self.evaluator.rungs) or (again and record.status in MENDABLE):
                continue
            entry = self.store.genomes[record.genome_id]
            where = record.generation, record.index
            candidate = Candidate(entry.genome, entry.parents, entry.operator, *where, rung)
            if self.engine.adopt(candidate):
                self._count(candidate, self.engine.placed(candidate), record)

    def _next_call(self) -> Call | None:
        """A training for a worker that is free, None where there is none for now."""
        while not self._is_over(self._limits) and (candidate := self._ask()) is not None:
            self._measurements.measure([candidate.genome], self._timeout(), self._limits.deadline)
            known = self._measurements.known(candidate.genome)
            if known is None:
                return None  # the deadline came before its measurement
            placed = self.engine.placed(candidate)
            found = self._without_training(placed, known)
            if found is None:
                self._flying[candidate.genome.id] = candidate, known
                return Call("train", (candidate.genome, candidate.rung), candidate.genome.id)
            self._count(candidate, placed, self._keep(placed, found))
            self._verdict.kept_untrained()
        return None

    def _ask(self) -> Candidate | None:
        """The next candidate, who goes on before who is new; none beyond the last generation, nor beyond one in which
        the front is closed."""
        last = self.engine.generation + 1 if self.engine.closing else self._goal_now
        if self.engine.generation >= self._goal_now or not (self.engine.promoted() or self.engine.asking < last):
            return None
        found = self.engine.ask(1)
        self._settle_generation()
        return found[0] if found else None

    def _count(self, candidate: Candidate, placed: Candidate, record: Record) -> None:
        """Tell a result that is stored."""
        self._batch.append((placed, record))
        self.engine.tell(candidate, *self._told_here(record))
        self._pay(candidate.rung, record)
        self._settle_generation()

    def _settle_generation(self) -> None:
        """Commit the generation that has come to its end, if it has."""
        if self.engine.generation == self._known_generation:
            return
        generation, batch = self._known_generation, sorted(self._batch, key=lambda entry: entry[0].index)
        self._known_generation, self._batch = self.engine.generation, []
        records = [record for _, record in batch]
        self._judge(generation, records)
        self._commit(generation, [placed for placed, _ in batch])
        self._verdict.after_commit(generation, records)
        self._begin()

    def _timeout_now(self) -> float:
        return self._timeout(max((candidate.rung for candidate, _ in self._flying.values()), default=0))
