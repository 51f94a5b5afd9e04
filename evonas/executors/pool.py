"""Executors whose workers are separate processes: their starts, what they report, their replacement."""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from ..errors import EXIT_FAILED, EvonasError
from .base import Call, Executor, More, Timeout, WorkerTraceback, dump_target
from .lanes import Event, Lane, Worker
from .run import Run

# A worker imports and unpickles the target before it is ready; longer than this, something is wrong.
START_LIMIT = 300.0
# How often workers are checked even when no message from them, or about them, has come.
HEARTBEAT = 1.0


class PoolExecutor(Executor):
    """``Executor`` over ``workers`` lanes, and a ``spare`` one where calls of a stream are to pause for what is done
    alone. A backend says how to start a worker and how to wait for events."""

    def __init__(self, target: Any, workers: int, spare: bool = False) -> None:
        super().__init__(workers)
        self._target = dump_target(target)
        self._lanes = [Lane() for _ in range(workers)] + [Lane(spare=True)] * spare
        self.pauses = spare
        self._failed_starts = 0
        self._streaming: Run | None = None

    @abstractmethod
    def _new_worker(self, spare: bool) -> Worker:
        """Start a worker, for a spare lane or another, without waiting for it."""

    @abstractmethod
    def _wait(self, workers: list[Worker], seconds: float) -> dict[Worker, Event]:
        """Wait until one of the workers has an event, at most ``seconds``; at most one event per worker."""

    def close(self) -> None:
        self._closed = True
        for lane in self._lanes:
            self._drop(lane)

    def _run(self, calls: list[Call], timeout: Timeout, deadline: float | None, alone: bool) -> Iterator:
        return Run(self, calls, timeout, deadline, alone).results()

    def _run_stream(self, more: More, timeout: Timeout, deadline: float | None) -> Iterator:
        self._streaming = Run(self, [], timeout, deadline, alone=False, more=more)
        try:
            yield from self._streaming.results()
        finally:
            self._streaming = None

    def _start(self, lane: Lane) -> None:
        assert lane.worker is None
        self.restarts += lane.used
        lane.worker, lane.used, lane.ready = self._new_worker(lane.spare), True, False
        lane.since = time.monotonic()

    def _start_missing(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            if lane.worker is None and not lane.given_up:
                self._start(lane)

    def _drop(self, lane: Lane) -> None:
        worker, lane.worker, lane.ready, lane.task, lane.resting = lane.worker, None, False, None, None
        if worker is not None:
            worker.stop()

    def _events(self, seconds: float) -> list[tuple[Lane, Event]]:
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

    def _give_up(self, lane: Lane) -> None:
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
