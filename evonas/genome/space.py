"""The search space: which genes there are, which values they take, and which combinations are allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EvonasError, did_you_mean
from .gene import MAX_OPTIONS, Gene, listed, shown
from .genome import UNWRITTEN, Genome
from .nearby import by_distance
from .rules import Rule

if TYPE_CHECKING:
    from .codes import Coder

_MAX_TRIES = 100_000  # candidates of a repair: they bound the time that a hostile space can take
_MAX_LAYERS = 1024
_LATENT = Rule("kv_rank is none")


class SearchSpace:
    """An ordered set of genes with rules between them.

    Args:
        genes: scalar and per-layer genes; names are unique.
        rules: conditions every genome meets; one that names a per-layer gene holds in every layer, but for one on
            ``n_kv_heads`` that does not name ``kv_rank``: layers with a latent have no KV heads of their own.
        active: gene name -> condition under which the gene has an effect. An inactive gene is set to the least of its
            values (none is the greatest), a categorical one to its first. A scalar gene's condition names such alone.
        length: the gene that counts the layers; needed when there are per-layer genes.
        prior: gene name -> the value an expert would try first, in every layer; of as many genes as are worth a guess.
            Part of the first population begins there, and nothing else depends on it.
        prior_tokens: the length of the trainings that the prior's ``learning_rate`` is meant for; None: of any.
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
        prior: Mapping[str, Any] | None = None,
        prior_tokens: int | None = None,
        name: str = "",
        kind: str = "custom",
    ) -> None:
        self.rules = tuple(rules)
        self.active = dict(active or {})
        self.name, self.kind = name, kind
        self.scalar_genes = tuple(g for g in genes if not g.per_layer)
        self.layer_genes = tuple(g for g in genes if g.per_layer)
        # In the order in which they are written and read back: draws depend on it.
        self.genes: dict[str, Gene] = {g.name: g for g in (*self.scalar_genes, *self.layer_genes)}
        self.length = length
        self._default: Genome | None = None
        layer_names = {g.name for g in self.layer_genes}
        if {"n_heads", "n_kv_heads", "kv_rank"} <= layer_names:
            # Genome counts a key and value for every head of a layer with a latent.
            self.active.setdefault("n_kv_heads", _LATENT)
        self._check_names(genes, layer_names)
        self._check_length(layer_names)
        self.prior = self._checked_prior(prior or {})
        self.prior_tokens = self._checked_prior_tokens(prior_tokens)
        self._layer_rules = tuple(r for r in self.rules if r.names & layer_names)
        self._scalar_rules = tuple(r for r in self.rules if not r.names & layer_names)

    def _check_names(self, genes: Sequence[Gene], layer_names: set[str]) -> None:
        names = [g.name for g in genes]
        twice = sorted({n for n in names if names.count(n) > 1})
        if not names or twice:
            raise EvonasError(f"a search space needs genes, each name once; {', '.join(twice) or 'there are none'}")
        taken = sorted(set(names) & UNWRITTEN.keys() - {"head_dim"}) if self.kind != "transformer" else []
        if taken:  # a Genome leaves them out where a transformer has them by default
            raise EvonasError(f"a gene of one's own can't be called {taken[0]}", "Give it another name.")
        for rule in (*self.rules, *self.active.values()):
            unknown = rule.names - set(names) - {"head_dim"}
            if unknown:
                raise EvonasError(f"rule {rule.text!r} names unknown gene {', '.join(sorted(unknown))}")
        for name, rule in self.active.items():
            if name not in self.genes:
                raise EvonasError(f"active.{name:.60}: no such gene", did_you_mean(name, names))
            if name == self.length:
                raise EvonasError(f"active.{name}: the gene that counts the layers always has an effect")
            if name not in layer_names and rule.names & layer_names:
                raise EvonasError(f"active.{name}: a gene under [genes] can't depend on one under [layers]")
        if {"n_kv_heads", "kv_rank"} <= layer_names and self.active.get("n_kv_heads", _LATENT) != _LATENT:
            raise EvonasError(f"active.n_kv_heads: always {_LATENT.text!r} where there is a kv_rank", "Leave it out.")

    def _check_length(self, layer_names: set[str]) -> None:
        gene = self.genes.get(self.length) if isinstance(self.length, str) else None
        if self.length is None and not layer_names:
            return
        options = gene.options if gene is not None and not gene.per_layer else None
        if options is None or not all(type(o) is int and 1 <= o <= _MAX_LAYERS for o in options):
            raise EvonasError(
                f"length: {shown(self.length)} must be a gene under [genes] with whole numbers from 1 to {_MAX_LAYERS}",
                "Per-layer genes take as many values as it says.",
            )
        if layer_names and "n_layers" in self.genes and self.length != "n_layers":
            raise EvonasError(f"length: {shown(self.length)}, but a gene called n_layers counts the layers")

    def _checked_prior(self, prior: Mapping[str, Any]) -> dict[str, Any]:
        """In the order of the genes, so that draws do not depend on how it was written."""
        for name, value in prior.items():
            gene = self.genes.get(name)
            if gene is None:
                absent = name in UNWRITTEN and self.kind == "transformer"
                cure = f"Add {name} under [genes], with its choices." if absent else did_you_mean(name, self.genes)
                raise EvonasError(f"prior.{name!s:.60}: no such gene in this space", cure)
            if not gene.contains(value):
                fixed = gene.options is not None and len(gene.options) == 1
                cure = f"It is fixed, or left out of the file: give {name} its choices first." if fixed else ""
                raise EvonasError(f"prior.{name}: {shown(value)}; the gene takes {gene.describe():.200}", cure)
        return {name: gene.canonical(prior[name]) for name, gene in self.genes.items() if name in prior}

    def _checked_prior_tokens(self, tokens: Any) -> int | None:
        if tokens is None:
            return None
        if self.kind != "transformer":
            raise EvonasError(f"prior.tokens: a space of kind {self.kind!r} has no trainings")
        if type(tokens) is not int or not 1 <= tokens <= 10**15:
            raise EvonasError(f"prior.tokens: {shown(tokens)}; it takes a whole number from 1 to 10^15")
        if "learning_rate" not in self.prior:
            raise EvonasError(
                "prior.tokens: the length of the trainings that prior.learning_rate is meant for, which is not there",
                "Give both, or neither.",
            )
        return tokens

    def __repr__(self) -> str:
        return f"SearchSpace({self.name or self.kind}, {len(self.genes)} genes)"

    @cached_property
    def coder(self) -> Coder:
        """Genomes of this space as arrays, many at a time."""
        from .codes import Coder

        return Coder(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "coder"}  # made again where it is used

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
        values = self.genes_of(values) if isinstance(values, Genome) else values
        scalars = self._settled(
            {g.name: g.nearest(values[g.name]) if g.name in values else g.from_unit(0.5) for g in self.scalar_genes}
        )
        mended = self._mend(values, scalars)
        if mended is None:
            # Not found near here, but the space may have members elsewhere.
            if not values:
                rules = listed([r.text for r in self.rules])
                raise EvonasError(
                    f"no combination of genes was found that meets the rules of space {self.name!r}: {rules}",
                    "Widen a gene's choices or drop a rule.",
                )
            self._default = self._default or self.repair({})
            return self._default
        scalars, layers = mended
        return Genome({**scalars, **{g.name: tuple(row[g.name] for row in layers) for g in self.layer_genes}})

    def genes_of(self, genome: Genome) -> dict[str, Any]:
        """The genes of ``genome`` as this space has them: with ``head_dim``, which a Genome drops where it follows
        from the others, and the rest of what it leaves out (``UNWRITTEN``)."""
        values = dict(genome._genes)  # by the Mapping's own methods it would take five times as long
        values |= {n: v for n, v in UNWRITTEN.items() if n in self.genes and n not in values and n != "head_dim"}
        gene = self.genes.get("head_dim")
        if gene is not None and "head_dim" not in values:
            values["head_dim"] = None if gene.contains(None) else _head_width(values)
        return values

    def _layer_rows(self, values: Mapping[str, Any], scalars: Mapping[str, Any]) -> list[dict[str, Any]]:
        depth = int(scalars[self.length]) if self.length else 0  # 2.0 is an option too where 2 is
        rows: list[dict[str, Any]] = [{} for _ in range(depth)]
        for gene in self.layer_genes:
            given = values.get(gene.name, ())
            given = (given if isinstance(given, (tuple, list)) else (given,)) or (gene.from_unit(0.5),)
            for i, row in enumerate(rows):
                row[gene.name] = gene.nearest(given[min(i, len(given) - 1)])
        return rows

    def _mend(self, values: Mapping, scalars: dict) -> tuple[dict, list[dict]] | None:
        """``scalars`` and the layers of ``values``, changed as little as the rules ask; None where no way is found.
        Other numbers of layers come last."""
        tries = iter(range(_MAX_TRIES))
        for involved in self._ways:
            for candidate in by_distance([self.genes[n] for n in involved], scalars, tries):
                candidate = self._settled(candidate)
                if self._scalars_hold(candidate):
                    mended = self._mend_layers(candidate, self._layer_rows(values, candidate), tries)
                    if mended is not None:
                        return candidate, mended
        return None

    def _mend_layers(self, scalars: dict, layers: list[dict], tries: Iterator[int]) -> list[dict] | None:
        out = []
        known: dict[tuple, dict | None] = {}
        for row in layers:
            key = tuple(row.values())
            if key not in known:
                known[key] = self._mend_row(scalars, row, tries)
            if known[key] is None:
                return None
            out.append(known[key])
        return out

    def mended_row(self, scalars: dict, row: dict) -> dict | None:
        """The genes of one layer, changed as little as the rules ask beside these scalar genes; None where no way is
        found. Of both only those are needed that rules and conditions name."""
        return self._mend_row(scalars, row, iter(range(_MAX_TRIES)))

    def _mend_row(self, scalars: dict, row: dict, tries: Iterator[int]) -> dict | None:
        for involved in self._ways_in_a_layer:
            for candidate in by_distance([self.genes[n] for n in involved if n in row], row, tries):
                candidate = self._settled(candidate, scalars)
                if all(self._layer_holds(r, scalars, candidate) for r in self._layer_rules):
                    return candidate
        return None

    @cached_property
    def _ways(self) -> list[list[str]]:
        """Scalar genes that may be changed to meet the rules, one set after the other."""
        named = set().union(*(r.names for r in self.rules))
        return self._each(named - {self.length}, named, self._with_conditions(named), of=self.scalar_genes)

    @cached_property
    def _ways_in_a_layer(self) -> list[list[str]]:
        """The same of a layer's own genes."""
        named = set().union(*(r.names for r in self._layer_rules))
        return self._each(named, self._with_conditions(named), of=self.layer_genes)

    @staticmethod
    def _each(*names: Collection[str], of: Sequence[Gene]) -> list[list[str]]:
        return [list(n) for n in dict.fromkeys(tuple(sorted(g.name for g in of if g.name in some)) for some in names)]

    def _with_conditions(self, names: Collection[str]) -> set[str]:
        """These genes, and those that say whether they have an effect."""
        found = set(names)
        while more := set().union(*(self.active[n].names for n in found if n in self.active)) - found:
            found |= more
        return found

    def _settled(self, values: dict, others: Mapping | None = None) -> dict:
        """``values`` with inactive genes at their resting value, so that they neither break rules nor tell apart."""
        conditions = {n: rule for n, rule in self.active.items() if n in values}
        for _ in range(len(conditions) + 1):  # one gene at rest may put another to rest
            seen = {"head_dim": None, **(others or {}), **values}
            resting = {n: self._rest(n, values) for n, rule in conditions.items() if not rule.holds(seen)}
            if all(values[n] == v for n, v in resting.items()):
                break
            values = {**values, **resting}
        return values

    def _rest(self, name: str, values: Mapping) -> Any:
        # A layer with a latent has a key and value for every head: the form Genome keeps.
        if name == "n_kv_heads" and {"kv_rank", "n_heads"} <= values.keys():
            return values["n_heads"]
        return self.genes[name].from_unit(0.0)

    def _is_active(self, name: str, scalars: Mapping, row: Mapping) -> bool:
        rule = self.active.get(name)
        return rule is None or rule.holds({"head_dim": None, **scalars, **row})

    def _scalars_hold(self, scalars: Mapping) -> bool:
        return all(r.holds({"head_dim": None, **scalars}) for r in self._scalar_rules)

    @staticmethod
    def _layer_holds(rule: Rule, scalars: Mapping, row: Mapping) -> bool:
        # A layer with a latent has no KV heads of its own that a rule could be about.
        latent = "n_heads" in row and row.get("kv_rank") is not None
        if latent and "n_kv_heads" in rule.names and "kv_rank" not in rule.names:
            return True
        return rule.holds({"head_dim": None, **scalars, **row})

    # -- questions ----------------------------------------------------------------------------------------------

    def check(self, genome: Genome) -> list[str]:
        """Every reason why ``genome`` lies outside the space, each naming its gene; empty when it lies inside."""
        problems = [f"{n}: not a gene of this space" for n in genome if n not in self.genes]
        problems += [f"{n}: missing" for n in self.genes if n not in genome and n not in UNWRITTEN]
        if problems:
            return problems
        values = self.genes_of(genome)
        scalars = {g.name: values[g.name] for g in self.scalar_genes}
        for gene in self.scalar_genes:
            value = scalars[gene.name]
            if self._is_active(gene.name, scalars, {}) and not gene.contains(value):
                problems.append(f"{gene.name}: {_word(value)} (allowed: {gene.describe()})")
        depth = scalars[self.length] if self.layer_genes else 0
        if type(depth) is not int:
            return problems
        for gene in self.layer_genes:
            if not isinstance(values[gene.name], tuple) or len(values[gene.name]) != depth:
                problems.append(f"{gene.name}: takes {depth} values, one per layer")
        if any(not isinstance(values[g.name], tuple) or len(values[g.name]) != depth for g in self.layer_genes):
            return problems
        rows = [{g.name: values[g.name][i] for g in self.layer_genes} for i in range(depth)]
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
            at = [i for i, row in enumerate(rows) if not self._layer_holds(rule, scalars, row)]
            if at:
                problems.append(f"rule {rule.text!r} is broken in layer {', '.join(map(str, at))}")
        return problems

    def contains(self, genome: Genome) -> bool:
        return not self.check(genome)

    def neighbours(self, genome: Genome) -> Iterator[Genome]:
        """Every distinct genome one step away: one scalar gene, or one gene of one layer, moved one option (another
        category, a tenth of a continuous range)."""
        seen = {genome}
        values = self.genes_of(genome)
        for gene in self.genes.values():
            value = values[gene.name]
            places = range(len(value)) if gene.per_layer else (None,)
            for i in places:
                old = value if i is None else value[i]
                for new in _adjacent(gene, old):
                    changed = new if i is None else (*value[:i], new, *value[i + 1 :])
                    near = self.repair({**values, gene.name: changed})
                    if near not in seen:
                        seen.add(near)
                        yield near

    def encode(self, genome: Genome, *, per_layer: bool = True) -> np.ndarray:
        """A vector in [0, 1]: ordered genes on their own scale, categories one-hot; per-layer genes take
        ``max_layers`` places, those of absent layers filled with the mean of the present ones (neutral), or, without
        ``per_layer``, one place for the mean. Inactive genes count as at rest."""
        scalars, fields = self.coder.inputs(self.coder.repaired(self.coder.encode([genome])))
        parts = [block[0].ravel() if per_layer else block[0].mean(axis=0) for block in fields]
        return np.concatenate([scalars[0], *parts])

    # -- other spaces -------------------------------------------------------------------------------------------

    def widened(self, genome: Genome) -> SearchSpace:
        """This space with every gene widened to hold ``genome``; raises EvonasError where a rule forbids it."""
        named = self.genes_of(genome)
        missing = [n for n in self.genes if n not in named]
        if missing:
            raise EvonasError(f"the space can't be widened to hold this genome: it has no gene {', '.join(missing)}")
        scalars = {g.name: named[g.name] for g in self.scalar_genes}
        genes = []
        for gene in self.genes.values():
            values = named[gene.name] if gene.per_layer else (named[gene.name],)
            for i, value in enumerate(values):
                row = {g.name: named[g.name][i] for g in self.layer_genes} if gene.per_layer else {}
                if self._is_active(gene.name, scalars, row):
                    gene = gene.widened(value)
            genes.append(gene)
        unwritten = [n for n in UNWRITTEN if n in genome and n not in self.genes]
        genes += [Gene(n, choices=(genome[n], UNWRITTEN[n])) for n in unwritten]
        wider = self._with(genes, f"{self.name}+")
        problems = wider.check(genome)
        if problems:
            raise EvonasError("the space can't be widened to hold this genome: " + "; ".join(problems))
        return wider

    def bounded(self, context: int) -> SearchSpace:
        """This space with attention windows of ``context`` or more dropped: they are full attention."""
        window = self.genes.get("window")
        bounded = None if window is None else _bounded(window, context)
        if bounded is window:
            return self
        genes = [bounded if g is window else g for g in self.genes.values()]
        return self._with(genes, self.name)

    def with_prior_rate(self, learning_rate: float, tokens: int) -> SearchSpace:
        """This space with another learning rate in its prior, or the nearest it allows, for trainings of ``tokens``."""
        prior = {**self.prior, "learning_rate": learning_rate}
        return self._with(list(self.genes.values()), self.name, prior, tokens)

    def _with(self, genes: Sequence[Gene], name: str, prior=None, tokens: int | None = None) -> SearchSpace:
        prior = self.prior if prior is None else prior
        return SearchSpace(
            genes,
            self.rules,
            active=self.active,
            length=self.length,
            prior={g.name: g.nearest(prior[g.name]) for g in genes if g.name in prior},
            prior_tokens=self.prior_tokens if tokens is None else tokens,
            name=name,
            kind=self.kind,
        )


def _head_width(values: Mapping[str, Any]) -> int | None:
    """The head width that follows from ``d_model`` and ``n_heads``; None where no single one fits every layer."""
    heads, d_model = values.get("n_heads"), values.get("d_model")
    if not isinstance(d_model, int) or not isinstance(heads, tuple) or len(set(heads)) != 1:
        return None
    whole = isinstance(heads[0], int) and heads[0] > 0 and d_model % heads[0] == 0
    return d_model // heads[0] if whole else None


def _bounded(window: Gene, context: int) -> Gene:
    options = window.options
    if options is None and window.is_whole and window.high >= context:
        # A range can't hold "full": the shorter windows are listed, as far as a list can hold them.
        if context - window.low >= MAX_OPTIONS:
            return dataclasses.replace(window, high=context - 1)
        options = range(min(window.low, context), context + 1)
    if options is None or all(w is None or w < context for w in options):
        return window
    return Gene("window", window.per_layer, (*(w for w in options if w is not None and w < context), None))


def _adjacent(gene: Gene, value: Any) -> list[Any]:
    if gene.is_ordered:
        return [v for v in (gene.shifted(value, -1), gene.shifted(value, 1)) if v != value]
    return [o for o in gene.options if o != value]


def _word(value: Any) -> str:
    return "none" if value is None else str(value)
