"""A calibration of a run: asked for, or at the end of a search."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import GROWTH
from ..errors import EXIT_FAILED, EvonasError
from .options import worker_count

if TYPE_CHECKING:
    from ..config import Settings
    from ..fitness import ProxyEvaluator
    from ..genome import Genome
    from ..store import Store

DEFAULT_FACTOR, DEFAULT_REPEATS = 4.0, 8
LOCK = "calibration.lock"
_SAMPLES = (4, 6, 8, 12, 16, 24, 32, 48, 64)  # how many genomes a search may end with
_MARGIN, _START_SECONDS = 1.2, 5.0  # of what trainings should take, and for workers to start


@contextlib.contextmanager
def calibrating(folder: Path) -> Iterator[None]:
    """Within the block no other process calibrates the run: it would lose what this one writes. Raises EvonasError
    where one does."""
    from ..store.lock import WriterLock

    try:
        lock = WriterLock(folder / LOCK, "the calibration of run")
    except OSError as error:
        raise EvonasError(f"{folder} can't be written: {error.strerror}", exit_code=EXIT_FAILED) from None
    with contextlib.closing(lock):
        yield


def calibrated(
    store: Store, settings: Settings, genomes: int, factor: float, repeats: int, deadline: float | None,
    workers: int | None, again_with: str, check: Callable[[], None] = lambda: None,
) -> dict:  # fmt: skip
    """Train the sample longer and some of it with another seed, keep what comes of it in the run's folder, and tell on
    stderr what is missing, and the command ``again_with`` that goes on; the summary. For who holds ``calibrating``;
    ``check`` is called between trainings."""
    from ..fitness.evaluate import resolve_device, rung_tokens
    from ..report.calibration_file import AS_LONG, begin, calibration_of
    from ..report.sample import choose, choose_again
    from ..tasks import fingerprint
    from .same import check_data

    try:
        resolve_device(settings.device)
    except EvonasError as error:
        raise EvonasError(
            f"run {store.name!r} trains on {settings.device}: {error.message}", "Calibrate it on such a machine."
        ) from None
    evaluator = _longer(settings, factor)
    data = fingerprint(evaluator.task)
    check_data(store, settings, data, "Calibrate")
    rungs = rung_tokens(settings.tokens, settings.rungs, GROWTH)
    chosen = choose(store, genomes, len(rungs), evaluator.task.vocab_size, settings.context)
    again = choose_again(chosen, len(rungs), repeats)
    about = begin(chosen, factor, rungs, data, calibration_of(store), again, store.header["created"])
    sitting = _Sitting(store, about, {c.genome.id: c.genome for c in chosen}, deadline, workers, check)
    sitting.train(evaluator, about["sample"], factor, "calibrating")
    _check_found(about["sample"])
    if _waiting(about["again"]):
        sitting.tell()  # an interruption of what follows takes nothing of it
        other = _with_another_seed(settings)
        other.task, other._stamp = evaluator.task, evaluator._stamp  # read once, and to its workers the same data
        sitting.train(other, about["again"], AS_LONG, "with another seed")
    about["done"] = store.evaluated
    summary = sitting.tell()
    entries = [*about["sample"], *about["again"]]
    failed = [e for e in entries if e["long"] is None and e["status"]]
    if failed:
        click.echo(f"{len(failed)} failed; the first: {_why(failed[0])}", err=True)
    if missing := len(_waiting(entries)):
        click.echo(f"{missing} are still to be trained; go on with: {again_with}", err=True)
    return summary


def sample_within(store: Store, settings: Settings, seconds: float, workers: int | None) -> int:
    """How many genomes can be trained in so many seconds; 0, and a sentence on stderr, where that is too few. As many
    as in a calibration that was begun, if there is one: of what it has trained none is lost, and it ends when time is
    over."""
    from ..executors import default_workers
    from ..report.calibration import FEWEST
    from ..report.calibration_file import begun
    from ..report.sample import choose, choose_again, seconds_per_token

    if genomes := begun(store, DEFAULT_FACTOR):
        return genomes
    lanes = worker_count(workers, settings.device) or default_workers()
    evaluator = _longer(settings, DEFAULT_FACTOR)
    pace = seconds_per_token(store)

    def needed(n: int) -> float:
        sample = choose(store, n, settings.rungs, evaluator.task.vocab_size, settings.context)
        again = choose_again(sample, settings.rungs, DEFAULT_REPEATS)
        seconds = 0.0
        for chosen, tokens in ((sample, evaluator.rungs[-1]), (again, settings.tokens)):
            if each := [pace[c.genome.id] * tokens for c in chosen]:
                seconds += _START_SECONDS + _MARGIN * max(sum(each) / lanes, max(each))
        return seconds

    fitting = [n for n in _SAMPLES if needed(n) <= seconds]
    if not fitting:
        click.echo(
            f"Not calibrated: to train {FEWEST} genomes {DEFAULT_FACTOR:g} times longer takes some "
            f"{needed(FEWEST):.0f} s, there are {seconds:.0f} s. At any time: evonas calibrate {store.reference}",
            err=True,
        )
    return max(fitting, default=0)


def calibrate_within(
    store: Store, settings: Settings, genomes: int, seconds: float, workers: int | None, check: Callable[[], None]
) -> None:
    """So many genomes, as far as that many seconds allow; ``check`` as ``calibrated`` takes it."""
    how = DEFAULT_FACTOR, DEFAULT_REPEATS, time.monotonic() + seconds, workers, command_for(store, genomes)
    with calibrating(store.folder):
        calibrated(store, settings, genomes, *how, check)


def command_for(store: Store, genomes: int = 0) -> str:
    """What calibrates the run: so many genomes, or as many as a calibration that was begun, if there is one."""
    from ..report.calibration_file import begun

    genomes = genomes or begun(store, DEFAULT_FACTOR)
    return f"evonas calibrate {store.reference}" + (f" --genomes {genomes}" if genomes else "")


def _longer(settings: Settings, factor: float) -> ProxyEvaluator:
    """One training of so many times the length."""
    from .evaluator import evaluator_of

    return evaluator_of(settings, ("loss",), tokens=round(settings.tokens * factor), rungs=1)


def _with_another_seed(settings: Settings) -> ProxyEvaluator:
    """The run's own trainings, rung by rung, but for the seed."""
    from .evaluator import evaluator_of

    return evaluator_of(settings, ("loss",), seed=settings.seed ^ 1)


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


def _waiting(entries: list[dict]) -> list[dict]:
    """Those that are still to be trained."""
    return [e for e in entries if e["long"] is None and not e["status"]]


def _why(entry: dict) -> str:
    return ": ".join(part for part in (entry["id"], entry["status"], entry["reason"]) if part)


@dataclass(frozen=True)
class _Sitting:
    """What one call does: the run, the calibration it adds to, its genomes by id."""

    store: Store
    about: dict[str, Any]
    genes: dict[str, Genome]
    deadline: float | None
    workers: int | None
    check: Callable[[], None]

    def tell(self) -> dict[str, Any]:
        """Write down what all that is trained says; the summary."""
        from ..report.calibration import FEWEST, summary_of
        from ..report.calibration_file import write_calibration

        summary = summary_of(self.store, self.about)
        # What says nothing yet takes no other's place.
        if self.about["summary"] is None or summary["genomes"] >= FEWEST:
            self.about["summary"] = summary
        write_calibration(self.store.path, self.about)
        return summary

    def train(self, evaluator: ProxyEvaluator, entries: list[dict], factor: float, what: str) -> None:
        """Train those of ``entries`` that wait to the last rung of ``evaluator``, and write down each as it ends."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from ..executors import Call, Failure, default_workers, make_executor
        from ..report.calibration_file import note, write_calibration

        waiting = {e["id"]: e for e in _waiting(entries)}
        if not waiting:
            return
        largest_first = sorted(waiting, key=lambda i: -waiting[i]["params"])
        calls = [Call("train", (self.genes[i], len(evaluator.rungs) - 1), i) for i in largest_first]
        env = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if evaluator.device == "cpu" else None
        lanes = worker_count(self.workers, evaluator.device)
        lanes = default_workers() if lanes is None else lanes
        console = Console(stderr=True)
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with (
            make_executor("auto", evaluator, min(lanes, len(calls)), env) as executor,
            Progress(*columns, console=console, transient=True) as bar,
        ):
            row = bar.add_task("", total=len(waiting))
            for genome_id, result in executor.map(calls, self._timeout(evaluator, waiting), self.deadline):
                if isinstance(result, Failure) and result.status == "deadline":
                    continue
                found = waiting[genome_id]
                good = not isinstance(result, Failure) and result.status == "ok"
                loss = result.measures["loss"].value if good else None
                note(self.about, found, result.status, loss, result.reason, factor)
                write_calibration(self.store.path, self.about)
                self.check()
                bar.update(row, advance=1)
                if not console.is_terminal:
                    reached = "" if loss is None else f", loss {loss:.4f}"
                    click.echo(f"{what}: {genome_id}: {found['status']}{reached}", err=True)

    def _timeout(self, evaluator: ProxyEvaluator, ids: Iterable[str]) -> float | None:
        """Seconds for one training, as a search gives them: one that hangs would be waited for without end. None where
        all trainings were taken over from another run, and nothing tells how long they take here."""
        from ..report.sample import seconds_per_token
        from ..search.account import FIRST_TIMEOUT, TIMEOUT_FACTOR

        pace = seconds_per_token(self.store)
        longest = max(pace.get(i, 0.0) for i in ids) * evaluator.rungs[-1]
        return max(FIRST_TIMEOUT, TIMEOUT_FACTOR * longest) if longest else None
