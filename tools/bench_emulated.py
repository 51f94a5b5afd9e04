"""Searches on an emulator of a run's trainings: a second each where the real ones take minutes.

    python tools/bench_emulated.py runs/first runs/second
    python tools/bench_emulated.py runs/first --seeds 40 --set reduction=6 --set population_size=12
    python tools/bench_emulated.py runs/first --arm evonas --arm 'full length'
    python tools/bench_emulated.py runs/first --quick

From seed to seed real searches of a few minutes end further apart than two versions of evonas do, so that a handful of
them tell nothing. Here Gaussian processes, fitted to all that the given runs (one space, one task, two rungs or more)
were told, answer instead: the loss at the first rung, how it changes from rung to rung, the latency; each with noise as
large as what five-fold cross-validation is off by, the same for the same genome. Printed are its R^2, and for each arm
the hypervolume after quarters of a budget of tokens, mean and standard error over seeds, in a box from the best that
the runs knew to the 90th percentile of a stratified sample.

Directions, not proof: the engine's own models are Gaussian processes too and find their like easier to learn than a
training. What helps here is to be shown by bench_evolve.py.

evonas: as a search has it, closing included. without surrogate: the same. full length: every candidate trains to the
    last rung at once, with the surrogate.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import warnings
from collections.abc import Sequence

import numpy as np

from evonas.config import GROWTH, REDUCTION
from evonas.evolution import Engine, gp, hypervolume, stratified
from evonas.evolution.rungs import described
from evonas.fitness.evaluate import rung_tokens
from evonas.genome import Genome, SearchSpace, space_from_dict
from evonas.genome.graph import cost
from evonas.record import Objective
from evonas.report.sample import losses_told
from evonas.search.closing import Left
from evonas.search.loop import _affordable
from evonas.store import Store

ARMS = {
    "evonas": {"surrogate": True},
    "without surrogate": {"surrogate": False},
    "full length": {"surrogate": True, "rungs": 1},
}
TRAININGS = 43  # a budget, in trainings to the last rung: as many as two CPU cores do in 150 seconds
QUARTERS = (0.25, 0.5, 0.75, 1.0)


class Emulator:
    """Answers for any genome of the runs' space: losses at every rung, and a latency.

    Attributes: ``quality`` {what: (R^2, standard deviation of what is left)} in logarithms; ``best`` (loss at the last
    rung, latency) of all genomes that have been there.
    """

    def __init__(self, folders: Sequence[str], seed: int = 0) -> None:
        stores = [Store.open(folder) for folder in folders]
        self.settings = stores[0].header["settings"]
        self.space: SearchSpace = space_from_dict(stores[0].header["space"])
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
        self._known: dict[str, tuple[float, ...]] = {}

    def _raw(self, genome: Genome) -> np.ndarray:
        work = cost(genome, 65, self.settings["context"])
        return np.concatenate([described(self.space, genome), np.log([work.flops, work.params])])

    def _scaled(self, inputs: np.ndarray) -> np.ndarray:
        return (inputs - self._low) / self._width

    def _fit(self, what: str, inputs: np.ndarray, values: np.ndarray, seed: int):
        """A model, and into ``quality`` what it says of fifths that it has not seen (hyperparameters of all)."""
        x = self._scaled(inputs)
        model = gp.GaussianProcess(x, values, range(x.shape[1]))
        fifth = np.random.default_rng(seed).permutation(len(values)) % 5
        off = np.concatenate(
            [values[rows] - model.left_out(rows) for rows in (np.flatnonzero(fifth == k) for k in range(5))]
        )
        self.quality[what] = (1 - off.var() / values.var(), float(off.std()))
        return model

    def __call__(self, genomes: Sequence[Genome]) -> list[tuple[float, ...]]:
        """(loss at each rung, latency) of each."""
        new = [g for g in {g.id: g for g in genomes}.values() if g.id not in self._known]
        if new:
            x = self._scaled(np.array([self._raw(g) for g in new]))
            found = {what: model.predict(x)[0] for what, model in self._models.items()}
            for k, genome in enumerate(new):
                noisy = {what: values[k] + self._noise(what, genome) for what, values in found.items()}
                losses = np.cumsum([noisy[f"loss {rung}"] for rung in range(len(self.tokens))])
                self._known[genome.id] = (*np.exp(losses).tolist(), float(np.exp(noisy["latency"])))
        return [self._known[g.id] for g in genomes]

    def _noise(self, what: str, genome: Genome) -> float:
        key = genome.architecture_id if what == "latency" else genome.id
        return self.quality[what][1] * np.random.default_rng((int(key, 16), len(what), ord(what[-1]))).standard_normal()


def search(emulator: Emulator, seed: int, budget: float, arm: dict, changes: dict) -> np.ndarray:
    """(tokens paid, loss, latency) of everything at the last rung, one after the other: the loop of ``Search`` with a
    budget of tokens."""
    rungs = arm.get("rungs", len(emulator.tokens))
    steps = np.diff(emulator.tokens, prepend=0) if rungs > 1 else [emulator.tokens[-1]]
    of_run = emulator.settings
    sizes = {f"{name}_size": size for name in ("population", "offspring", "initial") if (size := of_run.get(name))}
    settings = {**sizes, "reduction": of_run.get("reduction", REDUCTION), **arm, "rungs": rungs, **changes}
    engine = Engine(emulator.space, [Objective("loss"), Objective("latency")], seed=seed, **settings)
    paid, rows = 0.0, []
    while paid + engine.offspring_size * steps[0] <= budget or rungs > 1:
        if rungs > 1:
            _close(engine, budget, paid, steps)
        candidates = engine.ask()
        if not candidates:
            break
        found = emulator([c.genome for c in candidates])
        for candidate, values in sorted(zip(candidates, found), key=lambda pair: -pair[0].rung):
            paid += steps[candidate.rung]
            if candidate.rung == rungs - 1:
                rows.append((paid, *values[-2:]))
        for candidate, values in zip(candidates, found):
            loss = values[-2] if rungs == 1 else values[candidate.rung]
            engine.tell(candidate, {"loss": loss, "latency": values[-1]})
    return np.array(rows).reshape(-1, 3)


def _close(engine: Engine, budget: float, paid: float, steps) -> None:
    """As ``Search`` does."""
    engine.reopen()
    if not engine.generation:
        return
    following = engine.offspring_size * steps[0] + sum(steps[c.rung] for c in engine.promoted())

    def left(unfinished) -> list[Left]:
        return [Left(budget - paid, budget, following, [sum(steps[i.rung + 1 :]) for i in unfinished])]

    unfinished = engine.unfinished()
    chosen = _affordable(unfinished, left(unfinished))
    to_the_end = 0 if chosen else sum(steps[1:])
    if left(unfinished)[0].closing or paid + following + to_the_end > budget:
        if not chosen:
            unfinished = engine.unfinished(beyond=True)
            chosen = _affordable(unfinished, left(unfinished))
        engine.close(False, chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of runs")
    parser.add_argument("--arm", choices=ARMS, action="append", help="repeatable; all of them without")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="an argument of Engine")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trainings", type=float, default=TRAININGS, help="to the last rung, that the budget is worth")
    parser.add_argument("--quick", action="store_true", help="a few seeds: does it run?")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    changes = {name: int(value) for name, value in (each.split("=") for each in options.set)}
    emulator = Emulator(options.runs)
    sample = np.array([v[-2:] for v in emulator(stratified(emulator.space, 300, np.random.default_rng(0)))])
    ideal, reference = emulator.best.min(axis=0), np.percentile(sample, 90, axis=0)
    known = hypervolume(emulator.best, ideal, reference)
    print("; ".join(f"{what}: R^2 {r2:.3f}, off by {off:.3f}" for what, (r2, off) in emulator.quality.items()))
    print(
        f"hypervolume after quarters of {options.trainings:g} trainings' tokens; all of the runs together: {known:.4f}"
    )
    budget, out = options.trainings * emulator.tokens[-1], {}
    for name in options.arm or ARMS:
        found = []
        for seed in range(options.first_seed, options.first_seed + (2 if options.quick else options.seeds)):
            rows = search(emulator, seed, budget, ARMS[name], changes)
            parts = [rows[rows[:, 0] <= q * budget, 1:] for q in QUARTERS]
            found.append([hypervolume(part, ideal, reference) if len(part) else 0.0 for part in parts])
        mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / len(found) ** 0.5
        print(f"  {name:20}", "  ".join(f"{m:.4f} +- {e:.4f}" for m, e in zip(mean, error)), flush=True)
        out[name] = found
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    about = {"benchmark": "emulated", "first_seed": options.first_seed, "set": changes, "versions": versions}
    print(json.dumps({**about, "quality": emulator.quality, "known": known, "hypervolume": out}))


if __name__ == "__main__":
    main()
