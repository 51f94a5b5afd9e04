"""One writer per run: a file lock that the system frees when its holder dies."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import EXIT_FAILED, EvonasError
from ..plain_files import open_plain

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

# Windows locks bytes, and a locked byte can't be read: lock one far behind the JSON.
_WINDOWS_BYTE = 2**30
_TRIES, _PAUSE = 60, 0.05  # for the folder's lock: three seconds
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class WriterLock:
    """Held from construction to ``close``. Raises EvonasError naming the holder when another process has it; ``kind``
    is what the folder of ``path`` holds."""

    def __init__(self, path: Path, kind: str = "run") -> None:
        self.path = path
        # One process at a time, so that nobody finds a lock that is held and still names a dead holder.
        with _alone_in(path.parent):
            self._fd = _acquire(path)
            if self._fd < 0 and _is_orphaned(read_holder(path)):
                # A forked worker of the holder still keeps it; that never writes to the run.
                path.unlink(missing_ok=True)
                self._fd = _acquire(path)
            if self._fd < 0:
                raise _refusal(path, read_holder(path), kind)
            self._sign()

    @property
    def held(self) -> bool:
        """Whether the lock still lies where it was taken."""
        return self._fd >= 0 and _is_current(self._fd, self.path)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        # The file stays: removing it would let two processes lock two files of that name.
        try:
            os.ftruncate(fd, 0)
        except OSError:
            pass
        finally:
            os.close(fd)

    def _sign(self) -> None:
        start = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "start": start, "pids": _pid_namespace()}
        text = json.dumps(holder)
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.write(self._fd, text.encode())


def read_holder(path: Path) -> dict[str, Any]:
    """What the lock file says of its holder; empty when it says nothing."""
    try:
        with open_plain(path) as file:
            holder = json.loads(file.read(4096))
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def writer(path: Path) -> dict[str, Any] | None:
    """Who holds the lock, as far as the lock file tells; None when nobody does."""
    holder = read_holder(path)
    return holder if holder and not _is_orphaned(holder) and not _is_free(path) else None


def _is_free(path: Path) -> bool:
    """Whether nobody has the lock, whoever the file names: another host, or a process number that is used again."""
    if fcntl is None:
        return False
    try:
        with open_plain(path) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _acquire(path: Path) -> int:
    """The descriptor of the locked file, or -1 where another process holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    if _try_lock(fd) and _is_current(fd, path):
        return fd
    os.close(fd)
    return -1


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Within the block, which takes a millisecond, no other process is in one of the same folder; not where its file
    system locks no folders, or somebody else holds the folder's lock for long (flock(1) around a command does)."""
    if fcntl is None:
        yield
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_PAUSE)
            except OSError:
                break
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(fd, _WINDOWS_BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        os.close(fd)
        raise
    return True


def _is_current(fd: int, path: Path) -> bool:
    """Whether ``path`` still names the locked file, and not one that a faster process put in its place."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def _is_orphaned(holder: dict[str, Any]) -> bool:
    """Whether the named holder certainly no longer runs: it was on this host and its pid is free, where pids mean the
    same here (in two containers of one host they do not)."""
    pid, pids = holder.get("pid"), _pid_namespace()
    if holder.get("pids", pids) != pids:
        return False
    # os.kill(pid, 0) asks on POSIX; on Windows it would send Ctrl-C.
    if fcntl is None or not isinstance(pid, int) or pid <= 0 or holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _pid_namespace() -> str:
    """What tells these process numbers from those of another container, or of a clone of this host by the same name;
    empty where nothing does. The next boot has another, but it frees the lock."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    with contextlib.suppress(OSError):
        parts.append(_BOOT.read_text("ascii", "replace").strip())
    return " ".join(parts)


def _refusal(path: Path, holder: dict[str, Any], kind: str) -> EvonasError:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}, since {holder.get('start', '?')}"
    return EvonasError(
        f"{kind} {path.parent.name!r} is being written by {who}",
        "Wait for it or stop it" + ("; reading it ('evonas report') works meanwhile." if kind == "run" else "."),
        exit_code=EXIT_FAILED,
    )
