"""Language modelling of a text, byte by byte."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import EvonasError

if TYPE_CHECKING:
    import torch

TRAIN_SHARE = 0.9  # as nanoGPT's character data: the last tenth is held out
MIN_VALIDATION_WINDOWS = 2
MAX_BYTES = 8 * 2**30
CHUNK = 2**20


class TextTask:
    """Predict the next byte.

    The vocabulary is the set of bytes that occur. The first 90% of the text are trained on, the last 10% are held out:
    two contiguous blocks that share no byte.

    Args:
        data: path of any file, or None for the embedded corpus: the language reference that every CPython ships
            (``pydoc_data.topics``, some 465 kB of English and code).
        context: sequence length T.
    """

    name = "text"

    def __init__(self, data: str | os.PathLike | None, context: int) -> None:
        if context < 1:
            raise EvonasError(f"context {context}; it takes at least 1 token")
        self.data, self.context = None if data is None else str(data), context
        self.source = "embedded corpus (pydoc_data.topics)" if data is None else Path(data).name
        self._load()

    @cached_property
    def fingerprint(self) -> str:
        """Size and SHA-256 of the text."""
        digest = hashlib.sha256()
        for part in (self._train, self._held_out):
            for k in range(0, len(part), CHUNK):
                digest.update(part[k : k + CHUNK])
        return f"{len(self._train) + len(self._held_out)} bytes, sha256 {digest.hexdigest()}"

    def _load(self) -> None:
        raw = _embedded() if self.data is None else _file(Path(self.data))
        used = _bytes_used(raw)
        self.vocabulary = bytes(np.flatnonzero(used).tolist())
        self.vocab_size = len(self.vocabulary)
        self._ids = (np.cumsum(used) - 1).astype(np.int64)
        split = int(len(raw) * TRAIN_SHARE)
        self._train, self._held_out = raw[:split], raw[split:]
        need = MIN_VALIDATION_WINDOWS * self.context + 1
        if len(self._held_out) < need:
            raise EvonasError(
                f"{self.source}: {len(raw)} bytes are too few; a context of {self.context} needs at least {need * 10}",
                "Give a longer text with --data or a smaller --context.",
            )
        if self.vocab_size < 2:
            raise EvonasError(f"{self.source} holds one byte repeated: there is nothing to predict")

    def batch(self, rng: np.random.Generator, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        starts = rng.integers(0, len(self._train) - self.context, size=batch_size)
        return self._windows(self._train, starts)

    def validation(self, tokens: int | None, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        available = (len(self._held_out) - 1) // self.context
        count = available if tokens is None else min(available, max(MIN_VALIDATION_WINDOWS, tokens // self.context))
        starts = np.linspace(0, available - 1, count).round().astype(np.int64) * self.context
        for k in range(0, count, batch_size):
            yield self._windows(self._held_out, starts[k : k + batch_size])

    def _windows(self, data: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens = self._ids[data[starts[:, None] + np.arange(self.context + 1)]]
        return tokens[:, :-1], tokens[:, 1:]

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        B, T, V = logits.shape
        per_token = cross_entropy(logits.reshape(B * T, V).float(), targets.reshape(B * T), reduction="none")
        return per_token.view(B, T).mean(dim=1)


def _embedded() -> np.ndarray:
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def _bytes_used(raw: np.ndarray) -> np.ndarray:
    """Which of the 256 bytes occur in ``raw``."""
    used = np.zeros(256, dtype=bool)
    for k in range(0, len(raw), CHUNK):  # a whole file at once would be copied, as integers of 8 bytes
        used |= np.bincount(raw[k : k + CHUNK], minlength=256) > 0
    return used


def _file(path: Path) -> np.ndarray:
    if path.is_dir():
        raise EvonasError(
            f"--data {path} is a folder; it takes one text file", "Join the files: cat FOLDER/* > text.txt"
        )
    try:
        size = path.stat().st_size
        if size == 0:
            raise EvonasError(f"--data {path} is empty; it takes a text to learn from")
        if size > MAX_BYTES:
            raise EvonasError(
                f"--data {path} is larger than {MAX_BYTES // 2**30} GB", "Cut it: head -c 1G FILE > part.txt"
            )
        return np.memmap(path, dtype=np.uint8, mode="r")
    except FileNotFoundError:
        hint = "Check the path. Where the data of a run has moved, --data PATH says where to."
        raise EvonasError(f"--data: no such file: {path}", hint) from None
    except (OSError, ValueError) as error:
        raise EvonasError(f"--data {path} can't be read: {error}") from None
