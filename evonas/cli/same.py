"""What may meet on one front: whether losses are of the same data, and of the same trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..errors import EvonasError
from .evaluator import needs_of

if TYPE_CHECKING:
    from ..config import Settings
    from ..fitness import ProxyEvaluator
    from ..store import Known, Store

_SAME_TRAINING = "task", "context", "seed", "device", "precision", "tokens", "rungs", "validation_tokens"
_SAME_VERSION = "scaled_rates", "sparing_muon"


def reused(settings: Settings, evaluator: ProxyEvaluator, data: str | None, again: bool) -> Known | None:
    """What the runs of --reuse have to give. One that has gone is an error, but ``again``, on a resume, only a note."""
    from ..fitness import device_text
    from ..store import Store, known_from

    stores = []
    for path in settings.reuse:
        try:
            store = Store.open(path)
            check_same(store, settings, data, again)
        except EvonasError as error:
            if not again:
                raise
            click.echo(f"Note: nothing is reused of {path}: {error.message}", err=True)
            continue
        stores.append(store)
    if not stores:
        return None
    return known_from(stores, evaluator.measured_names, evaluator.trained_names, device_text(settings.device))


def check_same(store: Store, settings: Settings, data: str | None, again: bool = False) -> None:
    """A loss can be taken over only where the same training would be done again. ``again``: on a resume."""
    other, mine = (s.to_dict() for s in (type(settings).from_dict(store.header["settings"]), settings))
    hint = "Only runs of the same task, data, context, seed, device, precision, tokens and rungs can."
    for key in _SAME_TRAINING:
        if other[key] != mine[key]:
            raise EvonasError(
                f"run {store.name!r} can't be reused: its {key.replace('_', ' ')} is {other[key]}, not {mine[key]}",
                hint,
            )
    if "memory" in needs_of(settings) and other["whole_memory"] != mine["whole_memory"]:
        raise EvonasError(
            f"run {store.name!r} can't be reused: an earlier version made it, which measured memory otherwise",
            "Leave out --reuse.",
        )
    if differ := [key for key in _SAME_VERSION if other[key] != mine[key]]:
        raise EvonasError(
            f"run {store.name!r} can't be reused: an earlier version made it, which trained otherwise "
            f"({', '.join(differ)})",
            "Leave out --reuse.",
        )
    # A task that does not tell its data from other data; a resumed run was compared, and may have been moved.
    if data is None and not again and other["data"] != mine["data"]:
        raise EvonasError(
            f"run {store.name!r} can't be reused: its data is {other['data']}, not {mine['data']}",
            "Give the same --data.",
        )
    if store.header["notes"].get("data") != data:
        raise EvonasError(
            f"run {store.name!r} can't be reused: it learned from other data ({store.header['notes'].get('data')})",
            "Give the same --data.",
        )


def check_data(store: Store, settings: Settings, data: str | None, verb: str = "Resume") -> None:
    """Losses on two texts must not meet on one front, nor in one calibration."""
    then = store.header["notes"].get("data")
    moved = settings.data != store.header["settings"].get("data")  # said by --data
    if not then or not data:
        if moved:
            click.echo(f"Note: whether {settings.data} is what run {store.name!r} began with can't be told", err=True)
        return
    if then == data:
        return
    what = "the embedded corpus" if settings.data is None and settings.task == "text" else settings.data or "its data"
    python = store.header["versions"].get("python", "?")
    cure = f"{verb} it with Python {python}" if settings.data is None else "Put the old file back"
    cure = "Say where the old file lies" if moved else cure
    raise EvonasError(
        f"{what} is not what run {store.name!r} began with: {then} then, {data} now",
        f"{cure}, or start a new run: evonas evolve.",
    )
