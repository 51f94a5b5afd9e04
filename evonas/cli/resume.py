"""``evonas resume``: go on with a search."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import click

from ..errors import EvonasError
from .options import end_of, generations_to_do, search_options, share_of
from .running import run_search

if TYPE_CHECKING:
    from ..config import Settings
    from ..store import Store


@click.command()
@click.argument("run", required=False)
@click.option("--generations", type=int, metavar="N", help="Go on until N generations are done in all.")
@click.option("--timeout", metavar="TIME", help="Longest training of one candidate from now on. Default: the run's.")
@search_options
def resume(run, generations, timeout, budget, patience, workers, calibrate, executor) -> None:
    """Continue an interrupted RUN, or extend a finished one. Default: the newest run.

    \b
    evonas resume my-run
    evonas resume my-run --generations 80
    """
    started = time.monotonic()
    from ..config import Settings, parse_duration
    from ..genome import space_from_dict
    from ..store import Store, find_run
    from .trust import check_task_of_run

    deadline, calibration = end_of(budget, started), share_of(calibrate)
    folder = find_run(run)
    if not folder.is_dir():
        raise EvonasError(f"{folder} is not the folder of a run", "Give the run's name, as in runs/NAME.")
    with Store.open(folder, write=True) as store:
        settings = Settings.from_dict(store.header["settings"])
        check_task_of_run(settings.task, folder)
        _check_device(settings, store)
        _tell_machine(settings, store, executor)
        goal = _goal(settings, store, generations, budget)
        if timeout is not None:
            settings = dataclasses.replace(settings, timeout=parse_duration(timeout))
        settings = dataclasses.replace(settings, generations=goal)
        space = space_from_dict(store.header["space"])
        run_search(settings, space, folder, store, deadline, workers, executor, calibration, patience)


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


def _goal(settings: Settings, store: Store, generations: int | None, budget: str | None) -> int:
    """How many generations are to be done in all."""
    from ..config import MAX_GENERATIONS

    done = store.generations[-1]["generation"] + 1 if store.generations else 0
    further = f"evonas resume {store.name} --generations {done + 30}"
    if generations is None and budget is None:
        goal = settings.generations
        if goal == MAX_GENERATIONS:
            raise EvonasError(
                f"run {store.name!r} had a time budget and no other end",
                f"Say how far it should go: {further}, or --budget 30m.",
            )
    else:
        goal = generations_to_do(generations, budget)
    if goal < 1:
        raise EvonasError(f"generations is {goal}; it takes a whole number from 1")
    if done >= goal:
        raise EvonasError(f"run {store.name!r} has done its {done} generations", f"Extend it: {further}")
    return goal
