"""CUDA graphs: kernels recorded once and launched together."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

# Calls before a capture. In the first, libraries load their kernels and optimisers make their state, which may wait for
# the device; in the second nothing may.
WARM_UP = 2


def capture(run: Callable[[], object]) -> torch.cuda.CUDAGraph | None:
    """What ``run`` launches, recorded without being run; None where that can't be: trainings go on as before then.

    Before it ``run`` should have been called ``WARM_UP`` times on a side stream. Raises torch.OutOfMemoryError.
    """
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before, stream, graph = generator.clone_state(), torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run()
    except RuntimeError as error:  # OutOfMemoryError is one
        torch.cuda.set_stream(stream)  # where ending the capture failed, its stream is still the current one
        generator.graphsafe_set_state(before)  # its own state holds itself for captured still, and refuses to draw
        torch.cuda.synchronize()
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return None
    return graph


def aside(run: Callable[[], object], times: int = 1) -> None:
    """Call ``run`` on a side stream, behind all that is launched and before all that will be."""
    stream = _side_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(times):
            run()
    torch.cuda.current_stream().wait_stream(stream)


@cache
def _side_stream() -> torch.cuda.Stream:
    """One for the process: torch keeps memory for every stream that was used, some of it for good."""
    return torch.cuda.Stream()
