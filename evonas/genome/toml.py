"""Search spaces in TOML: read, checked, and written back as plain data."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UPGRADE, EvonasError, did_you_mean
from .gene import MAX_OPTIONS, Gene, is_number, reads_as_none, shown
from .genome import ARCHITECTURE_GENES, LAYER_GENES, TRAINING_GENES, UNWRITTEN
from .io import exists, read_text, shipped_file, shipped_names
from .rules import Rule
from .space import SearchSpace
from .transformer import CHOICES, LIMITS, TRAINING_DEFAULTS, value_problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA = 1
MAX_BYTES = 2**18
MAX_DOTS = 1000  # in one line: tomllib takes quadratic time for a key of many dotted parts
_TOP_KEYS = ("schema", "name", "kind", "length", "genes", "layers", "rules", "active", "prior")
_GENE_KEYS = ("choices", "low", "high", "step", "log")
_TRANSFORMER_RULES = (
    "head_dim is not none or d_model % n_heads == 0",
    "n_heads % n_kv_heads == 0",
    "position != 'rope' or head_dim % 2 == 0 or head_dim is none and d_model // n_heads % 2 == 0",
)


def read_space(path_or_name: str | os.PathLike) -> SearchSpace:
    """Read a search space from a TOML file, or a shipped one by name (``text-cpu``).

    Raises EvonasError naming the key that is wrong and what it takes.
    """
    path = Path(path_or_name)
    if not exists(path):
        shipped = shipped_file(str(path_or_name), ".toml")
        if shipped is None:
            hint = did_you_mean(str(path_or_name), shipped_names(".toml"))
            raise EvonasError(f"no file {str(path_or_name)!r}, and no shipped search space of that name", hint)
        path = shipped
    text = read_text(path, "a search space", MAX_BYTES)
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > MAX_DOTS:
            raise EvonasError(f"{path}: line {number} has more than {MAX_DOTS} dots", "Break the list into lines.")
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError too: an int of more than 4,300 digits
        raise EvonasError(f"{path}: not TOML: {error}") from None
    try:
        return space_from_dict(data, default_name=path.stem)
    except EvonasError as error:
        raise EvonasError(f"{path}: {error.message}", error.hint) from None


def space_from_dict(data: Mapping[str, Any], default_name: str = "", stored: bool = False) -> SearchSpace:
    """Build a space from the tables of a TOML file (or from what ``space_to_dict`` gave). One that is ``stored`` with a
    run is taken with rules that compare a gene with a text it never is, and the like: the run began so.

    Raises EvonasError naming the key that is wrong and what it takes.
    """
    if not isinstance(data, Mapping):
        raise EvonasError(f"a search space is an object with [genes], got {shown(data)}")
    for key in data:
        if key not in _TOP_KEYS:
            raise EvonasError(f"unknown key {shown(key)}", did_you_mean(key, _TOP_KEYS))
    schema = data.get("schema", SCHEMA)
    if isinstance(schema, bool) or schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        cure = UPGRADE if newer else f"Write schema = {SCHEMA}."
        raise EvonasError(f"schema: {shown(schema)}; this evonas reads {SCHEMA}", cure)
    kind, name = data.get("kind", "transformer"), data.get("name", default_name)
    if kind not in ("transformer", "custom"):
        raise EvonasError(f"kind: {shown(kind)}; allowed: transformer, custom")
    if not isinstance(name, str):
        raise EvonasError(f"name: {shown(name)}; it takes a text")
    genes = [_gene(key, spec, "genes", kind) for key, spec in _table(data, "genes").items()]
    genes += [_gene(key, spec, "layers", kind) for key, spec in _table(data, "layers").items()]
    rules = data.get("rules", [])
    if not isinstance(rules, list):
        raise EvonasError(
            "rules: takes a list of texts", 'For example: rules = ["kv_rank is none or kv_rank <= d_model"]'
        )
    active = _table(data, "active")
    if kind == "transformer":
        genes = _complete(genes)
        rules = [*rules, *(r for r in _TRANSFORMER_RULES if r not in rules)]
    length = data.get("length", "n_layers" if any(g.per_layer for g in genes) else None)
    prior = dict(_table(data, "prior"))
    prior_tokens = prior.pop("tokens", None) if kind == "transformer" else None
    space = SearchSpace(
        genes,
        [_rule(r, f"rules[{i}]", genes, stored) for i, r in enumerate(rules)],
        active={n: _rule(r, f"active.{n:.60}", genes, stored) for n, r in active.items()},
        length=length,
        prior={n: None if reads_as_none(n, v) else v for n, v in prior.items()},
        prior_tokens=prior_tokens,
        name=name,
        kind=kind,
    )
    inert = sorted(space.active.keys() - {"n_kv_heads"})
    if kind == "transformer" and inert and not stored:
        cure = 'Say by a rule what goes together, such as "window is none or kv_rank is none".'
        raise EvonasError(f"active.{inert[0]}: every gene of a transformer but n_kv_heads has an effect always", cure)
    space.repair({})  # rules that can't be met are found now
    return space


def space_to_dict(space: SearchSpace) -> dict[str, Any]:
    """Plain data from which ``space_from_dict`` builds an equal space."""

    def spec(gene: Gene) -> Any:
        if gene.choices is not None:
            return [_none_word(gene.name) if c is None else c for c in gene.choices]
        # A range of two ints without a step would be read back as one of whole numbers.
        is_float = gene.step is None and not gene.is_whole
        out = {k: float(v) if is_float else v for k, v in (("low", gene.low), ("high", gene.high))}
        return {**out, **({"step": gene.step} if gene.step is not None else {}), **({"log": True} if gene.log else {})}

    out = {
        "schema": SCHEMA,
        "name": space.name,
        "kind": space.kind,
        "genes": {g.name: spec(g) for g in space.scalar_genes},
        "layers": {g.name: spec(g) for g in space.layer_genes},
        "rules": [r.text for r in space.rules],
        "active": {n: r.text for n, r in space.active.items()},
    }
    if space.length:
        out["length"] = space.length
    if space.prior:
        out["prior"] = {n: _none_word(n) if v is None else v for n, v in space.prior.items()}
    if space.prior_tokens is not None:
        out["prior"]["tokens"] = space.prior_tokens
    return out


def _rule(text: Any, where: str, genes: list[Gene], stored: bool) -> Rule:
    try:
        rule = Rule(text)
    except EvonasError as error:
        raise EvonasError(f"{where}: {error.message}", error.hint) from None
    known = {g.name for g in genes} | {"head_dim"}
    for name in sorted(rule.names - known):
        raise EvonasError(f"{where}: rule {text!r} names unknown gene {name!r}", did_you_mean(name, known))
    if not stored:
        _check_words(rule, where, genes)
    return rule


def _check_words(rule: Rule, where: str, genes: list[Gene]) -> None:
    """Raise EvonasError where a rule can't mean what it says."""
    text = rule.text
    named = [g for g in genes if g.name in rule.names]
    empty = sorted(g.name for g in named if g.contains(None))
    words = sorted(w for w in {"none", "full"} & rule.texts if not any(g.contains(w) for g in named))
    if empty and words:
        cure = f"Write it without quotes: {empty[0]} is {words[0]}"
        raise EvonasError(f"{where}: rule {text!r} holds the text {words[0]!r}, which no gene is", cure)
    of_width = "head_dim" in rule.names and text not in _TRANSFORMER_RULES
    if of_width and all(g.name != "head_dim" for g in genes):
        cure = "Write d_model // n_heads, or add head_dim under [genes]."
        raise EvonasError(f"{where}: rule {text!r} names head_dim, which is no gene of this space", cure)
    if of_width and _may_be_left_out(genes):
        cure = "Leave none out of the choices of head_dim, or head_dim out of the rule."
        raise EvonasError(f"{where}: rule {text!r} names head_dim, which may be none for a stated width", cure)
    texts = {option for g in named for option in g.choices or () if isinstance(option, str)}
    texts |= {option for g in named for option in CHOICES.get(g.name, ())}  # the space need not have all of them
    for word in sorted(rule.texts - texts - {"none", "full"}):
        names = ", ".join(g.name for g in named) or "nothing"
        cure = did_you_mean(word, texts) if texts else "Numbers, true and false stand without quotes."
        raise EvonasError(f"{where}: rule {text!r} holds {word!r}, which {names} never is", cure)


def _may_be_left_out(genes: list[Gene]) -> bool:
    """Whether a genome of these genes may state a ``head_dim`` and have none all the same: it follows from others."""
    known = {g.name: g for g in genes}
    width, heads = known.get("head_dim"), known.get("n_heads")
    both = width is not None and not width.per_layer and width.contains(None) and len(width.options) > 1
    return both and heads is not None and heads.per_layer


def _table(data: Mapping, key: str) -> Mapping:
    table = data.get(key, {})
    if not isinstance(table, Mapping):
        raise EvonasError(f"{key}: takes a table", f"Write [{key}] and one gene per line under it.")
    return table


def _gene(name: str, spec: Any, table: str, kind: str) -> Gene:
    where = f"{table}.{name:.60}"
    if kind == "transformer":
        known = (
            LAYER_GENES
            if table == "layers"
            else tuple(n for n in ARCHITECTURE_GENES + TRAINING_GENES if n not in LAYER_GENES)
        )
        if name not in known:
            other = "layers" if table == "genes" else "genes"
            belongs = name in ARCHITECTURE_GENES + TRAINING_GENES
            hint = f"It belongs under [{other}]." if belongs else did_you_mean(name, known)
            raise EvonasError(f"{where}: a transformer has no such gene here", hint)
    if isinstance(spec, Mapping):
        for key in spec:
            if key not in _GENE_KEYS:
                raise EvonasError(f"{where}.{key:.60}: unknown key", did_you_mean(key, _GENE_KEYS))
        if "choices" not in spec:
            return _range(name, spec, where, table == "layers", kind)
        if len(spec) > 1:
            raise EvonasError(f"{where}: takes choices, or low and high, not both")
        spec = spec["choices"]
    choices = spec if isinstance(spec, list) else [spec]
    return _choices(name, choices, where, table == "layers", kind)


def _choices(name: str, choices: list, where: str, per_layer: bool, kind: str) -> Gene:
    if not 1 <= len(choices) <= MAX_OPTIONS:
        raise EvonasError(f"{where}: takes 1 to {MAX_OPTIONS} choices, got {len(choices)}")
    values = [None if reads_as_none(name, c) else c for c in choices]
    for value in values:
        if value is not None and not isinstance(value, (str, bool)) and not is_number(value):
            raise EvonasError(f"{where}: {shown(value)} is not a finite number, a text, true or false")
        if kind == "transformer" and (problem := value_problem(name, value)):
            raise EvonasError(f"{where}: {problem}")
    if len(set(values)) != len(values):  # 1, 1.0 and true are one choice
        raise EvonasError(f"{where}: a choice is listed twice", "List each once; 1, 1.0 and true are the same.")
    return Gene(name, per_layer, tuple(values))


def _range(name: str, spec: Mapping, where: str, per_layer: bool, kind: str) -> Gene:
    for key in ("low", "high"):
        if key not in spec:
            raise EvonasError(
                f"{where}.{key}: missing", f"Write {name} = {{ low = .., high = .. }} or a list of choices."
            )
    for key in ("low", "high", "step"):
        value = spec.get(key, 1)
        if not is_number(value):
            raise EvonasError(f"{where}.{key}: {shown(value)} is not a finite number")
        if key != "step" and kind == "transformer" and (problem := value_problem(name, value)):
            raise EvonasError(f"{where}.{key}: {problem}")
    low, high, log = spec["low"], spec["high"], spec.get("log", False)
    whole = isinstance(low, int) and isinstance(high, int)
    step = spec.get("step", 1 if whole and not log else None)
    if high < low:
        raise EvonasError(f"{where}: low {shown(low)} is above high {shown(high)}", "Swap them.")
    if not isinstance(log, bool):
        raise EvonasError(f"{where}.log: {shown(log)}; allowed: true, false")
    if log and (low <= 0 or step is not None):
        cure = "step" if step is not None else "low"
        raise EvonasError(
            f"{where}.{cure}: a log scale needs low above 0 and no step", "List choices instead, or drop log."
        )
    if step is not None and step <= 0:
        raise EvonasError(f"{where}.step: {shown(step)} is not above 0", f"Write step = {shown(abs(step) or 1)}.")
    if step is not None and float(high - low) / step > MAX_OPTIONS:
        raise EvonasError(f"{where}.step: {shown(step)} gives more than {MAX_OPTIONS} values", "Take a larger step.")
    gene = Gene(name, per_layer, None, low, high, step, log)
    if gene.options and len(set(gene.options)) != len(gene.options):
        raise EvonasError(f"{where}.step: {shown(step)} is lost beside numbers as large as {high:g}")
    if kind == "transformer":
        _check_whole(gene, where)
    return gene


def _check_whole(gene: Gene, where: str) -> None:
    """A range over a whole-number gene of a transformer holds whole numbers only."""
    if LIMITS[gene.name][0] is not int:
        return
    if gene.options is None and not gene.is_whole and gene.low < gene.high:
        cure = f"Write low = {gene.low:.0f}, high = {gene.high:.0f}."
        raise EvonasError(f"{where}: {gene.name} takes whole numbers, and low and high are not", cure)
    for option in gene.options or ():
        if problem := value_problem(gene.name, option):
            raise EvonasError(f"{where}.step: {problem}")


def _complete(genes: list[Gene]) -> list[Gene]:
    """Training genes and the two optional per-layer genes that the file leaves out, fixed at their defaults."""
    present = {g.name for g in genes}
    for name in ARCHITECTURE_GENES:
        if name not in present and name not in ("window", "kv_rank", *UNWRITTEN):
            table = "layers" if name in LAYER_GENES else "genes"
            raise EvonasError(f"{table}.{name}: missing", f"Add it under [{table}]; one fixed value will do.")
    genes = genes + [Gene(n, True, (None,)) for n in ("window", "kv_rank") if n not in present]
    return genes + [Gene(n, False, (v,)) for n, v in TRAINING_DEFAULTS.items() if n not in present]


def _none_word(name: str) -> str:
    return "full" if name == "window" else "none"
