"""The ask/tell engine: an evolutionary search over any SearchSpace, driven by any evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from deap import base

from ..errors import EvonasError
from ..genome import Genome, SearchSpace
from ..record import Objective
from .breeding import Proposal, breeds_at_once, offspring
from .candidate import Candidate, Numbering, check_settings
from .climbing import Climbing
from .credit import Credit
from .environment import Tournament, select_nsga2, select_nsga3
from .fitness import Individual
from .judging import SCREENED, judge
from .sampling import Strata, best_known_first, first_population
from .selection import hypervolume_box
from .strata import ParentsByStrata, select_by_strata
from .trust import Trust
from .variation import MUTATIONS, mate, mutate

if TYPE_CHECKING:
    from .screening import Screening

NSGA3_FROM = 4  # objectives
_ATTEMPTS = (1, 9, 40, 150)  # offspring that are drawn at once for a place that is still empty
_SHARE_WITH_RUNGS = 0.75  # of a generation, that the surrogate proposes: what it adds is seen by few at the last rung


class Engine(Climbing):
    """Multi-objective evolution with ``ask`` and ``tell``; it never evaluates and needs no torch.

    Args:
        space: where genomes come from.
        objectives: names with directions; all are needed in ``tell``.
        population_size: members kept, and genomes of the first population, at least 2.
        offspring_size: candidates of every later generation; None for as many as members. Few offspring at a time
            learn from each other sooner.
        initial_size: how many of the first population make up the first generation, the rest coming before any
            offspring; None for all. Where it is a part, it comes in the order of what is known best (see
            ``best_known_first``), and of it the best half, at most four, go on to the last rung before they are due, so
            that there is a front, and something to tell what to expect there, that much sooner.
        seed: every draw comes from it and the generation, or the candidate's place in it.
        seed_genomes: evaluated first, with mutants around them in the first population, and tried with what the space's
            prior says of training. They must lie in the space.
        screen: genome -> constraint violation that is known for free; candidates above 0 are not asked for.
        rungs: how many fidelities there are. Every genome is asked for at rung 0; some come again, with a higher
            ``rung``, one in ``reduction`` of those below: who is expected to add most to the hypervolume of the front,
            then the best of the population by rank and crowding. Seed genomes go all the way. Members are compared by
            what is expected of them at the last rung (see ``Ladder``) and kept apart by size (see
            ``evonas.evolution.strata``); ``hypervolume`` counts only what was told there.
        reduction: see ``rungs``.
        watched: names of further values that ``tell`` is given, as constraints look at them.
        broken: {name: value} of objectives and watched -> by how much such constraints are broken. They count at the
            last rung; below it members, and with a surrogate offspring, are judged by what is expected there. Where
            ``tell`` is given a part of the values, so is this, and as long as nobody has others.
        goals: {objective: value} that is good enough: what is better counts as no better, so that the search goes
            where the other objectives still gain (goal programming; Fonseca and Fleming 1998). ``front`` is by what
            was told all the same.
        known: genome -> exact values that cost nothing, of objectives or of what tells something about them (FLOPs,
            parameters): the surrogate takes them as they are.
        surrogate: whether offspring are screened by a model of objectives and constraints (see ``Screening``).

    Example::

        engine = Engine(space, [Objective("error"), Objective("size")], population_size=20, seed=0)
        for _ in range(30):
            for candidate in engine.ask():
                engine.tell(candidate, evaluate(candidate.genome))   # {"error": 0.1, "size": 3}; None if it failed
        for member in engine.front():
            print(member.genome, member.fitness.values)

    Where the time for all of it is limited, set ``frugal``, and in ``prices`` what evaluations at the first rung took,
    in any unit: what the surrogate proposes, and who goes on, is then chosen by gain per price, not by gain alone
    (Snoek et al. 2012, "Practical Bayesian optimization of machine learning algorithms", sec. 3.2).

    ``ask(n)`` may be called with candidates outstanding and ``tell`` in any order, and nothing waits for the slowest:
    what was told counts for all that is asked for in later generations (small ones are the more up to date), and a
    surrogate believes what is outstanding to come out as expected. Members, hypervolume, credit, trust and who goes on
    to a higher rung are settled when the last candidate of a generation is told (``AsynchronousEngine`` settles them
    when as many were told, whichever they are); tell None of one that is lost, or the surrogate goes on believing in
    it. The same seed and the same order of calls give the same run.
    Operators are registered in ``engine.toolbox``, a DEAP toolbox (mate, mutate, select, select_parents), and may be
    replaced; what ``select`` returns is a new list.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        *,
        population_size: int = 20,
        offspring_size: int | None = None,
        initial_size: int | None = None,
        seed: int = 0,
        seed_genomes: Sequence[Genome] = (),
        screen: Callable[[Genome], float] | None = None,
        rungs: int = 1,
        reduction: int = 4,
        watched: Sequence[str] = (),
        broken: Callable[[Mapping[str, float]], float] | None = None,
        goals: Mapping[str, float] | None = None,
        known: Callable[[Genome], Mapping[str, float]] | None = None,
        surrogate: bool = False,
    ) -> None:
        offspring_size = population_size if offspring_size is None else offspring_size
        initial_size = population_size if initial_size is None else initial_size
        check_settings(space, objectives, population_size, offspring_size, initial_size, seed, seed_genomes)
        if not (isinstance(rungs, int) and rungs >= 1 and isinstance(reduction, int) and reduction >= 2):
            raise EvonasError(f"rungs {rungs}, reduction {reduction}; they take whole numbers from 1 and from 2")
        super().__init__(objectives, rungs, watched, broken, goals)
        self.space, self.reduction = space, reduction
        self.population_size, self.offspring_size, self.seed = population_size, offspring_size, seed
        # Repair only brings genes without effect to rest, so that no seed has a twin.
        self.seed_genomes = tuple(dict.fromkeys(space.repair(genome) for genome in seed_genomes))
        self.screen = screen or (lambda genome: 0.0)
        self.exhausted = False  # no genome was found that had not been asked for
        self.generation = 0  # generations whose selection is done
        self.population: list[Individual] = []
        self.seen: set[str] = set()  # every genome ever asked for
        self._numbers = Numbering(min(initial_size, population_size), offspring_size)
        self._asked = 0
        self._outstanding: dict[int, dict[int, Candidate]] = {}  # by generation and index
        self._short: dict[int, int] = {}  # generation -> its size, where the space ran out before it was full
        self._told: dict[int, dict[str, Individual | None]] = {}  # by generation and genome id; None has failed
        self._children: dict[int, list[Candidate]] = {}  # generation -> what was told of it
        self._first: list[Candidate] = []
        self._drawn = 0  # of these, asked for or found to have been
        self.screening: Screening | None = None
        if surrogate:
            from .screening import Screening  # SciPy: half a second to import

            self.screening = Screening(space, known)
        self.trust = Trust(len(objectives))
        self._plan: tuple[int, int, list[Proposal]] | None = None  # of a generation, from a place of it on
        self._brood: tuple[int, list[Individual], list[Proposal]] | None = None  # of a generation and its parents
        self._meanwhile: tuple[int, list[Individual], list[Individual]] | None = None  # see `parents_of`
        self._strata = Strata(space, population_size, seed)
        self.toolbox = base.Toolbox()
        self.toolbox.register("mate", mate)
        self.credit = Credit({name: share for name, (_, share) in MUTATIONS.items()})
        self.toolbox.register("mutate", mutate, share=self.credit.share)
        select = select_nsga3 if len(objectives) >= NSGA3_FROM else select_nsga2
        self.toolbox.register("select", select)
        tournament = Tournament()
        self.toolbox.register("select_parents", tournament)
        if rungs > 1:
            self.toolbox.register("select", select_by_strata, select=select, steady=self.steady)
            self.toolbox.register("select_parents", ParentsByStrata(tournament, self.steady))

    # -- ask ----------------------------------------------------------------------------------------------------

    def ask(self, n: int | None = None) -> list[Candidate]:
        """The next ``n`` candidates: those that go on to a higher rung, then genomes never asked for before. By
        default the former and a generation of the latter. Fewer, even none, when the space is exhausted."""
        if n is not None and n < 0:
            raise EvonasError(f"{n} candidates asked for; it takes a whole number from 0")
        offspring = self._numbers.size(self._numbers.place(self._asked)[0]) if self._offspring_wanted else 0
        count = len(self._promoted) + offspring if n is None else n
        out = self._take_promoted(count)
        if not self._offspring_wanted:
            return self._alone(out) if out else self._end_generation(n)
        while len(out) < count:
            generation, index = self._numbers.place(self._asked)
            if generation in self._short:
                break
            candidate = self._propose(generation, index)
            self.exhausted = candidate is None and generation > 0  # the first population may be short without it
            if candidate is None:
                return [*out, *self._end_generation(n)]  # one of them is empty
            self._asked += 1
            self.seen.add(candidate.genome.id)
            self._hand_out(candidate)
            out.append(candidate)
        return out

    def _end_generation(self, n: int | None) -> list[Candidate]:
        """Nothing more comes to what was begun: those that go on after it, if it has been told."""
        generation, index = self._numbers.place(self._asked)
        if generation in self._outstanding:
            self._short.setdefault(generation, index)
            self._finish_generations()
        elif not self._promoted and generation == self.generation:
            self._promote()
        return self._alone(self._take_promoted(len(self._promoted) if n is None else n))

    def _alone(self, promoted: list[Candidate]) -> list[Candidate]:
        """These make up a generation: nothing new comes with them."""
        if promoted:
            self._short[promoted[0].generation] = 0
        return promoted

    @property
    def _in_parts(self) -> bool:
        """Whether the first generation is a part of the first population."""
        return self._numbers.first < self.population_size

    def prepare(self) -> None:
        """Draw the first population now. Raises EvonasError when no genome passes the screen."""
        if not self._first:
            rng = np.random.default_rng((self.seed, 0, 0))
            self._first = first_population(
                self.space, self.population_size, self.seed_genomes, self.toolbox.mutate, self.screen, rng
            )
            if self._in_parts:
                self._first = best_known_first(self._first)

    def _propose(self, generation: int, index: int) -> Candidate | None:
        self.prepare()
        while self._drawn < len(self._first):  # not by number: a closing may have cut a part short
            first = self._first[self._drawn]
            self._drawn += 1
            if first.genome.id not in self.seen:
                return replace(first, generation=generation, index=index)
        if generation == 0:
            return None
        for found in (self._planned, self._bred):  # nothing is bred for places that are all planned
            for proposal in found(generation, index):
                if self._is_new(proposal.genome):
                    return Candidate(*proposal, generation, index)
        rng = np.random.default_rng((self.seed, generation, index))
        for attempts in _ATTEMPTS:
            for proposal in offspring(self.toolbox, self.space, self.parents_of(generation), attempts, rng):
                if self._is_new(proposal.genome):
                    return Candidate(*proposal, generation, index)
        for _ in range(sum(_ATTEMPTS)):
            genome = self.space.sample(rng)
            if self._is_new(genome):
                return Candidate(genome, (), "sample", generation, index)
        return None

    def _is_new(self, genome: Genome) -> bool:
        return genome.id not in self.seen and self.screen(genome) <= 0

    def _bred(self, generation: int, index: int) -> list[Proposal]:
        """The child for that place. A generation's are drawn at once: that costs a fraction of drawing one by one."""
        parents = self.parents_of(generation)
        if self._has_hardly_begun(parents):
            return [Proposal(self._strata.at(self._numbers.start(generation) + index), (), "stratified")]
        if self._brood is None or self._brood[0] != generation or self._brood[1] is not parents:
            if not breeds_at_once(self.toolbox):
                return []
            rng = np.random.default_rng((self.seed, generation, 2**31 + 2))
            born = offspring(self.toolbox, self.space, parents, self._numbers.size(generation), rng)
            self._brood = generation, parents, born
        return self._brood[2][index : index + 1]

    def _has_hardly_begun(self, parents: Sequence[Individual]) -> bool:
        """Whether later generations are asked for while less than half of the first population has been told."""
        return self.generation == 0 and 2 * len(parents) < self.population_size

    def parents_of(self, generation: int) -> list[Individual]:
        """Whom that generation's children come from: the population, or, while one before it waits for results, the
        best of this and of all that was told since, when the first of the generation was asked for."""
        if generation <= self.generation:
            return self.population
        made = self._meanwhile
        made_for = made is not None and made[0] == generation and made[1] is self.population
        if not made_for or self._has_hardly_begun(made[2]):
            told = {i: individual for g in sorted(self._told) for i, individual in self._told[g].items()}
            fresh = sorted((i for i in told.values() if i is not None), key=lambda i: i.index)
            pool = [*(i for i in self.population if i.genome.id not in told), *fresh]
            self._expect(pool)
            rng = np.random.default_rng((self.seed, generation, 2**31 + 4))
            best = self.toolbox.select(pool, self.population_size, rng) if pool else []
            self._meanwhile = generation, self.population, best
        return self._meanwhile[2]

    def _planned(self, generation: int, index: int) -> list[Proposal]:
        """What the surrogate proposes for that place, if anything, from what had been told when the first such place of
        the generation was to be filled."""
        if self.screening is None:
            return []
        made_for = self._plan is not None and self._plan[0] == generation
        if not made_for or (not self._plan[2] and self._has_hardly_begun(self.parents_of(generation))):
            judged = min(self._born, len(self.archive))  # fewer than were told, while a generation waits for a result
            share = self.trust.share(judged) if self.rungs == 1 else _SHARE_WITH_RUNGS
            places = self._numbers.size(generation) - index  # before it may be the rest of the first population
            found = self.screening.plan(self, generation, places * share)
            self._plan = generation, index, [p._replace(operator=SCREENED + p.operator) for p in found]
        _, begin, found = self._plan
        return found[index - begin : index - begin + 1]

    # -- tell ---------------------------------------------------------------------------------------------------

    def tell(self, candidate: Candidate, values: Mapping[str, float] | None, violation: float = 0.0) -> None:
        """Report one result.

        Args:
            values: one finite number per objective and watched name. Of a candidate that was found infeasible before it
                had them all those that it has, or None: a surrogate learns from what there is. None of one that failed.
            violation: by how much constraints are broken, 0 when they are met. A candidate with ``values`` None and
                ``violation`` 0 has failed: it is never a parent and never on a front.

        Raises:
            EvonasError: the candidate is not outstanding, or a number is missing or not finite; nothing has changed.
        """
        waiting = self._outstanding.get(candidate.generation, {})
        asked = waiting.get(candidate.index)
        if asked is not candidate and asked != candidate:
            raise EvonasError(f"candidate {candidate.genome.id} was not asked for, or told twice")
        self._count(candidate, self.placed(candidate), values, violation)
        self._finish_generations()

    def _count(
        self, candidate: Candidate, placed: Candidate, values: Mapping[str, float] | None, violation: float
    ) -> None:
        individual = self._individual(placed, self._numbers.number(placed), values, violation)
        del self._outstanding[candidate.generation][candidate.index]
        self._told.setdefault(placed.generation, {})[candidate.genome.id] = individual
        self._children.setdefault(placed.generation, []).append(placed)
        self._note(placed, individual)

    def placed(self, candidate: Candidate) -> Candidate:
        """The candidate at the generation and index where its result will count: those at which it was asked for."""
        return candidate

    def _finish_generations(self) -> None:
        while self._is_complete(self.generation):
            self._finish_generation()

    def _size_of(self, generation: int) -> int:
        """How many new genomes it takes; the first population may have been less than was wanted."""
        size = self._numbers.size(generation)
        return min(size, len(self._first)) if generation == 0 else size

    def _is_complete(self, generation: int) -> bool:
        asked = self._asked - self._numbers.start(generation)
        size = self._size_of(generation)
        size = min(self._short.get(generation, size), size)
        waits = self._outstanding.get(generation, {None}) or any(c.generation == generation for c in self._promoted)
        return not waits and asked >= size

    def _finish_generation(self) -> None:
        children = sorted(self._children.pop(self.generation, ()), key=lambda candidate: candidate.index)
        self._born += sum(not candidate.rung for candidate in children)
        later = [c for told in self._children.values() for c in told]
        self._put_in_order([*children, *sorted(later, key=lambda candidate: (candidate.generation, candidate.index))])
        judge(self, children)
        told = self._told.pop(self.generation, {})
        pool = [p for p in self.population if p.genome.id not in told]
        aside = [i for i in self.reserve if i.genome.id not in told]
        pool += sorted((i for i in told.values() if i is not None), key=lambda i: i.index)
        self._expect([*pool, *aside])
        rng = np.random.default_rng((self.seed, self.generation, 2**31))
        self.population = self.toolbox.select(pool, self.population_size, rng)
        if self.rungs > 1:
            members = {i.genome.id for i in self.population}
            self._set_aside(i for i in (*pool, *aside) if i.genome.id not in members)
        self._forget(self.generation)
        self._short.pop(self.generation, None)
        self.generation += 1
        # A short last generation (space exhausted) ends here: numbering goes on with the next one.
        self._asked = max(self._asked, self._numbers.start(self.generation))
        # Candidates of later generations may have been told already: the box must not depend on that.
        born = self._numbers.start(self.generation)
        come = self.box is None and self._spread(self.generation)
        if come and any(i.index < born for i in self._successes(self.rungs - 1)):
            done = sorted((i for i in self.archive.values() if i.index < born), key=lambda i: i.index)
            self._expect(done)
            self.box = hypervolume_box(self.points([i for i in done if i.feasible]))
        self._add_up()
        self._promote()

    def _forget(self, generation: int) -> None:
        del self._outstanding[generation]

    def _spread(self, generation: int) -> bool:
        """Whether those of the generations before that one say what the space holds: the best known come first."""
        return generation > 1 or self._numbers.start(generation) >= len(self._first)

    # -- state and results --------------------------------------------------------------------------------------

    def restore(
        self,
        told: Iterable[tuple[Candidate, Mapping[str, float] | None, float]],
        population: Sequence[str],
        generation: int,
        box: tuple[Sequence[float], Sequence[float]] | None,
        exhausted: bool = False,
        reserve: Sequence[str] = (),
    ) -> None:
        """Continue after ``generation`` finished generations, exactly as if this engine had run them, one after the
        other: where some were asked for before all before them were told, what follows may be another.

        Args:
            told: every candidate of the finished generations with what ``tell`` was given, in order of generation and
                index.
            population: genome ids of the members, in order.
            box: the hypervolume's ideal and reference point, None if there was none yet.
            exhausted: whether the space was.
            reserve: genome ids of those set aside, in order.
        """
        self.prepare()  # before credit changes what mutations would be drawn for it
        told, members, children = list(told), {}, []
        self._born = sum(not candidate.rung for candidate, *_ in told)
        final = None if box is None else (np.array(box[0], float), np.array(box[1], float))
        for candidate, values, violation in told:
            if children and candidate.generation != children[0].generation:
                judge(self, children)
                # Drawn after the first generation with a success was judged.
                self.box = final if self.best and self._spread(candidate.generation) else None
                self._add_up()
                children = []
            children.append(candidate)
            self.seen.add(candidate.genome.id)
            individual = self._individual(candidate, self._numbers.number(candidate), values, violation)
            self._note(candidate, individual)
            if candidate.rung:
                self._climbed[candidate.genome.id] = candidate.rung
            if individual is not None:
                members[candidate.genome.id] = individual
        judge(self, children)
        # Another version may have drawn another first population; of this one, some may have been overtaken.
        self._drawn = min(self._born, len(self._first))
        if 2 * sum(c.genome.id in self.seen for c in self._first) > self._drawn:
            self._drawn = 0
        unknown = [i for i in (*population, *reserve) if i not in members]
        if unknown:
            raise EvonasError(f"population member {unknown[0]} has no evaluation to restore it from")
        self.population, self.reserve = ([members[i] for i in ids] for ids in (population, reserve))
        self.generation, self._asked = generation, self._numbers.start(generation)
        self.box = final
        self._add_up()
        self.exhausted = exhausted
        self._expect([*self.population, *self.reserve])
        self._promote()
