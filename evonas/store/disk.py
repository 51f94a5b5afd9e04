"""What a store asks of the machine below it: its disk's errors in words, its folder, its collector, its versions."""

from __future__ import annotations

import contextlib
import datetime
import errno
import gc
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .. import __version__
from ..errors import EXIT_FAILED, EvonasError
from .files import DATA, JOURNAL
from .journal import Journal
from .lock import WriterLock
from .runs import name_for_commands


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Hundreds of thousands of objects that all stay: looking through them for garbage again and again would take half
    of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def close_all(*held: Journal | WriterLock | None) -> None:
    with contextlib.ExitStack() as stack:  # all of them, whatever one raises
        for one in held:
            if one is not None:
                stack.callback(one.close)


@contextlib.contextmanager
def disk_errors(what: str, cure: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = (
            "The run's folder was moved, removed or written by someone else meanwhile; resume it where it is now."
            if error.errno in (errno.ENOENT, errno.ESTALE)
            else cure()
        )
        raise EvonasError(f"{what}: {error.strerror or error}", hint, exit_code=EXIT_FAILED) from error


def refuse_existing(folder: Path) -> None:
    journal = folder / JOURNAL
    try:
        if (folder / DATA).exists() or (journal.exists() and journal.stat().st_size):
            raise EvonasError(
                f"run {folder.name!r} exists in {folder.parent}",
                f"Choose another name with --run NAME, or go on with 'evonas resume {name_for_commands(folder)}'.",
            )
    except OSError:
        return  # not a folder, or not ours to look into: creating the run will say so


def remove_made(folder: Path, names: Sequence[str], made: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):
        for name in names:
            (folder / name).unlink(missing_ok=True)
        for parent in made:
            parent.rmdir()  # raises, and stops here, where someone else put something


def now_text() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def versions_here() -> dict[str, str]:
    out = {"evonas": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "deap", "moocore", "scipy", "h5py"):
        try:
            out[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out
