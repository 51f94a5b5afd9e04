"""Safepoints: where a long call may rest while something is measured on the device that it uses.

A process that is stopped from outside leaves a GPU busy with what it has queued there; one that is asked comes to rest
first.
"""

from __future__ import annotations

from collections.abc import Callable

Settle = Callable[[], None] | None

_rest: Callable[[Settle], None] | None = None


def safepoint(settle: Settle = None) -> None:
    """Rest here for as long as somebody wants it; for the loop of what runs long, in the thread of a worker that was
    called: no other thread, and no process that it has started, is held up. In most processes nobody asks.

    Args:
        settle: waits until the device has done what this process has queued on it; called before a rest.
    """
    if _rest is not None:
        _rest(settle)


def rest_by(rest: Callable[[Settle], None] | None) -> None:
    """``rest`` is called at every safepoint of this process from now on: it calls ``settle`` and waits, or returns at
    once. None: nobody asks any more."""
    global _rest
    _rest = rest
