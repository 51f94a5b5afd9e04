"""``population.h5`` as a whole: create, read, and replace by a longer one."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from ..errors import EXIT_FAILED, EvonasError
from ..plain_files import open_plain
from .journal import JournalReader, sync_folder
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
    if journal is None:
        return _read_data(data)
    with JournalReader(journal) as rows:
        state = _read_data(data)
        for row in rows:  # one by one: what evonas does not ask for is not kept
            with damage(journal), as_value_error():
                _take(row, state)
        state.journal_bytes = rows.good
    return state


def _take(row: Mapping[str, Any], state: State) -> None:
    if "record" in row:
        _take_evaluation(row, state)
    elif "generation" in row:
        _take_generation(row, state)
    else:
        state.header.update(checked_header(dict(row["header"])))


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


Pending = Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]


def extend_data(data: Path, state: State, pending: Pending, header: Mapping[str, Any]) -> None:
    """Replace ``population.h5`` by a copy with this header and all of ``state`` and ``pending`` that it lacks. It says
    itself what it has: an interrupt may have come between an earlier call and what was to be noted of that in
    ``state``. Raises OSError and leaves the old file."""
    # HDF5 works in memory: a disk that fails under it leaves half-closed files, and tracebacks nobody can catch. It
    # need not lock what it only reads, which anybody may have open: the lock of the run is another file.
    with h5py.File(data, "r+", driver="core", backing_store=False, locking=False) as file:
        evaluations, genomes = len(file["evaluations/sequence"]), len(file["genomes/id"])
        numbers = file["generations/generation"]
        last = int(numbers[-1]) if len(numbers) else -1
        if evaluations < state.merged[0] or genomes < state.merged[1]:
            raise OSError(errno.ESTALE, "population.h5 was replaced by another file")
        write_header(file, header)
        append_rows(file["genomes"], [genome_row(entry) for entry in state.genomes.since(genomes)])
        fresh = state.evaluations[evaluations:]
        columns = evaluation_columns([e.record for e in fresh])
        append_rows(file["evaluations"], [evaluation_row(evaluation) for evaluation in fresh], columns)
        lacking = [(row, members) for row, members in pending if row["generation"] > last]
        append_rows(file["generations"], [row for row, _ in lacking])
        append_rows(file["population"], [member for _, members in lacking for member in members])
        image = _image(file)
    _replace(data, image)


def _image(file: h5py.File) -> bytes:
    file.flush()
    return file.id.get_file_image()


def _read_data(data: Path) -> State:
    try:
        with damage(data):
            open_plain(data).close()
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
    return {**extra, **out}


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
    return errors is None or (isinstance(errors, dict) and all(map(_is_error, errors.values())))


def _is_error(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))


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
        with suppress(OSError):  # only to spare the next reader a first look
            know(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
