"""Weights in and out: safetensors, with what they are of in the file's metadata."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import EXIT_FAILED, EvonasError
from ..genome import Genome, bounded_windows
from ..model import Transformer, build
from ..plain_files import open_plain
from .standalone import read_header, read_safetensors

MAX_CONTEXT = 2**24  # as in a genome file


class Seen(NamedTuple):
    """Of a training of ``tokens`` tokens, the weights after ``seen`` of them, with their held-out loss in nats."""

    seen: int
    tokens: int
    loss: float

    def __str__(self) -> str:
        return f"held-out loss {self.loss:.4f} after {self.seen:,} of {self.tokens:,} tokens"


def save_weights(model: Transformer, path: Path, vocabulary: bytes | None = None, training: Seen | None = None) -> None:
    """Write the weights beside ``path`` and rename: a kill leaves the last good ones. ``vocabulary``: the byte that
    each token stands for, where that is so; ``training``: what they come from, where that is known."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    metadata = {
        "format": "pt",
        "genome": model.genome.id,
        "vocab_size": str(model.vocab_size),
        "context": str(model.context),
    }
    metadata |= {} if vocabulary is None else {"vocabulary": vocabulary.hex()}
    metadata |= {} if training is None else {key: repr(value) for key, value in training._asdict().items()}
    partial = path.with_suffix(".partial")
    try:
        save_file(weights, partial, metadata=metadata)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)  # as any file; safetensors makes it ours alone
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:  # the latter of a full disk, too
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise EvonasError(f"{path} can't be written: {error}", exit_code=EXIT_FAILED) from None


def are_of(path: Path, genome: Genome) -> bool | None:
    """Whether the file at ``path`` says that it holds weights of ``genome``; None where it can't be read."""
    try:
        about = _about(path)
        return about.get("genome") == bounded_windows(genome, _whole(about, "context", path)).id
    except (OSError, EvonasError):
        return None


def vocabulary_of(path: Path) -> bytes | None:
    """The byte that each token of the weights at ``path`` stands for; None where the file does not say."""
    try:
        about = _about(path)
        found = bytes.fromhex(about.get("vocabulary", ""))
    except (OSError, ValueError, EvonasError):
        return None
    return found if found and str(len(found)) == about.get("vocab_size") and len(set(found)) == len(found) else None


def training_of(path: Path) -> Seen | None:
    """What the weights at ``path`` say they come from; None where they don't, or not in sound numbers."""
    try:
        about = _about(path)
        found = Seen(int(about["seen"]), int(about["tokens"]), float(about["loss"]))
    except (OSError, KeyError, ValueError, EvonasError):
        return None
    return found if 0 < found.seen <= found.tokens < 10**15 and abs(found.loss) < 10**6 else None


def unsound(path: Path) -> tuple[str, ...]:
    """What the metadata of the weights at ``path`` hold, but in no usable form: "vocabulary", "training"."""
    about = _about(path)
    found = {"vocabulary": vocabulary_of(path), "training": training_of(path)}
    keys = {"vocabulary": ("vocabulary",), "training": Seen._fields}
    return tuple(what for what, value in found.items() if value is None and any(key in about for key in keys[what]))


def _about(path: Path) -> Mapping[str, str]:
    """The metadata of a file of weights."""
    with open_plain(path) as file:
        return read_header(file, path)[0].get("__metadata__", {})


def load_trained(genome: Genome, path: Path, context: int | None = None) -> Transformer:
    """The network of ``genome`` with the weights at ``path``, for inference.

    A file that names no genome is taken where all names and shapes fit, its vocabulary from the token embedding,
    its context from the position embedding or else ``context``. Raises EvonasError where anything doesn't fit.
    """
    try:
        open_plain(path).close()
        weights, about = read_safetensors(path)
    except OSError as error:
        raise EvonasError(f"{path} can't be read: {error.strerror}") from None
    context = _context(about, weights, path) or context
    if context is None:
        raise EvonasError(
            f"{path} does not say for which context its weights are, nor does the genome",
            'Write "context": TOKENS into the genome file.',
        )
    genome = bounded_windows(genome, context)
    if about.get("genome", genome.id) != genome.id:
        raise EvonasError(
            f"{path} holds weights of genome {about['genome']:.40}, not of {genome.id}",
            "Give the genome.json that lies beside the weights.",
        )
    embedding = weights.get("token_embedding.weight")
    if embedding is None or embedding.dim() != 2 or not len(embedding):
        raise EvonasError(f"{path} holds no token_embedding.weight: not the weights of an evonas network")
    # The file's sizes take no memory before they are known to be right.
    _check(weights, build(genome, len(embedding), context, device="meta").state_dict(), path)
    model = build(genome, len(embedding), context, generator=torch.Generator())
    model.load_state_dict(weights)
    return model.eval()


def _context(about: Mapping[str, str], weights: Mapping[str, torch.Tensor], path: Path) -> int | None:
    if "context" in about:
        return _whole(about, "context", path)
    positions = weights.get("position_embedding.weight")
    return len(positions) if positions is not None and positions.dim() else None


def _whole(about: Mapping[str, str], key: str, path: Path) -> int:
    text = about.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= MAX_CONTEXT):
        raise EvonasError(
            f"{path}: its metadata give {key} as {text[:20]!r}; it takes a whole number from 1 to {MAX_CONTEXT}"
        )
    return int(text)


def _check(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], path: Path) -> None:
    for name in sorted({*weights, *wanted}):
        given, fits = weights.get(name), wanted.get(name)
        if given is None or fits is None:
            what = "lacks" if given is None else "has a superfluous"
            raise EvonasError(f"{path} does not fit the genome: it {what} {name:.80}")
        if given.shape != fits.shape:
            raise EvonasError(
                f"{path} does not fit the genome: {name} is {list(given.shape)}, the genome makes it {list(fits.shape)}"
            )
        if not given.isfinite().all():
            raise EvonasError(f"{path}: {name} holds values that are not finite")
