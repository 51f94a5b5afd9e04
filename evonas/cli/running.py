"""What ``evonas evolve`` and ``evonas resume`` share: the search from its settings to its last table."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import EXIT_FAILED, EXIT_INTERRUPTED, EvonasError
from .evaluator import evaluator_of, needs_of
from .options import CLOSING_SECONDS, SETTLING_SECONDS, SETTLING_SHARE

if TYPE_CHECKING:
    from ..config import Settings
    from ..evolution import Engine
    from ..fitness import ProxyEvaluator
    from ..genome import Genome, SearchSpace
    from ..record import Constraint
    from ..search import Search
    from ..store import Store
    from .hands import Hands
    from .progress import Progress

CHECKPOINTS = "weights"  # of trainings that may go on, in the run's folder


def run_search(
    settings: Settings, space: SearchSpace, folder: Path, store: Store | None, deadline: float | None,
    hands: Hands, earlier: float = 0.0, ended: str | None = None, told: bool = False,
) -> None:  # fmt: skip
    """Run or continue a search and print how it ended. ``store`` None: make one, once all else is known to be right.
    ``earlier``: seconds of sittings before this one that count in the share of the time that a calibration gets.
    ``ended``: why the search came to its end already; what follows it is done. ``told``: from here the run is told anew
    how far to go."""
    from ..fitness import device_text
    from ..genome import transformer_genome
    from ..record import Constraint
    from ..search import FIRST_TIMEOUT, AsynchronousSearch, Search, bring_here
    from ..store import Store, note_spent
    from ..tasks import fingerprint
    from .progress import Progress
    from .same import check_data, reused

    check_workers(hands.workers)
    constraints = tuple(Constraint.parse(text) for text in settings.constraints)
    evaluator = evaluator_of(settings, needs_of(settings), checkpoints=str(folder.resolve() / CHECKPOINTS))
    data = fingerprint(evaluator.task)  # a data file that can't be used is found now
    if store is not None:
        check_data(store, settings, data)
    seeds = {transformer_genome(s["genes"]): s["label"] for s in settings.seeds}
    if settings.calibrate and "loss" not in evaluator.trained_names:
        raise EvonasError("--calibrate tells how well losses are ranked; this search has none", "Leave it out.")
    wait = hands.wait(settings, evaluator, deadline)
    engine = _engine(settings, space, evaluator, constraints, list(seeds), wait)
    known = reused(settings, evaluator, data, again=store is not None)
    progress = Progress(settings, deadline, folder)
    progress.seeds = {genome.id: label for genome, label in seeds.items()}
    with contextlib.ExitStack() as stack:
        progress.check = stack.enter_context(interrupts())
        executor = stack.enter_context(hands.make_executor(settings.device, evaluator, wait))
        _note_unreachable(settings, len(evaluator.rungs), begun=store is not None)
        if store is None:
            notes = {"vocab_size": evaluator.task.vocab_size, **({} if data is None else {"data": data})}
            header = _header(settings, space, engine, seeds, notes)
            store = stack.enter_context(_new_run(Store.create(folder, header)))
            _clear(folder, evaluator)
        else:
            _take_up(store, settings, over=ended is not None, told=told)
        # On a cluster other machines measure.
        device = None if hands.executor == "ray" else device_text(settings.device)
        try:
            if device is not None:
                bring_here(store, executor, evaluator, device, settings.timeout or FIRST_TIMEOUT, deadline)
            how = {"timeout": settings.timeout, "labels": progress.seeds, "device": device, "listener": progress}
            kind = Search if wait else AsynchronousSearch
            search = kind(engine, store, executor, evaluator, constraints=constraints, known=known, **how)
            began = progress.started - earlier
            here = None if hands.executor == "ray" else hands.workers  # a calibration trains on this machine
            about = search, settings, deadline, progress, began, here
            ended, sample, settled = _searched(*about) if ended is None else (ended, *_followed(*about))
        except KeyboardInterrupt:
            again = hands.to_resume(store.reference)
            click.echo(f"\nInterrupted; every finished evaluation is kept. Go on with: {again}", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None
        finally:
            note_spent(store)
        executor.close()
        failed = _wound_up(store, settings, deadline, progress, began, here, sample if settled else 0)
        progress.summary(store, ended)
        if failed is not None:
            raise failed
        if not settled:
            _exit_unsettled(store.reference, settings)


def _take_up(store: Store, settings: Settings, over: bool, told: bool) -> None:
    """Note in a run that there is what it is told now; ``over``: its search has come to its end."""
    from ..store import note_aim, note_end

    if not over:
        note_end(store, None)
    if told:
        note_aim(store)
    store.set_header(settings=settings.to_dict())  # a new goal outlives an interruption


def _wound_up(
    store: Store, settings: Settings, deadline: float | None, progress: Progress, began: float, workers: int | None,
    sample: int,
) -> EvonasError | None:  # fmt: skip
    """What follows the last evaluation: the calibration by so many genomes, if any. What to raise in the end."""
    from ..store import note_settled, note_spent

    def check() -> None:
        progress.check()
        note_spent(store)  # a kill gives no time back

    try:
        _check_found(store, progress)
        return _calibrate(store, settings, sample, deadline, began, workers, check) if sample else None
    finally:  # what fails, or is interrupted, has said how to go on; what is killed resume goes on with
        note_settled(store)
        note_spent(store)


def _clear(folder: Path, evaluator: ProxyEvaluator) -> None:
    """Remove what a run that was here before has left: its checkpoints, calibration and picture."""
    from ..report.calibration_file import FILE as CALIBRATION

    evaluator.retain(())
    for left in (CALIBRATION, "front.png"):
        (folder / left).unlink(missing_ok=True)


def _searched(
    search: Search, settings: Settings, deadline: float | None, progress: Progress, began: float, workers: int | None
) -> tuple[str, int, bool]:
    """Search, and settle what is near a tie: why the search ended, how many genomes a calibration has time for, and
    whether settling came to its end. What a calibration has no use for goes to the search."""
    patience = settings.patience
    with progress.showing(search):
        end, sample = _search_end(deadline, began, settings.calibrate), 0
        until = _before_settling(end, progress.started)
        ended = search.run(settings.generations, until, patience=patience, began=began)
        if settings.calibrate:
            try:
                sample = _sample(search.store, settings, deadline, began, workers)
            except KeyboardInterrupt:
                return ended, 0, False
            end = end if sample else _search_end(deadline, began, 0.0)
            if not sample and ended == "budget":
                until = _before_settling(end, progress.started)
                ended = search.run(settings.generations, until, patience=patience, began=began)
        try:
            progress.settled(search.settle(end))
        except KeyboardInterrupt:
            return ended, sample, False
    return ended, sample, True


def _followed(
    search: Search, settings: Settings, deadline: float | None, progress: Progress, began: float, workers: int | None
) -> tuple[int, bool]:
    """What follows a search that is done: as ``_searched``, with what time there is, unless it is calibrated."""
    from ..report.calibration_file import is_calibrated

    with progress.showing(search):
        try:
            end = None if deadline is None else min(deadline, time.monotonic() + SETTLING_SECONDS)
            progress.settled(search.settle(end))
            due = settings.calibrate and not is_calibrated(search.store)
            sample = _sample(search.store, settings, deadline, began, workers) if due else 0
        except KeyboardInterrupt:
            return 0, False
    return sample, True


def _exit_unsettled(run: str, settings: Settings) -> None:
    left = f" Calibrate it with: evonas calibrate {run}" if settings.calibrate else ""
    click.echo(f"\nInterrupted while near-ties were measured again; the search was done.{left}", err=True)
    raise SystemExit(EXIT_INTERRUPTED)


def _search_end(deadline: float | None, began: float, calibration: float) -> float | None:
    """When the search has to end, so that what follows it comes before the deadline."""
    return None if deadline is None else deadline - CLOSING_SECONDS - calibration * (deadline - began)


def _before_settling(end: float | None, started: float) -> float | None:
    """When trainings have to end, so that near-ties can be measured again before ``end``."""
    return None if end is None else end - min(SETTLING_SECONDS, SETTLING_SHARE * (end - started))


def _calibration_seconds(deadline: float | None, began: float, share: float) -> float:
    now = time.monotonic()
    seconds = share / (1 - share) * (now - began)
    return seconds if deadline is None else min(seconds, deadline - CLOSING_SECONDS - now)


def _sample(store: Store, settings: Settings, deadline: float | None, began: float, workers: int | None) -> int:
    """How many genomes a calibration has time for; 0 also where there is nothing to calibrate, or no way to, which is
    told."""
    from .calibrating import command_for, sample_within

    if not any(r.ok for r in store.records):
        return 0
    seconds = _calibration_seconds(deadline, began, settings.calibrate)
    try:
        return sample_within(store, settings, seconds, workers)
    except EvonasError as error:
        click.echo(f"Not calibrated: {error.message}. At any time: {command_for(store)}", err=True)
        return 0


def _calibrate(
    store: Store, settings: Settings, genomes: int, deadline: float | None, began: float, workers: int | None,
    check: Callable[[], None],
) -> EvonasError | None:  # fmt: skip
    """Calibrate; what to raise in the end where that failed, as the search is done all the same."""
    from .calibrating import calibrate_within, command_for

    again = command_for(store, genomes)
    seconds = _calibration_seconds(deadline, began, settings.calibrate)
    try:
        calibrate_within(store, settings, genomes, seconds, workers, check)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; the search is done. Go on with: {again}", err=True)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except EvonasError as error:
        what = f"the search is done; its calibration failed: {error.message}"
        return EvonasError(what, f"At any time: {again}", exit_code=error.exit_code)
    return None


def _note_unreachable(settings: Settings, rungs: int, begun: bool) -> None:
    """A run may be too short for its rungs, one of which takes a generation: said before it, not found out after it."""
    reached = min(settings.generations, rungs)
    if reached < rungs:
        cure = f"--rungs {reached} trains the best on all of --tokens"
        if begun:
            cure = f"it takes --generations {rungs} at least"
        click.echo(
            f"Note: in {settings.generations} generations nothing can come beyond rung {reached} of {rungs}; {cure}.",
            err=True,
        )


def check_workers(workers: int | None) -> None:
    from ..config import MAX_WORKERS

    if workers is not None and workers > MAX_WORKERS:
        raise EvonasError(
            f"{workers} workers: it takes a whole number from 1 to {MAX_WORKERS}", "Leave it out for one per CPU."
        )


def _engine(
    settings: Settings,
    space: SearchSpace,
    evaluator: ProxyEvaluator,
    constraints: Sequence[Constraint],
    seeds: list,
    wait: bool = True,
) -> Engine:
    from ..evolution import AsynchronousEngine, Engine
    from ..record import Constraint, objective

    known = [c for c in constraints if c.name in evaluator.exact_names]

    def screen(genome: Genome) -> float:
        values = evaluator.exact(genome)
        return sum(c.violation(values[c.name].value) for c in known)

    # One on what is measured is judged before the training, and expected by the surrogate.
    others = [c for c in constraints if c not in known]

    def broken(values: Mapping[str, float]) -> float:
        return sum(c.violation(values[c.name]) for c in others if c.name in values)

    engine = (Engine if wait else AsynchronousEngine)(
        space,
        [objective(name) for name in settings.objectives],
        population_size=settings.population,
        offspring_size=settings.offspring or None,
        initial_size=settings.initial or None,
        seed=settings.seed,
        seed_genomes=seeds,
        screen=screen if known else None,
        rungs=len(evaluator.rungs),
        reduction=settings.reduction,
        watched=[n for n in dict.fromkeys(c.name for c in others) if n not in settings.objectives],
        broken=broken if others else None,
        goals={goal.name: goal.bound for goal in map(Constraint.parse_goal, settings.goals)},
        known=evaluator.known,
        surrogate=settings.surrogate,
    )
    try:
        engine.prepare()
    except EvonasError as error:
        if error.exit_code != EXIT_FAILED or not known:
            raise
        names = " and ".join(map(str, known))
        raise EvonasError(
            f"no genome of the space {space.name!r} was found that meets {names}", error.hint, exit_code=EXIT_FAILED
        ) from None
    return engine


def _header(settings: Settings, space: SearchSpace, engine: Engine, seeds: dict[Genome, str], notes: dict) -> dict:
    from ..genome import space_to_dict

    return {
        "settings": settings.to_dict(),
        "space": space_to_dict(space),
        "objectives": [{"name": o.name, "unit": o.unit, "direction": o.direction} for o in engine.objectives],
        "constraints": list(settings.constraints),
        "seed": settings.seed,
        "device": settings.device,
        "seed_genomes": [{"id": g.id, "label": label} for g, label in seeds.items()],
        "command": shlex.join(["evonas", *sys.argv[1:]]),
        "notes": notes,
    }


@contextlib.contextmanager
def _new_run(store: Store) -> Iterator[Store]:
    """A run in which nothing was evaluated does not outlive an error."""
    with store:
        try:
            yield store
        except EvonasError:
            if not store.records:
                store.discard()
            raise


def _check_found(store: Store, progress: Progress) -> None:
    """A search that has ended without any success is none."""
    seconds = time.monotonic() - progress.started
    if not store.records:
        raise EvonasError(f"no candidate finished in {seconds:.0f} s", "Give a longer --budget.", exit_code=EXIT_FAILED)
    if not any(r.ok for r in store.records):
        first = next(iter(store.records[0].reason.splitlines()), "")
        hint = f"Mend the cause or give it more time: evonas resume {store.reference} --budget 10m"
        if any(r.status == "timeout" for r in store.records):
            hint = f"Give each more time (--timeout 2h), or start anew with a smaller --context or seed. {hint}"
        raise EvonasError(
            f"none of {len(store.records)} candidates has succeeded so far; the first: {first}",
            hint,
            exit_code=EXIT_FAILED,
        )


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """Within the block SIGTERM is a KeyboardInterrupt, as Ctrl-C is. One that comes while Python ignores exceptions (in
    a finaliser of h5py, say) is lost: the function that is yielded raises it again, so Python need not report it."""
    came = []

    def interrupt(signum, frame) -> None:
        came.append(signum)
        raise KeyboardInterrupt

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    hook = sys.unraisablehook

    def report(unraisable) -> None:
        if not (came and unraisable.exc_type is KeyboardInterrupt):
            hook(unraisable)

    # What a shell started in the background ignores Ctrl-C, and goes on doing so.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    sys.unraisablehook = report
    try:
        yield check
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
