"""The folder of a training until it ends: the same command goes on with what is there."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import EXIT_FAILED, EvonasError
from ..plain_files import open_plain
from .folder import make_folder

_TOLD, _KEPT, _LOCK, _FRESH = "training.json", "training.safetensors", "training.lock", "training.partial"
_LONGEST = 2**16  # bytes of a _TOLD
_RESULTS = ("weights.safetensors", "genome.json", "curve.csv")


class Unfinished:
    """Holds ``folder`` for one training, until ``finish`` or ``leave``.

    Args:
        told: what the training is told, as JSON has it; one that was told otherwise is not gone on with.

    Raises EvonasError where the folder can't be made, holds anything but such a training, or another process has it.
    """

    def __init__(self, folder: Path, told: Mapping[str, Any]) -> None:
        from ..store.lock import WriterLock

        self.folder = folder
        if not (folder / _LOCK).exists():
            make_folder(folder)
        try:
            self._lock = WriterLock(folder / _LOCK, "training")
        except OSError as error:
            raise _unwritable(folder, error) from None
        try:
            self._begin(dict(told))
        except BaseException:
            self._lock.close()
            raise

    @property
    def kept(self) -> Path:
        """Where the training is written down."""
        return self.folder / _KEPT

    def _begin(self, told: dict[str, Any]) -> None:
        before = _read(self.folder / _TOLD)
        if before is None:
            # Empty but for the lock of one that was killed at once; or else it was finished, or was never a training.
            if {path.name for path in self.folder.iterdir()} - {_LOCK, _FRESH}:
                (self.folder / _LOCK).unlink()
                make_folder(self.folder)  # refuses it
            try:
                (self.folder / _FRESH).write_text(json.dumps(told), encoding="utf-8")
                os.replace(self.folder / _FRESH, self.folder / _TOLD)
            except OSError as error:
                raise _unwritable(self.folder, error) from None
        elif before != told:
            changed = [f"{k} {before.get(k)!s:.60} then, {v} now" for k, v in told.items() if before.get(k) != v]
            raise EvonasError(
                f"{self.folder} holds a training that was interrupted and was told otherwise: {'; '.join(changed)}",
                "Tell it the same to go on, or choose another folder with -o DIR.",
            )

    def finish(self) -> None:
        """The training has ended: keep its results alone."""
        self._remove(_TOLD)  # first: from here on the folder is that of a training that has ended
        self._remove(_KEPT, _FRESH, _LOCK)
        self._lock.close()

    def leave(self) -> bool:
        """Leave it to be gone on with; whether there is anything to go on with. A folder without that and without
        weights is removed."""
        there = self.kept.exists()
        if not there:
            self.finish()
            if not (self.folder / "weights.safetensors").exists():
                self._remove(*_RESULTS, "weights.partial")
                with contextlib.suppress(OSError):
                    self.folder.rmdir()
        self._lock.close()
        return there

    def _remove(self, *names: str) -> None:
        with contextlib.suppress(OSError):
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
            for path in self.folder.glob("training.*.partial"):
                path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with open_plain(path) as file:
            told = json.loads(file.read(_LONGEST))
    except (OSError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _unwritable(folder: Path, error: OSError) -> EvonasError:
    return EvonasError(f"{folder} can't be written: {error.strerror}", exit_code=EXIT_FAILED)
