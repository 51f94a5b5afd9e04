"""A genome from the config.json of a Hugging Face model; no weights, neither torch nor transformers."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import EvonasError, did_you_mean
from ..genome.genome import TRAINING_GENES, UNWRITTEN, Genome
from ..genome.io import read_json
from ..genome.transformer import LIMITS, OPTIONAL, transformer_genome
from .draft import Draft, shown
from .families import ELSEWHERE, FAMILIES, IGNORED, Family

MAX_KEYS = 512  # published configs have below 120


@dataclass(frozen=True)
class Import:
    """What a foreign config became. ``context`` is the suggested training context in tokens (None if unstated);
    ``notes`` name everything the genome can't say about that model, ``vocabulary`` is how many tokens it knows."""

    genome: Genome
    context: int | None
    notes: tuple[str, ...]
    name: str
    vocabulary: int | None = None


def read_config(path: str | os.PathLike) -> Import:
    """Import a ``config.json``, or the folder that holds it; raises EvonasError saying what is wrong."""
    path = Path(path)
    if path.is_dir():
        path = path / "config.json"
    data = read_json(path, "a Hugging Face config")
    try:
        found = from_config(data)
    except EvonasError as error:
        raise EvonasError(f"{path}: {error.message}", error.hint) from None
    if isinstance(data.get("_name_or_path"), str) and _clean(data["_name_or_path"]):
        return found
    stem = path.resolve().parent.name if path.name == "config.json" else path.stem
    return replace(found, name=_clean(stem) or found.name)


def from_config(config: Mapping[str, Any]) -> Import:
    """The genome of a Hugging Face config (the object in config.json), with notes on what it can't say.

    Every key is a gene, the task's or the run's, harmless bookkeeping, or named in a note. Missing keys have the
    defaults of transformers, missing training genes those of evonas. Raises EvonasError for a family that is not
    supported, and for values of the wrong type or size.
    """
    family_name, family = _family(config)
    given = _without_aliases(config, family)
    draft = Draft(given, family.defaults)
    draft.genes.update(family.genes)
    defaulted = _apply(draft, given, family)
    draft.notes += family.implied
    for key in given:
        if key not in family.keys and key not in IGNORED:
            _other_key(draft, key, family)
    if defaulted:
        said = ", ".join(f"{key} {shown(family.defaults[key])}" for key in defaulted)
        draft.note(f"not in the config, so the default of transformers for {family_name}: {said}")
    unset = [gene for gene in TRAINING_GENES if gene not in draft.genes and gene not in UNWRITTEN]
    draft.note(f"{', '.join(unset)} are not in a Hugging Face config; they have evonas's defaults")
    if draft.rope_context is not None and draft.rope_context != draft.context:
        draft.note(
            f"context {draft.rope_context}, that of pretraining: rescaled positions stretch it to {draft.context}"
        )
        draft.context = draft.rope_context
    try:
        genome = transformer_genome(draft.genes)
    except EvonasError as error:
        raise EvonasError(f"this {family_name} config is {error.message}", "Check the values named above.") from None
    name = config.get("_name_or_path")
    name = (_clean(name) if isinstance(name, str) else "") or family_name
    return Import(genome, draft.context, tuple(draft.notes), name, draft.vocabulary)


def _family(config: Any) -> tuple[str, Family]:
    if not isinstance(config, Mapping):
        raise EvonasError(f"a Hugging Face config is a JSON object, got {shown(config)}")
    if len(config) > MAX_KEYS:
        raise EvonasError(f"the config has {len(config)} keys; a Hugging Face config has at most {MAX_KEYS}")
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        what = (
            f"model_type {shown(name)} is not supported" if "model_type" in config else "the config has no model_type"
        )
        near = did_you_mean(name[:64], FAMILIES) if isinstance(name, str) else ""
        hint = "" if near.startswith("Allowed") else near
        raise EvonasError(f"{what}; supported: {', '.join(FAMILIES)}", hint)
    return name, FAMILIES[name]


def _without_aliases(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The config under the family's own key names."""
    given = dict(config)
    for alias, key in family.aliases.items():
        if alias in given:
            value = given.pop(alias)
            if key in given and given[key] != value:
                raise EvonasError(
                    f"{key} is {shown(given[key])} and {alias}, the same thing, is {shown(value)}", f"Keep {key} only."
                )
            given[key] = value
    return given


def _apply(draft: Draft, given: Mapping[str, Any], family: Family) -> list[str]:
    """Run the family's map, plain genes before handlers, which need depth and width.

    Returns the keys that shaped the genome, its context or its vocabulary by their default.
    """
    present = {key: e for key, e in family.keys.items() if e is not None and (key in given or key in family.defaults)}
    defaulted: dict[str, None] = {}
    for key, entry in sorted(present.items(), key=lambda item: callable(item[1])):
        before, draft.read = (dict(draft.genes), draft.context, draft.vocabulary), set()
        if callable(entry):
            entry(draft, key)
        else:
            draft.genes[entry] = _plain_gene(draft, key, entry)
        if (draft.genes, draft.context, draft.vocabulary) != before:
            shaped = (k for k in family.keys if k in draft.read and k not in given)
            defaulted.update(dict.fromkeys(k for k in shaped if family.defaults.get(k) is not None))
    return list(defaulted)


def _plain_gene(draft: Draft, key: str, gene: str) -> Any:
    if gene == "tied_embeddings":
        return draft.flag(key)
    _, low, high = LIMITS[gene]
    return draft.whole(key, int(low), int(high), optional=gene in OPTIONAL)


def _other_key(draft: Draft, key: Any, family: Family) -> None:
    if isinstance(key, str) and key in ELSEWHERE:
        ELSEWHERE[key](draft, key)
        return
    near = difflib.get_close_matches(key[:64], family.keys, n=1, cutoff=0.8) if isinstance(key, str) else []
    hint = f" (did you mean {near[0]}?)" if near else ""
    draft.note(f"unknown key {shown(key)} = {shown(draft.values[key])} ignored{hint}")


def _clean(name: str) -> str:
    """The last part of a model's name or path as a file name: lower case, hyphens; empty where it has no letter."""
    last = name[-200:].replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    clean = re.sub(r"[^a-z0-9.]+", "-", last.lower()).strip("-.")[:80]
    return clean if re.search("[a-z]", clean) else ""  # a checkpoint's number names nothing
