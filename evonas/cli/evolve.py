"""``evonas evolve`` and ``evonas resume``."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..config import DEVICE_DEFAULTS, REDUCTION
from ..errors import EXIT_INTERRUPTED, EvonasError

if TYPE_CHECKING:
    from ..config import Settings
    from ..genome import Genome, SearchSpace
    from ..store import Store

DEFAULT_GENERATIONS = 50
# Time kept back from the budget for the last commit, the plot and the table.
CLOSING_SECONDS = 3.0
_GPU_WORKERS = 4
CHECKPOINTS = "weights"  # of trainings that may go on, in the run's folder


def _default(name: str) -> str:
    return f"{DEVICE_DEFAULTS['cpu'][name]}; {DEVICE_DEFAULTS['cuda'][name]} on a GPU."


def _search_options(command):
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


@click.command()
@click.option("--generations", type=int, metavar="N", help="How many to run. Default: 50, or no limit with --budget.")
@click.option(
    "--population", type=int, metavar="N", help=f"Members kept, and first generation. Default: {_default('population')}"
)
@click.option(
    "--offspring",
    type=int,
    metavar="N",
    help=f"Candidates per later generation. Default: the population where that is given, else {_default('offspring')}",
)
@click.option(
    "--task", default="text", show_default=True, metavar="NAME", help="text, or your own package.module:Name."
)
@click.option("--data", type=click.Path(), metavar="PATH", help="A text file. Default: the embedded corpus.")
@click.option(
    "--context", type=int, metavar="T", help=f"Sequence length. Default: the seed genome's, else {_default('context')}"
)
@click.option(
    "--space", metavar="FILE.toml", help=f"Search space: a file, or a shipped one. Default: {_default('space')}"
)
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    metavar="NAME",
    help="Repeatable: loss, latency, decode_latency, memory, params, flops. Default: loss and latency.",
)
@click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="'NAME<=VALUE'",
    help="Repeatable, such as 'latency<=5ms'. What breaks it is not trained.",
)
@click.option(
    "--seed-genome",
    "seed_genomes",
    multiple=True,
    metavar="FILE",
    help="Repeatable. A shipped genome, a genome file, a Hugging Face config.json, or RUN:ID.",
)
@click.option("--widen", is_flag=True, help="Widen the space where a seed genome lies outside it.")
@click.option(
    "--tokens", type=int, metavar="N", help=f"Training tokens at the last rung. Default: {_default('tokens')}"
)
@click.option(
    "--rungs",
    type=int,
    metavar="N",
    help=f"Each trains {REDUCTION} times longer than the one before; only the best go on. Default: {_default('rungs')}",
)
@click.option(
    "--timeout", metavar="TIME", help="Longest training of one candidate. Default: 20 times its slowest peer."
)
@click.option("--run", "run_name", metavar="NAME", help="Name of the run, a folder in runs/. Default: task and time.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="INT", help="Same seed, same search.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda",
    help="Where candidates are timed and trained.",
)
@_search_options
def evolve(
    generations, population, offspring, task, data, context, space, objectives, constraints, seed_genomes, widen,
    tokens, rungs, timeout, run_name, seed, device, budget, workers, executor,
) -> None:  # fmt: skip
    """Search for transformers that are accurate and fast on this device.

    Trains a short proxy of every candidate, times it, and evolves the Pareto front. Writes
    runs/NAME/population.h5, which 'evonas report' reads (also while this runs) and 'evonas resume' goes on from.

    \b
    evonas evolve --generations 50
    evonas evolve --data input.txt --seed-genome nanogpt-cpu --constraint 'latency<=2ms'
    evonas evolve --objective loss --objective flops --budget 30m
    """
    started = time.monotonic()
    from ..config import Settings, parse_duration
    from ..fitness import resolve_device
    from ..genome import genome_to_dict, read_space
    from ..record import Constraint, objective
    from ..store import runs_folder

    deadline = None if budget is None else started + parse_duration(budget)
    for name in objectives:
        objective(name)
    constraints = tuple(str(Constraint.parse(text)) for text in constraints)
    folder = runs_folder() / _checked_name(_default_name(task, runs_folder()) if run_name is None else run_name)
    if (folder / "population.h5").exists():
        raise EvonasError(
            f"run {folder.name!r} exists", f"Choose another --run, or go on with it: evonas resume {folder.name}"
        )
    seeds = [_read_seed(reference) for reference in seed_genomes]
    device = resolve_device(device)
    defaults = DEVICE_DEFAULTS[device]
    if context is None:
        context = next((c for _, c, _ in seeds if c), defaults["context"])
    wanted_space = read_space(defaults["space"] if space is None else space).bounded(context)
    wanted_space, genomes = _fit_seeds(wanted_space, seeds, context, widen)
    settings = Settings(
        task=task,
        data=None if data is None else str(Path(data).resolve()),
        context=context,
        objectives=objectives or ("loss", "latency"),
        constraints=constraints,
        population=defaults["population"] if population is None else population,
        offspring=_offspring(offspring, population, defaults),
        generations=_generations(generations, budget),
        seed=seed,
        device=device,
        tokens=defaults["tokens"] if tokens is None else tokens,
        validation_tokens=max(defaults["validation_tokens"], context),
        rungs=defaults["rungs"] if rungs is None else rungs,
        seeds=tuple({"label": label, "genes": genome_to_dict(g)["genes"]} for g, label in genomes),
        timeout=None if timeout is None else parse_duration(timeout),
    )
    _run(settings, wanted_space, folder, None, settings.generations, deadline, workers, executor)


@click.command()
@click.argument("run", required=False)
@click.option("--generations", type=int, metavar="N", help="Go on until N generations are done in all.")
@_search_options
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
        goal = settings.generations if generations is None and budget is None else _generations(generations, budget)
        if goal < 1:
            raise EvonasError(f"generations is {goal}; it takes a whole number from 1")
        if done >= goal:
            raise EvonasError(
                f"run {store.name!r} has done its {done} generations",
                f"Extend it: evonas resume {store.name} --generations {done + 30}",
            )
        _run(settings, space_from_dict(store.header["space"]), folder, store, goal, deadline, workers, executor)


def _run(
    settings: Settings, space: SearchSpace, folder: Path, store: Store | None, goal: int, deadline: float | None,
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
        rungs=settings.rungs,
        reduction=REDUCTION,
        checkpoints=str(folder.resolve() / CHECKPOINTS),
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
        rungs=len(evaluator.rungs),
        reduction=REDUCTION,
    )
    engine.prepare()
    if workers is None and settings.device == "cuda":
        workers = min(_GPU_WORKERS, os.cpu_count() or 1)
    env = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if settings.device == "cpu" else None
    progress = Progress(settings, goal, deadline, folder)
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _interrupt))
        executor = stack.enter_context(make_executor(executor_name, evaluator, workers, env))
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
                ended = search.run(goal, None if deadline is None else deadline - CLOSING_SECONDS)
        except KeyboardInterrupt:
            click.echo(
                f"\nInterrupted; every finished evaluation is kept. Go on with: evonas resume {folder.name}", err=True
            )
            raise SystemExit(EXIT_INTERRUPTED) from None
        executor.close()
        progress.summary(store, ended)


def _interrupt(signum, frame) -> None:
    raise KeyboardInterrupt


def _read_seed(reference: str) -> tuple[Genome, int | None, str]:
    """(genome, its context or None, label) of a --seed-genome; what an import can't say is a warning."""
    from .reference import read_reference

    found = read_reference(reference)
    for note in found.notes:
        click.echo(f"Note ({found.name}): {note}", err=True)
    return found.genome, found.context, found.name


def _fit_seeds(space: SearchSpace, seeds, context: int, widen: bool):
    """The space, widened if asked to, and (genome, label) of every seed as this context sees it."""
    from ..genome import bounded_windows

    genomes = []
    for genome, _, label in seeds:
        genome = bounded_windows(genome, context)
        problems = space.check(genome)
        if problems and not widen:
            raise EvonasError(
                f"seed genome {label!r} lies outside space {space.name!r}: " + "; ".join(problems),
                "Add --widen to widen the space, or name another --space.",
            )
        space = space.widened(genome) if problems else space
        genomes.append((genome, label))
    return space, genomes


def _generations(given: int | None, budget: str | None) -> int:
    from ..config import MAX_GENERATIONS

    return given if given is not None else MAX_GENERATIONS if budget else DEFAULT_GENERATIONS


def _offspring(given: int | None, population: int | None, defaults: dict) -> int:
    if given is not None and given < 1:
        raise EvonasError(f"offspring is {given}; it takes a whole number from 1")
    return given if given is not None else defaults["offspring"] if population is None else population


def _default_name(task: str, runs: Path) -> str:
    stem = f"{task.rpartition(':')[2].lower()}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    name, count = stem, 1
    while (runs / name).exists():
        count += 1
        name = f"{stem}-{count}"
    return name


def _checked_name(name: str) -> str:
    if not name or Path(name).name != name or name.startswith(".") or ":" in name or len(name) > 100:
        raise EvonasError(
            f"run name {name!r} is not a plain folder name", "Use letters, digits, - and _, without / or :."
        )
    return name
