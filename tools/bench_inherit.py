"""Whether a child that starts from its parent's weights is judged better, or cheaper, than one that starts anew.

    python tools/bench_inherit.py --data input.txt
    python tools/bench_inherit.py --quick

Parents are the better half of a stratified sample of the default space after a quarter of the default tokens, which is
the search's first rung; each gets children by the search's own mutations. The truth of a child is its loss after a
training from fresh weights on all of the tokens. Against it, Kendall's tau over all children and the mean of those over
the children of one parent, of

    fresh           the child trained on a sixteenth of the tokens
    fresh, longer   the child trained on a quarter: dearer than inheriting
    inherited       the child with its parent's weights (after a quarter), trained on a sixteenth
    less parent     the same, less the loss of its parent when that is trained on just so

and how much lower the inherited loss is than the fresh one of the same tokens.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import warnings
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from evonas.config import DEVICE_DEFAULTS, GROWTH
from evonas.evolution import mutate, stratified
from evonas.executors import Call, Failure, default_workers, make_executor
from evonas.fitness import ProxyEvaluator
from evonas.genome import Genome, read_space

DEFAULTS = DEVICE_DEFAULTS["cpu"]


class Inheriting(ProxyEvaluator):
    """Trains parents, keeps them, and trains children that start from them."""

    def parent(self, genome: Genome, tokens: int) -> float | None:
        from safetensors.torch import save_file

        training = self._fresh(genome)
        loss = self._run(training, tokens)
        if loss is not None:
            save_file(dict(training.model.state_dict()), Path(self.checkpoints) / f"{genome.id}.safetensors")
        return loss

    def child(self, genome: Genome, parent: Genome | None, tokens: int) -> float | None:
        from safetensors.torch import load_file

        from evonas.model.inherit import inherit

        training = self._fresh(genome)
        if parent is not None:
            inherit(training.model, parent, load_file(Path(self.checkpoints) / f"{parent.id}.safetensors"))
        return self._run(training, tokens)

    def _fresh(self, genome: Genome):
        import torch

        torch.set_num_threads(1)
        return self.training(genome)

    def _run(self, training, tokens: int) -> float | None:
        from evonas.fitness.train import DivergenceError

        try:
            training.run(tokens)
            return training.validate(self.validation_tokens)[0]
        except DivergenceError:
            return None


def families(options, space) -> list[tuple[Genome, Genome]]:
    """(parent, child) pairs that have not been drawn before."""
    rng = np.random.default_rng((options.first_seed, 1))
    pairs, seen = [], set()
    for parent in stratified(space, 2 * options.parents, np.random.default_rng(options.first_seed)):
        for _ in range(options.children):
            child, _ = mutate(parent, space, rng)
            if child.id not in seen and child != parent:
                seen.add(child.id)
                pairs.append((parent, child))
    return pairs


def outcomes(executor, calls: dict) -> dict:
    """key -> loss of those that did not fail."""
    found = executor.map([Call(method, args, key) for key, (method, args) in calls.items()])
    return {key: loss for key, loss in found if not isinstance(loss, Failure) and loss is not None}


def measure(options, space) -> dict:
    last = 8192 if options.quick else DEFAULTS["tokens"]
    first, second = last // GROWTH**2, last // GROWTH
    pairs = families(options, space)
    with tempfile.TemporaryDirectory() as folder:
        evaluator = Inheriting(
            "text", options.data, DEFAULTS["context"], needs=("loss",), tokens=last, checkpoints=folder,
            validation_tokens=DEFAULTS["validation_tokens"], seed=options.first_seed, horizon=last,
        )  # fmt: skip
        with make_executor("processes", evaluator, options.workers, {"OMP_NUM_THREADS": "1"}) as executor:
            everyone = {p.id: p for p, _ in pairs}
            told = outcomes(executor, {i: ("parent", (p, second)) for i, p in everyone.items()})
            kept = sorted(told, key=told.get)[: options.parents]
            pairs = [(p, c) for p, c in pairs if p.id in kept]
            print(f"{len(kept)} parents, {len(pairs)} children; {first:,}, {second:,}, {last:,} tokens", flush=True)
            calls = {}
            for p, c in pairs:
                for tokens in (last, second, first):
                    calls[c.id, tokens] = ("child", (c, None, tokens))
                calls[c.id, "inherited"] = ("child", (c, p, first))
            for i in kept:
                calls[i, "on"] = ("child", (everyone[i], everyone[i], first))
            found = outcomes(executor, calls)
    rows = [
        (p.id, found[c.id, last], found[c.id, first], found[c.id, second], found[c.id, "inherited"],
         found[c.id, "inherited"] - found[p.id, "on"])
        for p, c in pairs
        if all((c.id, k) in found for k in (last, first, second, "inherited")) and (p.id, "on") in found
    ]  # fmt: skip
    return {"tokens": [first, second, last], "rows": rows}


def show(figures: dict) -> None:
    rows = figures["rows"]
    truth = np.array([r[1] for r in rows])
    family = np.array([r[0] for r in rows])
    figures["tau"] = {}
    print(
        f"\nKendall's tau with the loss after {figures['tokens'][2]:,} tokens from fresh weights, {len(rows)} children"
    )
    for k, name in enumerate(("fresh", "fresh, longer", "inherited", "less parent"), start=2):
        values = np.array([r[k] for r in rows])
        whole = float(kendalltau(values, truth).statistic)
        within = [kendalltau(values[family == f], truth[family == f]).statistic for f in np.unique(family)]
        within = float(np.nanmean(within))
        figures["tau"][name] = {"all": whole, "within": within}
        print(f"  {name:14} all {whole:6.3f}   children of one parent {within:6.3f}")
    gain = np.array([r[2] - r[4] for r in rows])
    better = int((gain > 0).sum())
    print(f"  inherited below fresh in {better} of {len(rows)}, by {np.median(gain):.3f} nats in the median")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a text file; the embedded corpus without")
    parser.add_argument("--parents", type=int, default=8)
    parser.add_argument("--children", type=int, default=5, help="of each parent")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: does it run?")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.quick:
        options.parents, options.children = 2, 3
    import torch

    figures = measure(options, read_space(DEFAULTS["space"]).bounded(DEFAULTS["context"]))
    show(figures)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    about = {"benchmark": "inherit", "quick": options.quick, "first_seed": options.first_seed, "versions": versions}
    print(json.dumps({**about, **figures}))


if __name__ == "__main__":
    main()
