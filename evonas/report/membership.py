"""With what probability each genome stays on the front, given how well its objectives are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..evolution.selection import non_dominated
from ..evolution.ties import weighed
from ..record import Constraint, Measure, total_violation
from ..sketch import WIDTH, directions
from .compare import Comparison, measurement

_DRAWS = 500
_BEYOND = 4.0  # spreads: what would have to be off by more than so many, as the front would, never dominates it


def front_probabilities(comparison: Comparison, noise: Mapping[str, float] | None = None) -> dict[str, float]:
    """Genome id -> share of draws in which it meets the constraints and nothing that does dominates it, of every genome
    on the front.

    A draw takes each objective of each genome from a normal distribution around the stored value with its spread, as
    ``weighed`` (exact ones stay). What errors have in common is drawn in common: those of losses on the same held-out
    text (see ``evonas.sketch``), and that of a latency, which genomes of one architecture share. ``noise`` holds what
    else an objective varies by, apart for every genome: what another seed would change.
    """
    front = np.flatnonzero(comparison.front)
    if not len(front):
        return {}
    records, objectives = comparison.records, len(comparison.names)
    # What is only constrained, and known of all, is drawn beside the objectives.
    only = [c.name for c in comparison.constraints if all(c.name in r.measures for r in records)]
    names = tuple(dict.fromkeys((*comparison.names, *only)))
    values = np.array([[r.measures[n].value for n in names] for r in records])
    signs = np.array([-1.0 if d == "max" else 1.0 for d in comparison.directions])
    spreads = np.array([[r.measures[n].spread for n in names] for r in weighed(records)])
    spreads = np.where(np.isfinite(spreads) & (spreads > 0), spreads, 0.0)
    own = np.array([(noise or {}).get(n, 0.0) for n in names])
    bounds = [(names.index(c.name), c) for c in comparison.constraints if c.name in names]
    beyond = _BEYOND * np.hypot(spreads, own)
    goals, doubt = values[:, :objectives] * signs, beyond[:, :objectives]
    # Of what is not known of all, it counts whether it is met.
    others = tuple(c for c in comparison.constraints if c.name not in names)
    may_meet = np.array([total_violation(others, r) == 0 for r in records]) & _meet(values, bounds, beyond)
    rivals = np.zeros(len(values), dtype=bool)
    for row in (goals + doubt)[front]:
        rivals |= (goals - doubt <= row).all(axis=1)
    kept = np.flatnonzero(rivals & (comparison.feasible | may_meet))
    rng = np.random.default_rng(0)
    times = np.zeros(len(kept))
    groups = [_one_measurement([records[k].measures[n] for k in kept]) for n in names]
    shared = [directions([records[k].measures[n].sketch for k in kept]) for n in names]
    for _ in range(_DRAWS):
        apart = np.column_stack([rng.standard_normal(len(kept))[group] for group in groups])
        together = np.column_stack([pattern @ rng.standard_normal(WIDTH) for pattern in shared])
        drawn = values[kept] + spreads[kept] * np.where(np.isfinite(together), together, apart)
        drawn += own * rng.standard_normal(drawn.shape) if own.any() else 0.0
        met = np.flatnonzero(_meet(drawn, bounds))
        times[met] += non_dominated(drawn[met, :objectives] * signs)
    shares = dict(zip(kept.tolist(), (times / _DRAWS).tolist()))
    return {records[k].genome_id: shares[k] for k in front.tolist()}


def _meet(values: np.ndarray, bounds: Sequence[tuple[int, Constraint]], slack: np.ndarray | None = None) -> np.ndarray:
    """Mask (n,) of the rows whose columns are within all bounds, or no more than ``slack`` (n, m) outside."""
    met = np.ones(len(values), dtype=bool)
    for column, constraint in bounds:
        by = 0.0 if slack is None else slack[:, column]
        inside = values[:, column] - by <= constraint.bound
        met &= inside if constraint.op == "<=" else values[:, column] + by >= constraint.bound
    return met


def _one_measurement(measures: Sequence[Measure]) -> np.ndarray:
    """For each the place of the first that is the same measurement."""
    first: dict[object, int] = {}
    keys = [measurement(m) or k for k, m in enumerate(measures)]
    return np.array([first.setdefault(key, k) for k, key in enumerate(keys)], dtype=int)
