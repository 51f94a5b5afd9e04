"""Causal scaled dot-product attention, in full or within a window.

B batch, T sequence, H heads, K KV heads, E head width, W window,
C queries per block, L queries of the first block, N further blocks
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..genome.graph import attention_block, first_block
from .flash import flash_attention, flash_usable


class CausalDotProduct(nn.Module):
    """Token t attends to tokens t - W + 1 .. t; ``window`` None is all of 0 .. t.

    A window costs O(T * W) time and memory: queries are cut into blocks of C = max(W, 32), each against its own
    and the W keys before it, under one additive band mask that all blocks share (block-local attention as in
    Longformer, Beltagy et al. 2020, sec. 3.1). The mask is made once, for up to ``context`` tokens; longer
    sequences work and make their own. A sequence may come in ``chunks``, each with the W keys before it. Scores are
    scaled by 1/sqrt(E). There is no dropout on the attention probabilities: only the block's outputs are dropped.
    """

    def __init__(self, window: int | None, context: int) -> None:
        super().__init__()
        self.window = window
        size = 0 if window is None or context <= window else min(2 * attention_block(window), context)
        band = _band(size, window or 1)
        self.register_buffer("band", band, persistent=False)

    def forward(self, q_BHTE: torch.Tensor, k_BKTE: torch.Tensor, v_BKTE: torch.Tensor) -> torch.Tensor:
        """Returns y_BTHE, heads last, ready to be projected. The queries are those of the last T keys: all of them, or
        those of one of ``chunks`` that follows W earlier keys."""
        if flash_usable(q_BHTE):
            return flash_attention(q_BHTE, k_BKTE, v_BKTE, self.window)
        length = q_BHTE.shape[2]
        groups = q_BHTE.shape[1] // k_BKTE.shape[1]
        if groups > 1 and k_BKTE.is_cuda:
            # CUDA's kernels for float32 and for masks don't share KV heads and would fall back to O(T^2) memory.
            k_BKTE, v_BKTE = k_BKTE.repeat_interleave(groups, 1), v_BKTE.repeat_interleave(groups, 1)
            groups = 1
        if k_BKTE.shape[2] > length:
            return self._blocks(q_BHTE, k_BKTE, v_BKTE, groups > 1)
        if self.window is None or length <= self.window:
            y_BHTE = _attend(q_BHTE, k_BKTE, v_BKTE, is_causal=True, enable_gqa=groups > 1)
            return y_BHTE.transpose(1, 2)
        return self._windowed(q_BHTE, k_BKTE, v_BKTE, groups > 1)

    def chunks(self, length: int, size: int) -> list[int]:
        """Lengths, of ``size`` tokens at least, into which a sequence may be cut; one without a window."""
        if self.window is None:
            return [length]
        block = attention_block(self.window)
        size = block * -(-size // block)
        if length < block + size:
            return [length]
        first = block + (length - block) % size  # every later chunk has W keys before it and whole blocks
        return [first, *[size] * ((length - first) // size)]

    def _windowed(self, q_BHTE: torch.Tensor, k_BKTE: torch.Tensor, v_BKTE: torch.Tensor, gqa: bool) -> torch.Tensor:
        window, length = self.window, q_BHTE.shape[2]
        first = first_block(length, window)
        q, k, v = q_BHTE[:, :, :first], k_BKTE[:, :, :first], v_BKTE[:, :, :first]
        if first <= window:
            y = _attend(q, k, v, is_causal=True, enable_gqa=gqa)
        else:
            y = _attend(q, k, v, attn_mask=self._mask(first)[:first, :first], enable_gqa=gqa)
        y_BLHE = y.transpose(1, 2)
        if first == length:
            return y_BLHE
        k, v = (x[:, :, first - window :] for x in (k_BKTE, v_BKTE))
        return torch.cat((y_BLHE, self._blocks(q_BHTE[:, :, first:], k, v, gqa)), 1)

    def _blocks(self, q_BHTE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor, gqa: bool) -> torch.Tensor:
        """y_BTHE of whole blocks of queries against S = W + T keys."""
        batch, heads, length, width = q_BHTE.shape
        window, block = self.window, attention_block(self.window)
        q = q_BHTE.unflatten(2, (length // block, block)).transpose(1, 2).flatten(0, 1)  # (B*N, H, C, E)
        # Each block's own and W earlier entries, (B*N, K, W+C, E): overlapping views, copied only where B > 1.
        windows = (x.unfold(2, window + block, block) for x in (k_BKSE, v_BKSE))  # (B, K, N, E, W+C)
        k, v = (x.permute(0, 2, 1, 4, 3).flatten(0, 1) for x in windows)
        end = window + block
        mask = self._mask(end)[window:end, :end]  # query i of a block is key W + i
        y = _attend(q, k, v, attn_mask=mask, enable_gqa=gqa)
        return y.transpose(1, 2).reshape(batch, length, heads, width)

    def _mask(self, size: int) -> torch.Tensor:
        """The band of ``size`` tokens at least."""
        band = self.band
        return band if band.shape[0] >= size else _band(size, self.window, band.device, band.dtype)


def _attend(q_BHTE: torch.Tensor, k_BKTE: torch.Tensor, v_BKTE: torch.Tensor, **how) -> torch.Tensor:
    """``F.scaled_dot_product_attention``, in float32 on a CPU: its kernel's backward pass in bfloat16 takes five to
    seven times as long (torch 2.13)."""
    if not q_BHTE.is_cuda and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q_BHTE.float(), k_BKTE.float(), v_BKTE.float(), **how)
    return F.scaled_dot_product_attention(q_BHTE, k_BKTE, v_BKTE, **how)


def _band(size: int, window: int, device: torch.device | None = None, dtype: torch.dtype | None = None) -> torch.Tensor:
    """(size, size): 0 where query i sees key j, that is 0 <= i - j < window, else -inf."""
    seen = torch.ones(size, size, dtype=torch.bool, device=device).tril_().triu_(1 - window)
    return torch.zeros(size, size, dtype=dtype, device=device).masked_fill_(seen.logical_not_(), -torch.inf)
