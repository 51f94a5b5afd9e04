"""Which records of a run its engine was told, and at which rung."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from typing import Any

from ..record import Outcome, Record, besides_measurements
from .store import Store

Place = tuple[int, str]  # index in its generation, genome id


def told_records(store: Store) -> Iterator[tuple[int, bool, Record]]:
    """(rung, whether the engine was told, record) in order of generation and index; of what was done again at one place
    the last.

    A genome comes once in a generation, and once per rung. Not told are those of one that was begun, interrupted, and
    then finished with other candidates: with another goal or budget, others go on. Of a generation that is not finished
    the last record of each place counts as told.
    """
    asked = {row["generation"]: _asked(row) for row in store.generations}
    places = {(r.generation, r.index, r.genome_id): r for r in store.records}
    guessed = _guessed(store.records)
    reached: Counter[str] = Counter()
    for generation, group in groupby(sorted(places.items()), key=lambda entry: entry[0][0]):
        told = asked.get(generation)
        told = guessed.get(generation, ()) if told is None else told
        records = [record for _, record in group]
        for record in records:
            yield reached[record.genome_id], (record.index, record.genome_id) in told, record
        reached.update(r.genome_id for r in records if (r.index, r.genome_id) in told)


def trained_outcome(record: Record, names: Collection[str]) -> Outcome | None:
    """What its training gave, without what it cost, where doing it again would give the same: all measures of these
    ``names``, or a divergence."""
    if not names:
        return None
    about = besides_measurements(record.provenance)
    if all(name in record.measures for name in names):
        return Outcome(measures={name: record.measures[name] for name in names}, provenance=about)
    if record.status == "non_finite":
        return Outcome("non_finite", reason=record.reason, provenance=about)
    return None


def _asked(row: Mapping[str, Any]) -> frozenset[Place] | None:
    """The candidates of a finished generation; None where it does not say: in runs from before it did."""
    pairs = row.get("asked")
    if not isinstance(pairs, list):
        return None
    pairs = [tuple(pair) for pair in pairs if isinstance(pair, list) and len(pair) == 2]
    return frozenset(pair for pair in pairs if type(pair[0]) is int and isinstance(pair[1], str))


def _guessed(records: Collection[Record]) -> dict[int, set[Place]]:
    """By generation, the last record of each index and genome."""
    genome_at = {(r.generation, r.index): r.genome_id for r in records}
    index_of = {(r.generation, r.genome_id): r.index for r in records}
    out: dict[int, set[Place]] = {}
    for (generation, index), genome in genome_at.items():
        if index_of[generation, genome] == index:
            out.setdefault(generation, set()).add((index, genome))
    return out
