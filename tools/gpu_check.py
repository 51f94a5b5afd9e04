"""Everything evonas claims of a GPU, in one call of under ten minutes.

    python tools/gpu_check.py
    python tools/gpu_check.py --data input.txt --workers 8 --part throughput
    python tools/gpu_check.py --quick
    nvidia-cuda-mps-control -d; python tools/gpu_check.py --part throughput     # the same with kernels side by side

step: milliseconds of a training step captured as a CUDA graph, against the same step op by op, for networks from the
    small to the large end of the default space; and how far the losses of both lie apart in the end.
throughput: candidates of a stratified sample trained per minute to the first rung, their checkpoints written as in a
    search, by processes that share the device, against one by one in one process: captured as they are; op by op in the
    same precision; and once in float32, torch's default.
latency: how far the stored latency of one network varies when it is measured again and again.
memory: what a candidate that needs more memory than there is comes to, and that others train on beside it.

Prints a table and a JSON object of each part as it ends, last one JSON object of all. Needs a CUDA GPU and says so
where there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import math
import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from evonas.config import DEVICE_DEFAULTS, GROWTH
from evonas.evolution import stratified
from evonas.executors import Call, Failure, default_workers, make_executor
from evonas.fitness import ProxyEvaluator, device_text, gpu_workers
from evonas.genome import Genome, SearchSpace, read_space, transformer_genome

DEFAULTS = DEVICE_DEFAULTS["cuda"]
PARTS = ("step", "throughput", "latency", "memory")
# Seconds of one call, and half of those of all steps, far more than any take: what hangs must not take the ten minutes.
TIMEOUT = 120.0


class Warmed(ProxyEvaluator):
    """Says when every worker has trained once."""

    def warm(self, genome: Genome, folder: str, workers: int) -> None:
        """Returns when as many workers have been here, which start one after the other."""
        kept, self.checkpoints = self.checkpoints, None  # another worker's would leave this one nothing to train
        try:
            self.train(genome)
        finally:
            self.checkpoints = kept
        (Path(folder) / str(os.getpid())).touch()
        began = time.monotonic()
        while len(os.listdir(folder)) < workers and time.monotonic() - began < TIMEOUT / 2:
            time.sleep(0.05)


class OpByOp(Warmed):
    """Trains without CUDA graphs."""

    def train(self, genome: Genome, rung: int = 0):
        from evonas.fitness import train

        kept, train.GraphedStep = train.GraphedStep, train.Step
        try:
            return super().train(genome, rung)
        finally:
            train.GraphedStep = kept


class Steps(ProxyEvaluator):
    """Times steps, and says where the training ends."""

    def steps(self, genome: Genome, graphed: bool, count: int) -> tuple[float, float, bool]:
        """(median milliseconds of a step, held-out loss after ``count`` steps, NaN where it diverged, whether they were
        captured)."""
        import torch

        from evonas.fitness.train import DivergenceError

        training = self.training(genome)
        training.step.graphed = None if graphed else False
        times, last = [], time.perf_counter()

        def after_step(step: int) -> None:
            nonlocal last
            torch.cuda.synchronize()
            now = time.perf_counter()
            times.append(now - last)
            last = now

        try:
            training.run(count * genome.batch_size * self.context, after_step)
            loss = training.validate(self.validation_tokens)[0]
        except DivergenceError:  # the step costs what it costs
            loss = float("nan")
        return float(np.median(times[10:] or times)) * 1e3, loss, training.step.graphed


def evaluator(options, kind=ProxyEvaluator, tokens: int | None = None, needs=("loss",), **how) -> ProxyEvaluator:
    return kind(
        "text",
        options.data,
        DEFAULTS["context"],
        needs=needs,
        tokens=tokens or DEFAULTS["tokens"],
        validation_tokens=DEFAULTS["validation_tokens"],
        seed=options.first_seed,
        device="cuda",
        **how,
    )


def step(options, space: SearchSpace) -> dict:
    """One after the other in one worker: nothing else is on the device, and the memory goes with it."""
    genomes = {g.id: g for g in sorted(sample(options, space, 3 if options.quick else 6), key=_size)}
    count = 40 if options.quick else 60
    calls = [Call("steps", (g, graphed, count), (i, graphed)) for i, g in genomes.items() for graphed in (True, False)]
    found, rows = {}, []
    with make_executor("processes", evaluator(options, Steps), 1) as executor:
        end = time.monotonic() + 2 * TIMEOUT
        for (i, graphed), outcome in executor.map_alone(calls, timeout=TIMEOUT, deadline=end):
            found[i, graphed] = outcome
            if not graphed:
                rows.append(_compared(genomes[i], found[i, True], outcome))
    timed = [r for r in rows if "failed" not in r]
    if not timed:
        return {"rows": rows, "error": "no network was timed both ways"}
    ratio = np.median([r["eager_ms"] / r["graphed_ms"] for r in timed])
    print(f"  median {ratio:.2f}x; {sum(r['captured'] for r in timed)} of {len(rows)} captured")
    return {"rows": rows}


def _compared(genome: Genome, captured, op_by_op) -> dict:
    """The row of a network from what ``Steps.steps`` gave both ways."""
    size = f"{genome.n_layers} layers of {genome.d_model}, batch {genome.batch_size}"
    failed = [f"{o.status}: {o.reason}" for o in (captured, op_by_op) if isinstance(o, Failure)]
    if failed:
        print(f"  {size:30} {'; '.join(reason.splitlines()[0][:80] for reason in failed)}", flush=True)
        return {"size": size, "failed": failed}
    (graphed_ms, loss, graphed), (eager_ms, same_loss, _) = captured, op_by_op
    both = math.isfinite(loss) and math.isfinite(same_loss)
    apart = f"losses differ by {abs(loss - same_loss):.4f}" if both else f"losses {loss:.4f}, {same_loss:.4f}"
    print(
        f"  {size:30} {graphed_ms:7.3f} ms captured, {eager_ms:7.3f} op by op, {eager_ms / graphed_ms:5.2f}x; {apart}",
        flush=True,
    )
    row = {"size": size, "captured": bool(graphed), "graphed_ms": graphed_ms, "eager_ms": eager_ms}
    return {**row, "loss_difference": abs(loss - same_loss) if both else None}


def throughput(options, space: SearchSpace) -> dict:
    growth = GROWTH ** (DEFAULTS["rungs"] - 1)
    tokens = 65_536 if options.quick else DEFAULTS["tokens"] // growth
    count, repeats = (4, 1) if options.quick else (options.genomes, options.repeats)
    genomes = sample(options, space, count)
    calls = [Call("train", (g, 0), g.id) for g in sorted(genomes, key=lambda g: -_size(g))]
    failed, seconds = [], {}
    with contextlib.ExitStack() as stack:
        weights = stack.enter_context(tempfile.TemporaryDirectory())
        how = {"tokens": tokens * growth, "rungs": DEFAULTS["rungs"], "growth": GROWTH, "checkpoints": weights}
        kinds = {
            "workers": (evaluator(options, Warmed, **how), options.workers),
            "one worker": (evaluator(options, Warmed, **how), 1),
            "one by one": (evaluator(options, OpByOp, **how), 1),
            "and in float32": (evaluator(options, OpByOp, **how, precision="float32"), 1),
        }
        times: dict[str, list[float]] = {name: [] for name in kinds}
        executors = {name: stack.enter_context(make_executor("processes", *kind)) for name, kind in kinds.items()}
        for name, executor in executors.items():
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            warm = [Call("warm", (genomes[0], folder, executor.workers), k) for k in range(executor.workers)]
            failed += [f"{name}: {o.reason}" for _, o in executor.map(warm, timeout=TIMEOUT) if o is not None]
        for done in range(repeats):
            for name, executor in executors.items():
                if name == "and in float32" and done:
                    continue
                start = time.perf_counter()
                outcomes = [outcome for _, outcome in executor.map(calls, timeout=TIMEOUT)]
                times[name].append(time.perf_counter() - start)
                kinds[name][0].retain(())  # what has a checkpoint is not trained again
                good = [o for o in outcomes if not isinstance(o, Failure) and o.status == "ok"]
                seconds[name] = sorted(o.cost["seconds"] for o in good)
                failed += [f"{name}: {o.reason}" for o in outcomes if o not in good]
    per_minute = {name: [len(calls) / t * 60 for t in spent] for name, spent in times.items()}
    ratios = {name: [b / a for a, b in zip(times["workers"], times[name])] for name in list(times)[1:]}
    print(
        f"  {len(calls)} candidates of {tokens:,} tokens, {options.workers} workers, {repeats} rounds; in all of them "
        f"{len(failed)} trainings failed: {'; '.join(dict.fromkeys(reason[:80] for reason in failed)) or '-'}"
    )
    for name, values in per_minute.items():
        ratio = f", ratio {np.median(ratios[name]):.2f}" if name in ratios else ""
        ratio += "   goal 10" if name == "one by one" else ""
        low, middle, high = np.percentile(seconds[name] or [math.nan], [0, 50, 100])
        print(
            f"  {name:15} {np.median(values):8.1f} candidates/min [{min(values):.1f} - {max(values):.1f}]{ratio}; "
            f"seconds each, in the last round: {middle:.2f} [{low:.2f} - {high:.2f}]"
        )
    figures = {"per_minute": per_minute, "ratios": ratios, "seconds": seconds, "failed": failed}
    return {"tokens": tokens, "workers": options.workers, **figures}


def latency(options, space: SearchSpace) -> dict:
    genomes, repeats = sample(options, space, 3 if options.quick else 6), 3 if options.quick else 8
    timing = evaluator(options, needs=("latency", "decode_latency"))
    out = {}
    with make_executor("processes", timing, 1) as executor:
        calls = [Call("measure", (g,), g.id) for g in genomes]
        # Round by round: what drifts hits all of them.
        rounds = [dict(executor.map_alone(calls, timeout=TIMEOUT)) for _ in range(repeats)]
    failed = {k: o.reason for found in rounds for k, o in found.items() if isinstance(o, Failure) or o.status != "ok"}
    if failed:
        print(f"  {len(failed)} of {len(genomes)} could not be timed: {'; '.join(r[:80] for r in failed.values())}")
    genomes = [g for g in genomes if g.id not in failed]
    if not genomes:
        return {"failed": failed}
    for name in timing.measured_names:
        values = np.array([[found[g.id].measures[name].value for found in rounds] for g in genomes])
        variation = values.std(axis=1, ddof=1) / values.mean(axis=1)
        low, middle, high = np.percentile(variation, [10, 50, 90])
        print(
            f"  {name:15} {values.min():.3f} to {values.max():.3f} ms, variation of the stored value {middle:.2%} "
            f"[{low:.2%} - {high:.2%}]   goal 2%"
        )
        out[name] = {"values": values.tolist(), "variation": variation.tolist()}
    return {**out, "failed": failed}


def memory(options, space: SearchSpace) -> dict:
    """One candidate whose activations, some terabyte, can't fit, among others that do."""
    small = sample(options, space, 3)
    genes = {"n_layers": 24, "d_model": 1024, "n_heads": 8, "ffn_ratio": 4, "batch_size": 4096}
    rest = {"norm": "layernorm", "activation": "gelu", "position": "learned", "tied_embeddings": True}
    huge = transformer_genome({**genes, **rest, "learning_rate": 1e-3})
    calls = [Call("train", (g, 0), g.id) for g in (huge, *small)]
    tokens = huge.batch_size * DEFAULTS["context"]  # its whole batch
    with make_executor("processes", evaluator(options, tokens=tokens), 2) as executor:
        found = {key: outcome.status for key, outcome in executor.map(calls, timeout=TIMEOUT)}
    others = [found[g.id] for g in small]
    print(f"  too large: {found[huge.id]} (expected out_of_memory); beside it: {', '.join(others)}")
    return {"too_large": found[huge.id], "others": others}


def sample(options, space: SearchSpace, count: int) -> list[Genome]:
    return stratified(space, count, np.random.default_rng(options.first_seed))


def _size(genome: Genome) -> float:
    return genome.n_layers * genome.d_model**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a text file; the embedded corpus without")
    parser.add_argument("--part", choices=PARTS, action="append", help="repeatable; all of them without")
    parser.add_argument("--workers", type=int, help="processes that share the device; as a search has by default")
    parser.add_argument("--genomes", type=int, default=12, help="of throughput")
    parser.add_argument("--repeats", type=int, default=2, help="of throughput")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a minute: does it run?")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("gpu_check: no CUDA device is to be seen here; it needs one, and a CUDA build of torch")
    options.workers = options.workers or gpu_workers(default_workers())
    space = read_space(DEFAULTS["space"]).bounded(DEFAULTS["context"])
    about = {
        "benchmark": "gpu_check", "quick": options.quick, "device": device_text("cuda"),
        "date": f"{datetime.date.today()}", "first_seed": options.first_seed,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda},
    }  # fmt: skip
    print(f"{about['device']}, torch {torch.__version__}, {about['date']}, space {DEFAULTS['space']}")
    parts = {"step": step, "throughput": throughput, "latency": latency, "memory": memory}
    for name in options.part or PARTS:
        started = time.perf_counter()
        print(name, flush=True)
        try:
            about[name] = parts[name](options, space)
        except Exception as error:  # the other parts' figures are not lost with it
            traceback.print_exc()
            about[name] = {"error": f"{type(error).__name__}: {error}"}
        about[name]["seconds"] = time.perf_counter() - started
        print(json.dumps({name: about[name]}), flush=True)  # should the rest not come to its end
    print(json.dumps(about))
    broken = [name for name in PARTS if "error" in about.get(name, {})]
    if broken:
        sys.exit(f"gpu_check: {', '.join(broken)} did not come to an end")


if __name__ == "__main__":
    main()
