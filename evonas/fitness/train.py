"""Training one genome: the same loop for a short proxy and for a full training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from ..genome import Genome
from ..model import Transformer, build
from ..tasks import Task
from .muon import Muon
from .schedule import learning_rates

VALIDATION_BATCH = 32
_DIVERGED = 3.0  # times the first loss: beyond it nothing is learned any more


class DivergenceError(ArithmeticError):
    """Loss or gradient became NaN or infinite, or the loss far exceeded its start."""


@dataclass
class Trained:
    """What a training gave. ``loss`` is the mean over held-out sequences, ``spread`` its standard error."""

    model: Transformer
    loss: float
    spread: float
    tokens: int
    steps: int
    seconds: float
    curve: list[tuple[int, float]] = field(default_factory=list)  # (tokens seen, held-out loss)


def steps_for(genome: Genome, context: int, tokens: int) -> int:
    """Optimiser steps that see about ``tokens`` tokens at the genome's batch size; at least one."""
    return max(1, round(tokens / (genome.batch_size * context)))


def train(
    genome: Genome,
    task: Task,
    tokens: int,
    *,
    seed: int,
    device: str = "cpu",
    validation_tokens: int | None = None,
    evaluations: int = 1,
    on_evaluation: Callable[[int, int, float, float, Transformer], None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Trained:
    """Train ``genome`` on ``tokens`` tokens, its schedule run to the end.

    Args:
        seed: initial weights and data order; dropout too. Same seed, same result on the same device.
        validation_tokens: held-out tokens per evaluation, None for all.
        evaluations: evenly spaced held-out evaluations, the last one after the last step.
        on_evaluation: called at each with (step, steps, held-out loss, its spread, model).
        on_step: called with the number of steps done, after each.

    Raises:
        DivergenceError: as soon as loss or gradient is not finite or the loss has tripled.
    """
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        torch.manual_seed(seed)
        model = build(genome, task.vocab_size, task.context).to(device)
        steps = steps_for(genome, task.context, tokens)
        optimizers = _optimizers(model, genome)
        rates = learning_rates(genome.schedule, genome.learning_rate_at(genome.batch_size), genome.warmup, steps)
        rng = np.random.default_rng((seed, 1))
        marks = {round(steps * (k + 1) / evaluations) for k in range(evaluations)}
        curve: list[tuple[int, float]] = []
        loss = spread = math.nan
        step_once = _Stepper(model, optimizers, task, genome, device)
        for step, rate in enumerate(rates, start=1):
            step_once(rng, rate, step)
            if on_step is not None:
                on_step(step)
            if step in marks:
                loss, spread = validate(model, task, validation_tokens, device)
                if not math.isfinite(loss):
                    raise DivergenceError(f"the held-out loss is {loss} after {step} of {steps} steps")
                curve.append((step * genome.batch_size * task.context, loss))
                if on_evaluation is not None:
                    on_evaluation(step, steps, loss, spread, model)
    seen = steps * genome.batch_size * task.context
    return Trained(model, loss, spread, seen, steps, time.perf_counter() - started, curve)


class _Stepper:
    """One optimiser step: batch, forward, backward, clip, update."""

    def __init__(self, model: Transformer, optimizers: list, task: Task, genome: Genome, device: str) -> None:
        self.model, self.optimizers, self.task, self.device = model, optimizers, task, device
        self.batch_size, self.clip = genome.batch_size, genome.grad_clip
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        # On a GPU reading the loss waits for the device, so it is read less often.
        self.check_every = 1 if device == "cpu" else 20
        self.first: float | None = None
        model.train()

    def __call__(self, rng: np.random.Generator, rate: float, step: int) -> None:
        x, y = (to_device(a, self.device) for a in self.task.batch(rng, self.batch_size))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate
        with autocast(self.device):
            logits = self.model(x)
        loss = self.task.loss(logits, y).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if step % self.check_every == 0 or step == 1:
            self._check(loss.item(), norm.item(), step)
        for optimizer in self.optimizers:
            optimizer.step()

    def _check(self, loss: float, norm: float, step: int) -> None:
        if self.first is None:
            self.first = loss
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergenceError(f"loss {loss}, gradient norm {norm} at step {step}")
        if loss > _DIVERGED * max(self.first, 1e-3):
            raise DivergenceError(f"loss rose from {self.first:.3g} to {loss:.3g} at step {step}")


@torch.inference_mode()
def validate(model: Transformer, task: Task, tokens: int | None, device: str) -> tuple[float, float]:
    """Held-out loss and its standard error over sequences; ``tokens`` as in ``Task.validation``."""
    model.eval()
    losses = []
    for x, y in task.validation(tokens, VALIDATION_BATCH):
        with autocast(device):
            logits = model(to_device(x, device))
        losses.append(task.loss(logits, to_device(y, device)))
    model.train()
    each = torch.cat(losses).double()
    error = each.std().item() / math.sqrt(len(each)) if len(each) > 1 else 0.0
    return each.mean().item(), error


def to_device(array: np.ndarray, device: str) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if device == "cpu" else tensor.to(device, non_blocking=True)


def autocast(device: str):
    """bf16 on a GPU, float32 on a CPU."""
    return nullcontext() if device == "cpu" else torch.autocast("cuda", dtype=torch.bfloat16)


def _optimizers(model: Transformer, genome: Genome) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest. Weight decay acts on
    matrices and embeddings only, as in nanoGPT."""
    hidden, matrices, vectors = [], [], []
    for name, parameter in model.named_parameters():
        inside = parameter.dim() == 2 and name.startswith("blocks.")
        (hidden if inside and genome.optimizer == "muon" else matrices if parameter.dim() >= 2 else vectors).append(
            parameter
        )
    decay = genome.weight_decay
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    rate = genome.learning_rate
    out: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=(0.9, genome.beta2), fused=True)
    ]
    if hidden:
        out.append(Muon(hidden, lr=rate, weight_decay=decay))
    return out
