"""Scheduling for executors whose workers are separate processes: retries, timeouts, the deadline, replacement."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import EXIT_FAILED, EvonasError
from .base import (
    MAX_ATTEMPTS,
    Call,
    Executor,
    Failure,
    More,
    Timeout,
    WorkerTraceback,
    dump_call,
    dump_target,
    load_reply,
)

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

    def pause(self) -> None:
        """Hold it up until ``go_on``; asked for only where the executor ``pauses``."""
        raise NotImplementedError

    def go_on(self) -> None:
        raise NotImplementedError


class _Task:
    def __init__(self, call: Call, run: _Run) -> None:
        self.call, self.run = call, run
        self.attempts = 0
        self.paused = 0.0  # seconds of this attempt
        self.lonely = False  # runs with nothing beside it

    def fail(self, status: str, reason: str) -> None:
        self.run.finished.append((self, Failure(status, reason, self.attempts)))


class _Lane:
    """A place for one worker at a time. ``task`` runs there, ``retry`` is what its next worker begins with; a ``spare``
    one is for what is done alone."""

    def __init__(self, spare: bool = False) -> None:
        self.spare = spare
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
    """``Executor`` over ``workers`` lanes, and a ``spare`` one where calls of a stream are to pause for what is done
    alone. A backend says how to start a worker and how to wait for events."""

    def __init__(self, target: Any, workers: int, spare: bool = False) -> None:
        super().__init__(workers)
        self._target = dump_target(target)
        self._lanes = [_Lane() for _ in range(workers)] + [_Lane(spare=True)] * spare
        self.pauses = spare
        self._failed_starts = 0
        self._streaming: _Run | None = None

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

    def _run_stream(self, more: More, timeout: Timeout, deadline: float | None) -> Iterator:
        self._streaming = _Run(self, [], timeout, deadline, alone=False, more=more)
        try:
            yield from self._streaming.results()
        finally:
            self._streaming = None

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
        if lane.spare or not any(other.ready for other in self._lanes):
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
        self._lanes.sort(key=lambda each: each.given_up)  # without a spare, the first one does what is done alone

    def _count_failed_start(self, how: str) -> None:
        self._failed_starts += 1
        if self._failed_starts > self.workers:
            raise EvonasError(
                f"worker processes do not start: {how}",
                "What they wrote to stderr says why; --executor serial runs without them.",
                exit_code=EXIT_FAILED,
            )


class _Run:
    """One ``map``, ``stream`` or ``map_alone`` over the lanes of a pool."""

    def __init__(
        self,
        pool: PoolExecutor,
        calls: list[Call],
        timeout: Timeout,
        deadline: float | None,
        alone: bool,
        more: More | None = None,
    ) -> None:
        self.pool, self._limit, self.deadline, self.alone, self.more = pool, timeout, deadline, alone, more
        self.queue = deque(_Task(call, self) for call in calls)
        self.lonely: deque[_Task] = deque()  # ran out of memory once: run again with nothing else running
        self.finished: deque[tuple[_Task, Any]] = deque()
        self._dry = more is None  # there is nothing more for now
        self._held: list[tuple[_Lane, Worker]] = []  # of the stream beside it, paused
        self._held_since = 0.0

    @property
    def lanes(self) -> list[_Lane]:
        lanes = self.pool._lanes
        if self.alone:
            return [lane for lane in lanes if lane.spare] or lanes[:1]
        return [lane for lane in lanes if not lane.spare]

    @property
    def timeout(self) -> float | None:
        return self._limit() if callable(self._limit) else self._limit

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Assign, hand out what finished, wait; so that workers are busy while the consumer is. Of a stream, hand out
        before there is more."""
        try:
            while True:
                if self._deadline_passed():
                    self._dry = True
                    self._expire()
                elif self._outstanding():
                    self.pool._start_missing(self.lanes)
                    self._assign()
                while self.finished:
                    task, value = self.finished.popleft()
                    self.pool.paused = task.paused
                    self._dry = self.more is None
                    yield task.call.key, value
                self.pool._check_open()
                if not self._outstanding():
                    return
                if not self._can_take_more():
                    self._step(self._patience())
        finally:
            self._release()
            for lane in self.lanes:
                if self._task_of(lane) is not None:
                    self.pool._drop(lane)

    def _outstanding(self) -> bool:
        return bool(self.queue or self.lonely or self._busy() or not self._dry)

    def _busy(self) -> bool:
        return any(self._task_of(lane) is not None for lane in self.lanes)

    def _task_of(self, lane: _Lane) -> _Task | None:
        """What this run does there, or does there next."""
        task = lane.task or lane.retry
        return task if task is not None and task.run is self else None

    def _can_take_more(self) -> bool:
        """Whether a worker is free and nobody has said yet that there is nothing for it."""
        lonely = self.lonely or any(lane.task is not None and lane.task.lonely for lane in self.lanes)
        return not (self._dry or lonely) and any(lane.idle and lane.retry is None for lane in self.lanes)

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
        if self.alone and not (settled and self._has_quiet()):
            return  # a worker that starts or runs somewhere would disturb the measurement
        for lane in self.lanes:
            if lane.idle and (self._task_of(lane) is not None or self.queue):
                task = self._task_of(lane) or self.queue.popleft()
                lane.retry = None if lane.retry is task else lane.retry
                self._send(lane, task)
        while not self.finished and self._can_take_more():
            call = self.more()  # something may be done alone there, and workers may be lost meanwhile
            if call is None:
                self._dry = True
                break
            self.queue.append(_Task(call, self))
            if (lane := next((lane for lane in self.lanes if lane.idle and lane.retry is None), None)) is not None:
                self._send(lane, self.queue.popleft())
        if self.lonely and settled and not self.queue and not self._busy():
            lane = next((lane for lane in self.lanes if lane.idle), None)
            if lane is not None:
                self.lonely[0].lonely = True
                self._send(lane, self.lonely.popleft())

    def _has_quiet(self) -> bool:
        """Whether nothing of a stream beside it runs; where it may, hold it up."""
        stream = self.pool._streaming
        others = [lane for lane in self.pool._lanes if lane.task is not None and lane.task.run is stream]
        if self.pool.pauses and others and not self._held:
            self._held, self._held_since = [(lane, lane.worker) for lane in others], time.monotonic()
            for _, worker in self._held:
                worker.pause()
        held = [lane for lane, _ in self._held]
        return all(lane in held for lane in others)

    def _release(self) -> None:
        """Let those held up go on; the time was not theirs."""
        held, self._held = self._held, []
        paused = time.monotonic() - self._held_since
        for lane, worker in held:
            if lane.worker is worker:
                worker.go_on()
                lane.since += paused
                if lane.task is not None:
                    lane.task.paused += paused

    def _send(self, lane: _Lane, task: _Task) -> None:
        call = dump_call(task.call)
        try:
            lane.worker.send(call)
        except WorkerDied:  # while it was idle: not the fault of this call
            self._replace(lane, task)
            return
        task.attempts += 1
        task.paused = 0.0
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
                lane.retry.run.queue.appendleft(lane.retry)
                lane.retry = None
        for lane, event in events:
            if event.kind == "reply":
                lane.task.run._reply(lane, event.data)
            elif event.kind == "died":
                task = lane.task or lane.retry
                (self if task is None else task.run)._lost(lane, f"the worker process died: {event.data}")
        self._look_at_clock()
        if self.alone and self.pool._streaming is not None and not self._held:
            self.pool._streaming._look_at_clock()

    def _look_at_clock(self) -> None:
        if (timeout := self.timeout) is None:
            return
        now = time.monotonic()
        for lane in self.lanes:
            task = lane.task
            if task is not None and task.run is self and now - lane.since >= timeout:
                task.fail("timeout", f"took longer than {timeout:g} s")
                self._replace(lane)

    def _reply(self, lane: _Lane, reply: bytes) -> None:
        task = lane.task
        kind, value = load_reply(reply)  # an EvonasError of the target leaves here
        lane.task = None
        if kind == "ok":
            self.finished.append((task, value))
        elif kind == "out_of_memory" and task.attempts < MAX_ATTEMPTS:
            # Alone, the order of the calls counts; otherwise let the others finish first.
            self.queue.appendleft(task) if self.alone else self.lonely.append(task)
        elif kind == "device_lost":  # nothing more can run there
            lane.task = task
            self._lost(lane, f"the worker could not use its device any more: {value}")
        else:
            task.fail(kind, value)

    def _lost(self, lane: _Lane, reason: str) -> None:
        """The lane's worker is of no use any more."""
        task, retry = lane.task, lane.retry
        if task is not None and retry is not None:  # of the stream, waiting for what is done alone here
            retry.run.queue.appendleft(retry)
            retry = None
        if task is not None and task.attempts < MAX_ATTEMPTS:
            retry = task
        elif task is not None:
            task.fail("crash", reason)
        if lane in self.lanes:
            self._replace(lane, retry)
        else:
            self.pool._drop(lane)

    def _expire(self) -> None:
        """At the deadline: take what is there, stop what runs, give up what has not started."""
        self._step(0.0)
        for lane in self.lanes:
            if (task := self._task_of(lane)) is not None:
                self.pool._drop(lane)
                self._give_up(task)
        for task in (*self.lonely, *self.queue):
            self._give_up(task)
        self.lonely.clear()
        self.queue.clear()

    def _give_up(self, task: _Task) -> None:
        task.fail("deadline", "stopped at the deadline" if task.attempts else "not started before the deadline")
