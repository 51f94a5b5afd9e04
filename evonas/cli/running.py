"""What ``evonas evolve`` and ``evonas resume`` share: options, and the search from its settings to its last table."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import EXIT_INTERRUPTED, EvonasError

if TYPE_CHECKING:
    from ..config import Settings
    from ..genome import Genome, SearchSpace
    from ..store import Store

DEFAULT_GENERATIONS = 50
# Time kept back from the budget for the last commit, the plot and the table.
CLOSING_SECONDS = 3.0
_GPU_WORKERS = 4


def search_options(command):
    """Options that evolve and resume share."""
    for option in reversed(
        (
            click.option("--budget", metavar="TIME", help="Wall-clock limit: 90s, 30m, 2h. Ends within it, resumable."),
            click.option(
                "--workers", type=int, metavar="N", help="Processes that train. Default: one per CPU; 4 on a GPU."
            ),
            click.option(
                "--executor",
                default="auto",
                show_default=True,
                metavar="auto|serial|processes|ray",
                help="Where candidates train.",
            ),
        )
    ):
        command = option(command)
    return command


def end_of(budget: str | None, started: float) -> float | None:
    """The ``time.monotonic()`` moment at which a --budget is spent."""
    from ..config import parse_duration

    if budget is None:
        return None
    seconds = parse_duration(budget)
    if seconds <= CLOSING_SECONDS + 2:
        raise EvonasError(
            f"--budget {budget} is too little: {CLOSING_SECONDS:.0f} s are kept for the last commit and the table",
            "Give a minute or more: --budget 1m.",
        )
    return started + seconds


def generations_to_do(given: int | None, budget: str | None) -> int:
    from ..config import MAX_GENERATIONS

    return given if given is not None else MAX_GENERATIONS if budget else DEFAULT_GENERATIONS


def run_search(
    settings: Settings, space: SearchSpace, folder: Path, store: Store | None, deadline: float | None,
    workers: int | None, executor_name: str,
) -> None:  # fmt: skip
    """Run or continue a search and print how it ended. ``store`` None: make one, once all else is known to be right."""
    from ..evolution import Engine
    from ..executors import make_executor
    from ..fitness import ProxyEvaluator
    from ..genome import space_to_dict, transformer_genome
    from ..record import Constraint, objective
    from ..search import Search
    from ..store import Store
    from .progress import Progress

    constraints = tuple(Constraint.parse(text) for text in settings.constraints)
    evaluator = ProxyEvaluator(
        settings.task,
        settings.data,
        settings.context,
        needs=(*settings.objectives, *(c.name for c in constraints)),
        tokens=settings.tokens,
        validation_tokens=settings.validation_tokens,
        seed=settings.seed,
        device=settings.device,
    )
    _ = evaluator.task  # a data file that can't be used is found now
    seeds = {transformer_genome(s["genes"]): s["label"] for s in settings.seeds}

    def screen(genome: Genome) -> float:
        values = evaluator.exact(genome)
        return sum(c.violation(values[c.name].value) for c in constraints if c.name in values)

    objectives = [objective(name) for name in settings.objectives]
    engine = Engine(
        space,
        objectives,
        population_size=settings.population,
        offspring_size=settings.offspring or None,
        seed=settings.seed,
        seed_genomes=list(seeds),
        screen=screen if evaluator.exact_names else None,
    )
    engine.prepare()
    count = min(_GPU_WORKERS, os.cpu_count() or 1) if workers is None and settings.device == "cuda" else workers
    env = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if settings.device == "cpu" else None
    progress = Progress(settings, deadline, folder)
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _interrupt))
        executor = stack.enter_context(make_executor(executor_name, evaluator, count, env))
        if store is None:
            header = {
                "settings": settings.to_dict(),
                "space": space_to_dict(space),
                "objectives": [{"name": o.name, "unit": o.unit, "direction": o.direction} for o in objectives],
                "constraints": list(settings.constraints),
                "seed": settings.seed,
                "device": settings.device,
                "seed_genomes": [{"id": g.id, "label": label} for g, label in seeds.items()],
                "command": "evonas evolve",
            }
            store = stack.enter_context(Store.create(folder, header))
        else:
            store.set_header(now=True, settings=settings.to_dict())  # a new goal outlives an interruption
        search = Search(
            engine,
            store,
            executor,
            evaluator,
            constraints=constraints,
            timeout=settings.timeout,
            labels={g.id: label for g, label in seeds.items()},
            listener=progress,
        )
        try:
            with progress.showing(search):
                ended = search.run(settings.generations, None if deadline is None else deadline - CLOSING_SECONDS)
        except KeyboardInterrupt:
            again = _resume_command(folder.name, settings, deadline, workers, executor_name)
            click.echo(f"\nInterrupted; every finished evaluation is kept. Go on with: {again}", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None
        executor.close()
        progress.summary(store, ended)


def _resume_command(
    name: str, settings: Settings, deadline: float | None, workers: int | None, executor_name: str
) -> str:
    """What goes on with the run as it was asked for, in what is left of its budget. The store knows its goal."""
    from ..config import MAX_GENERATIONS

    words = ["evonas", "resume", name]
    if deadline is not None:
        if settings.generations < MAX_GENERATIONS:
            words += ["--generations", str(settings.generations)]
        words += ["--budget", f"{max(math.ceil(deadline - time.monotonic()), 60)}s"]
    words += ["--workers", str(workers)] if workers is not None else []
    words += ["--executor", executor_name] if executor_name != "auto" else []
    return shlex.join(words)


def _interrupt(signum, frame) -> None:
    raise KeyboardInterrupt
