"""Executors: where evaluations run. In this process, in worker processes, or on Ray, behind one contract.

See ``Executor`` for the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import EvonasError, did_you_mean
from .base import FAILURES, Call, Executor, Failure, WorkerTraceback, default_workers
from .processes import ProcessExecutor
from .ray import RayExecutor
from .serial import SerialExecutor

__all__ = [
    "EXECUTORS",
    "FAILURES",
    "Call",
    "Executor",
    "Failure",
    "ProcessExecutor",
    "RayExecutor",
    "SerialExecutor",
    "WorkerTraceback",
    "default_workers",
    "make_executor",
]

# "auto" is processes even for one worker: a candidate that crashes or hangs must not take the search with it.
EXECUTORS = {
    "auto": ProcessExecutor,
    "serial": SerialExecutor,
    "processes": ProcessExecutor,
    "ray": RayExecutor,
}


def make_executor(
    name: str, target: Any, workers: int | None = None, env: Mapping[str, str] | None = None, spare: bool = False
) -> Executor:
    """Start the executor of that name.

    Args:
        name: "auto" (processes), "serial", "processes" or "ray".
        target: the object whose methods are called; picklable. See ``Executor``.
        workers: how many calls run at once; None for one per CPU. "serial" always has one.
        env: environment variables of the workers, such as ``{"OMP_NUM_THREADS": "1"}``. They are set before a
            worker imports anything; "serial" runs in this process and leaves its environment alone.
        spare: one more worker, but for "serial", for what is done alone: calls of a ``stream`` then pause for it.

    Raises:
        EvonasError: an unknown name, a number of workers below 1, a target that cannot be pickled, or a
            backend that is not installed.
    """
    if name not in EXECUTORS:
        raise EvonasError(f"unknown executor {name!r}", did_you_mean(name, EXECUTORS))
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise EvonasError(f"{workers!r} workers: it takes a whole number from 1", "Leave it out for one per CPU.")
    kind = EXECUTORS[name]
    if kind is SerialExecutor:
        return SerialExecutor(target)
    if kind is RayExecutor:
        return RayExecutor(target, workers, env, spare=spare)
    return ProcessExecutor(target, workers or default_workers(), env, spare=spare)
