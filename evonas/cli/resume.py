"""``evonas resume``: go on with a search."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import click

from ..errors import EvonasError
from .options import end_of, generations_to_do, search_options, share_of
from .running import ENDED, run_search

if TYPE_CHECKING:
    from ..config import Settings
    from ..store import Store

_LEAST = 60.0  # seconds that an interrupted run with a budget goes on for


@click.command()
@click.argument("run", required=False)
@click.option(
    "--generations",
    type=int,
    metavar="N",
    help="Go on until N generations are done in all. Default: as the run was told; with --budget, no limit.",
)
@click.option("--timeout", metavar="TIME", help="Longest training of one candidate from now on. Default: the run's.")
@search_options
def resume(run, generations, timeout, budget, patience, workers, calibrate, executor) -> None:
    """Continue an interrupted RUN, or extend a finished one. Default: the newest run.

    Without options it ends as it was told to: after its generations, with what was left of its budget, by its patience,
    with its calibration. --generations and --budget are another end, and then only what is given here counts.

    \b
    evonas resume my-run
    evonas resume my-run --generations 80
    """
    started = time.monotonic()
    from ..config import Settings, parse_duration
    from ..genome import space_from_dict
    from ..store import Store, find_run
    from .trust import check_task_of_run

    deadline, share = end_of(budget, started), share_of(calibrate)
    folder = find_run(run)
    if not folder.is_dir():
        raise EvonasError(f"{folder} is not the folder of a run", "Give the run's name, as in runs/NAME.")
    with Store.open(folder, write=True) as store:
        settings = Settings.from_dict(store.header["settings"])
        check_task_of_run(settings.task, folder)
        _check_device(settings, store)
        _tell_machine(settings, store, executor)
        if generations is None and budget is None:
            _check_unfinished(settings, store)
            left = _left(settings, store)
            deadline = None if left is None else started + left
            changes = {"patience": patience or settings.patience, "calibrate": share or settings.calibrate}
        else:
            goal = generations_to_do(generations, budget)
            changes = {"generations": goal, "patience": patience, "calibrate": share}
        changes["budget"] = None if deadline is None else store.seconds + deadline - started
        if timeout is not None:
            changes["timeout"] = parse_duration(timeout)
        settings = dataclasses.replace(settings, **changes)
        _check_goal(settings, store)
        space = space_from_dict(store.header["space"])
        run_search(settings, space, folder, store, deadline, workers, executor)


def _check_device(settings: Settings, store: Store) -> None:
    from ..fitness import resolve_device

    try:
        resolve_device(settings.device)
    except EvonasError as error:
        raise EvonasError(
            f"run {store.name!r} measures on {settings.device}: {error.message}",
            f"Resume it on such a machine, or start a run here: evonas evolve --seed-genome {store.name}:ID",
        ) from None


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


def _left(settings: Settings, store: Store) -> float | None:
    """Seconds that a run which goes on as it was told has left, a minute at least; None without a limit."""
    return None if settings.budget is None else max(settings.budget - store.seconds, _LEAST)


def _check_unfinished(settings: Settings, store: Store) -> None:
    """Raise EvonasError where a run that is to go on as it was told has come to its end."""
    from ..config import MAX_GENERATIONS

    endless = settings.generations == MAX_GENERATIONS
    if settings.budget is not None:
        spent = store.header["notes"].get(ENDED) == "budget"
        what = f"has spent its budget of {settings.budget:.0f} s"
    else:
        spent, what = endless, "had a time budget and no other end"
    if spent and (endless or _done(store) < settings.generations):
        raise EvonasError(
            f"run {store.name!r} {what}", f"Say how far it should go: {_further(store)}, or --budget 30m."
        )


def _check_goal(settings: Settings, store: Store) -> None:
    if settings.generations < 1:
        raise EvonasError(f"generations is {settings.generations}; it takes a whole number from 1")
    if _done(store) >= settings.generations:
        raise EvonasError(
            f"run {store.name!r} has done its {_done(store)} generations", f"Extend it: {_further(store)}"
        )


def _done(store: Store) -> int:
    return store.generations[-1]["generation"] + 1 if store.generations else 0


def _further(store: Store) -> str:
    return f"evonas resume {store.name} --generations {_done(store) + 30}"
