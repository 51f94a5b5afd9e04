"""The options that ``evonas evolve`` and ``evonas resume`` share, and what they mean."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from pathlib import Path

import click

from ..errors import EvonasError

DEFAULT_GENERATIONS = 50
_COUNT = re.compile(r"([+-]?\d{1,18}(?:\.\d{1,9})?)([kmgb]?)", re.IGNORECASE | re.ASCII)
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
MAX_CALIBRATION = 0.9  # share of the time
# Time kept back from the budget for the last commit, the plot and the table.
CLOSING_SECONDS = 3.0
# And to measure near-ties on the front again, at most, and at most so much of the budget.
SETTLING_SECONDS, SETTLING_SHARE = 20.0, 0.04


class Tokens(click.ParamType):
    """A number of tokens: 1536000, 500k, 1.5M, 2G; where ``high`` is given, from 1 to that."""

    name = "tokens"

    def __init__(self, high: int | None = None) -> None:
        self._high = high

    def convert(self, value, param, ctx) -> int:
        if isinstance(value, int):
            return value
        found = _COUNT.fullmatch(value.strip().replace("_", ""))
        count = Decimal(found[1]) * _COUNTS[found[2].lower()] if found else None
        if count is None or count != int(count):
            self.fail(f"{value!r:.80} is not a number of tokens, such as 1536000, 500k, 1.5M or 2G.", param, ctx)
        if self._high is not None and not 1 <= count <= self._high:
            self.fail(f"{value!r:.80} is not in the range from 1 to {self._high:,}.", param, ctx)
        return int(count)


precision_option = click.option(
    "--precision",
    default="auto",
    show_default=True,
    metavar="auto|float32|bfloat16",
    help="Number format of matrix products in training. auto: bfloat16 where the device has units for it.",
)


workers_option = click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Processes that train. Default: one per CPU; up to 8 on a GPU, by its memory and the CPUs.",
)


def worker_count(workers: int | None, device: str) -> int | None:
    """``--workers`` as ``make_executor`` takes it."""
    from ..executors import default_workers
    from ..fitness import gpu_workers

    return gpu_workers(default_workers()) if workers is None and device != "cpu" else workers


def data_option(command):
    """--data of commands that go on with a run."""
    text = "Where the run's data lies now. It has to be the same. Default: where it lay."
    return click.option("--data", type=click.Path(), metavar="PATH", help=text)(command)


def moved_data(data: str | None) -> dict[str, str]:
    """The change of a run's settings that ``--data`` makes."""
    return {} if data is None else {"data": str(Path(data).resolve())}


def search_options(command):
    """Options that evolve and resume share."""
    for option in reversed(
        (
            click.option(
                "--budget",
                metavar="TIME",
                help="Wall-clock limit: 90s, 30m, 2h. Ends within it, resumable."
                " With --executor serial the training that runs is waited for.",
            ),
            click.option(
                "--patience",
                type=click.IntRange(1),
                metavar="N",
                help="Stop when the hypervolume has not grown by 0.1% in N generations. At least 20 is wise: only what"
                " is trained to the last rung counts in it.",
            ),
            workers_option,
            click.option(
                "--asynchronous/--synchronous",
                default=None,
                help="Whether a worker goes on to the next candidate as soon as it is free, or waits for the slowest of"
                " the generation; then, unless something measured decides, the same seed is the same search. Default:"
                " asynchronous where there is a --budget and two workers or more train on CPUs of this machine.",
            ),
            click.option(
                "--calibrate",
                metavar="SHARE",
                help="Such as 5%: share of the time that is spent, after the search, on measuring how far its short"
                " trainings can be trusted (see 'evonas calibrate').",
            ),
            click.option(
                "--executor",
                default="auto",
                show_default=True,
                metavar="auto|serial|processes|ray",
                help="Where candidates train. serial: in this process; --budget and --timeout can't stop a training."
                " ray: on the cluster of RAY_ADDRESS, else on a local instance.",
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


def share_of(calibrate: str | None) -> float:
    """The share of a --calibrate, 0 without one."""
    if calibrate is None:
        return 0.0
    try:
        share = float(calibrate.strip().removesuffix("%")) / 100
    except ValueError:
        share = math.nan
    if not (calibrate.strip().endswith("%") and 0 < share <= MAX_CALIBRATION):
        raise EvonasError(
            f"--calibrate {calibrate!r} is not a share of the time from above 0% to {MAX_CALIBRATION:.0%}",
            "For example: --calibrate 5%.",
        )
    return share


def generations_to_do(given: int | None, budget: str | None) -> int:
    from ..config import MAX_GENERATIONS

    return given if given is not None else MAX_GENERATIONS if budget else DEFAULT_GENERATIONS
