"""evonas' default search against random search and Optuna's NSGA-II: same space, evaluator, workers and wall-clock.

    python tools/bench_evolve.py --data input.txt          # tinyshakespeare, say; the embedded corpus is always run
    python tools/bench_evolve.py --quick

Every arm proposes a population at a time and pays for measuring and training through the same search loop, executor
and store; only who proposes differs. Optuna's NSGA-II runs with its own defaults but for the population size (evonas'
default, better than its 50 at this many evaluations), once as it comes and once with evonas' stratified first
population. The figure is the hypervolume of all points found so far, over wall-clock, within one box per corpus: from
the best value of each objective over all arms to the 90th percentile of random search's points. Needs optuna.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from evonas.config import DEVICE_DEFAULTS
from evonas.evolution import Candidate, Engine, hypervolume, stratified
from evonas.executors import make_executor
from evonas.fitness import ProxyEvaluator
from evonas.genome import SearchSpace, read_space, space_to_dict
from evonas.record import objective
from evonas.search import Search
from evonas.store import Store

OBJECTIVES = ("loss", "latency")
SHARES = (0.25, 0.5, 0.75, 1.0)


class RandomSearch(Engine):
    """Every candidate drawn from the space; nothing is learned."""

    def _propose(self, generation: int, index: int) -> Candidate | None:
        rng = np.random.default_rng((self.seed, generation, index))
        while True:
            genome = self.space.sample(rng)
            if genome.id not in self.seen:
                return Candidate(genome, (), "random", generation, index)


class OptunaSearch(RandomSearch):
    """Optuna's NSGA-II proposes; a duplicate is told its known values at no cost and asked for again."""

    stratified_start = False

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.NSGAIISampler(population_size=self.population_size, seed=self.seed)
        self.study = optuna.create_study(directions=["minimize"] * len(self.objectives), sampler=sampler)
        self.trials: dict[str, object] = {}
        if self.stratified_start:
            for genome in stratified(self.space, self.population_size, np.random.default_rng((self.seed, 0, 0))):
                self.study.enqueue_trial(_flat(self.space, genome))

    def _propose(self, generation: int, index: int) -> Candidate | None:
        while True:
            trial = self.study.ask()
            genome = self.space.repair(_suggest(self.space, trial))
            if genome.id not in self.seen:
                self.trials[genome.id] = trial
                return Candidate(genome, (), "optuna", generation, index)
            known = self.archive.get(genome.id)
            self._tell_study(trial, None if known is None else known.fitness.values)

    def tell(self, candidate: Candidate, values, violation: float = 0.0) -> None:
        super().tell(candidate, values, violation)
        trial = self.trials.pop(candidate.genome.id)
        self._tell_study(trial, None if values is None else [values[o.name] for o in self.objectives])

    def _tell_study(self, trial, values) -> None:
        import optuna

        if values is None:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, list(values))


class OptunaStratified(OptunaSearch):
    stratified_start = True


ARMS = {
    "evonas": Engine,
    "random": RandomSearch,
    "optuna NSGA-II": OptunaSearch,
    "optuna NSGA-II, stratified start": OptunaStratified,
}


def _suggest(space: SearchSpace, trial) -> dict:
    """Every gene as an Optuna parameter; per-layer genes for the deepest network, unused layers ignored."""

    def one(gene, name):
        options = gene.options
        if options is None:
            return trial.suggest_float(name, gene.low, gene.high, log=gene.log)
        if gene.choices is None and all(isinstance(o, int) for o in options):
            return trial.suggest_int(name, gene.low, gene.high, step=int(gene.step))
        return trial.suggest_categorical(name, list(options))

    values = {g.name: one(g, g.name) for g in space.scalar_genes}
    for gene in space.layer_genes:
        values[gene.name] = tuple(one(gene, f"{gene.name}_{i}") for i in range(space.max_layers))
    return values


def _flat(space: SearchSpace, genome) -> dict:
    out = {g.name: genome[g.name] for g in space.scalar_genes}
    for gene in space.layer_genes:
        for i in range(space.max_layers):
            value = genome[gene.name][min(i, genome.n_layers - 1)]
            out[f"{gene.name}_{i}"] = gene.nearest(value)
    return out


def run_arm(kind: type[Engine], space: SearchSpace, evaluator, executor, seconds: float, seed: int, population: int):
    """(seconds since start, loss, latency) of every candidate that succeeded, in order; and how many were evaluated."""
    with tempfile.TemporaryDirectory() as folder:
        header = {
            "objectives": [{"name": n, "unit": "", "direction": "min"} for n in OBJECTIVES],
            "space": space_to_dict(space),
        }
        with Store.create(Path(folder) / "run", header) as store:
            engine = kind(space, [objective(n) for n in OBJECTIVES], population_size=population, seed=seed)
            search = Search(engine, store, executor, evaluator)
            search.run(10**6, time.monotonic() + seconds)
            rows = [
                (at, *(record.value(n) for n in OBJECTIVES))
                for at, record in zip(store.finished, store.records)
                if record.ok
            ]
            return np.array(rows), len(store.records)


def compare(data: str | None, seconds: float, seeds: int, first_seed: int, workers: int | None, tokens: int | None):
    defaults = DEVICE_DEFAULTS["cpu"]
    space = read_space(defaults["space"]).bounded(defaults["context"])
    curves: dict[str, list] = {arm: [] for arm in ARMS}
    for seed in range(first_seed, first_seed + seeds):
        evaluator = ProxyEvaluator(
            "text",
            data,
            defaults["context"],
            needs=OBJECTIVES,
            tokens=tokens or defaults["tokens"],
            validation_tokens=defaults["validation_tokens"],
            seed=seed,
        )
        with make_executor("processes", evaluator, workers, {"OMP_NUM_THREADS": "1"}) as executor:
            for arm, kind in ARMS.items():
                rows, count = run_arm(kind, space, evaluator, executor, seconds, seed, defaults["population"])
                curves[arm].append(rows)
                print(f"  seed {seed} {arm:34} {count:5} evaluations, {len(rows)} ok", flush=True)
    return _figures(curves, seconds)


def _figures(curves: dict[str, list[np.ndarray]], seconds: float) -> dict:
    everything = np.concatenate([rows[:, 1:] for runs in curves.values() for rows in runs])
    reference = np.percentile(np.concatenate([rows[:, 1:] for rows in curves["random"]]), 90, axis=0)
    ideal = everything.min(axis=0)
    out: dict = {"ideal": ideal.tolist(), "reference": reference.tolist(), "arms": {}}
    rival = np.median([hypervolume(r[:, 1:], ideal, reference) for r in curves["optuna NSGA-II"]])
    for arm, runs in curves.items():
        at = {s: [hypervolume(r[r[:, 0] <= s * seconds, 1:], ideal, reference) for r in runs] for s in SHARES}
        reach = [_first_reach(r, ideal, reference, rival) for r in runs]
        out["arms"][arm] = {
            "hypervolume": {f"{s:.0%}": [round(v, 4) for v in values] for s, values in at.items()},
            "evaluations": [len(r) for r in runs],
            "evaluations_to_optuna_final": reach,
        }
    return out


def _first_reach(rows: np.ndarray, ideal: np.ndarray, reference: np.ndarray, level: float) -> int | None:
    """Evaluations after which the hypervolume first is ``level``."""
    low, high = 1, len(rows)
    if hypervolume(rows[:, 1:], ideal, reference) < level:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if hypervolume(rows[:middle, 1:], ideal, reference) >= level else (middle + 1, high)
    return low


def show(name: str, figures: dict) -> None:
    print(f"\n{name}: hypervolume, median [least - most] over seeds, at shares of the wall-clock")
    print(f"{'':34}" + "".join(f"{s:>26.0%}" for s in SHARES) + "   evaluations to Optuna's final")
    for arm, found in figures["arms"].items():
        cells = []
        for values in found["hypervolume"].values():
            cells.append(f"{np.median(values):.4f} [{min(values):.4f} - {max(values):.4f}]")
        reach = ", ".join("-" if r is None else str(r) for r in found["evaluations_to_optuna_final"])
        print(f"{arm:34}" + "".join(f"{c:>26}" for c in cells) + f"   {reach}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a text file, beside the embedded corpus")
    parser.add_argument("--seconds", type=float, default=420, help="wall-clock of one run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--quick", action="store_true", help="one seed, 20 s, small proxies: does it run?")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    seconds, seeds, tokens = (20.0, 1, 2048) if options.quick else (options.seconds, options.seeds, None)
    import optuna
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__, "optuna": optuna.__version__}
    result: dict = {"benchmark": "evolve", "seconds": seconds, "seeds": seeds, "first_seed": options.first_seed}
    result |= {"versions": versions, "defaults": DEVICE_DEFAULTS["cpu"], "corpora": {}}
    corpora = {"embedded corpus": None, **({Path(options.data).name: options.data} if options.data else {})}
    for name, data in corpora.items():
        print(name, flush=True)
        figures = compare(data, seconds, seeds, options.first_seed, options.workers, tokens)
        result["corpora"][name] = figures
        show(name, figures)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
