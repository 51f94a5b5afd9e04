"""Which runs there are, and genomes by reference: ``RUN:ID``."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..errors import EvonasError, did_you_mean
from ..genome import Genome
from .files import DATA, JOURNAL

SHOWN = 12  # ids an error lists


def runs_folder() -> Path:
    """Where runs live: ``runs`` in the working folder."""
    return Path("runs")


def newest_run() -> Path:
    """The folder of the run written to last; raises EvonasError where there is none."""
    runs = _runs()
    if not runs:
        raise EvonasError(f"there is no run in {_where()}", "Start one with: evonas evolve")
    return max(runs, key=_written)


def find_run(name_or_path: str | Path | None = None) -> Path:
    """The folder of a run given by name, folder or ``population.h5``; the newest run for None.

    Any other HDF5 file is returned as it is. Raises EvonasError naming the nearest run where there is none.
    """
    if name_or_path is None or str(name_or_path) == "":
        return newest_run()
    given = Path(name_or_path)
    named = runs_folder() / given
    for path in (named, given):
        if (path / DATA).is_file():
            return path
    if given.is_file():
        return given.parent if given.name == DATA else given
    names = [path.name for path in _runs()]
    what = "holds no run" if given.is_dir() or named.is_dir() else "names no run"
    hint = (
        did_you_mean(str(name_or_path), names)
        if names
        else "Give its path, or go where it was begun. To start one: evonas evolve --run NAME"
    )
    raise EvonasError(f"{str(name_or_path)!r} {what} in {_where()} nor a run's folder", hint)


def name_for_commands(folder: Path) -> str:
    """What a command line takes to find the run in that folder: its name where that leads there, else its path."""
    try:
        folder = folder.resolve()
        named = (runs_folder() / folder.name).resolve() == folder
    except OSError:  # the working folder is gone
        named = False
    return shlex.quote(folder.name if named else str(folder))


def load_genome_ref(reference: str) -> tuple[Genome, str]:
    """The genome that ``RUN:ID`` names, and ``RUN:ID`` in full as its label.

    RUN is whatever ``find_run`` takes (nothing: the newest run), ID a seed genome's label, an id, or its unique
    beginning. Raises EvonasError listing the ids on the front where ID is none of these.
    """
    from .store import Store

    run, colon, wanted = str(reference).rpartition(":")
    if not colon or not wanted:
        raise EvonasError(f"{reference!r} is not of the form RUN:ID", "'evonas report RUN' lists the ids of its front.")
    store = Store.open(find_run(run or None))
    matches = [i for i, entry in store.genomes.items() if entry.label == wanted]
    matches = matches or [i for i in store.genomes if i.startswith(wanted.lower())]
    if len(matches) == 1:
        return store.genomes[matches[0]].genome, f"{store.name}:{matches[0]}"
    if matches:
        raise EvonasError(f"{wanted!r} is the beginning of {len(matches)} ids of run {store.name!r}", _listed(matches))
    front = store.front_ids()
    hint = f"On its front: {_listed(front)}" if front else "It has no finished generation yet."
    raise EvonasError(f"run {store.name!r} has no genome {wanted!r}", hint)


def _where() -> str:
    try:
        return f"{runs_folder()}/ of {Path.cwd()}"
    except OSError:  # the working folder is gone
        return f"{runs_folder()}/"


def _runs() -> list[Path]:
    try:
        return sorted(path for path in runs_folder().iterdir() if (path / DATA).is_file())
    except OSError:
        return []


def _written(run: Path) -> float:
    times = [path.stat().st_mtime_ns for path in (run / DATA, run / JOURNAL) if path.exists()]
    return max(times, default=0)


def _listed(ids: list[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
