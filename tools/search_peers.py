"""Who else searches in ``bench_search.py``, each as its own documentation has it.

Every one is called with a space, an ``evaluate`` that takes a genome and may be called ``left`` times more, the number
of objectives, the budget and a seed. Optuna and pymoo come with ``.[bench]``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from evonas.genome import Genome, SearchSpace
from evonas.genome.gene import Gene

POPULATION = 32


class _Spent(Exception):
    """The budget is: a peer that evaluates whole generations is stopped within one."""


def _once_more(evaluate, genome: Genome) -> list[float]:
    if evaluate.left <= 0:
        raise _Spent
    return evaluate(genome)


def by_variable(space: SearchSpace, one: Callable[[Gene, str], Any]) -> dict[str, Any]:
    """Genes from a flat vector of variables: ``one`` takes a gene and a variable's name and gives its value. Per-layer
    genes have one for each layer of the deepest network, of which unused layers are ignored."""
    values = {gene.name: one(gene, gene.name) for gene in space.scalar_genes}
    for gene in space.layer_genes:
        values[gene.name] = tuple(one(gene, f"{gene.name}_{layer}") for layer in range(space.max_layers))
    return values


def _variables(space: SearchSpace) -> dict[str, Gene]:
    found: dict[str, Gene] = {}
    by_variable(space, lambda gene, name: found.setdefault(name, gene))
    return found


def run_random(space: SearchSpace, evaluate, m: int, budget: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    while evaluate.left > 0:
        evaluate(space.sample(rng))


def run_optuna(space: SearchSpace, evaluate, m: int, budget: int, seed: int, tpe: bool = False) -> None:
    import optuna
    from bench_evolve import _suggest

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers = optuna.samplers
    sampler = (
        samplers.TPESampler(multivariate=True, seed=seed)
        if tpe
        else samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    )
    study = optuna.create_study(directions=["minimize"] * m, sampler=sampler)
    while evaluate.left > 0:
        trial = study.ask()
        study.tell(trial, evaluate(space.repair(_suggest(space, trial))))


def run_pymoo(space: SearchSpace, evaluate, m: int, budget: int, seed: int) -> None:
    """Its algorithm for mixed variables with NSGA-II's survival, which looks for twins itself."""
    from pymoo.algorithms.moo.nsga2 import RankAndCrowdingSurvival
    from pymoo.core.mixed import MixedVariableGA
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.core.variable import Choice, Integer, Real
    from pymoo.optimize import minimize

    def variable(gene: Gene):
        if gene.options is None:
            return Real(bounds=(0.0, 1.0))  # on the gene's own scale
        if gene.is_ordered:
            return Integer(bounds=(0, len(gene.options) - 1))
        return Choice(options=list(range(len(gene.options))))

    def value(gene: Gene, x) -> Any:
        return gene.from_unit(float(x)) if gene.options is None else gene.options[int(x)]

    genes = _variables(space)

    class Problem(ElementwiseProblem):
        def __init__(self) -> None:
            super().__init__(vars={name: variable(gene) for name, gene in genes.items()}, n_obj=m)

        def _evaluate(self, x, out, *args, **kwargs) -> None:
            values = by_variable(space, lambda gene, name: value(gene, x[name]))
            out["F"] = _once_more(evaluate, space.repair(values))

    algorithm = MixedVariableGA(pop_size=POPULATION, survival=RankAndCrowdingSurvival())
    with contextlib.suppress(_Spent):
        minimize(Problem(), algorithm, ("n_eval", budget + POPULATION), seed=seed, verbose=False)


def run_deap(space: SearchSpace, evaluate, m: int, budget: int, seed: int) -> None:
    """The NSGA-II of its examples: tournaments on dominance and crowding, simulated binary crossover and polynomial
    mutation, bounded, of positions on the genes' own scales."""
    import random

    from deap import base, tools

    class Fitness(base.Fitness):
        weights = (-1.0,) * m

    class Member(list):
        def __init__(self, units) -> None:
            super().__init__(units)
            self.fitness = Fitness()

    places = {name: k for k, name in enumerate(_variables(space))}

    def genome(member: Member) -> Genome:
        return space.repair(by_variable(space, lambda gene, name: gene.from_unit(min(member[places[name]], 1 - 1e-12))))

    def evaluated(members: list[Member]) -> list[Member]:
        for member in members:
            member.fitness.values = _once_more(evaluate, genome(member))
        return members

    random.seed(seed)  # from here its operators draw
    bounds = {"low": 0.0, "up": 1.0}
    with contextlib.suppress(_Spent):
        population = evaluated([Member(random.random() for _ in places) for _ in range(POPULATION)])
        population = tools.selNSGA2(population, POPULATION)
        while True:
            children = [Member(member) for member in tools.selTournamentDCD(population, POPULATION)]
            for one, other in zip(children[::2], children[1::2]):
                if random.random() <= 0.9:
                    tools.cxSimulatedBinaryBounded(one, other, eta=20.0, **bounds)
                for child in (one, other):
                    tools.mutPolynomialBounded(child, eta=20.0, indpb=1 / len(places), **bounds)
            population = tools.selNSGA2(population + evaluated(children), POPULATION)


PEERS: dict[str, Callable] = {
    "random": run_random,
    "optuna NSGA-II": run_optuna,
    "optuna TPE": lambda *a: run_optuna(*a, tpe=True),
    "pymoo NSGA-II": run_pymoo,
    "DEAP NSGA-II": run_deap,
}
