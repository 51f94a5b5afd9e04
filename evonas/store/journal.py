"""The journal: finished evaluations, one checksummed JSON line each, durable one by one."""

from __future__ import annotations

import errno
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import EXIT_FAILED, EvonasError
from ..plain_files import open_plain

MAX_LINE = 4 * 2**20  # bytes; an evaluation takes about 2,000
MAX_BYTES = 2**28  # of a journal: a first generation of 100,000, or a sixteenth of a run of a million
_HEAD, _MIDDLE, _TAIL = b'{"crc32":"', b'","row":', b"}\n"
_BODY_AT = len(_HEAD) + 8 + len(_MIDDLE)


def encode_line(row: Mapping[str, Any]) -> bytes:
    """``{"crc32":"<8 hex digits>","row":{...}}`` and a newline; the checksum covers the bytes of the row."""
    body = json.dumps(row, separators=(",", ":")).encode("ascii")
    return _HEAD + b"%08x" % zlib.crc32(body) + _MIDDLE + body + _TAIL


def decode_line(line: bytes) -> dict[str, Any] | None:
    """The row of one whole line, or None where the line is torn or its checksum does not fit."""
    body = line[_BODY_AT : -len(_TAIL)]
    head_fits = line.startswith(_HEAD) and line[len(_HEAD) + 8 : _BODY_AT] == _MIDDLE
    if not head_fits or not line.endswith(_TAIL) or line[len(_HEAD) : len(_HEAD) + 8] != b"%08x" % zlib.crc32(body):
        return None
    try:
        row = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


class JournalReader:
    """The rows of a journal as it was when this was made, one by one; ``good`` says how many bytes those given so far
    have. A missing journal has none; a torn last line is left out. In a ``with`` block.

    Raises EvonasError: at once for an overlong journal, on the way for a bad line that is not the last, or an overlong
    one.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.good = path, 0
        try:
            self._file = open_plain(path)
        except FileNotFoundError:
            self._file = io.BytesIO()
        except OSError as error:
            raise EvonasError(f"{path} can't be read: {error.strerror}", exit_code=EXIT_FAILED) from error
        size = self._left = self._file.seek(0, io.SEEK_END)  # beyond it, a writer is at work
        self._file.seek(0)
        if size > MAX_BYTES:
            self._file.close()
            raise EvonasError(
                f"{path} has {size} bytes; at most {MAX_BYTES} are read",
                "evonas never lets it grow so: restore it from a copy, or remove it to go on from population.h5.",
                exit_code=EXIT_FAILED,
            )

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        lines = 0
        try:
            while line := self._file.readline(min(MAX_LINE + 1, self._left)):
                self._left -= len(line)
                row = decode_line(line) if len(line) <= MAX_LINE else None
                if row is None:
                    if len(line) > MAX_LINE or self._left:
                        raise EvonasError(
                            f"{self.path}: line {lines + 1} is damaged and more lines follow",
                            f"Delete that line and those after it to go on from the evaluations before it; "
                            f"what was committed to population.h5 is not touched. Good bytes: {self.good}.",
                            exit_code=EXIT_FAILED,
                        )
                    return
                lines, self.good = lines + 1, self.good + len(line)
                yield row
        except OSError as error:
            raise EvonasError(f"{self.path} can't be read: {error.strerror}", exit_code=EXIT_FAILED) from error


class Journal:
    """The writer's end. One process holds it; ``append`` returns when the line is on the disk.

    Raises OSError as the disk does; after one, the journal ends where it ended before the call, or refuses all
    further lines.
    """

    def __init__(self, path: Path, good: int) -> None:
        """Open for appending after ``good`` bytes, cutting off a torn tail."""
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        self._end = good
        self._usable = True
        try:
            if os.fstat(self._fd).st_size != good:
                os.ftruncate(self._fd, good)
                os.fsync(self._fd)
            os.lseek(self._fd, good, os.SEEK_SET)
        except OSError:
            os.close(self._fd)
            raise

    def append(self, line: bytes) -> None:
        if not self._usable:
            raise OSError("the journal could not be mended after an earlier disk error")
        self.check_place()
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)
        except BaseException:  # Ctrl-C leaves half a line as well as a full disk does
            self._cut_back()
            raise
        self._end += len(line)

    def check_place(self) -> None:
        """Raise OSError where the run's folder, or the journal in it, is another by now, or has another writer."""
        # What is written to a file that was removed, or whose folder was, is on no disk that anyone will look at.
        found = os.fstat(self._fd)
        if not os.path.samestat(found, os.stat(self.path)):
            raise OSError(errno.ESTALE, "the journal was replaced by another file")
        # Where file systems do not share their locks, two may write: each over the other's lines.
        if self._usable and found.st_size != self._end:
            raise OSError(errno.ESTALE, "the journal was written by another process")

    def clear(self) -> None:
        """Replace the file by an empty one, so that a reader in the middle of it keeps what it opened."""
        fresh = self.path.with_name(self.path.name + ".tmp")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o644)
        try:
            os.fsync(fd)
            if os.name == "nt":  # an open file can't be replaced there
                os.close(self._fd)
                self._fd = -1
            os.replace(fresh, self.path)
        except OSError:
            os.close(fd)
            if self._fd < 0:
                self._usable = False
            raise
        old, self._fd, self._end = self._fd, fd, 0
        if old >= 0:
            os.close(old)
        sync_folder(self.path.parent)

    def close(self) -> None:
        self._usable = False
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _cut_back(self) -> None:
        # Without this the next line would be glued to a torn one and both would be lost.
        try:
            os.ftruncate(self._fd, self._end)
            os.lseek(self._fd, self._end, os.SEEK_SET)
        except OSError:
            self._usable = False


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable (Windows has no such call and does so by itself)."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
