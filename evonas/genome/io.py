"""Genome files (JSON) in and out, and where the shipped ones lie."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UPGRADE, EvonasError, did_you_mean, exit_code_of
from ..plain_files import open_plain
from .gene import shown
from .genome import LAYER_GENES, Genome
from .transformer import transformer_genome

SCHEMA = 1
MAX_BYTES = 4 * 2**20  # a genome of 1,024 layers takes some 50 kB
_KEYS = ("schema", "name", "source", "context", "tokens", "notes", "genes")


@dataclass(frozen=True)
class GenomeFile:
    """A genome with what its file says about it. ``context`` is the training context in tokens, ``tokens`` how long
    the trainings are that its learning rate is meant for; None if unstated."""

    genome: Genome
    name: str = ""
    source: str = ""
    context: int | None = None
    notes: tuple[str, ...] = ()
    tokens: int | None = None


def shipped_folder() -> Path:
    """The folder of the seed genomes and search spaces that come with evonas."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "genomes", here.parent / "genomes"):
        if folder.is_dir():
            return folder
    raise EvonasError(
        "the shipped genomes are missing from this installation", "Install it from a clone: pip install -e ."
    )


def shipped_file(name: str, suffix: str) -> Path | None:
    """The shipped file called ``name``, with or without ``suffix``; None when there is none."""
    if Path(name).name != name:
        return None
    path = shipped_folder() / (name if name.endswith(suffix) else name + suffix)
    return path if exists(path) else None


def shipped_names(suffix: str) -> list[str]:
    return sorted(p.name[: -len(suffix)] for p in shipped_folder().glob(f"*{suffix}"))


def exists(path: Path) -> bool:
    """Whether there is something to read at ``path``, also where the question itself fails (a name too long)."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def read_text(path: Path, what: str, limit: int = MAX_BYTES) -> str:
    """The text of a user's file; raises EvonasError for a folder, a missing, unreadable, huge or non-UTF-8 one."""
    if path.is_dir():
        raise EvonasError(f"{path} is a folder; {what} is a file")
    try:
        with open_plain(path) as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise EvonasError(f"{path} is larger than {limit // 2**10} kB, too large for {what}")
        return content.decode("utf-8")
    except FileNotFoundError:
        raise EvonasError(f"no such file: {path}") from None
    except UnicodeDecodeError as error:
        raise EvonasError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise EvonasError(f"{path} can't be read: {error.strerror or error}") from None
    except ValueError as error:
        raise EvonasError(f"{path} can't be read: {error}") from None


def read_json(path: Path, what: str) -> Any:
    text = read_text(path, what)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise EvonasError(f"{path}: not JSON, line {error.lineno} column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise EvonasError(f"{path}: not acceptable JSON: {str(error) or 'nested too deeply'}") from None


def read_genome(path_or_name: str | os.PathLike) -> GenomeFile:
    """Read a genome file, or a shipped one by name (``nanogpt-cpu``); raises EvonasError saying what is wrong."""
    path = Path(path_or_name)
    if not exists(path):
        shipped = shipped_file(str(path_or_name), ".json")
        if shipped is None:
            hint = did_you_mean(str(path_or_name), shipped_names(".json"))
            if hint.startswith("Allowed"):
                hint = f"{hint[:-1]}; or a file, a config.json of Hugging Face, or RUN:ID."
            raise EvonasError(f"no genome file {str(path_or_name)!r}, and no shipped genome of that name", hint)
        path = shipped
    data = read_json(path, "a genome")
    try:
        return genome_from_dict(data)
    except EvonasError as error:
        raise EvonasError(f"{path}: {error.message}", error.hint) from None


def genome_from_dict(data: Any) -> GenomeFile:
    """Read the JSON object of a genome file."""
    if not isinstance(data, Mapping) or not isinstance(data.get("genes"), Mapping):
        hint = "For a Hugging Face config.json: evonas genome import config.json -o genome.json"
        raise EvonasError("not a genome file: it has no object 'genes'", hint)
    for key in data:
        if key not in _KEYS:
            raise EvonasError(f"unknown key {shown(key)}", did_you_mean(key, _KEYS))
    schema = data.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        cure = UPGRADE if isinstance(schema, int) and schema > SCHEMA else f'Write "schema": {SCHEMA}.'
        raise EvonasError(f"genome schema {shown(schema)}; this evonas reads schema {SCHEMA}", cure)
    context, tokens = (_tokens(data, key, most) for key, most in (("context", 2**24), ("tokens", 10**15)))
    notes = data.get("notes", [])
    texts = [data.get("name", ""), data.get("source", ""), *(notes if isinstance(notes, list) else [None])]
    if not all(isinstance(t, str) for t in texts):
        raise EvonasError("name and source take a text, notes a list of texts")
    genome = transformer_genome(data["genes"])
    return GenomeFile(genome, data.get("name", ""), data.get("source", ""), context, tuple(notes), tokens)


def _tokens(data: Mapping[str, Any], key: str, most: int) -> int | None:
    value = data.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most):
        raise EvonasError(f"{key} is {shown(value)}; it takes a whole number of tokens from 1 to {most}")
    return value


def genome_to_dict(
    genome: Genome,
    *,
    name: str = "",
    source: str = "",
    context: int | None = None,
    tokens: int | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The JSON object of a genome file; a per-layer gene that is the same in every layer is written once."""
    genes = {}
    for key, value in genome.items():
        uniform = key in LAYER_GENES and isinstance(value, tuple) and len(set(value)) == 1
        genes[key] = value[0] if uniform else list(value) if isinstance(value, tuple) else value
    about = {"name": name, "source": source, "context": context, "tokens": tokens, "notes": list(notes)}
    return {
        key: value for key, value in {"schema": SCHEMA, **about, "genes": genes}.items() if value not in ("", None, [])
    }


def write_genome(path: str | os.PathLike, genome: Genome, **about: Any) -> None:
    """Write a genome file; keywords as in ``genome_to_dict``."""
    text = json.dumps(genome_to_dict(genome, **about), indent=2, ensure_ascii=False) + "\n"
    try:
        Path(path).write_bytes(text.encode("utf-8"))
    except OSError as error:
        raise EvonasError(f"{path} can't be written: {error.strerror}", exit_code=exit_code_of(error)) from None
    except UnicodeEncodeError:
        raise EvonasError("the genome's name, source or notes hold characters that are not Unicode text") from None
