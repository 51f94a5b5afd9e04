"""Multi-head latent attention.

B batch, T sequence, D d_model, H heads, E head width, R kv_rank, P rotary width (0 for learned positions), S slots
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .cache import LayerCache, Past
from .dot_product import CausalDotProduct
from .norm import RMSNorm
from .rotary import Rotary
from .undrawn import Linear


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-V2, 2024, eq. 9-19): keys and values of all heads are expanded from one
    latent c of width R, and only c, with one rotary key of width P that all heads share, is cached.

    As in DeepSeek-V2-Lite queries are not compressed (eq. 12-13), and c is RMS-normalised (sec. 3.1.2).
    ``down.weight`` stacks the rows of the queries' plain part (H*E) and rotary part (H*P), the rotary key (P) and the
    latent (R); ``up.weight`` those of the keys (H*E) and values (H*E). Scores are scaled by 1/sqrt(E + P).
    """

    def __init__(
        self, d_model: int, n_heads: int, head_dim: int, kv_rank: int, core: CausalDotProduct, rotary: Rotary | None
    ) -> None:
        super().__init__()
        self.n_heads, self.head_dim, self.kv_rank = n_heads, head_dim, kv_rank
        self.core, self.rotary = core, rotary
        self.rope_dim = rotary.width if rotary is not None else 0
        width = n_heads * head_dim
        self._widths = (width, (n_heads + 1) * self.rope_dim, kv_rank)
        self._scale = (head_dim + self.rope_dim) ** -0.5
        self.down = Linear(d_model, sum(self._widths))
        self.latent_norm = RMSNorm(kv_rank)
        self.up = Linear(kv_rank, 2 * width)
        self.out = Linear(width, d_model)

    def forward(self, x_BTD: torch.Tensor, cache: LayerCache | None = None, past: Past | None = None) -> torch.Tensor:
        """x_BTD -> y_BTD; an (empty) ``cache`` is filled on the way. ``past`` is what went before a chunk."""
        start = past.start if past is not None else 0
        q_BTHE, rope, c_BTR = self._project(x_BTD, start)
        batch, length = x_BTD.shape[:2]
        k_BTHE, v_BTHE = self.up(c_BTR).view(batch, length, 2 * self.n_heads, self.head_dim).chunk(2, 2)
        if rope is not None:
            q_rope, k_rope = rope.split((self.n_heads, 1), 2)
            q_BTHE = torch.cat((q_BTHE, q_rope), -1)
            k_BTHE = torch.cat((k_BTHE, k_rope.expand(-1, -1, self.n_heads, -1)), -1)
            # The fused kernels want values as wide as keys; without them the scores would take O(T^2) memory.
            v_BTHE = F.pad(v_BTHE, (0, self.rope_dim))
        if cache is not None:
            cache.fill(start, c_BTR if rope is None else torch.cat((c_BTR, rope[:, :, -1]), -1))
        k_BHTE, v_BHTE = k_BTHE.transpose(1, 2), v_BTHE.transpose(1, 2)
        if past is not None:
            k_BHTE, v_BHTE = past.extend(k_BHTE, v_BHTE, self.core.window)
        y_BTHE = self.core(q_BTHE.transpose(1, 2), k_BHTE, v_BHTE)
        return self.out(y_BTHE[..., : self.head_dim].flatten(2))

    def decode(self, x_B1D: torch.Tensor, cache: LayerCache, position: int) -> torch.Tensor:
        """One token at ``position`` -> y_B1D, in the absorbed form: queries meet the latent itself, so that the work
        grows with R and no key or value is ever expanded (DeepSeek-V2, below eq. 11 and 19)."""
        q_B1HE, rope, c_B1R = self._project(x_B1D, position)
        key_up_HER, value_up_HER = self.up.weight.view(2, self.n_heads, self.head_dim, self.kv_rank).unbind(0)
        query = torch.bmm(q_B1HE[:, 0].transpose(0, 1), key_up_HER).transpose(0, 1)  # (B, H, R)
        entry = c_B1R[:, 0]
        if rope is not None:
            query = torch.cat((query, rope[:, 0, :-1]), -1)  # (B, H, R+P)
            entry = torch.cat((entry, rope[:, 0, -1]), -1)
        (keys_BSF,) = cache.append(position, entry)  # F = R+P
        weights_BHS = (torch.matmul(query, keys_BSF.mT) * self._scale).softmax(-1)
        latent_BHR = torch.matmul(weights_BHS, keys_BSF[..., : self.kv_rank])
        y_HBE = torch.bmm(latent_BHR.transpose(0, 1), value_up_HER.mT)
        return self.out(y_HBE.transpose(0, 1).reshape(-1, 1, self.n_heads * self.head_dim))

    def new_cache(self, batch_size: int, slots: int) -> LayerCache:
        shape = (batch_size, slots, self.kv_rank + self.rope_dim)
        return LayerCache((shape,), self.down.weight.device, self.down.weight.dtype)

    def _project(self, x_BTD: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Plain queries (B, T, H, E), rotated queries and last the shared rotated key (B, T, H+1, P), latent."""
        q, rope, c = self.down(x_BTD).split(self._widths, 2)
        c_BTR = self.latent_norm(c)
        batch, length = x_BTD.shape[:2]
        heads = batch, length, self.n_heads, self.head_dim
        if self.rotary is None:
            # Attention kernels on a GPU want rows to begin at multiples of 16 bytes.
            return (q.contiguous() if q.is_cuda else q).view(heads), None, c_BTR
        q_BTHE = q.view(heads)
        return q_BTHE, self.rotary(rope.view(batch, length, self.n_heads + 1, self.rope_dim), start), c_BTR
