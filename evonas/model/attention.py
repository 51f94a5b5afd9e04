"""Multi-head attention with grouped queries.

B batch, T sequence, D d_model, H heads, K KV heads, G = H / K queries per KV head, E head width, W window
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .cache import LayerCache, Past
from .dot_product import CausalDotProduct
from .rotary import Rotary
from .undrawn import Linear


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023); K = H is multi-head, K = 1 multi-query. No biases.

    ``qkv.weight`` stacks the rows of queries (H*E), keys (K*E) and values (K*E); query head h reads KV head h // G.
    ``rotary`` is None for learned positions.
    """

    def __init__(
        self, d_model: int, n_heads: int, n_kv_heads: int, head_dim: int, core: CausalDotProduct, rotary: Rotary | None
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads, head_dim
        self.core, self.rotary = core, rotary
        self.qkv = Linear(d_model, (n_heads + 2 * n_kv_heads) * head_dim)
        self.out = Linear(n_heads * head_dim, d_model)

    def forward(self, x_BTD: torch.Tensor, cache: LayerCache | None = None, past: Past | None = None) -> torch.Tensor:
        """x_BTD -> y_BTD; an (empty) ``cache`` is filled on the way. ``past`` is what went before a chunk."""
        start = past.start if past is not None else 0
        q_BTHE, k_BTKE, v_BTKE = self._project(x_BTD, start)
        k_BKTE, v_BKTE = k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2)
        if cache is not None:
            cache.fill(start, k_BKTE, v_BKTE)
        if past is not None:
            k_BKTE, v_BKTE = past.extend(k_BKTE, v_BKTE, self.core.window)
        y_BTHE = self.core(q_BTHE.transpose(1, 2), k_BKTE, v_BKTE)
        return self.out(y_BTHE.flatten(2))

    def decode(self, x_B1D: torch.Tensor, cache: LayerCache, position: int) -> torch.Tensor:
        """One token at ``position`` -> y_B1D."""
        q_B1HE, k_B1KE, v_B1KE = self._project(x_B1D, position)
        keys, values = cache.append(position, k_B1KE[:, 0], v_B1KE[:, 0])  # (B, K, S, E)
        # A KV head's queries stand where a sequence would: all of them see every cached entry.
        q_BKGE = q_B1HE.reshape(-1, self.n_kv_heads, self.n_heads // self.n_kv_heads, self.head_dim)
        y_BKGE = F.scaled_dot_product_attention(q_BKGE, keys, values)
        return self.out(y_BKGE.reshape(-1, 1, self.n_heads * self.head_dim))

    def new_cache(self, batch_size: int, slots: int) -> LayerCache:
        shape = (batch_size, self.n_kv_heads, slots, self.head_dim)
        return LayerCache((shape, shape), self.qkv.weight.device, self.qkv.weight.dtype)

    def _project(self, x_BTD: torch.Tensor, start: int) -> tuple[torch.Tensor, ...]:
        heads, kv_heads = self.n_heads, self.n_kv_heads
        batch, length = x_BTD.shape[:2]
        qkv = self.qkv(x_BTD).view(batch, length, heads + 2 * kv_heads, self.head_dim)
        if self.rotary is None:
            return qkv.split((heads, kv_heads, kv_heads), 2)
        qk, v_BTKE = qkv.split((heads + kv_heads, kv_heads), 2)
        q_BTHE, k_BTKE = self.rotary(qk, start).split((heads, kv_heads), 2)
        return q_BTHE, k_BTKE, v_BTKE
