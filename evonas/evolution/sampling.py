"""The first population: seeds, what an expert would try first, and the space stratified by size, field by field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np

from ..errors import EXIT_FAILED, EvonasError
from ..genome import Genome, SearchSpace
from ..genome.gene import Gene
from .candidate import Candidate
from .variation import is_size

_STRATA_ATTEMPTS = 10
_WALK_STEPS, _FRUITLESS = 300, 2  # mutations towards the constraints; rounds of eight walks that bring nothing new
_JITTERS = (0.0, 0.1, 0.25)  # spread of a per-layer gene around its field's level
_LOOSE = (0.0, 0.05, 0.15)  # spread of ordered genes around the prior, and the share of others that leave it
_FURTHEST = 7  # mutations besides the first, of a mutant of a seed
_TWINS = 4  # of what seeds leave of the first population, one in so many is a seed with the prior's way of training


def stratified(space: SearchSpace, n: int, rng: np.random.Generator, scaled: bool = False) -> list[Genome]:
    """``n`` genomes that cover the space from its small to its large end.

    Drawn independently, per-layer genes average out and the ends are never seen. Here each field (a gene with all its
    layers) gets one level per genome by Latin hypercube (McKay et al. 1979); half of a genome's size fields take the
    genome's overall size instead, so that all-small and all-large networks occur. ``scaled``: all of them do, the
    number of layers its square.
    """
    size = _strata(n, rng)
    levels = {gene.name: _strata(n, rng) for gene in space.genes.values()}
    return [_genome(space, i, size[i], levels, scaled, rng) for i in range(n)]


class Strata:
    """``stratified`` genomes without an end, ``n`` at a time; each is told by its place alone."""

    def __init__(self, space: SearchSpace, n: int, seed: int) -> None:
        self._space, self._n, self._seed = space, n, seed
        self._block, self._drawn = -1, []

    def at(self, place: int) -> Genome:
        block, k = divmod(place, self._n)
        if block != self._block:
            rng = np.random.default_rng((self._seed, block, 2**31 + 5))
            self._block, self._drawn = block, stratified(self._space, self._n, rng)
        return self._drawn[k]


def around_prior(space: SearchSpace, n: int, rng: np.random.Generator) -> list[Genome]:
    """``n`` genomes at the space's prior, or near it, in the genes it names, and ``stratified`` in the rest. Of
    transformers the sizes are ``scaled`` together, as an expert scales a network (Tan and Le 2019, "EfficientNet"), and
    wide before deep: layers wait for one another, and the loss hardly depends on the shape (Kaplan et al. 2020).

    What an expert would try first is worth a part of the trials, and no more than that: it may be wrong (Mallik et al.
    2023, "PriorBand").
    """
    return [_near_prior(space, genome, rng) for genome in stratified(space, n, rng, space.kind == "transformer")]


def with_prior(space: SearchSpace, genome: Genome) -> Genome:
    """``genome`` with the prior's values in all that is no size: its network, built and trained as an expert would."""
    named = {n: v for n, v in space.prior.items() if not is_size(space, space.genes[n])}
    return space.repair({**space.genes_of(genome), **named})


def _near_prior(space: SearchSpace, genome: Genome, rng: np.random.Generator) -> Genome:
    loose, values = _LOOSE[rng.integers(len(_LOOSE))], space.genes_of(genome)
    for name, value in space.prior.items():
        gene = space.genes[name]
        if loose and gene.is_ordered:
            unit = gene.to_unit(value) + loose * rng.standard_normal()
            value = gene.from_unit(np.clip(unit, 0.0, 1 - 1e-12))
        if gene.is_ordered or rng.random() >= loose:
            values[name] = value
    return space.repair(values)


def _genome(
    space: SearchSpace, i: int, size: float, levels: dict[str, np.ndarray], scaled: bool, rng: np.random.Generator
) -> Genome:
    def level(gene: Gene) -> float:
        if not (is_size(space, gene) and (scaled or rng.random() < 0.5)):
            return levels[gene.name][i]
        return size**2 if scaled and gene.name == space.length else size

    values: dict[str, Any] = {g.name: g.from_unit(level(g)) for g in space.scalar_genes}
    for gene in space.layer_genes:
        depth = values[space.length]
        if gene.is_ordered:
            jitter = _JITTERS[rng.integers(len(_JITTERS))]
            units = np.clip(level(gene) + jitter * rng.standard_normal(depth), 0.0, 1 - 1e-12)
        else:
            units = rng.random(depth)
        values[gene.name] = tuple(gene.from_unit(u) for u in units)
    return space.repair(values)


def _strata(n: int, rng: np.random.Generator) -> np.ndarray:
    """One draw from each of ``n`` equal parts of [0, 1), in random order."""
    return (rng.permutation(n) + rng.random(n)) / n


def first_population(
    space: SearchSpace,
    size: int,
    seeds: Sequence[Genome],
    mutate: Callable[..., tuple[Genome, str]],
    screen: Callable[[Genome], float],
    rng: np.random.Generator,
) -> list[Candidate]:
    """At most ``size`` different candidates: the seed genomes; for half of the rest mutants of theirs, from close by to
    several mutations away; and ``stratified`` ones, or where few of these pass the screen, ones that are mutated
    towards it. Where the space has a prior, seeds are tried ``with_prior`` too, and every other stratified one is
    ``around_prior`` unless none of these passes. Raises EvonasError where none is found that passes."""
    out = [Candidate(g, (), "seed", 0, i) for i, g in enumerate(seeds)]
    taken = {c.genome.id for c in out}

    def add(genome: Genome, parents: tuple[str, ...], operator: str) -> None:
        if len(out) < size and genome.id not in taken and screen(genome) <= 0:
            taken.add(genome.id)
            out.append(Candidate(genome, parents, operator, 0, len(out)))

    rest = size - len(out)
    for seed in seeds[: rest // _TWINS] if space.prior else ():
        add(with_prior(space, seed), (seed.id,), "prior")
    for k in range(rest // 2 if seeds else 0):
        parent = child = seeds[k % len(seeds)]
        for _ in range(1 + min(k // 2, _FURTHEST)):
            child, name = mutate(child, space, rng)
        add(child, (parent.id,), name)
    prior = bool(space.prior)
    for _ in range(_STRATA_ATTEMPTS):
        missing = size - len(out)
        if missing == 0:
            break
        fresh = _fresh(space, max(missing, 8), prior, rng)
        for genome, operator in fresh:
            add(genome, (), operator)
        prior = any(operator == "prior" and genome.id in taken for genome, operator in fresh)
    fruitless = 0
    while len(out) < size and fruitless < _FRUITLESS:
        before = len(out)
        for genome in stratified(space, 8, rng):
            add(_towards(genome, space, mutate, screen, rng), (), "stratified")
        fruitless = 0 if len(out) > before else fruitless + 1
    if not out:
        raise EvonasError(
            "no genome was found that meets the constraints that are known before training",
            "Loosen the constraint or widen the space.",
            exit_code=EXIT_FAILED,
        )
    return out


def best_known_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """A first population in the order of what is known of it: seeds, the prior and mutants in turns, the rest."""
    kinds: dict[str, list[Candidate]] = {kind: [] for kind in ("seed", "prior", "mutant", "stratified")}
    for candidate in candidates:
        kinds[candidate.operator if candidate.operator in kinds else "mutant"].append(candidate)
    turns = [c for pair in zip_longest(kinds["prior"], kinds["mutant"]) for c in pair if c is not None]
    ordered = kinds["seed"] + turns + kinds["stratified"]
    return [replace(candidate, index=i) for i, candidate in enumerate(ordered)]


def _fresh(space: SearchSpace, n: int, prior: bool, rng: np.random.Generator) -> list[tuple[Genome, str]]:
    """(genome, operator): ``stratified``, or in turn ``around_prior`` and ``stratified``."""
    if not prior:
        return [(genome, "stratified") for genome in stratified(space, n, rng)]
    pairs = zip(around_prior(space, -(-n // 2), rng), stratified(space, -(-n // 2), rng))
    return [each for near, far in pairs for each in ((near, "prior"), (far, "stratified"))]


def _towards(genome: Genome, space: SearchSpace, mutate, screen, rng: np.random.Generator) -> Genome:
    """The genome, mutated as long as it breaks constraints, no mutation breaking them more."""
    broken = screen(genome)
    for _ in range(_WALK_STEPS):
        if broken <= 0:
            break
        child, _ = mutate(genome, space, rng)
        now = screen(child)
        if now <= broken:
            genome, broken = child, now
    return genome
