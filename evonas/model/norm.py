"""Normalisation over the model width.

B batch, T sequence, D d_model (or kv_rank for a latent)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .narrow import narrows

EPS = 1e-5


class Norm(nn.Module):
    """x_BTD -> x_BTD, each token by itself, times a gain per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = (width,)
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == self.weight.dtype:
            return self.normalise(x, self.weight)
        if not narrows(x):
            return self.normalise(x.to(self.weight.dtype), self.weight)
        with torch.autocast(x.device.type, enabled=False):  # it would widen x; the kernel's own sums are in float32
            return self.normalise(x, self.weight.to(x.dtype))

    def normalise(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Both of one dtype."""
        raise NotImplementedError


class LayerNorm(Norm):
    """Layer normalisation without bias (Ba et al. 2016; nanoGPT's ``bias=False``)."""

    def normalise(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.shape, weight, None, EPS)


class RMSNorm(Norm):
    """Root-mean-square normalisation (Zhang and Sennrich 2019, eq. 4) by torch's own operator, fused on CUDA."""

    def normalise(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.shape, weight, EPS)


NORMS = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}
