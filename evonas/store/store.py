"""The store: what a run has found so far, and the one way to add to it."""

from __future__ import annotations

import contextlib
import errno
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EXIT_FAILED, EXIT_USAGE, EvonasError
from ..genome import Genome
from ..record import Record
from .disk import close_all, collector_paused, disk_errors, now_text, refuse_existing, remove_made, versions_here
from .files import DATA, JOURNAL, LOCK, State, create_data, extend_data, read_generation, read_state
from .journal import MAX_LINE, Journal, encode_line, sync_folder
from .layout import HEADER, MAX_ROWS, TABLES, checked_header, clean_text, dumps, plain
from .lock import WriterLock, writer
from .rows import Entries, Entry, Evaluation, check_id, journal_row, storable
from .runs import find_run, name_for_commands

if TYPE_CHECKING:
    import networkx as nx

# A commit is a line in the journal. Once the journal holds MERGE_FROM evaluations and a MERGE_SHARE of those in
# population.h5, it is merged into that: the copy this takes comes to a constant per evaluation however long the run is.
MERGE_FROM, MERGE_SHARE = 64, 1 / 16
MERGE_ALWAYS = 256  # evaluations in all, below which every commit merges: plain h5py then sees every generation
SPENT = "spent_seconds"  # in ``notes``: what the run had taken when a sitting's search ended, however it did


class Store:
    """One run. Get one from ``Store.create`` or ``Store.open``; close it, or use it in a ``with`` block.

    A reader holds what was in the files when it was opened. A writer is the only one of its run, is used from one
    thread, and raises EvonasError where the disk does not do its part.
    """

    def __init__(self, path: Path, state: State, lock: WriterLock | None, journal: Journal | None) -> None:
        self._path = path
        self._state = state
        self._lock = lock
        self._journal = journal
        self._made: Sequence[Path] = ()  # folders that creating the run made
        self._header_changed = False
        self._by_genome: dict[str, list[Record]] = {}
        self._statuses: Counter[str] = Counter()
        self._revised = 0
        self._members = sum(map(len, state.populations.values()))  # of all generations
        for evaluation in state.evaluations:
            self._count(evaluation.record)
        finished = [e.finished for e in state.evaluations] + [g["seconds"] or 0.0 for g in state.generations]
        self._seconds_before = max([*finished, _spent(state.header["notes"])])
        self._opened_at = time.monotonic()

    @classmethod
    def create(cls, folder: Path | str, header: Mapping[str, Any]) -> Store:
        """A new run in ``folder``, opened for writing.

        ``header`` holds root attributes of the layout; ``created`` and ``versions`` are filled in where it names
        none. Raises EvonasError where the folder holds a run already or can't be written; then nothing is left.
        """
        folder = Path(folder)
        refuse_existing(folder)
        full = {**HEADER, "created": now_text(), "versions": versions_here(), **checked_header(header)}
        made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        lock = journal = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = WriterLock(folder / LOCK)
            refuse_existing(folder)  # again: another process may have been faster
            journal = Journal(folder / JOURNAL, 0)
            create_data(folder / DATA, full)
            for parent in made:
                sync_folder(parent.parent)
        except (OSError, EvonasError) as error:
            # A journal was opened only when there was no run: what lies here is ours.
            remove_made(folder, (DATA, JOURNAL, LOCK) if journal is not None else (), made)
            close_all(journal, lock)
            if isinstance(error, EvonasError):
                raise
            raise EvonasError(
                f"can't create run {folder.name!r} in {folder.parent}: {error.strerror or error}",
                "Check that the folder can be written and the disk has space.",
                exit_code=EXIT_FAILED if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else EXIT_USAGE,
            ) from error
        except BaseException:  # Ctrl-C
            close_all(journal, lock)
            raise
        store = cls(folder, State(full, Entries(folder / DATA)), lock, journal)
        store._made = made
        return store

    @classmethod
    def open(cls, run: Path | str, write: bool = False) -> Store:
        """The run in that folder, of that name in ``runs/``, or of that ``population.h5``.

        Raises EvonasError where there is none, it is damaged or of a newer schema, or (``write``) another
        process writes it.
        """
        with collector_paused():
            return cls._open(find_run(run), write)

    @classmethod
    def _open(cls, path: Path, write: bool) -> Store:
        if path.is_file():
            if write:
                raise EvonasError(f"{path} is not in a run's folder and can only be read")
            return cls(path, read_state(path, None), None, None)
        if not write:
            return cls(path, read_state(path / DATA, path / JOURNAL), None, None)
        lock = journal = None
        try:
            with disk_errors(
                f"can't open run {path.name!r} for writing", lambda: "Check that its folder can be written."
            ):
                lock = WriterLock(path / LOCK)
                state = read_state(path / DATA, path / JOURNAL)
                journal = Journal(path / JOURNAL, state.journal_bytes)
        except BaseException:
            close_all(journal, lock)
            raise
        return cls(path, state, lock, journal)

    def append(
        self, genome: Genome, record: Record, parents: Sequence[str] = (), operator: str = "", label: str = ""
    ) -> None:
        """Add a finished evaluation; it is on the disk when this returns.

        ``parents``, ``operator`` and ``label`` count at the genome's first evaluation. A reason is cut to 4,000
        characters. Raises EvonasError, with nothing added, where the disk fails.
        """
        journal = self._writer()
        assert genome.id == record.genome_id, f"record of {record.genome_id} given for {genome.id}"
        evaluation = Evaluation(len(self._state.evaluations), storable(record), self.seconds)
        entry = None
        if genome.id not in self._state.genomes:
            ancestors = tuple(check_id(p) for p in parents)
            entry = Entry(genome, ancestors, clean_text(operator), int(record.generation), clean_text(label))
        line = encode_line(journal_row(evaluation, entry))
        if len(line) > MAX_LINE:
            raise EvonasError(f"evaluation of {genome.id} takes {len(line)} bytes; at most {MAX_LINE} are stored")
        with disk_errors(f"can't store the evaluation of {genome.id}", self._kept):
            journal.append(line)
        if entry is not None:
            self._state.genomes.add(entry)
        self._state.evaluations.append(evaluation)
        self._count(evaluation.record)

    def _count(self, record: Record) -> None:
        self._by_genome.setdefault(record.genome_id, []).append(record)
        self._statuses[record.status] += 1
        self._revised += record.revised

    def commit(self, generation_row: Mapping[str, Any], population: Sequence[str]) -> None:
        """Add a finished generation; it is on the disk when this returns. Now and then, and at ``close``, all that the
        journal holds is merged into ``population.h5``.

        ``generation_row`` holds columns of the layout's ``generations`` (``generation`` at least) and whatever
        else the search wants back at resume; ``population`` the ids of the survivors, best first. Raises
        EvonasError where the disk fails: before the generation is on it nothing has changed and a second call may
        follow; after it the generation counts as committed.
        """
        journal, state = self._writer(), self._state
        number = int(generation_row["generation"])
        if state.generations and number <= state.generations[-1]["generation"]:
            raise EvonasError(f"generation {number} of run {self.name!r} is committed already")
        unknown = [i for i in population if i not in state.genomes]
        assert not unknown, f"population names genomes that were never appended: {unknown}"
        row = self._generation_columns(generation_row)
        ranks = self._ranks(population)
        members = [{"generation": number, "genome_id": i, "rank": r} for i, r in zip(population, ranks)]
        if self._members + len(members) > MAX_ROWS:
            raise EvonasError(
                f"run {self.name!r} has {MAX_ROWS:,} members in its generations, and no more could be read again",
                "It ends here. Another one with a smaller --population may --reuse what it has trained.",
                exit_code=EXIT_FAILED,
            )
        line = encode_line({"generation": plain(row), "members": members})
        waiting = len(state.evaluations) - state.merged[0]
        due = waiting >= max(MERGE_FROM, MERGE_SHARE * state.merged[0]) or len(state.evaluations) < MERGE_ALWAYS

        def committed() -> None:
            state.generations.append(read_generation(row))
            state.populations[number] = list(population)
            self._members += len(population)

        with disk_errors(f"can't commit generation {number}", self._kept):
            if due or len(line) > MAX_LINE:
                self._merge([*state.pending, (row, members)], committed)
            else:
                journal.append(line)
                state.pending.append((row, members))
                committed()

    def _merge(
        self,
        pending: Sequence[tuple[dict, list[dict]]],
        replaced: Callable[[], None] = lambda: None,
        header: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the journal, these generations and, where it changes, the header into ``population.h5``; ``replaced`` is
        called once that has been replaced. Raises OSError."""
        state = self._state
        header = dict(state.header if header is None else header)
        self._writer().check_place()  # another run may lie here by now
        extend_data(self._path / DATA, state, pending, header)
        state.merged, state.pending, state.header = (len(state.evaluations), len(state.genomes)), [], header
        self._header_changed = False
        replaced()
        sync_folder(self._path)
        self._writer().clear()

    def set_header(self, **changes: Any) -> None:
        """Change root attributes; they are on the disk when this returns. Raises EvonasError for an unknown one, and
        where the disk fails."""
        journal = self._writer()
        new = checked_header(changes)
        new = {name: value for name, value in new.items() if value != self._state.header[name]}
        if not new:
            return
        with disk_errors(f"can't change the settings of run {self.name!r}", self._kept):
            line = encode_line({"header": new})
            if len(line) > MAX_LINE:
                # Together with the journal: an older line of it must not come after this one.
                self._merge(self._state.pending, header={**self._state.header, **new})
            else:
                journal.append(line)
                self._state.header.update(new)
                self._header_changed = True

    def discard(self) -> None:
        """Close and remove a run in which nothing was evaluated; its folder too where nothing else lies in it."""
        self._writer()
        assert not self._state.evaluations, "a run with evaluations is never removed"
        remove_made(self._path, (DATA, JOURNAL, LOCK), self._made)
        self.close()

    def writer(self) -> dict[str, Any] | None:
        """Who writes the run now, as {"pid", "host", "start"}; None when nobody does."""
        return writer(self._path / LOCK)

    def close(self) -> None:
        """Let go of the run, its generations merged into ``population.h5`` as far as the disk allows. Evaluations of a
        generation that is not finished stay in the journal where nothing else waits there."""
        journal, lock = self._journal, self._lock
        try:
            newest = (e.record for e in self._state.evaluations[self._state.merged[0] :])
            if journal is not None and (self._state.pending or self._header_changed or any(r.revised for r in newest)):
                with contextlib.suppress(OSError):  # it is all in the journal
                    self._merge(self._state.pending)
        finally:
            self._journal = self._lock = None
            close_all(journal, lock)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        return self._path.stem if self._path.is_file() else self._path.resolve().name

    @property
    def reference(self) -> str:
        """What a command line takes to find this run; see ``name_for_commands``."""
        return name_for_commands(self._path)

    def _kept(self) -> str:
        if not self.records:  # a run that has just begun is not kept
            return "Nothing was evaluated yet: free some space, then give the same command again."
        return f"Every evaluation up to here is kept: free some space and go on with 'evonas resume {self.reference}'."

    @property
    def path(self) -> Path:
        """The run's folder; of a file that lies elsewhere, the file."""
        return self._path

    @property
    def folder(self) -> Path:
        return self._path.parent if self._path.is_file() else self._path

    @property
    def header(self) -> dict[str, Any]:
        """Root attributes, JSON decoded."""
        return dict(self._state.header)

    @property
    def seconds(self) -> float:
        """Seconds this run has taken so far, over all its resumes."""
        running = time.monotonic() - self._opened_at if self._journal is not None else 0.0
        return self._seconds_before + running

    @property
    def records(self) -> list[Record]:
        """Every evaluation, in the order they finished."""
        return [e.record for e in self._state.evaluations]

    @property
    def evaluated(self) -> int:
        """How many evaluations there were: records but those that revise another."""
        return len(self._state.evaluations) - self._revised

    @property
    def failures(self) -> dict[str, int]:
        """How many records have each status other than ok."""
        return {status: n for status, n in self._statuses.items() if status != "ok"}

    @property
    def finished(self) -> list[float]:
        """Seconds since the run began at which each of ``records`` finished."""
        return [e.finished for e in self._state.evaluations]

    @property
    def genomes(self) -> Mapping[str, Entry]:
        """Every genome that was evaluated, by id."""
        return self._state.genomes

    @property
    def generations(self) -> list[dict[str, Any]]:
        """What was committed of each generation; a number that was not finite is None."""
        return self._state.generations

    @property
    def done(self) -> int:
        """How many generations the run has done: those committed."""
        return self.generations[-1]["generation"] + 1 if self.generations else 0

    def population(self, generation: int = -1) -> list[str]:
        """Ids of the members of that generation (-1: the last one committed), best first; empty before the first
        commit. Raises EvonasError for a generation that was not committed."""
        if generation == -1:
            generation = self._state.generations[-1]["generation"] if self._state.generations else -1
        elif generation not in {g["generation"] for g in self._state.generations}:
            last = self._state.generations[-1]["generation"] if self._state.generations else "none"
            raise EvonasError(f"run {self.name!r} has no generation {generation}; the last one is {last}")
        return list(self._state.populations.get(generation, []))

    def records_of(self, genome_id: str) -> list[Record]:
        return list(self._by_genome.get(genome_id, []))

    def record_of(self, genome_id: str) -> Record | None:
        """The last record of that genome with status ok, else its last one, else None."""
        records = self._by_genome.get(genome_id, [])
        return next((r for r in reversed(records) if r.ok), records[-1] if records else None)

    def front_ids(self) -> list[str]:
        """Ids of the non-dominated members of the last population (of all genomes before the first commit)."""
        members = self.population() or list(self._state.genomes)
        return [i for i, rank in zip(members, self._ranks(members)) if rank == 0]

    def lineage(self) -> nx.DiGraph:
        """Edges from parent to child. Node attributes: operator, generation, status (of ``record_of``)."""
        import networkx as nx

        graph = nx.DiGraph()
        for genome_id, entry in self._state.genomes.items():
            record = self.record_of(genome_id)
            status = record.status if record else ""
            graph.add_node(genome_id, operator=entry.operator, generation=entry.generation, status=status)
        for genome_id, entry in self._state.genomes.items():
            for parent in entry.parents:
                if parent not in graph:
                    graph.add_node(parent, operator="", generation=-1, status="")
                graph.add_edge(parent, genome_id)
        return graph

    def _writer(self) -> Journal:
        if self._journal is None:
            raise EvonasError(f"run {self.name!r} is open for reading only", exit_code=EXIT_FAILED)
        return self._journal

    def _generation_columns(self, row: Mapping[str, Any]) -> dict[str, Any]:
        columns = TABLES["generations"]
        hypervolume = row.get("hypervolume")
        return {
            "generation": int(row["generation"]),
            "evaluations": int(row.get("evaluations", len(self._state.evaluations))),
            "front_size": int(row.get("front_size", 0)),
            "hypervolume": math.nan if hypervolume is None else float(hypervolume),
            "seconds": float(row.get("seconds", self.seconds)),
            "failures": dumps(row.get("failures", {})),
            "rng": dumps(row.get("rng")),
            "best": dumps(row.get("best")),
            "extra": dumps({k: v for k, v in row.items() if k not in columns}),
        }

    def _ranks(self, population: Sequence[str]) -> list[int]:
        """Pareto rank of each member by its last ok record, among those of the same fidelity; -1 where an objective is
        missing."""
        objectives = self._state.header["objectives"]
        groups: dict[tuple, dict[int, list[float]]] = {}
        for k, genome_id in enumerate(population):
            record = self.record_of(genome_id)
            values = [record.value(o["name"]) for o in objectives] if record and record.ok else [None]
            if objectives and None not in values:
                fidelity = tuple(record.measures[o["name"]].fidelity for o in objectives)
                row = [-v if o.get("direction") == "max" else v for v, o in zip(values, objectives)]
                groups.setdefault(fidelity, {})[k] = row
        ranks = [-1] * len(population)
        for points in groups.values():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import moocore
            for k, rank in zip(points, moocore.pareto_rank(list(points.values()))):
                ranks[k] = int(rank)
        return ranks


def _spent(notes: Mapping[str, Any]) -> float:
    found = notes.get(SPENT)
    return float(found) if type(found) in (int, float) and 0 <= found < 1e15 else 0.0
