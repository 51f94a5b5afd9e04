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
    """A place for one worker at a time, where ``task`` runs; a ``spare`` one is for what is done alone."""

    def __init__(self, spare: bool = False) -> None:
        self.spare = spare
        self.worker: Worker | None = None
        self.given_up = False  # its worker did not start, others did
        self.used = False
        self.ready = False
        self.since = 0.0  # start of the worker, or of the task
        self.task: _Task | None = None

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
        worker, lane.worker, lane.ready, lane.task = lane.worker, None, False, None
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
        if lane.spare or not any(other.ready and not other.spare for other in self._lanes):
            raise EvonasError(
                f"a worker was not ready after {START_LIMIT:g} s",
                "Ask for fewer workers, or try --executor serial to see where it hangs.",
                exit_code=EXIT_FAILED,
            )
        print(f"evonas: a worker was not ready after {START_LIMIT:g} s; it goes on without", file=sys.stderr)
        self._drop(lane)
        lane.given_up = True
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
        self.error: EvonasError | None = None  # that one of its calls has raised
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
                    self._assign()
                if not self._outstanding():
                    self._release()
                while self.finished:
                    task, value = self.finished.popleft()
                    self.pool.paused = task.paused
                    self._dry = self.more is None or self._deadline_passed()
                    yield task.call.key, value
                self.pool._check_open()
                if self.error is not None:
                    raise self.error
                if not self._outstanding():
                    return
                self._step(0.0 if self._can_take_more() else self._patience())
        finally:
            self._release()
            for lane in self._busy():
                self.pool._drop(lane)

    def _outstanding(self) -> bool:
        return bool(self.queue or self.lonely or self._busy() or not self._dry)

    def _busy(self) -> list[_Lane]:
        """Where it has something running: in a stream, what is done alone may have a lane, and the other way round."""
        return [lane for lane in self.lanes if lane.task is not None and lane.task.run is self]

    def _can_take_more(self) -> bool:
        """Whether a worker is free and nobody has said yet that there is nothing for it."""
        lonely = self.lonely or any(lane.task.lonely for lane in self._busy())
        return not (self._dry or lonely or self.queue) and any(lane.idle for lane in self.lanes)

    def _deadline_passed(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _patience(self) -> float:
        """Seconds until something is due: a timeout or the deadline."""
        now = time.monotonic()
        due = [] if self.deadline is None else [self.deadline]
        if (timeout := self.timeout) is not None:
            due += [lane.since + timeout for lane in self._busy()]
        return max(0.0, min(due) - now) if due else float("inf")

    def _assign(self) -> None:
        """Give free workers what waits, and ask for more while there is nothing."""
        self.pool._start_missing(self.lanes)
        if self.alone and not self._has_quiet():
            return
        while True:
            while self.queue and (lane := self._idle()) is not None:
                self._send(lane, self.queue.popleft())
            # Who asks for more is to know of what has finished.
            if self.finished or self.error is not None or not self._can_take_more():
                break
            call = self.more()  # something may be done alone there, and workers may be lost meanwhile
            if call is None:
                self._dry = True
            else:
                self.queue.append(_Task(call, self))
        quiet = not (self.queue or self._busy() or any(lane.starting for lane in self.pool._lanes))
        if self.lonely and quiet and (lane := self._idle()) is not None:
            self._send(lane, self.lonely.popleft())

    def _idle(self) -> _Lane | None:
        return next((lane for lane in self.lanes if lane.idle), None)

    def _has_quiet(self) -> bool:
        """Whether no worker starts, which would disturb a measurement, and nothing of a stream beside it runs; where
        that may be paused, pause it."""
        if not self._held:
            self._step(0.0)  # what has ended is not to be paused
        if any(lane.starting for lane in self.pool._lanes):
            self._release()
            return False
        stream = self.pool._streaming
        others = [lane for lane in self.pool._lanes if lane.task is not None and lane.task.run is stream]
        again = bool(self.queue and self.queue[0].lonely)  # it ran out of memory, of which those that pause hold some
        if others and again:
            self._release()
        elif others and self.pool.pauses and not self._held:
            self._held, self._held_since = [(lane, lane.worker) for lane in others], time.monotonic()
            for _, worker in self._held:
                worker.pause()
        held = [lane for lane, _ in self._held]
        return all(lane in held for lane in others)

    def _release(self) -> None:
        """Let those held up go on; the time was not theirs."""
        paused = time.monotonic() - self._held_since
        while self._held:  # until each is done: an interrupt may come in between
            lane, worker = self._held[-1]
            if lane.worker is worker:
                worker.go_on()
                lane.since += paused
                if lane.task is not None:
                    lane.task.paused += paused
            self._held.pop()

    def _send(self, lane: _Lane, task: _Task) -> None:
        call = dump_call(task.call)
        try:
            lane.worker.send(call)
        except WorkerDied:  # while it was idle: not the fault of this call
            self.pool._drop(lane)
            self._put_back(task)
            self.pool._start_missing(self.lanes)
            return
        task.attempts += 1
        task.paused = 0.0
        lane.task, lane.since = task, time.monotonic()

    def _put_back(self, task: _Task) -> None:
        # Alone, the order of the calls counts; otherwise let the others finish first.
        (self.lonely if task.lonely and not self.alone else self.queue).appendleft(task)

    def _step(self, seconds: float) -> None:
        """Wait for events and deal with them, then with calls that took too long."""
        for lane, event in self.pool._events(seconds):
            run = self if lane.task is None else lane.task.run
            if event.kind == "reply":
                run._reply(lane, event.data)
            elif event.kind == "died":
                run._lost(lane, f"the worker process died: {event.data}")
        self._look_at_clock()
        if self.alone and self.pool._streaming is not None and not self._held:
            self.pool._streaming._look_at_clock()
        if not self._deadline_passed():
            self.pool._start_missing(self.lanes)

    def _look_at_clock(self) -> None:
        if (timeout := self.timeout) is None:
            return
        now = time.monotonic()
        for lane in self._busy():
            if now - lane.since >= timeout:
                lane.task.fail("timeout", f"took longer than {timeout:g} s")
                self.pool._drop(lane)

    def _reply(self, lane: _Lane, reply: bytes) -> None:
        task = lane.task
        lane.task = None
        try:
            kind, value = load_reply(reply)
        except EvonasError as error:  # of the target: it leaves where results of this run do
            self.error = error
            return
        if kind == "ok":
            self.finished.append((task, value))
        elif kind == "out_of_memory" and task.attempts < MAX_ATTEMPTS:
            task.lonely = True
            self._put_back(task)
        elif kind == "device_lost":  # nothing more can run there
            lane.task = task
            self._lost(lane, f"the worker could not use its device any more: {value}")
        else:
            task.fail(kind, value)

    def _lost(self, lane: _Lane, reason: str) -> None:
        """The lane's worker is of no use any more. Another is started when this run goes on: not beside what is done
        alone."""
        task = lane.task
        self.pool._drop(lane)
        if task is not None and task.attempts < MAX_ATTEMPTS:
            self._put_back(task)
        elif task is not None:
            task.fail("crash", reason)

    def _expire(self) -> None:
        """At the deadline: take what is there, stop what runs, give up what has not started."""
        self._step(0.0)
        for lane in self._busy():
            task = lane.task
            self.pool._drop(lane)
            self._give_up(task)
        for task in (*self.lonely, *self.queue):
            self._give_up(task)
        self.lonely.clear()
        self.queue.clear()

    def _give_up(self, task: _Task) -> None:
        task.fail("deadline", "stopped at the deadline" if task.attempts else "not started before the deadline")
