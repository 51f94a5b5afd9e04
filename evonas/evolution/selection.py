"""Pareto ranks, crowding and hypervolume on arrays; everything is minimised."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import moocore


def minimised(values: np.ndarray, directions: Sequence[str]) -> np.ndarray:
    """``values`` (n, m) with the columns whose direction is "max" negated."""
    signs = np.array([-1.0 if d == "max" else 1.0 for d in directions])
    return np.asarray(values, dtype=float).reshape(-1, len(signs)) * signs


def dominates(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mask (...) of the rows of ``a`` (..., m) that dominate those of ``b``; either may be a single row (m,)."""
    return (a <= b).all(axis=-1) & (a < b).any(axis=-1)


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Mask (n,) of the rows of ``points`` (n, m) that no other row dominates; equal rows are all kept."""
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    return moocore.is_nondominated(points, keep_weakly=True)


def pareto_rank(points: np.ndarray) -> np.ndarray:
    """Rank (n,) of each row of ``points`` (n, m): 0 is the non-dominated front, 1 the front without it, ..."""
    if len(points) == 0:
        return np.zeros(0, dtype=int)
    return np.asarray(moocore.pareto_rank(points), dtype=int)


def crowding_distance(points: np.ndarray) -> np.ndarray:
    """Crowding distance (n,) of the rows of one front (n, m), infinite at its ends (Deb et al. 2002, NSGA-II)."""
    n, m = points.shape
    distance = np.zeros(n)
    for j in range(m):
        order = np.argsort(points[:, j], kind="stable")
        column = points[order, j]
        distance[order[0]] = distance[order[-1]] = np.inf
        extent = column[-1] - column[0]
        if extent > 0 and n > 2:
            distance[order[1:-1]] += (column[2:] - column[:-2]) / (m * extent)
    return distance


def crowding_by_rank(points: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Crowding distance (n,) of each row within its own front."""
    distance = np.zeros(len(points))
    order = np.argsort(ranks, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(ranks[order])) + 1):
        if len(members):
            distance[members] = crowding_distance(points[members])
    return distance


def nsga2_order(points: np.ndarray, births: np.ndarray) -> np.ndarray:
    """Places (n,) of ``points`` (n, m), best first: by Pareto rank, then crowding distance (Deb et al. 2002), then
    ``births`` (n,)."""
    ranks = pareto_rank(points)
    return np.lexsort((births, -crowding_by_rank(points, ranks), ranks))


def hypervolume_contributions(points: np.ndarray, of: Sequence[int]) -> np.ndarray:
    """What each of the rows ``of`` a front (n, m) adds to the hypervolume of all others, in the box around them."""
    if not len(of):
        return np.zeros(0)
    box = hypervolume_box(points)
    return np.array([hypervolume_gain(np.delete(points, k, axis=0), points[k], *box) for k in of])


def hypervolume_gain(points: np.ndarray, point: np.ndarray, ideal: np.ndarray, reference: np.ndarray) -> float:
    """What ``point`` (m,) adds to the hypervolume of ``points`` (n, m): all it dominates less what of that they do, for
    which few of a large front matter (While et al. 2012, "A fast way of calculating exact hypervolumes")."""
    if (points <= point).all(axis=1).any():
        return 0.0
    within = np.maximum(points, point)
    shared = hypervolume(within[non_dominated(within)], ideal, reference)
    return max(hypervolume(point[None], ideal, reference) - shared, 0.0)


def most_gained(points: np.ndarray, new: np.ndarray, ideal: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """What no ``hypervolume_gain`` of the rows of ``new`` (k, m) exceeds (k,): all that each dominates less what it
    shares with the one of ``points`` (n, m) with which it shares most."""

    def dominated(values: np.ndarray) -> np.ndarray:
        return np.maximum(reference - values, 0.0) / (reference - ideal)

    alone = dominated(new).prod(axis=1)
    shared = np.ones((len(new), len(points)))
    for ours, theirs in zip(dominated(new).T, dominated(points).T):
        shared *= np.minimum.outer(ours, theirs)
    return alone - shared.max(axis=1, initial=0.0)


def hypervolume_box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ideal and reference point (m,) of a run, from its first population: the best of each objective, and
    the worst plus a tenth of the range. Fixed once so that hypervolumes of one run can be compared."""
    ideal, worst = points.min(axis=0), points.max(axis=0)
    extent = np.where(worst > ideal, worst - ideal, np.maximum(np.abs(worst), 1e-12))
    return ideal, worst + 0.1 * extent


def hypervolume(points: np.ndarray, ideal: np.ndarray, reference: np.ndarray) -> float:
    """Hypervolume dominated by ``points`` (n, m) up to ``reference``, in units of the box ``ideal..reference``:
    1 would be a single point at ``ideal``; a front beyond it counts for more than 1."""
    if len(points) == 0:
        return 0.0
    scaled = (points - ideal) / (reference - ideal)
    scaled = scaled[(scaled < 1.0).all(axis=1)]
    return float(moocore.hypervolume(scaled, ref=np.ones(points.shape[1]))) if len(scaled) else 0.0
