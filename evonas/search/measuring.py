"""What is known of architectures without training them: exact values, and what was measured on this device."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from ..executors import Call, Executor, Failure
from ..genome import Genome
from ..record import MEASURED_AGAIN, Measure, Outcome, Record
from ..store import Store
from .contract import Evaluator


class Measurements:
    """Every architecture is measured once, alone.

    Args:
        known: architecture id -> what earlier runs have measured.
        device: what measures here, as a ``Measure`` says it; None: that is not looked at.
    """

    def __init__(
        self, store: Store, executor: Executor, evaluator: Evaluator, known: Mapping[str, Outcome], device: str | None
    ) -> None:
        self._store, self._executor, self._evaluator, self._device = store, executor, evaluator, device
        self._names = evaluator.measured_names
        self._of = dict(known)
        self._times: dict[str, int] = {}  # architecture id -> how often it was measured in this run

    def measure(self, genomes: Iterable[Genome], timeout: float, deadline: float | None) -> None:
        """Measure what is not known of their architectures, as far as the ``deadline`` allows."""
        unknown = {g.architecture_id: g for g in genomes if self._names and g.architecture_id not in self._of}
        calls = [Call("measure", (genome,), architecture) for architecture, genome in unknown.items()]
        for architecture, result in self._executor.map_alone(calls, timeout=timeout, deadline=deadline):
            if isinstance(result, Failure):
                if result.status == "deadline":
                    continue
                result = Outcome(result.status, reason=result.reason)
            self._of[architecture] = result

    def known(self, genome: Genome) -> Outcome | None:
        """Exact and measured objectives of the genome; None when it should be measured and is not."""
        measured = self._of.get(genome.architecture_id) if self._names else Outcome()
        if measured is None:
            return None
        exact = self._evaluator.exact(genome) if self._evaluator.exact_names else {}
        return replace(measured, measures={**exact, **measured.measures})

    def recall(self, record: Record) -> None:
        """What the record says of its architecture counts from now on, unless more measurements do already."""
        architecture = self._genome(record).architecture_id
        measures = {n: m for n, m in self._measured(record).items() if self._is_here(m)}
        complete = self._names and len(measures) == len(self._names)
        if complete and record.times_measured >= self._times.get(architecture, 0):
            self._times[architecture] = record.times_measured
            self._of[architecture] = Outcome(measures=measures, provenance=record.provenance)

    def bring_here(self, genome_ids: Collection[str], timeout: float) -> None:
        """Measure again what of these genomes of the run was measured on another device alone, and store that: times of
        two devices are never compared."""
        records = (self._store.record_of(i) for i in sorted(genome_ids))
        elsewhere = [r for r in records if r is not None and not all(map(self._is_here, self._measured(r).values()))]
        self.measure(map(self._genome, elsewhere), timeout, None)
        for record in elsewhere:
            if (here := self.here(record)) is not record:
                self._store.append(self._genome(record), replace(here, cost={}, reason=MEASURED_AGAIN))

    def here(self, record: Record) -> Record:
        """The record with what was measured on another device as it is here, where that is known."""
        known = self._of.get(self._genome(record).architecture_id, Outcome())
        measured = self._measured(record)
        trained = all(n in record.measures for n in self._evaluator.trained_names)  # else these have ruled it out
        if all(map(self._is_here, measured.values())) or not trained or not measured.keys() <= known.measures.keys():
            return record
        provenance = {**record.provenance, **known.provenance, "times_measured": 1}
        return replace(record, measures={**record.measures, **known.measures}, provenance=provenance)

    def _measured(self, record: Record) -> dict[str, Measure]:
        return {n: record.measures[n] for n in self._names if n in record.measures}

    def _is_here(self, measure: Measure) -> bool:
        return self._device is None or measure.device == self._device

    def _genome(self, record: Record) -> Genome:
        return self._store.genomes[record.genome_id].genome
