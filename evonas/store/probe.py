"""A first look at a ``population.h5`` from elsewhere, in a process of its own.

HDF5 is C code that trusts its files: on some damaged ones it crashes, on others (a free block of length 0 in a heap of
texts, for one) it loops for ever, and on some it asks for any amount of memory; nothing in Python can stop that. So a
file that this process has neither written nor looked at before is read once by a child, in bounded time and memory,
which has HDF5 do just what a reader has it do. It takes some 0.2 s, and half a second for 100,000 evaluations. What
counts against the file is the processor's time alone: a disk, or a start, that is slow says nothing of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..errors import EvonasError

SECONDS, SECONDS_PER_MB = 20.0, 1.0  # given to HDF5; a run of 100,000 evaluations takes about two, at 60 MB
WAIT = 600.0  # seconds more until the child is waited for no longer
_TIMED = hasattr(signal, "setitimer")  # on Windows all of its time counts
_STOPPED = [getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
MEMORY, MEMORY_PER_BYTE = 2**30, 64  # bytes the child may take, and for each byte of the file; a run takes about 20
_NO_MEMORY = 3  # its exit status where that was not enough
_known: set[tuple[int, ...]] = set()


def know(data: Path) -> None:
    """Remember ``data`` as one that can be read. Raises OSError."""
    _known.add(_stamp(data))


def check_readable(data: Path) -> None:
    """Raise ValueError where HDF5 does not survive reading ``data``, OSError where there is no such file, EvonasError
    where that can't be told now."""
    stamp = _stamp(data)
    if stamp in _known:
        return
    patience = SECONDS + SECONDS_PER_MB * stamp[2] / 1e6
    limit = patience + WAIT if _TIMED else patience
    try:
        # By its path: with -m or -c, modules in the working folder would be imported.
        done = subprocess.run(
            [sys.executable, __file__, str(data), str(patience)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        if _TIMED:
            raise _not_now(data, f"it is not read in {limit:.0f} s") from None
        raise _endless(patience) from None
    except OSError:  # no process can be started here
        return
    if done.returncode == _NO_MEMORY:
        raise ValueError(
            f"HDF5 asks for more than {MEMORY // 2**20 + MEMORY_PER_BYTE * stamp[2] // 2**20} MB to read it"
        )
    if _TIMED and done.returncode == -signal.SIGPROF:
        raise _endless(patience)
    if -done.returncode in _STOPPED:
        raise _not_now(data, f"who reads it was stopped by {signal.Signals(-done.returncode).name}")
    if not 0 <= done.returncode < 256:  # a signal; on Windows an exception's number
        raise ValueError(f"HDF5 crashes on it (status {done.returncode})")
    _known.add(stamp)


def _endless(patience: float) -> ValueError:
    return ValueError(f"HDF5 does not come to the end of it in {patience:.0f} s")


def _not_now(data: Path, why: str) -> EvonasError:
    from ..errors import EXIT_FAILED, EvonasError  # the child has no package

    return EvonasError(
        f"{data} can't be read now: {why}",
        "That need not be the file's fault: see that memory is free and its disk answers, then try again.",
        exit_code=EXIT_FAILED,
    )


def _stamp(data: Path) -> tuple[int, ...]:
    about = os.stat(data)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that there was no memory; HDF5 does so in words."""
    return isinstance(error, MemoryError) or "memory allocation failed" in str(error)


def _read(data: str, patience: float) -> None:
    import h5py

    from evonas.store.layout import TABLES, read_header, touch_table

    _limit_memory(MEMORY + MEMORY_PER_BYTE * os.stat(data).st_size)
    if _TIMED:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, patience)
    with h5py.File(data, "r", locking=False) as file:
        read_header(file)
        for table in TABLES:
            touch_table(file, table)


def _limit_memory(more: int) -> None:
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not on Linux: without a limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    here = Path(__file__).resolve()
    sys.path = [p for p in sys.path if Path(p).resolve() != here.parent] + [str(here.parents[2])]
    try:
        _read(sys.argv[1], float(sys.argv[2]))
    except Exception as error:  # whoever asked will see any other too, and say it
        sys.exit(_NO_MEMORY if out_of_memory(error) else 0)
