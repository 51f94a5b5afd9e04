"""Folders that a command makes."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..errors import EvonasError


def make_folder(folder: Path) -> None:
    """Make an output folder; raises EvonasError where it can't be made or holds something already."""
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        other = shlex.quote(f"{folder}-2")
        raise EvonasError(f"{folder} exists and is not empty", f"Choose another folder with -o DIR: -o {other}, say.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvonasError(f"{folder} can't be made: {error.strerror}", "Choose another folder with -o DIR.") from None
