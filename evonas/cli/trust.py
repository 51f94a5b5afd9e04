"""Whether to run the code that a run's file names."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import EvonasError


def check_task_of_run(name: Any, folder: Path) -> None:
    """A run on a task of one's own names what to import and call, and going on with the run does so: that is to be the
    user's own code, not what a run that was received brings or whatever is installed.

    Raises EvonasError where the module lies in ``folder`` or among the runs (nothing of it is imported), and where it
    lies outside the working folder and is no class with the methods of a task.
    """
    from ..store import runs_folder

    if not isinstance(name, str):
        raise EvonasError("the run does not say which task it is of")
    module, colon, attribute = name.partition(":")
    if not colon:
        return
    runs, here = [folder.resolve(), runs_folder().resolve()], Path.cwd().resolve()
    places = list(_places(module))
    if any(inside == path or inside in path.parents for path in places for inside in runs):
        raise EvonasError(
            f"the run is of task {name!r}, whose code lies among the runs: it is not run",
            "If you have read and trust it, move it out of there, or give it as --task to a run of your own.",
        )
    if not any(here in path.parents for path in places) and not _is_task(module, attribute):
        raise EvonasError(
            f"the run is of task {name!r}, which is neither in this folder nor a class with the methods of a task",
            "Change to the folder of the task, or give it as --task to a run of your own.",
        )


def _is_task(module: str, attribute: str) -> bool:
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit):  # whoever loads the task says so
        return True
    return isinstance(kind, type) and all(callable(getattr(kind, m, None)) for m in ("batch", "validation", "loss"))


def _places(module: str) -> Iterator[Path]:
    """Where the module, or a package on the way to it, lies, wherever Python would look."""
    parts = module.split(".")
    for root in {os.getcwd(), *sys.path}:
        for k in range(1, len(parts) + 1):
            path = Path(root or ".", *parts[:k])
            try:
                found = [path, *path.parent.glob(f"{path.name}.*")]
                yield from (p.resolve() for p in found if p.exists())
            except (OSError, ValueError, NotImplementedError):  # no such folder, or no name of a file
                continue
