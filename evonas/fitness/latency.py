"""Time and memory of a network on this device, as its user will feel them."""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Callable

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..model import Transformer
from ..record import Measure
from .device import device_text
from .graph import WARM_UP, aside, capture

WARM_UP_SECONDS = 0.02
GPU_WARM_UP_SECONDS = 0.2  # it raises its clock only under load,
GPU_STAYS_WARM = 0.5  # and keeps it for so many seconds at least
MIN_REPEATS, MAX_REPEATS = 20, 2_000
FEW_REPEATS = 5  # undisturbed ones that say more than all the disturbed
PATIENCE = 5  # times the seconds asked for, or those of the fewest repeats, where the machine is busy
WAIT = 30.0  # seconds beyond those of the fewest repeats, at most: measurements have a time limit
WAITED = 0.05  # share of a repeat that a thread may wait for others
CPU_THREADS = 1  # of a timed forward pass: small networks gain nothing from more, and the figure is steadier

_gpu_busy_at = -math.inf  # when the latest timing of this process ended


def forward_latency(model: Transformer, device: str, seconds: float) -> Measure:
    """Milliseconds of one forward pass over the model's context at batch 1 (prefill); see ``_timed``."""
    tokens = _tokens(model, model.context, device)
    return _timed(lambda: model(tokens), device, seconds)


def decode_latency(model: Transformer, device: str, seconds: float) -> Measure:
    """Milliseconds of one token at the end of the context, with the KV cache filled up to it."""
    tokens = _tokens(model, model.context, device)
    cache = model.new_cache(1)
    if model.context > 1:
        model.prefill(tokens[:, :-1], cache)
    last, filled = tokens[:, -1:], cache.length

    def step() -> None:
        cache.length = filled
        model.decode(last, cache)

    return _timed(step, device, seconds)


@torch.inference_mode()
def forward_memory(model: Transformer, device: str, tables: bool = True) -> Measure:
    """Peak megabytes (10^6 bytes) while one forward pass over the context fills the KV cache: weights, tables (masks of
    windows, rotations), cache and activations. From the allocator on a GPU; on a CPU the sum of live tensors, without
    what a kernel uses inside. Without ``tables`` as runs have it that began before these were counted."""
    model.eval()
    weights = sum(p.nbytes for p in (*model.parameters(), *(model.buffers() if tables else ())))
    tokens, cache = _tokens(model, model.context, device), model.new_cache(1)
    if device != "cpu":
        model.prefill(tokens, model.new_cache(1))  # libraries take memory of their own at the first product
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model.prefill(tokens, cache)
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
    else:
        with LiveTensors() as live:
            model.prefill(tokens, cache)
        extra = live.peak
    return Measure((weights + cache.bytes + extra) / 1e6, 0.0, "measured", device_text(device))


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors made and still alive within the block; ``peak`` is the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in _tensors((args, kwargs or {})):
            self._known.add(tensor.untyped_storage()._cdata)  # came from outside: not ours to count
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def _tensors(tree) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    return [t for part in tree for t in _tensors(part)] if isinstance(tree, (list, tuple, type({}.values()))) else []


def _tokens(model: Transformer, length: int, device: str) -> torch.Tensor:
    # Any tokens will do: no operation's time depends on them.
    return (torch.arange(length, device=device) % model.vocab_size).unsqueeze(0)


def _timed(call: Callable[[], object], device: str, seconds: float) -> Measure:
    """Median milliseconds of ``call`` over about ``seconds`` of repeats, and half their interquartile range.

    On a CPU, a repeat during which this thread had to wait for something else (its clock ran clearly ahead of its own
    CPU time) says nothing of the network: such repeats are left out while there are enough others, and made up for. On
    a GPU the call is captured as a CUDA graph first, as a deployed model's is: launched op by op, a small network's
    time is that of the host's CPU, and varies with whatever else that does.
    """
    global _gpu_busy_at
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(CPU_THREADS)
    collecting = gc.isenabled()
    gc.disable()
    try:
        # Not inference mode on a GPU: what a capture makes then, torch's generator could not use in a training.
        with torch.inference_mode() if device == "cpu" else torch.no_grad():
            call = call if device == "cpu" else _captured(call)
            # Asked behind the capture, during which the host works.
            cold = device != "cpu" and time.perf_counter() > _gpu_busy_at + GPU_STAYS_WARM
            until = time.perf_counter() + (GPU_WARM_UP_SECONDS if cold else WARM_UP_SECONDS)
            _repeat(call, device)
            while time.perf_counter() < until:
                _repeat(call, device)
            times, alone = _repeats(call, device, seconds)
        _gpu_busy_at = time.perf_counter()
    finally:
        if collecting:
            gc.enable()
        torch.set_num_threads(threads)
    kept = times[alone] if alone.sum() >= FEW_REPEATS else times
    low, median, high = np.percentile(kept, [25, 50, 75])
    return Measure(float(median), float(high - low) / 2, "measured", device_text(device))


def _captured(call: Callable[[], object]) -> Callable[[], object]:
    """``call`` as a CUDA graph's replay; itself where it can't be captured."""
    aside(call, WARM_UP)
    graph = capture(call)
    return call if graph is None else graph.replay


def _repeats(call: Callable[[], object], device: str, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of each repeat, and whether nothing came between."""
    times: list[tuple[float, bool]] = []
    start, undisturbed, work = time.perf_counter(), 0, 0.0
    while len(times) < MAX_REPEATS:
        spent = time.perf_counter() - start
        if len(times) >= MIN_REPEATS and spent > seconds:
            # A slow network has spent the seconds by the fewest repeats alone.
            fewest = MIN_REPEATS * work / len(times)
            patience = max(PATIENCE * seconds, min(PATIENCE * fewest, fewest + WAIT))
            if undisturbed >= MIN_REPEATS or spent > patience:
                break
        wall, own = _repeat(call, device)
        times.append((wall, wall - own <= WAITED * wall))
        undisturbed += times[-1][1]
        work += own / 1e3
    return np.array([t for t, _ in times]), np.array([alone for _, alone in times])


def _repeat(call: Callable[[], object], device: str) -> tuple[float, float]:
    """Milliseconds by the clock, and of this thread's own work; the former again on a GPU."""
    own, start = time.thread_time_ns(), time.perf_counter_ns()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    wall = time.perf_counter_ns() - start
    return wall / 1e6, (wall if device != "cpu" else time.thread_time_ns() - own) / 1e6
