"""The one exception a user sees, and the exit codes of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
UPGRADE = "Upgrade your clone of evonas: git pull && pip install -e ."  # it is on no package index


class EvonasError(Exception):
    """Something the user can mend.

    Args:
        message: what was given and what is allowed, one sentence.
        hint: what to type or do next.
        exit_code: ``EXIT_USAGE`` for wrong input (the default), ``EXIT_FAILED`` when a run itself failed.
    """

    def __init__(self, message: str, hint: str = "", *, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self):
        return (_rebuild, (self.message, self.hint, self.exit_code))


def _rebuild(message: str, hint: str, exit_code: int) -> EvonasError:
    return EvonasError(message, hint, exit_code=exit_code)


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """A hint that names the nearest allowed name, or lists all of them."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else f"Allowed: {', '.join(allowed)}."


def exit_code_of(error: OSError) -> int:
    """Of a file that can't be written: wrong usage where another place would do, else (a full disk) the run failed."""
    elsewhere = FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError
    return EXIT_USAGE if isinstance(error, elsewhere) else EXIT_FAILED
