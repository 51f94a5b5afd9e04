"""What a user may give where a genome is asked for: a shipped name, a file, a Hugging Face config, or RUN:ID."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import EvonasError

if TYPE_CHECKING:
    from ..genome import Genome


@dataclass(frozen=True)
class Reference:
    """A genome and where it came from. ``tokens`` is the length of the trainings that its learning rate is meant for,
    None where that is not known or plays no part. ``settings`` and ``data`` (what its data was) are those of its run,
    empty for a file; ``vocabulary`` is its run's or its config's."""

    genome: Genome
    name: str
    context: int | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    vocabulary: int | None = None
    folder: Path | None = None  # of its run
    tokens: int | None = None

    @property
    def file_name(self) -> str:
        """Its name as a part of a file's: what a genome file is called leads to no other folder."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.") or "genome"

    def check_buildable(self) -> None:
        """Raise EvonasError where the genome is no network that evonas builds."""
        from ..genome import check_transformer

        if problems := check_transformer(self.genome):
            raise EvonasError(
                f"{self.name} is no network that can be built: {'; '.join(problems[:3])}",
                "'evonas genome show' prints what it holds.",
            )

    def task_and_data(self) -> tuple[str, str | None]:
        """Task and data of the run, "text" and None for a file. Raises EvonasError for a task that lies among the runs:
        to use it runs its code."""
        from .trust import check_task_of_run

        if self.folder is None:
            return "text", None
        name, data = self.settings.get("task", "text"), self.settings.get("data")
        check_task_of_run(name, self.folder)
        return name, data if isinstance(data, str) else None

    def meant_for(self, tokens: int) -> int | None:
        """The length of trainings to rescale its learning rate to for one of ``tokens``; None where it stays. No less
        than its run's first rung, or a sixteenth of what a file says: below nothing tells how high Muon's rate may
        rise."""
        from ..config import GROWTH, MAX_RUNGS

        if self.tokens is None:
            return None
        rungs = self.settings.get("rungs", 3)
        rungs = rungs if type(rungs) is int and 2 <= rungs <= MAX_RUNGS else 2
        return max(tokens, self.tokens // GROWTH ** (rungs - 1))

    def genome_for(self, tokens: int, hint: str) -> Genome:
        """The genome with the learning rate it has in trainings of ``tokens``, which is told, with the ``hint``, where
        it differs."""
        from ..fitness.schedule import rate_share

        length = self.meant_for(tokens)
        if length is None:
            return self.genome
        rate = self.genome.learning_rate
        taken = self.genome.replace(learning_rate=rate * rate_share(self.genome.optimizer, length, self.tokens))
        if taken != self.genome:
            click.echo(
                f"Note ({self.name}): learning rate {taken.learning_rate:.3g} in place of {rate:.3g}, which was found "
                f"for trainings of {self.tokens:,} tokens: rescaled to {length:,} ({hint})",
                err=True,
            )
        return taken


def read_reference(text: str) -> Reference:
    """Read a genome reference; raises EvonasError naming what is allowed. Texts of a file come back fit to print."""
    from ..report.short import clean

    found = _read(text)
    notes = tuple(map(clean, found.notes))
    return replace(found, name=clean(found.name), source=clean(found.source), notes=notes)


def read_and_tell(text: str) -> Reference:
    """``read_reference``, with its notes (what the genome can't say about that model) on stderr."""
    found = read_reference(text)
    for note in found.notes:
        click.echo(f"Note ({found.name}): {note}", err=True)
    return found


def _read(text: str) -> Reference:
    from ..convert import read_config
    from ..genome import read_genome
    from ..genome.io import exists, read_json, shipped_file

    path = Path(text)
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise EvonasError(
                f"{text} is a folder without a config.json", "Give a genome file, a config.json or RUN:ID."
            )
    if path.is_file():
        data = read_json(path, "a genome")
        if isinstance(data, dict) and not {"genes", "schema"} & data.keys():
            found = read_config(path)
            about = found.name, found.context, str(path), tuple(found.notes)
            return Reference(found.genome, *about, vocabulary=found.vocabulary)
        return _from_file(read_genome(path), path.stem)
    run, colon, _ = text.rpartition(":")
    if colon and run:
        return _from_run(text, run)
    if shipped_file(text, ".json") is None:
        from ..store import runs_folder
        from ..store.files import DATA

        if exists(runs_folder() / path / DATA):
            raise EvonasError(
                f"{text!r} is a run, not a genome", f"Name one of it, {text}:ID; 'evonas report {text}' lists them."
            )
    return _from_file(read_genome(text), text)


def _from_file(found, fallback: str) -> Reference:
    about = found.name or fallback, found.context, found.source, found.notes
    return Reference(found.genome, *about, tokens=_meant(found.genome, found.tokens))


def _meant(genome: Genome, tokens: Any) -> int | None:
    """The length of training that its rate is meant for, where that says something of others (see ``rate_share``)."""
    known = type(tokens) is int and tokens >= 1
    return tokens if known and genome.get("optimizer") == "muon" else None


def _from_run(text: str, run: str) -> Reference:
    from ..config import MAX_CONTEXT
    from ..store import Store, find_run, load_genome_ref

    genome, label = load_genome_ref(text)
    store = Store.open(find_run(run))
    header = store.header
    settings, notes = header["settings"], header["notes"]
    size, context = notes.get("vocab_size"), settings.get("context")
    return Reference(
        genome,
        label,
        context if isinstance(context, int) and 1 <= context <= MAX_CONTEXT else None,
        f"run {run}",
        settings=settings,
        data=str(notes.get("data", "")),
        folder=store.folder,
        vocabulary=size if isinstance(size, int) and 2 <= size <= 2**31 else None,
        tokens=_meant(genome, settings.get("tokens")) if settings.get("scaled_rates") is True else None,
    )
