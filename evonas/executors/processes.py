"""The executor over processes of this machine, one pipe each: the default."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from typing import Any

from ..errors import EXIT_FAILED, EvonasError
from .lanes import Event, Worker, WorkerDied
from .pool import PoolExecutor
from .worker import GO_ON, HELLO, READY, REPLY, REST, RESTS, UNUSABLE, serve

# Seconds between asking a worker to end and killing it.
GRACE = 2.0
# Seconds that one which was killed may take to give back what it holds, a device's memory above all.
LEAVING = 15.0
# How a worker ends that, while it imports the user's script, is told to start workers of its own.
_UNGUARDED = 88

# A target up to this size fits into the pipe before the worker reads, so that it need not wait for a map.
_EAGER_BYTES = 8192

# The start of a worker changes this process for a moment.
_START = threading.Lock()


class ProcessExecutor(PoolExecutor):
    """Runs calls in ``workers`` processes of this machine, all started at once by the constructor.

    Processes are spawned, not forked: a fork of a process that has used CUDA or OpenMP threads hangs. The
    script that was started is imported again in the workers only where the target, or something it holds, is
    defined in it. Otherwise, what the calls carry has to come from modules, too.
    A worker that is stopped takes along what it has started. When the parent is killed, the workers die with
    it at once, but not what they have started.

    Args:
        target: see ``Executor``.
        workers: how many processes.
        env: environment variables set in the workers before they import anything.
        spare: one more process, for what is done alone: then calls of a ``stream`` pause for it. The system stops
            their processes, where it can, unless the target says that they share a device (``one_device``), which would
            stay busy: those are asked to rest at their next ``safepoint``, and one that comes to none is waited for.
    """

    def __init__(self, target: Any, workers: int, env: Mapping[str, str] | None = None, *, spare: bool = False) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise SystemExit(_UNGUARDED)  # the parent's message says what to do; see _count_failed_start
        super().__init__(target, workers, spare)
        self._asks = spare and (not hasattr(signal, "SIGSTOP") or getattr(target, "one_device", False))
        self._env = {name: str(value) for name, value in (env or {}).items()}
        self._needs_main = b"__main__" in self._target
        # multiprocessing joins its processes at exit; registered after it, this runs before it.
        self._finalizer = weakref.finalize(self, _end, self._lanes, os.getpid())
        self._finalizer.atexit = False
        if os.name == "posix":
            resource_tracker.ensure_running()  # its own start would unblock the interrupts that ours blocks
        try:
            self._start_missing(self._lanes)
        except BaseException:
            self._finalizer()
            raise
        atexit.register(self._finalizer)

    def close(self) -> None:
        self._closed = True
        self._finalizer()
        atexit.unregister(self._finalizer)

    def _new_worker(self, spare: bool) -> Worker:
        try:
            return _ProcessWorker(self._target, self._env, self._needs_main, self._asks)
        except OSError as error:
            raise EvonasError(
                f"a worker process could not be started: {error}", "Ask for fewer workers.", exit_code=EXIT_FAILED
            ) from error

    def _wait(self, workers: list[Worker], seconds: float) -> dict[Worker, Event]:
        handles = {}
        for worker in workers:
            handles[worker.connection] = handles[worker.process.sentinel] = worker
        hit = {handles[handle] for handle in multiprocessing.connection.wait(list(handles), seconds)}
        # The sentinel is a pipe: something that the worker has started may hold it open after its death.
        hit |= {worker for worker in workers if worker not in hit and not worker.process.is_alive()}
        events = ((worker, worker.event()) for worker in workers if worker in hit)
        return {worker: event for worker, event in events if event is not None}

    def _count_failed_start(self, how: str) -> None:
        if how == f"exit status {_UNGUARDED}":
            raise EvonasError(
                f"{getattr(sys.modules['__main__'], '__file__', 'the script')} defines the target and starts the "
                "search when it is imported, which every worker has to do",
                'Put what starts the search under `if __name__ == "__main__":`, or the target into a module.',
                exit_code=EXIT_FAILED,
            )
        super()._count_failed_start(how)


class _ProcessWorker(Worker):
    left_behind = 0  # by this process: could not be ended

    def __init__(self, target: bytes, env: Mapping[str, str], needs_main: bool, asked: bool) -> None:
        self._target, self._asked, self._stopped = target, asked, False
        self._order = 0  # the next to rest, until it is to go on
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe(duplex=True)
        from_main_thread = threading.current_thread() is threading.main_thread()
        # Not a daemon: those may not have children, and a data loader is one.
        self.process = context.Process(
            target=serve, args=(theirs, os.getpid(), from_main_thread, asked), name="evonas-worker", daemon=False
        )
        with theirs, _START, _environment(env), _interrupts_blocked(), _main_module(needs_main):
            self.process.start()
        self._sent = len(target) <= _EAGER_BYTES
        if self._sent:
            self._write(self._target)

    def event(self) -> Event | None:
        """The next message, or how the process ended; None when there is nothing to tell."""
        try:
            if self.connection.poll():
                if self._stopped:  # in the middle of a long reply, perhaps: its call is over
                    self.go_on()
                return self._understand(self.connection.recv_bytes())
            if self.process.is_alive():
                return None
        except (EOFError, OSError):
            multiprocessing.connection.wait([self.process.sentinel], GRACE)  # let it end its own way
        self.kill_group()  # before it is reaped, while the id is certainly its own
        self.reap()
        return Event("died", _how(self.process.exitcode))

    def _understand(self, message: bytes) -> Event | None:
        kind, data = message[:1], message[1:]
        if kind == HELLO:
            if not self._sent:
                self._write(self._target)
            return Event("hello")
        if kind == READY:
            return Event("ready")
        if kind == UNUSABLE:
            return Event("unusable", data.decode())
        if kind == RESTS:  # one that was over before it was heard of is none
            return Event("rests") if int(data) == self._order else None
        assert kind == REPLY, kind
        return Event("reply", data)

    def send(self, call: bytes) -> None:
        try:
            self.connection.send_bytes(call)
        except OSError as error:
            raise WorkerDied from error

    def pause(self) -> bool:
        if self._asked:
            self._write(REST + str(self._order).encode())
        else:
            self._stopped = True
            self._signal_group("SIGSTOP")
        return self._stopped

    def go_on(self) -> None:
        if self._asked:
            self._order += 1
            self._write(GO_ON)
        else:
            self._stopped = False
            self._signal_group("SIGCONT")

    def _write(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # dead already: its end is the next event
            self.connection.send_bytes(message)

    def stop(self) -> None:
        self.connection.close()
        self.kill_group()
        self.reap()

    def terminate(self) -> None:
        """Ask it to end."""
        self.connection.close()
        self._signal_group("SIGTERM")
        self.process.terminate()
        if self._stopped:
            self.go_on()

    def kill_group(self) -> None:
        self._signal_group("SIGKILL")
        self.process.kill()

    def reap(self) -> None:
        """Wait for its end, though not for ever: one that hangs in the kernel (for a file server or a driver that does
        not answer) can't be killed. ``join`` takes a limit, but waits without one where a part of it has ended."""
        end = time.monotonic() + (GRACE if _ProcessWorker.left_behind else LEAVING)  # others hang likewise
        while self.process.is_alive() and time.monotonic() < end:
            time.sleep(0.005)
        children = multiprocessing.process._children  # what multiprocessing waits for at exit
        if self.process.is_alive() and self.process in children:
            children.discard(self.process)
            _ProcessWorker.left_behind += 1
            print(f"evonas: worker process {self.process.pid} can't be ended; it is left behind", file=sys.stderr)

    def _signal_group(self, name: str) -> None:
        """Reach what the worker has started, too, where there are process groups; see ``worker.serve``."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, getattr(signal, name))


def _end(lanes: list, owner: int) -> None:
    """Ask all workers to end, wait a grace time for all together, kill the rest and whatever they have started."""
    if os.getpid() != owner:  # a fork of the parent; the workers are not its children
        return
    workers = [lane.worker for lane in lanes if lane.worker is not None]
    for lane in lanes:
        lane.worker, lane.ready, lane.task = None, False, None
    for worker in workers:
        worker.terminate()
    end = time.monotonic() + GRACE
    for worker in workers:
        multiprocessing.connection.wait([worker.process.sentinel], max(0.0, end - time.monotonic()))
    for worker in workers:
        worker.kill_group()
    for worker in workers:
        worker.reap()


def _how(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit status {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = str(-exitcode)
    note = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"killed by signal {name}{note}"


@contextlib.contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """A spawned process takes this one's environment: change it for the moment of the start."""
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """The child inherits the mask, so that Ctrl-C cannot hit it before it ignores the signal itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _main_module(needed: bool) -> Iterator[None]:
    """Unless needed, hide the user's script from multiprocessing, which would run it again in every worker.

    That is slow, prints again what the script prints, fails for a script read from stdin, and never ends for
    one without an ``if __name__ == "__main__":``.
    """
    if needed:
        yield
        return
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
