"""Rungs: what a short training lets one expect of a longer one, and how many go on to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)  # of the ridge, in pairs
_ENOUGH = 4  # pairs from which slopes are fitted; below it only the mean change counts


class RungModel:
    """Expects the objectives of one rung at the next, from all individuals that have been at both.

    A short loss misleads in ways that the genes explain: high learning rates and small batches look good early, large
    networks and slow schedules gain later. So the change of each objective from rung to rung is a ridge regression
    (Hoerl and Kennard 1970) on the objectives so far and the encoded genes, its penalty and its error by
    leave-one-out (PRESS, Allen 1974). Expected changes stay within those seen. Without pairs nothing changes; an
    objective that no rung changes (a time, a count) is expected as it is.

    Args:
        features: (n, d) of the individuals that have been at both rungs.
        change: (n, m) their objectives at the upper rung less those at the lower one.
    """

    def __init__(self, features: np.ndarray, change: np.ndarray) -> None:
        n, m = change.shape
        self.pairs = n
        self.error = np.full(m, np.nan)  # (m,) root mean square, of pairs left out; unknown below three
        self._least, self._most = (change.min(axis=0), change.max(axis=0)) if n else (np.zeros(m), np.zeros(m))
        self._mean = change.mean(axis=0) if n else np.zeros(m)
        self._slopes = np.zeros((features.shape[1], m))
        self._centre, self._scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
        if n >= 3:
            self.error = change.std(axis=0) * n / (n - 1)  # of the mean of the others
        if n >= _ENOUGH and self._most.tolist() != self._least.tolist():
            self._fit(features, change)

    def _fit(self, features: np.ndarray, change: np.ndarray) -> None:
        n = len(features)
        self._centre = features.mean(axis=0)
        spread = features.std(axis=0)
        self._scale = np.where(spread > 1e-12, spread, np.inf)  # what never varied says nothing
        u, s, vt = np.linalg.svd((features - self._centre) / self._scale, full_matrices=False)
        target = change - self._mean
        projected = u.T @ target
        for penalty in _PENALTIES:
            shrunk = s / (s**2 + penalty)
            leverage = ((u**2) * (s * shrunk)).sum(axis=1) + 1 / n
            left_out = (target - u @ ((s * shrunk)[:, None] * projected)) / np.maximum(1 - leverage, 1e-6)[:, None]
            error = np.sqrt((left_out**2).mean(axis=0))
            better = error < self.error  # every objective has its own penalty, infinite unless one helps
            self.error = np.where(better, error, self.error)
            self._slopes = np.where(better, vt.T @ (shrunk[:, None] * projected), self._slopes)

    def expected(self, values: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Objectives (n, m) and features (n, d) at the lower rung -> objectives (n, m) expected at the upper one."""
        change = self._mean + (features - self._centre) / self._scale @ self._slopes
        return values + np.clip(change, self._least, self._most)


class Ladder:
    """The expectations of all rungs together.

    Args:
        told: (objectives rung by rung, encoded genes) of every individual that has gone beyond rung 0.
        rungs: how many rungs there are.
        m: number of objectives.
    """

    def __init__(self, told: Sequence[tuple[Sequence[Sequence[float]], np.ndarray]], rungs: int, m: int) -> None:
        self.m = m
        self.models: list[RungModel] = []
        width = m + (len(told[0][1]) if told else 0)
        for rung in range(rungs - 1):
            both = [(t, genes) for t, genes in told if len(t) > rung + 1]
            features = np.array([self._features(t[: rung + 1], genes) for t, genes in both])
            change = np.array([np.subtract(t[rung + 1], t[rung]) for t, _ in both])
            extra = m if rung else 0
            self.models.append(RungModel(features.reshape(-1, width + extra), change.reshape(-1, m)))

    @staticmethod
    def _features(told: Sequence[Sequence[float]], genes: np.ndarray) -> np.ndarray:
        """The last objectives, how they changed from the rung before (what still falls goes on falling), the genes."""
        steps = [np.subtract(told[-1], told[-2])] if len(told) > 1 else []
        return np.concatenate([np.asarray(told[-1], dtype=float), *steps, genes])

    def expected(self, told: Sequence[Sequence[float]], genes: np.ndarray) -> tuple[float, ...]:
        """The objectives at the last rung of an individual that was ``told`` these so far; at the last one they are
        what was told."""
        rows = [tuple(row) for row in told]
        for model in self.models[len(told) - 1 :]:
            if model.pairs:
                features = self._features(rows, genes)[None]
                rows.append(tuple(model.expected(np.array([rows[-1]], dtype=float), features)[0].tolist()))
            else:
                rows.append(rows[-1])
        return rows[-1]

    def error(self, rung: int) -> np.ndarray:
        """Standard error (m,) of ``expected`` from ``rung`` on, the models' errors taken as independent; 0 at the last
        rung, NaN where too few individuals have been at both."""
        return np.sqrt(sum((model.error**2 for model in self.models[rung:]), np.zeros(self.m)))


def due(rung: int, born: int, reduction: int) -> int:
    """How many candidates should have gone on to ``rung`` when ``born`` have been told.

    Successive halving as in ASHA (Li et al. 2020), spread over the generations: one in ``reduction ** rung`` goes on.
    """
    return born // reduction**rung
