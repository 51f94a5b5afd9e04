"""Where a run's times come from: what it was moved from stays in its records, and is not compared with what is here."""

from __future__ import annotations

from .store import Store

MOVED = "measured_here_from"  # a note of the header: the first generation in which times are those of this device


def moved_at(store: Store) -> int:
    """The first generation in which times are those of this device; 0 where the run was always here."""
    found = store.header["notes"].get(MOVED)
    return found if type(found) is int else 0
