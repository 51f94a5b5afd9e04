"""Which machine it is: for times taken on it, and for how much is done on it at once."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_GPU_WORKERS, _GPU_SHARE = 8, 8 * 10**9  # at most; bytes of the device's memory for each


@cache
def device_text(device: str) -> str:
    """The model of the CPU or GPU behind "cpu" or "cuda": times of two models are never compared as if equal."""
    if device == "cpu":
        return " ".join(_cpu_model().split()) or device
    import torch

    return torch.cuda.get_device_name()


def gpu_workers(cores: int) -> int:
    """How many processes, at most one per core, share the GPU where nobody says how many: a small network alone leaves
    most of it idle."""
    import torch

    room = torch.cuda.get_device_properties(0).total_memory // _GPU_SHARE
    return max(1, min(_GPU_WORKERS, cores, room))


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    names = (line.partition(":")[2] for line in text.splitlines() if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
