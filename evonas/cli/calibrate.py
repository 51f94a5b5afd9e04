"""``evonas calibrate``: how far the proxy of a run can be trusted, measured."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ..errors import EXIT_INTERRUPTED, EvonasError
from .calibrating import DEFAULT_FACTOR, DEFAULT_REPEATS, calibrated, calibrating
from .options import data_option, end_of, moved_data, workers_option

if TYPE_CHECKING:
    from ..store import Store

DEFAULT_GENOMES, MAX_FACTOR = 16, 1e6


@click.command()
@click.argument("run", required=False)
@click.option(
    "--genomes",
    type=click.IntRange(4),
    default=DEFAULT_GENOMES,
    show_default=True,
    metavar="N",
    help="How many to train.",
)
@click.option(
    "--factor",
    type=float,
    default=DEFAULT_FACTOR,
    show_default=True,
    metavar="X",
    help="Train them so many times as long as the last rung.",
)
@click.option(
    "--repeats",
    type=click.IntRange(0),
    default=DEFAULT_REPEATS,
    show_default=True,
    metavar="N",
    help="Also retrain up to N of them at the run's own length with another seed, to measure seed noise (4 or more "
    "needed; 0: none).",
)
@click.option("--budget", metavar="TIME", help="Wall-clock limit: 90s, 30m, 2h. What is done by then is kept.")
@data_option
@workers_option
def calibrate(run, genomes, factor, repeats, budget, data, workers) -> None:
    """Measure how well the short trainings of RUN rank its genomes. Default: the newest run.

    A sample of them is trained much longer. It is taken evenly from the front, the dominated and those that stopped at
    each rung, small to large. Each is trained from scratch, its schedule stretched over the whole length. Says
    Kendall's tau with a bootstrap interval, overall and by size and learning rate, what choosing by the short loss
    costs, and how much a loss owes to its seed. 'evonas report' shows it from then on, and for each genome at the last
    rung the loss to be expected after so long a training. What is done is kept: the same command goes on, another
    number of genomes adds what it lacks.

    \b
    evonas calibrate my-run
    evonas calibrate my-run --genomes 64 --factor 20 --budget 8h
    """
    import time

    from ..config import Settings
    from ..report.calibration import lines
    from ..store import Store, find_run
    from .running import check_workers, interrupts
    from .trust import check_task_of_run

    check_workers(workers)
    if not 1 < factor <= MAX_FACTOR:
        raise EvonasError(f"--factor {factor:g}; it takes a number above 1, up to {MAX_FACTOR:g}")
    deadline = end_of(budget, time.monotonic())
    store = Store.open(find_run(run))
    settings = dataclasses.replace(Settings.from_dict(store.header["settings"]), **moved_data(data))
    check_task_of_run(settings.task, store.folder)
    with calibrating(store.folder), interrupts() as check:
        if (who := store.writer()) is not None:
            raise EvonasError(
                f"run {store.name!r} is being searched by process {who.get('pid', '?')} on {who.get('host', '?')}; "
                "training beside it would spoil the times it measures",
                "Wait for it, or stop it and go on with 'evonas resume' afterwards.",
            )
        again = _again(store.reference)
        try:
            summary = calibrated(store, settings, genomes, factor, repeats, deadline, workers, again, check)
        except KeyboardInterrupt:
            click.echo(f"\nInterrupted; {_kept(store)}. Go on with: {again}", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None
    click.echo("\n".join(lines(summary)))


def _kept(store: Store) -> str:
    """``7 trainings are kept``"""
    from ..report.calibration_file import calibration_of

    count = len((calibration_of(store) or {"trained": ()})["trained"])
    return "1 training is kept" if count == 1 else f"{count or 'no'} trainings are kept"


def _again(run: str) -> str:
    """The command that goes on with a run, quoted, and the options that were given."""
    context, options = click.get_current_context(), []
    for option in context.command.params:
        if option.name != "run" and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            options += [option.opts[0], str(context.params[option.name])]
    return " ".join(["evonas calibrate", run, *map(shlex.quote, options)])
