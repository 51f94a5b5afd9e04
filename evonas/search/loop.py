"""The loop that joins engine, executor and store. The evaluator comes as an argument."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..errors import EvonasError
from ..evolution import Candidate, Engine
from ..executors import Call, Executor
from ..genome import Genome
from ..record import Constraint, Outcome, Record, total_violation
from ..store import Known, Store, compared_from, note_end, note_settled, told_records, trained_outcome
from .account import Account, affordable
from .contract import Evaluator, Listener
from .measuring import Measurements, outcome_of
from .settling import Settled, settle
from .verdict import MENDABLE, TRIES, Verdict, bugs_at_the_end

ENDS = "generations", "budget", "patience", "exhausted"  # why a search ends
STANDSTILL = 1e-3  # growth of the hypervolume, as a share, below which it counts as standing still


class Limits(NamedTuple):
    """What a run is held to; see ``Search.run``."""

    generations: int
    patience: int | None
    started: float
    deadline: float | None
    tokens: float | None


class Search:
    """One run, from where its store stands.

    Args:
        engine: fresh, with as many rungs as the evaluator; it is brought to the store's state here.
        store: open for writing. Every finished evaluation is on disk before the engine hears of it.
        executor: its target is ``evaluator``.
        constraints: candidates that break one are not trained.
        timeout: seconds per training; None for 50 times what the longest of its generation should take, by the median
            of others, at least a minute.
        labels: genome id -> name, of seed genomes.
        known: results of earlier runs, taken instead of measuring and training again.
        device: what measures here, as a ``Measure`` says it. What was measured on another and not brought here (see
            ``bring_here``) is forgotten. None: it is not looked at.
        clock: seconds, as ``deadline`` and the executor count them.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        executor: Executor,
        evaluator: Evaluator,
        *,
        constraints: Sequence[Constraint] = (),
        timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
        known: Known | None = None,
        device: str | None = None,
        listener: Listener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.engine, self.store, self.executor, self.evaluator = engine, store, executor, evaluator
        self.constraints = tuple(constraints)
        self.labels, self.listener = dict(labels or {}), listener or Listener()
        self._reused = dict((known or Known()).trained)
        self._measurements = Measurements(store, executor, evaluator, (known or Known()).measured, device)
        assert engine.rungs == len(evaluator.rungs), "engine and evaluator differ in their rungs"
        self._account = Account(engine, store, executor, evaluator, timeout, clock)
        self._begun: list[Candidate] = []  # of a generation that a deadline has interrupted
        self._verdict = Verdict(engine, store, self.constraints)
        self._restore()

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(
        self,
        generations: int,
        deadline: float | None = None,
        tokens: float | None = None,
        patience: int | None = None,
        began: float | None = None,
    ) -> str:
        """Go on until ``generations`` are done in all, the moment ``deadline`` of ``clock``, or as long as the
        run's training, failures included, takes no more than so many ``tokens`` (or what the evaluator counts) in all;
        what a generation takes is estimated before it, and the first one is not weighed. With ``patience`` it ends,
        its front trained to the end, once the hypervolume has not grown by STANDSTILL in so many generations.
        ``began``: the moment from which the time up to the deadline was given, where that is not now.

        Returns why it ended: "generations", "budget", "patience" or "exhausted" (no genome of the space is left). The
        store notes it too.

        Raises:
            EvonasError: every candidate of a generation failed, or none has met the constraints at the end or for
                several generations. The run can be resumed.
        """
        started = self._clock() if began is None else began
        note_end(self.store, None)
        self.engine.frugal = deadline is not None
        return self._ended(self._go_on(Limits(generations, patience, started, deadline, tokens)))

    def _go_on(self, limits: Limits) -> str:
        """Why it has ended."""
        deadline = limits.deadline
        while self.engine.generation < (goal := self._goal(limits)):
            if self._is_over(limits):
                return "budget"
            if not self._begun:
                closing = self._close(goal, limits)
                self._begun = self.engine.ask()
                if not self._begun:
                    return "budget" if closing else "exhausted"
            candidates = self._begun
            generation = candidates[0].generation
            self.listener.generation_started(generation, len(candidates))
            records = self._evaluate(candidates, deadline)
            if len(records) < len(candidates):
                return "budget"
            self._judge(generation, list(records.values()))
            for candidate in sorted(candidates, key=lambda c: c.index):  # as a resumed run is told
                self.engine.tell(candidate, *self._told_here(records[candidate.index]))
                self._account.pay(candidate.rung, records[candidate.index])
            self._begun = []
            self._commit(generation, candidates)
            self._verdict.after_commit(generation, list(records.values()))
        return "generations" if goal == limits.generations else "patience"

    def _is_over(self, limits: Limits) -> bool:
        return limits.deadline is not None and self._clock() >= limits.deadline

    def _judge(self, generation: int, records: list[Record]) -> None:
        """Raise where all of a generation have failed, before it is committed."""
        mendable = (r for r in records if r.status in MENDABLE)  # no other is ever done again
        tries = min(map(self._times_tried, mendable), default=TRIES)
        self._verdict.before_commit(generation, records, tries)

    def _goal(self, limits: Limits) -> int:
        """Generations to do in all: fewer where the hypervolume stood still, and those in which the front is closed.
        Told from what is stored, so that a resumed run decides the same."""
        generations, patience = limits.generations, limits.patience
        if patience is None:
            return generations
        since = compared_from(self.store)
        rows = [row for row in self.store.generations if row["generation"] >= since]
        closing = len(self.evaluator.rungs)
        for now in range(max(patience, len(rows) - closing), len(rows)):  # longer ago it would have ended
            if 0 < rows[now]["hypervolume"] <= rows[now - patience]["hypervolume"] * (1 + STANDSTILL):
                return min(generations, rows[now]["generation"] + closing)
        return generations

    def _close(self, goal: int, limits: Limits) -> bool:
        """Let the expected front train to the end: in the last generations, or, True, with what is left of a budget.
        Decided anew in every generation, so that a resumed run decides the same as far as no clock has a say."""
        engine, last = self.engine, len(self.evaluator.rungs) - 1
        engine.reopen()
        if (limits.deadline, limits.tokens) != (None, None):
            unfinished = engine.unfinished()
            held = limits.started, limits.deadline, limits.tokens, self._under_way()
            budgets = self._account.budgets(unfinished, *held)
            chosen = affordable(unfinished, budgets) if budgets else []
            if any(budget.closing for budget in budgets) or self._account.too_little(limits.tokens, bool(chosen)):
                if not chosen:
                    # What is left goes to those behind the front: what is expected of them may be too little.
                    unfinished = engine.unfinished(beyond=True)
                    chosen = affordable(unfinished, self._account.budgets(unfinished, *held))
                engine.close(False, chosen)
                return True
        if engine.generation >= max(1, goal - last):
            engine.close()
        return False

    def _under_way(self) -> float:
        """Seconds until the workers are free, about."""
        return 0.0

    def settle(self, deadline: float | None = None) -> Settled:
        """Measure what can't be told apart on the front again (see ``settling``); after ``run``."""
        top = self.engine.at_the_top()
        names = self.evaluator.measured_names
        until = deadline, self._account.timeout(), self.listener.settling, self._clock
        return settle(self.store, self.executor, self.engine.objectives, names, top, *until)

    def _ended(self, why: str) -> str:
        note_end(self.store, why, unsettled=True)
        try:
            self._verdict.empty()
        except EvonasError:
            note_settled(self.store)  # there is nothing to settle
            raise
        return why

    def _commit(self, generation: int, candidates: Sequence[Candidate]) -> None:
        self._account.warm = self._account.warm or (self.engine.generation, self._clock())
        front = self.engine.front()
        if self.store.header["reference"] is None and self.engine.box is not None:
            ideal, reference = (point.tolist() for point in self.engine.box)
            self.store.set_header(reference={"ideal": ideal, "reference": reference})
        names = [o.name for o in self.engine.objectives]
        best = {
            n: (max if o.direction == "max" else min)(m.told[-1][k] for m in front)
            for k, (n, o) in enumerate(zip(names, self.engine.objectives))
            if front
        }
        row = {
            "generation": generation,
            "evaluations": self.store.evaluated,
            "front_size": len(front),
            "hypervolume": self.engine.hypervolume(),
            "failures": self.store.failures,
            "rng": {
                "seed": self.engine.seed,
                "next_generation": self.engine.generation,
                "exhausted": self.engine.exhausted,
                "reserve": [i.genome.id for i in self.engine.reserve],
            },
            "best": best,
            "asked": [[c.index, c.genome.id] for c in candidates],
            "hopeless": self._verdict.count_generation(),
            "credit": self.engine.credit.shares(),
        }
        if self.engine.screening is not None and generation in self.engine.screening.judged:
            row["surrogate"] = self.engine.screening.judged[generation]
        if self.engine.rungs > 1:
            row |= {"rungs": self.engine.reached(), "expected": self._expectations()}
        self.store.commit(row, [m.genome.id for m in self.engine.population])
        self.evaluator.retain(self.engine.waiting())
        self.listener.generation_finished(row)

    def _expectations(self) -> list[dict]:
        """Of each rung below the last: how well it tells what the last one will say."""
        ladder = self.engine.ladder()
        return [
            {
                "rung": rung,
                "of": self.evaluator.rungs[rung],
                "pairs": model.pairs,
                "error": dict(zip(self.engine.names, ladder.error(rung).tolist())),
            }
            for rung, model in enumerate(ladder.models)
        ]

    # -- one generation -----------------------------------------------------------------------------------------

    def _evaluate(self, candidates: list[Candidate], deadline: float | None) -> dict[int, Record]:
        """A record for every candidate, by index; fewer when the deadline came first."""
        records = self._finished(candidates)
        todo = [c for c in candidates if c.index not in records]
        self._measurements.measure([c.genome for c in todo], self._account.timeout(), deadline)
        to_train = []
        for candidate in todo:
            known = self._measurements.known(candidate.genome)
            if known is None:
                continue  # the deadline came before its measurement
            record = self._without_training(candidate, known)
            if record is None:
                to_train.append((candidate, known))
            else:
                records[candidate.index] = self._keep(candidate, record)
                self._verdict.kept_untrained()
        for candidate, record in self._train(to_train, deadline):
            records[candidate.index] = self._keep(candidate, record)
            self._verdict.after_training(record, self._times_tried(record))
        return records

    def _without_training(self, candidate: Candidate, known: Outcome) -> Record | None:
        """The record of a candidate of which so much is known, where nothing is left to train."""
        record = _record(candidate, known)
        if total_violation(self.constraints, record) > 0:
            return _record(candidate, known, Outcome("infeasible", reason=self._broken(record)))
        if not (record.ok and self.evaluator.trained_names):
            return record
        reused = self._reused.get((candidate.genome.id, candidate.rung))
        return None if reused is None else self._trained(candidate, known, reused)

    def _train(
        self, candidates: list[tuple[Candidate, Outcome]], deadline: float | None
    ) -> Iterator[tuple[Candidate, Record]]:
        # What will be on the front first; then longest first, so that the workers finish together.
        ordered = sorted(candidates, key=lambda pair: (-pair[0].rung, -size_of(pair[0].genome)))
        calls = [Call("train", (c.genome, c.rung), k) for k, (c, _) in enumerate(ordered)]
        rung = max((c.rung for c, _ in ordered), default=0)
        for k, result in self.executor.map(calls, timeout=lambda: self._account.timeout(rung), deadline=deadline):
            candidate, known = ordered[k]
            if (outcome := outcome_of(result)) is not None:
                yield candidate, self._trained(candidate, known, outcome)

    def _trained(self, candidate: Candidate, known: Outcome, result: Outcome) -> Record:
        record = _record(candidate, known, result)
        self._account.note(candidate.rung, record)
        # What training changes is judged where it ends.
        last = candidate.rung == len(self.evaluator.rungs) - 1
        if record.ok and last and total_violation(self.constraints, record) > 0:
            reason = self._broken(record)
            return _record(candidate, known, replace(result, status="infeasible", reason=reason))
        return record

    def _keep(self, candidate: Candidate, record: Record) -> Record:
        label = self.labels.get(record.genome_id, "")
        self.store.append(candidate.genome, record, candidate.parents, candidate.operator, label)
        self.listener.evaluated(record)
        return record

    # -- what is known ------------------------------------------------------------------------------------------

    def _finished(self, candidates: list[Candidate]) -> dict[int, Record]:
        """The records of these candidates from before an interruption, by index. Where all have failed, or the same
        error has stopped the run, what can be mended counts as not done, until each of them has been done again."""
        tries = {c.index: found for c in candidates if (found := self._tries(c.genome.id, c.generation, c.index))}
        last = {index: found[-1] for index, found in tries.items()}
        anew = len(last) == len(candidates) and all(r.status not in ("ok", "infeasible") for r in last.values())
        times = {k: self._times_tried(r) for k, r in last.items()}
        rounds = max(times.values(), default=0)
        bugs = {id(r) for r in bugs_at_the_end(self.store.records, self.evaluator.measured_names)} if last else set()
        stopped = {k for k, r in last.items() if id(r) in bugs and times[k] < TRIES}
        again = {k for k, r in last.items() if r.status in MENDABLE and (anew or k in stopped or times[k] < rounds)}
        return {index: record for index, record in last.items() if index not in again}

    def _tries(self, genome_id: str, generation: int, index: int) -> list[Record]:
        """Every record of the genome at this place, oldest first."""
        return [r for r in self.store.records_of(genome_id) if (r.generation, r.index) == (generation, index)]

    def _times_tried(self, record: Record) -> int:
        return sum(not r.revised for r in self._tries(record.genome_id, record.generation, record.index))

    def _told(self, record: Record) -> tuple[dict[str, float] | None, float]:
        """What the engine is told of a record: values, violation."""
        if record.status not in ("ok", "infeasible"):
            return None, 0.0
        values = self._values(record, self.engine.names)
        violation = self._violation(record) if record.status == "infeasible" else 0.0
        return (values if violation or len(values) == len(self.engine.names) else None), violation

    def _told_here(self, record: Record) -> tuple[dict[str, float] | None, float]:
        """The same with times of this device alone, judged by these where it was measured again; what was ruled out by
        those of another, before it was trained, is not, and stays so."""
        here = self._measurements.here(record)
        if here is None:
            return None, self._violation(record) if record.status == "infeasible" else 0.0
        if here.ok:  # measured again, it may break what it did not
            measured = tuple(c for c in self.constraints if c.name in self.evaluator.measured_names)
            if (violation := total_violation(measured, here)) > 0:
                return self._values(here, self.evaluator.measured_names), violation
        return self._told(here)

    def _values(self, record: Record, names: Iterable[str]) -> dict[str, float]:
        """Those of these names that it has, without times of other devices."""
        found = ((name, record.measures.get(name)) for name in names)
        return {name: m.value for name, m in found if m is not None and self._measurements.counts(name, m)}

    def _violation(self, record: Record) -> float:
        return total_violation(self.constraints, record)

    def _broken(self, record: Record) -> str:
        parts = [(c, record.value(c.name)) for c in self.constraints]
        return "; ".join(f"{c} is broken: {v:.4g}" for c, v in parts if v is not None and c.violation(v) > 0)

    def _restore(self) -> None:
        """Bring the engine to the last committed generation, and recall every measurement."""
        done = self.store.done
        told = []
        records = list(told_records(self.store))
        for *_, record in records:
            self._measurements.recall(record)
        for rung, asked, record in records:
            if rung >= len(self.evaluator.rungs):  # trained again by a version that did not know it had been
                continue
            # What was measured again, later, cost no training.
            paid = [r for r in self._tries(record.genome_id, record.generation, record.index) if r.cost]
            self._account.note(rung, paid[-1] if paid else record)
            if not asked or record.generation >= done:
                # From a generation that was begun otherwise before an interruption: it may be wanted yet.
                trained = trained_outcome(record, self.evaluator.trained_names)
                if trained is not None:
                    self._reused[record.genome_id, rung] = trained
                continue
            entry = self.store.genomes[record.genome_id]
            where = record.generation, record.index
            candidate = Candidate(entry.genome, entry.parents, entry.operator, *where, rung)
            told.append((candidate, *self._told_here(record)))
            self._account.pay(rung, record)
        if not done:
            return
        reference = self.store.header["reference"]
        box = None if reference is None else (reference["ideal"], reference["reference"])
        if box is not None and len(box[0]) != len(self.engine.objectives):
            raise EvonasError(f"run {self.store.name!r} is damaged: its reference point is of {len(box[0])} objectives")
        rng = self.store.generations[-1]["rng"]
        rng = rng if isinstance(rng, dict) else {}
        reserve = rng.get("reserve")  # runs from before have none
        reserve = [i for i in reserve if isinstance(i, str)] if isinstance(reserve, list) else []
        forgotten = {candidate.genome.id for candidate, values, violation in told if values is None and not violation}
        population, reserve = ([i for i in ids if i not in forgotten] for ids in (self.store.population(), reserve))
        self.engine.restore(told, population, done, box, bool(rng.get("exhausted")), reserve)


def _record(candidate: Candidate, *outcomes: Outcome) -> Record:
    """One record from the outcomes of all steps; the last one's status counts."""
    last = outcomes[-1]
    merged: dict[str, dict] = {"measures": {}, "cost": {}, "provenance": {}}
    for outcome in outcomes:
        for name, into in merged.items():
            into.update(getattr(outcome, name))
    return Record(candidate.genome.id, candidate.generation, candidate.index, last.status, reason=last.reason, **merged)


def size_of(genome: Genome) -> float:
    """Rough training cost, to order a batch by."""
    return float(genome.get("n_layers", 1)) * float(genome.get("d_model", 1)) ** 2
