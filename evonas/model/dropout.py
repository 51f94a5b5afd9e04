"""Dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_LEVELS = 2**16


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """Zero each value with probability ``p`` and scale the others so that the mean stays (Srivastava et al. 2014).

    As ``F.dropout`` on a GPU. On a CPU that draws a number of its own for every value, a tenth of the training time of
    a small network; here four values share one of 64 bits, and ``p`` is a multiple of 2^-16. The result is float32.
    """
    if x.is_cuda:
        return F.dropout(x, p)
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[: x.numel()].view(x.shape) >= dropped - _LEVELS // 2
    return x * kept.float().mul_(_LEVELS / (_LEVELS - dropped))
