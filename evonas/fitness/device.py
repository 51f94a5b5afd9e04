"""Which machine it is: for times taken on it, and for how much is done on it at once."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

_ARM = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision")
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
    return next(names, "") or _apples() or _arms(text) or platform.processor() or platform.machine()


def _apples() -> str:
    """The model on macOS, where the processor of all of Apple's is "arm"."""
    if sys.platform != "darwin":
        return ""
    try:
        return subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _arms(cpuinfo: str) -> str:
    """The numbers by which Linux tells models of ARM apart."""
    found = dict(line.split(":", 1) for line in cpuinfo.splitlines() if line.startswith("CPU ") and ":" in line)
    numbers = [f"{key.strip()[4:]} {value.strip()}" for key, value in found.items() if key.strip() in _ARM]
    return f"{platform.machine()} {', '.join(numbers)}" if numbers else ""
