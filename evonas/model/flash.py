"""Flash attention on a GPU, in full or within a window.

B batch, T queries, S keys, H heads, K KV heads, E head width
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

from .narrow import product_dtype

_WIDTH_STEP = 8  # the kernel's head widths are multiples of it
_WIDEST_HEAD = 256
_WIDE_HEADS, _WIDE_HEADS_ON = (192, 224), ((8, 0), (9, 0), (10, 0))  # above, up to; on these capabilities


def flash_usable(q_BHTE: torch.Tensor) -> bool:
    """Whether ``flash_attention`` takes these queries: on a GPU that has the kernel, in half precision, E <= 256.

    Its gradient knows some wide heads on few GPUs only (torch's own attention has the same exception)."""
    if not q_BHTE.is_cuda or q_BHTE.shape[-1] > _WIDEST_HEAD:
        return False
    if product_dtype(q_BHTE) not in (torch.bfloat16, torch.float16) or not _flash_available(q_BHTE.device):
        return False
    wide = _WIDE_HEADS[0] < q_BHTE.shape[-1] <= _WIDE_HEADS[1] and torch.is_grad_enabled()
    return not wide or torch.cuda.get_device_capability(q_BHTE.device) in _WIDE_HEADS_ON


def flash_attention(
    q_BHTE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor, window: int | None
) -> torch.Tensor:
    """Causal attention, y_BTHE: the queries are those of the last T keys, each sees ``window`` of them (None: all
    before it), and heads share KV heads; O(T * window) time, O(T) memory (Dao 2023, "FlashAttention-2").

    ``F.scaled_dot_product_attention`` knows no window, wants KV heads repeated where there is a mask, and may choose
    cuDNN, which plans every new shape for seconds: a search meets a new shape with every candidate.
    """
    dtype, width, lengths = product_dtype(q_BHTE), q_BHTE.shape[-1], (q_BHTE.shape[2], k_BKSE.shape[2])
    # Heads behind tokens, where the projections left them.
    q, k, v = (x.transpose(1, 2).to(dtype) for x in (q_BHTE, k_BKSE, v_BKSE))
    if width % _WIDTH_STEP:  # padding copies, even where there is nothing to pad
        q, k, v = (F.pad(x, (0, -width % _WIDTH_STEP)) for x in (q, k, v))
    sides = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    y_BTHE = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, *lengths, 0.0, True, False, scale=width**-0.5, **sides
    )[0]
    return y_BTHE[..., :width]


@cache
def _flash_available(device: torch.device) -> bool:
    """torch has no public function for windows that every version we take has: its own operator is asked for."""
    packet = getattr(torch.ops.aten, "_flash_attention_forward", None)
    known = packet is not None and "window_size_left" in str(packet.default._schema) and torch.version.hip is None
    new = torch.cuda.get_device_capability(device) >= (8, 0)
    return known and new and torch.backends.cuda.is_flash_attention_available()
