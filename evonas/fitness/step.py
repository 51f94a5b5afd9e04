"""One optimiser step: op by op, or on a GPU captured once as a CUDA graph and replayed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from ..model import Transformer
from ..tasks import Task
from .graph import WARM_UP, aside, capture
from .precision import autocast

_AHEAD = 4  # batches that may wait for the device


class Step:
    """Forward, backward, clip, update. ``loss`` and ``norm`` (of the gradient, before clipping) are those of the last
    step, tensors on the device.

    Args:
        precision: of matrix products, "float32" or "bfloat16".
    """

    graphed: bool | None = False  # whether it is captured; None where that is not known yet

    def __init__(
        self,
        model: Transformer,
        optimizers: Sequence[torch.optim.Optimizer],
        task: Task,
        grad_clip: float,
        device: str,
        precision: str,
    ) -> None:
        self.model, self.optimizers, self.task, self.grad_clip = model, optimizers, task, grad_clip
        self.device, self.precision = device, precision
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.loss = self.norm = torch.zeros(())

    def __call__(self, x: np.ndarray, y: np.ndarray, rate: float) -> None:
        """One batch (B, T) of inputs and targets at that learning rate."""
        self._set_rate(rate)
        self._update(to_device(x, self.device), to_device(y, self.device))

    def _set_rate(self, rate: float) -> None:
        tensors = {}  # groups may share one
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if torch.is_tensor(group["lr"]):
                    tensors[id(group["lr"])] = group["lr"]
                else:
                    group["lr"] = rate
        for tensor in tensors.values():
            tensor.fill_(rate)

    def _update(self, x: torch.Tensor, y: torch.Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            logits = self.model(x)
        loss = self.task.loss(logits, y).mean()
        loss.backward()
        self.norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.grad_clip)
        self.loss = loss.detach()
        for optimizer in self.optimizers:
            optimizer.step()


class GraphedStep(Step):
    """A step whose kernels are launched together: a small network's single ones take longer to launch than to run.

    The first ``WARM_UP`` batches train op by op on a side stream, as a capture wants it; then the step is captured, and
    from there on every batch of that shape is copied to where the graph reads it, while the host draws the next ones.
    Learning rates are tensors for that. Batches of another shape (the last one) train op by op. So does everything
    where a task's loss can't be captured (``graphed`` is False then): one that reads a value on the host, say.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.graphed = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._shape: tuple[tuple[int, ...], ...] | None = None
        self._steps = 0

    def __call__(self, x: np.ndarray, y: np.ndarray, rate: float) -> None:
        shape = x.shape, y.shape
        if self._graph is None and shape != self._shape:  # a training shorter than a batch may have come before
            self._shape, self._steps = shape, 0
        if shape != self._shape or self.graphed is False:
            super().__call__(x, y, rate)
            return
        self._steps += 1
        if self._steps <= WARM_UP:
            aside(lambda: super(GraphedStep, self).__call__(x, y, rate))
            return
        if self._graph is None and not self._capture(x, y):
            super().__call__(x, y, rate)
            return
        self._set_rate(rate)
        self._copy(x, y)
        self._graph.replay()
        self.loss, self.norm = self._captured  # an op-by-op batch in between has left its own

    def _update(self, x: torch.Tensor, y: torch.Tensor) -> None:
        if self._steps != WARM_UP or self.graphed is False:
            super()._update(x, y)
            return
        # What waits for the device can't be captured, and a capture that fails leaves torch's generator unusable.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode")  # that it does not find all
            torch.cuda.set_sync_debug_mode("error")
        try:
            super()._update(x, y)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            self.graphed = False
        finally:
            torch.cuda.set_sync_debug_mode("default")
        if self.graphed is False:
            super()._update(x, y)

    def _copy(self, x: np.ndarray, y: np.ndarray) -> None:
        """Bring a batch to where the graph reads it, behind what the device has still to do, without waiting for it."""
        *pinned, copied = self._waiting[self._steps % _AHEAD]
        copied.synchronize()  # the batch that was there before
        for array, source, target in zip((x, y), pinned, (self._x, self._y)):
            source.numpy()[...] = array
            target.copy_(source, non_blocking=True)
        copied.record()

    def _capture(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Record the step without running it; False where that can't be."""
        self._x, self._y = (to_device(a, self.device).clone() for a in (x, y))
        self._waiting = [
            (*(torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in (self._x, self._y)), torch.cuda.Event())
            for _ in range(_AHEAD)
        ]
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)  # gradients then lie in the graph's own memory
        graph = capture(lambda: self._update(self._x, self._y))
        self.graphed = graph is not None
        if self.graphed:
            self._graph, self._captured = graph, (self.loss, self.norm)
        return self.graphed


def to_device(array: np.ndarray, device: str) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if device == "cpu" else tensor.to(device, non_blocking=True)
