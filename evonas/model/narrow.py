"""What lies between matrix products that are in half precision."""

from __future__ import annotations

import torch

# Where the memory's rate limits what lies between products. A CPU without units for half precision would emulate it,
# one with them loses more by converting than it wins.
NARROW_ON = ("cuda",)


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """In which dtype a product with ``x`` is computed: autocast's where that is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def narrows(x: torch.Tensor) -> bool:
    """Whether ``x`` is where what lies between products is as narrow as they are."""
    return x.device.type in NARROW_ON


def narrowed(x: torch.Tensor) -> torch.Tensor:
    """``x`` in bfloat16 where products are, and where it ``narrows``; as it is elsewhere.

    Autocast multiplies in half precision and leaves the residual stream, norms and rotations in float32: twice the
    bytes, and a conversion before every product. Half of them is what trainings in bfloat16 take (as in Megatron-LM);
    sums inside a kernel are in float32 still. In float16, whose range is short, the stream stays as it is.
    """
    return x.bfloat16() if narrows(x) and product_dtype(x) == torch.bfloat16 else x


def alike(x: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """``others`` in the dtype of ``x``, where it ``narrows``; as they are elsewhere."""
    return tuple(other.to(x.dtype) for other in others) if narrows(x) else others
