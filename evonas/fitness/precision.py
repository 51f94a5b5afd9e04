"""In which floating-point format a training multiplies its matrices."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from ..errors import EvonasError

PRECISIONS = ("float32", "bfloat16")
_NARROW = 64  # d_model; on a CPU, converting the operands of narrower products costs more than it saves


def resolve_precision(name: str, device: str) -> str:
    """``auto`` is bfloat16 where the device has units for it: a GPU since NVIDIA's Ampere, a CPU with AVX512-BF16 or
    AMX. Raises EvonasError for another name."""
    if name not in ("auto", *PRECISIONS):
        raise EvonasError(f"no such precision {name!r}", "Allowed: --precision auto, float32 or bfloat16.")
    if name != "auto":
        return name
    return "bfloat16" if (_cpu_has_bfloat16() if device == "cpu" else _gpu_has_bfloat16()) else "float32"


def precision_of(width: int, precision: str, device: str) -> str:
    """What a network of that d_model is trained in where ``precision`` is asked for."""
    return "float32" if device == "cpu" and width < _NARROW else precision


def autocast(device: str, precision: str) -> AbstractContextManager:
    """Matrix products in ``precision`` within the block; weights and sums stay in float32, and on a CPU what lies
    between products (see ``model.narrow``), but for the hidden layer of a feed-forward."""
    import torch

    return nullcontext() if precision == "float32" else torch.autocast(device, dtype=torch.bfloat16)


def _cpu_has_bfloat16() -> bool:
    import torch

    # torch has no public question for it in all versions we take (2.13: torch.cpu.get_capabilities).
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, question, bool)() for question in questions)


def _gpu_has_bfloat16() -> bool:
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)
