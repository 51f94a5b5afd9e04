"""After the search: what was measured of near-ties on the front is measured again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from ..evolution import Individual
from ..evolution.selection import minimised, non_dominated
from ..evolution.ties import tied_records
from ..executors import Call, Executor, Failure
from ..genome import Genome
from ..record import Measure, Objective, Record
from ..store import Store, note_revised
from .timings import COMMON, Timings

ROUNDS = 5
_COMPARED = 12  # of all architectures, that are measured beside: what a round has in common shows in them


@dataclass(frozen=True)
class Settled:
    """Pairs of architectures, one at least on the front, that could not be told apart, before and after they were
    measured ``again`` so many times in all (without those that only tell how fast the machine is)."""

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
    tell: Callable[[int, int], None] = lambda turn, architectures: None,
    clock: Callable[[], float] = time.monotonic,
) -> Settled:
    """Measure near-ties (see ``near_ties``) among ``individuals`` again, until they are told apart or ``ROUNDS`` are
    over, and store what is known then (see ``Timings``) in records that take the place of the ones before.

    The first round takes all of the front and the seed genomes, so that what a report compares is timed in one state of
    the machine, the next ones those in ties. Each takes some of all architectures of the run, evenly by their times, to
    tell what state that is. ``tell`` hears of each as a ``Listener`` does; ``deadline`` is a moment of ``clock``.
    """
    rows = [(i.genome, record) for i in individuals if (record := store.record_of(i.genome.id)) is not None]
    if not measured_names or not rows:
        return Settled(0, 0, 0)
    names, directions = [o.name for o in objectives], [o.direction for o in objectives]
    genomes, records = (list(side) for side in zip(*rows))
    pairs = before = tied_records(records, names, directions, measured_names)
    if not pairs:
        return Settled(0, 0, 0)
    beside = _evenly(store, records, measured_names)
    timings = Timings([(g.architecture_id, r) for g, r in (*beside, *rows)], measured_names)
    unchosen, own = ({g.architecture_id for g in side} for side in ((g for g, _ in beside), genomes))
    seeds = {seed["id"] for seed in store.header["seed_genomes"]}
    compared = [g for g in genomes if g.id in seeds] + [genomes[k] for k in _front(records, names, directions)]
    again = 0
    for turn in range(ROUNDS):
        if not pairs or (deadline is not None and clock() >= deadline):
            break
        tied = [genomes[k] for pair in pairs for k in pair]
        # Whatever the deadline leaves, there is some of both.
        order = [g for both in zip_longest(tied, (g for g, _ in beside)) for g in both if g is not None]
        order += compared if turn == 0 else []
        wanted = {g.architecture_id: g for g in order}
        tell(turn, len(wanted))
        good, late = _measured(executor, wanted, timeout, deadline)
        if late and len(good.keys() & unchosen) < min(COMMON, len(beside)):
            break  # before it told how fast the machine is
        again += len(good.keys() & own)
        timings.add(good, good.keys() - unchosen)
        weighed = [timings.weighed(genome.architecture_id, record) for genome, record in rows]
        pairs = tied_records(weighed, names, directions, measured_names)
    revised = [(g, r) for g, old in rows if (r := timings.revised(g.architecture_id, old)) is not old]
    if revised:
        note_revised(store)
    for genome, record in revised:
        store.append(genome, record)
    return Settled(_measured_apart(before, genomes), _measured_apart(pairs, genomes), again)


def _measured(
    executor: Executor, wanted: Mapping[str, Genome], timeout: float | None, deadline: float | None
) -> tuple[dict[str, Mapping[str, Measure]], bool]:
    """Architecture id -> what was measured of it, and whether the deadline came before all of them. What failed is left
    out: what is stored of it still holds."""
    calls = [Call("measure", (genome,), architecture) for architecture, genome in wanted.items()]
    found = dict(executor.map_alone(calls, timeout=timeout, deadline=deadline))
    good = {a: o.measures for a, o in found.items() if not isinstance(o, Failure) and o.status == "ok"}
    return good, any(isinstance(o, Failure) and o.status == "deadline" for o in found.values())


def _measured_apart(pairs: Sequence[tuple[int, int]], genomes: Sequence[Genome]) -> int:
    """How many pairs of architectures, of which each is measured once for all its genomes."""
    return len({frozenset(genomes[k].architecture_id for k in pair) for pair in pairs})


def _front(records: Sequence[Record], names: Sequence[str], directions: Sequence[str]) -> list[int]:
    """Places of the non-dominated ones."""
    values = minimised(np.array([[r.measures[n].value for n in names] for r in records]), directions)
    return np.flatnonzero(non_dominated(values)).tolist()


def _evenly(store: Store, rows: Sequence[Record], names: Sequence[str]) -> list[tuple[Genome, Record]]:
    """Some of the architectures that were measured where the first of ``rows`` was, evenly by the first objective in
    ``names``; those too that broke a constraint, maybe of times."""

    def where(record: Record | None) -> list[str] | None:
        known = record is not None and record.status in ("ok", "infeasible")
        return [record.measures[n].device for n in names] if known and record.measures.keys() >= set(names) else None

    here = next((devices for record in rows if (devices := where(record))), None)
    found: dict[str, tuple[Genome, Record]] = {}
    for genome_id, entry in store.genomes.items():
        record = store.record_of(genome_id)
        if here is not None and where(record) == here:
            found[entry.genome.architecture_id] = entry.genome, record
    ordered = sorted(found.values(), key=lambda pair: pair[1].measures[names[0]].value)
    places = np.linspace(0, len(ordered) - 1, min(_COMPARED, len(ordered))).astype(int)
    return [ordered[k] for k in places]
