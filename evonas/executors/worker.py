"""What runs inside a worker: one call in, one reply out. Imports nothing heavy, so that a worker starts fast."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import pickle
import signal
import sys
import threading
import traceback
from typing import Any

from ..errors import EvonasError
from ..safepoint import Settle, rest_by

HELLO, READY, UNUSABLE, REPLY, RESTS = b"h", b"r", b"u", b"=", b"z"
REST, GO_ON = b"R", b"G"  # to a worker; all else is a call, and no pickle begins so

_TRACEBACK_LINES = 12
_MESSAGE_CHARACTERS = 1000
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "status_alloc_failed")
_PR_SET_PDEATHSIG = 1


def load_target(blob: bytes) -> Any:
    """The pickled target, ``prepare``d where it has such a method."""
    target = pickle.loads(blob)
    if (prepare := getattr(target, "prepare", None)) is not None:
        # What stands in its way will stand in a call's, and be told there.
        with contextlib.suppress(Exception, SystemExit):
            prepare()
    return target


def run_call(target: Any, call: bytes) -> bytes:
    """Run one pickled (method, args) and return the pickled (kind, value) that ``base.load_reply`` reads."""
    try:
        method, args = pickle.loads(call)
        return _dump("ok", getattr(target, method)(*args))
    except EvonasError as error:
        return _dump("user_error", (error.message, error.hint, error.exit_code, tail(error)))
    except (Exception, SystemExit) as error:
        kind, reason = "out_of_memory" if is_out_of_memory(error) else "error", tail(error)
    finally:
        _release_device()
    if kind == "out_of_memory":
        gc.collect()  # the exception is gone here, and what its frames held with it
        _release_device()
    elif _device_is_lost():
        kind = "device_lost"
    return _dump(kind, reason)


def _cuda() -> Any:
    """torch.cuda where this process uses it; nothing is imported for that."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _release_device() -> None:
    """Give back the GPU memory that torch keeps for this process: others share the device."""
    if (cuda := _cuda()) is not None:
        with contextlib.suppress(RuntimeError):
            cuda.empty_cache()


def _device_is_lost() -> bool:
    """Whether this process can use its GPU no more: after an illegal access, say, or the end of a neighbour under MPS,
    every call fails."""
    try:
        if (cuda := _cuda()) is not None:
            cuda.synchronize()
    except RuntimeError:
        return True
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device had no memory left; torch's error is known by its name, without torch."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return True
    text = _message(error).lower()
    return any(sign in text for sign in _OUT_OF_MEMORY)


def _dump(kind: str, value: Any) -> bytes:
    return pickle.dumps((kind, value), protocol=pickle.HIGHEST_PROTOCOL)


def _message(error: BaseException) -> str:
    try:
        return str(error)[:_MESSAGE_CHARACTERS]
    except Exception:  # a user's __str__ may fail, too
        return ""


def tail(error: BaseException) -> str:
    """Type and message, then the last lines of the traceback, without the frame of ``run_call``."""
    first = f"{type(error).__name__}: {_message(error)}"
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    lines = "".join(traceback.format_exception(type(error), error, trace)).rstrip().splitlines()
    return "\n".join([first, *(line[:_MESSAGE_CHARACTERS] for line in lines[-_TRACEBACK_LINES:])])


def serve(connection, parent: int, from_main_thread: bool, rests: bool) -> None:
    """The life of a worker process: greet, take the target, then answer calls until the pipe ends.

    Args:
        connection: one end of a duplex ``multiprocessing.Pipe``.
        parent: process id of the parent.
        from_main_thread: whether the parent's main thread started this process.
        rests: whether the parent asks it to, at safepoints.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by the parent until here
    if hasattr(os, "setpgid"):
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)  # one signal then also ends what the target has started
    _die_with_parent(parent, from_main_thread)
    stdout_to_stderr()
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(HELLO)
        blob = connection.recv_bytes()
        try:
            target = load_target(blob)
        except (Exception, SystemExit) as error:
            connection.send_bytes(UNUSABLE + tail(error).encode())
            return
        orders = _Orders(connection)
        if rests:
            rest_by(orders.rest)
        connection.send_bytes(READY)
        while True:
            connection.send_bytes(REPLY + run_call(target, orders.next_call()))


class _Orders:
    """What comes from the parent: calls, and to rest at the next safepoint of one, or to go on from there."""

    def __init__(self, connection) -> None:
        self._connection = connection

    def next_call(self) -> bytes:
        while (message := self._connection.recv_bytes())[:1] in (REST, GO_ON):
            pass  # it was meant for a call that has ended
        return message

    def rest(self, settle: Settle) -> None:
        while self._connection.poll():
            message = self._connection.recv_bytes()
            if message[:1] == REST:
                if settle is not None:
                    settle()
                self._connection.send_bytes(RESTS + message[1:])  # which of them: the next may have been sent already
                order = self._connection.recv_bytes()
                assert order == GO_ON, order[:1]


def stdout_to_stderr() -> None:
    """Send what the target prints to stderr: stdout belongs to the parent's results."""
    sys.stdout.flush()
    if isinstance(sys.stderr, io.TextIOWrapper):  # unbuffered, other workers' output comes between a line and its end
        sys.stderr.reconfigure(line_buffering=True, write_through=False)
    sys.stdout = sys.stderr
    with contextlib.suppress(OSError):
        os.dup2(2, 1)


def _die_with_parent(parent: int, from_main_thread: bool) -> None:
    """End this process when the parent does, even when that was killed while a call runs here."""
    # The signal comes when the *thread* that started us ends, so it is only safe from the main thread.
    if from_main_thread and sys.platform == "linux" and _ask_for_death_signal():
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)
        return
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _ask_for_death_signal() -> bool:
    try:
        import ctypes

        return ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):
        return False


def _wait_for_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
