"""A surrogate: what is expected of a genome that was never tried, and how well that has come true so far.

n points, k genomes, d inputs, m objectives
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import numpy as np

from ..genome import Genome, SearchSpace
from .fitness import Individual
from .gp import GaussianProcess, Inputs
from .rungs import unchanged

MAX_POINTS = 300  # that a model is fitted to
_REMEMBERED = 5_000  # genomes of which is kept what is known
_JUDGED = 24  # of the latest individuals, by which it is judged
_FEWEST_PRICES = 8
_NEAR = 0.1  # quantile of the violations, as far beyond the limit as those that break nothing are before it
_FAR = 100.0  # times that
_WARP = 4.0  # medians, added to positive values before their logarithm is taken


class Features:
    """Genomes as inputs: scalar genes as they are, a per-layer field as its mean over layers and the deviations from
    it, what is known of a genome without evaluating it (FLOPs, say) as logarithms. Every field is a group."""

    def __init__(self, space: SearchSpace, known: Callable[[Genome], Mapping[str, float]] | None) -> None:
        self._coder, self._known = space.coder, known
        self._found: dict[str, dict[str, float]] = {}
        self.groups = self._layout(space)

    def _layout(self, space: SearchSpace) -> list[int]:
        groups, group = [], -1
        for gene in space.genes.values():
            width = 1 if gene.is_ordered else len(gene.options)
            group += 1
            groups += [group] * width
            if gene.per_layer:
                group += 1
                groups += [group] * (width * space.max_layers)
        return groups

    def of(self, genomes: Sequence[Genome]) -> np.ndarray:
        """Inputs (k, d)."""
        scalars, fields = self._coder.inputs(self._coder.of(genomes))
        parts = [scalars]
        for rows in fields:
            mean = rows.mean(axis=1)
            parts += [mean, ((rows - mean[:, None]) / math.sqrt(rows.shape[1])).reshape(len(genomes), -1)]
        return np.hstack(parts)

    def known(self, genome: Genome) -> dict[str, float]:
        if genome.id not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            found = dict(self._known(genome)) if self._known is not None else {}
            self._found[genome.id] = {
                name: float(v) for name, v in found.items() if isinstance(v, Real) and math.isfinite(v)
            }
        return self._found[genome.id]


class Surrogate:
    """One Gaussian process per value that is not known beforehand, fitted to what was told.

    Results of lower rungs are points of their own, the rung being one more input. ``skill`` is Kendall's tau between
    what was told lately and what the model says with all of that left out, of the objective it knows least about; 0
    where there is too little to say. ``coverage`` is the share of it within one standard deviation of what the model
    says, likewise; 0.68 where its uncertainty is right, None where there is too little to say or nothing unknown. A
    value that was the same for all is taken to stay so. ``limits`` holds the ids of the genomes from which violations
    were learned.

    Args:
        individuals: told ones. Where they have more than MAX_POINTS results, the oldest of the first rung are left out.
        names: of the objectives, in order, then of what is ``watched``.
        rungs: how many there are.
        watched: how many of the names, the last ones, are of values that only constraints look at.
        violations: genome -> by how much it breaks constraints that no value tells of, be it one of the individuals or
            one without values; individuals that it does not name break none.
    """

    def __init__(
        self,
        features: Features,
        individuals: Sequence[Individual],
        names: Sequence[str],
        rungs: int,
        watched: int = 0,
        violations: Mapping[Genome, float] | None = None,
    ) -> None:
        self._features, self._names, self._rungs = features, names, rungs
        self._objectives = len(names) - watched
        chosen = self._individuals = sorted(individuals, key=lambda i: i.index)
        self._range = self._known_range(chosen)
        self._models: dict[int, tuple[GaussianProcess, _Warp, bool]] = {}
        self._over: dict[bool, Inputs] = {}  # with the rung as one more input or without
        self._exact: list[int] = []
        self._constant: dict[int, float] = {}
        skills, covered = [], []
        climbed = [i.told for i in chosen if len(i.told) > 1]
        same = unchanged([told[0] for told in climbed], [told[-1] for told in climbed])
        for j, name in enumerate(names):
            if all(name in features.known(i.genome) for i in chosen):
                self._exact.append(j)
                continue
            changes = bool(climbed) and not same[j]
            points = _points(chosen, changes)
            y = np.array([i.told[r][j] for i, r in points])
            with np.errstate(over="ignore", invalid="ignore"):
                spread = y.std()
            if not (np.isfinite(spread) and np.ptp(y)):  # all alike, or too far apart for the model's numbers
                self._constant[j] = float(np.sort(y)[len(y) // 2])
                skills += [] if np.isfinite(spread) or j >= self._objectives else [0.0]
                continue
            warp = _Warp(y)
            if changes not in self._over:
                x = self._inputs([i.genome for i, _ in points], [r for _, r in points] if changes else None)
                self._over[changes] = Inputs(x, self._groups(changes))
            model = GaussianProcess(self._over[changes], warp.heights)
            self._models[j] = model, warp, changes
            if j < self._objectives:
                skill, coverage = _judged(model, points, warp.heights)
                skills.append(skill)
                covered += [] if coverage is None else [coverage]
        self._breaking, self.limits = self._broken_by(violations) if violations else (None, frozenset())
        ranked = [skill for skill in skills if skill is not None]
        unknown = skills or any(j < self._objectives for j in self._constant)
        self.skill = min(ranked, default=0.0 if unknown else 1.0)
        self.coverage = min(covered, default=None)

    def _broken_by(self, violations: Mapping[Genome, float]) -> tuple[_Breaking | None, frozenset[str]]:
        """A model of the violations of the individuals and of those without values, and whom it knows."""
        told = [i.genome for i in self._individuals]
        others = set(violations).difference(told)
        others = [g for g in others if all(self._features.known(g).get(name, 0.0) > 0 for name in self._range)]
        genomes = [*told[-MAX_POINTS:], *sorted(others, key=lambda genome: genome.id)]
        y = np.array([violations.get(genome, 0.0) for genome in genomes])
        model = _Breaking.fitted(self._inputs(genomes, None), y, self._groups(False))
        return model, frozenset(genome.id for genome in genomes if model is not None)

    def violations(self, genomes: Sequence[Genome]) -> np.ndarray:
        """By how much each is expected to break constraints that no value tells of (k,); below 0 where it breaks none,
        the further the surer."""
        return np.zeros(len(genomes)) if self._breaking is None else self._breaking.of(self._inputs(genomes, None))

    def _known_range(self, individuals: Sequence[Individual]) -> dict[str, tuple[float, float]]:
        """Of each known value that all have and that is positive: logarithms of the least and the most."""
        rows = [self._features.known(i.genome) for i in individuals]
        names = [n for n in rows[0] if all(row.get(n, 0.0) > 0 for row in rows)]
        logs = {n: [math.log(row[n]) for row in rows] for n in names}
        return {n: (min(v), max(v)) for n, v in logs.items() if max(v) > min(v)}

    def _groups(self, rung: bool) -> list[int]:
        groups = list(self._features.groups)
        for _ in range(len(self._range) + rung):
            groups.append(groups[-1] + 1)
        return groups

    def _inputs(self, genomes: Sequence[Genome], rungs: Sequence[int] | None) -> np.ndarray:
        columns = [self._features.of(genomes)]
        for name, (low, high) in self._range.items():
            values = [math.log(max(self._features.known(genome).get(name, 0.0), 1e-300)) for genome in genomes]
            columns.append((np.array(values)[:, None] - low) / (high - low))
        if rungs is not None:
            columns.append(np.array(rungs, dtype=float)[:, None] / max(self._rungs - 1, 1))
        return np.hstack(columns)

    def prices(self, genomes: Sequence[Genome], known: Mapping[str, float]) -> np.ndarray:
        """What evaluations of these genomes (k,) are expected to take, beside a typical one, from what those of some of
        its individuals took (genome id -> price); all alike where too few are known."""
        paid = [(i.genome, known[i.genome.id]) for i in self._individuals if known.get(i.genome.id, 0.0) > 0]
        if len(paid) < _FEWEST_PRICES:
            return np.ones(len(genomes))
        told, prices = zip(*paid[-MAX_POINTS:])
        logs = np.log(prices)
        model = GaussianProcess(Inputs(self._inputs(told, None), self._groups(False), shared=True), logs)
        return np.exp(model.predict(model.inputs.across(self._inputs(genomes, None)))[0] - np.median(logs))

    def tells_of(self, genome: Genome) -> bool:
        """Whether all that is taken as known is known of this genome."""
        known = self._features.known(genome)
        return all(self._names[j] in known for j in self._exact)

    def predict(self, genomes: Sequence[Genome]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (k, names) of the values at the last rung; known ones are exact.
        Of genomes that it ``tells_of`` only."""
        mean, std = np.zeros((len(genomes), len(self._names))), np.zeros((len(genomes), len(self._names)))
        for j in self._exact:
            mean[:, j] = [self._features.known(genome)[self._names[j]] for genome in genomes]
        for j, value in self._constant.items():
            mean[:, j] = value
        last = [self._rungs - 1] * len(genomes)
        across = {
            changes: inputs.across(self._inputs(genomes, last if changes else None))
            for changes, inputs in self._over.items()
        }
        for j, (model, warp, changes) in self._models.items():
            mean[:, j], std[:, j] = warp.back(*model.predict(across[changes]))
            if j >= self._objectives:  # constraints may not take just any number
                mean[:, j] = np.clip(mean[:, j], *warp.seen)
        return mean, std


def _points(individuals: Sequence[Individual], all_rungs: bool) -> list[tuple[Individual, int]]:
    """Results that a model is fitted to, (whose, at which rung), MAX_POINTS at most: those of the first rung, and those
    of the others where these are results of their own."""
    further = [(i, r) for i in individuals for r in range(1, len(i.told) if all_rungs else 1)][-MAX_POINTS // 2 :]
    return [(i, 0) for i in individuals][len(further) - MAX_POINTS :] + further


class _Warp:
    """The scale on which values (n,) are modelled. Of positive ones it is the logarithm, some medians added before:
    what is far above comes closer, as a few outliers would bend the model everywhere, and the others stay as far apart
    as they are, which is how they count in a hypervolume (of those near 0 the logarithm alone goes to any length)."""

    def __init__(self, y: np.ndarray) -> None:
        self.seen = float(y.min()), float(y.max())
        self._shift = _WARP * float(np.median(y)) if y.min() > 0 else None
        self.heights = self.of(y)  # of the values themselves
        self._most = float(self.heights.max() + np.ptp(self.heights))  # an exponential of more might have no number

    def of(self, y: np.ndarray) -> np.ndarray:
        return y if self._shift is None else np.log(y + self._shift)

    def back(self, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the values, the latter towards the small ones."""
        if self._shift is None:
            return mean, std
        raw = np.exp(np.minimum(mean, self._most))
        return raw - self._shift, -raw * np.expm1(-std)


class _Breaking:
    """A Gaussian process of violations. Those that break nothing count as far before the limit as those are beyond it
    that come close, so that it is expected about halfway; and what is very far beyond counts as no more than far, or it
    would hide all others."""

    def __init__(self, model: GaussianProcess, near: float) -> None:
        self._model, self._near = model, near

    @classmethod
    def fitted(cls, x: np.ndarray, violations: np.ndarray, groups: Sequence[int]) -> _Breaking | None:
        """None where none (n,) is broken, or all are as much."""
        broken = violations > 0
        if not broken.any() or not np.ptp(violations):
            return None
        near = min(float(np.quantile(violations[broken], _NEAR)), 1e300)
        heights = np.where(broken, np.minimum(violations / near, _FAR), -1.0)
        return cls(GaussianProcess(Inputs(x, groups), heights), near)

    def of(self, x: np.ndarray) -> np.ndarray:
        return self._near * np.clip(self._model.predict(self._model.inputs.across(x))[0], -_FAR, _FAR)


def _judged(
    model: GaussianProcess, points: Sequence[tuple[Individual, int]], y: np.ndarray
) -> tuple[float | None, float | None]:
    """How well the latest individuals are ranked at the first rung by a model that has none of their results, None
    where they are all alike; and which share of these lies within one standard deviation of what it says, None where
    they are too few."""
    latest = sorted({i.index for i, _ in points})[-_JUDGED:]
    if len(latest) < 8 or len(latest) > len(points) // 2:
        latest = latest[-max(len(points) // 3, 1) :]
    indices = set(latest)
    rows = np.array([k for k, (i, _) in enumerate(points) if i.index in indices])
    first = np.array([points[k][1] == 0 for k in rows])
    if first.sum() < 4:
        return 0.0, None
    found, std = (values[first] for values in model.left_out_and_spread(rows))
    told = y[rows][first]
    coverage = float((np.abs(found - told) <= std).mean())
    if not np.ptp(told):
        return None, coverage
    from scipy.stats import kendalltau  # a second to import

    tau = float(kendalltau(found, told).statistic)
    return (tau if math.isfinite(tau) else 0.0), coverage
