"""What each kind of attention takes as the context grows: memory, forward time and decode time of whole networks.

    python tools/bench_attention.py
    python tools/bench_attention.py --quick

Networks of the same width and depth that differ in their attention alone, on the CPU, batch 1, one thread.

memory   MB (10^6 bytes) at the peak of one forward pass that fills the KV cache: weights, buffers (rotary tables, the
         mask of a window), KV cache and live tensors, as ``evonas.fitness.latency.forward_memory`` counts them for the
         search. Full attention runs through torch's fused kernel, which never holds T x T
         scores: nothing here is won against a matrix that nobody makes. "without weights" is the same less the
         parameters.
resident the growth of the process's resident memory over that pass, at its peak, from Linux: the cache, activations,
         what kernels use inside and what the allocator wastes; neither weights nor buffers. "-" on other systems.
scores   what a T x T matrix of float32 scores of all heads would take, for comparison only.
forward  ms of a forward pass over the context; decode: ms of one token behind a full cache. Median +- half the
         interquartile range over repeats, in rounds that take turns between the networks, so that a neighbour's load
         falls on all of them.
exponent of a log-log fit of forward time over context: 1 is linear, 2 quadratic. Everything of the network is in it,
         and what is linear in all of them (projections, feed-forward) hides some of the quadratic part. Over all
         contexts, and over those from twice the window on.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import time

import numpy as np
import torch

from evonas.fitness.latency import forward_memory
from evonas.genome import transformer_genome
from evonas.model import Transformer, build

WIDTH, DEPTH, HEADS, WINDOW, KV_RANK, VOCAB, SEED = 256, 4, 8, 512, 16, 96, 0
GENES = {
    "n_layers": DEPTH, "d_model": WIDTH, "n_heads": HEADS, "ffn_ratio": 4, "norm": "rmsnorm", "activation": "gelu",
    "position": "rope", "tied_embeddings": True,
}  # fmt: skip
KINDS = {
    "full": {},
    "window": {"window": WINDOW},
    "grouped": {"n_kv_heads": HEADS // 4},
    "latent": {"kv_rank": KV_RANK},
    "combined": {"window": WINDOW, "kv_rank": KV_RANK},
}
GOAL_CONTEXT, GOAL = 4096, 0.6


def networks(context: int) -> dict[str, Transformer]:
    generator = torch.Generator().manual_seed(SEED)
    return {
        kind: build(transformer_genome({**GENES, **genes}), VOCAB, context, generator=generator).eval()
        for kind, genes in KINDS.items()
    }


def memory(model: Transformer) -> dict[str, float]:
    """Megabytes by what they are for; see the top of this file."""
    size = {
        "weights": sum(p.nbytes for p in model.parameters()) / 1e6,
        "buffers": sum(b.nbytes for b in model.buffers()) / 1e6,
        "cache": model.new_cache(1).bytes / 1e6,
    }
    total = forward_memory(model, "cpu").value
    size["activations"] = total - size["weights"] - size["buffers"] - size["cache"]
    size["total"] = total
    size["without_weights"] = size["total"] - size["weights"]
    resident = [grown for _ in range(3) if (grown := _resident_growth(model)) is not None]
    size["resident"] = float(np.median(resident)) if resident else None
    return size


@torch.inference_mode()
def _resident_growth(model: Transformer) -> float | None:
    """Megabytes by which the resident memory of this process peaks during a prefill above what it was before."""
    tokens = (torch.arange(model.context) % VOCAB)[None]
    model(tokens[:, :32])  # threads and kernels are set up
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts anew
    except OSError:
        return None
    before = _status("VmRSS")
    model.prefill(tokens, model.new_cache(1))
    return (_status("VmHWM") - before) * 1024 / 1e6


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key + ":"))


@torch.inference_mode()
def times(models: dict[str, Transformer], seconds: float) -> dict[str, dict[str, tuple[float, float, int]]]:
    """Of every kind, forward and decode: median ms, half the interquartile range, repeats. About ``seconds`` in all."""
    calls = {}
    for kind, model in models.items():
        tokens = (torch.arange(model.context) % VOCAB)[None]
        cache = model.new_cache(1)
        model.prefill(tokens[:, :-1], cache)

        def decode(model=model, last=tokens[:, -1:], cache=cache, filled=cache.length):
            cache.length = filled
            model.decode(last, cache)

        calls[kind] = (lambda model=model, tokens=tokens: model(tokens), decode)
    taken: dict[str, tuple[list[float], list[float]]] = {kind: ([], []) for kind in models}
    until, rounds = time.perf_counter() + seconds, 0
    while rounds < 5 or (time.perf_counter() < until and rounds < 200):
        for kind, (forward, decode) in calls.items():
            for call, row, repeats in ((forward, taken[kind][0], 1), (decode, taken[kind][1], 4)):
                for _ in range(repeats):
                    start = time.perf_counter_ns()
                    call()
                    row.append((time.perf_counter_ns() - start) / 1e6)
        rounds += 1
    return {kind: {"forward": _median(rows[0]), "decode": _median(rows[1])} for kind, rows in taken.items()}


def _median(row: list[float]) -> tuple[float, float, int]:
    low, median, high = np.percentile(row, [25, 50, 75])
    return float(median), float(high - low) / 2, len(row)


def exponent(contexts: list[int], milliseconds: list[float]) -> float | None:
    if len(contexts) < 2:
        return None
    return float(np.polyfit(np.log(contexts), np.log(milliseconds), 1)[0])


def measure(contexts: list[int], seconds: float) -> dict[str, dict[int, dict]]:
    found: dict[str, dict[int, dict]] = {kind: {} for kind in KINDS}
    print(f"{'context':>7} {'attention':10}{'memory MB':>10}{'weights':>9}{'buffers':>8}{'KV cache':>9}{'activ.':>8}"
          f"{'resident':>9}{'scores':>8}   {'forward ms':>18}   {'decode ms':>16}")  # fmt: skip
    for context in contexts:
        models = networks(context)
        sizes = {kind: memory(model) for kind, model in models.items()}
        timed = times(models, seconds)
        for kind in KINDS:
            m, t = sizes[kind], timed[kind]
            m["scores"] = HEADS * context**2 * 4 / 1e6 if kind == "full" else None
            found[kind][context] = {"memory": m, **t}
            cells = "".join(f"{_cell(m[key]):>{width}}" for key, width in (
                ("total", 10), ("weights", 9), ("buffers", 8), ("cache", 9), ("activations", 8), ("resident", 9),
                ("scores", 8)))  # fmt: skip
            forward, decode = (f"{t[phase][0]:.2f} +- {t[phase][1]:.2f}" for phase in ("forward", "decode"))
            print(f"{context:7} {kind:10}{cells}   {forward:>18}   {decode:>16}", flush=True)
    return found


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def conclude(found: dict[str, dict[int, dict]], contexts: list[int]) -> dict:
    """Exponents, and what each kind saves against full attention at the goal's context."""
    out: dict = {"exponent": {}, "exponent_beyond_window": {}, "saved": {}}
    beyond = [context for context in contexts if context >= 2 * WINDOW]
    at = GOAL_CONTEXT if GOAL_CONTEXT in contexts else contexts[-1]
    print(f"\nagainst full attention at {at} tokens")
    print(f"{'':10}{'memory':>9}{'without weights':>17}{'resident':>10}{'forward':>9}{'decode':>8}"
          f"{'exponent':>10}{f'from {2 * WINDOW}':>11}")  # fmt: skip
    for kind in KINDS:
        row, full = found[kind][at], found["full"][at]
        saved = {
            key: 1 - row["memory"][key] / full["memory"][key] if full["memory"][key] else None
            for key in ("total", "without_weights", "resident")
        }
        saved |= {phase: 1 - row[phase][0] / full[phase][0] for phase in ("forward", "decode")}
        out["saved"][kind] = saved
        for key, over in (("exponent", contexts), ("exponent_beyond_window", beyond)):
            out[key][kind] = exponent(over, [found[kind][context]["forward"][0] for context in over])
        shares = [f"{0 - value:+.0%}" if value is not None else "n/a" for value in saved.values()]
        fits = [f"{out[key][kind]:.2f}" if out[key][kind] else "-" for key in ("exponent", "exponent_beyond_window")]
        print(f"{kind:10}" + "".join(f"{s:>{w}}" for s, w in zip([*shares, *fits], (9, 17, 10, 9, 8, 10, 11))))
    reached = out["saved"]["combined"]["total"]
    out["goal"] = {"context": at, "wanted": GOAL, "saved": reached, "reached": reached >= GOAL}
    print(f"goal: combined saves {GOAL:.0%} of full attention's memory: {reached:.1%}, "
          f"{'reached' if reached >= GOAL else 'not reached'}")  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="timing per context, all networks together")
    parser.add_argument("--quick", action="store_true", help="512 to 2,048 tokens, five rounds")
    options = parser.parse_args()
    contexts = [512, 1024, 2048] if options.quick else [512, 1024, 2048, 4096, 8192]
    torch.set_num_threads(1)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    setting = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "window": WINDOW, "kv_rank": KV_RANK, "vocab": VOCAB}
    print(f"versions {versions}\nnetwork {setting}, seed {SEED}\ndevice cpu ({os.cpu_count()} cores), 1 thread\n")
    found = measure(contexts, 0.0 if options.quick else options.seconds)
    result = {"benchmark": "attention", "quick": options.quick, "versions": versions, "seed": SEED, "device": "cpu"}
    result |= {"cores": os.cpu_count(), "threads": 1, "network": setting, "contexts": contexts, "kinds": found}
    print(json.dumps(result | conclude(found, contexts)))


if __name__ == "__main__":
    main()
