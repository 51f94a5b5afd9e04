"""Which machine a time was taken on."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


@cache
def device_text(device: str) -> str:
    """The model of the CPU or GPU behind "cpu" or "cuda": times of two models are never compared as if equal."""
    if device == "cpu":
        return " ".join(_cpu_model().split()) or device
    import torch

    return torch.cuda.get_device_name()


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    names = (line.partition(":")[2] for line in text.splitlines() if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
