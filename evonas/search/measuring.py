"""What is known of architectures without training them: exact values, and what was measured on this device."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from ..errors import EXIT_FAILED, EvonasError
from ..executors import Call, Executor, Failure
from ..genome import Genome
from ..record import MEASURED_AGAIN, Measure, Outcome, Record, besides_measurements
from ..store import MOVED, Store, moved_at
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
            if (outcome := outcome_of(result)) is not None:
                self._of[architecture] = outcome

    def known(self, genome: Genome) -> Outcome | None:
        """Exact and measured objectives of the genome; None when it should be measured and is not. What measuring took
        goes to the first that asks."""
        measured = self._of.get(genome.architecture_id) if self._names else Outcome()
        if measured is None:
            return None
        exact = self._evaluator.exact(genome) if self._evaluator.exact_names else {}
        if measured.cost:
            self._of[genome.architecture_id] = replace(measured, cost={})
        return replace(measured, measures={**exact, **measured.measures})

    def recall(self, record: Record) -> None:
        """What the record says of its architecture counts from now on, unless more measurements do already."""
        architecture = self._store.genomes[record.genome_id].genome.architecture_id
        measures = _measured(record, self._names)
        complete = self._names and len(measures) == len(self._names) and _is_here(measures, self._device)
        if complete and record.times_measured >= self._times.get(architecture, 0):
            self._times[architecture] = record.times_measured
            self._of[architecture] = Outcome(measures=measures, provenance=record.provenance)

    def counts(self, name: str, measure: Measure) -> bool:
        """Whether it may be compared with what is measured here."""
        return name not in self._names or _is_here({name: measure}, self._device)

    def here(self, record: Record) -> Record | None:
        """The record with what is known of its architecture here: that of another genome may have been measured again,
        or its own on another device. None where nothing is, as it could not be measured here."""
        measures = _measured(record, self._names)
        # What has not all trained objectives was ruled out by these.
        if not (measures and all(n in record.measures for n in self._evaluator.trained_names)):
            return record
        known = self._of.get(self._store.genomes[record.genome_id].genome.architecture_id, Outcome())
        if all(n in known.measures for n in self._names):
            return record if known.measures == measures else _moved(record, known)
        return record if _is_here(measures, self._device) else None


def outcome_of(result: Outcome | Failure) -> Outcome | None:
    """What a call has come to; None where the deadline came first."""
    if not isinstance(result, Failure):
        return result
    return None if result.status == "deadline" else Outcome(result.status, reason=result.reason)


def bring_here(
    store: Store, executor: Executor, evaluator: Evaluator, device: str, timeout: float, deadline: float | None = None
) -> None:
    """Measure again what the run has measured on other devices alone, as times of two are never compared, and store it
    bit by bit. Raises EvonasError where the ``deadline`` comes first."""
    waiting = measured_elsewhere(store, evaluator.measured_names, device)
    if not waiting:
        return
    calls = [Call("measure", (store.genomes[rows[0].genome_id].genome,), a) for a, rows in waiting.items()]
    late = 0
    for architecture, found in executor.map_alone(calls, timeout=timeout, deadline=deadline):
        if isinstance(found, Failure) or found.status != "ok":
            late += isinstance(found, Failure) and found.status == "deadline"
            continue
        if moved_at(store) != store.done or store.header["reference"] is not None:
            # The hypervolume begins anew with the times of this device.
            store.set_header(reference=None, notes={**store.header["notes"], MOVED: store.done})
        for record in waiting[architecture]:
            store.append(store.genomes[record.genome_id].genome, _moved(record, found))
    if late:
        raise EvonasError(
            f"{late} of {len(calls)} architectures of run {store.name!r} could not be measured on this device in time",
            "The others are kept: the same command goes on, --budget gives it longer.",
            exit_code=EXIT_FAILED,
        )


def measured_elsewhere(store: Store, names: Collection[str], device: str) -> dict[str, list[Record]]:
    """Architecture id -> the last record of each of its genomes that succeeded and holds one of these measures of
    another device."""
    found: dict[str, list[Record]] = {}
    for genome_id, entry in store.genomes.items():
        record = store.record_of(genome_id)
        if record is not None and record.ok and not _is_here(_measured(record, names), device):
            found.setdefault(entry.genome.architecture_id, []).append(record)
    return found


def _is_here(measures: Mapping[str, Measure], device: str | None) -> bool:
    return device is None or all(m.device == device for m in measures.values())


def _measured(record: Record, names: Collection[str]) -> dict[str, Measure]:
    return {n: record.measures[n] for n in names if n in record.measures}


def _moved(record: Record, found: Outcome) -> Record:
    """The record with what was ``found`` of its architecture here."""
    provenance = besides_measurements({**record.provenance, **found.provenance})
    measures = {**record.measures, **found.measures}
    return replace(record, measures=measures, cost={}, provenance=provenance, reason=MEASURED_AGAIN)
