"""``evonas calibrate``: how far the proxy of a run can be trusted, measured."""

from __future__ import annotations

import click

from ..config import GROWTH
from ..errors import EXIT_FAILED, EvonasError

DEFAULT_GENOMES, DEFAULT_FACTOR, MAX_FACTOR = 16, 4.0, 1e6


@click.command()
@click.argument("run", required=False)
@click.option(
    "--genomes", type=click.IntRange(4), default=DEFAULT_GENOMES, show_default=True, metavar="N", help="How many."
)
@click.option(
    "--factor",
    type=float,
    default=DEFAULT_FACTOR,
    show_default=True,
    metavar="X",
    help="Train them so many times as long as the last rung.",
)
@click.option("--budget", metavar="TIME", help="Wall-clock limit: 90s, 30m, 2h. What is done by then is kept.")
@click.option("--workers", type=int, metavar="N", help="Processes that train. Default: one per CPU; 1 on a GPU.")
def calibrate(run, genomes, factor, budget, workers) -> None:
    """Train a sample of RUN's genomes much longer and tell how well the short trainings rank them. Default: newest run.

    The sample is taken evenly from the front, the dominated and those that stopped at each rung, small to large. Each
    is trained from scratch, its schedule stretched over the whole length. Says Kendall's tau with a bootstrap interval,
    overall and by size and learning rate, and what choosing by the short loss costs. What is done is kept: the same
    command goes on, and 'evonas report' shows the last calibration.

    \b
    evonas calibrate my-run
    evonas calibrate my-run --genomes 64 --factor 20 --budget 8h
    """
    import time

    from ..config import Settings
    from ..fitness import ProxyEvaluator
    from ..fitness.evaluate import resolve_device, rung_tokens
    from ..report.calibration import choose, entry, lines, read_calibration, summarise, write_calibration
    from ..store import Store, find_run
    from .running import end_of

    if not 1 < factor <= MAX_FACTOR:
        raise EvonasError(f"--factor {factor:g}; it takes a number above 1, up to {MAX_FACTOR:g}")
    deadline = end_of(budget, time.monotonic())
    store = Store.open(find_run(run))
    settings = Settings.from_dict(store.header["settings"])
    resolve_device(settings.device)
    chosen = choose(store, genomes)
    evaluator = ProxyEvaluator(
        settings.task,
        settings.data,
        settings.context,
        needs=("loss",),
        tokens=round(settings.tokens * factor),
        validation_tokens=settings.validation_tokens,
        seed=settings.seed,
        device=settings.device,
    )
    about = {
        "factor": factor,
        "rungs": list(rung_tokens(settings.tokens, settings.rungs, GROWTH)),
        "sample": [entry(c, evaluator.task.vocab_size, settings.context) for c in chosen],
    }
    _recall(about, read_calibration(store.folder))
    genes = {c.genome.id: c.genome for c in chosen}
    _train(evaluator, about, genes, deadline, workers, lambda: write_calibration(store.folder, about))
    about["summary"] = summarise(about)
    write_calibration(store.folder, about)
    click.echo("\n".join(lines(about["summary"])))
    missing = sum(e["long"] is None and not e["status"] for e in about["sample"])
    if missing:
        click.echo(f"{missing} are still to be trained; the same command goes on.", err=True)


def _recall(about: dict, before: dict | None) -> None:
    """Take over what an earlier calibration of the same length has trained."""
    if before is None or before["factor"] != about["factor"] or before["rungs"] != about["rungs"]:
        return
    known = {e["id"]: e for e in before["sample"]}
    for e in about["sample"]:
        if e["id"] in known:
            e["long"], e["status"] = known[e["id"]]["long"], known[e["id"]]["status"]


def _train(evaluator, about: dict, genes: dict, deadline, workers: int | None, keep) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..executors import Call, Failure, make_executor

    waiting = {e["id"]: e for e in about["sample"] if e["long"] is None and not e["status"]}
    if not waiting:
        return
    largest_first = sorted(waiting, key=lambda i: -waiting[i]["params"])
    on_cpu = evaluator.device == "cpu"
    env = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if on_cpu else None
    console = Console(stderr=True)
    columns = (TextColumn("calibrating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        make_executor("auto", evaluator, workers if workers is not None or on_cpu else 1, env) as executor,
        Progress(*columns, console=console, transient=True) as bar,
    ):
        row = bar.add_task("", total=len(waiting))
        for genome_id, result in executor.map([Call("train", (genes[i],), i) for i in largest_first], None, deadline):
            if isinstance(result, Failure) and result.status == "deadline":
                continue
            found = waiting[genome_id]
            found["status"] = result.status
            if not isinstance(result, Failure) and result.status == "ok":
                found["long"] = result.measures["loss"].value
            keep()
            bar.update(row, advance=1)
            if not console.is_terminal:
                click.echo(f"{genome_id}: {found['status']}, long loss {found['long']}", err=True)
    if all(e["long"] is None for e in about["sample"]):
        raise EvonasError(
            "no genome of the sample could be trained to the end",
            "Give it a longer --budget or a smaller --factor.",
            exit_code=EXIT_FAILED,
        )
