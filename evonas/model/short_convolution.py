"""A short convolution over the sequence.

B batch, T sequence, D d_model, C width of the convolution
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import EvonasError
from .narrow import alike


class ShortConvolution(nn.Module):
    """Causal depthwise convolution; x_BTD -> x_BTD, ``y[t] = sum_j weight[j] * x[t - j]`` over the ``width`` latest.

    Over token embeddings it hands the first layer n-grams, for which it would need attention otherwise, and over the
    inputs of attention and feed-forward what is next to a token (So et al. 2021, "Primer"; Fu et al. 2023, "H3";
    Allen-Zhu 2025, "Canon layers"). ``weight`` is (C, D); as drawn by ``init_weights`` the convolution is the identity.
    """

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, d_model))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        self.weight.zero_()[0] = 1.0

    def forward(self, x_BTD: torch.Tensor, tail: Tail | None = None, position: int | None = None) -> torch.Tensor:
        """``tail`` holds what went before ``x_BTD``, and then what comes before the next tokens. With a ``position``
        x_B1D is the one token there."""
        (weight_CD,) = alike(x_BTD, self.weight)
        if position is not None:
            return (tail.push(x_BTD, position) * weight_CD).sum(1, keepdim=True).to(x_BTD.dtype)
        if tail is not None:
            return _convolved(tail.extend(x_BTD), weight_CD)[:, -x_BTD.shape[1] :]
        if torch.is_grad_enabled() and (x_BTD.requires_grad or weight_CD.requires_grad):
            return _Convolved.apply(x_BTD, weight_CD)
        return _convolved(x_BTD, weight_CD)

    def new_tail(self, batch_size: int) -> Tail:
        return Tail(batch_size, *self.weight.shape, self.weight.device, self.weight.dtype)


class Tail:
    """The latest C ``inputs`` of a convolution of that width, (B, C, D), the last one first as its tap is; zeros before
    the first token."""

    def __init__(self, batch_size: int, width: int, d_model: int, device: torch.device, dtype: torch.dtype) -> None:
        with torch.inference_mode(False):  # an inference tensor could not be written to outside inference mode
            self.inputs = torch.zeros((batch_size, width, d_model), device=device, dtype=dtype)
        self.position = -1  # of the last one

    def forget(self) -> None:
        self.inputs.zero_()
        self.position = -1

    def push(self, x_B1D: torch.Tensor, position: int) -> torch.Tensor:
        """One token at ``position``; the latest C inputs then. The same one once more takes the place of the last.

        Raises EvonasError for any other position than these two or 0, where a sequence begins.
        """
        if position == 0:
            self.forget()
        elif position not in (self.position, self.position + 1):
            raise EvonasError(
                f"the cache knows the tokens up to position {self.position}; {position} is neither that nor the next",
                "Begin the sequence again: cache.reset(), then model.prefill.",
            )
        before = self.inputs[:, 1:] if position == self.position else self.inputs[:, :-1]
        self.inputs.copy_(torch.cat((x_B1D.to(self.inputs.dtype), before), 1))
        self.position = position
        return self.inputs

    def extend(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Many tokens more, behind those before them in the order of the sequence, (B, C+T, D)."""
        joined = torch.cat((self.inputs.to(x_BTD.dtype).flip(1), x_BTD), 1)
        self.inputs.copy_(joined[:, x_BTD.shape[1] :].flip(1))
        self.position += x_BTD.shape[1]
        return joined


def _convolved(x_BTD: torch.Tensor, weight_CD: torch.Tensor) -> torch.Tensor:
    y_BTD = x_BTD * weight_CD[0]
    for j in range(1, min(len(weight_CD), x_BTD.shape[1])):
        # A slice at a time: for a few taps that is faster than torch's depthwise convolution on a CPU.
        y_BTD[:, j:].addcmul_(x_BTD[:, :-j], weight_CD[j])
    return y_BTD


class _Convolved(torch.autograd.Function):
    """``_convolved`` with its gradient written down: torch's own would fill a whole tensor for every slice."""

    @staticmethod
    def forward(ctx, x_BTD: torch.Tensor, weight_CD: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x_BTD, weight_CD)
        return _convolved(x_BTD, weight_CD)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy_BTD: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        x_BTD, weight_CD = ctx.saved_tensors
        taps = min(len(weight_CD), x_BTD.shape[1])
        dx_BTD = dweight_CD = None
        if ctx.needs_input_grad[0]:
            dx_BTD = dy_BTD * weight_CD[0]
            for j in range(1, taps):
                dx_BTD[:, :-j].addcmul_(dy_BTD[:, j:], weight_CD[j])
        if ctx.needs_input_grad[1]:
            dweight_CD = torch.zeros_like(weight_CD)
            for j in range(taps):
                dweight_CD[j] = (dy_BTD[:, j:] * x_BTD[:, : x_BTD.shape[1] - j]).sum((0, 1))
        return dx_BTD, dweight_CD
