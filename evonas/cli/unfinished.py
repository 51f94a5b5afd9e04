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
_WEIGHTS, _OTHERS = "weights.safetensors", ("genome.json", "curve.csv", "weights.partial")


class Unfinished:
    """Holds ``folder`` for one training, until ``finish`` or ``leave``.

    Args:
        told: what the training is told, as JSON has it; one that was told otherwise is not gone on with.

    Raises EvonasError where the folder can't be made, holds anything but such a training, or another process has it.
    """

    def __init__(self, folder: Path, told: Mapping[str, Any]) -> None:
        from ..store.lock import WriterLock

        self.folder = folder
        try:
            if not self._is_begun():
                make_folder(folder)
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

    @property
    def weights(self) -> Path:
        """Where its best weights are."""
        return self.folder / _WEIGHTS

    @property
    def held(self) -> bool:
        """Whether the folder is still this training's: it may have been removed, and begun by another."""
        return self._lock.held

    def check(self) -> None:
        """Raise EvonasError where the folder was taken away."""
        if not self.held:
            raise EvonasError(f"{self.folder} is no longer this training's", exit_code=EXIT_FAILED)

    def _is_begun(self) -> bool:
        """Whether there is a training, or the lock of one that was killed before it said what it was told."""
        if not (self.folder / _LOCK).is_file() or any(path.is_symlink() for path in self.folder.iterdir()):
            return False  # what a link leads to would be written to
        return _read(self.folder / _TOLD) is not None or not self._names() - {_LOCK, _FRESH}

    def _names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def _begin(self, told: dict[str, Any]) -> None:
        before = _read(self.folder / _TOLD)
        try:
            if before is None:
                if self._names() - {_LOCK, _FRESH}:  # it has just ended
                    (self.folder / _LOCK).unlink()
                    make_folder(self.folder)  # refuses it
                (self.folder / _FRESH).write_text(json.dumps(told), encoding="utf-8")
                os.replace(self.folder / _FRESH, self.folder / _TOLD)
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        if before not in (None, told):
            changed = [f"{k} {before.get(k)!s:.200} then, {v} now" for k, v in told.items() if before.get(k) != v]
            raise EvonasError(
                f"{self.folder} holds a training that was interrupted and was told otherwise: {'; '.join(changed)}",
                "Tell it the same to go on, with the same version of evonas, or choose another folder with -o DIR.",
            )
        self._remove()

    def finish(self) -> None:
        """The training has ended: keep its results alone."""
        if self.held:
            self._remove(_TOLD)  # first: from here on the folder is that of a training that has ended
            self._remove(_KEPT, _FRESH, _LOCK)
        self._lock.close()

    def leave(self) -> bool:
        """Leave it to be gone on with; whether there is anything to go on with. A folder without that and without
        weights is removed."""
        if self.held and self.kept.exists() and (self.folder / _TOLD).exists():
            self._lock.close()
            return True
        useless = self.held and not self.weights.exists()
        self.finish()
        if useless:
            self._remove(*_OTHERS)
            with contextlib.suppress(OSError):
                self.folder.rmdir()
        return False

    def _remove(self, *names: str) -> None:
        """These, and what a kill has left half-written."""
        for path in (*(self.folder / name for name in names), *self.folder.glob("training.*.partial")):
            with contextlib.suppress(OSError):
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
