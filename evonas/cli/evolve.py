"""``evonas evolve``: start a search."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..config import DEVICE_DEFAULTS, GROWTH, REDUCTION
from ..errors import EvonasError
from .evaluator import needs_of
from .hands import Hands
from .options import Tokens, end_of, generations_to_do, precision_option, search_options, share_of
from .running import run_search

if TYPE_CHECKING:
    from ..config import Settings
    from ..genome import Genome, SearchSpace

_FEW_STEPS, _FEWEST_STEPS = 30, 8  # of a seed's whole training, of any other's first rung: below, it is said
_LONG_PASS, _ANY_VOCABULARY = 2e10, 256  # FLOPs of a forward pass: seconds on a core

DEFAULT_OBJECTIVES = ("loss", "latency")


def _default(name: str) -> str:
    cpu, gpu = DEVICE_DEFAULTS["cpu"][name], DEVICE_DEFAULTS["cuda"][name]
    cpu, gpu = (f"{value:,}" if isinstance(value, int) else value for value in (cpu, gpu))
    return f"{cpu}." if cpu == gpu else f"{cpu}; {gpu} on a GPU."


@click.command()
@click.option("--generations", type=int, metavar="N", help="How many to run. Default: 50, or no limit with --budget.")
@click.option(
    "--population",
    type=int,
    metavar="N",
    help=f"Genomes kept per generation (also the size of the first population). Default: {_default('population')}",
)
@click.option(
    "--offspring",
    type=int,
    metavar="N",
    help="Candidates per generation; with --rungs 1 the first has the population's. Default: the population where that "
    f"is given, else {_default('offspring')}",
)
@click.option(
    "--task", default="text", show_default=True, metavar="NAME", help="text, or your own package.module:Name."
)
@click.option(
    "--data",
    type=click.Path(),
    metavar="PATH",
    help="Any file, read byte by byte; the last tenth is held out. Default: the embedded corpus, text that comes "
    "with Python.",
)
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
    help="Repeatable: loss, latency (of a forward pass), decode_latency (of a token with the KV cache filled), memory, "
    "params, flops; latencies and memory at batch 1, float32 and --context, latencies on a CPU with one thread. "
    "Default: loss and latency.",
)
@click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="'NAME<=VALUE'",
    help="Repeatable, such as 'latency<=5ms' or 'memory<=2GB'; without a unit in ms, MB, parameters, FLOPs. What "
    "breaks it is not trained; one on loss is judged at the last rung.",
)
@click.option(
    "--goal",
    "goals",
    multiple=True,
    metavar="'NAME<=VALUE'",
    help="Repeatable, of an objective: good enough. Better counts as no better; the search goes where others gain.",
)
@click.option(
    "--seed-genome",
    "seed_genomes",
    multiple=True,
    metavar="GENOME",
    help="Your model: tried first, mutated, and compared with in the report. A shipped name ('evonas genome show'), "
    "genome file, config.json of Hugging Face, or RUN:ID. Repeatable.",
)
@click.option(
    "--reuse",
    multiple=True,
    metavar="RUN",
    help="Repeatable. Takes what an earlier run has measured and trained, of the same task, data, context, device, "
    "precision, tokens, rungs and seed.",
)
@click.option("--widen", is_flag=True, help="Widen the space where a seed genome lies outside it.")
@click.option(
    "--tokens",
    type=Tokens(),
    metavar="N",
    help="Training tokens per candidate at the last rung, such as 500k or 10M; more ranks better, a third of your full "
    f"training is good. Default: {_default('tokens')}",
)
@click.option(
    "--rungs",
    type=int,
    metavar="N",
    help=f"Each trains {GROWTH} times longer than the one before; only the best go on. Default: {_default('rungs')}",
)
@click.option(
    "--surrogate/--no-surrogate",
    default=True,
    help="Breed many offspring per place and train those that a Gaussian process, fitted to the results so far, "
    "expects to widen the front most; it is followed as far as it has lately ranked right. Default: yes.",
)
@click.option(
    "--timeout",
    metavar="TIME",
    help="Longest training of one candidate. Default: 15 minutes until five of one rung have ended, then 50 times what "
    "the longest of the generation should take by their median, at least a minute.",
)
@click.option("--run", "run_name", metavar="NAME", help="Name of the run, a folder in runs/. Default: task and time.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    metavar="INT",
    help="Seed of every random draw. The same seed is the same search where no measured or wall-clock time has a say.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda",
    help="Where candidates are timed and trained.",
)
@precision_option
@search_options
def evolve(
    generations, population, offspring, task, data, context, space, objectives, constraints, goals, seed_genomes, reuse,
    widen, tokens, rungs, surrogate, timeout, run_name, seed, device, precision, budget, patience, workers,
    asynchronous, calibrate, executor,
) -> None:  # fmt: skip
    """Search for transformers that are accurate and fast on this device.

    Trains every candidate briefly, as a proxy for its full training, times it, and evolves the Pareto front. Writes
    runs/NAME/population.h5, which 'evonas report' reads (also while this runs) and 'evonas resume' goes on from.

    \b
    evonas evolve --generations 50
    evonas evolve --data input.txt --seed-genome nanogpt-cpu --constraint 'latency<=2ms'
    evonas evolve --objective loss --objective flops --budget 30m
    """
    started = time.monotonic()
    from ..config import Settings, parse_duration
    from ..fitness import resolve_device, resolve_precision
    from ..fitness.schedule import prior_for
    from ..genome import genome_to_dict
    from ..record import Constraint, objective
    from ..sketch import WIDTH
    from ..store import find_run

    deadline = end_of(budget, started)
    for name in objectives:
        objective(name)
    constraints = tuple(str(Constraint.parse(text)) for text in constraints)
    goals = _read_goals(goals, objectives or DEFAULT_OBJECTIVES)
    folder = _new_folder(task, run_name)
    device = resolve_device(device)
    defaults = DEVICE_DEFAULTS[device]
    tokens = defaults["tokens"] if tokens is None else tokens
    seeds = [_read_seed(reference, tokens) for reference in seed_genomes]
    context_of_seed = context is None and any(c for _, c, _ in seeds)
    if context is None:
        context = next((c for _, c, _ in seeds if c), defaults["context"])
    wanted_space = _read_space(defaults["space"] if space is None else space).bounded(context)
    wanted_space, genomes = _fit_seeds(wanted_space, seeds, seed_genomes, context, widen)
    wanted_space = prior_for(wanted_space, max(1, tokens))
    offspring = _offspring(offspring, population, defaults)
    population = defaults["population"] if population is None else population
    rungs = defaults["rungs"] if rungs is None else rungs
    settings = Settings(
        task=task,
        data=None if data is None else str(Path(data).resolve()),
        context=context,
        objectives=objectives or DEFAULT_OBJECTIVES,
        constraints=constraints,
        goals=goals,
        population=population,
        offspring=offspring,
        initial=min(offspring, population) if rungs > 1 else 0,
        generations=generations_to_do(generations, budget),
        seed=seed,
        device=device,
        tokens=tokens,
        # Enough windows that what two losses have in common is known; not more than is learned from.
        validation_tokens=max(defaults["validation_tokens"], min(WIDTH * context, tokens)),
        rungs=rungs,
        reduction=REDUCTION,
        seeds=tuple({"label": label, "genes": genome_to_dict(g)["genes"]} for g, label in genomes),
        timeout=None if timeout is None else parse_duration(timeout),
        surrogate=surrogate,
        precision=resolve_precision(precision, device),
        scaled_rates=True,
        sparing_muon=device == "cpu",
        whole_memory=True,
        reuse=tuple(str(find_run(name).resolve()) for name in reuse),
        budget=None if deadline is None else deadline - started,
        patience=patience,
        calibrate=share_of(calibrate),
        asynchronous=asynchronous,
    )
    _note_lengths(settings, wanted_space, genomes, context_of_seed)
    run_search(settings, wanted_space, folder, None, deadline, Hands(workers, executor, asynchronous))


def _new_folder(task: str, run_name: str | None) -> Path:
    """The folder of a run that is not there yet."""
    from ..store import runs_folder

    folder = runs_folder() / _checked_name(_default_name(task, runs_folder()) if run_name is None else run_name)
    if (folder / "population.h5").exists():
        raise EvonasError(
            f"run {folder.name!r} exists", f"Choose another --run, or go on with it: evonas resume {folder.name}"
        )
    return folder


def _read_space(name: str) -> SearchSpace:
    from ..genome import read_space

    space = read_space(name)
    if space.kind != "transformer":
        raise EvonasError(
            f"space {space.name!r} is of kind {space.kind!r}; evolve builds transformers",
            "Drive it from Python, with evonas.evolution.Engine.",
        )
    return space


def _read_goals(texts: Sequence[str], objectives: Sequence[str]) -> tuple[str, ...]:
    """--goal as settings hold it; one for each of some of the objectives."""
    from ..record import Constraint

    goals = [Constraint.parse_goal(text) for text in texts]
    for k, goal in enumerate(goals):
        if goal.name not in objectives:
            raise EvonasError(
                f"goal {goal}: {goal.name} is no objective of this search",
                f"Add --objective {goal.name}; the objectives are {', '.join(objectives)}.",
            )
        if goal.name in [g.name for g in goals[:k]]:
            raise EvonasError(f"goal {goal}: {goal.name} has one already", "Give one goal per objective.")
    return tuple(map(str, goals))


def _read_seed(reference: str, tokens: int) -> tuple[Genome, int | None, str]:
    """(genome, its context or None, label) of a --seed-genome, for a run of so many tokens."""
    from .reference import read_and_tell

    found = read_and_tell(reference)
    found.check_buildable()
    return found.genome_for(max(1, tokens), "--tokens differ"), found.context, found.name


def _fit_seeds(space: SearchSpace, seeds, references, context: int, widen: bool):
    """The space, widened if asked to, and (genome, label) of every seed as this context sees it."""
    from ..genome import bounded_windows

    genomes = []
    for (genome, _, label), given in zip(seeds, references):
        genome = bounded_windows(genome, context)
        problems = space.check(genome)
        if problems and not widen:
            raise EvonasError(
                f"seed genome {_named(label, given)} lies outside space {space.name!r}: " + "; ".join(problems),
                "Add --widen to widen the space, or name another --space.",
            )
        space = _widened(space, genome, _named(label, given)) if problems else space
        genomes.append((genome, label))
    return space, genomes


def _note_lengths(settings: Settings, space: SearchSpace, seeds, context_of_seed: bool) -> None:
    """Say before the search where its trainings are of a few steps, and where a seed has brought a long context."""
    needs = needs_of(settings)
    trains, times = "loss" in needs, bool({"latency", "decode_latency"} & set(needs)) and settings.device == "cpu"
    from ..fitness.evaluate import rung_tokens
    from ..fitness.schedule import steps_of
    from ..genome.graph import cost

    context, rungs = settings.context, rung_tokens(settings.tokens, settings.rungs, GROWTH)
    cure = f"--tokens N for more, or a smaller --context than {context:,}"
    for genome, label in seeds:
        steps = steps_of(genome.batch_size, context, rungs[-1])
        if trains and steps < _FEW_STEPS:
            click.echo(
                f"Note ({label}): {settings.tokens:,} tokens are {steps} steps of its batch of {genome.batch_size}, "
                f"after which its loss says little; {cure}.",
                err=True,
            )
        flops = cost(genome, _ANY_VOCABULARY, context).flops
        if times and context_of_seed and flops > _LONG_PASS:
            click.echo(
                f"Note ({label}): the context of {context:,} is a seed's (--context for another); one pass of this "
                f"network takes {flops / 1e9:,.0f} GFLOP, and each network is timed by some twenty.",
                err=True,
            )
    gene = space.genes["batch_size"]
    largest = int(max(gene.options or (gene.high,)))
    if trains and (steps := steps_of(largest, context, rungs[0])) < _FEWEST_STEPS:
        click.echo(f"Note: the first rung is {steps} steps at a batch of {largest}, which is few; {cure}.", err=True)


def _named(label: str, given: str) -> str:
    """A seed by its own name, and as it was typed where that differs."""
    return repr(label) if label == given else f"{label!r} ({given})"


def _widened(space: SearchSpace, genome: Genome, name: str) -> SearchSpace:
    try:
        return space.widened(genome)
    except EvonasError as error:
        raise EvonasError(f"seed genome {name}: {error.message}", error.hint or "Name another --space.") from None


def _offspring(given: int | None, population: int | None, defaults: dict) -> int:
    if given is not None and given < 1:
        raise EvonasError(f"offspring is {given}; it takes a whole number from 1")
    return given if given is not None else defaults["offspring"] if population is None else population


def _default_name(task: str, runs: Path) -> str:
    word = re.sub(r"[^a-z0-9_]+", "-", task.rpartition(":")[2].lower()).strip("-") or "run"
    stem = f"{word}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    name, count = stem, 1
    while (runs / name).exists():
        count += 1
        name = f"{stem}-{count}"
    return name


def _checked_name(name: str) -> str:
    # It is typed again in commands, after options, and before the colon of RUN:ID.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise EvonasError(
            f"run name {name!r} is not a plain folder name",
            "Use letters, digits, - and _ (up to 100), without / or :, not beginning with - or a dot.",
        )
    return name
