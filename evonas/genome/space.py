"""The search space: which genes there are, which values they take, and which combinations are allowed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import EvonasError
from .gene import Gene
from .genome import Genome
from .rules import Rule

_GRID = 9  # positions tried on a continuous gene when a rule must be repaired
_MAX_COMBINATIONS = 20_000


class SearchSpace:
    """An ordered set of genes with rules between them.

    Args:
        genes: scalar and per-layer genes; names are unique.
        rules: conditions every genome meets; one that names a per-layer gene holds in every layer.
        active: gene name -> condition under which the gene has an effect. An inactive gene is set to its first value.
        length: the gene that counts the layers; needed when there are per-layer genes.
        name, kind: ``kind`` "transformer" marks a space whose genomes evonas can build; any other is the user's own.

    ``sample``, ``repair`` and everything built on them return genomes that meet every rule. Raises EvonasError when
    genes or rules don't fit together.
    """

    def __init__(
        self,
        genes: Sequence[Gene],
        rules: Sequence[Rule] = (),
        *,
        active: Mapping[str, Rule] | None = None,
        length: str | None = None,
        name: str = "",
        kind: str = "custom",
    ) -> None:
        self.genes: dict[str, Gene] = {g.name: g for g in genes}
        self.rules = tuple(rules)
        self.active = dict(active or {})
        self.name, self.kind = name, kind
        self.scalar_genes = tuple(g for g in genes if not g.per_layer)
        self.layer_genes = tuple(g for g in genes if g.per_layer)
        self.length = length
        if not genes or len(self.genes) != len(genes):
            raise EvonasError("a search space needs at least one gene, each name once")
        if self.layer_genes and (length not in self.genes or not isinstance(self.genes[length].options, tuple)):
            raise EvonasError(f"per-layer genes need a whole-number gene that counts the layers, got length={length!r}")
        for rule in (*self.rules, *self.active.values()):
            unknown = rule.names - set(self.genes) - {"head_dim"}
            if unknown:
                raise EvonasError(f"rule {rule.text!r} names unknown gene {', '.join(sorted(unknown))}")
        layer_names = {g.name for g in self.layer_genes}
        self._layer_rules = tuple(r for r in self.rules if r.names & layer_names)
        self._scalar_rules = tuple(r for r in self.rules if not r.names & layer_names)

    def __repr__(self) -> str:
        return f"SearchSpace({self.name or self.kind}, {len(self.genes)} genes)"

    @property
    def max_layers(self) -> int:
        return max(self.genes[self.length].options) if self.length else 0

    # -- drawing and mending ------------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator) -> Genome:
        """A genome with every gene drawn evenly on its own scale, then repaired."""
        values: dict[str, Any] = {g.name: g.sample(rng) for g in self.scalar_genes}
        for gene in self.layer_genes:
            values[gene.name] = tuple(gene.sample(rng) for _ in range(values[self.length]))
        return self.repair(values)

    def repair(self, values: Mapping[str, Any]) -> Genome:
        """The genome nearest to ``values`` that lies in the space: every gene moved to its closest allowed value, then,
        where a rule is broken, the fewest and smallest changes that mend it, per-layer genes first. Deterministic;
        a genome of the space comes back unchanged. Raises EvonasError when no combination meets the rules."""
        scalars = {
            g.name: g.nearest(values[g.name]) if g.name in values else g.from_unit(0.5) for g in self.scalar_genes
        }
        layers = self._layer_rows(values, scalars)
        scalars, layers = self._mend(scalars, layers)
        out = dict(scalars)
        for gene in self.layer_genes:
            out[gene.name] = tuple(row[gene.name] for row in layers)
        return Genome(out)

    def _layer_rows(self, values: Mapping[str, Any], scalars: Mapping[str, Any]) -> list[dict[str, Any]]:
        depth = scalars[self.length] if self.length else 0
        rows: list[dict[str, Any]] = [{} for _ in range(depth)]
        for gene in self.layer_genes:
            given = values.get(gene.name) or (gene.from_unit(0.5),)
            given = given if isinstance(given, (tuple, list)) else (given,)
            for i, row in enumerate(rows):
                row[gene.name] = gene.nearest(given[min(i, len(given) - 1)])
        return rows

    def _mend(self, scalars: dict, layers: list[dict]) -> tuple[dict, list[dict]]:
        if self._scalars_hold(scalars):
            mended = self._mend_layers(scalars, layers)
            if mended is not None:
                return scalars, mended
        involved = set().union(*(r.names for r in self.rules)) & {g.name for g in self.scalar_genes}
        involved.discard(self.length)
        for candidate in _by_distance([self.genes[n] for n in sorted(involved)], scalars):
            if self._scalars_hold(candidate):
                mended = self._mend_layers(candidate, layers)
                if mended is not None:
                    return candidate, mended
        raise EvonasError(
            f"no combination of genes meets the rules of space {self.name!r}: {'; '.join(r.text for r in self.rules)}",
            "Widen a gene's choices or drop a rule.",
        )

    def _mend_layers(self, scalars: dict, layers: list[dict]) -> list[dict] | None:
        out = []
        known: dict[tuple, dict | None] = {}
        for row in layers:
            key = tuple(row.values())
            if key not in known:
                known[key] = self._mend_row(scalars, row)
            if known[key] is None:
                return None
            out.append(known[key])
        return out

    def _mend_row(self, scalars: dict, row: dict) -> dict | None:
        row = self._settled(scalars, row)
        broken = [r for r in self._layer_rules if not r.holds({"head_dim": None, **scalars, **row})]
        if not broken:
            return row
        involved = {n for r in self._layer_rules for n in r.names if n in row}
        for candidate in _by_distance([self.genes[n] for n in sorted(involved)], row):
            candidate = self._settled(scalars, candidate)
            if all(r.holds({"head_dim": None, **scalars, **candidate}) for r in self._layer_rules):
                return candidate
        return None

    def _settled(self, scalars: Mapping, row: dict) -> dict:
        """``row`` with inactive genes at their resting value, so that they neither break rules nor tell apart."""
        resting = {n: self._rest(n, row) for n in row if not self._is_active(n, scalars, row)}
        return {**row, **resting} if resting else row

    def _rest(self, name: str, row: Mapping) -> Any:
        # A layer with a latent has a key and value for every head: the form Genome keeps.
        if self.kind == "transformer" and name == "n_kv_heads":
            return row["n_heads"]
        return self.genes[name].from_unit(0.0)

    def _is_active(self, name: str, scalars: Mapping, row: Mapping) -> bool:
        rule = self.active.get(name)
        return rule is None or rule.holds({"head_dim": None, **scalars, **row})

    def _scalars_hold(self, scalars: Mapping) -> bool:
        return all(r.holds({"head_dim": None, **scalars}) for r in self._scalar_rules)

    # -- questions ----------------------------------------------------------------------------------------------

    def check(self, genome: Genome) -> list[str]:
        """Every reason why ``genome`` lies outside the space, each naming its gene; empty when it lies inside."""
        problems = [f"{n}: not a gene of this space" for n in genome if n not in self.genes]
        problems += [f"{n}: missing" for n in self.genes if n not in genome and n != "head_dim"]
        if problems:
            return problems
        scalars = {g.name: genome.get(g.name) for g in self.scalar_genes}
        rows = [
            {g.name: genome[g.name][i] for g in self.layer_genes}
            for i in range(genome[self.length] if self.length else 0)
        ]
        for gene in self.scalar_genes:
            if not gene.contains(scalars[gene.name]):
                problems.append(f"{gene.name}: {_word(scalars[gene.name])} (allowed: {gene.describe()})")
        for gene in self.layer_genes:
            bad = {
                _word(row[gene.name])
                for row in rows
                if self._is_active(gene.name, scalars, row) and not gene.contains(row[gene.name])
            }
            if bad:
                problems.append(f"{gene.name}: {', '.join(sorted(bad))} (allowed: {gene.describe()})")
        problems += [
            f"rule {r.text!r} is broken" for r in self._scalar_rules if not r.holds({"head_dim": None, **scalars})
        ]
        for rule in self._layer_rules:
            at = [i for i, row in enumerate(rows) if not rule.holds({"head_dim": None, **scalars, **row})]
            if at:
                problems.append(f"rule {rule.text!r} is broken in layer {', '.join(map(str, at))}")
        return problems

    def contains(self, genome: Genome) -> bool:
        return not self.check(genome)

    def neighbours(self, genome: Genome) -> Iterator[Genome]:
        """Every distinct genome one step away: one scalar gene, or one gene of one layer, moved one option (another
        category, a tenth of a continuous range)."""
        seen = {genome}
        for gene in self.genes.values():
            value = genome.get(gene.name)
            places = range(len(value)) if gene.per_layer else (None,)
            for i in places:
                old = value if i is None else value[i]
                for new in _adjacent(gene, old):
                    changed = new if i is None else (*value[:i], new, *value[i + 1 :])
                    near = self.repair({**genome, gene.name: changed})
                    if near not in seen:
                        seen.add(near)
                        yield near

    def encode(self, genome: Genome) -> np.ndarray:
        """A vector in [0, 1]: ordered genes on their own scale, categories one-hot; per-layer genes take
        ``max_layers`` places, those of absent layers filled with the mean of the present ones (neutral)."""
        parts: list[float] = []
        for gene in self.genes.values():
            value = genome.get(gene.name)
            if not gene.per_layer:
                parts += _unit_vector(gene, value)
                continue
            rows = np.array([_unit_vector(gene, v) for v in value])
            padding = np.repeat(rows.mean(axis=0, keepdims=True), self.max_layers - len(rows), axis=0)
            parts += np.concatenate([rows, padding]).ravel().tolist()
        return np.array(parts)

    # -- other spaces -------------------------------------------------------------------------------------------

    def widened(self, genome: Genome) -> SearchSpace:
        """This space with every gene widened to hold ``genome``; raises EvonasError where a rule forbids it."""
        genes = []
        for gene in self.genes.values():
            values = genome[gene.name] if gene.per_layer else (genome.get(gene.name),)
            if gene.name in self.active and gene.per_layer:
                rows = [{g.name: genome[g.name][i] for g in self.layer_genes} for i in range(len(values))]
                scalars = {g.name: genome.get(g.name) for g in self.scalar_genes}
                values = [v for v, row in zip(values, rows) if self._is_active(gene.name, scalars, row)]
            for value in values:
                gene = gene.widened(value)
            genes.append(gene)
        if genome.get("head_dim") is not None and "head_dim" not in self.genes:
            genes.append(Gene("head_dim", choices=(genome["head_dim"], None)))
        wider = SearchSpace(
            genes, self.rules, active=self.active, length=self.length, name=f"{self.name}+", kind=self.kind
        )
        problems = wider.check(genome)
        if problems:
            raise EvonasError("the space can't be widened to hold this genome: " + "; ".join(problems))
        return wider

    def bounded(self, context: int) -> SearchSpace:
        """This space with attention windows of ``context`` or more dropped: they are full attention."""
        window = self.genes.get("window")
        if window is None or window.options is None or all(w is None or w < context for w in window.options):
            return self
        choices = (*(w for w in window.options if w is not None and w < context), None)
        genes = [Gene("window", window.per_layer, choices) if g is window else g for g in self.genes.values()]
        return SearchSpace(genes, self.rules, active=self.active, length=self.length, name=self.name, kind=self.kind)


def _unit_vector(gene: Gene, value: Any) -> list[float]:
    if gene.is_ordered:
        return [gene.to_unit(value)]
    return [float(option == value) for option in gene.options]


def _adjacent(gene: Gene, value: Any) -> list[Any]:
    if gene.is_ordered:
        return [v for v in (gene.shifted(value, -1), gene.shifted(value, 1)) if v != value]
    return [o for o in gene.options if o != value]


def _by_distance(genes: list[Gene], values: dict) -> Iterator[dict]:
    """``values`` with the given genes set to every combination of their options, nearest first."""
    options = [gene.options or tuple(gene.from_unit(k / (_GRID - 1)) for k in range(_GRID)) for gene in genes]
    ranked = []
    for combination in itertools.islice(itertools.product(*options), _MAX_COMBINATIONS):
        changed = {g.name: v for g, v in zip(genes, combination) if v != values[g.name]}
        far = sum(abs(self_to - self_at) for self_to, self_at in _positions(genes, changed, values))
        ranked.append((len(changed), far, len(ranked), changed))
    for _, _, _, changed in sorted(ranked, key=lambda r: r[:3]):
        yield {**values, **changed}


def _positions(genes: list[Gene], changed: dict, values: dict) -> Iterator[tuple[float, float]]:
    for gene in genes:
        if gene.name in changed and gene.is_ordered:
            yield gene.to_unit(changed[gene.name]), gene.to_unit(values[gene.name])


def _word(value: Any) -> str:
    return "none" if value is None else str(value)
