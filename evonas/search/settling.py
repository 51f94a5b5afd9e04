"""After the search: what was measured of near-ties on the front is measured again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..evolution import Individual
from ..evolution.ties import pooled, tied_records
from ..executors import Call, Executor, Failure
from ..record import MEASURED_AGAIN, Measure, Objective, Record
from ..store import Store

ROUNDS = 5


@dataclass(frozen=True)
class Settled:
    """Pairs of genomes on the front that could not be told apart, before and after their architectures were measured
    ``again`` so many times in all."""

    before: int
    after: int
    again: int


def settle(
    store: Store,
    executor: Executor,
    objectives: Sequence[Objective],
    measured_names: Sequence[str],
    individuals: Sequence[Individual],
    deadline: float | None = None,
    timeout: float | None = None,
) -> Settled:
    """Measure near-ties (see ``near_ties``) among ``individuals`` again, until they are told apart or ``ROUNDS`` are
    over, and store the means in records that take the place of the ones before."""
    rows = [(i.genome, record) for i in individuals if (record := store.record_of(i.genome.id)) is not None]
    if not measured_names or not rows:
        return Settled(0, 0, 0)
    names, directions = [o.name for o in objectives], [o.direction for o in objectives]
    genomes, records = [g for g, _ in rows], [r for _, r in rows]
    pairs = before = tied_records(records, names, directions, measured_names)
    changed: set[int] = set()
    again = 0
    for _ in range(ROUNDS):
        if not pairs or (deadline is not None and time.monotonic() >= deadline):
            break
        tied = {genomes[k].architecture_id: genomes[k] for pair in pairs for k in pair}
        calls = [Call("measure", (genome,), architecture) for architecture, genome in tied.items()]
        for architecture, found in executor.map_alone(calls, timeout=timeout, deadline=deadline):
            if isinstance(found, Failure) or found.status != "ok":
                continue  # what is stored still holds
            again += 1
            for k in (k for k, genome in enumerate(genomes) if genome.architecture_id == architecture):
                records[k] = _revised(records[k], found.measures)
                changed.add(k)
        pairs = tied_records(records, names, directions, measured_names)
    for k in sorted(changed):
        store.append(genomes[k], records[k])
    return Settled(len(before), len(pairs), again)


def _revised(record: Record, measures: dict[str, Measure]) -> Record:
    times = record.times_measured
    new = dict(record.measures)
    for name, again in measures.items():
        old = new[name]
        value, spread = pooled(old.value, old.spread, times, again.value, again.spread)
        new[name] = replace(old, value=value, spread=spread)
    provenance = {**record.provenance, "times_measured": times + 1}
    return replace(record, measures=new, cost={}, provenance=provenance, reason=MEASURED_AGAIN)
