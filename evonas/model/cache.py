"""The KV cache of decoding: pre-allocated, bounded by the window or the context.

B batch, T sequence, K KV heads, E head width, W window, S slots, F values per slot
"""

from __future__ import annotations

import torch

from .short_convolution import Tail


class LayerCache:
    """Ring buffers of one layer, each (B, ..., S, F) with the slots on dimension -2.

    Token t lies in slot t mod S. Positions are baked into what is stored (rope turns keys before they are cached),
    so attention over the ring needs no order.
    """

    def __init__(self, shapes: tuple[tuple[int, ...], ...], device: torch.device, dtype: torch.dtype) -> None:
        with torch.inference_mode(False):  # an inference tensor could not be written to outside inference mode
            self.buffers = tuple(torch.zeros(shape, device=device, dtype=dtype) for shape in shapes)
        self.slots = shapes[0][-2]
        self.tails: tuple[Tail, ...] = ()  # of the block's short convolutions

    def append(self, position: int, *entries: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Store the entries (B, ..., F) of the token at ``position``; returns what is visible, (B, ..., <=S, F)."""
        slot = position % self.slots
        for buffer, entry in zip(self.buffers, entries):
            buffer.select(-2, slot).copy_(entry)
        if position + 1 >= self.slots:
            return self.buffers
        return tuple(buffer.narrow(-2, 0, position + 1) for buffer in self.buffers)

    def fill(self, start: int, *entries: torch.Tensor) -> None:
        """Store the entries (B, ..., T, F) of the tokens start .. start + T - 1, the last S of them."""
        for buffer, entry in zip(self.buffers, entries):
            length = entry.shape[-2]
            kept = min(length, self.slots)
            slot = (start + length - kept) % self.slots
            straight = min(kept, self.slots - slot)  # up to the ring's end; the rest goes to its beginning
            buffer.narrow(-2, slot, straight).copy_(entry.narrow(-2, length - kept, straight))
            buffer.narrow(-2, 0, kept - straight).copy_(entry.narrow(-2, length - kept + straight, kept - straight))


class Past:
    """What a windowed layer keeps of a long sequence from one chunk of it to the next.

    ``start`` is the position of the next token; keys and values are those of the W tokens before it, (B, K, W, E).
    """

    def __init__(self) -> None:
        self.start = 0
        self.keys = self.values = None

    def extend(self, k_BKTE: torch.Tensor, v_BKTE: torch.Tensor, window: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A chunk's keys and values behind those kept, (B, K, W+T, E); its last W are kept for the next chunk."""
        self.start += k_BKTE.shape[2]
        if self.keys is not None:
            k_BKTE, v_BKTE = torch.cat((self.keys, k_BKTE), 2), torch.cat((self.values, v_BKTE), 2)
        self.keys, self.values = (x[:, :, -window:].contiguous() for x in (k_BKTE, v_BKTE))
        return k_BKTE, v_BKTE


class Cache:
    """The caches of all layers and ``length``, the tokens seen. ``limit`` is the most it can take, None if endless.

    The ids of the latest ``width`` tokens are kept in a ring: what a short convolution looks back on.
    """

    def __init__(self, layers: list[LayerCache], batch_size: int, limit: int | None, width: int = 1) -> None:
        self.layers = layers
        with torch.inference_mode(False):
            self._noted = torch.zeros((batch_size, width), dtype=torch.long, device=layers[0].buffers[0].device)
        self.batch_size = batch_size
        self.limit = limit
        self.length = 0

    def note(self, start: int, tokens_BT: torch.Tensor) -> None:
        """Keep the ids of the tokens start .. start + T - 1, as far as there is room for them."""
        width, length = self._noted.shape[1], tokens_BT.shape[1]
        for t in range(max(0, length - width), length):
            self._noted[:, (start + t) % width] = tokens_BT[:, t]

    def noted(self, position: int) -> torch.Tensor:
        """The ids (B, C) of the latest tokens up to that position; fewer than C at the beginning."""
        width = self._noted.shape[1]
        # One by one: a list as an index would be copied to the device, which can't be captured as a CUDA graph.
        slots = [self._noted[:, t % width] for t in range(max(0, position - width + 1), position + 1)]
        return torch.stack(slots, dim=1)

    @property
    def bytes(self) -> int:
        """Bytes allocated for cached values."""
        held = [b for layer in self.layers for b in (*layer.buffers, *(tail.inputs for tail in layer.tails))]
        return sum(b.numel() * b.element_size() for b in held)

    def reset(self) -> None:
        """Forget all tokens and keep the memory."""
        self.length = 0
