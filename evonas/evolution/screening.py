"""Choosing among many offspring by what a surrogate expects of them."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from ..genome import Genome, SearchSpace
from .breeding import Proposal, offspring
from .failing import Soundness
from .fitness import Individual, ParetoFitness
from .selection import hypervolume_box, hypervolume_gain, minimised, most_gained, non_dominated
from .surrogate import Features, Surrogate

if TYPE_CHECKING:
    from .engine import Engine

_FEWEST = 12  # individuals told, or ruled out, below which nothing is modelled
_LATEST = 250  # individuals, besides the population, that a model is fitted to
_REFUSED = 120  # of those that broke constraints before they had all values, that it learns from
_ROUNDS, _PER_ROUND = 4, 144  # of the inner evolution
_RISKY = 4  # one in so many, at most, is more likely to fail than not
_SEEKING = 0.75  # share of a generation that looks for the first that meets constraints: where it looks all may fail
_MEMBERS = 256  # that it keeps at most, where the population is smaller
_OPTIMISM = 0.5  # standard deviations; none with rungs, where whoever goes on is chosen once more
_NO_SKILL, _FULL_SKILL = 0.1, 0.5  # Kendall's tau: below it no share of the offspring is chosen so, above it all
# Share of what was told that lay within a standard deviation, 0.68 being right: below it these say nothing.
_NO_COVERAGE, _FULL_COVERAGE = 0.2, 0.5


class Expected(NamedTuple):
    """What is expected of a proposal at the last rung: objectives (m,), their standard deviations as far as these are
    believed, and by how much it breaks constraints."""

    proposal: Proposal
    mean: np.ndarray
    std: np.ndarray
    broken: float


class Screening:
    """An inner evolution on the surrogate, from the population; of all its offspring those are chosen that, one after
    the other, are expected to add most to the hypervolume of the front and of what is still being evaluated. While
    nothing that has all values meets the constraints, or very little has all and more was ruled out before, it is
    those that are expected to break them least, unless they are likely to fail.

    What failed is learned from as well (see ``Soundness``). How far all this is followed depends on how well the
    surrogate has lately told right: its share of a generation fades with how well it ranks (``Surrogate.skill``, or, as
    long as it looks for what meets constraints, ``skill_at_constraints``), and the rest comes from variation alone; and
    what its uncertainty is made of, hope, fades with how often that was right (``Surrogate.coverage``). ``judged`` says
    so of each generation that it was asked for lately: {"tau", "coverage" (or None), "share" (of its places, by that)}.

    Args:
        known: genome -> values that are exact and free: objectives, or what tells of them (parameters, FLOPs).
    """

    def __init__(self, space: SearchSpace, known: Callable[[Genome], Mapping[str, float]] | None) -> None:
        self._features = Features(space, known)
        self.judged: dict[int, dict[str, float | None]] = {}

    @threadpool_limits.wrap(limits=1)  # the matrices are small, and the cores have trainings to do
    def plan(self, engine: Engine, generation: int, most: float) -> list[Proposal]:
        """New genomes for that generation, ``most`` of them on average where the surrogate is followed without reserve;
        the same engine state gives the same ones."""
        archive = engine.archive.values()
        members = engine.parents_of(generation)
        leading = _leading(engine, members)
        # Where most are ruled out, what tells of constraints is enough to look for what meets them.
        refused = len(engine.refused)
        seeking = not leading or len(archive) < min(_FEWEST, refused)
        if len(archive) + seeking * refused < _FEWEST or not members:
            return []
        # The first population is spread over the space: it says what range an objective has.
        first = [i for i in itertools.islice(archive, 2 * engine.population_size) if i.index < engine.population_size]
        latest = list(itertools.islice(reversed(archive), _LATEST))
        surrogate = self._fitted(engine, latest, members)
        skill = surrogate.skill_at_constraints() if seeking else surrogate.skill
        share = _between(skill, _NO_SKILL, _FULL_SKILL) * (_SEEKING if seeking else 1.0)
        self.judged = {g: found for g, found in self.judged.items() if g >= engine.generation}
        self.judged[generation] = {"tau": skill, "coverage": surrogate.coverage, "share": share}
        by_chance = np.random.default_rng((engine.seed, generation, 2**31 + 3)).random()
        count = int(share * most + by_chance)  # rounded once, so that a small share is no none
        if not count:
            return []
        rng = np.random.default_rng((engine.seed, generation, 2**31 + 1))
        pool = self._pool(engine, surrogate, leading or members, rng)
        if not pool:
            return []
        pool = [entry for entry in pool if not entry.broken] or sorted(pool, key=lambda e: e.broken)[:_PER_ROUND]
        genomes = [entry.proposal.genome for entry in pool]
        chances = self._sound(engine, surrogate, latest).of(genomes)
        if seeking:
            order = -np.arange(len(pool))  # of as good ones those that evolved longest
            keys = order, surrogate.violations(genomes), [entry.broken for entry in pool], chances < 0.5
            surest = np.lexsort(keys)
            return [pool[k].proposal for k in surest[:count]]
        worth = chances / surrogate.prices(genomes, engine.prices if engine.frugal else {})
        expected = [(entry.mean, entry.std) for entry in pool]
        pending = _pending(engine, surrogate)
        chosen = _by_gain(engine, first, leading, expected, worth, chances < 0.5, count, pending)
        return [pool[k].proposal for k in chosen]

    def _fitted(self, engine: Engine, latest: Sequence[Individual], members: Sequence[Individual]) -> Surrogate:
        """To these, to those that have climbed, and to what broke constraints before it had all values."""
        further = heapq.nlargest(_LATEST, (i for i in engine.climbed() if i.rung > 0), key=lambda i: i.index)
        refused = itertools.islice(reversed(engine.refused.values()), _REFUSED)
        told = (i for i in members if i.told)
        known = {i.genome.id: i for i in (*refused, *latest, *further, *told)}
        violations = {i.genome: engine.unexplained(i) for i in known.values() if i.violation}
        watched = len(engine.names) - len(engine.objectives)
        return Surrogate(self._features, list(known.values()), engine.names, engine.rungs, watched, violations)

    def _sound(self, engine: Engine, surrogate: Surrogate, latest: Sequence[Individual]) -> Soundness:
        """What broke a constraint has failed too, unless the surrogate accounts for it."""
        failed = [genome for genome in engine.failed.values() if genome.id not in surrogate.explained]
        of = len(engine.archive), len(failed)
        return Soundness(self._features, [i.genome for i in reversed(latest)], failed, of=of)

    def _pool(
        self, engine: Engine, surrogate: Surrogate, leading: Sequence[Individual], rng: np.random.Generator
    ) -> list[Expected]:
        """All offspring of the inner evolution."""
        size = max(engine.population_size, min(len(leading), _MEMBERS))
        members = engine.toolbox.select(leading, size, rng) if len(leading) > size else list(leading)
        roots = {i.genome.id: (i.genome.id,) for i in members}
        pool: dict[str, Expected] = {}
        for _ in range(_ROUNDS):
            fresh: dict[str, Proposal] = {}
            for genome, from_, operator in offspring(engine.toolbox, engine.space, members, _PER_ROUND, rng):
                known = genome.id in engine.seen or genome.id in pool or genome.id in fresh
                if not known and engine.screen(genome) <= 0 and surrogate.tells_of(genome):
                    fresh[genome.id] = Proposal(genome, _roots(roots, from_), operator)
            if not fresh:
                continue
            for entry in _expected(engine, surrogate, list(fresh.values())):
                proposal, mean, std, broken = entry
                pool[proposal.genome.id] = entry
                roots[proposal.genome.id] = proposal.parents
                hope = () if broken else _hope(engine, mean, std).tolist()
                fitness = ParetoFitness(engine.directions, hope, broken)
                members.append(Individual(proposal.genome, fitness, len(engine.seen) + len(pool)))
            members = engine.toolbox.select(members, size, rng)
        return list(pool.values())


def _between(value: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high`` on."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _leading(engine: Engine, parents: Sequence[Individual]) -> list[Individual]:
    """Whom children have to beat: all of the front and of what is expected on it, of which the population, being of one
    size, forgets a part. Where that were filled again nothing would be gained."""
    everyone = (*parents, *engine.best, *engine.reserve)
    return list({i.genome.id: i for i in everyone if i.feasible}.values())


def _expected(engine: Engine, surrogate: Surrogate, proposals: Sequence[Proposal]) -> list[Expected]:
    m, genomes = len(engine.objectives), [p.genome for p in proposals]
    means, stds = surrogate.predict(genomes)
    stds *= 0.0 if surrogate.coverage is None else _between(surrogate.coverage, _NO_COVERAGE, _FULL_COVERAGE)
    others = np.maximum(surrogate.violations(genomes), 0.0).tolist()
    broken = [_breaks(engine, surrogate, mean) + other for mean, other in zip(means, others)]
    return [Expected(*entry) for entry in zip(proposals, means[:, :m], stds[:, :m], broken)]


def _pending(engine: Engine, surrogate: Surrogate) -> np.ndarray:
    """What is expected of those that were asked for and not told (n, m), minimised; without those that are expected to
    break a constraint. Who goes on to a higher rung is among the leading ones already."""
    waiting = [Proposal(genome, (), "") for genome in engine.pending() if surrogate.tells_of(genome)]
    found = [entry.mean for entry in _expected(engine, surrogate, waiting) if not entry.broken] if waiting else []
    values = np.array(found).reshape(-1, len(engine.objectives))
    return minimised(engine.wanted(values), engine.directions)


def _hope(engine: Engine, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Objectives (..., m) that are hoped for: somewhat better than the mean, and no better than a goal."""
    optimism = _OPTIMISM if engine.rungs == 1 else 0.0
    better = -optimism * minimised(np.ones((1, len(engine.objectives))), engine.directions)[0]
    return engine.wanted(mean + better * std)


def _breaks(engine: Engine, surrogate: Surrogate, expected: np.ndarray) -> float:
    """The violation to be expected, as far as values tell it."""
    values = zip(engine.names, expected.tolist())
    return engine.breaks_partly({name: value for name, value in values if name not in surrogate.unknown})


def _roots(roots: Mapping[str, tuple[str, ...]], parents: Sequence[str]) -> tuple[str, ...]:
    """The told genomes that a child comes from, at most two: the first one of each parent."""
    return tuple(dict.fromkeys(roots[p][0] for p in parents if roots[p]))


def _by_gain(
    engine: Engine, first, leading, pool, worth: np.ndarray, risky: np.ndarray, count: int, pending: np.ndarray
) -> list[int]:
    """Places in ``pool``, by expected gain in hypervolume over the ``leading`` ones and ``pending`` points times its
    ``worth`` (the chance of an evaluation that does not fail, by what that takes), each chosen one taken as told before
    the next. Of ``risky`` ones, more likely to fail than not, there are few, as they fail together. The ``first`` ones,
    as far as they were told at the last rung, and what is expected there of the leading say what range an objective
    has."""
    m = len(engine.objectives)
    last = [i.told[-1][:m] for i in first if i.rung == engine.rungs - 1]
    told = engine.wanted(np.array(last).reshape(-1, m))
    front = engine.points(leading)
    box = hypervolume_box(np.vstack([front, minimised(told, engine.directions)]))
    front = np.vstack([front, pending])
    front = front[non_dominated(front)]
    expected, spreads = (np.array(column) for column in zip(*pool))
    wanted = engine.wanted(expected), _hope(engine, expected, spreads)
    means, hopes = (minimised(values, engine.directions) for values in wanted)

    def gain(k: int) -> float:
        return worth[k] * hypervolume_gain(front, hopes[k], *box)

    heap = [(-most, k) for k, most in enumerate((worth * most_gained(front, hopes, *box)).tolist())]
    heapq.heapify(heap)
    chosen: list[int] = []
    risks = max(count // _RISKY, 1)
    while heap and len(chosen) < count:
        _, k = heapq.heappop(heap)
        now = -gain(k), k  # gains only shrink as the front grows, so the first that still leads is the best
        if heap and now > heap[0]:
            heapq.heappush(heap, now)
            continue
        if risky[k] and not risks:
            continue
        risks -= bool(risky[k])
        chosen.append(k)
        front = np.vstack([front, means[k : k + 1]])
    return chosen
