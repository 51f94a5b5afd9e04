"""The executor without processes: for debugging, and for targets that must not leave this one."""

from __future__ import annotations

import contextlib
import pickle
import sys
import time
from collections.abc import Iterator
from typing import Any

from .base import MAX_ATTEMPTS, Call, Executor, Failure, More, Timeout, dump_call, dump_target, load_reply
from .worker import run_call


class SerialExecutor(Executor):
    """Runs every call in this process, in the order given, inside ``next()``.

    It keeps the contract but for what needs a second process: a ``timeout`` is checked but not enforced, the
    deadline is looked at between calls only, and a call that kills the process kills the parent.
    What the target prints goes to stderr, as in a worker.
    """

    def __init__(self, target: Any) -> None:
        super().__init__(workers=1)
        self._target = pickle.loads(dump_target(target))

    def close(self) -> None:
        self._closed = True
        self._target = None

    def _run(self, calls: list[Call], timeout: Timeout, deadline: float | None, alone: bool) -> Iterator:
        for call in calls:
            self._check_open()
            if deadline is not None and time.monotonic() >= deadline:
                yield call.key, Failure("deadline", "not started before the deadline", 0)
            else:
                yield call.key, self._result(call)

    def _run_stream(self, more: More, timeout: Timeout, deadline: float | None) -> Iterator:
        while deadline is None or not time.monotonic() >= deadline:
            self._check_open()
            if (call := more()) is None:
                return
            yield from self._run([call], timeout, deadline, alone=False)

    def _result(self, call: Call) -> Any:
        blob = dump_call(call)
        attempts, kind = 0, "out_of_memory"
        while kind == "out_of_memory" and attempts < MAX_ATTEMPTS:
            attempts += 1
            with contextlib.redirect_stdout(sys.stderr):
                reply = run_call(self._target, blob)
            kind, value = load_reply(reply)
            if kind == "ok":
                return value
        return Failure("error" if kind == "device_lost" else kind, value, attempts)
