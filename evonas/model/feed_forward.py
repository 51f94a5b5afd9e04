"""Feed-forward layers.

B batch, T sequence, D d_model, F hidden width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .undrawn import Linear


class FeedForward(nn.Module):
    """x_BTD -> y_BTD through F hidden units. ``gates`` is 2 where ``up.weight`` stacks two matrices."""

    gates = 1

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(d_model, self.gates * hidden)
        self.down = Linear(hidden, d_model)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return self.down(self.activate(self.up(x_BTD)))

    def activate(self, h_BTF: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class GELUFeedForward(FeedForward):
    """Exact GELU (Hendrycks and Gimpel 2016), as in nanoGPT."""

    def activate(self, h_BTF: torch.Tensor) -> torch.Tensor:
        return F.gelu(h_BTF)


class SquaredReLUFeedForward(FeedForward):
    """max(h, 0)^2 (Primer, So et al. 2021)."""

    def activate(self, h_BTF: torch.Tensor) -> torch.Tensor:
        return F.relu(h_BTF).square()


class SwiGLUFeedForward(FeedForward):
    """silu(gate) * h (Shazeer 2020, eq. 6); ``up.weight`` stacks the rows of the gate and of h."""

    gates = 2

    def activate(self, h_BTF: torch.Tensor) -> torch.Tensor:
        gate_BTF, h_BTF = h_BTF.chunk(2, -1)
        return F.silu(gate_BTF) * h_BTF


FEED_FORWARDS = {"gelu": GELUFeedForward, "relu2": SquaredReLUFeedForward, "swiglu": SwiGLUFeedForward}
