"""Search problems whose fronts are known, for ``bench_search.py``.

All but one trade f1 = x against f2 = g (1 - sqrt(x / g)), as ZDT1 does (Zitzler et al. 2000), or three objectives as
DTLZ2 (Deb et al. 2002); g is 1 where a penalty over all other genes is 0, and the penalty is what makes a problem hard.
In "deep" every layer of a network trades what it costs against what it is worth, and the front is found by dynamic
programming over the layers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from evonas.evolution import hypervolume
from evonas.genome import Genome


def _flat(extra: dict | None = None, reals: int = 10) -> dict:
    genes = {"x": {"low": 0.0, "high": 1.0}, **{f"r{k}": {"low": 0.0, "high": 1.0} for k in range(reals)}}
    return {"kind": "custom", "genes": {**genes, **(extra or {})}}


MIXED = {
    **{f"n{k}": {"low": 0, "high": 9} for k in range(6)},
    **{f"c{k}": ["a", "b", "c", "d"] for k in range(4)},
    "rate": {"low": 1e-4, "high": 1e-1, "log": True},
}
LAYERED = {
    "kind": "custom",
    "length": "depth",
    "genes": {"x": {"low": 0.0, "high": 1.0}, "depth": {"low": 1, "high": 12}, "kind": ["a", "b", "c"]},
    "layers": {"size": {"low": 1, "high": 8}, "heads": [1, 2, 4, 8], "shape": ["p", "q", "r"]},
}
BITS = _flat({f"b{k}": {"low": 0, "high": 1} for k in range(24)}, reals=0)


def _reals(genome: Genome) -> np.ndarray:
    return np.array([genome[name] for name in genome if name[0] == "r" and name[1:].isdigit()])


def smooth(genome: Genome) -> float:
    """Distances to a target, in every kind of gene."""
    whole = np.mean([(genome[f"n{k}"] / 9 - 2 / 3) ** 2 for k in range(6)])
    words = np.mean([genome[f"c{k}"] != "abcd"[k] for k in range(4)])
    rate = (math.log10(genome["rate"]) + 3) ** 2 / 4
    return float(np.mean((_reals(genome) - 0.4) ** 2) + whole + 0.3 * words + 0.5 * rate)


def rugged(genome: Genome) -> float:
    """Rastrigin's waves on the distances."""
    z = _reals(genome) - 0.4
    return float(np.mean(2 * z**2 + 0.1 * (1 - np.cos(10 * math.pi * z))))


def deceptive(genome: Genome) -> float:
    """Traps of four bits (Goldberg 1987): all ones is best, and every step towards it but the last looks worse."""
    bits = [genome[f"b{k}"] for k in range(24)]
    ones = [sum(bits[k : k + 4]) for k in range(0, 24, 4)]
    return float(np.mean([0.0 if n == 4 else (1 + n) / 4 for n in ones]))


def inactive(genome: Genome) -> float:
    """A layered network of at most 12 layers, of which 4 are right: most genes have no effect most of the time."""
    first = genome["size"][0]
    layers = zip(genome["size"], genome["heads"], genome["shape"])
    wrong = np.mean([(abs(s - first) / 7 + abs(math.log2(h) - 2) / 3 + (w != "q")) / 3 for s, h, w in layers])
    return float(0.5 * abs(genome["depth"] - 4) / 8 + wrong + 0.2 * (genome["kind"] != "b") + abs(first - 6) / 14)


def misleading(genome: Genome) -> float:
    """An NK landscape (Kauffman 1993): every bit counts by a table of it and five others, so that what was seen says
    little of what was not. Its least value is found by trying all 2^24, once: see ``_nk_least``."""
    bits = [genome[f"b{k}"] for k in range(24)]
    return float(_nk(np.array([bits]))[0] - _nk_least())


def _nk_tables() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(24)
    others = np.array([[k, *rng.choice([j for j in range(24) if j != k], 5, replace=False)] for k in range(24)])
    return others, rng.random((24, 64))


_OTHERS, _TABLE = _nk_tables()


def _nk(bits: np.ndarray) -> np.ndarray:
    places = bits[:, _OTHERS] @ (1 << np.arange(6))
    return _TABLE[np.arange(24), places].mean(axis=1)


@functools.cache
def _nk_least() -> float:
    """All 2^24 rows in blocks: some seconds."""
    low = ((np.arange(2**16)[:, None] >> np.arange(16)) & 1).astype(np.int8)
    least = math.inf
    for high in range(2**8):
        top = np.broadcast_to(((high >> np.arange(8)) & 1).astype(np.int8), (len(low), 8))
        least = min(least, float(_nk(np.hstack([low, top])).min()))
    return least


def _traded(genome: Genome, penalty: float, m: int) -> list[float]:
    x = genome["x"]
    if m == 2:
        g = 1 + 9 * penalty
        return [x, g * (1 - math.sqrt(x / g))]
    radius, a, b = 1 + 3 * penalty, 0.5 * math.pi * x, 0.5 * math.pi * genome["y"]
    return [radius * math.cos(a) * math.cos(b), radius * math.cos(a) * math.sin(b), radius * math.sin(a)]


def _traded_volume(m: int) -> tuple[np.ndarray, float]:
    if m == 2:
        return np.array([1.1, 4.0]), 4.0 * 1.1 - (1 - 2 / 3)  # below the front lies 1/3, right of x = 1 nothing
    return np.full(3, 1.5), 1.5**3 - math.pi / 6


# -- a deep network ----------------------------------------------------------------------------------------------------

_LEAST, _MOST = 12, 36  # layers
_WIDTHS, _BIASES = (2, 3, 4), (0, 1)
DEEP = {
    "kind": "custom",
    "length": "depth",
    "genes": {"width": list(_WIDTHS), "bias": list(_BIASES), "depth": {"low": _LEAST, "high": _MOST}},
    "layers": {"ratio": [2, 3, 4], "heads": [4, 8, 12]},
}
_RATIO_COST, _HEADS_COST = np.array([1, 2, 4]), np.array([0, 1, 2])  # of a layer, of width 1
_DEAREST = int(_RATIO_COST.max() + _HEADS_COST.max())
_RATIO_WORTH, _HEADS_WORTH = np.array([0.4, 1.1, 1.4]), np.array([0.0, 0.4, 0.6])
_STEP = 0.15  # of worth, lost where the ratio changes from one layer to the next
_ROUGH = 0.3 * np.random.default_rng(36).standard_normal((2, _MOST))  # by how much layers differ besides


def _worths(depth: int) -> np.ndarray:
    """What each option of each layer is worth (2, depth, 3): ratios first, then heads."""
    t = (np.arange(depth) + 0.5) / depth
    weights = np.maximum(np.array([1 + 0.5 * np.sin(2 * math.pi * t), 1 - 0.5 * t]) + _ROUGH[:, :depth], 0.1)
    return weights[:, :, None] * np.array([_RATIO_WORTH, _HEADS_WORTH])[:, None]


def _priced(cost: np.ndarray, worth: np.ndarray, width: int, bias: int) -> np.ndarray:
    """Objectives (..., 2) of layers that cost so many units and are worth so much together. A width multiplies the cost
    and helps less and less; a bias costs a little and takes a little off the loss."""
    loss = np.exp(-2.5 * (worth / (2 * _MOST)) ** 0.8 * (width / max(_WIDTHS)) ** 0.6)
    return np.stack([cost * width / (_DEAREST * _MOST * max(_WIDTHS)) + 0.005 * bias, loss - 0.004 * bias], axis=-1)


def deep(genome: Genome) -> list[float]:
    """Many layers, each a small part of the whole: what they cost is added up, what they are worth differs from layer
    to layer and falls where neighbours' ratios differ, and less comes of more."""
    ratio, heads = (np.searchsorted(DEEP["layers"][name], genome[name]) for name in ("ratio", "heads"))
    of_ratio, of_heads = _worths(genome["depth"])
    at = np.arange(genome["depth"])
    worth = of_ratio[at, ratio].sum() + of_heads[at, heads].sum() - _STEP * np.abs(np.diff(ratio)).sum()
    return _priced((_RATIO_COST[ratio] + _HEADS_COST[heads]).sum(), worth, genome["width"], genome["bias"]).tolist()


def _most_worth(depth: int) -> np.ndarray:
    """The most that this number of layers is worth at each cost (costs,), by dynamic programming; -inf where none costs
    just that."""
    of_ratio, of_heads = _worths(depth)
    best = np.full((3, _DEAREST * _MOST + 1), -np.inf)  # by the last layer's ratio
    best[:, 0] = 0.0  # of no layer
    for layer in range(depth):
        after = np.full_like(best, -np.inf)
        for ratio in range(3):
            before = (best - _STEP * np.abs(np.arange(3) - ratio)[:, None]).max(axis=0)
            for heads in range(3):
                cost = _RATIO_COST[ratio] + _HEADS_COST[heads]
                reached = before[:-cost] + of_ratio[layer, ratio] + of_heads[layer, heads]
                after[ratio, cost:] = np.maximum(after[ratio, cost:], reached)
        best = after
    return best.max(axis=0)


@functools.cache
def _deep_volume() -> tuple[np.ndarray, float]:
    """Of all depths, widths and biases; every network lies within the reference."""
    points = []
    for depth in range(_LEAST, _MOST + 1):
        worth = _most_worth(depth)
        cost = np.flatnonzero(np.isfinite(worth))
        points += [_priced(cost, worth[cost], width, bias) for width in _WIDTHS for bias in _BIASES]
    reference = np.array([1.1, 1.0])
    return reference, hypervolume(np.vstack(points), np.zeros(2), reference) * float(reference.prod())


# -- all of them -------------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    space: dict
    m: int  # objectives, minimised
    objectives: Callable[[Genome], list[float]]
    best: Callable[[], tuple[np.ndarray, float]]  # reference point (m,), hypervolume of the known front up to it


def _penalised(space: dict, penalty: Callable[[Genome], float], m: int = 2) -> Problem:
    return Problem(space, m, lambda genome: _traded(genome, penalty(genome), m), lambda: _traded_volume(m))


PROBLEMS: dict[str, Problem] = {
    "smooth": _penalised(_flat(MIXED), smooth),
    "rugged": _penalised(_flat(), rugged),
    "deceptive": _penalised(BITS, deceptive),
    "inactive": _penalised(LAYERED, inactive),
    "misleading": _penalised(BITS, misleading),
    "three objectives": _penalised(_flat(MIXED | {"y": {"low": 0.0, "high": 1.0}}), smooth, 3),
    "deep": Problem(DEEP, 2, deep, _deep_volume),
}
