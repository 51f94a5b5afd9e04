"""Crossover and mutation that know the space. Pure functions of (genome, space, rng)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..genome import TRAINING_GENES, Genome, SearchSpace
from ..genome.gene import Gene

Values = dict[str, Any]


def mate(first: Genome, second: Genome, space: SearchSpace, rng: np.random.Generator) -> Genome:
    """A child of two genomes.

    Scalar genes come from either parent, ordered ones now and then from between; layers come from one parent, with one
    aligned segment (by relative depth) taken from the other: whole layers, or a single field of them.
    """
    base, other = (first, second) if rng.random() < 0.5 else (second, first)
    base, other = space.genes_of(base), space.genes_of(other)
    child: Values = dict(base)
    for gene in space.scalar_genes:
        if gene.name == space.length:
            continue
        a, b = base[gene.name], other[gene.name]
        if gene.is_ordered and a != b and rng.random() < 0.3:
            u = rng.random()
            child[gene.name] = gene.from_unit(min(u * gene.to_unit(a) + (1 - u) * gene.to_unit(b), 1 - 1e-12))
        elif rng.random() < 0.5:
            child[gene.name] = b
    if space.layer_genes:
        child.update(_exchange_segment(base, other, space, rng))
    return space.repair(child)


def _exchange_segment(base: Values, other: Values, space: SearchSpace, rng: np.random.Generator) -> Values:
    depth, other_depth = base[space.length], other[space.length]
    start, stop = np.sort(rng.random(2))
    inside = [i for i in range(depth) if start <= (i + 0.5) / depth < stop] or [int(rng.integers(depth))]
    names = [g.name for g in space.layer_genes]
    if rng.random() < 0.5:
        names = [names[rng.integers(len(names))]]
    out = {}
    for name in names:
        values = list(base[name])
        for i in inside:
            values[i] = other[name][min(int((i + 0.5) / depth * other_depth), other_depth - 1)]
        out[name] = tuple(values)
    return out


def step_genes(values: Values, space: SearchSpace, rng: np.random.Generator) -> Values:
    """One to three genes move on their own scale; a per-layer gene in one layer."""
    count = 1 + rng.binomial(2, 0.3)
    for _ in range(count):
        gene = list(space.genes.values())[rng.integers(len(space.genes))]
        if not gene.per_layer:
            values[gene.name] = gene.moved(values[gene.name], rng)
            continue
        row = list(values[gene.name])
        i = rng.integers(len(row))
        row[i] = gene.moved(row[i], rng)
        values[gene.name] = tuple(row)
    return values


def shift_field(values: Values, space: SearchSpace, rng: np.random.Generator) -> Values:
    """One field grows or shrinks: a per-layer gene by one option in every layer, or an ordered scalar gene."""
    fields = [g for g in space.genes.values() if g.is_ordered and (g.options is None or len(g.options) > 1)]
    if not fields:
        return step_genes(values, space, rng)
    gene, direction = fields[rng.integers(len(fields))], int(rng.choice((-1, 1)))
    value = values[gene.name]
    values[gene.name] = (
        tuple(gene.shifted(v, direction) for v in value) if gene.per_layer else gene.shifted(value, direction)
    )
    return values


def ramp_field(values: Values, space: SearchSpace, rng: np.random.Generator) -> Values:
    """One per-layer field becomes a straight line through the layers, or flat, about where it was."""
    fields = [g for g in space.layer_genes if g.is_ordered and (g.options is None or len(g.options) > 1)]
    if not fields:
        return step_genes(values, space, rng)
    gene = fields[rng.integers(len(fields))]
    units = [gene.to_unit(v) for v in values[gene.name]]
    middle, rise = float(np.mean(units)), 0.5 * rng.standard_normal() * (rng.random() < 0.7)
    line = middle + rise * np.linspace(-0.5, 0.5, len(units)) if len(units) > 1 else np.array([middle])
    values[gene.name] = tuple(gene.from_unit(min(max(float(u), 0.0), 1 - 1e-12)) for u in line)
    return values


def scale_sizes(values: Values, space: SearchSpace, rng: np.random.Generator) -> Values:
    """The network grows or shrinks as a whole: most of its size genes, depth among them, go the same share of their way
    to the large or the small end; layers are repeated or left out evenly. What was learned at one size is so tried at
    another at once, where single steps would have to pay one by one."""
    end, share = float(rng.integers(2)), rng.uniform(0.2, 0.8)
    for gene in space.genes.values():
        if not is_size(space, gene) or rng.random() < 0.3:
            continue
        value = values[gene.name]

        def moved(old: Any, gene: Gene = gene) -> Any:
            unit = gene.to_unit(old)
            return gene.from_unit(unit + share * (end - unit))

        values[gene.name] = tuple(map(moved, value)) if gene.per_layer else moved(value)
    if space.layer_genes:
        depth = values[space.length]
        for gene in space.layer_genes:
            row = values[gene.name]
            values[gene.name] = tuple(row[min(int((i + 0.5) / depth * len(row)), len(row) - 1)] for i in range(depth))
    return values


def is_size(space: SearchSpace, gene: Gene) -> bool:
    """Whether the gene says how large the network is: an ordered one on a linear scale that is no training gene."""
    if space.kind == "transformer" and gene.name in TRAINING_GENES:
        return False
    return gene.is_ordered and not gene.log


def insert_layer(values: Values, space: SearchSpace, rng: np.random.Generator) -> Values:
    """A new layer, drawn from the space, at a random depth."""
    at = int(rng.integers(values[space.length] + 1))
    row = {g.name: g.sample(rng) for g in space.layer_genes}
    return _with_layers(values, space, lambda name, old: (*old[:at], row[name], *old[at:]))


def duplicate_layer(values: Values, space: SearchSpace, rng: np.random.Generator) -> Values:
    """A copy of one layer beside it."""
    at = int(rng.integers(values[space.length]))
    return _with_layers(values, space, lambda name, old: (*old[: at + 1], old[at], *old[at + 1 :]))


def remove_layer(values: Values, space: SearchSpace, rng: np.random.Generator) -> Values:
    """One layer less."""
    at = int(rng.integers(values[space.length]))
    return _with_layers(values, space, lambda name, old: (*old[:at], *old[at + 1 :]))


def redraw_gene(values: Values, space: SearchSpace, rng: np.random.Generator) -> Values:
    """One gene drawn anew, a per-layer gene with one value for all layers."""
    gene = list(space.genes.values())[rng.integers(len(space.genes))]
    value = gene.sample(rng)
    values[gene.name] = (value,) * len(values[gene.name]) if gene.per_layer else value
    return values


def _with_layers(values: Values, space: SearchSpace, change: Callable[[str, tuple], tuple]) -> Values:
    out = dict(values)
    for gene in space.layer_genes:
        out[gene.name] = change(gene.name, values[gene.name])
    depth = len(out[space.layer_genes[0].name])
    length = space.genes[space.length]
    if not length.contains(depth):
        return values
    out[space.length] = depth
    return out


# Operator and its share of the mutations.
MUTATIONS: dict[str, tuple[Callable[[Values, SearchSpace, np.random.Generator], Values], float]] = {
    "step": (step_genes, 0.34),
    "shift": (shift_field, 0.18),
    "scale": (scale_sizes, 0.08),
    "ramp": (ramp_field, 0.05),
    "duplicate": (duplicate_layer, 0.08),
    "remove": (remove_layer, 0.1),
    "insert": (insert_layer, 0.07),
    "redraw": (redraw_gene, 0.1),
}
_LAYER_MUTATIONS = ("ramp", "duplicate", "remove", "insert")


def mutate(
    genome: Genome, space: SearchSpace, rng: np.random.Generator, share: Callable[[str], float] | None = None
) -> tuple[Genome, str]:
    """A different genome of the space near ``genome``, and the name of the operator that made it. Where the space
    holds nothing else nearby, ``genome`` itself comes back. ``share`` gives other shares than those of MUTATIONS."""
    names = [n for n in MUTATIONS if space.layer_genes or n not in _LAYER_MUTATIONS]
    shares = np.array([MUTATIONS[n][1] if share is None else share(n) for n in names])
    for _ in range(20):
        name = names[rng.choice(len(names), p=shares / shares.sum())]
        child = space.repair(MUTATIONS[name][0](space.genes_of(genome), space, rng))
        if child != genome:
            return child, name
    return genome, "none"
