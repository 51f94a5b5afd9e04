"""The KV cache of decoding: pre-allocated, bounded by the window or the context.

B batch, S slots, F values per slot
"""

from __future__ import annotations

import torch


class LayerCache:
    """Ring buffers of one layer, each (B, ..., S, F) with the slots on dimension -2.

    Token t lies in slot t mod S. Positions are baked into what is stored (rope turns keys before they are cached),
    so attention over the ring needs no order.
    """

    def __init__(self, shapes: tuple[tuple[int, ...], ...], device: torch.device, dtype: torch.dtype) -> None:
        with torch.inference_mode(False):  # an inference tensor could not be written to outside inference mode
            self.buffers = tuple(torch.zeros(shape, device=device, dtype=dtype) for shape in shapes)
        self.slots = shapes[0][-2]

    def append(self, position: int, *entries: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Store the entries (B, ..., F) of the token at ``position``; returns what is visible, (B, ..., <=S, F)."""
        slot = position % self.slots
        for buffer, entry in zip(self.buffers, entries):
            buffer.select(-2, slot).copy_(entry)
        if position + 1 >= self.slots:
            return self.buffers
        return tuple(buffer.narrow(-2, 0, position + 1) for buffer in self.buffers)

    def fill(self, *entries: torch.Tensor) -> None:
        """Store the entries (B, ..., T, F) of the tokens 0 .. T-1 of an empty cache, the last S of them."""
        for buffer, entry in zip(self.buffers, entries):
            length = entry.shape[-2]
            if length > self.slots:
                entry = entry.narrow(-2, length - self.slots, self.slots).roll(length % self.slots, -2)
            buffer.narrow(-2, 0, entry.shape[-2]).copy_(entry)


class Cache:
    """The caches of all layers and ``length``, the tokens seen. ``limit`` is the most it can take, None if endless."""

    def __init__(self, layers: list[LayerCache], batch_size: int, limit: int | None) -> None:
        self.layers = layers
        self.batch_size = batch_size
        self.limit = limit
        self.length = 0

    @property
    def bytes(self) -> int:
        """Bytes allocated for cached values."""
        return sum(b.numel() * b.element_size() for layer in self.layers for b in layer.buffers)

    def reset(self) -> None:
        """Forget all tokens and keep the memory."""
        self.length = 0
