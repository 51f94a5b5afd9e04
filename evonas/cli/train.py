"""``evonas train``: one genome in full."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import EXIT_FAILED, EXIT_INTERRUPTED, EvonasError
from .options import Tokens, precision_option

if TYPE_CHECKING:
    from .reference import Reference
    from .unfinished import Unfinished

DEFAULT_TOKENS = 1_536_000  # nanoGPT's CPU training: 2,000 steps of 12 x 64
LONGER = 4  # times as long as the trainings of its run, at least, is a genome's of a run by default
_EVALUATIONS = 20
_HELD_OUT = 131_072  # tokens of an evaluation, or a share of the training's that makes all of them as long as that
_LOOK_AFTER, _BUSY = 5.0, 0.65  # seconds of training; share of its threads' time that they run when they are alone


@click.command()
@click.argument("reference", metavar="FILE|RUN:ID")
@click.option(
    "--tokens",
    type=Tokens(10**11),
    metavar="N",
    help=f"Training tokens, such as 10M. Default: {DEFAULT_TOKENS:,}, for a RUN:ID at least {LONGER} times the run's.",
)
@click.option("--task", metavar="NAME", help="Default: the run's, or text.")
@click.option("--data", type=click.Path(), metavar="PATH", help="Default: the run's, or the embedded corpus.")
@click.option(
    "--context",
    type=click.IntRange(2),
    metavar="T",
    help="Default: the run's or the genome file's, or 64; 256 on a GPU.",
)
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where it trains.")
@click.option(
    "--rate-as-found",
    is_flag=True,
    help="Keep the stored learning rate. Default: rescale Muon's to this training's length (x sqrt(old tokens / new "
    "tokens)).",
)
@precision_option
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="CPU threads. Default: torch's, one per core. Where other work runs beside it 1 may be many times faster.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    metavar="INT",
    help="Seed of initial weights and data order.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="DIR",
    help="Folder of the results: new, empty, or that of this training, interrupted. Default: runs/train-NAME.",
)
def train(reference, tokens, task, data, context, device, rate_as_found, precision, threads, seed, output) -> None:
    """Train one genome in full and keep its best weights.

    FILE is a shipped name ('evonas genome show'), a genome file, or a config.json of Hugging Face; ID is any
    unambiguous start of an id that 'evonas report RUN' shows.

    The schedule runs to its end; the held-out loss is taken 20 times on the way, on 131,072 held-out tokens, or a
    twentieth of --tokens where that is more, spread over all held-out data, or on all of it. Writes
    weights.safetensors (of the lowest held-out loss), genome.json and curve.csv, and prints loss and latency.

    A search finds learning rates for trainings of its own --tokens. Muon's best rate falls with the square root of the
    length, so that of a RUN:ID, or of a genome file that names its "tokens", is rescaled to this one, though to no
    shorter one than the run's first rung (with one rung a quarter, for a file a sixteenth of its tokens); genome.json
    has the rate that was used.

    Killed or interrupted, it goes on when the same command is given again: it is written down after held-out losses
    and once a minute, as far as that takes no more than a twentieth of the time.

    \b
    evonas train my-run:3f2a
    evonas train nanogpt-cpu --data input.txt --tokens 1536000
    """
    from .. import __version__
    from ..config import DEVICE_DEFAULTS
    from ..fitness import resolve_device, resolve_precision
    from ..genome import bounded_windows, write_genome
    from ..record import conditions_of
    from ..report.short import clean
    from ..store import runs_folder
    from .reference import read_and_tell
    from .running import interrupts
    from .unfinished import Unfinished

    found = read_and_tell(reference)
    found.check_buildable()
    tokens = _tokens_for(found) if tokens is None else tokens
    device = resolve_device(device)
    precision = resolve_precision(precision, device)
    context = context or found.context or DEVICE_DEFAULTS[device]["context"]
    genome = found.genome if rate_as_found else found.genome_for(tokens, "--rate-as-found keeps it")
    meant = found.tokens if rate_as_found else found.meant_for(tokens)
    genome = bounded_windows(genome, context)
    task_name, loaded, its_data = _task_of(found, task, data, context)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    folder = Path(output) if output is not None else runs_folder() / f"train-{found.file_name}"
    told = {
        "genome": genome.id,
        "tokens": tokens,
        "task": task_name,
        "data": its_data,
        "context": context,
        "seed": seed,
    }
    unfinished = Unfinished(folder, {**told, "device": device, "precision": precision, "evonas": __version__})
    try:
        write_genome(
            folder / "genome.json", genome, name=found.name, source=found.source, context=context, tokens=meant
        )
        with interrupts():
            best, curve = _train(genome, loaded, tokens, seed, device, precision, unfinished)
        unfinished.finish()
    except KeyboardInterrupt:
        ours, goes_on = unfinished.held, unfinished.leave()
        kept = f" What it has learned so far is kept in {folder}." if ours and folder.exists() else ""
        raise EvonasError(
            f"interrupted before the training's end.{kept}",
            "The same command goes on with it." if goes_on else "",
            exit_code=EXIT_INTERRUPTED,
        ) from None
    except BaseException:
        unfinished.leave()
        raise
    loss, spread, latency = best
    learned = f"{task_name} from {clean(loaded.source)}" if hasattr(loaded, "source") else task_name
    click.echo(f"{found.name} ({genome.id}): {curve[-1][0]:,} tokens of {learned}, context {context}, {device}")
    click.echo(f"loss     {loss:.4f} nats +- {spread:.4f} (lowest held-out), {curve[-1][1]:.4f} at the end")
    how = conditions_of("latency", context, device, latency.device)
    click.echo(f"latency  {latency.value:.3f} ms +- {latency.spread:.3f}, {how}")
    click.echo(f"Wrote {folder / 'weights.safetensors'}, genome.json, curve.csv")


def _task_of(found: Reference, name: str | None, data: str | None, context: int):
    """The name of the task, the task, and what tells its data from other; a note where that is not what it was."""
    from ..tasks import fingerprint, load_task

    of_run = name is None or name == found.settings.get("task")
    name, its_data = found.task_and_data() if of_run else (name, None)
    path = its_data if data is None else data
    task = load_task(name, path, context)
    now = fingerprint(task)
    if of_run and found.data and now != found.data:
        click.echo(f"Note: the data is not what {found.name} was found on: {found.data} then, {now} now", err=True)
    return name, task, now or (path and os.path.abspath(path))  # a task need not tell its data apart


def _tokens_for(found: Reference) -> int:
    """More than its run has trained it on."""
    of_run = found.settings.get("tokens")
    usable = type(of_run) is int and of_run <= 10**12  # a run may come from anywhere
    return max(DEFAULT_TOKENS, LONGER * of_run if usable else 0)


def _train(genome, task, tokens: int, seed: int, device: str, precision: str, unfinished: Unfinished):
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from ..convert.weights import Seen, save_weights
    from ..fitness.latency import forward_latency
    from ..fitness.train import DivergenceError, steps_for, train
    from ..tasks import vocabulary

    folder = unfinished.folder
    best = (math.inf, 0.0)  # loss and its spread, of the weights that are kept
    curve: list[tuple[int, float]] = []  # (tokens seen, held-out loss)
    console = Console(stderr=True)
    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        total = steps_for(genome, task.context, tokens)
        row = bar.add_task("", total=total, loss="")
        waiting = _Waiting(device)

        def seen_after(step: int) -> int:
            return min(step * genome.batch_size, max(1, tokens // task.context)) * task.context

        def on_resume(step: int, evaluations) -> None:
            nonlocal best
            click.echo(f"Going on after step {step:,} of {total:,}, from {folder}", err=True)
            bar.reset(row, completed=step)
            curve.extend((seen_after(at), loss) for at, loss, _ in evaluations)
            if unfinished.weights.exists():
                best = min([best, *((loss, spread) for _, loss, spread in evaluations)])

        def on_step(step: int) -> None:
            unfinished.check()
            bar.update(row, completed=step)
            waiting.look()

        def on_evaluation(step: int, steps: int, loss: float, spread: float, model) -> None:
            nonlocal best
            bar.update(row, completed=step, loss=f"held-out loss {loss:.4f}")
            if not console.is_terminal:
                click.echo(f"step {step}/{steps}: held-out loss {loss:.4f}", err=True)
            curve.append((seen_after(step), loss))
            if loss < best[0]:
                best = loss, spread
                save(model, step, loss)
            _write_curve(folder / "curve.csv", curve)

        def save(model, step: int, loss: float) -> None:
            save_weights(model, unfinished.weights, vocabulary(task), Seen(seen_after(step), seen_after(total), loss))

        try:
            done = train(
                genome, task, tokens, seed=seed, device=device, precision=precision, evaluations=_EVALUATIONS,
                validation_tokens=max(_HELD_OUT, tokens // _EVALUATIONS), on_evaluation=on_evaluation, on_step=on_step,
                kept=unfinished.kept, on_resume=on_resume,
            )  # fmt: skip
        except DivergenceError as error:
            unfinished.check()
            unfinished.kept.unlink(missing_ok=True)  # it would diverge again
            hint = "Lower learning_rate in the genome's file; 'evonas genome show RUN:ID --json' prints one of a run's."
            if best[0] < math.log(task.vocab_size):
                hint += f" Its best weights so far, of loss {best[0]:.4f}, are kept in {folder}."
            else:  # worse than guessing: nothing to keep, and in the way of the next try
                unfinished.weights.unlink(missing_ok=True)
            raise EvonasError(f"the training diverged: {error}", hint, exit_code=EXIT_FAILED) from None
        if best[0] == math.inf:  # the last evaluation came before an interruption, and its weights were taken away
            best = done.loss, done.spread
            save(done.model, total, done.loss)
    latency = forward_latency(done.model.eval(), device, seconds=1.0)
    return (*best, latency), curve


class _Waiting:
    """Says once where the threads of a training mostly wait, for cores that other work has and so for one another."""

    def __init__(self, device: str) -> None:
        import torch

        self._threads = torch.get_num_threads() if device == "cpu" else 1
        self._since = time.perf_counter(), time.process_time()

    def look(self) -> None:
        if self._threads == 1 or (wall := time.perf_counter() - self._since[0]) < _LOOK_AFTER:
            return
        own = time.process_time() - self._since[1]
        if own < _BUSY * wall * self._threads:
            click.echo(
                f"Note: its {self._threads} threads wait for cores that other work has: --threads 1 may be many times "
                "faster.",
                err=True,
            )
        self._threads = 1


def _write_curve(path: Path, curve) -> None:
    path.write_text("tokens,loss\n" + "".join(f"{tokens},{json.dumps(loss)}\n" for tokens, loss in curve))
