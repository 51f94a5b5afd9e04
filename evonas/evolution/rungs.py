"""Rungs: what a short training lets one expect of a longer one, and how many go on to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from ..genome import TRAITS, Genome, SearchSpace, traits

_ENOUGH, _MOST = 4, 200  # pairs from which a model is fitted, below it only the mean change counts; the last so many
_FOR_EACH = 50  # pairs from which every feature has a length scale of its own
_ONE_BY_ONE, _FOLDS = 40, 8  # pairs that are left out one by one; in how many parts more are
_REACH = -1.0, 2.0  # of inputs, where those known are from 0 to 1


class Fit(NamedTuple):
    """``change`` features (k, d) -> changes (k,); ``evidence`` as ``GaussianProcess`` has it, infinite where there was
    nothing to fit, and least where the changes are not finite."""

    change: Callable[[np.ndarray], np.ndarray]
    evidence: float


class Counted(NamedTuple):
    """``changes`` (n,) of the pairs from a ``share`` of the values below, and a model of them."""

    share: float
    changes: np.ndarray
    fit: Fit


def described(space: SearchSpace, genome: Genome) -> np.ndarray:
    """(d,): the ``traits`` of a genome, if it is a transformer, and its encoded genes; of what does not lie in the
    space those of the nearest that does."""
    genes = space.encode(genome, per_layer=False)
    return np.concatenate([traits(space.repair(genome)), genes]) if traits_in(space) else genes


def traits_in(space: SearchSpace) -> int:
    """How many numbers of a ``described`` genome are traits."""
    return TRAITS if space.kind == "transformer" else 0


class RungModel:
    """Expects the objectives of one rung at the next, from all individuals that have been at both.

    A short loss misleads in ways that the genes explain: high learning rates and small batches look good early, large
    networks and slow schedules gain later. So the change of each objective from rung to rung is a Gaussian process
    over the objectives so far and the genome; of logarithms where all values are positive, as a high loss has
    further to fall. Expected changes stay within those seen. Without pairs nothing changes; an objective that no rung
    changes (a time, a count) is expected as it is.

    Args:
        features: (n, d) of the individuals that have been at both rungs.
        below, above: (n, m) their objectives at the lower rung and at the upper one.
        alone: how many of the features, the first ones, have a length scale of their own in any case; None for all. The
            others share one below 50 pairs, which do not tell which of some thirty features matter.
        remains: shares of a value at the lower rung from which the change may be counted; the one under which the pairs
            are likeliest is taken. Of a short training's lead little is left after one twenty times as long.

    Attributes: ``pairs``, how many there are; ``groups`` (d,) of features with the same length scale.
    """

    def __init__(
        self,
        features: np.ndarray,
        below: np.ndarray,
        above: np.ndarray,
        alone: int | None = None,
        remains: Sequence[float] = (1.0,),
    ) -> None:
        self.pairs = len(below)
        d = features.shape[1]
        self.groups = np.minimum(np.arange(d), d if alone is None or self.pairs >= _FOR_EACH else alone)
        self._features, self._below, self._above = features, below, above
        self._logs = (below > 0).all(axis=0) & (above > 0).all(axis=0)
        self._remains = remains
        self._models = [self._counted(j, np.ones(self.pairs, dtype=bool)) for j in range(below.shape[1])]

    def _counted(self, j: int, those: np.ndarray) -> Counted:
        """An objective's changes, all of them, from the share under which ``those`` (n,) of the pairs are likeliest,
        and a model fitted to these."""
        below, above, tried = self._below[:, j], self._above[:, j], []
        for share in self._remains:
            changes = _change(below, above, self._logs[j], share)
            tried.append(Counted(share, changes, _fitted(self._features[those], changes[those], self.groups)))
        return max(tried, key=lambda counted: counted.fit.evidence)

    def expected(self, values: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Objectives (k, m) and features (k, d) at the lower rung -> objectives (k, m) expected at the upper one."""
        found = [(counted.share, counted.fit.change(features)) for counted in self._models]
        return np.stack([self._expected(j, values[:, j], *of) for j, of in enumerate(found)], axis=1)

    @np.errstate(over="ignore", invalid="ignore")  # a user's objectives may be of any size
    def _expected(self, j: int, values: np.ndarray, share: float, change: np.ndarray) -> np.ndarray:
        if not self._logs[j]:
            return np.nan_to_num(share * values + change)
        # What is not positive, where all pairs were, changes as they did in the mean.
        plain = values + _mean(self._above[:, j] - self._below[:, j])
        return np.nan_to_num(np.where(values > 0, values**share * np.exp(change), plain))

    @cached_property
    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """What is expected of each of the pairs by models of the others, and what it is to be ranked by: (n, m) each,
        NaN below three.

        What is left out of a mean moves it the other way: of objectives that say nothing, those expected are ranked
        against the true ones, not at random. So for ranking the mean change is that of all.
        """
        expected, ranked = np.full((2, *self._below.shape), np.nan)
        folds = self.pairs if self.pairs <= _ONE_BY_ONE else _FOLDS
        places = np.arange(self.pairs) % max(folds, 1)
        for j in range(len(self._models)):
            for fold in range(folds if self.pairs >= 3 else 0):
                there = places == fold
                share, change, fit = self._counted(j, ~there)
                found = fit.change(self._features[there])
                pushed = _mean(change) - _mean(change[~there])
                for out, changes in ((expected, found), (ranked, found + pushed)):
                    out[there, j] = self._expected(j, self._below[there, j], share, changes)
        return expected, ranked

    @property
    def error(self) -> np.ndarray:
        """(m,) root mean square of what ``left_out`` is off by; NaN below three pairs."""
        if not self.pairs:
            return np.full(len(self._models), np.nan)
        with np.errstate(over="ignore"):
            return np.nan_to_num(np.sqrt(np.square(self.left_out[0] - self._above).mean(axis=0)), nan=np.nan)


def unchanged(below: Sequence, above: Sequence) -> np.ndarray:
    """Mask (m,) of the columns that most rows (n, m) have alike at both rungs, which is what no rung changes: a few
    times may have been measured once more. None without rows."""
    same = np.equal(below, above)
    return same.mean(axis=0) > 0.5 if len(same) else np.zeros(same.shape[1:], dtype=bool)


@np.errstate(over="ignore", invalid="ignore")
def _fitted(features: np.ndarray, change: np.ndarray, groups: np.ndarray) -> Fit:
    """A model of the changes (n,): their mean where there are few or all are alike; none where most have none (see
    ``unchanged``)."""
    n, none = len(change), unchanged(change, np.zeros(len(change)))
    if n < _ENOUGH or none or change.min() == change.max() or not np.isfinite(change.std()):
        mean = 0.0 if none else _mean(change)
        return Fit(lambda features: np.full(len(features), mean), np.inf if np.isfinite(change).all() else -np.inf)
    from .gp import GaussianProcess, Inputs  # SciPy: half a second to import

    low, high = features.min(axis=0), features.max(axis=0)
    width = np.where(high > low, high - low, np.inf)  # what never varied says nothing
    alike = np.sqrt(np.bincount(groups)[groups])  # those that share a length scale count as one

    def scaled(features: np.ndarray) -> np.ndarray:
        return np.nan_to_num(np.clip((features - low) / width, *_REACH)) / alike

    # The matrices are small, and the cores have trainings to do. (Loaded above: a limit holds for what is there.)
    with threadpool_limits(limits=1):
        # (With sizes of their own a run's pairs were told no better.)
        model = GaussianProcess(Inputs(scaled(features), groups, shared=True), change)

    def predicted(features: np.ndarray) -> np.ndarray:
        # Row by row: sums over several at once are rounded by how many they are, and a resumed run asks for others.
        with threadpool_limits(limits=1):
            found = [model.predict(model.inputs.across(row[None]))[0][0] for row in scaled(features)]
        return np.clip(found, change.min(), change.max())

    return Fit(predicted, model.evidence)


def _mean(changes: np.ndarray) -> float:
    return float((changes / max(len(changes), 1)).sum())  # a sum first might be beyond all bounds


def _change(below: np.ndarray, above: np.ndarray, logs: bool, remains: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.log(above) - remains * np.log(below) if logs else above - remains * below


class Ladder:
    """The expectations of all rungs together.

    Args:
        told: (objectives rung by rung, genome as ``described``) of every individual that has gone beyond rung 0.
        rungs: how many rungs there are.
        m: number of objectives.
        traits: how many numbers of a genome are its traits; see ``traits_in``.
    """

    def __init__(
        self, told: Sequence[tuple[Sequence[Sequence[float]], np.ndarray]], rungs: int, m: int, traits: int = 0
    ) -> None:
        self.m = m
        self.models: list[RungModel] = []
        width = m + (len(told[0][1]) if told else 0)
        for rung in range(rungs - 1):
            both = [(t, genome) for t, genome in told if len(t) > rung + 1][-_MOST:]
            features = np.array([self._features(t[: rung + 1], genome) for t, genome in both])
            values = [np.array([t[r] for t, _ in both], dtype=float).reshape(-1, m) for r in (rung, rung + 1)]
            extra = m if rung else 0
            alone = m + extra + traits if traits else None
            self.models.append(RungModel(features.reshape(-1, width + extra), *values, alone))

    @staticmethod
    def _features(told: Sequence[Sequence[float]], genome: np.ndarray) -> np.ndarray:
        """The last objectives, how they changed from the rung before (what still falls goes on falling), the genome."""
        steps = [np.subtract(told[-1], told[-2])] if len(told) > 1 else []
        return np.concatenate([np.asarray(told[-1], dtype=float), *steps, genome])

    def expected(
        self, told: Sequence[Sequence[Sequence[float]]], genomes: Sequence[np.ndarray]
    ) -> list[tuple[float, ...]]:
        """The objectives at the last rung of each individual that was ``told`` these so far; of one that is there, what
        was told."""
        rows = [[tuple(row) for row in rung_by_rung] for rung_by_rung in told]
        for rung, model in enumerate(self.models):
            here = [k for k, row in enumerate(rows) if len(row) == rung + 1]
            found = [rows[k][-1] for k in here]
            if here and model.pairs:
                features = np.array([self._features(rows[k], genomes[k]) for k in here])
                found = [tuple(row) for row in model.expected(np.array(found, dtype=float), features).tolist()]
            for k, row in zip(here, found):
                rows[k].append(row)
        return [row[-1] for row in rows]

    def error(self, rung: int) -> np.ndarray:
        """Standard error (m,) of ``expected`` from ``rung`` on, the models' errors taken as independent; 0 at the last
        rung, NaN where too few individuals have been at both."""
        return np.sqrt(sum((model.error**2 for model in self.models[rung:]), np.zeros(self.m)))


def due(rung: int, born: int, reduction: int) -> int:
    """How many candidates should have gone on to ``rung`` when ``born`` have been told.

    Successive halving as in ASHA (Li et al. 2020), spread over the generations: one in ``reduction ** rung`` goes on.
    """
    return born // reduction**rung
