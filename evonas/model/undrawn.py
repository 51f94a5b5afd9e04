"""Layers without biases whose weights are not drawn when they are made: the network's ``init_weights`` does, once."""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    """x (..., inputs) -> y (..., outputs); ``weight`` is (outputs, inputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Nothing: torch would draw them here. (Its ``skip_init`` imports a compiler on the way, a second of it.)"""


class Embedding(nn.Embedding):
    """Ids (...) -> rows (..., width) of ``weight`` (rows, width)."""

    def reset_parameters(self) -> None:
        """As ``Linear``'s."""
