"""Where a training is in a cycle that runs."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Midway(NamedTuple):
    """``steps`` of a cycle are done. ``batches`` and ``dropout`` are the states of what draws them: of a bit generator,
    as numpy has it, and of torch's generator (uint8). ``evaluations`` in it: (step, held-out loss, spread)."""

    steps: int
    batches: dict
    dropout: torch.Tensor
    evaluations: tuple[tuple[int, float, float], ...] = ()


def dropout_generator(device: str) -> torch.Generator:
    """torch's own on that device, which alone its dropout can use."""
    if device == "cpu":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device()]
