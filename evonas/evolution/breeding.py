"""Children of told genomes: who their parents are, crossover, mutation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from deap import base

from ..genome import Genome, SearchSpace
from ..genome.codes import Coder, Codes
from .fitness import Individual
from .variation import mate, mate_codes, mutate, mutate_codes

_MATE, _MUTATE_CHILD = 0.6, 0.8


class Proposal(NamedTuple):
    """A genome with the ids of its parents and the operator that made it. Between a parent that was told and this one
    may lie some that were never asked for."""

    genome: Genome
    parents: tuple[str, ...]
    operator: str


def breeds_at_once(toolbox: base.Toolbox) -> bool:
    """Whether its crossover, mutation and choice of parents are those that can do many at once."""
    made, changed, chosen = (
        getattr(tool, "func", tool) for tool in (toolbox.mate, toolbox.mutate, toolbox.select_parents)
    )
    return made is mate and changed is mutate and hasattr(chosen, "pairs")


def offspring(
    toolbox: base.Toolbox, space: SearchSpace, parents: Sequence[Individual], n: int, rng: np.random.Generator
) -> list[Proposal]:
    """``n`` children by the toolbox's selection of parents, crossover and mutation. They may be alike, or known."""
    if not parents:
        return [Proposal(space.sample(rng), (), "sample") for _ in range(n)]
    if not breeds_at_once(toolbox):
        return [_child(toolbox, space, parents, rng) for _ in range(n)]
    pairs = toolbox.select_parents.func.pairs(parents, n, rng)
    coder = space.coder
    first, second = (coder.of([i.genome for i in side]) for side in zip(*pairs))
    many = partial(mutate_codes, share=toolbox.mutate.keywords.get("share"))
    children, mated, names = bred(first, second, coder, rng, mate_codes, many)
    return [
        Proposal(genome, (a.genome.id, b.genome.id) if both else (a.genome.id,), _operator(both, name))
        for genome, (a, b), both, name in zip(coder.decode(children), pairs, mated.tolist(), names)
    ]


def bred(
    first: Codes, second: Codes, coder: Coder, rng: np.random.Generator, mate: Callable, mutate: Callable
) -> tuple[Codes, np.ndarray, np.ndarray]:
    """Children of n pairs, mask (n,) of those that both parents have made, names (n,) of their mutations, "" without
    one. ``mate`` and ``mutate`` are called as ``mate_codes`` and ``mutate_codes`` are."""
    n = len(first)
    mated = ~first.same(second) & (rng.random(n) < _MATE)
    children = first[:]
    children[mated] = mate(first[mated], second[mated], coder, rng)
    mutated = ~mated | (rng.random(n) < _MUTATE_CHILD) | children.same(first) | children.same(second)
    children[mutated], mutations = mutate(children[mutated], coder, rng)
    names = np.full(n, "", dtype=object)
    names[mutated] = mutations
    return children, mated, names


def _child(
    toolbox: base.Toolbox, space: SearchSpace, parents: Sequence[Individual], rng: np.random.Generator
) -> Proposal:
    first, second = (p.genome for p in toolbox.select_parents(parents, 2, rng))
    if first == second or rng.random() >= _MATE:
        child, name = toolbox.mutate(first, space, rng)
        return Proposal(child, (first.id,), name)
    child, name = toolbox.mate(first, second, space, rng), ""
    if rng.random() < _MUTATE_CHILD or child in (first, second):
        child, name = toolbox.mutate(child, space, rng)
    return Proposal(child, (first.id, second.id), _operator(True, name))


def _operator(mated: bool, mutation: str) -> str:
    return "+".join(part for part in ("mate" if mated else "", mutation) if part)
