"""A short convolution over the sequence.

B batch, T sequence, D d_model, C conv_width
"""

from __future__ import annotations

import torch
from torch import nn

from .narrow import alike


class ShortConvolution(nn.Module):
    """Causal depthwise convolution; x_BTD -> x_BTD, ``y[t] = sum_j weight[j] * x[t - j]`` over the ``width`` latest.

    Over token embeddings it hands the first layer n-grams, for which it would need attention otherwise (So et al. 2021,
    "Primer"; Fu et al. 2023, "H3"; Allen-Zhu 2025, "Canon layers"). ``weight`` is (C, D); as drawn by ``init_weights``
    the convolution is the identity.
    """

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, d_model))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        self.weight.zero_()[0] = 1.0

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        (weight_CD,) = alike(x_BTD, self.weight)
        y_BTD = x_BTD * weight_CD[0]
        for j in range(1, min(len(weight_CD), x_BTD.shape[1])):
            # A slice at a time: for a few taps that is faster than torch's depthwise convolution on a CPU.
            y_BTD[:, j:].addcmul_(x_BTD[:, :-j], weight_CD[j])
        return y_BTD
