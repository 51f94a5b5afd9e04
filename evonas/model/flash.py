"""Flash attention on a GPU, in full or within a window.

B batch, T queries, S keys, H heads, K KV heads, E head width
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

_WIDTH_STEP = 8  # the kernel's head widths are multiples of it
_WIDEST_HEAD = 256


def flash_usable(q_BHTE: torch.Tensor) -> bool:
    """Whether ``flash_attention`` takes these queries: on a GPU that has the kernel, in half precision, E <= 256."""
    if not q_BHTE.is_cuda or q_BHTE.shape[-1] > _WIDEST_HEAD:
        return False
    return _product_dtype(q_BHTE) in (torch.bfloat16, torch.float16) and _flash_available()


def flash_attention(
    q_BHTE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor, window: int | None
) -> torch.Tensor:
    """Causal attention, y_BTHE: the queries are those of the last T keys, each sees ``window`` of them (None: all
    before it), and heads share KV heads; O(T * window) time, O(T) memory (Dao 2023, "FlashAttention-2").

    ``F.scaled_dot_product_attention`` knows no window, wants KV heads repeated where there is a mask, and may choose
    cuDNN, which plans every new shape for seconds: a search meets a new shape with every candidate.
    """
    dtype, width, lengths = _product_dtype(q_BHTE), q_BHTE.shape[-1], (q_BHTE.shape[2], k_BKSE.shape[2])
    # Heads behind tokens, where the projections left them.
    q, k, v = (F.pad(x.transpose(1, 2).to(dtype), (0, -width % _WIDTH_STEP)) for x in (q_BHTE, k_BKSE, v_BKSE))
    sides = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    y_BTHE = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, *lengths, 0.0, True, False, scale=width**-0.5, **sides
    )[0]
    return y_BTHE[..., :width]


def _product_dtype(q: torch.Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else q.dtype


@lru_cache(maxsize=1)
def _flash_available() -> bool:
    """torch has no public function for windows that every version we take has: its own operator is asked for."""
    packet = getattr(torch.ops.aten, "_flash_attention_forward", None)
    known = packet is not None and "window_size_left" in str(packet.default._schema) and torch.version.hip is None
    return known and torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability() >= (8, 0)
