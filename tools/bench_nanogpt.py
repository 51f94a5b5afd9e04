"""The end-to-end claim: one search, seeded with nanoGPT's CPU character model, and what comes out trained in full.

    python tools/bench_nanogpt.py --data tinyshakespeare.txt
    python tools/bench_nanogpt.py --data tinyshakespeare.txt --quick

A search may train on as many tokens as ten trainings of that model (2,000 steps of 12 x 64). Of its front two genomes
are trained in full, on the tokens of one such training each, evaluated on all held-out text: the most accurate at no
more measured latency than the seed's, which is a constraint of the search, and the most accurate at no more than half
of it. Beside it Optuna's TPE (multivariate) and NSGA-II, over the same space with the same trainer, the same
wall-clock, the same constraint (as their own constraints_func; what breaks it is not trained) and every candidate
trained as long as evonas' last rung. They are told of results after as many as are trained side by side. They begin
with the seed, or with all of evonas' first population, which knows the space's prior. Their choice is trained in full
twice: with the learning rates of Muon taken over from the length they were found at to the full one, as evonas' are,
and as found.
Needs optuna.
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
from bench_evolve import OBJECTIVES, OptunaSearch, _flat

from evonas.config import DEVICE_DEFAULTS, GROWTH, REDUCTION
from evonas.evolution import Engine
from evonas.executors import Call, Failure, default_workers, make_executor
from evonas.fitness import ProxyEvaluator
from evonas.fitness.schedule import prior_for
from evonas.genome import bounded_windows, read_genome, read_space, space_to_dict
from evonas.record import Constraint, objective
from evonas.search import Search
from evonas.store import Store

DEFAULTS = DEVICE_DEFAULTS["cpu"]
CONTEXT = 64
ONE_TRAINING = 2_000 * 12 * CONTEXT
SEARCH_TRAININGS = 10
LAST_RUNG = 524_288  # tokens: after fewer, shallow networks lead that do not in full
TIMINGS, ALLOWANCE = 5, 1.02  # of the seed's latency before the search, and how far a single measurement may lie off
MARGIN = 0.97  # of what it may take, a network's latency in the search: timed again in the end it may take more
ROUNDS = 7  # in which what is compared in the end is timed, one after the other: other work on the machine hits all
WORST = 100.0
TAKEN_OVER, AS_FOUND = "rates taken over", "as found"


class SeededNSGA2(OptunaSearch):
    """Optuna's NSGA-II that begins with the seed genomes."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for genome in self.seed_genomes if not self.our_start else ():
            self.study.enqueue_trial(_flat(self.space, genome))

    def _sampler(self, samplers):
        how = {"population_size": self.population_size, "seed": self.seed}
        return samplers.NSGAIISampler(**how, constraints_func=_violation)

    def tell(self, candidate, values, violation: float = 0.0) -> None:
        trial = self.trials[candidate.genome.id]
        trial.set_user_attr("violation", violation)
        if violation > 0:  # ranked by how much it breaks: its values do not count, but Optuna wants some
            Engine.tell(self, candidate, values, violation)
            self._tell_study(self.trials.pop(candidate.genome.id), [WORST] * len(self.objectives))
        else:
            super().tell(candidate, values, violation)


def _violation(trial) -> tuple[float]:
    return (trial.user_attrs.get("violation", 0.0),)


class SeededTPE(SeededNSGA2):
    """Optuna's multivariate TPE, several objectives at once."""

    def _sampler(self, samplers):
        return samplers.TPESampler(multivariate=True, seed=self.seed, constraints_func=_violation)


class NSGA2OurStart(SeededNSGA2):
    our_start = True


class TPEOurStart(SeededTPE):
    our_start = True


SURROGATE = "evonas, surrogate"
ARMS = {
    "evonas": Engine,
    SURROGATE: Engine,
    "optuna TPE": SeededTPE,
    "optuna NSGA-II": SeededNSGA2,
    "optuna TPE, our start": TPEOurStart,
    "optuna NSGA-II, our start": NSGA2OurStart,
}


def at_once(kind: type[Engine], workers: int, rungs: int) -> dict:
    """Sizes of an engine's generations. Optuna's samplers learn of every result, so beyond the start that they are
    given they are asked for no more than are trained side by side."""
    if issubclass(kind, OptunaSearch):
        return {"initial_size": None if kind.our_start else workers, "offspring_size": workers}
    return {"initial_size": DEFAULTS["offspring"] if rungs > 1 else None, "offspring_size": DEFAULTS["offspring"]}


def search(arm: str, options, seed: int, tokens: int, limit: float | None, seconds: float | None):
    """(front as (genome, loss, latency), the seed's latency, tokens paid, seconds taken) of one search. It ends at
    ``limit`` training tokens, or, where ``seconds`` are given, with those instead."""
    kind, data, workers = ARMS[arm], options.data, options.workers
    space = prior_for(read_space(DEFAULTS["space"]), tokens).bounded(CONTEXT)
    nanogpt = bounded_windows(read_genome("nanogpt-cpu").genome, CONTEXT)
    rungs = options.rungs if kind is Engine else 1
    with tempfile.TemporaryDirectory() as folder:
        evaluator = ProxyEvaluator(
            "text",
            data,
            CONTEXT,
            needs=OBJECTIVES,
            tokens=tokens,
            rungs=rungs,
            growth=GROWTH,
            validation_tokens=DEFAULTS["validation_tokens"],
            checkpoints=str(Path(folder) / "weights"),
            seed=seed,
            horizon=tokens,
        )
        workers_env = {"OMP_NUM_THREADS": "1"}
        with make_executor("processes", evaluator, 1, workers_env) as executor:
            calls = [Call("measure", (nanogpt,), k) for k in range(TIMINGS)]
            times = [outcome.measures["latency"].value for _, outcome in executor.map_alone(calls)]
        latency = float(np.median(times))
        constraint = Constraint("latency", "<=", ALLOWANCE * latency)
        engine = kind(
            space,
            [objective(n) for n in OBJECTIVES],
            population_size=DEFAULTS["population"],
            **at_once(kind, workers, rungs),
            seed=seed,
            seed_genomes=[nanogpt],
            rungs=rungs,
            reduction=REDUCTION,
            broken=lambda values: constraint.violation(values["latency"]),
            known=evaluator.known,
            surrogate=arm == SURROGATE,
        )
        header = {
            "objectives": [{"name": n, "unit": "", "direction": "min"} for n in OBJECTIVES],
            "space": space_to_dict(space),
        }
        started = time.monotonic()
        end = None if seconds is None else started + seconds
        with (
            make_executor("processes", evaluator, workers, workers_env) as executor,
            Store.create(Path(folder) / "run", header) as store,
        ):
            Search(engine, store, executor, evaluator, constraints=(constraint,)).run(10**6, end, limit)
            front = [(m.genome, *m.told[-1]) for m in engine.front()]
            return front, latency, _paid(store), time.monotonic() - started


def _paid(store: Store) -> float:
    return sum(r.cost.get("tokens", 0.0) for r in store.records)


def chosen(front, latency: float) -> dict:
    """The most accurate at the seed's latency and at half of it, by the search's own numbers; None where none is."""
    out = {}
    for name, bound in (("at its latency", latency), ("at half its latency", latency / 2)):
        fitting = [(loss, genome) for genome, loss, took in front if took <= MARGIN * bound]
        out[name] = min(fitting, key=lambda f: f[0])[1] if fitting else None
    return out


def in_full(genomes, data: str, seed: int, workers: int, tokens: int, horizon: int | None = None, beside=()) -> dict:
    """Genome id -> (held-out loss on all of the held-out text, latencies measured alone, round by round), each trained
    in one cycle; None where that failed. With a ``horizon`` learning rates are those of trainings of so many tokens,
    and are taken over to this length. Those ``beside`` are only timed: (None, latencies)."""
    how = {"needs": OBJECTIVES, "tokens": tokens, "validation_tokens": 10**9, "seed": seed, "horizon": horizon}
    evaluator = ProxyEvaluator("text", data, CONTEXT, latency_seconds=0.3, **how)
    unique = {g.id: g for g in genomes if g is not None}
    timed = unique | {g.id: g for g in beside}
    calls = [Call("measure", (g,), (i, n)) for n in range(ROUNDS) for i, g in timed.items()]
    with make_executor("processes", evaluator, workers, {"OMP_NUM_THREADS": "1"}) as executor:
        times = dict(executor.map_alone(calls))
        losses = dict(executor.map([Call("train", (g, 0), i) for i, g in unique.items()]))
    out = {}
    for i in timed:
        outcomes = [*(times[i, n] for n in range(ROUNDS)), *([losses[i]] if i in losses else [])]
        failed = any(isinstance(o, Failure) or o.status != "ok" for o in outcomes)
        loss = losses[i].measures["loss"].value if i in losses and not failed else None
        out[i] = None if failed else (loss, [times[i, n].measures["latency"].value for n in range(ROUNDS)])
    return out


def compare(options, tokens: int, full: int) -> dict:
    nanogpt = bounded_windows(read_genome("nanogpt-cpu").genome, CONTEXT)
    found: dict = {arm: [] for arm in ARMS}
    base = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        wall = options.seconds
        for arm in options.arm or ARMS:
            bounds = (SEARCH_TRAININGS * full, None) if wall is None or ARMS[arm] is Engine else (None, wall)
            front, latency, paid, took = search(arm, options, seed, tokens, *bounds)
            wall = took if wall is None else wall  # of the first arm, unless told otherwise
            picks, row = chosen(front, latency), {}
            for how, horizon in ((TAKEN_OVER, tokens), (AS_FOUND, None)):
                if ARMS[arm] is Engine and how == AS_FOUND:
                    continue
                # The seed's model, whose AdamW takes nothing over, is timed beside what is compared with it.
                first = len(base) <= seed - options.first_seed
                genomes = [*picks.values(), nanogpt] if first else picks.values()
                trained = in_full(genomes, options.data, seed, options.workers, full, horizon, beside=[nanogpt])
                if first:
                    loss, times = trained[nanogpt.id]
                    base.append((loss, float(np.median(times))))
                    print(f"  seed {seed} {'nanogpt-cpu itself':16} {_pair(base[-1])}", flush=True)
                beside = trained[nanogpt.id][1]
                row |= {f"{name}, {how}": _beside(g and trained[g.id], beside) for name, g in picks.items()}
            found[arm].append({**row, "search_tokens": paid, "search_seconds": took})
            text = ", ".join(f"{name} {_pair(value)}" for name, value in row.items())
            print(f"  seed {seed} {arm:16} {text}; search {paid / full:.1f} trainings, {took:.0f} s", flush=True)
    return {"nanogpt-cpu": base, "arms": found}


def _beside(trained, latencies: list[float]):
    """(loss, latency, its share of the seed's, timed beside it in each round); None for what did not train."""
    if trained is None:
        return None
    loss, own = trained
    return loss, float(np.median(own)), float(np.median(np.divide(own, latencies)))


def _pair(value) -> str:
    if value is None:
        return "-"
    return f"{value[0]:.3f} nats {value[1]:.3f} ms" + "".join(f" ({share:.2f} of it)" for share in value[2:])


def show(figures: dict, full: int) -> None:
    print(f"\nheld-out loss after {full:,} tokens, and latency, median [least - most] over seeds")
    rows = {"nanogpt-cpu": figures["nanogpt-cpu"]}
    for arm, runs in figures["arms"].items():
        for name in dict.fromkeys(name for run in runs for name in run if name.startswith("at ")):
            rows[f"{arm}, {name}"] = [run[name] for run in runs]
    for label, values in rows.items():
        values = np.array([v for v in values if v is not None])
        if len(values):
            cells = [f"{np.median(c):.3f} [{c.min():.3f} - {c.max():.3f}]" for c in values.T]
            share = f"{cells[2]:>21} of the seed's" if len(cells) > 2 else ""
            print(f"{label:60} {cells[0]:>21} nats {cells[1]:>21} ms {share}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="tinyshakespeare, or another text")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--tokens", type=int, default=LAST_RUNG, help="of the last rung")
    parser.add_argument("--rungs", type=int, default=DEFAULTS["rungs"], help="of evonas")
    parser.add_argument("--seconds", type=float, help="that Optuna gets; as long as the first arm takes without")
    parser.add_argument("--arm", choices=ARMS, action="append", help="repeatable; all of them without")
    parser.add_argument("--quick", action="store_true", help="one seed, a hundredth of the tokens: does it run?")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    full = ONE_TRAINING // 100 if options.quick else ONE_TRAINING
    tokens = 4096 if options.quick else options.tokens
    options.seeds = 1 if options.quick else options.seeds
    import optuna
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__, "optuna": optuna.__version__}
    figures = compare(options, tokens, full)
    show(figures, full)
    result = {"benchmark": "nanogpt", "quick": options.quick, "first_seed": options.first_seed, "tokens": tokens}
    print(json.dumps({**result, "full": full, "versions": versions, **figures}))


if __name__ == "__main__":
    main()
