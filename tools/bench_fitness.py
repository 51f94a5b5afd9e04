"""What an evaluation costs and how far it can be trusted, over the whole default space.

    python tools/bench_fitness.py --data input.txt                        # all parts: hours
    python tools/bench_fitness.py --data input.txt --part throughput
    python tools/bench_fitness.py --data input.txt --part speed --seconds 300
    python tools/bench_fitness.py --data input.txt --part fidelity --genomes 64 --factor 20
    python tools/bench_fitness.py --quick

throughput: candidates of a stratified sample trained per minute by one-thread workers, against one by one in one
    process with torch's default threads, same steps, in turns: in the workers' precision, and in float32, torch's
    default; and the share of the machine's own matrix-product rate (float32, bfloat16) that the workers reach: with the
    network's products alone (by formula: three forward passes), and with all that torch counts in a step, Muon's too.
latency: how far the stored latency of one network varies when it is measured again and again (coefficient of variation
    of the stored medians), beside the spread that is stored with each.
speed: with the same engine, how long rungs take to the hypervolume that full-length training of every candidate
    reaches in the given seconds; and what they reach where a fifth of the time is all they are given.
fidelity: Kendall's tau between the loss at each rung and that of a training ``factor`` times as long as the last one,
    of the loss at the last rung that it lets one expect, and of the long training's loss extrapolated from it, each
    genome left out of the regression in turn.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from bench_evolve import DEFAULTS, _reach, run_arm

from evonas.config import GROWTH
from evonas.evolution import hypervolume, stratified
from evonas.evolution.rungs import Ladder, described, traits_in
from evonas.executors import Call, Failure, default_workers, make_executor
from evonas.fitness import ProxyEvaluator
from evonas.fitness.schedule import prior_for
from evonas.fitness.train import Training, steps_for
from evonas.genome import Genome, SearchSpace, read_space
from evonas.genome.graph import cost
from evonas.report.calibration import summarise
from evonas.report.extrapolation import each_left_out, features
from evonas.tasks import Task

PARTS = ("throughput", "latency", "speed", "fidelity")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class DefaultThreads(ProxyEvaluator):
    """Trains with as many threads as torch takes by itself."""

    def train(self, genome: Genome, rung: int = 0):
        import torch

        threads, torch.set_num_threads = torch.set_num_threads, lambda n: None
        try:
            return super().train(genome, rung)
        finally:
            torch.set_num_threads = threads


def evaluator(
    options, tokens: int, rungs: int = 1, kind=ProxyEvaluator, folder: Path | None = None, needs=("loss",), **how
):
    return kind(
        "text",
        options.data,
        DEFAULTS["context"],
        needs=needs,
        tokens=tokens,
        rungs=rungs,
        growth=GROWTH,
        validation_tokens=DEFAULTS["validation_tokens"],
        checkpoints=None if folder is None else str(folder),
        seed=options.first_seed,
        **how,
    )


# -- throughput -------------------------------------------------------------------------------------------------------


def throughput(options, space: SearchSpace) -> dict:
    tokens = 2048 if options.quick else DEFAULTS["tokens"] // GROWTH ** (DEFAULTS["rungs"] - 1)
    count, repeats = (4, 1) if options.quick else (24, 3)
    genomes = stratified(space, count, np.random.default_rng(options.first_seed))
    many, alone = evaluator(options, tokens), evaluator(options, tokens, kind=DefaultThreads)
    plain = evaluator(options, tokens, kind=DefaultThreads, precision="float32")
    flops = {g.id: 3 * cost(g, many.task.vocab_size, many.context).flops * tokens / many.context for g in genomes}
    calls = [Call("train", (g, 0), g.id) for g in sorted(genomes, key=lambda g: -flops[g.id])]
    times: dict[str, list[float]] = {"workers": [], "one by one": [], "and in float32": []}
    seconds: dict[str, list[float]] = {g.id: [] for g in genomes}
    failed: list[str] = []
    with (
        make_executor("processes", many, options.workers, ONE_THREAD) as pool,
        make_executor("processes", alone, 1) as single,
        make_executor("processes", plain, 1) as in_float32,
    ):
        executors = (pool, single, in_float32)
        for executor in executors:  # a whole round: a worker that starts late has nothing to do in a shorter one
            list(executor.map(calls))
        for _ in range(repeats):
            for name, executor in zip(times, executors):
                start = time.perf_counter()
                for key, outcome in executor.map(calls):
                    if _trained(outcome) and name == "workers":
                        seconds[key].append(outcome.cost["seconds"])
                    elif not _trained(outcome):
                        failed.append(outcome.reason.partition("\n")[0])
                times[name].append(time.perf_counter() - start)
    if failed:
        print(f"  {len(failed)} trainings failed, which are counted: {'; '.join(dict.fromkeys(failed))}")
    wide = [g for g in genomes if g.d_model >= 64 and seconds[g.id]]
    spent = np.array([np.median(seconds[g.id]) / options.workers for g in wide])
    reached = {
        "the network's": np.array([flops[g.id] for g in wide]) / spent,
        "all": np.array([_counted(g, many.task) * steps_for(g, many.context, tokens) for g in wide]) / spent,
    }
    peaks = {dtype: _matmul_rate(options.workers, dtype) for dtype in ("float32", "bfloat16")}
    per_minute = {name: [count / t * 60 for t in values] for name, values in times.items()}
    ratios = {name: [b / a for a, b in zip(times["workers"], times[name])] for name in list(times)[1:]}
    print(f"\nthroughput: {count} candidates of {tokens:,} tokens, {options.workers} workers, {repeats} rounds")
    for name, values in per_minute.items():
        print(f"  {name:14} {np.median(values):7.1f} candidates/min [{min(values):.1f} - {max(values):.1f}]")
    for name, ratio in ratios.items():
        print(f"  workers against {name:14} {np.median(ratio):.2f} [{min(ratio):.2f} - {max(ratio):.2f}]   goal 1.6")
    for dtype, peak in peaks.items():
        for of, rates in reached.items():
            low, middle, high = np.percentile(rates / peak, [10, 50, 90])
            share = f"{of} products: {middle:.0%} [{low:.0%} - {high:.0%}]"
            print(f"  of the {dtype} product rate ({peak / 1e9:.0f} GFLOP/s), d_model >= 64, {share}   goal 50%")
    flops_per_second = {of: list(rates) for of, rates in reached.items()}
    return {"tokens": tokens, "per_minute": per_minute, "ratio": ratios, "matmul_flops": peaks, **flops_per_second}


def _counted(genome: Genome, task: Task) -> float:
    """FLOPs of all matrix products of a training step, the optimiser's among them, as torch counts them: the mean of
    two, as Muon may orthogonalise in one of them alone."""
    from torch.utils.flop_counter import FlopCounterMode

    training = Training(genome, task, seed=0)
    with FlopCounterMode(display=False) as counter:
        training.run(2 * genome.batch_size * task.context)
    return counter.get_total_flops() / 2


class Multiply:
    """The machine's own rate: products of 512 x 512 matrices, one thread."""

    def rate(self, seconds: float, dtype: str) -> float:
        import torch

        torch.set_num_threads(1)
        a, b = (torch.randn(512, 512).to(getattr(torch, dtype)) for _ in range(2))
        count, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            torch.mm(a, b)
            count += 1
        return count * 2 * 512**3 / spent


def _matmul_rate(workers: int, dtype: str) -> float:
    """FLOP/s of all workers together, at the same time."""
    with make_executor("processes", Multiply(), workers, ONE_THREAD) as executor:
        list(executor.map([Call("rate", (0.2, dtype), k) for k in range(workers)]))
        return sum(rate for _, rate in executor.map([Call("rate", (3.0, dtype), k) for k in range(workers)]))


# -- latency ----------------------------------------------------------------------------------------------------------


def latency(options, space: SearchSpace) -> dict:
    count, repeats = (3, 3) if options.quick else (16, 10)
    genomes = stratified(space, count, np.random.default_rng(options.first_seed))
    timing = evaluator(options, DEFAULTS["tokens"], needs=("latency",))
    found: dict[str, list] = {g.id: [] for g in genomes}
    with make_executor("processes", timing, options.workers, ONE_THREAD) as executor:
        for _ in range(repeats):  # round by round: what drifts hits all of them
            for key, outcome in executor.map_alone([Call("measure", (g,), g.id) for g in genomes]):
                if not _trained(outcome):
                    raise SystemExit(f"network {key} could not be timed: {outcome.status}: {outcome.reason}")
                found[key].append(outcome.measures["latency"])
    values = np.array([[m.value for m in found[g.id]] for g in genomes])
    spreads = np.array([[m.spread for m in found[g.id]] for g in genomes])
    variation = values.std(axis=1, ddof=1) / values.mean(axis=1)
    stored = np.median(spreads / values, axis=1)
    low, middle, high = np.percentile(variation, [10, 50, 90])
    print(f"\nlatency: {count} networks of {values.min():.3f} to {values.max():.3f} ms, {repeats} measurements of each")
    print(f"  coefficient of variation of the stored value: {middle:.2%} [{low:.2%} - {high:.2%}]   goal 2%")
    print(f"  spread that is stored with it: {np.median(stored):.2%}")
    return {"repeats": repeats, "values": values.tolist(), "variation": variation.tolist(), "stored": stored.tolist()}


# -- speed ------------------------------------------------------------------------------------------------------------


def speed(options, space: SearchSpace) -> dict:
    """All arms of one seed share a box: best values of the two that have all of the time, and the 90th percentile of
    the full-length one. A search that is given a fifth closes its front by then, which the others had no reason to."""
    seconds, tokens = (20.0, 8192) if options.quick else (options.seconds, DEFAULTS["tokens"])
    space = prior_for(space, tokens)
    rungs, full = "evonas, surrogate", "evonas, surrogate, full length"
    found = []
    for seed in range(options.first_seed, options.first_seed + (1 if options.quick else options.seeds)):
        runs = {}
        for name, arm, limit in (("fifth", rungs, seconds / 5), ("rungs", rungs, seconds), ("full", full, seconds)):
            runs[name], _ = run_arm(arm, space, options.data, limit, seed, options.workers, tokens)
        points = np.concatenate([runs[name][:, 2:] for name in ("rungs", "full")])
        ideal, reference = points.min(axis=0), np.percentile(runs["full"][:, 2:], 90, axis=0)
        ends = {name: hypervolume(rows[:, 2:], ideal, reference) for name, rows in runs.items()}
        reached = _reach(runs["rungs"], ideal, reference, ends["full"])
        share = None if reached is None else reached["seconds"] / seconds
        found.append({"ends": ends, "share_of_time": share})
        said = ("not reached" if share is None else f"reached in {share:.0%} of the time") + ", goal 20%"
        told = f"full length {ends['full']:.4f}, rungs {ends['rungs']:.4f} ({said}), in a fifth {ends['fifth']:.4f}"
        print(f"  seed {seed}: {told}", flush=True)
    return {"seconds": seconds, "seeds": found}


# -- fidelity ---------------------------------------------------------------------------------------------------------


def fidelity(options, space: SearchSpace) -> dict:
    count, tokens = (6, 4096) if options.quick else (options.genomes, DEFAULTS["tokens"])
    factor = 2.0 if options.quick else options.factor
    genomes = stratified(space, count, np.random.default_rng(options.first_seed))
    with tempfile.TemporaryDirectory() as folder:
        how = {"horizon": tokens, "device": options.device}
        short = evaluator(options, tokens, DEFAULTS["rungs"], folder=Path(folder), **how)
        told: dict[str, list[float]] = {g.id: [] for g in genomes}
        with make_executor("processes", short, options.workers, ONE_THREAD) as executor:
            for rung in range(len(short.rungs)):
                left = [g for g in genomes if len(told[g.id]) == rung]
                for key, value in _losses(executor, left, rung):
                    told[key].append(value)
        longer = evaluator(options, round(tokens * factor), **how)
        with make_executor("processes", longer, options.workers, ONE_THREAD) as executor:
            left = [g for g in genomes if len(told[g.id]) == len(short.rungs)]
            final = dict(_losses(executor, left, 0))
    done = [g for g in genomes if g.id in final]
    rows = {g.id: [(loss,) for loss in told[g.id]] for g in done}
    inputs = {g.id: described(space, g) for g in done}
    predictors = []
    for rung in range(len(short.rungs)):
        expected = {}
        for g in done:
            others = [(rows[o.id], inputs[o.id]) for o in done if o is not g]
            ladder = Ladder(others, len(short.rungs), 1, traits_in(space))
            expected[g.id] = ladder.expected([rows[g.id][: rung + 1]], [inputs[g.id]])[0][0]
        sample = [_entry(g, told[g.id][rung], final[g.id]) for g in done]
        left_out = [_entry(g, expected[g.id], final[g.id]) for g in done]
        known = {i: features(told[i][: rung + 1], inputs[i]) for i in inputs}
        found = each_left_out(known, {i: told[i][rung] for i in inputs}, final, traits_in(space)).ranked
        ahead = [_entry(g, found[g.id], final[g.id]) for g in done]
        for what, entries in (("loss", sample), ("expected from there", left_out), ("extrapolated from there", ahead)):
            summary = summarise({"factor": factor, "rungs": [short.rungs[rung]], "sample": entries})["predictors"][0]
            predictors.append({**summary, "what": f"{what}, {short.rungs[rung]:,} tokens"})
    print(f"\nfidelity: Kendall's tau with {factor:g} times the last rung, {len(done)} of {count} genomes")
    for p in predictors:
        if p["tau"] is not None:
            interval = "[too few]" if p["low"] is None else f"[{p['low']:.3f}, {p['high']:.3f}]"
            print(f"  {p['what']:40} {p['tau']:.3f} {interval}, regret {p['regret']:.3f} nats")
    return {"factor": factor, "predictors": predictors, "told": told, "final": final}


def _losses(executor, genomes, rung: int):
    calls = [Call("train", (g, rung), g.id) for g in genomes]
    for k, (key, outcome) in enumerate(executor.map(calls), 1):
        said = outcome.reason.partition("\n")[0]
        if _trained(outcome):
            said = f"{outcome.measures['loss'].value:.4f} after {outcome.cost['seconds']:.0f} s"
        print(f"  {k} of {len(calls)}: {key} {said}", file=sys.stderr, flush=True)
        if _trained(outcome):
            yield key, outcome.measures["loss"].value


def _trained(outcome) -> bool:
    return not isinstance(outcome, Failure) and outcome.status == "ok"


def _entry(genome: Genome, value: float, final: float) -> dict:
    params = cost(genome, 65, DEFAULTS["context"]).params
    rate = genome.learning_rate
    return {
        "losses": [value],
        "long": final,
        "latency": None,
        "params": params,
        "learning_rate": rate,
        "expected": value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a text file; the embedded corpus without")
    parser.add_argument("--part", choices=PARTS, action="append", help="repeatable; all of them without")
    parser.add_argument("--seconds", type=float, default=300, help="of each arm of speed")
    parser.add_argument("--seeds", type=int, default=3, help="of speed")
    parser.add_argument("--genomes", type=int, default=64, help="of fidelity")
    parser.add_argument("--factor", type=float, default=20, help="of fidelity")
    parser.add_argument("--device", default="cpu", help="that fidelity's trainings run on: cpu or cuda")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--quick", action="store_true", help="seconds instead of hours: does it run?")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    import torch

    space = read_space(DEFAULTS["space"]).bounded(DEFAULTS["context"])
    result: dict = {"benchmark": "fitness", "quick": options.quick, "first_seed": options.first_seed}
    result |= {"versions": {"python": platform.python_version(), "torch": torch.__version__}, "defaults": DEFAULTS}
    for part in options.part or PARTS:
        print(part, flush=True)
        result[part] = {"throughput": throughput, "latency": latency, "speed": speed, "fidelity": fidelity}[part](
            options, space
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
