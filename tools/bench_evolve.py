"""evonas' default search against random search and Optuna's NSGA-II: same space, trainer, workers and wall-clock.

    python tools/bench_evolve.py --data input.txt          # tinyshakespeare, say; the embedded corpus is always run
    python tools/bench_evolve.py --data input.txt --tokens 16384 --arm random --arm 'optuna NSGA-II' \\
        --arm 'evonas, full length' --arm 'evonas, surrogate, full length'      # the engine alone: evaluations
    python tools/bench_evolve.py --quick

The currency is the loss after the default number of training tokens. Random search and Optuna train every candidate so
long; evonas gets there by rungs. Optuna also has evonas' first population, which knows the space's prior, and with it
the easier way a person would go: short trainings (those of evonas' first rung) for 70% of the time, then its front
trained in full. evonas runs without the prior too, and with a barrier at the end of each generation. Every other arm
pays for measuring and training through the same search loop without one, executor and store; only who proposes differs.
Optuna's NSGA-II runs with its own defaults but for the population size (evonas', better than its 50 at this many
evaluations).
The figure is the hypervolume of the points in that currency, over wall-clock, within one box per corpus: from the best
value of each objective over all arms to the 90th percentile of the points of random search, or, where that is no arm,
of the arm named first: the table says which. Needs optuna.
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
from search_peers import by_variable

from evonas.config import DEVICE_DEFAULTS, GROWTH, REDUCTION
from evonas.evolution import AsynchronousEngine, Candidate, Engine, hypervolume
from evonas.executors import Call, Failure, default_workers, make_executor
from evonas.fitness import ProxyEvaluator
from evonas.fitness.schedule import prior_for
from evonas.genome import SearchSpace, read_space, space_from_dict, space_to_dict
from evonas.record import objective
from evonas.search import AsynchronousSearch, Search
from evonas.store import Store

OBJECTIVES = ("loss", "latency")
SHARES = (0.25, 0.5, 0.75, 1.0)
SEARCH_SHARE = 0.7  # of the time of an arm that trains its front at the end
DEFAULTS = DEVICE_DEFAULTS["cpu"]


class EngineWithoutPrior(AsynchronousEngine):
    """evonas where the space says nothing of what to try first."""

    def __init__(self, space: SearchSpace, *args, **kwargs) -> None:
        data = {key: value for key, value in space_to_dict(space).items() if key != "prior"}
        super().__init__(space_from_dict(data), *args, **kwargs)


class RandomSearch(AsynchronousEngine):
    """Every candidate drawn from the space; nothing is learned."""

    def _propose(self, generation: int, index: int) -> Candidate | None:
        rng = np.random.default_rng((self.seed, generation, index))
        while True:
            genome = self.space.sample(rng)
            if genome.id not in self.seen:
                return Candidate(genome, (), "random", generation, index)


class OptunaSearch(RandomSearch):
    """Optuna's NSGA-II proposes; a duplicate is told its known values at no cost and asked for again.

    With ``our_start`` it begins with evonas' first population (seed genomes, prior, strata)."""

    our_start = False

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        directions = ["minimize"] * len(self.objectives)
        self.study = optuna.create_study(directions=directions, sampler=self._sampler(optuna.samplers))
        self.trials: dict[str, object] = {}
        if self.our_start:
            self.prepare()
            for candidate in self._first:
                self.study.enqueue_trial(_flat(self.space, candidate.genome))

    def _sampler(self, samplers):
        return samplers.NSGAIISampler(population_size=self.population_size, seed=self.seed)

    def _propose(self, generation: int, index: int) -> Candidate | None:
        while True:
            trial = self.study.ask()
            # A trial whose parameters are all enqueued is in no generation of NSGA-II, and never a parent, unless its
            # sampler has been asked.
            _ = trial.relative_params
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


class OptunaOurStart(OptunaSearch):
    our_start = True


# Who proposes, and how candidates train: "rungs", "full", or "short" with the front trained in full at the end.
ARMS = {
    "evonas": (AsynchronousEngine, "rungs"),
    "evonas, surrogate": (AsynchronousEngine, "rungs"),
    "evonas, surrogate, with a barrier": (Engine, "rungs"),
    "evonas, surrogate, no prior": (EngineWithoutPrior, "rungs"),
    "evonas, full length": (AsynchronousEngine, "full"),
    "evonas, surrogate, full length": (AsynchronousEngine, "full"),
    "random": (RandomSearch, "full"),
    "optuna NSGA-II": (OptunaSearch, "full"),
    "optuna NSGA-II, our start": (OptunaOurStart, "full"),
    "optuna NSGA-II, our start, short": (OptunaOurStart, "short"),
}


def _suggest(space: SearchSpace, trial) -> dict:
    """Every gene as an Optuna parameter; per-layer genes for the deepest network, unused layers ignored."""

    def one(gene, name):
        options = gene.options
        if options is None:
            return trial.suggest_float(name, gene.low, gene.high, log=gene.log)
        if gene.choices is None and all(isinstance(o, int) for o in options):
            return trial.suggest_int(name, gene.low, gene.high, step=int(gene.step))
        if gene.choices is None:
            return trial.suggest_float(name, gene.low, gene.high, step=gene.step)
        if gene.is_ordered:  # by its place: a word among words has none
            return options[trial.suggest_int(name, 0, len(options) - 1)]
        return trial.suggest_categorical(name, list(options))

    return by_variable(space, one)


def _flat(space: SearchSpace, genome) -> dict:
    """What ``_suggest`` makes that genome of."""

    def one(gene, value):
        value = gene.nearest(value)
        return gene.choices.index(value) if gene.choices is not None and gene.is_ordered else value

    genome = space.genes_of(genome)
    out = {g.name: one(g, genome[g.name]) for g in space.scalar_genes}
    for gene in space.layer_genes:
        for i in range(space.max_layers):
            out[f"{gene.name}_{i}"] = one(gene, genome[gene.name][min(i, genome["n_layers"] - 1)])
    return out


def evaluator_for(way: str, data: str | None, seed: int, tokens: int, folder: Path) -> ProxyEvaluator:
    rungs = DEFAULTS["rungs"]
    return ProxyEvaluator(
        "text",
        data,
        DEFAULTS["context"],
        needs=OBJECTIVES,
        tokens=tokens // GROWTH ** (rungs - 1) if way == "short" else tokens,
        rungs=rungs if way == "rungs" else 1,
        growth=GROWTH,
        validation_tokens=DEFAULTS["validation_tokens"],
        checkpoints=str(folder / "weights"),
        seed=seed,
        horizon=tokens,
    )


def run_arm(arm: str, space: SearchSpace, data: str | None, seconds: float, seed: int, workers: int, tokens: int):
    """(seconds since start, training tokens paid by then, loss, latency) of every candidate that was trained in full;
    how many trainings there were."""
    kind, way = ARMS[arm]
    with tempfile.TemporaryDirectory() as folder:
        evaluator = evaluator_for(way, data, seed, tokens, Path(folder))
        header = {
            "objectives": [{"name": n, "unit": "", "direction": "min"} for n in OBJECTIVES],
            "space": space_to_dict(space),
        }
        engine = kind(
            space,
            [objective(n) for n in OBJECTIVES],
            population_size=DEFAULTS["population"],
            offspring_size=DEFAULTS["offspring"],
            initial_size=DEFAULTS["offspring"] if way == "rungs" else None,
            seed=seed,
            rungs=len(evaluator.rungs),
            reduction=REDUCTION,
            known=evaluator.known,
            surrogate="surrogate" in arm,
        )
        waits = not isinstance(engine, AsynchronousEngine)
        end = time.monotonic() + seconds
        with (
            make_executor("processes", evaluator, workers, {"OMP_NUM_THREADS": "1"}, spare=not waits) as executor,
            Store.create(Path(folder) / "run", header) as store,
        ):
            search_end = end - (1 - SEARCH_SHARE) * seconds if way == "short" else end
            (Search if waits else AsynchronousSearch)(engine, store, executor, evaluator).run(10**6, search_end)
            paid = np.cumsum([r.cost.get("tokens", 0.0) for r in store.records])
            rows = [
                (at, tokens_paid, *(record.value(n) for n in OBJECTIVES))
                for at, tokens_paid, record in zip(store.finished, paid, store.records)
                if record.ok and record.measures["loss"].fidelity == f"{tokens} tokens"
            ]
            count = len(store.records)
        if way == "short":
            trained = _train_front(engine, evaluator_for("full", data, seed, tokens, Path(folder)), workers, end)
            before = paid[-1] if len(paid) else 0.0
            rows += [(seconds - left, before + more, *values) for left, more, values in trained]
            count += len(trained)
    return np.array(rows).reshape(-1, 4), count


def _train_front(engine: Engine, evaluator: ProxyEvaluator, workers: int, end: float):
    """The front of short trainings, trained in full: (seconds left, tokens paid, (loss, latency)), as they finish. The
    start of these workers is not charged: a search starts its own but once."""
    front = {m.genome.id: m for m in engine.front()}
    calls = [Call("train", (m.genome, 0), i) for i, m in front.items()]
    out, paid = [], 0.0
    began = time.monotonic()
    with make_executor("processes", evaluator, workers, {"OMP_NUM_THREADS": "1"}) as executor:
        list(executor.map([Call("known", (m.genome,), i) for i, m in front.items()]))
        end += time.monotonic() - began
        for key, result in executor.map(calls, deadline=end):
            paid += 0.0 if isinstance(result, Failure) else result.cost["tokens"]
            if not isinstance(result, Failure) and result.status == "ok":
                latency = dict(zip(OBJECTIVES, front[key].told[-1]))["latency"]
                out.append((end - time.monotonic(), paid, (result.measures["loss"].value, latency)))
    return out


def compare(arms, data: str | None, seconds: float, seeds: int, first_seed: int, workers: int, tokens: int) -> dict:
    space = prior_for(read_space(DEFAULTS["space"]), tokens).bounded(DEFAULTS["context"])
    curves: dict[str, list] = {arm: [] for arm in arms}
    for seed in range(first_seed, first_seed + seeds):
        for arm in arms:
            rows, count = run_arm(arm, space, data, seconds, seed, workers, tokens)
            curves[arm].append(rows)
            print(f"  seed {seed} {arm:34} {count:5} trainings, {len(rows)} in full", flush=True)
    return _figures(curves, seconds)


def _figures(curves: dict[str, list[np.ndarray]], seconds: float) -> dict:
    everything = np.concatenate([rows[:, 2:] for runs in curves.values() for rows in runs])
    first = "random" if "random" in curves else next(iter(curves))
    broad = curves[first]
    if not any(len(rows) for rows in broad):
        raise SystemExit(f"'{first}' trained nothing in full in {seconds:g} s, and the box is of it: more --seconds")
    reference = np.percentile(np.concatenate([rows[:, 2:] for rows in broad]), 90, axis=0)
    ideal = everything.min(axis=0)
    out: dict = {"ideal": ideal.tolist(), "reference": reference.tolist(), "reference_of": first, "arms": {}}
    optuna = curves.get("optuna NSGA-II") or [None] * len(broad)  # without it nothing reaches what it ends at
    rivals = [np.inf if r is None else hypervolume(r[:, 2:], ideal, reference) for r in optuna]
    for arm, runs in curves.items():
        at = {s: [hypervolume(r[r[:, 0] <= s * seconds, 2:], ideal, reference) for r in runs] for s in SHARES}
        reach = [_reach(r, ideal, reference, rival) for r, rival in zip(runs, rivals)]
        out["arms"][arm] = {
            "hypervolume": {f"{s:.0%}": [round(v, 4) for v in values] for s, values in at.items()},
            "trained_in_full": [len(r) for r in runs],
            "best_loss": [round(float(r[:, 2].min()), 4) if len(r) else None for r in runs],
            "to_optuna_final": reach,
        }
    return out


def _reach(rows: np.ndarray, ideal: np.ndarray, reference: np.ndarray, level: float) -> dict | None:
    """Seconds, training tokens and trainings in full after which the hypervolume first was ``level``."""
    for k in range(1, len(rows) + 1):
        if hypervolume(rows[:k, 2:], ideal, reference) >= level:
            return {"seconds": round(float(rows[k - 1, 0]), 1), "tokens": int(rows[k - 1, 1]), "in_full": k}
    return None


def show(name: str, figures: dict) -> None:
    box = f"in a box to the 90th percentile of {figures['reference_of']}"
    print(f"\n{name}: hypervolume {box}, median [least - most] over seeds, at shares of the wall-clock")
    print(f"{'':34}" + "".join(f"{s:>26.0%}" for s in SHARES) + "   s (trainings in full) to Optuna's final, same seed")
    for arm, found in figures["arms"].items():
        cells = []
        for values in found["hypervolume"].values():
            cells.append(f"{np.median(values):.4f} [{min(values):.4f} - {max(values):.4f}]")
        reached = found["to_optuna_final"]
        reach = ", ".join("-" if r is None else f"{r['seconds']:.0f} ({r['in_full']})" for r in reached)
        print(f"{arm:34}" + "".join(f"{c:>26}" for c in cells) + f"   {reach}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a text file, beside the embedded corpus")
    parser.add_argument(
        "--arm",
        choices=ARMS,
        action="append",
        help="repeatable; without it those that are no 'evonas, ... full length'",
    )
    parser.add_argument("--without-embedded", action="store_true", help="only --data")
    parser.add_argument("--seconds", type=float, default=360, help="wall-clock of one run")
    parser.add_argument("--tokens", type=int, default=DEFAULTS["tokens"], help="of a training in full")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--quick", action="store_true", help="one seed, 20 s, small proxies: does it run?")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    full = (options.seconds, options.seeds, options.tokens)
    seconds, seeds, tokens = (20.0, 1, 8192) if options.quick else full
    import optuna
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__, "optuna": optuna.__version__}
    result: dict = {"benchmark": "evolve", "seconds": seconds, "seeds": seeds, "first_seed": options.first_seed}
    result |= {"tokens": tokens, "versions": versions, "defaults": DEFAULTS, "corpora": {}}
    arms = options.arm or [arm for arm in ARMS if not (arm.startswith("evonas") and "full length" in arm)]
    corpora = {} if options.without_embedded else {"embedded corpus": None}
    corpora |= {Path(options.data).name: options.data} if options.data else {}
    for name, data in corpora.items():
        print(name, flush=True)
        figures = compare(arms, data, seconds, seeds, options.first_seed, options.workers, tokens)
        result["corpora"][name] = figures
        show(name, figures)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
