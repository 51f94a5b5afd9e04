"""The engine for evaluators that take thousands at a time: populations are arrays from end to end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from deap import base

from ..errors import EvonasError
from ..genome import Genome, SearchSpace
from ..genome.codes import Codes
from ..record import Objective
from .breeding import bred
from .candidate import check_settings
from .credit import Credit
from .environment import best_places, tournament_places
from .sampling import first_population
from .selection import dominates, minimised, non_dominated
from .variation import MUTATIONS, mate_codes, mutate_codes

_BROODS = 4  # of children, until as many are new as were wanted
_DRAWN = 200  # genomes at once, where children are all known
_JUDGED = 400  # children, the last of a generation: what others have shown would be forgotten (0.98**400 is 3e-4)


class ArrayEngine:
    """Multi-objective evolution with ``ask`` and ``tell`` of whole generations, as arrays.

    For evaluators that cost next to nothing each, such as a trained predictor or a table: a generation of 10,000 takes
    tens of milliseconds, a tenth of what ``Engine`` takes, whose candidates are objects that may be told one by one.
    Crossover, mutations and their credit, first population and parents are the same, and up to three objectives the
    selection, which is NSGA-II here for any number; there is no surrogate, there are no rungs, and nothing is kept that
    could go on in another process.

    Args:
        space: where genomes come from.
        objectives: names with directions; ``tell`` takes one column for each.
        population_size: members kept, and genomes of the first population, at least 2.
        offspring_size: of every later generation; None for as many as members.
        seed: every draw comes from it and the generation.
        seed_genomes: see ``Engine``.

    Example::

        engine = ArrayEngine(space, [Objective("error"), Objective("size")], population_size=10_000, seed=0)
        for _ in range(50):
            codes = engine.ask()
            engine.tell(predict(codes.flat()))    # (n, 2)
        for genome, values in engine.front():
            print(genome, values)

    Codes are places of options, or values of continuous genes (see ``evonas.genome.codes``): ``codes.flat()`` has them
    in rows, ``space.coder.inputs(codes)`` scaled for a model, ``space.coder.decode(codes)`` as genomes. None is asked
    for twice; genomes whose codes differ without effect (feed-forward ratios that round to one width) count as two.

    Operators are registered in ``engine.toolbox``, a DEAP toolbox, as functions of arrays: mate, mutate, select,
    select_parents (see ``mate_codes``, ``mutate_codes``, ``best_places``, ``tournament_places``).
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        *,
        population_size: int = 1000,
        offspring_size: int | None = None,
        seed: int = 0,
        seed_genomes: Sequence[Genome] = (),
    ) -> None:
        self.offspring_size = population_size if offspring_size is None else offspring_size
        check_settings(space, objectives, population_size, self.offspring_size, population_size, seed, seed_genomes)
        self.space, self.objectives, self.seed = space, tuple(objectives), seed
        self.directions = tuple(o.direction for o in objectives)
        self.seed_genomes = tuple(dict.fromkeys(space.repair(genome) for genome in seed_genomes))
        self.population_size = population_size
        self.generation = 0  # generations told
        self.told = 0  # genomes told
        # Members, best first: their codes, objectives minimised, violations and numbers in order of birth.
        self._members = _People.none(space, len(objectives))
        self._front = self._members
        self._seen: set[int] = set()
        self._asked: tuple[Codes, np.ndarray, list[str]] | None = None  # codes, parents (n, 2), mutations
        self.credit = Credit({name: share for name, (_, share) in MUTATIONS.items()})
        self.toolbox = base.Toolbox()
        self.toolbox.register("mate", mate_codes)
        self.toolbox.register("mutate", mutate_codes, share=self.credit.share)
        self.toolbox.register("select", best_places)
        self.toolbox.register("select_parents", tournament_places)

    @property
    def population(self) -> Codes:
        """The members, best first."""
        return self._members.codes[:]

    def ask(self) -> Codes:
        """A generation (n) of genomes never asked for before; fewer, even none, when the space is exhausted."""
        if self._asked is not None:
            raise EvonasError("the generation asked for has not been told", "tell takes all of its values at once.")
        rng = np.random.default_rng((self.seed, self.generation))
        codes, parents, names = self._born(rng) if self.told else self._first(rng)
        self._asked = codes, parents, names
        return codes[:]

    def _first(self, rng: np.random.Generator) -> tuple[Codes, np.ndarray, list[str]]:
        coder = self.space.coder

        def mutated(genome: Genome, space: SearchSpace, rng: np.random.Generator) -> tuple[Genome, str]:
            codes, names = self.toolbox.mutate(coder.encode([genome]), coder, rng)
            return coder.decode(codes)[0], names[0]

        first = first_population(self.space, self.population_size, self.seed_genomes, mutated, lambda genome: 0.0, rng)
        codes = coder.encode([candidate.genome for candidate in first])
        codes = codes[self._new(codes)]
        return codes, np.full((len(codes), 2), -1), [""] * len(codes)

    def _born(self, rng: np.random.Generator) -> tuple[Codes, np.ndarray, list[str]]:
        """Children, and where they are all known what the space has otherwise."""
        broods = []
        missing = self.offspring_size
        for _ in range(_BROODS if len(self._members) else 0):
            brood = self._brood(missing, rng)
            broods.append(brood)
            missing -= len(brood[0])
            if not missing:
                break
        while missing:
            drawn = self.space.coder.encode([self.space.sample(rng) for _ in range(_DRAWN)])
            fresh = self._new(drawn, missing)
            broods.append((drawn[fresh], np.full((len(fresh), 2), -1), [""] * len(fresh)))
            missing -= len(fresh)
            if not len(fresh):
                break
        codes, parents, names = zip(*broods)
        return _joined(codes), np.concatenate(parents), [name for each in names for name in each]

    def _brood(self, n: int, rng: np.random.Generator) -> tuple[Codes, np.ndarray, list[str]]:
        first, second = self.toolbox.select_parents(n, len(self._members), rng)
        members = self._members.codes
        mate, change = self.toolbox.mate, self.toolbox.mutate
        children, mated, names = bred(members[first], members[second], self.space.coder, rng, mate, change)
        fresh = self._new(children)
        parents = np.stack([first, np.where(mated, second, first)], axis=1)
        return children[fresh], parents[fresh], names[fresh].tolist()

    def _new(self, codes: Codes, most: int | None = None) -> np.ndarray:
        """Places of those, ``most`` at most, that were never seen, and are from now on. They are known by 64 bits: of a
        million two are taken for one with a chance of 3e-8, and the second is passed over."""
        found: list[int] = []
        for place, row in enumerate(codes.flat() + 0.0):  # -0 is 0
            if len(found) == most:
                break
            if (key := hash(row.tobytes())) not in self._seen:
                self._seen.add(key)
                found.append(place)
        return np.array(found, dtype=int)

    def tell(self, values: np.ndarray, violations: np.ndarray | None = None) -> None:
        """Report on the generation that was asked for last.

        Args:
            values: objectives (n, m), in the order of ``ask``; a row with a NaN has failed, and is never a parent.
            violations: (n,) by how much constraints are broken, 0 where they are met; None for nowhere.

        Raises:
            EvonasError: nothing was asked for, or these are not n rows of m finite numbers; nothing has changed.
        """
        if self._asked is None:
            raise EvonasError("nothing was asked for that has not been told")
        codes, parents, names = self._asked
        rows = _numbers("values", values, (len(codes), len(self.objectives)))
        broken = np.zeros(len(codes)) if violations is None else _numbers("violations", violations, (len(codes),))
        if np.isinf(rows).any() or not (np.isfinite(broken) & (broken >= 0)).all():
            raise EvonasError("values are finite, or NaN where one has failed; violations are finite and not below 0")
        failed = np.isnan(rows).any(axis=1)
        births = self.told + np.arange(len(codes))
        children = _People(codes, minimised(rows, self.directions), broken, births)
        self._give_credit(children, failed, parents, names)
        children = children.of(~failed)
        self._front = _People.joined(self._front, children.of(children.violations == 0))
        self._front = self._front.of(non_dominated(self._front.points))
        pool = _People.joined(self._members, children)
        order = self.toolbox.select(pool.points, pool.violations, pool.births, self.population_size)
        self._members, self._asked = pool.of(order), None
        self.told, self.generation = self.told + len(codes), self.generation + 1

    def _give_credit(self, children: _People, failed: np.ndarray, parents: np.ndarray, names: list[str]) -> None:
        """A mutation has won where neither parent dominates its child."""
        last = np.flatnonzero(parents[:, 0] >= 0)[-_JUDGED:]
        worse = [dominates(self._members.points[parents[last, side]], children.points[last]) for side in (0, 1)]
        won = ~failed[last] & (children.violations[last] == 0) & ~worse[0] & ~worse[1]
        for place, wins in zip(last.tolist(), won.tolist()):
            self.credit.note(names[place], wins)

    def front(self) -> list[tuple[Genome, tuple[float, ...]]]:
        """The non-dominated of all that were told and break no constraint, with their objectives; best in the first
        objective first."""
        found = self._front
        values = minimised(found.points, self.directions)  # a sign changed twice
        order = np.lexsort((found.births, *found.points.T[::-1]))
        genomes = self.space.coder.decode(found.codes[order], keep=False)
        return [(genome, tuple(row)) for genome, row in zip(genomes, values[order].tolist())]


class _People:
    """Codes of n genomes, ``points`` (n, m) minimised, ``violations`` (n,), ``births`` (n,)."""

    def __init__(self, codes: Codes, points: np.ndarray, violations: np.ndarray, births: np.ndarray) -> None:
        self.codes, self.points, self.violations, self.births = codes, points, violations, births

    @classmethod
    def none(cls, space: SearchSpace, m: int) -> _People:
        return cls(space.coder.encode([]), np.zeros((0, m)), np.zeros(0), np.zeros(0, dtype=int))

    @classmethod
    def joined(cls, one: _People, other: _People) -> _People:
        rows = ((getattr(each, name) for each in (one, other)) for name in ("points", "violations", "births"))
        return cls(_joined((one.codes, other.codes)), *(np.concatenate(tuple(pair)) for pair in rows))

    def __len__(self) -> int:
        return len(self.codes)

    def of(self, rows: np.ndarray) -> _People:
        return _People(self.codes[rows], self.points[rows], self.violations[rows], self.births[rows])


def _joined(parts: Sequence[Codes]) -> Codes:
    return Codes(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("scalars", "layers")))


def _numbers(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        rows = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise EvonasError(f"{name} are no array of numbers") from None
    if rows.shape != shape:
        raise EvonasError(f"{name} have the shape {rows.shape}; the generation asked for takes {shape}")
    return rows
