"""What a task is: data, batches, loss. Everything random is drawn from a generator the caller passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Task(Protocol):
    """What evonas trains on. A user's own class is named ``package.module:Name`` on the command line and is made as
    ``Name(data, context)``: ``data`` the path given by --data or None, ``context`` the sequence length.

    Shapes: B sequences of T = ``context`` tokens, V = ``vocab_size``. Arrays are numpy so that a task needs no torch
    until its loss is taken. Every worker makes its own. Training and validation data must not overlap. An optional text
    ``fingerprint`` tells the data from other data: a run is only resumed on the data it began with. Optional bytes
    ``vocabulary``, one for each token, go with trained weights, so that an export reads and writes text.
    """

    name: str
    vocab_size: int
    context: int

    def batch(self, rng: np.random.Generator, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Training inputs and targets, each (B, T) int64, drawn with ``rng``."""
        ...

    def validation(self, tokens: int | None, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Held-out inputs and targets in batches of at most ``batch_size`` sequences, always the same ones: about
        ``tokens`` tokens spread over all held-out data, or all of it for None."""
        ...

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of each sequence (B,), from logits (B, T, V), in bfloat16 where trainings are, and targets (B, T).

        On a GPU it is recorded once and replayed in every step: what a step before left on the host (a counter, say)
        must not change it."""
        ...
