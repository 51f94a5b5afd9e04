"""One run over the workers of a pool: which call goes where and when, retries, timeouts, the deadline, pauses."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import EvonasError
from .base import MAX_ATTEMPTS, Call, More, Timeout, dump_call, load_reply
from .lanes import Lane, Task, Worker, WorkerDied

if TYPE_CHECKING:
    from .pool import PoolExecutor

# A call that was asked to rest and does not, for so long at first, no longer keeps the others from going on.
RELUCTANT = 2.0


class Run:
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
        self.queue = deque(Task(call, self) for call in calls)
        self.lonely: deque[Task] = deque()  # ran out of memory once: run again with nothing else running
        self.finished: deque[tuple[Task, Any]] = deque()
        self.error: EvonasError | None = None  # that one of its calls has raised
        self._dry = more is None  # there is nothing more for now
        self._held: list[tuple[Lane, Worker]] = []  # of the stream beside it, paused or asked to
        self._asked, self._reluctant = 0.0, RELUCTANT  # when the last of them was; how long it may take

    @property
    def lanes(self) -> list[Lane]:
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

    def _busy(self) -> list[Lane]:
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
                self.queue.append(Task(call, self))
        quiet = not (self.queue or self._busy() or any(lane.starting for lane in self.pool._lanes))
        if self.lonely and quiet and (lane := self._idle()) is not None:
            self._send(lane, self.lonely.popleft())

    def _idle(self) -> Lane | None:
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
        elif self.pool.pauses:
            self._hold(others)
        return all(lane.resting is not None for lane in others)

    def _hold(self, lanes: list[Lane]) -> None:
        """Pause what runs there. Where something does not come to rest, the others go on until it does, or ends."""
        held = [lane for lane, _ in self._held]
        if any(lane in held and lane.resting is None for lane in lanes):
            resting = [lane for lane in held if lane.resting is not None]
            if resting and time.monotonic() - self._asked > self._reluctant:
                self._reluctant *= 2  # two that come to rest now and then are to meet
                self._release(resting)
            return
        for lane in lanes:
            if lane not in held:
                self._held.append((lane, lane.worker))
                self._asked = time.monotonic()
                lane.resting = self._asked if lane.worker.pause() else None

    def _release(self, lanes: list[Lane] | None = None) -> None:
        """Let those held up go on, in all lanes or these; the time was not theirs."""
        for lane, worker in [held for held in self._held if lanes is None or held[0] in lanes]:
            if lane.worker is worker:
                worker.go_on()
                paused = 0.0 if lane.resting is None else time.monotonic() - lane.resting
                lane.resting, lane.since = None, lane.since + paused
                if lane.task is not None:
                    lane.task.paused += paused
            self._held.remove((lane, worker))  # now that it is done: an interrupt may come in between

    def _send(self, lane: Lane, task: Task) -> None:
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

    def _put_back(self, task: Task) -> None:
        # Alone, the order of the calls counts; otherwise let the others finish first.
        (self.lonely if task.lonely and not self.alone else self.queue).appendleft(task)

    def _step(self, seconds: float) -> None:
        """Wait for events and deal with them, then with calls that took too long."""
        for lane, event in self.pool._events(seconds):
            run = self if lane.task is None else lane.task.run
            if event.kind == "rests":
                lane.resting = time.monotonic()
            elif event.kind == "reply":
                run._reply(lane, event.data)
            elif event.kind == "died":
                run._lost(lane, f"the worker process died: {event.data}")
        self._look_at_clock()
        if self.alone and self.pool._streaming is not None:
            self.pool._streaming._look_at_clock()
        if not self._deadline_passed():
            self.pool._start_missing(self.lanes)

    def _look_at_clock(self) -> None:
        if (timeout := self.timeout) is None:
            return
        now = time.monotonic()
        for lane in self._busy():
            if lane.resting is None and now - lane.since >= timeout:
                lane.task.fail("timeout", f"took longer than {timeout:g} s")
                self.pool._drop(lane)

    def _reply(self, lane: Lane, reply: bytes) -> None:
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

    def _lost(self, lane: Lane, reason: str) -> None:
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

    def _give_up(self, task: Task) -> None:
        task.fail("deadline", "stopped at the deadline" if task.attempts else "not started before the deadline")
