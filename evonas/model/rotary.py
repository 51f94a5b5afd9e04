"""Rotary position embedding.

B batch, T sequence, G heads rotated together, E width rotated
"""

from __future__ import annotations

import torch
from torch import nn

from .narrow import alike

BASE = 10000.0
IN_HALVES = 256  # tokens; past these the copy with both halves swapped costs more than an operation for each half


class Rotary(nn.Module):
    """Rotate pairs (i, i + E/2) of every head by position * BASE^(-2i/E) (Su et al. 2021, eq. 34, in the
    half-split layout of GPT-NeoX and Llama).

    The tables hold ``context`` positions, computed in float64 and rounded to float32; positions past them
    (extrapolation) cost a table of their own per call.
    """

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        assert width % 2 == 0
        self.width = width
        cos, sin = self._tables(torch.arange(context))
        self.register_buffer("cos", cos, persistent=False)  # (context, 1, E)
        self.register_buffer("sin", sin, persistent=False)  # (context, 1, E), the first half negated

    def forward(self, x_BTGE: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Rotate tokens that stand at positions start, start + 1, ..."""
        end = start + x_BTGE.shape[1]
        if end <= self.cos.shape[0]:
            cos, sin = self.cos[start:end], self.sin[start:end]
        else:
            tables = self._tables(torch.arange(start, end, device=self.cos.device))
            cos, sin = (table.to(self.cos.dtype) for table in tables)
        cos, sin = alike(x_BTGE, cos, sin)
        first, second = x_BTGE.chunk(2, -1)
        if x_BTGE.shape[1] > IN_HALVES and not torch.is_grad_enabled():
            y_BTGE = x_BTGE * cos
            for y, x, s in zip(y_BTGE.chunk(2, -1), (second, first), sin.chunk(2, -1)):
                y.addcmul_(x, s)
            return y_BTGE
        return torch.addcmul(x_BTGE * cos, torch.cat((second, first), -1), sin)

    def _tables(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        steps = torch.arange(0, self.width, 2, dtype=torch.float64, device=positions.device)
        angles = positions.double()[:, None] * BASE ** (-steps / self.width)
        cos, sin = angles.cos(), angles.sin()
        cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return cos[:, None].float(), sin[:, None].float()
