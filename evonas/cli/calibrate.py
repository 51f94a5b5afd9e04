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
    command goes on, another number of genomes adds what it lacks, and 'evonas report' shows the last calibration.

    \b
    evonas calibrate my-run
    evonas calibrate my-run --genomes 64 --factor 20 --budget 8h
    """
    import time

    from ..config import Settings
    from ..fitness import ProxyEvaluator
    from ..fitness.evaluate import resolve_device, rung_tokens
    from ..report.calibration import FEWEST, begin, choose, lines, read_calibration, summarise, write_calibration
    from ..store import Store, find_run
    from ..tasks import fingerprint
    from .running import check_data, end_of

    if not 1 < factor <= MAX_FACTOR:
        raise EvonasError(f"--factor {factor:g}; it takes a number above 1, up to {MAX_FACTOR:g}")
    deadline = end_of(budget, time.monotonic())
    store = Store.open(find_run(run))
    settings = Settings.from_dict(store.header["settings"])
    resolve_device(settings.device)
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
    data = fingerprint(evaluator.task)
    check_data(store, settings, data, "Calibrate")
    rungs = rung_tokens(settings.tokens, settings.rungs, GROWTH)
    chosen = choose(store, genomes, len(rungs), evaluator.task.vocab_size, settings.context)
    about = begin(chosen, factor, rungs, data, read_calibration(store.folder))
    genes = {c.genome.id: c.genome for c in chosen}
    _train(evaluator, about, genes, deadline, workers, lambda: write_calibration(store.folder, about))
    _check_found(about["sample"])
    summary = summarise(about)
    if about["summary"] is None or summary["genomes"] >= FEWEST:  # what says nothing yet takes no other's place
        about["summary"] = summary
    write_calibration(store.folder, about)
    click.echo("\n".join(lines(summary)))
    failed = [e for e in about["sample"] if e["long"] is None and e["status"]]
    if failed:
        click.echo(f"{len(failed)} failed; the first: {_why(failed[0])}", err=True)
    missing = sum(e["long"] is None and not e["status"] for e in about["sample"])
    if missing:
        click.echo(f"{missing} are still to be trained; the same command goes on.", err=True)


def _check_found(sample: list[dict]) -> None:
    """Nothing can be told of no long training at all."""
    if any(e["long"] is not None for e in sample):
        return
    failed = [e for e in sample if e["status"]]
    first = f"; the first: {_why(failed[0])}" if failed else ""
    hint = "Give it a longer --budget or a smaller --factor."
    if failed:
        again = any(e["status"] != "non_finite" for e in failed)
        hint = "Mend the cause, then give the same command." if again else "Take more --genomes or a smaller --factor."
    raise EvonasError(f"no genome of the sample could be trained to the end{first}", hint, exit_code=EXIT_FAILED)


def _why(entry: dict) -> str:
    return ": ".join(part for part in (entry["id"], entry["status"], entry["reason"]) if part)


def _train(evaluator, about: dict, genes: dict, deadline, workers: int | None, keep) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..executors import Call, Failure, make_executor
    from ..report.calibration import note

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
            good = not isinstance(result, Failure) and result.status == "ok"
            note(about, found, result.status, result.measures["loss"].value if good else None, result.reason)
            keep()
            bar.update(row, advance=1)
            if not console.is_terminal:
                click.echo(f"{genome_id}: {found['status']}, long loss {found['long']}", err=True)
