"""Gaussian-process regression, small and deterministic.

n points, k new ones, d inputs, g groups of inputs
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

_JITTER = 1e-8
_STEPS = 20  # of L-BFGS; more move the predictions little
_FITTED = 128  # points, at most, that the hyperparameters are fitted to: the cost grows with the cube


class _Assumed(NamedTuple):
    """Of the additive part and of the noise beside it; sizes are standard deviations, that of the outputs being 1."""

    length: float  # scale of the kernels
    size: float  # logarithm of that of all groups together, expected
    spread: float  # of the prior of the logarithms of sizes; that of all else is 1
    noise: float  # logarithm of its size, expected


# A short scale with sizes that may fall to nothing fits what long scales took for noise.
_EACH, _SHARED = _Assumed(0.25, -0.5, 2.0, -3.0), _Assumed(0.7, -1.0, 1.0, -2.0)


class Across(NamedTuple):
    """New points beside those of ``Inputs``: themselves, centred (k, d), and kernels on each group alone (g, k, n), or
    the mean of these (1, k, n)."""

    x: np.ndarray
    additive: np.ndarray


class Inputs:
    """Points that Gaussian processes are fitted to, and the kernels on each group of inputs alone, which hold nothing
    that is fitted: computed once for all processes of these points.

    Args:
        x: (n, d) inputs, about in [0, 1].
        groups: (d,) group of each input, numbered from 0.
        shared: one size in the additive part for all groups.
    """

    def __init__(self, x: np.ndarray, groups: Sequence[int], shared: bool = False) -> None:
        self.groups, self.shared = np.asarray(groups, dtype=int), shared
        self.count = int(self.groups.max()) + 1
        self._columns = [np.flatnonzero(self.groups == g) for g in range(self.count)]
        self._centre = x.mean(axis=0)
        self.x = x - self._centre
        self.assumed = _SHARED if shared else _EACH
        self.additive = self._additive(self.x)

    def across(self, x: np.ndarray) -> Across:
        """What processes of these points need of others (k, d)."""
        x = x - self._centre
        return Across(x, self._additive(x))

    def _additive(self, x: np.ndarray) -> np.ndarray:
        """The kernels on each group alone (g, len(x), n), or, where they share one size, their mean (1, len(x), n);
        1 for equal points."""
        out = np.empty((self.count, len(x), len(self.x)))
        for kernel, columns in zip(out, self._columns):
            if len(columns) == 1:
                apart = np.abs(np.subtract.outer(x[:, columns[0]], self.x[:, columns[0]]))
            else:
                apart = _distances(x[:, columns], self.x[:, columns])
            kernel[:] = _matern(apart / self.assumed.length)
        return out.mean(axis=0, keepdims=True) if self.shared else out


class GaussianProcess:
    """Matern 5/2 kernel with one length scale per group of inputs, the sum of a kernel for each group alone, a linear
    kernel for the trend, and noise.

    The additive part (Duvenaud et al. 2011, "Additive Gaussian processes") carries what a group does whatever the
    others are: a few dozen points tell it, where the product over all groups has hardly two points close together.
    Each group has a size of its own there, as some do nothing and one may do nearly all; or all share one, and a longer
    length scale, where points are too few to tell the groups apart.

    Hyperparameters maximise the marginal likelihood (Rasmussen and Williams 2006, eq. 5.8) with log-normal priors; the
    length scale expected beforehand grows with the square root of the number of groups (Hvarfner et al. 2024, "Vanilla
    Bayesian optimization performs great in high dimensions"). Same data, same result.

    Args:
        inputs: the points; also an attribute, as it takes new ones across.
        y: (n,) their outputs, on any scale.

    Attributes: ``evidence``, the logarithm of the density of ``y`` at its hyperparameters and their own
    prior, up to a constant: higher for the better of two ways of asking, the same inputs.
    """

    def __init__(self, inputs: Inputs, y: np.ndarray) -> None:
        self.inputs = inputs
        self._mean, self._scale = float(y.mean()), float(y.std()) or 1.0
        self._y = (y - self._mean) / self._scale
        assumed, count, sizes = inputs.assumed, inputs.count, len(inputs.additive)
        length, size = 0.5 * math.log(count) - 0.7, assumed.size - 0.5 * math.log(sizes)
        # log of: length scales, sizes of the Matern part, of the trend, of the noise, of the additive part
        self._prior = np.array([length] * count + [0.0, -1.0, assumed.noise] + [size] * sizes)
        self._spread = np.array([1.0] * (count + 3) + [assumed.spread] * sizes)
        bounds = list(zip(self._prior - 4.0 * self._spread, self._prior + 4.0 * self._spread))
        some = np.unique(np.linspace(0, len(y) - 1, min(len(y), _FITTED)).round().astype(int))
        found = minimize(
            self._loss,
            self._prior,
            args=(inputs.x[some], self._y[some], inputs.additive[np.ix_(range(sizes), some, some)]),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": _STEPS},
        )
        self._theta = found.x
        self.evidence = -float(found.fun) - len(some) * math.log(self._scale)
        self._settle()

    def _parts(self, theta: np.ndarray):
        count = self.inputs.count
        lengths = np.exp(theta[:count])[self.inputs.groups]
        sizes = np.exp(2 * theta[count:])
        return lengths, *sizes[:3], sizes[3:]

    def _kernel(self, x: np.ndarray, additive: np.ndarray) -> np.ndarray:
        """Between these (k, d), centred, and the points that it is fitted to: (k, n)."""
        lengths, matern, trend, _, alone = self._parts(self._theta)
        known = self.inputs.x
        together = matern * _matern(_distances(x / lengths, known / lengths))
        return together + trend * (x @ known.T) + np.tensordot(alone, additive, axes=1)

    def _loss(self, theta: np.ndarray, x: np.ndarray, y: np.ndarray, additive: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative log posterior of the hyperparameters and its gradient."""
        lengths, matern, trend, noise, alone = self._parts(theta)
        z = x / lengths
        r = math.sqrt(5) * _distances(z, z)
        decay = np.exp(-r)
        k_matern = matern * (1 + r + r**2 / 3) * decay
        k_trend, k_alone = trend * (x @ x.T), np.tensordot(alone, additive, axes=1)
        n = len(y)
        try:
            factor = cho_factor(k_matern + k_trend + k_alone + (noise + _JITTER) * np.eye(n), lower=True)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(theta)
        alpha = cho_solve(factor, y)
        inverse = cho_solve(factor, np.eye(n))
        away = (theta - self._prior) / self._spread
        value = 0.5 * y @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
        w = np.outer(alpha, alpha) - inverse  # dL/dK is half of it
        m = w * (matern * 5 / 3) * (1 + r) * decay
        # The sum over pairs of m times the squared difference of one scaled input, for all inputs at once.
        per_input = m.sum(axis=1) @ z**2 - np.einsum("id,id->d", z, m @ z)
        gradient = np.concatenate(
            [
                np.bincount(self.inputs.groups, weights=per_input, minlength=self.inputs.count),
                [(w * k_matern).sum(), (w * k_trend).sum(), noise * np.trace(w)],
                alone * np.tensordot(additive, w),
            ]
        )
        return value, -gradient + away / self._spread

    def _settle(self) -> None:
        *_, noise, _ = self._parts(self._theta)
        k = self._kernel(self.inputs.x, self.inputs.additive) + (noise + _JITTER) * np.eye(len(self._y))
        self._factor = cho_factor(k, lower=True)
        self._alpha = cho_solve(self._factor, self._y)

    def predict(self, across: Across) -> tuple[np.ndarray, np.ndarray]:
        """Mean (k,) and standard deviation (k,), without the noise, at what is ``across`` from its inputs."""
        kernel = self._kernel(*across)
        _, matern, trend, _, alone = self._parts(self._theta)
        v = solve_triangular(self._factor[0], kernel.T, lower=True)
        own = matern + alone.sum() + trend * (across.x**2).sum(axis=1) - (v**2).sum(axis=0)
        mean = kernel @ self._alpha
        return self._mean + self._scale * mean, self._scale * np.sqrt(np.maximum(own, 1e-12))

    def left_out(self, rows: np.ndarray) -> np.ndarray:
        """What the other points alone say of the points ``rows``, all of these left out together (hyperparameters as
        they are): mean (len(rows),)."""
        return self.left_out_and_spread(rows)[0]

    def left_out_and_spread(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and its standard deviation (len(rows),), noise and all."""
        inverse = cho_solve(self._factor, np.eye(len(self._y)))[np.ix_(rows, rows)]
        off = np.linalg.solve(inverse, self._alpha[rows])
        std = np.sqrt(np.diag(np.linalg.inv(inverse)))
        return self._mean + self._scale * (self._y[rows] - off), self._scale * std

    def each_left_out(self) -> np.ndarray:
        """What the others say of each point, mean (n,) (Rasmussen and Williams 2006, eq. 5.12)."""
        inverse = cho_solve(self._factor, np.eye(len(self._y)))
        return self._mean + self._scale * (self._y - self._alpha / np.diag(inverse))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = a @ (-2 * b.T)
    squared += (a**2).sum(axis=1)[:, None]
    squared += (b**2).sum(axis=1)[None]
    np.maximum(squared, 0.0, out=squared)
    return np.sqrt(squared, out=squared)


def _matern(distances: np.ndarray) -> np.ndarray:
    r = math.sqrt(5) * distances
    out = r * r / 3  # in place from here on: there is one for every group
    out += r
    out += 1
    np.negative(r, out=r)
    out *= np.exp(r, out=r)
    return out
