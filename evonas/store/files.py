"""``population.h5`` as a whole: create, read, and replace by a longer one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from ..errors import EXIT_FAILED, EvonasError
from .journal import read_journal, sync_folder
from .layout import (
    append_rows,
    checked_header,
    checked_row,
    create_tables,
    damage,
    read_header,
    read_table,
    rows_of,
    write_header,
)
from .rows import (
    Entries,
    Entry,
    Evaluation,
    as_value_error,
    check_id,
    evaluation_columns,
    evaluation_row,
    from_journal,
    genome_row,
    read_evaluations,
)

DATA, JOURNAL, LOCK = "population.h5", "journal.jsonl", "lock"


@dataclass
class State:
    """All that a run's files say.

    ``merged`` counts the evaluations and genomes that ``population.h5`` holds; ``pending`` are the generations that it
    lacks, each as its row and its members' rows. ``journal_bytes`` is where the good part of the journal ends.
    """

    header: dict[str, Any]
    genomes: Entries
    evaluations: list[Evaluation] = field(default_factory=list)
    generations: list[dict[str, Any]] = field(default_factory=list)
    populations: dict[int, list[str]] = field(default_factory=dict)
    merged: tuple[int, int] = (0, 0)
    pending: list[tuple[dict[str, Any], list[dict[str, Any]]]] = field(default_factory=list)
    journal_bytes: int = 0


def read_state(data: Path, journal: Path | None) -> State:
    """The journal and ``population.h5`` of a run, merged. Raises EvonasError for a damaged, foreign or newer file."""
    # The journal first: a commit in between then shows as rows in both, never as rows in neither.
    rows, good = read_journal(journal) if journal is not None else ([], 0)
    state = _read_data(data)
    state.journal_bytes = good
    with damage(journal or data), as_value_error():
        for row in rows:
            if "record" in row:
                _take_evaluation(row, state)
            elif "generation" in row:
                _take_generation(row, state)
            else:
                state.header.update(checked_header(dict(row["header"])))
    return state


def _take_evaluation(row: Mapping[str, Any], state: State) -> None:
    evaluation, entry = from_journal(row)
    if evaluation.sequence < len(state.evaluations):
        return  # merged before the journal was emptied
    if evaluation.sequence > len(state.evaluations):
        raise ValueError(f"evaluation {len(state.evaluations)} is missing")
    if entry is not None:
        state.genomes.read(evaluation.record.genome_id, entry)
    if evaluation.record.genome_id not in state.genomes:
        raise ValueError(f"the genes of {evaluation.record.genome_id} are missing")
    state.evaluations.append(evaluation)


def _take_generation(row: Mapping[str, Any], state: State) -> None:
    columns, members = checked_row("generations", row["generation"]), row["members"]
    number = columns["generation"]
    if state.generations and number <= state.generations[-1]["generation"]:
        return  # merged before
    members = [checked_row("population", member) for member in members]
    unknown = {member["genome_id"] for member in members} - set(state.genomes)
    if unknown:
        raise ValueError(f"the genes of {min(unknown)} are missing")
    state.pending.append((columns, members))
    state.generations.append(read_generation(columns))
    state.populations[number] = [check_id(member["genome_id"]) for member in members]


def create_data(data: Path, header: Mapping[str, Any]) -> None:
    """Write an empty ``population.h5``. Raises OSError, leaving nothing."""
    with _replacing(data) as fresh:
        with h5py.File(fresh, "w", locking=False) as file:
            write_header(file, header)
            create_tables(file)
    sync_folder(data.parent)


def extend_data(
    data: Path,
    header: Mapping[str, Any],
    entries: Sequence[Entry] = (),
    evaluations: Sequence[Evaluation] = (),
    generations: Sequence[Mapping[str, Any]] = (),
    members: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Replace ``population.h5`` by a copy with this header and these rows appended. Raises OSError and leaves the old
    file."""
    with _replacing(data) as fresh:
        shutil.copyfile(data, fresh)
        with h5py.File(fresh, "r+", locking=False) as file:
            write_header(file, header)
            append_rows(file["genomes"], [genome_row(entry) for entry in entries])
            rows = [evaluation_row(evaluation) for evaluation in evaluations]
            append_rows(file["evaluations"], rows, evaluation_columns([e.record for e in evaluations]))
            append_rows(file["generations"], generations)
            append_rows(file["population"], members)


def _read_data(data: Path) -> State:
    try:
        with damage(data), h5py.File(data, "r", locking=False) as file:
            state = State(read_header(file), Entries(data))
            with as_value_error():
                _read_tables(file, state)
    except FileNotFoundError:
        raise EvonasError(f"{data} does not exist", "Start a run with: evonas evolve", exit_code=EXIT_FAILED) from None
    state.merged = (len(state.evaluations), len(state.genomes))
    return state


def _read_tables(file: h5py.File, state: State) -> None:
    for row in rows_of(read_table(file, "genomes")):
        state.genomes.read(row["id"], row)
    state.evaluations = read_evaluations(read_table(file, "evaluations"))
    state.generations = [read_generation(row) for row in rows_of(read_table(file, "generations"))]
    members = read_table(file, "population")
    for generation, genome_id in zip(members["generation"], members["genome_id"]):
        state.populations.setdefault(generation, []).append(check_id(genome_id))
    if [e.sequence for e in state.evaluations] != list(range(len(state.evaluations))):
        raise ValueError("the sequence numbers of its evaluations have gaps")
    used = {e.record.genome_id for e in state.evaluations}.union(*state.populations.values())
    unknown = used - set(state.genomes)
    if unknown:
        raise ValueError(f"the genes of {min(unknown)} are missing")


def read_generation(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the generations table as the mapping that was committed; an unset number is None."""
    out = {k: None if isinstance(v, float) and v != v else v for k, v in row.items()}
    for name in ("failures", "rng", "best", "extra"):
        out[name] = json.loads(out[name])
    extra = out.pop("extra")
    if not isinstance(extra, dict):
        raise ValueError("a generation's extra is not a JSON object")
    return {**out, **extra}


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place, fsynced, when the block ends well."""
    fresh = path.with_name(path.name + ".tmp")
    try:
        yield fresh
        fd = os.open(fresh, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(fresh, path)
    except BaseException as error:
        fresh.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # what HDF5 makes of a full disk when it flushes
            raise OSError(str(error)) from error
        raise
