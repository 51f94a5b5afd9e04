"""What a run notes of itself in its header, beside what its data was."""

from __future__ import annotations

from contextlib import suppress

from ..errors import EvonasError
from .store import SPENT, Store

MOVED = "measured_here_from"  # the first generation in which times are those of this device
_REVISED = "times_revised_before"  # the first generation after settling has changed times of earlier ones
UNSETTLED = "unsettled"  # true from the search's end until what follows it, settling and calibrating, is done
_AIMED = "aimed_at_seconds"  # what the run had taken when it was last told how far to go
ENDED = "ended"  # why the search came to its end, as ``Search.run`` says it; not there while it has not


def moved_at(store: Store) -> int:
    """The first generation in which times are those of this device; 0 where the run was always here. What was measured
    elsewhere stays in the records and is not compared with what is here."""
    return _generation(store, MOVED)


def compared_from(store: Store) -> int:
    """The first generation whose hypervolume is of the times that count now: a move and settling change them."""
    return max(_generation(store, MOVED), _generation(store, _REVISED))


def note_revised(store: Store) -> None:
    """Note that settling changes times of the generations up to here."""
    _note(store, **{_REVISED: store.done})


def note_aim(store: Store) -> None:
    """Note that the run is told from here how far to go."""
    _note(store, **{_AIMED: store.seconds})


def seconds_since_aim(store: Store) -> float:
    """What the run has taken since it was last told how far to go; of a run that never was again, all of it."""
    found = store.header["notes"].get(_AIMED)
    # After a kill the run is where it last stored something, which may be before it was told.
    before = min(found, store.seconds) if type(found) in (int, float) and found >= 0 else 0.0
    return store.seconds - before


def note_spent(store: Store) -> None:
    """Note what the run has taken up to now, of which what it stores tells only the time up to the last evaluation;
    not where the disk fails."""
    with suppress(EvonasError):
        _note(store, **{SPENT: store.seconds})


def note_end(store: Store, why: str | None, unsettled: bool = False) -> None:
    """Note why the search has ended, and whether what follows it is still to be done; None: that it goes on."""
    _note(store, **{ENDED: why, UNSETTLED: unsettled or None})


def note_settled(store: Store) -> None:
    """Note that what follows a search is done, or not wanted."""
    _note(store, **{UNSETTLED: None})


def _generation(store: Store, name: str) -> int:
    found = store.header["notes"].get(name)
    return found if type(found) is int else 0


def _note(store: Store, **changes: object) -> None:
    """None takes a note back."""
    notes = {name: note for name, note in {**store.header["notes"], **changes}.items() if note is not None}
    if notes != store.header["notes"]:
        store.set_header(notes=notes)
