"""Scheduling for executors whose workers are separate processes: retries, timeouts, the deadline, replacement."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import EXIT_FAILED, EvonasError
from .base import MAX_ATTEMPTS, Call, Executor, Failure, Timeout, WorkerTraceback, dump_call, dump_target, load_reply

# A worker imports and unpickles the target before it is ready; longer than this, something is wrong.
START_LIMIT = 300.0
# How often workers are checked even when no message from them, or about them, has come.
HEARTBEAT = 1.0


class Event(NamedTuple):
    """What a worker reports: "hello" on its way to "ready", "reply" (bytes), "died" (how, as text) or "unusable" (why,
    as text)."""

    kind: str
    data: Any = None


class WorkerDied(Exception):
    """Raised by ``Worker.send`` when the worker was dead before it could take the call."""


class Worker(ABC):
    """One process that holds the target. It is starting until its "ready" event, then takes one call at a time."""

    @abstractmethod
    def send(self, call: bytes) -> None:
        """Start a pickled call; its reply comes as an event. Raises WorkerDied."""

    @abstractmethod
    def stop(self) -> None:
        """Kill it now and release what it holds. May be called again."""


class _Task:
    def __init__(self, call: Call) -> None:
        self.call = call
        self.attempts = 0

    def failure(self, status: str, reason: str) -> tuple[Any, Failure]:
        return self.call.key, Failure(status, reason, self.attempts)


class _Lane:
    """A place for one worker at a time. ``task`` runs there, ``retry`` is what its next worker begins with."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.given_up = False  # its worker did not start, others did
        self.used = False
        self.ready = False
        self.since = 0.0  # start of the worker, or of the task
        self.task: _Task | None = None
        self.retry: _Task | None = None

    @property
    def starting(self) -> bool:
        return self.worker is not None and not self.ready

    @property
    def idle(self) -> bool:
        return self.ready and self.task is None


class PoolExecutor(Executor):
    """``Executor`` over ``workers`` lanes. A backend says how to start a worker and how to wait for events."""

    def __init__(self, target: Any, workers: int) -> None:
        super().__init__(workers)
        self._target = dump_target(target)
        self._lanes = [_Lane() for _ in range(workers)]
        self._failed_starts = 0

    @abstractmethod
    def _new_worker(self) -> Worker:
        """Start a worker, without waiting for it."""

    @abstractmethod
    def _wait(self, workers: list[Worker], seconds: float) -> dict[Worker, Event]:
        """Wait until one of the workers has an event, at most ``seconds``; at most one event per worker."""

    def close(self) -> None:
        self._closed = True
        for lane in self._lanes:
            self._drop(lane)

    def _run(self, calls: list[Call], timeout: Timeout, deadline: float | None, alone: bool) -> Iterator:
        return _Run(self, calls, timeout, deadline, alone).results()

    def _start(self, lane: _Lane) -> None:
        assert lane.worker is None
        self.restarts += lane.used
        lane.worker, lane.used, lane.ready, lane.since = self._new_worker(), True, False, time.monotonic()

    def _start_missing(self, lanes: list[_Lane]) -> None:
        for lane in lanes:
            if lane.worker is None and not lane.given_up:
                self._start(lane)

    def _drop(self, lane: _Lane) -> None:
        worker, lane.worker, lane.ready, lane.task, lane.retry = lane.worker, None, False, None, None
        if worker is not None:
            worker.stop()

    def _events(self, seconds: float) -> list[tuple[_Lane, Event]]:
        """Wait for events of all workers, in the order of the lanes; starts that failed are dealt with here."""
        live = {lane.worker: lane for lane in self._lanes if lane.worker is not None}
        found = self._wait(list(live), max(0.0, min(seconds, HEARTBEAT)))
        events = [(lane, found[worker]) for worker, lane in live.items() if worker in found]
        for lane, event in events:
            if event.kind == "hello":  # it may have waited for us, not we for it
                lane.since = time.monotonic()
            if event.kind == "unusable":
                message, _, trace = event.data.partition("\n")
                raise EvonasError(
                    f"a worker could not load the target: {message}",
                    "Define it, and everything it holds, in a module that can be imported without this script.",
                    exit_code=EXIT_FAILED,
                ) from WorkerTraceback(trace)
            if event.kind == "ready":
                lane.ready, self._failed_starts = True, 0
            elif event.kind == "died" and lane.starting:
                self._count_failed_start(event.data)
        # After the events: one that has just become ready is one to go on with.
        for lane in list(self._lanes):
            if lane.starting and lane.worker not in found and time.monotonic() - lane.since > START_LIMIT:
                self._give_up(lane)
        return events

    def _give_up(self, lane: _Lane) -> None:
        """Go on without a worker that does not start, as long as there are others."""
        if not any(other.ready for other in self._lanes):
            raise EvonasError(
                f"a worker was not ready after {START_LIMIT:g} s",
                "Ask for fewer workers, or try --executor serial to see where it hangs.",
                exit_code=EXIT_FAILED,
            )
        print(f"evonas: a worker was not ready after {START_LIMIT:g} s; it goes on without", file=sys.stderr)
        retry = lane.retry
        self._drop(lane)
        lane.retry, lane.given_up = retry, True
        self.workers -= 1
        self._lanes.sort(key=lambda each: each.given_up)  # the first one does what is done alone

    def _count_failed_start(self, how: str) -> None:
        self._failed_starts += 1
        if self._failed_starts > self.workers:
            raise EvonasError(
                f"worker processes do not start: {how}",
                "What they wrote to stderr says why; --executor serial runs without them.",
                exit_code=EXIT_FAILED,
            )


class _Run:
    """One ``map`` or ``map_alone`` over the lanes of a pool."""

    def __init__(
        self, pool: PoolExecutor, calls: list[Call], timeout: Timeout, deadline: float | None, alone: bool
    ) -> None:
        self.pool, self._limit, self.deadline, self.alone = pool, timeout, deadline, alone
        self.queue = deque(_Task(call) for call in calls)
        self.lonely: deque[_Task] = deque()  # ran out of memory once: run again with nothing else running
        self.finished: deque[tuple[Any, Any]] = deque()

    @property
    def lanes(self) -> list[_Lane]:
        return self.pool._lanes[:1] if self.alone else self.pool._lanes

    @property
    def timeout(self) -> float | None:
        return self._limit() if callable(self._limit) else self._limit

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Assign, hand out what finished, wait; so that workers are busy while the consumer is."""
        try:
            while True:
                if self._deadline_passed():
                    self._expire()
                elif self._outstanding():
                    self.pool._start_missing(self.lanes)
                    self._assign()
                while self.finished:
                    yield self.finished.popleft()
                self.pool._check_open()
                if not self._outstanding():
                    return
                self._step(self._patience())
        finally:
            for lane in self.lanes:
                if lane.task is not None or lane.retry is not None:
                    self.pool._drop(lane)

    def _outstanding(self) -> bool:
        return bool(self.queue or self.lonely or self._busy())

    def _busy(self) -> bool:
        return any(lane.task is not None or lane.retry is not None for lane in self.lanes)

    def _deadline_passed(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _patience(self) -> float:
        """Seconds until something is due: a timeout or the deadline."""
        now = time.monotonic()
        due = [] if self.deadline is None else [self.deadline]
        if (timeout := self.timeout) is not None:
            due += [lane.since + timeout for lane in self.lanes if lane.task is not None]
        return max(0.0, min(due) - now) if due else float("inf")

    def _assign(self) -> None:
        settled = not any(lane.starting for lane in self.pool._lanes)
        if self.alone and not settled:
            return  # a worker that starts somewhere would disturb the measurement
        for lane in self.lanes:
            if lane.idle and (lane.retry is not None or self.queue):
                task, lane.retry = lane.retry or self.queue.popleft(), None
                self._send(lane, task)
        if self.lonely and settled and not self.queue and not self._busy():
            lane = next((lane for lane in self.lanes if lane.idle), None)
            if lane is not None:
                self._send(lane, self.lonely.popleft())

    def _send(self, lane: _Lane, task: _Task) -> None:
        call = dump_call(task.call)
        try:
            lane.worker.send(call)
        except WorkerDied:  # while it was idle: not the fault of this call
            self._replace(lane, task)
            return
        task.attempts += 1
        lane.task, lane.since = task, time.monotonic()

    def _replace(self, lane: _Lane, retry: _Task | None = None) -> None:
        self.pool._drop(lane)
        self.pool._start(lane)
        lane.retry = retry

    def _step(self, seconds: float) -> None:
        """Wait for events and deal with them, then with calls that took too long."""
        events = self.pool._events(seconds)
        for lane in self.pool._lanes:
            if lane.given_up and lane.retry is not None:  # another takes what it was to begin with
                self.queue.appendleft(lane.retry)
                lane.retry = None
        for lane, event in events:
            if event.kind == "reply":
                self._reply(lane, event.data)
            elif event.kind == "died":
                self._lost(lane, f"the worker process died: {event.data}")
        if (timeout := self.timeout) is None:
            return
        now = time.monotonic()
        for lane in self.lanes:
            if lane.task is not None and now - lane.since >= timeout:
                self.finished.append(lane.task.failure("timeout", f"took longer than {timeout:g} s"))
                self._replace(lane)

    def _reply(self, lane: _Lane, reply: bytes) -> None:
        task = lane.task
        kind, value = load_reply(reply)  # an EvonasError of the target leaves here
        lane.task = None
        if kind == "ok":
            self.finished.append((task.call.key, value))
        elif kind == "out_of_memory" and task.attempts < MAX_ATTEMPTS:
            # Alone, the order of the calls counts; otherwise let the others finish first.
            self.queue.appendleft(task) if self.alone else self.lonely.append(task)
        elif kind == "device_lost":  # nothing more can run there
            lane.task = task
            self._lost(lane, f"the worker could not use its device any more: {value}")
        else:
            self.finished.append(task.failure(kind, value))

    def _lost(self, lane: _Lane, reason: str) -> None:
        """The lane's worker is of no use any more."""
        task, retry = lane.task, lane.retry
        if task is not None and task.attempts < MAX_ATTEMPTS:
            retry = task
        elif task is not None:
            self.finished.append(task.failure("crash", reason))
        if lane in self.lanes:
            self._replace(lane, retry)
        else:
            self.pool._drop(lane)

    def _expire(self) -> None:
        """At the deadline: take what is there, stop what runs, give up what has not started."""
        self._step(0.0)
        for lane in self.lanes:
            task = lane.task or lane.retry
            if task is not None:
                self.pool._drop(lane)
                self._give_up(task)
        for task in (*self.lonely, *self.queue):
            self._give_up(task)
        self.lonely.clear()
        self.queue.clear()

    def _give_up(self, task: _Task) -> None:
        reason = "stopped at the deadline" if task.attempts else "not started before the deadline"
        self.finished.append(task.failure("deadline", reason))
