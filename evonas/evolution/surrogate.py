"""A surrogate: what is expected of a genome that was never tried, and how well that has come true so far.

n points, k genomes, d inputs, m objectives
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np

from ..genome import Genome, SearchSpace
from .fitness import Individual
from .gp import GaussianProcess, Inputs
from .rungs import unchanged

MAX_POINTS = 300  # that a model is fitted to
_REMEMBERED = 5_000  # genomes of which is kept what is known
_JUDGED = 24  # of the latest individuals, by which it is judged
_ENOUGH = 12  # individuals by whom it is judged, and results that set the scale, at least
_FEWEST_PRICES = 8
_NEAR = 0.1  # quantile of the violations, as far beyond the limit as those that break nothing are before it
_FAR = 100.0  # times that
_FEWEST_BROKEN = 4  # that break something, or do not, by which a model of violations is judged
_WARP = 4.0  # medians, added to positive values before their logarithm is taken
_OFF = 3.0  # ranges of those that set the scale, that what was ruled out counts as off at most
_MOST = 700.0  # an exponential of more has no number
_LEAST = 0.5  # times the least of them, which none is expected to be below


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


class _Point(NamedTuple):
    """A result."""

    of: Individual
    rung: int
    value: float


class _Over(NamedTuple):
    """Which results inputs are made of: all rungs, the rung being one more input, or the first alone; and of whom, by
    id, among those without all values. Models of the same share theirs."""

    all_rungs: bool
    partly: tuple[str, ...]


class Surrogate:
    """One Gaussian process per value that is not known beforehand, fitted to what was told.

    Results of lower rungs are points of their own, the rung being one more input. ``skill`` is Kendall's tau between
    what was told lately and what the model says with all of that left out, of the objective it knows least about of
    those that can be judged; 0 where none can. ``coverage`` is the share of it within one standard deviation of what
    the model says, likewise; 0.68 where its uncertainty is right, None where there is too little to say or nothing
    unknown. A value that was the same for all is taken to stay so.

    Attributes: ``skill``, ``coverage``; ``unknown``, the names that nobody has a value of; ``explained``, the ids of
    those without all values whose violation these, or a model of violations, account for.

    Args:
        individuals: told ones, and such as broke constraints before they had all values, which count as far as they
            have some. Where there are more than MAX_POINTS results, the oldest told ones of the first rung are left
            out.
        names: of the objectives, in order, then of what is ``watched``.
        rungs: how many there are.
        watched: how many of the names, the last ones, are of values that only constraints look at.
        violations: genome -> by how much it breaks constraints that no value tells of; individuals that it does not
            name break none.
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
        chosen = sorted(individuals, key=lambda i: i.index)
        told = [i for i in chosen if i.told]
        told = told if len(told) >= _ENOUGH else chosen
        self._exact = [j for j, name in enumerate(names) if all(name in features.known(i.genome) for i in told)]
        self._range = self._known_range(told)
        chosen = self._individuals = [i for i in chosen if i.told or self._has_inputs(i.genome)]
        violations = violations or {}
        self._models: dict[int, tuple[GaussianProcess, _Warp, _Over]] = {}
        self._over: dict[_Over, Inputs] = {}
        self._constant: dict[int, float] = {}
        self.unknown: set[str] = set()
        climbed = [i.told for i in chosen if len(i.told) > 1]
        same = unchanged([told[0] for told in climbed], [told[-1] for told in climbed])
        judged = {
            j: self._learn(j, name, bool(climbed) and not same[j])
            for j, name in enumerate(names)
            if j not in self._exact
        }
        self._breaking = self._broken_by(violations)
        partly = [i.genome for i in chosen if not i.told]
        self.explained = {g.id for g in partly if self._breaking is not None or not violations.get(g)}
        of_objectives = [found for j, found in judged.items() if j < self._objectives]
        self.skill = min((s for s, _ in of_objectives if s is not None), default=0.0 if of_objectives else 1.0)
        self.coverage = min((c for _, c in of_objectives if c is not None), default=None)
        self._skills = [skill for skill, _ in judged.values()]

    def _learn(self, j: int, name: str, changes: bool) -> tuple[float | None, float | None]:
        """Model the value of that place and name, which ``changes`` from rung to rung or not; how far to trust it, as
        ``_judged`` says it."""
        points = _points(self._individuals, j, name, changes)
        if not points:
            self.unknown.add(name)
            return None, None
        y, whole = (np.array([point.value for point in some]) for some in (points, _whole(points)))
        with np.errstate(over="ignore", invalid="ignore"):
            spread = whole.std()
        warp = _Warp(y, whole) if np.isfinite(spread) else None
        if warp is None or not np.ptp(warp.heights):  # too far apart for the model's numbers, or all alike
            self._constant[j] = float(np.sort(whole)[len(whole) // 2])
            return (0.0 if warp is None else None), None
        over = _Over(changes, tuple(p.of.genome.id for p in points if not p.of.told))
        if over not in self._over:
            x = self._inputs([p.of.genome for p in points], [p.rung for p in points] if changes else None)
            self._over[over] = Inputs(x, self._groups(changes))
        model = GaussianProcess(self._over[over], warp.heights)
        self._models[j] = model, warp, over
        return _judged(model, points, warp.heights)

    def skill_at_constraints(self) -> float:
        """The same of all that can be judged, be it an objective, what constraints look at, or a violation."""
        skills = (*self._skills, self._breaking and self._breaking.skill())
        return min((skill for skill in skills if skill is not None), default=self.skill)

    def _broken_by(self, violations: Mapping[Genome, float]) -> _Breaking | None:
        """A model of the violations of the individuals, but of those without all values only where they have one left:
        of the others nobody has looked at what they would break."""
        some = [i for i in self._individuals if i.told or violations.get(i.genome)]
        genomes = [i.genome for i in _capped(some, MAX_POINTS)]
        y = np.array([violations.get(genome, 0.0) for genome in genomes])
        if not (y > 0).any() or not np.ptp(y):
            return None
        return _Breaking(self._inputs(genomes, None), y, self._groups(False))

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

    def _has_inputs(self, genome: Genome) -> bool:
        known = self._features.known(genome)
        return all(known.get(name, 0.0) > 0 for name in self._range)

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
            over: inputs.across(self._inputs(genomes, last if over.all_rungs else None))
            for over, inputs in self._over.items()
        }
        for j, (model, warp, over) in self._models.items():
            mean[:, j], std[:, j] = warp.back(*model.predict(across[over]))
            if j >= self._objectives:  # constraints may not take just any number
                mean[:, j] = np.clip(mean[:, j], *warp.seen)
        return mean, std


def _points(individuals: Sequence[Individual], j: int, name: str, all_rungs: bool) -> list[_Point]:
    """Results that a model of the value of that place and name is fitted to, MAX_POINTS at most: those of the first
    rung, and those of the others where these are results of their own."""
    told = [i for i in individuals if i.told or name in i.partly]
    further = [_Point(i, r, i.told[r][j]) for i in told for r in range(1, len(i.told) if all_rungs else 1)]
    further = further[-MAX_POINTS // 2 :]
    first = _capped(told, MAX_POINTS - len(further))
    return [_Point(i, 0, i.told[0][j] if i.told else i.partly[name]) for i in first] + further


def _whole(points: Sequence[_Point]) -> Sequence[_Point]:
    """Those of the told ones, where these are enough."""
    told = [point for point in points if point.of.told]
    return told if len(told) >= _ENOUGH else points


def _capped(individuals: Sequence[Individual], most: int) -> list[Individual]:
    """So many of them at most: of the told ones the latest."""
    told = [k for k, i in enumerate(individuals) if i.told]
    left_out = set(told[: max(len(individuals) - most, 0)])
    return [i for k, i in enumerate(individuals) if k not in left_out]


class _Warp:
    """The scale on which values (n,) are modelled. Of positive ones it is the logarithm, some medians added before:
    what is far above comes closer, as a few outliers would bend the model everywhere, and the others stay as far apart
    as they are, which is how they count in a hypervolume (of those near 0 the logarithm alone goes to any length).
    Nothing that is positive is expected to be below half of the least.

    The ``whole`` ones among them (all by default) set the scale. Others lie beyond, as they were ruled out for it: that
    far off they would set it alone, so they are brought closer, and what is expected there is stretched again."""

    def __init__(self, y: np.ndarray, whole: np.ndarray | None = None) -> None:
        whole = y if whole is None else whole
        self._shift = _WARP * float(np.median(whole)) if y.min() > 0 else None
        self._least = _LEAST * float(y.min())
        heights, of_whole = self.of(y), self.of(whole)
        self._below = _Beyond(-heights, -of_whole)
        self._above = _Beyond(heights, of_whole)
        self.heights = self._above.closer(-self._below.closer(-heights))  # of the values themselves
        self._ends = float(self.heights.min()), float(self.heights.max())
        self.seen = tuple(np.clip(self._value(np.array(self._ends)), y.min(), y.max()).tolist())

    def of(self, y: np.ndarray) -> np.ndarray:
        return y if self._shift is None else np.log(y + self._shift)

    def back(self, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the values, the latter towards the small ones."""
        low, high = self._ends
        mean = np.minimum(mean, high + (high - low))
        value = self._value(mean)
        if self._shift is None:
            return value, std
        return np.maximum(value, self._least), value - self._value(mean - std)

    def _value(self, heights: np.ndarray) -> np.ndarray:
        heights = -self._below.off(-self._above.off(heights))
        if self._shift is None:
            return np.clip(heights, -math.exp(_MOST), math.exp(_MOST))
        return np.exp(np.minimum(heights, _MOST)) - self._shift


class _Beyond:
    """Heights above those of the whole ones, brought closer: the nearest is ``_OFF`` times as far off as these lie
    apart, or as it is, and no other is more than twice as far off as that one."""

    def __init__(self, heights: np.ndarray, whole: np.ndarray) -> None:
        self._high, reach = whole.max(), _OFF * np.ptp(whole)
        nearest = float(heights[heights > self._high].min(initial=np.inf)) - self._high
        self._most = 2 * nearest
        self._share = min(1.0, reach / nearest) if reach > 0 and np.isfinite(nearest) else 1.0

    def closer(self, heights: np.ndarray) -> np.ndarray:
        off = np.minimum(heights - self._high, self._most)
        return self._high + np.where(off > 0, self._share * off, off)

    def off(self, heights: np.ndarray) -> np.ndarray:
        """Where such heights were before."""
        off = heights - self._high
        return self._high + np.where(off > 0, off / self._share, off)


class _Breaking:
    """A Gaussian process of violations. Those that break nothing count as far before the limit as those are beyond it
    that come close, so that it is expected about halfway; and what is very far beyond counts as no more than far, or it
    would hide all others."""

    def __init__(self, x: np.ndarray, violations: np.ndarray, groups: Sequence[int]) -> None:
        broken = violations > 0
        self._near = min(float(np.quantile(violations[broken], _NEAR)), 1e300)
        self._heights = np.where(broken, np.minimum(violations / self._near, _FAR), -1.0)
        self._model = GaussianProcess(Inputs(x, groups), self._heights)

    def skill(self) -> float | None:
        """How well it tells what breaks something from what does not, each left out: the share of pairs told apart, as
        much above a half as of a whole; where all break something Kendall's tau, and None where too few do."""
        found, broken = self._model.each_left_out(), self._heights > 0
        if broken.sum() < _FEWEST_BROKEN:
            return None
        if (~broken).sum() < _FEWEST_BROKEN:
            return _tau(found, self._heights)
        return float(2 * (found[broken][:, None] > found[~broken][None]).mean() - 1)

    def of(self, x: np.ndarray) -> np.ndarray:
        return self._near * np.clip(self._model.predict(self._model.inputs.across(x))[0], -_FAR, _FAR)


def _judged(model: GaussianProcess, points: Sequence[_Point], y: np.ndarray) -> tuple[float | None, float | None]:
    """How well the latest individuals are ranked at the first rung by a model that has none of their results, None
    where they are all alike or too few; and which share of these lies within one standard deviation of what it says,
    None where they are too few. Those without all values, which are far off, are easily told from the rest: they count
    where there is little else."""
    judged = _whole(points)
    indices = sorted({point.of.index for point in judged})
    if len(indices) < _ENOUGH:
        return None, None
    latest = indices[-_JUDGED:]
    if len(latest) > len(judged) // 2:
        latest = latest[-max(len(judged) // 3, 1) :]
    left_out = set(latest)
    rows = np.array([k for k, point in enumerate(points) if point.of.index in left_out])
    first = np.array([points[k].rung == 0 for k in rows])
    if first.sum() < 4:
        return None, None
    found, std = (values[first] for values in model.left_out_and_spread(rows))
    told = y[rows][first]
    coverage = float((np.abs(found - told) <= std).mean())
    return (_tau(found, told) if np.ptp(told) else None), coverage


def _tau(found: np.ndarray, told: np.ndarray) -> float:
    from scipy.stats import kendalltau  # a second to import

    tau = float(kendalltau(found, told).statistic)
    return tau if math.isfinite(tau) else 0.0
