"""Combinations of values near given ones: what a repair tries, nearest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from .gene import Gene

# Positions on a continuous gene, and combinations of values for a given number of changed genes.
_GRID, _MAX_COMBINATIONS = 9, 4_000


def by_distance(genes: list[Gene], values: dict, tries: Iterator[int]) -> Iterator[dict]:
    """``values``, then with one of the genes changed, then with two, ..., each time nearest first; every candidate
    takes one of ``tries``. Where there are too many combinations, far values are thinned out."""
    if next(tries, None) is None:
        return
    yield values
    for count in range(1, len(genes) + 1):
        subsets = list(itertools.islice(itertools.combinations(genes, count), _MAX_COMBINATIONS))
        share = _MAX_COMBINATIONS / len(subsets)
        near = {g.name: _others(g, values[g.name], max(2, int(share ** (1 / count)))) for g in genes}
        ranked = []
        for subset in subsets:
            for moves in itertools.product(*(near[g.name] for g in subset)):
                changed = {g.name: value for g, (_, value) in zip(subset, moves)}
                ranked.append((sum(far for far, _ in moves), len(ranked), changed))
                if next(tries, None) is None:
                    return
        for _, _, changed in sorted(ranked):
            yield {**values, **changed}


def _others(gene: Gene, value: Any, most: int) -> list[tuple[float, Any]]:
    """(distance, option) of at most ``most`` other values, nearest first: the nearer half of them, then thinned."""
    if gene.options is not None:
        places = [((k + 0.5) / len(gene.options), option) for k, option in enumerate(gene.options)]
    else:
        places = [(gene.to_unit(v), v) for v in dict.fromkeys(gene.from_unit(k / (_GRID - 1)) for k in range(_GRID))]
    at = gene.to_unit(value) if gene.is_ordered else 0.0
    others = [(abs(u - at) if gene.is_ordered else 0.0, option) for u, option in places if option != value]
    others.sort(key=lambda pair: pair[0])
    if len(others) <= most:
        return others
    half = most // 2
    spread = np.linspace(half, len(others) - 1, most - half).round().astype(int)
    return others[:half] + [others[k] for k in spread]
