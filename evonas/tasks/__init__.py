"""What is learned: data, batches, loss. Nothing here knows of genomes."""

from __future__ import annotations

import importlib
import os
import sys

import numpy as np

from ..errors import EvonasError, did_you_mean
from .base import Task
from .text import TextTask

TASKS = {"text": TextTask}
NOT_YET = ("images", "pairs")


def load_task(name: str, data: str | None, context: int) -> Task:
    """The task called ``name``, or a user's own ``package.module:Name``; raises EvonasError saying what is wrong."""
    if name in TASKS:
        return TASKS[name](data, context)
    if name in NOT_YET:
        raise EvonasError(
            f"task {name!r} is not built yet in this version", "Use --task text, or your own package.module:Name."
        )
    if ":" not in name:
        raise EvonasError(f"unknown task {name!r}", did_you_mean(name, TASKS) + " Your own: --task package.module:Name")
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not have the user's folder on its path
    try:
        kind = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # importing runs the user's own code, which may raise anything
        raise EvonasError(
            f"task {name!r} can't be loaded: {type(error).__name__}: {error}",
            "It takes package.module:Name, importable from here.",
        ) from error
    try:
        made = kind(data, context)
    except EvonasError:
        raise
    except (Exception, SystemExit) as error:
        raise EvonasError(
            f"task {name!r} can't be made: {type(error).__name__}: {error}",
            f"It is called as {attribute}(data, context); EVONAS_DEBUG=1 shows where it fails.",
        ) from error
    # Not by isinstance, which does not see what a class forwards to another object.
    missing = [m for m in ("name", "vocab_size", "context", "batch", "validation", "loss") if not hasattr(made, m)]
    if missing:
        raise EvonasError(f"task {name!r} lacks {', '.join(missing)}", "See evonas.tasks.base.Task for the contract.")
    if made.context != context:  # networks of one length would be measured, and others trained
        raise EvonasError(
            f"task {name!r} has a context of {made.context}, asked for {context}",
            f"It has to take the one that it is given; a new search may give --context {made.context}.",
        )
    _check_batch(made, name)
    return made


def _check_batch(task: Task, name: str) -> None:
    """Raises EvonasError where batches are not (B, T): that many tokens are counted, timed and said to be seen."""
    contract, expected = "See evonas.tasks.base.Task for the contract.", (1, task.context)
    try:
        shapes = [np.shape(part) for part in task.batch(np.random.default_rng(0), 1)]
    except EvonasError:
        raise
    except (Exception, SystemExit) as error:
        raise EvonasError(f"task {name!r}: its batch fails with {type(error).__name__}: {error}", contract) from error
    if shapes != [expected, expected]:
        raise EvonasError(
            f"task {name!r}: batch(rng, 1) gives {shapes}, expected inputs and targets of {expected}", contract
        )


def vocabulary(task: Task) -> bytes | None:
    """The byte that each token stands for; None for a task whose tokens are others, or that does not say."""
    found = getattr(task, "vocabulary", None)
    return found if isinstance(found, bytes) and len(found) == task.vocab_size else None


def fingerprint(task: Task) -> str | None:
    """What tells the task's data from other data; None for a task that does not say."""
    try:
        found = getattr(task, "fingerprint", None)
    except Exception as error:  # a user's own code
        raise EvonasError(
            f"task {task.name!r}: its fingerprint fails with {type(error).__name__}: {error}",
            "It is an optional text that tells its data from other data.",
        ) from error
    return None if found is None else str(found)


__all__ = ["TASKS", "Task", "TextTask", "fingerprint", "load_task"]
