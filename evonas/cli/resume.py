"""``evonas resume``: go on with a search."""

from __future__ import annotations

import time

import click

from ..errors import EvonasError
from .running import generations_to_do, run_search, search_options


@click.command()
@click.argument("run", required=False)
@click.option("--generations", type=int, metavar="N", help="Go on until N generations are done in all.")
@search_options
def resume(run, generations, budget, workers, executor) -> None:
    """Continue an interrupted RUN, or extend a finished one. Default: the newest run.

    \b
    evonas resume my-run
    evonas resume my-run --generations 80
    """
    started = time.monotonic()
    from ..config import Settings, parse_duration
    from ..genome import space_from_dict
    from ..store import Store, find_run

    deadline = None if budget is None else started + parse_duration(budget)
    folder = find_run(run)
    if not folder.is_dir():
        raise EvonasError(f"{folder} is not the folder of a run", "Give the run's name, as in runs/NAME.")
    with Store.open(folder, write=True) as store:
        settings = Settings.from_dict(store.header["settings"])
        done = store.generations[-1]["generation"] + 1 if store.generations else 0
        goal = settings.generations if generations is None and budget is None else generations_to_do(generations, budget)
        if goal < 1:
            raise EvonasError(f"generations is {goal}; it takes a whole number from 1")
        if done >= goal:
            raise EvonasError(
                f"run {store.name!r} has done its {done} generations",
                f"Extend it: evonas resume {store.name} --generations {done + 30}",
            )
        run_search(settings, space_from_dict(store.header["space"]), folder, store, goal, deadline, workers, executor)
