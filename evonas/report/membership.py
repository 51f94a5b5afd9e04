"""With what probability each genome belongs on the front, given how well its objectives are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..evolution.selection import minimised, non_dominated
from ..sketch import WIDTH, directions
from .compare import Comparison

_DRAWS = 500
_BEYOND = 4.0  # spreads: what would have to be off by more than so many, as the front would, never dominates it


def front_probabilities(comparison: Comparison, noise: Mapping[str, float] | None = None) -> dict[str, float]:
    """Genome id -> share of draws in which nothing dominates it, of every genome on the front.

    A draw takes each objective of each genome from a normal distribution around the stored value with its spread
    (exact ones stay). What errors have in common, as those of losses on the same held-out text, is drawn in common
    (see ``evonas.sketch``). ``noise`` holds what else an objective varies by, apart for every genome: what another
    seed would change.
    """
    records, names = comparison.records, comparison.names
    front = np.flatnonzero(comparison.front)
    if not len(front):
        return {}
    values = minimised(comparison.values, comparison.directions)
    spreads = np.array([[r.measures[n].spread for n in names] for r in records])
    spreads = np.where(np.isfinite(spreads) & (spreads > 0), spreads, 0.0)
    own = np.array([(noise or {}).get(n, 0.0) for n in names])
    beyond = _BEYOND * np.hypot(spreads, own)
    best, worst = values - beyond, values + beyond
    rivals = np.zeros(len(values), dtype=bool)
    for row in worst[front]:
        rivals |= (best <= row).all(axis=1)
    kept = np.flatnonzero(rivals & comparison.feasible)
    rng = np.random.default_rng(0)
    times = np.zeros(len(kept))
    shared = [directions([records[k].measures[n].sketch for k in kept]) for n in names]
    for _ in range(_DRAWS):
        apart = rng.standard_normal((len(kept), len(names)))
        together = np.column_stack([pattern @ rng.standard_normal(WIDTH) for pattern in shared])
        drawn = values[kept] + spreads[kept] * np.where(np.isfinite(together), together, apart)
        times += non_dominated(drawn + own * rng.standard_normal(drawn.shape) if own.any() else drawn)
    shares = dict(zip(kept.tolist(), (times / _DRAWS).tolist()))
    return {records[k].genome_id: shares[k] for k in front.tolist()}
