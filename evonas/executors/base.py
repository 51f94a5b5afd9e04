"""The contract every executor keeps: calls in, results or failures out."""

from __future__ import annotations

import math
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EvonasError

Timeout = float | Callable[[], float] | None
More = Callable[[], "Call | None"]

# Why a call has no result; the names of `record.STATUSES`, and "deadline".
FAILURES = {
    "error": "the target raised an exception",
    "out_of_memory": "the device or the host ran out of memory, also when nothing else was running",
    "timeout": "took longer than allowed",
    "crash": "the worker process died, or could not use its device any more, twice",
    "deadline": "stopped, or never started, because the time for the whole run was over",
}

# A first attempt that crashed or ran out of memory is repeated once.
MAX_ATTEMPTS = 2


@dataclass(frozen=True)
class Call:
    """``getattr(target, method)(*args)``; ``key`` comes back with the result and never leaves the parent."""

    method: str
    args: tuple = ()
    key: Any = None


@dataclass(frozen=True)
class Failure:
    """Stands where a result would be.

    ``status`` is a key of FAILURES. ``reason`` is for a person: its first line says what happened, the last
    lines of a traceback follow where there is one. ``attempts`` counts how often the call was started; it is
    0 for a call that the deadline kept from starting.
    """

    status: str
    reason: str
    attempts: int = 1

    def __post_init__(self) -> None:
        assert self.status in FAILURES, self.status


class WorkerTraceback(Exception):
    """The cause of an EvonasError that a worker raised: its traceback there, as text."""


class Executor(ABC):
    """Runs the methods of one object, the target, in one or more workers.

    Ownership
        The target belongs to the caller. Every worker gets its own copy, once, through pickle; what a call
        changes in that copy stays in that worker, and the caller's object never changes. Arguments and results
        cross by pickle too, on every backend. A target must therefore not count on what an earlier call left
        behind (a cache is fine), and draws its random numbers from seeds in the arguments: then a result
        depends neither on the backend, nor on the number of workers, nor on the order of finishing.
        A worker process calls the target's ``prepare()``, where it has one, before it takes calls: for imports and
        the like, which then delay and disturb no call. An exception of it is ignored.
        The executor owns its workers; ``close`` (or leaving the ``with`` block) ends them all. It also happens
        when the executor is garbage-collected, when the interpreter exits, and when the parent is killed.

    Threads
        An executor is used from one thread. Only one iterator is active at a time, but for ``map_alone`` beside a
        ``stream``: starting another before the first is exhausted or closed is a RuntimeError. Scheduling happens
        inside ``next()``: while the consumer works on a result the running calls go on, but no new one starts.

    Failures
        A call that fails is a ``Failure`` in the place of its result, and the run goes on:

        - an exception: "error", or "out_of_memory" where it says so. Out of memory is retried once, alone.
        - a worker that dies (``os._exit``, a signal, the out-of-memory killer), or whose GPU can't be used any more:
          it is replaced, the call is retried once, in that or another, then failed as "crash".
        - a call that runs longer than ``timeout``: its worker is killed and replaced. It is not retried.
        - the deadline: what runs is stopped, what has not started never does.

        An EvonasError raised by the target is a user's mistake that would hit every call: it is raised again
        in the parent, and ends the iterator.

    Attributes:
        workers: how many calls run at the same time, at most.
        restarts: how many workers were started in place of one that died or had to be stopped.
        pauses: whether ``map_alone`` pauses the calls of a ``stream``; otherwise it waits for them.
        paused: seconds that the call of the last result was paused.
    """

    workers: int
    restarts: int = 0
    pauses: bool = False
    paused: float = 0.0

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._active: list[str] = []  # what runs: a map, a stream, something alone, or this beside a stream
        self._closed = False

    def map(
        self, calls: Iterable[Call], timeout: Timeout = None, deadline: float | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Run the calls, at most ``workers`` at a time, and yield (key, result or Failure) as they finish.

        Every call is yielded exactly once. Closing the iterator early stops what runs; the executor stays usable.

        Args:
            calls: taken whole before the first one starts.
            timeout: seconds one call may take, its worker's start not included; None for no limit. A function is
                asked again and again: what is learned of some calls may bound the others.
            deadline: the ``time.monotonic()`` moment at which the run ends. From then on nothing starts, and
                everything unfinished is yielded as ``Failure("deadline", ...)``.

        Raises:
            EvonasError: a timeout that is not positive, an argument that cannot be pickled, workers that cannot
                start, or the one that the target raised.
        """
        return self._begin("map", timeout, lambda: self._run(list(calls), timeout, deadline, alone=False))

    def stream(self, more: More, timeout: Timeout = None, deadline: float | None = None) -> Iterator[tuple[Any, Any]]:
        """Like ``map``, but that calls are taken one by one, from ``more``, each when a worker is free for it: what has
        come in till then has been handed out. Where there is none, None, it is asked again after the next result; there
        is an end when there is none and nothing runs.

        ``more``, or who consumes the results, may use ``map_alone`` meanwhile: the calls that run are paused, some
        backends' only at their next ``safepoint``, or, where the backend can't (see ``pauses``), waited for. The time
        that they pause counts for no timeout, though it does for the deadline; ``paused`` tells it.
        """
        return self._begin("stream", timeout, lambda: self._run_stream(more, timeout, deadline))

    def map_alone(
        self, calls: Iterable[Call], timeout: Timeout = None, deadline: float | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Like ``map``, but one call at a time, in the order given, always in the same worker (or the one that
        replaced it), while nothing else of this executor runs or starts: for measuring time and memory."""
        return self._begin("alone", timeout, lambda: self._run(list(calls), timeout, deadline, alone=True))

    @abstractmethod
    def close(self) -> None:
        """End all workers. May be called again; nothing else may."""

    @abstractmethod
    def _run(self, calls: list[Call], timeout: Timeout, deadline: float | None, alone: bool) -> Iterator:
        """The generator behind ``map`` and ``map_alone``."""

    @abstractmethod
    def _run_stream(self, more: More, timeout: Timeout, deadline: float | None) -> Iterator:
        """The generator behind ``stream``."""

    def _begin(self, kind: str, timeout: Timeout, run: Callable[[], Iterator]) -> Iterator:
        if timeout is not None and not (seconds := timeout() if callable(timeout) else timeout) > 0:
            raise EvonasError(f"a timeout of {seconds} s is not positive", "Give more than 0 seconds, or none.")
        self._check_open()
        return self._exclusive(kind, run())

    def _exclusive(self, kind: str, results: Iterator) -> Iterator:
        self._check_open()
        if self._active and [*self._active, kind] != ["stream", "alone"]:
            raise RuntimeError("an executor has one active iterator; exhaust or close the other one first")
        self._active.append(kind)
        try:
            for result in results:
                yield result
                if self._active[-1] != kind:
                    raise RuntimeError("an executor has one active iterator; exhaust what is done alone first")
        finally:
            results.close()
            self._active.remove(kind)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this executor is closed")

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def default_workers(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """One per CPU this process may run on; where a container has a ``quota`` (cgroup v2), no more than that."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = map(int, quota.read_text().split())
    except (OSError, ValueError):  # "max 100000": there is none
        return cpus
    return max(1, min(cpus, math.ceil(most / max(period, 1))))


def dump_target(target: Any) -> bytes:
    """The pickled target; raises EvonasError saying why it has no copy."""
    try:
        return pickle.dumps(target, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise EvonasError(
            f"{type(target).__qualname__} cannot be sent to a worker: {type(error).__name__}: {error}",
            "Define it at the top level of a module, and let it hold paths and settings, not open files, "
            "locks, lambdas or models.",
        ) from error


def dump_call(call: Call) -> bytes:
    """The pickled method name and arguments; raises EvonasError naming the call."""
    try:
        return pickle.dumps((call.method, call.args), protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise EvonasError(
            f"the arguments of call {call.key!r} ({call.method}) cannot be sent to a worker: "
            f"{type(error).__name__}: {error}",
            "Pass plain data.",
        ) from error


def load_reply(blob: bytes) -> tuple[str, Any]:
    """("ok", result), or "error", "out_of_memory" or "device_lost" and the reason; raises the EvonasError of the
    target."""
    try:
        kind, value = pickle.loads(blob)
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}\nThe result arrived, but could not be unpickled here."
    if kind == "user_error":
        message, hint, exit_code, trace = value
        raise EvonasError(message, hint, exit_code=exit_code) from WorkerTraceback(trace)
    return kind, value
