"""Searches on an emulator of a run's trainings: seconds each where the real ones take minutes.

    python tools/bench_emulated.py runs/first runs/second
    python tools/bench_emulated.py runs/first --seeds 40 --set reduction=6 --set population_size=12
    python tools/bench_emulated.py runs/first --seconds 100 --workers 16
    python tools/bench_emulated.py runs/first --arm evonas --arm 'full length'
    python tools/bench_emulated.py runs/first --quick

From seed to seed real searches of a few minutes end further apart than two versions of evonas do, so that a handful of
them tell nothing. Here Gaussian processes, fitted to all that the given runs (one space, one task, one device, two
rungs or more) were told, answer instead: the loss at the first rung, how it changes from rung to rung, the latency, the
seconds of a training; each with noise as large as what five-fold cross-validation is off by, the same for the same
genome. ``Search`` itself runs on them, with a budget of seconds: those that trainings and measurements take are added
to a clock, those of engine and store pass on it. Printed are the models' R^2, and for each arm the hypervolume after
quarters of the time, mean and standard error over seeds, in a box from the best that the runs knew to the 90th
percentile of a stratified sample; the networks asked for and trained to the end; and which share of the workers' time
goes to trainings.

Directions, not proof: the engine's own models are Gaussian processes too and find their like easier to learn than a
training. What helps here is to be shown by bench_evolve.py.

evonas: as a search with a budget has it. with a barrier: the same, but each generation waits for its slowest.
without surrogate: as evonas. full length: every candidate trains to the last rung at once, with the surrogate.
"""

from __future__ import annotations

import argparse
import heapq
import json
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evonas.config import GROWTH, REDUCTION
from evonas.evolution import AsynchronousEngine, Engine, gp, hypervolume, stratified
from evonas.evolution.rungs import described
from evonas.executors import Call, Failure
from evonas.fitness.evaluate import rung_tokens
from evonas.genome import Genome, SearchSpace, space_from_dict, space_to_dict
from evonas.genome.graph import cost
from evonas.record import Measure, Objective, Outcome
from evonas.report.sample import losses_told
from evonas.search import AsynchronousSearch, Search
from evonas.store import Store

ARMS = {
    "evonas": {"surrogate": True},
    "with a barrier": {"surrogate": True},
    "without surrogate": {"surrogate": False},
    "full length": {"surrogate": True, "rungs": 1},
}
QUARTERS = (0.25, 0.5, 0.75, 1.0)


class Emulator:
    """Answers for any genome of the runs' space: losses at every rung, a latency, the seconds of each rung.

    Attributes: ``quality`` {what: (R^2, standard deviation of what is left)} in logarithms; ``best`` (loss at the last
    rung, latency) of all genomes that have been there; ``growth``, for each rung the seconds of its training beside
    those of the first rung; ``timing``, seconds that measuring an architecture takes.
    """

    def __init__(self, folders: Sequence[str], seed: int = 0) -> None:
        stores = [Store.open(folder) for folder in folders]
        self.settings = stores[0].header["settings"]
        self.space: SearchSpace = space_from_dict(stores[0].header["space"], stored=True)
        self.tokens = rung_tokens(self.settings["tokens"], self.settings.get("rungs", 1), GROWTH)
        if len(self.tokens) < 2 or not {"loss", "latency"} <= set(self.settings["objectives"]):
            sys.exit("bench_emulated: it takes runs of loss and latency with two rungs or more")
        told = [(s.genomes[i].genome, records) for s in stores for i, records in losses_told(s).items()]
        told = [(genome, records) for genome, records in told if self.space.contains(genome)]
        inputs = np.array([self._raw(genome) for genome, _ in told])
        self._low, self._width = inputs.min(axis=0), np.ptp(inputs, axis=0)
        self._width[self._width == 0] = np.inf
        losses = [np.log([r.measures["loss"].value for r in records]) for _, records in told]
        times = np.log([records[-1].measures["latency"].value for _, records in told])
        self.quality: dict[str, tuple[float, float]] = {}
        self._models = {"latency": self._fit("latency", inputs, times, seed)}
        self._models["loss 0"] = self._fit("loss 0", inputs, np.array([row[0] for row in losses]), seed)
        for rung in range(1, len(self.tokens)):
            there = [k for k, row in enumerate(losses) if len(row) > rung]
            changes = np.array([losses[k][rung] - losses[k][rung - 1] for k in there])
            self._models[f"loss {rung}"] = self._fit(f"loss {rung}", inputs[there], changes, seed)
        done = [k for k, row in enumerate(losses) if len(row) == len(self.tokens)]
        self.best = np.exp([[losses[k][-1], times[k]] for k in done])
        costs = [[r.cost.get("seconds", 0.0) for r in records] for _, records in told]
        paid = [k for k, row in enumerate(costs) if row[0] > 0]
        if not paid:
            sys.exit("bench_emulated: nothing in these runs says what a training takes")
        self._models["seconds"] = self._fit("seconds", inputs[paid], np.log([costs[k][0] for k in paid]), seed)
        above = [
            [costs[k][rung] / costs[k][0] for k in paid if len(costs[k]) > rung] for rung in range(len(self.tokens))
        ]
        self.growth = [float(np.median([ratio for ratio in row if ratio > 0])) for row in above]
        timed = [r.cost["measure_seconds"] for _, records in told for r in records if r.cost.get("measure_seconds")]
        self.timing = float(np.median(timed)) if timed else 0.0
        self._known: dict[str, tuple[float, ...]] = {}

    def work(self, genome: Genome) -> dict[str, float]:
        """What is known of it before anything is measured."""
        found = cost(genome, 65, self.settings["context"])
        return {"flops": float(found.flops), "params": float(found.params)}

    def _raw(self, genome: Genome) -> np.ndarray:
        return np.concatenate([described(self.space, genome), np.log(list(self.work(genome).values()))])

    def _scaled(self, inputs: np.ndarray) -> np.ndarray:
        return (inputs - self._low) / self._width

    def _fit(self, what: str, inputs: np.ndarray, values: np.ndarray, seed: int):
        """A model, and into ``quality`` what it says of fifths that it has not seen (hyperparameters of all)."""
        x = self._scaled(inputs)
        model = gp.GaussianProcess(gp.Inputs(x, range(x.shape[1]), shared=True), values)
        fifth = np.random.default_rng(seed).permutation(len(values)) % 5
        off = np.concatenate(
            [values[rows] - model.left_out(rows) for rows in (np.flatnonzero(fifth == k) for k in range(5))]
        )
        self.quality[what] = (1 - off.var() / values.var(), float(off.std()))
        return model

    def __call__(self, genomes: Sequence[Genome]) -> list[tuple[float, ...]]:
        """(loss at each rung, latency, seconds of the first rung) of each."""
        new = [g for g in {g.id: g for g in genomes}.values() if g.id not in self._known]
        if new:
            x = self._scaled(np.array([self._raw(g) for g in new]))
            found = {what: model.predict(model.inputs.across(x))[0] for what, model in self._models.items()}
            for k, genome in enumerate(new):
                noisy = {what: values[k] + self._noise(what, genome) for what, values in found.items()}
                losses = np.cumsum([noisy[f"loss {rung}"] for rung in range(len(self.tokens))])
                self._known[genome.id] = tuple(np.exp([*losses, noisy["latency"], noisy["seconds"]]).tolist())
        return [self._known[g.id] for g in genomes]

    def _noise(self, what: str, genome: Genome) -> float:
        key = genome.architecture_id if what == "latency" else genome.id
        return self.quality[what][1] * np.random.default_rng((int(key, 16), len(what), ord(what[-1]))).standard_normal()


class Clock:
    """Seconds that passed here, without those that were ``skipped``, and those that were added."""

    def __init__(self) -> None:
        self._added = -time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() + self._added

    def add(self, seconds: float) -> None:
        self._added += max(0.0, seconds)

    def skipped(self, do):
        """What ``do`` gives, in no time."""
        began = time.perf_counter()
        found = do()
        self._added -= time.perf_counter() - began
        return found


class Evaluator:
    """The emulator behind the contract of ``Search``."""

    exact_names, measured_names, trained_names = (), ("latency",), ("loss",)

    def __init__(self, emulator: Emulator, rungs: int) -> None:
        self.emulator, self.rungs = emulator, emulator.tokens[-rungs:]
        self._steps = np.diff(self.rungs, prepend=0)

    def exact(self, genome: Genome) -> dict[str, Measure]:
        return {}

    def retain(self, genome_ids: Any) -> None: ...

    def measure(self, genome: Genome) -> Outcome:
        return Outcome(measures={"latency": Measure(self.emulator([genome])[0][-2], 0.0, "measured")})

    def train(self, genome: Genome, rung: int) -> Outcome:
        *losses, _, first = self.emulator([genome])[0]
        seconds = first * (sum(self.emulator.growth) if len(self.rungs) == 1 else self.emulator.growth[rung])
        loss = losses[len(losses) - len(self.rungs) + rung]
        measures = {"loss": Measure(loss, 0.0, f"{self.rungs[rung]} tokens")}
        return Outcome(measures=measures, cost={"seconds": seconds, "tokens": float(self._steps[rung])})


class Executor:
    """Workers that take their time on a ``Clock``, as ``evonas.executors`` has them otherwise."""

    paused = 0.0  # seconds that an outcome's cost holds too many

    def __init__(self, evaluator: Evaluator, workers: int, clock: Clock) -> None:
        self.evaluator, self.workers, self.clock = evaluator, workers, clock
        self.busy, self.done = 0.0, []  # seconds of all workers; (moment, loss, latency) at the last rung
        self._flying: list[tuple] = []  # (end, key, call, what it gives)

    def stream(self, more: Callable[[], Call | None], timeout: Any = None, deadline: float | None = None) -> Iterator:
        while True:
            while len(self._flying) < self.workers and self.clock() < deadline and (call := more()) is not None:
                found = self.clock.skipped(lambda call=call: self.evaluator.train(*call.args))
                heapq.heappush(self._flying, (self.clock() + found.cost["seconds"], call.key, call, found))
            if not self._flying:
                return
            end, key, call, found = heapq.heappop(self._flying)
            left = max(0.0, end - deadline)
            self.busy += max(0.0, found.cost["seconds"] - left)
            self.clock.add(min(end, deadline) - self.clock())
            if not left:
                self._note(call, found)
            yield key, Failure("deadline", "") if left else found

    def _note(self, call: Call, found: Outcome) -> None:
        if call.args[1] == len(self.evaluator.rungs) - 1:
            latency = self.evaluator.emulator([call.args[0]])[0][-2]
            self.done.append((self.clock(), found.measures["loss"].value, latency))

    def map_alone(self, calls: Iterable[Call], timeout: Any = None, deadline: float | None = None) -> Iterator:
        for call in calls:
            if self.clock() >= deadline:
                yield call.key, Failure("deadline", "", 0)
                continue
            found = self.clock.skipped(lambda call=call: self.evaluator.measure(*call.args))
            timing = self.evaluator.emulator.timing
            self.clock.add(timing)
            self._flying = [(end + timing, *rest) for end, *rest in self._flying]  # trainings pause
            yield call.key, found

    def map(self, calls: Iterable[Call], timeout: Any = None, deadline: float | None = None) -> Iterator:
        calls = list(calls)
        found = self.clock.skipped(lambda: [self.evaluator.train(*call.args) for call in calls])
        free, ends = [self.clock()] * self.workers, []
        for k, outcome in enumerate(found):
            began = heapq.heappop(free)
            end = began + outcome.cost["seconds"]
            stopped = min(end, max(began, deadline))
            heapq.heappush(free, stopped)
            ends.append((stopped, k, end <= deadline))
            self.busy += stopped - began
        for end, k, finished in sorted(ends):
            self.clock.add(end - self.clock())
            if finished:
                self._note(calls[k], found[k])
            yield calls[k].key, found[k] if finished else Failure("deadline", "")


def search(emulator: Emulator, seed: int, seconds: float, workers: int, arm: str, changes: dict) -> tuple:
    """(seconds since the start, loss, latency) of everything trained to the end; how many networks were asked for; the
    share of the workers' time in trainings."""
    of_run = emulator.settings
    sizes = {f"{name}_size": size for name in ("population", "offspring") if (size := of_run.get(name))}
    sizes["reduction"] = of_run.get("reduction", REDUCTION)
    settings = {"rungs": len(emulator.tokens), **sizes, **ARMS[arm], **changes}
    waits = arm == "with a barrier" or workers == 1
    if settings["rungs"] > 1 and "offspring_size" in settings and "population_size" in settings:  # as ``evolve`` has it
        settings.setdefault("initial_size", min(settings["offspring_size"], settings["population_size"]))
    objectives = [Objective("loss", "nats"), Objective("latency", "ms")]
    engine = (Engine if waits else AsynchronousEngine)(
        emulator.space, objectives, seed=seed, known=emulator.work, **settings
    )
    evaluator, clock = Evaluator(emulator, settings["rungs"]), Clock()
    executor = Executor(evaluator, workers, clock)
    header = {"objectives": [{"name": o.name, "unit": o.unit, "direction": "min"} for o in objectives]}
    with tempfile.TemporaryDirectory() as folder:
        with Store.create(Path(folder) / "run", {**header, "space": space_to_dict(emulator.space)}) as store:
            began = clock()
            kind = Search if waits else AsynchronousSearch
            kind(engine, store, executor, evaluator, clock=clock).run(10**6, began + seconds)
            took = clock() - began
    rows = np.array(executor.done).reshape(-1, 3) - [began, 0, 0]
    return rows, len(engine.seen), executor.busy / (workers * took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of runs")
    parser.add_argument("--arm", choices=ARMS, action="append", help="repeatable; all of them without")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="an argument of Engine")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=150.0, help="the budget of a search")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a few seeds: does it run?")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    changes = {name: int(value) for name, value in (each.split("=") for each in options.set)}
    emulator = Emulator(options.runs)
    sample = np.array([v[-3:-1] for v in emulator(stratified(emulator.space, 300, np.random.default_rng(0)))])
    ideal, reference = emulator.best.min(axis=0), np.percentile(sample, 90, axis=0)
    known = hypervolume(emulator.best, ideal, reference)
    print("; ".join(f"{what}: R^2 {r2:.3f}, off by {off:.3f}" for what, (r2, off) in emulator.quality.items()))
    print(
        f"hypervolume after quarters of {options.seconds:g} s, {options.workers} workers; all of the runs together: "
        f"{known:.4f}"
    )
    out = {}
    for name in options.arm or ARMS:
        found, counts = [], []
        for seed in range(options.first_seed, options.first_seed + (2 if options.quick else options.seeds)):
            rows, asked, busy = search(emulator, seed, options.seconds, options.workers, name, changes)
            parts = [rows[rows[:, 0] <= q * options.seconds, 1:] for q in QUARTERS]
            found.append([hypervolume(part, ideal, reference) if len(part) else 0.0 for part in parts])
            counts.append((asked, len(rows), busy))
        mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / len(found) ** 0.5
        asked, full, busy = np.mean(counts, axis=0)
        cells = "  ".join(f"{m:.4f} +- {e:.4f}" for m, e in zip(mean, error))
        print(f"  {name:18} {cells}  {asked:.0f} asked for, {full:.0f} to the end, {busy:.0%} busy", flush=True)
        out[name] = {"hypervolume": found, "asked_full_busy": counts}
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    about = {"benchmark": "emulated", "first_seed": options.first_seed, "set": changes, "versions": versions}
    about |= {"seconds": options.seconds, "workers": options.workers}
    print(json.dumps({**about, "quality": emulator.quality, "known": known, "arms": out}))


if __name__ == "__main__":
    main()
