"""``population.h5`` as a whole: create, read, and replace by a longer one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
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
from .probe import check_readable, know
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
_PIECE = 2**24  # bytes written at once


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
    with h5py.File(data, "w", driver="core", backing_store=False) as file:
        write_header(file, header)
        create_tables(file)
        image = _image(file)
    _replace(data, image)
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
    # HDF5 works in memory: a disk that fails under it leaves half-closed files, and tracebacks nobody can catch.
    with h5py.File(data, "r+", driver="core", backing_store=False) as file:
        write_header(file, header)
        append_rows(file["genomes"], [genome_row(entry) for entry in entries])
        rows = [evaluation_row(evaluation) for evaluation in evaluations]
        append_rows(file["evaluations"], rows, evaluation_columns([e.record for e in evaluations]))
        append_rows(file["generations"], generations)
        append_rows(file["population"], members)
        image = _image(file)
    _replace(data, image)


def _image(file: h5py.File) -> bytes:
    file.flush()
    return file.id.get_file_image()


def _read_data(data: Path) -> State:
    try:
        with damage(data):
            check_readable(data)
            with h5py.File(data, "r", locking=False) as file:
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
    out = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    for name in ("failures", "rng", "best", "extra"):
        out[name] = json.loads(out[name])
    extra = out.pop("extra")
    if not isinstance(extra, dict):
        raise ValueError("a generation's extra is not a JSON object")
    if not _are_rungs(extra.get("rungs") or []) or not _are_expected(extra.get("expected") or []):
        raise ValueError("a generation's rungs are not of the layout")
    return {**out, **extra}


def _are_rungs(rungs: Any) -> bool:
    return isinstance(rungs, list) and all(type(genomes) is int for genomes in rungs)


def _are_expected(expected: Any) -> bool:
    numbers = ("rung", "of", "pairs")
    return isinstance(expected, list) and all(
        isinstance(e, dict)
        and all(type(e.get(key)) is int for key in numbers)
        and "error" in e
        and _are_errors(e["error"])
        for e in expected
    )


def _are_errors(errors: Any) -> bool:
    known = (int, float, type(None))
    return errors is None or (isinstance(errors, dict) and all(type(value) in known for value in errors.values()))


def _replace(path: Path, content: bytes) -> None:
    """Put a file of this content, fsynced, in the place of ``path``; raises OSError and leaves the old one."""
    fresh = path.with_name(path.name + ".tmp")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o644)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view[:_PIECE]) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(fresh, path)
        know(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
