"""Crossover and mutation that know the space, of one genome or of many at a time.

They work on arrays (see ``evonas.genome.codes``) and draw from the given generator alone. n genomes
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..genome import TRAINING_GENES, Genome, SearchSpace
from ..genome.codes import Coder, Codes, taken
from ..genome.gene import Gene

_BETWEEN = 0.3  # share of ordered genes that a child has from between its parents
_TRIES = 20  # mutations of one genome, until it differs


def mate(first: Genome, second: Genome, space: SearchSpace, rng: np.random.Generator) -> Genome:
    """A child of two genomes; see ``mate_codes``."""
    coder = space.coder
    return coder.decode(mate_codes(coder.encode([first]), coder.encode([second]), coder, rng))[0]


def mutate(
    genome: Genome, space: SearchSpace, rng: np.random.Generator, share: Callable[[str], float] | None = None
) -> tuple[Genome, str]:
    """A different genome of the space near ``genome``, and the name of the operator that made it. Where the space
    holds nothing else nearby, ``genome`` itself comes back. ``share`` gives other shares than those of MUTATIONS."""
    coder = space.coder
    codes = coder.encode([genome])
    for _ in range(_TRIES):  # other codes may be the same genome: widths that round alike, say
        children, names = mutate_codes(codes, coder, rng, share)
        if names[0] == "none":
            break
        if (child := coder.decode(children)[0]) != genome:
            return child, names[0]
    return genome, "none"


def mate_codes(first: Codes, second: Codes, coder: Coder, rng: np.random.Generator) -> Codes:
    """Children of n pairs, repaired.

    Scalar genes come from either parent, ordered ones now and then from between; layers come from one parent, with one
    aligned segment (by relative depth) taken from the other: whole layers, or a single field of them.
    """
    swap = rng.random(len(first)) < 0.5
    base, other = first[:], second[:]
    base[swap], other[swap] = second[swap], first[swap]
    depths, other_depths = coder.depths(base), coder.depths(other)
    draws = rng.random((3, *base.scalars.shape))
    for k, column in enumerate(coder.scalar_columns):
        if k == coder.length_at:
            continue
        a, b = base.scalars[:, k], other.scalars[:, k]
        child = np.where(draws[0, :, k] < 0.5, b, a)
        if column.gene.is_ordered:
            u = draws[2, :, k]
            between = column.at(np.minimum(u * column.units(a) + (1 - u) * column.units(b), 1 - 1e-12))
            child = np.where((a != b) & (draws[1, :, k] < _BETWEEN), between, child)
        base.scalars[:, k] = child
    if coder.layer_columns:
        _exchange_segments(base, other, depths, other_depths, rng)
    return coder.repaired(base)


def _exchange_segments(base: Codes, other: Codes, depths: np.ndarray, other_depths: np.ndarray, rng) -> None:
    n, slots, fields = base.layers.shape
    at = np.arange(slots)[None]
    start, stop = np.sort(rng.random((2, n, 1)), axis=0)
    middle = (at + 0.5) / depths[:, None]
    inside = (start <= middle) & (middle < stop) & (at < depths[:, None])
    one = at == (rng.random(n) * depths).astype(int)[:, None]
    inside = np.where(inside.any(axis=1, keepdims=True), inside, one)
    only = np.where(rng.random(n) < 0.5, rng.integers(fields, size=n), -1)  # a single field, or all
    chosen = (only[:, None] < 0) | (only[:, None] == np.arange(fields)[None])
    sources = np.minimum((middle * other_depths[:, None]).astype(int), other_depths[:, None] - 1)
    exchanged = inside[:, :, None] & chosen[:, None, :]
    base.layers = np.where(exchanged, taken(other.layers, sources), base.layers)


# -- mutations: each changes codes in place, and returns how many layers are there then (n,) --------------------------


def step_genes(codes: Codes, coder: Coder, rng: np.random.Generator) -> np.ndarray:
    """One to three genes move on their own scale; a per-layer gene in one layer."""
    depths = coder.depths(codes)
    counts = 1 + rng.binomial(2, 0.3, size=len(codes))
    for turn in range(counts.max(initial=0)):
        rows = np.flatnonzero(counts > turn)
        layers = (rng.random(len(rows)) * depths[rows]).astype(int)
        for cells, column, mine in _cells(codes, coder, rng.integers(len(coder.columns), size=len(rows)), rows, layers):
            cells[mine] = column.moved(cells[mine], rng)
    return depths


def shift_field(codes: Codes, coder: Coder, rng: np.random.Generator) -> np.ndarray:
    """One field grows or shrinks: a per-layer gene by one option in every layer, or an ordered scalar gene."""
    fields = np.array([k for k, c in enumerate(coder.columns) if c.has_neighbours], dtype=int)
    if not len(fields):
        return step_genes(codes, coder, rng)
    depths = coder.depths(codes)
    directions = rng.choice((-1.0, 1.0), size=len(codes))
    for cells, column, mine in _cells(codes, coder, fields[rng.integers(len(fields), size=len(codes))]):
        to = directions[mine].reshape(-1, *[1] * (cells.ndim - 1))
        cells[mine] = column.shifted(cells[mine], to)
    return depths


def ramp_field(codes: Codes, coder: Coder, rng: np.random.Generator) -> np.ndarray:
    """One per-layer field becomes a straight line through the layers, or flat, about where it was."""
    layered = [k for k, c in enumerate(coder.columns) if c.gene.per_layer and c.has_neighbours]
    if not layered:
        return step_genes(codes, coder, rng)
    depths, at = coder.depths(codes)[:, None], np.arange(coder.max_layers)[None]
    rises = 0.5 * rng.standard_normal(len(codes)) * (rng.random(len(codes)) < 0.7)
    lines = np.where(depths > 1, at / np.maximum(depths - 1, 1) - 0.5, 0.0) * rises[:, None]
    fields = np.array(layered)[rng.integers(len(layered), size=len(codes))]
    for cells, column, mine in _cells(codes, coder, fields):
        units = np.where(at < depths[mine], column.units(cells[mine]), 0.0)
        middle = units.sum(axis=1, keepdims=True) / depths[mine]
        cells[mine] = column.at(np.clip(middle + lines[mine], 0.0, 1 - 1e-12))
    return depths[:, 0]


def scale_sizes(codes: Codes, coder: Coder, rng: np.random.Generator) -> np.ndarray:
    """The network grows or shrinks as a whole: most of its size genes, depth among them, go the same share of their way
    to the large or the small end; layers are repeated or left out evenly. What was learned at one size is so tried at
    another at once, where single steps would have to pay one by one."""
    n, before = len(codes), coder.depths(codes)
    ends, shares = rng.integers(2, size=n).astype(float), rng.uniform(0.2, 0.8, size=n)
    for cells, column in _fields(codes, coder):
        if not is_size(coder.space, column.gene):
            continue
        mine = np.flatnonzero(rng.random(n) >= 0.3)
        end, share = (v[mine].reshape(-1, *[1] * (cells.ndim - 1)) for v in (ends, shares))
        units = column.units(cells[mine])
        cells[mine] = column.at(units + share * (end - units))
    depths = coder.depths(codes)
    if coder.layer_columns:
        middle = (np.arange(coder.max_layers)[None] + 0.5) / depths[:, None]
        codes.layers = taken(codes.layers, np.minimum((middle * before[:, None]).astype(int), before[:, None] - 1))
    return depths


def insert_layer(codes: Codes, coder: Coder, rng: np.random.Generator) -> np.ndarray:
    """A new layer, drawn from the space, at a random depth."""
    depths = coder.depths(codes)
    new = (rng.random(len(codes)) * (depths + 1)).astype(int)
    drawn = np.stack([c.drawn(rng, len(codes)) for c in coder.layer_columns], axis=1)
    at = np.arange(coder.max_layers)[None]
    rows = np.where((at == new[:, None])[:, :, None], drawn[:, None], taken(codes.layers, at - (at > new[:, None])))
    return _with_layers(codes, coder, depths, depths + 1, rows)


def duplicate_layer(codes: Codes, coder: Coder, rng: np.random.Generator) -> np.ndarray:
    """A copy of one layer beside it."""
    depths, at = coder.depths(codes), np.arange(coder.max_layers)[None]
    which = (rng.random(len(codes)) * depths).astype(int)[:, None]
    return _with_layers(codes, coder, depths, depths + 1, taken(codes.layers, at - (at > which)))


def remove_layer(codes: Codes, coder: Coder, rng: np.random.Generator) -> np.ndarray:
    """One layer less."""
    depths, at = coder.depths(codes), np.arange(coder.max_layers)[None]
    which = (rng.random(len(codes)) * depths).astype(int)[:, None]
    return _with_layers(codes, coder, depths, depths - 1, taken(codes.layers, at + (at >= which)))


def redraw_gene(codes: Codes, coder: Coder, rng: np.random.Generator) -> np.ndarray:
    """One gene drawn anew, a per-layer gene with one value for all layers."""
    depths = coder.depths(codes)
    for cells, column, mine in _cells(codes, coder, rng.integers(len(coder.columns), size=len(codes))):
        drawn = column.drawn(rng, len(cells[mine]))
        cells[mine] = drawn.reshape(-1, *[1] * (cells.ndim - 1))
    return depths


def _with_layers(codes: Codes, coder: Coder, before: np.ndarray, after: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Where the space has such a number of layers."""
    there = coder.set_depths(codes, after)
    codes.layers = np.where(there[:, None, None], layers, codes.layers)
    return np.where(there, after, before)


def is_size(space: SearchSpace, gene: Gene) -> bool:
    """Whether the gene says how large the network is: an ordered one on a linear scale that is no training gene."""
    if space.kind == "transformer" and gene.name in TRAINING_GENES:
        return False
    return gene.is_ordered and not gene.log


def _fields(codes: Codes, coder: Coder):
    """(the codes of a gene as a view, (n,) or (n, l); its column) of each gene."""
    for k, column in enumerate(coder.scalar_columns):
        yield codes.scalars[:, k], column
    for k, column in enumerate(coder.layer_columns):
        yield codes.layers[:, :, k], column


def _cells(codes: Codes, coder: Coder, genes: np.ndarray, rows: np.ndarray | None = None, layers=None):
    """(view, column, where in it) of each gene that is chosen; ``genes`` says which one for each of ``rows`` (all of
    them without), in the layer that ``layers`` says (all of them without)."""
    rows = np.arange(len(codes)) if rows is None else rows
    fields = list(_fields(codes, coder))
    for g in np.unique(genes):
        cells, column = fields[g]
        mine = rows[genes == g]
        yield cells, column, (mine, layers[genes == g]) if cells.ndim == 2 and layers is not None else mine


# Operator and its share of the mutations.
MUTATIONS: dict[str, tuple[Callable[[Codes, Coder, np.random.Generator], np.ndarray], float]] = {
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


def mutate_codes(
    codes: Codes, coder: Coder, rng: np.random.Generator, share: Callable[[str], float] | None = None
) -> tuple[Codes, list[str]]:
    """Mutants of n genomes, repaired, and the name of the mutation that made each; "none" where nothing else was found
    nearby, and the genome is as it was."""
    names = [n for n in MUTATIONS if coder.layer_columns or n not in _LAYER_MUTATIONS]
    shares = np.array([MUTATIONS[n][1] if share is None else share(n) for n in names])
    out, used = codes[:], np.full(len(codes), -1)
    left = np.arange(len(codes))
    for _ in range(_TRIES):
        if not len(left):
            break
        chosen = rng.choice(len(names), size=len(left), p=shares / shares.sum())
        for m in np.unique(chosen):
            rows = left[chosen == m]
            children = codes[rows]
            filled = MUTATIONS[names[m]][0](children, coder, rng)
            out[rows] = coder.fitted(children, filled)
        used[left] = chosen
        out[left] = coder.repaired(out[left])
        same = out[left].same(codes[left])
        used[left[same]] = -1
        left = left[same]
    return out, [names[m] if m >= 0 else "none" for m in used]
