"""Normalisation over the model width.

B batch, T sequence, D d_model (or kv_rank for a latent)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-5


class LayerNorm(nn.Module):
    """Layer normalisation without bias (Ba et al. 2016; nanoGPT's ``bias=False``); x_BTD -> x_BTD."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = (width,)
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.shape, self.weight, None, EPS)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich 2019, eq. 4) by torch's own operator, fused on CUDA;
    x_BTD -> x_BTD."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = (width,)
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.shape, self.weight, EPS)


NORMS = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}
