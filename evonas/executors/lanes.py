"""Workers of an executor over processes, where they run, and what runs there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from .base import Call, Failure

if TYPE_CHECKING:
    from .run import Run


class Event(NamedTuple):
    """What a worker reports: "hello" on its way to "ready", "rests" (as asked), "reply" (bytes), "died" (how, as text)
    or "unusable" (why, as text)."""

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

    @abstractmethod
    def pause(self) -> bool:
        """Hold it up until ``go_on``. Whether it does nothing from now on; else that is so with its event "rests",
        unless its call ends first."""

    @abstractmethod
    def go_on(self) -> None: ...


class Task:
    def __init__(self, call: Call, run: Run) -> None:
        self.call, self.run = call, run
        self.attempts = 0
        self.paused = 0.0  # seconds of this attempt
        self.lonely = False  # runs with nothing beside it

    def fail(self, status: str, reason: str) -> None:
        self.run.finished.append((self, Failure(status, reason, self.attempts)))


class Lane:
    """A place for one worker at a time, where ``task`` runs; a ``spare`` one is for what is done alone."""

    def __init__(self, spare: bool = False) -> None:
        self.spare = spare
        self.worker: Worker | None = None
        self.given_up = False  # its worker did not start, others did
        self.used = False
        self.ready = False
        self.since = 0.0  # start of the worker, or of the task
        self.task: Task | None = None
        self.resting: float | None = None  # since when it does nothing, paused

    @property
    def starting(self) -> bool:
        return self.worker is not None and not self.ready

    @property
    def idle(self) -> bool:
        return self.ready and self.task is None
