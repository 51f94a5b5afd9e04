"""Many genomes of one space at a time, as arrays.

n genomes, s scalar genes, f per-layer genes, l layers at most
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .column import Column
from .genome import Genome

if TYPE_CHECKING:
    from .rules import Rule
    from .space import SearchSpace

_DENSE = 2**20  # combinations, up to which a table has a place for each
_REMEMBERED = 200_000  # combinations, beyond which a table is emptied
_KEPT = 50_000  # genomes, beyond which their codes are forgotten


@dataclass
class Codes:
    """Codes (see ``Column``) of n genomes: ``scalars`` (n, s), ``layers`` (n, l, f), 0 in layers that are not there."""

    scalars: np.ndarray
    layers: np.ndarray

    def __len__(self) -> int:
        return len(self.scalars)

    def __getitem__(self, rows: Any) -> Codes:
        """A copy of some rows, by an array or a slice."""
        return Codes(np.array(self.scalars[rows]), np.array(self.layers[rows]))

    def __setitem__(self, rows: Any, other: Codes) -> None:
        self.scalars[rows], self.layers[rows] = other.scalars, other.layers

    def same(self, other: Codes) -> np.ndarray:
        """Mask (n,) of the rows that are alike."""
        return (self.scalars == other.scalars).all(axis=1) & (self.layers == other.layers).all(axis=(1, 2))

    def flat(self) -> np.ndarray:
        """All codes of a genome in one row (n, s + l f)."""
        n, slots, fields = self.layers.shape
        return np.hstack([self.scalars, self.layers.reshape(n, slots * fields)])


class Coder:
    """Genomes of a space to codes and back, and the repair of codes.

    Repairing is the space's own: what it says of a combination of genes that rules or conditions name is asked for once
    and kept in a table; only genomes that need more than one layer or its scalar genes alone to be mended are mended
    one by one.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.scalar_columns = [Column(g) for g in space.scalar_genes]
        self.layer_columns = [Column(g) for g in space.layer_genes]
        self.columns = [*self.scalar_columns, *self.layer_columns]  # in the order of the space's genes
        self._scalar_at = {g.name: k for k, g in enumerate(space.scalar_genes)}
        self._layer_at = {g.name: k for k, g in enumerate(space.layer_genes)}
        self.length_at = self._scalar_at.get(space.length) if space.layer_genes else None
        self.max_layers = space.max_layers if space.layer_genes else 0
        counts = space.genes[space.length].options if self.max_layers else (0,)
        self._counts = np.array(counts)
        self._count_codes = np.full(self.max_layers + 2, -1)  # number of layers -> code, -1 where there is none
        self._count_codes[self._counts] = np.arange(len(counts))
        self._kept: dict[int, tuple[Genome, np.ndarray]] = {}
        self._make_tables()

    # -- genomes ------------------------------------------------------------------------------------------------

    def of(self, genomes: Sequence[Genome]) -> Codes:
        """As ``encode``; of genomes that were decoded or asked for lately they are remembered."""
        # By object: genomes with the same id may differ in genes that have no effect here.
        rows = [self._kept.get(id(g), (g, None))[1] for g in genomes]
        new = [k for k, row in enumerate(rows) if row is None]
        if new:
            fresh = [genomes[k] for k in new]
            for k, row in zip(new, self._keep(fresh, self.encode(fresh))):
                rows[k] = row
        scalars, fields = len(self.scalar_columns), len(self.layer_columns)
        flat = np.array(rows).reshape(len(genomes), scalars + self.max_layers * fields)
        return Codes(flat[:, :scalars], flat[:, scalars:].reshape(len(genomes), self.max_layers, fields))

    def _keep(self, genomes: Sequence[Genome], codes: Codes) -> np.ndarray:
        if len(self._kept) > _KEPT:
            self._kept.clear()
        flat = codes.flat()
        self._kept.update((id(g), (g, row)) for g, row in zip(genomes, flat))
        return flat

    def encode(self, genomes: Iterable[Genome]) -> Codes:
        """Every gene as the nearest value that the space allows."""
        genomes = [self.space.genes_of(g) for g in genomes]
        scalars = [[c.code(g[c.gene.name]) for c in self.scalar_columns] for g in genomes]
        layers = np.zeros((len(genomes), self.max_layers, len(self.layer_columns)))
        for row, genome in zip(layers, genomes):
            for k, column in enumerate(self.layer_columns):
                codes = {value: column.code(value) for value in set(genome[column.gene.name])}
                found = [codes[value] for value in genome[column.gene.name]][: self.max_layers]
                row[: len(found), k] = found
        codes = Codes(np.array(scalars).reshape(len(genomes), len(self.scalar_columns)), layers)
        if self.length_at is None:
            return codes
        given = [len(g[self.layer_columns[0].gene.name]) for g in genomes]
        return self.fitted(codes, np.array(given, dtype=int))

    def decode(self, codes: Codes, keep: bool = True) -> list[Genome]:
        """The genomes; their codes are remembered unless they are soon forgotten themselves (not ``keep``)."""
        columns: dict[str, list] = {
            c.gene.name: c.values(codes.scalars[:, k]).tolist() for k, c in enumerate(self.scalar_columns)
        }
        depths = self.depths(codes).tolist()
        for k, column in enumerate(self.layer_columns):
            rows = column.values(codes.layers[:, :, k]).tolist()
            columns[column.gene.name] = [tuple(row[:depth]) for row, depth in zip(rows, depths)]
        names = sorted(columns)
        genomes = [Genome.of_plain(dict(zip(names, values))) for values in zip(*(columns[name] for name in names))]
        if keep:
            self._keep(genomes, self._canonical(codes, genomes))
        return genomes

    def _canonical(self, codes: Codes, genomes: Sequence[Genome]) -> Codes:
        """With ``head_dim`` left out where these genomes leave it out: what they are encoded as."""
        k = self._scalar_at.get("head_dim")
        if k is None or not self.scalar_columns[k].gene.contains(None):
            return codes
        codes = codes[:]
        derived = [g.head_dim is None for g in genomes]
        codes.scalars[derived, k] = self.scalar_columns[k].code(None)
        return codes

    def depths(self, codes: Codes) -> np.ndarray:
        """How many layers each genome has (n,)."""
        if self.length_at is None:
            return np.zeros(len(codes), dtype=int)
        return self._counts[codes.scalars[:, self.length_at].astype(int)]

    def set_depths(self, codes: Codes, depths: np.ndarray) -> np.ndarray:
        """Where the space has such a number of layers, set it; mask (n,) of where that is."""
        found = self._count_codes[np.clip(depths, 0, self.max_layers + 1)]
        codes.scalars[:, self.length_at] = np.where(found >= 0, found, codes.scalars[:, self.length_at])
        return found >= 0

    def fitted(self, codes: Codes, filled: np.ndarray) -> Codes:
        """With as many layers as the genomes say, where the first ``filled`` (n,) are there: the last one again, or
        none of what is beyond."""
        if self.length_at is None:
            return codes
        at = np.arange(self.max_layers)[None]
        layers = taken(codes.layers, np.minimum(at, filled[:, None] - 1))
        return Codes(codes.scalars, np.where((at < self.depths(codes)[:, None])[:, :, None], layers, 0.0))

    def inputs(self, codes: Codes) -> tuple[np.ndarray, list[np.ndarray]]:
        """(columns (n, d) in [0, 1] of the scalar genes, a (n, l, w) block for each per-layer gene): ordered genes on
        their own scale, categories one-hot; layers that are not there as the mean of those that are."""
        scalars = [_expanded(c, codes.scalars[:, k]) for k, c in enumerate(self.scalar_columns)]
        there = np.arange(self.max_layers)[None] < self.depths(codes)[:, None]
        blocks = []
        for k, column in enumerate(self.layer_columns):
            block = _expanded(column, codes.layers[:, :, k])
            mean = (block * there[:, :, None]).sum(axis=1, keepdims=True) / there.sum(axis=1)[:, None, None]
            blocks.append(np.where(there[:, :, None], block, mean))
        return np.concatenate(scalars, axis=1), blocks

    # -- repair -------------------------------------------------------------------------------------------------

    def _make_tables(self) -> None:
        named = self._named(self.space._scalar_rules, self._scalar_at)
        self._own = [k for n, k in self._scalar_at.items() if n in named]
        self._settle = _Table([self.scalar_columns[k] for k in self._own], self._settled, len(self._own))
        named = self._named(self.space._layer_rules, self._layer_at)
        self._outer = [k for n, k in self._scalar_at.items() if n in named]
        self._inner = [k for n, k in self._layer_at.items() if n in named]
        columns = [self.scalar_columns[k] for k in self._outer] + [self.layer_columns[k] for k in self._inner]
        self._mend = _Table(columns, self._mended, len(self._inner))

    def _named(self, rules: Iterable[Rule], genes: Collection[str]) -> set[str]:
        """All that the rules and the conditions of these genes name, and what the genes rest at."""
        conditions = {n: rule for n, rule in self.space.active.items() if n in genes}
        named = set(conditions).union(*(rule.names for rule in (*rules, *conditions.values())))
        return named | ({"n_heads", "kv_rank"} if "n_kv_heads" in named else set())  # beside a latent, as many as heads

    def _settled(self, values: list) -> list[float] | None:
        names = [self.scalar_columns[k].gene.name for k in self._own]
        settled = self.space._settled(dict(zip(names, values)))
        if not self.space._scalars_hold(settled):
            return None
        return [self.scalar_columns[k].code(settled[n]) for k, n in zip(self._own, names)]

    def _mended(self, values: list) -> list[float] | None:
        outer = {self.scalar_columns[k].gene.name: v for k, v in zip(self._outer, values)}
        inner = {self.layer_columns[k].gene.name: v for k, v in zip(self._inner, values[len(outer) :])}
        mended = self.space.mended_row(outer, inner)
        return None if mended is None else [self.layer_columns[k].code(mended[n]) for k, n in zip(self._inner, inner)]

    def repaired(self, codes: Codes) -> Codes:
        """What ``SearchSpace.repair`` makes of each; layers beyond a genome's number are 0."""
        out = codes[:]
        good = np.ones(len(out), dtype=bool)
        if self._own:
            out.scalars[:, self._own], good = self._settle(out.scalars[:, self._own])
        out = self.fitted(out, np.maximum(self.depths(out), 1))
        if self._inner:
            genome, layer = np.nonzero(np.arange(self.max_layers)[None] < self.depths(out)[:, None])
            outer = out.scalars[genome][:, self._outer]
            inner = out.layers[genome, layer][:, self._inner]
            mended, found = self._mend(np.hstack([outer, inner]))
            rows = out.layers[genome, layer]
            rows[:, self._inner] = np.where(found[:, None], mended, inner)
            out.layers[genome, layer] = rows
            good &= np.bincount(genome[~found], minlength=len(out)) == 0
        bad = np.flatnonzero(~good)
        if len(bad):
            out[bad] = self.encode(self.space.repair(genome) for genome in self.decode(codes[bad], keep=False))
        return out


class _Table:
    """What a function says of rows of codes, each combination asked for once.

    Args:
        columns: of the rows.
        ask: the values of a row -> ``width`` codes, or None.
    """

    def __init__(self, columns: Sequence[Column], ask: Callable[[list], list[float] | None], width: int) -> None:
        self._columns, self._ask, self._width = columns, ask, width
        sizes = [c.size or 0 for c in columns]
        dense = 0 < np.prod(sizes, dtype=float) <= _DENSE
        self._steps = np.concatenate([np.cumprod(sizes[:0:-1], dtype=int)[::-1], [1]]) if dense else None
        self._dense = np.full(int(np.prod(sizes)), -1) if dense else None
        self._clear()

    def _clear(self) -> None:
        self._sparse: dict[bytes, int] = {}
        self._count = 0  # of the rows below that are filled
        self._answers, self._found = np.zeros((64, self._width)), np.zeros(64, dtype=bool)

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(answers (k, width), mask (k,) of those that are not None) for rows (k, c)."""
        if self._dense is not None:
            keys = rows.astype(int) @ self._steps
            missing = np.flatnonzero(self._dense[keys] < 0)
            if len(missing):
                new, first = np.unique(keys[missing], return_index=True)
                self._dense[new] = self._added(rows[missing[first]])
            places = self._dense[keys]
        else:
            if len(self._sparse) > _REMEMBERED:
                self._clear()
            keys = [row.tobytes() for row in np.ascontiguousarray(rows)]
            missing = {key: k for k, key in enumerate(keys) if key not in self._sparse}
            if missing:
                self._sparse.update(zip(missing, self._added(rows[list(missing.values())]).tolist()))
            places = np.array([self._sparse[key] for key in keys], dtype=int)
        return self._answers[places], self._found[places]

    def _added(self, rows: np.ndarray) -> np.ndarray:
        """Places of the answers to these rows, which are new."""
        values = zip(*(column.values(rows[:, k]).tolist() for k, column in enumerate(self._columns)))
        answers = [self._ask(list(row)) for row in values]
        start, self._count = self._count, self._count + len(answers)
        while self._count > len(self._found):
            self._answers = np.vstack([self._answers, np.zeros_like(self._answers)])
            self._found = np.append(self._found, np.zeros_like(self._found))
        blank = [0.0] * self._width
        self._answers[start : self._count] = [blank if a is None else a for a in answers]
        self._found[start : self._count] = [a is not None for a in answers]
        return np.arange(start, self._count)


def taken(layers: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """``layers`` (n, l, f) with layer ``sources[i, j]`` of genome i at place j."""
    return np.take_along_axis(layers, np.clip(sources, 0, layers.shape[1] - 1)[:, :, None], axis=1)


def _expanded(column: Column, codes: np.ndarray) -> np.ndarray:
    """Codes (...) as inputs (..., w): one on the gene's scale, or one for each category."""
    if column.gene.is_ordered:
        return column.units(codes)[..., None]
    return (codes[..., None] == np.arange(column.size)).astype(float)
