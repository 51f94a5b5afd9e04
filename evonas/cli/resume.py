"""``evonas resume``: go on with a search."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import click

from ..errors import EvonasError
from .hands import Hands
from .options import data_option, end_of, generations_to_do, moved_data, search_options, share_of
from .running import run_search

if TYPE_CHECKING:
    from ..config import Settings
    from ..store import Store

_LEAST = 60.0  # seconds that an interrupted run goes on for, unless its whole budget is less
_ENDS = {  # why a search ended -> what is said of the run
    "budget": "has spent its budget",
    "patience": "has ended, as its hypervolume had ceased to grow",
    "exhausted": "has seen every genome of its space",
    "unknown": "had a time budget and no other end",
}


@click.command()
@click.argument("run", required=False)
@click.option(
    "--generations",
    type=int,
    metavar="N",
    help="Go on until N generations are done in all. Default: as the run was told; with --budget, no limit.",
)
@click.option("--timeout", metavar="TIME", help="Longest training of one candidate from now on. Default: the run's.")
@data_option
@search_options
def resume(run, generations, timeout, data, budget, patience, workers, asynchronous, calibrate, executor) -> None:
    """Continue an interrupted RUN, or extend a finished one. Default: the newest run.

    Without options an interrupted search ends as it was told to: after its generations, with what was left of its
    budget (a minute at least), by its patience, with its calibration. One that was killed once its search was done
    gets what follows it: near-ties are measured again, and its calibration. --generations (in all) and --budget (from
    now on) are another end, and then only what is given here counts. --workers and --executor are not remembered: give
    them again.

    \b
    evonas resume my-run
    evonas resume my-run --generations 80
    """
    started = time.monotonic()
    from ..config import Settings, parse_duration
    from ..genome import space_from_dict
    from ..store import Store, find_run, seconds_since_aim
    from .trust import check_task_of_run

    deadline, share = end_of(budget, started), share_of(calibrate)
    folder = find_run(run)
    if not folder.is_dir():
        raise EvonasError(f"{folder} is not the folder of a run", "Give the run's name, as in runs/NAME.")
    with Store.open(folder, write=True) as store:
        settings = Settings.from_dict(store.header["settings"])
        check_task_of_run(settings.task, folder)
        _check_device(settings, store)
        _check_calibrating(store)
        _tell_machine(settings, store, executor)
        earlier, ended = 0.0, None
        as_told = generations is None and budget is None
        if as_told:
            changes = {"patience": patience or settings.patience, "calibrate": share or settings.calibrate}
            ended = None if patience else _unsettled(store)
            if ended is None:
                _check_unfinished(settings, store, patience is not None)
            earlier = seconds_since_aim(store)
            if settings.budget is not None:
                deadline = started + max(settings.budget - store.seconds, min(_LEAST, settings.budget))
        else:
            whole = None if deadline is None else store.seconds + deadline - started
            goal = generations_to_do(generations, budget)
            changes = {"generations": goal, "budget": whole, "patience": patience, "calibrate": share}
        changes |= moved_data(data)
        if asynchronous is not None:
            changes["asynchronous"] = asynchronous
        if timeout is not None:
            changes["timeout"] = parse_duration(timeout)
        settings = dataclasses.replace(settings, **changes)
        if store.done >= settings.generations and ended is None and not (as_told and _never_ended(store)):
            raise EvonasError(
                f"run {store.name!r} has done its {store.done} generations",
                f"Extend it: {_further(store)}{_or_calibrate(settings, store)}",
            )
        space = space_from_dict(store.header["space"], stored=True)
        hands = Hands(workers, executor, asynchronous)
        run_search(settings, space, folder, store, deadline, hands, earlier, ended, not as_told)


def _check_device(settings: Settings, store: Store) -> None:
    from ..fitness import resolve_device

    try:
        resolve_device(settings.device)
    except EvonasError as error:
        raise EvonasError(
            f"run {store.name!r} measures on {settings.device}: {error.message}",
            f"Resume it on such a machine, or start a run here: evonas evolve --seed-genome {store.reference}:ID",
        ) from None


def _check_calibrating(store: Store) -> None:
    """Raise EvonasError where the run is being calibrated: that would spoil the times measured beside it."""
    from .calibrating import LOCK, calibrating

    if (store.folder / LOCK).exists():
        with calibrating(store.folder):
            pass


def _tell_machine(settings: Settings, store: Store, executor: str) -> None:
    from ..fitness import MEASURED, device_text, resolve_precision
    from ..search import measured_elsewhere

    if settings.precision == "bfloat16" and resolve_precision("auto", settings.device) != "bfloat16":
        kind = "CPU" if settings.device == "cpu" else "GPU"
        click.echo(
            f"Note: run {store.name!r} trains in bfloat16, for which this {kind} has no units: it goes on, slowly",
            err=True,
        )
    here = device_text(settings.device)
    if elsewhere := measured_elsewhere(store, MEASURED, here):
        measures = [r.measures[n] for rows in elsewhere.values() for r in rows for n in MEASURED if n in r.measures]
        there = ", ".join(sorted({m.device for m in measures} - {here}))
        then = (
            f"its {len(elsewhere)} architectures are measured again first, as times of two machines are never compared"
        )
        then = "its times are compared all the same" if executor == "ray" else then
        click.echo(f"Note: run {store.name!r} was measured on {there}, this is {here}: {then}", err=True)


def _unsettled(store: Store) -> str | None:
    """Why a search ended that was killed before what follows it was done, which is told; else None."""
    from ..search import ENDS
    from ..store import ENDED, UNSETTLED

    notes = store.header["notes"]
    if notes.get(UNSETTLED) is not True or notes.get(ENDED) not in ENDS:
        return None
    click.echo(f"The search of run {store.name!r} was done; what follows it is done now.", err=True)
    return notes[ENDED]


def _never_ended(store: Store) -> bool:
    """Whether it was killed before it could note that it had ended. Runs from before budgets were kept noted no end."""
    from ..store import ENDED, UNSETTLED

    return not {ENDED, UNSETTLED} & set(store.header["notes"]) and "budget" in store.header["settings"]


def _check_unfinished(settings: Settings, store: Store, patient: bool) -> None:
    """Raise EvonasError where a run that is to go on as it was told has come to its end; ``patient``: it is told a new
    patience."""
    from ..config import MAX_GENERATIONS
    from ..store import ENDED

    why = store.header["notes"].get(ENDED)
    if why is None and "budget" not in store.header["settings"] and settings.generations == MAX_GENERATIONS:
        why = "unknown"  # a run from before budgets were kept
    said = _ENDS.get(why) if isinstance(why, str) else None  # the store may come from elsewhere
    if said and not (why == "patience" and patient):
        further = f"Say how far it should go: {_further(store)}, or --budget 30m"
        further = "Start another in a wider one" if why == "exhausted" else further
        raise EvonasError(f"run {store.name!r} {said}", f"{further}{_or_calibrate(settings, store)}.")


def _or_calibrate(settings: Settings, store: Store) -> str:
    """What a run that was to be calibrated, and is not, leaves to be done."""
    from ..report.calibration_file import is_calibrated
    from .calibrating import command_for

    due = settings.calibrate and not is_calibrated(store)
    return f"; calibrate it: {command_for(store)}" if due else ""


def _further(store: Store) -> str:
    return f"evonas resume {store.reference} --generations {store.done + 30}"
