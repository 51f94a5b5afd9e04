"""Targets for the executor tests: workers import this file by name, from the directory the tests put on sys.path."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

from evonas.errors import EvonasError
from evonas.safepoint import safepoint


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


class AwkwardError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class LostDevice:
    """What of torch.cuda is asked for."""

    def is_initialized(self):
        return True

    def synchronize(self):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    empty_cache = synchronize


class Target:
    """Writes what it does into ``folder``: one file per attempt, and a log of spans."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = 0

    def square(self, x):
        return x * x

    def square_later(self, x, seconds):
        time.sleep(seconds)
        return x * x

    def wait_for(self, name):
        while not (self.folder / name).exists():
            time.sleep(0.01)
        return name

    def meet(self, mine, other):
        """Log a span that ends when the other one has begun."""
        with self._span(mine):
            (self.folder / mine).touch()
            self.wait_for(other)
        return "met"

    def draw(self, seed):
        return random.Random(seed).random()

    def count(self):
        self.calls += 1
        return self.calls

    def pid(self):
        return os.getpid()

    def environment(self, name):
        return os.environ.get(name)

    def fail(self, message):
        raise ValueError(message)

    def fail_awkwardly(self):
        raise AwkwardError

    def exit(self, status):
        sys.exit(status)

    def user_error(self):
        raise EvonasError("the data is missing", "Give --data PATH.", exit_code=1)

    def unpicklable_result(self):
        return lambda: None

    def change(self, values):
        values.append("changed")
        return values

    def say(self, text):
        print(text)
        subprocess.run(["echo", text], check=True)
        return text

    def chatter(self, text, times):
        for _ in range(times):
            print(text)

    def run_out_of_memory(self, name, kind, times):
        """Out of memory on the first ``times`` attempts; logs the span of each attempt."""
        with self._span(name):
            if self._attempt(name) <= times:
                raise {
                    "host": MemoryError(),
                    "torch": OutOfMemoryError("CUDA: tried to allocate 2 GiB"),
                    "message": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
                    "system": OSError(12, "Cannot allocate memory"),
                }[kind]
        return name

    def lose_device(self, name, times):
        """As if this process's GPU could not be used any more, on the first ``times`` attempts."""
        attempt = self._attempt(name)
        if attempt <= times:
            sys.modules["torch"] = types.SimpleNamespace(cuda=LostDevice())
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return attempt

    def die(self, name, how, times):
        """End the worker on the first ``times`` attempts, else return the number of the attempt."""
        attempt = self._attempt(name)
        if attempt <= times:
            if how == "exit":
                os._exit(3)
            os.kill(os.getpid(), signal.SIGKILL)
        return attempt

    def log_span(self, name, seconds):
        """It may rest now and then."""
        with self._span(name):
            for _ in range(max(1, round(seconds / 0.01))):
                time.sleep(min(0.01, seconds))
                safepoint()
        return os.getpid()

    def tick_until(self, name):
        """Write a byte now and then until there is such a file; how many."""
        path = self.folder / "ticks"
        while not (self.folder / name).exists():
            with open(path, "ab") as file:
                file.write(b".")
            time.sleep(0.005)
            safepoint((self.folder / "settled").touch)
        return path.stat().st_size

    def rest_late(self, name, seconds):
        """There is such a file, and after so many seconds a safepoint."""
        (self.folder / name).touch()
        time.sleep(seconds)
        safepoint()
        return name

    def long(self, size, name):
        """So many characters; there is a file when they are about to be sent."""
        (self.folder / name).touch()
        return "x" * size

    def watch_ticks(self, seconds):
        """How many bytes there are, and after so many seconds."""
        path = self.folder / "ticks"
        before = path.stat().st_size
        time.sleep(seconds)
        return before, path.stat().st_size

    def hang_with_child(self, name):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        path = self.folder / f"{name}.tmp"
        path.write_text(f"{os.getpid()} {child.pid}")
        path.rename(self.folder / name)
        time.sleep(600)

    def can_not_be_ended(self, name):
        """Hang in a process that, killed, stays in the table: whoever traces it has the first look at its end. False
        where tracing is not allowed."""
        script = (
            "import ctypes, sys, time\n"
            "ptrace = ctypes.CDLL(None).ptrace\n"
            "ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]\n"
            "print(ptrace(0x4206, int(sys.argv[1]), None, None), flush=True)\n"  # PTRACE_SEIZE
            "time.sleep(600)\n"
        )
        command = [sys.executable, "-c", script, str(os.getpid())]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}  # none of ours stays open in it
        tracer = subprocess.Popen(command, **pipes, text=True, start_new_session=True)
        (self.folder / name).write_text(str(tracer.pid))
        if tracer.stdout.readline() != "0\n":
            return False
        time.sleep(600)

    def die_leaving_child(self, name):
        """End with status 3 while a forked child still holds this worker's pipes open."""
        child = os.fork()
        if child == 0:
            time.sleep(600)
            os._exit(0)
        with open(self.folder / name, "a") as file:
            file.write(f"{child}\n")
        os._exit(3)

    def _attempt(self, name) -> int:
        number = 1
        while True:
            try:
                os.close(os.open(self.folder / f"{name}.{number}", os.O_CREAT | os.O_EXCL))
                return number
            except FileExistsError:
                number += 1

    def _span(self, name):
        return _Span(self.folder / "spans", name)


class _Span:
    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def _write(self, event: str) -> None:
        with open(self.path, "a") as file:  # one short write in append mode: whole lines, in order
            file.write(f"{event} {self.name}\n")

    def __enter__(self) -> None:
        self._write("begin")

    def __exit__(self, *_: object) -> None:
        self._write("end")


class OneDevice(Target):
    """Its calls share a device, which goes on when a process is stopped."""

    one_device = True


class Broken:
    """Pickles, but raises in the worker that unpickles it."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self):
        return (_break, (self.how, os.getpid()))


def _break(how: str, parent: int):
    if os.getpid() == parent:
        return pickle.loads(pickle.dumps(how))
    if how == "raise":
        raise ImportError("no module named 'missing_part'")
    os._exit(7)


class Prepared(Target):
    """Knows, in every worker, whether it was prepared before its first call."""

    prepared = False

    def prepare(self):
        self.prepared = True

    def is_prepared(self):
        return self.prepared


class Unprepared(Target):
    def prepare(self):
        raise ValueError("no such device")
