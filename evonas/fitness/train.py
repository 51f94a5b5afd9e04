"""Training one genome: the same loop for a proxy, rung by rung, and for a full training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..genome import Genome
from ..model import Transformer, build
from ..safepoint import safepoint
from ..sketch import block_means, error_of_mean, sketch
from ..tasks import Task
from . import checkpoint
from .midway import Midway, dropout_generator
from .muon import Muon
from .precision import autocast, precision_of
from .schedule import learning_rates, rate_share, steps_of
from .step import GraphedStep, Step, to_device

VALIDATION_BATCH = 32
# A step of fewer tokens on a CPU is none of Muon's on its own: two together take 5 to 26% less time.
_TOKENS_A_MOVE = 512
_DIVERGED = 3.0  # times the first loss: beyond it nothing is learned any more


class DivergenceError(ArithmeticError):
    """Loss or gradient became NaN or infinite, or the loss far exceeded its start."""


class HeldOut(NamedTuple):
    """Mean loss over held-out sequences, its standard error (``error_of_mean``), and the ``sketch`` of that error."""

    loss: float
    spread: float
    sketch: str


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


def batches(batch_size: int, sequences: int) -> list[int]:
    """Sequences of each step: full batches and, last, what is left, so that every genome sees as much as any other."""
    full, rest = divmod(sequences, batch_size)
    return [batch_size] * full + ([rest] if rest else [])


def steps_for(genome: Genome, context: int, tokens: int) -> int:
    """``steps_of`` the genome's batch size."""
    return steps_of(genome.batch_size, context, tokens)


class Training:
    """One genome in training, in cycles. Between two of them, or at a step of one (see ``midway``), it may be written
    down and taken up elsewhere.

    A cycle runs the genome's schedule to its end, so that the loss after each is that of a finished training. The first
    one begins with the genome's warm-up; the next restart at the peak rate (Loshchilov and Hutter 2017, "SGDR").

    Args:
        seed: initial weights, data order, dropout. Same seed and same cycles, same result on the same device; on a GPU
            up to rounding, as some kernels add in the order in which they finish.
        precision: of matrix products, "float32" or "bfloat16"; see ``precision_of``.
        horizon: tokens of the trainings that the genome's learning rate is meant for; None: any. See ``rate_share``.
        sparing_muon: on a CPU Muon moves every second step where a step has fewer than ``_TOKENS_A_MOVE`` tokens.

    Attributes: ``cycles`` done, ``sequences`` seen in them, ``first_loss``, from which divergence is told; ``left``,
    where a cycle was left that the next ``run`` goes on with, None where it begins one.
    """

    def __init__(
        self,
        genome: Genome,
        task: Task,
        *,
        seed: int,
        device: str = "cpu",
        precision: str = "float32",
        horizon: int | None = None,
        sparing_muon: bool = True,
    ) -> None:
        self.genome, self.task, self.seed, self.device, self.horizon = genome, task, seed, device, horizon
        self.precision = precision_of(genome.d_model, precision, device)
        self.cycles, self.sequences, self._under_way = 0, 0, 0
        self.first_loss: float | None = None
        self.left: Midway | None = None
        self._steps, self._batches = 0, np.random.default_rng((seed, 1, 0))  # of the cycle that runs, or will
        with _torch_seed(seed, device):
            self.model = build(genome, task.vocab_size, task.context, device=device)
        small = genome.batch_size * task.context < _TOKENS_A_MOVE
        every = 2 if sparing_muon and small and device == "cpu" else 1
        self.optimizers = _optimizers(self.model, genome, device, self.precision, every)
        kind = Step if device == "cpu" else GraphedStep
        self.step = kind(self.model, self.optimizers, task, genome.grad_clip, device, self.precision)
        # On a GPU reading the loss waits for the device, so it is read less often.
        self._check_every = 1 if device == "cpu" else 20

    @property
    def tokens(self) -> int:
        """Seen so far, in a cycle that was not finished too."""
        return (self.sequences + self._under_way) * self.task.context

    def run(self, tokens: int, after_step: Callable[[int], None] | None = None) -> int:
        """The next cycle, or the rest of the one that was ``left`` (with the same ``tokens``): until ``tokens`` tokens
        are seen in all, in whole sequences, at least one. Returns its steps; ``after_step`` is called with the number
        of those done.

        Raises:
            DivergenceError: as soon as loss or gradient is not finite or the loss has tripled.
        """
        sizes = batches(self.genome.batch_size, max(1, tokens // self.task.context - self.sequences))
        warmup = self.genome.warmup if self.cycles == 0 else 0.0
        share = rate_share(self.genome.optimizer, tokens, self.horizon)
        peak = self.genome.learning_rate_at(self.genome.batch_size) * share
        rates = learning_rates(self.genome.schedule, peak, warmup, len(sizes))
        rng = self._batches = np.random.default_rng((self.seed, 1, self.cycles))
        left, self.left = self.left, None
        begin = 0 if left is None else left.steps
        self._under_way = sum(sizes[:begin])
        at_rest = settle(self.device)
        self.model.train()
        for optimizer in self.optimizers:
            if isinstance(optimizer, Muon):
                optimizer.begin(begin)
        with _torch_seed(int(rng.integers(2**63)), self.device):
            if left is not None:
                rng.bit_generator.state = left.batches
                dropout_generator(self.device).set_state(left.dropout)
            for step in range(begin + 1, len(sizes) + 1):
                self.step(*self.task.batch(rng, sizes[step - 1]), rates[step - 1])
                self._steps, self._under_way = step, self._under_way + sizes[step - 1]
                if step % self._check_every == 0 or step in (1, len(sizes)):
                    self._check(step)
                if after_step is not None:
                    after_step(step)
                safepoint(at_rest)
        self.cycles += 1
        self.sequences, self._under_way = self.sequences + sum(sizes), 0
        return len(sizes)

    def midway(self, evaluations: Sequence[tuple[int, float, float]] = ()) -> Midway:
        """Where the cycle is that runs; for ``after_step``."""
        dropout = dropout_generator(self.device).get_state()
        return Midway(self._steps, self._batches.bit_generator.state, dropout, tuple(evaluations))

    def validate(self, tokens: int | None) -> HeldOut:
        """Held-out loss. Raises DivergenceError where it is not finite."""
        found = validate(self.model, self.task, tokens, self.device, self.precision)
        if not math.isfinite(found.loss):
            raise DivergenceError(f"the held-out loss is {found.loss}")
        return found

    def _check(self, step: int) -> None:
        loss, norm = self.step.loss.item(), self.step.norm.item()
        if self.first_loss is None:
            self.first_loss = loss
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergenceError(f"loss {loss}, gradient norm {norm} at step {step}")
        if loss > _DIVERGED * max(self.first_loss, 1e-3):
            raise DivergenceError(f"loss rose from {self.first_loss:.3g} to {loss:.3g} at step {step}")


def train(
    genome: Genome,
    task: Task,
    tokens: int,
    *,
    seed: int,
    device: str = "cpu",
    precision: str = "float32",
    validation_tokens: int | None = None,
    evaluations: int = 1,
    on_evaluation: Callable[[int, int, float, float, Transformer], None] | None = None,
    on_step: Callable[[int], None] | None = None,
    kept: Path | None = None,
    on_resume: Callable[[int, Sequence[tuple[int, float, float]]], None] | None = None,
) -> Trained:
    """Train ``genome`` on ``tokens`` tokens in one cycle.

    Args:
        seed, precision: see ``Training``.
        validation_tokens: held-out tokens per evaluation, None for all.
        evaluations: evenly spaced held-out evaluations, the last one after the last step.
        on_evaluation: called at each with (step, steps, held-out loss, its spread, model).
        on_step: called with the number of steps done, after each.
        kept: where the training is written down, see ``checkpoint.Keeper``. What an earlier call with
            the same arguments has left there goes on as if it had never stopped (on a GPU up to rounding).
        on_resume: called where that is so, with the steps done and (step, loss, spread) of their evaluations.

    Raises:
        DivergenceError: see ``Training.run``; or a held-out loss is not finite.
    """
    started = time.perf_counter()
    how = {"seed": seed, "device": device, "precision": precision}
    training = Training(genome, task, **how)
    steps = steps_for(genome, task.context, tokens)
    marks = {round(steps * (k + 1) / evaluations) for k in range(evaluations)}
    seen = np.cumsum(batches(genome.batch_size, max(1, tokens // task.context))) * task.context
    found: list[tuple[int, float, float]] = []
    if kept is not None and checkpoint.load(training, kept, midway=True):
        if _is_of(training, steps, marks):
            found += training.left.evaluations
            if on_resume is not None:
                on_resume(training.left.steps, found)
        else:
            training = Training(genome, task, **how)
    keeper = None if kept is None else checkpoint.Keeper(training, kept)

    def after_step(step: int) -> None:
        if on_step is not None:
            on_step(step)
        if step in marks:
            loss, spread, _ = training.validate(validation_tokens)
            found.append((step, loss, spread))
            if on_evaluation is not None:
                on_evaluation(step, steps, loss, spread, training.model)
        if keeper is not None:
            keeper.look(found, at_once=step in marks)

    training.run(tokens, after_step)
    _, loss, spread = found[-1]
    curve = [(int(seen[step - 1]), value) for step, value, _ in found]
    return Trained(training.model, loss, spread, training.tokens, steps, time.perf_counter() - started, curve)


def _is_of(training: Training, steps: int, marks: Collection[int]) -> bool:
    """Whether what was left is one cycle of so many steps, evaluated at the ``marks`` it has passed."""
    left = training.left
    due = [step for step in sorted(marks) if 0 < step <= left.steps]
    evaluated = [step for step, *_ in left.evaluations]
    return training.cycles == training.sequences == 0 and left.steps <= steps and evaluated == due


@torch.inference_mode()
def validate(model: Transformer, task: Task, tokens: int | None, device: str, precision: str = "float32") -> HeldOut:
    """The loss on held-out sequences; ``tokens`` as in ``Task.validation``."""
    model.eval()
    losses, at_rest = [], settle(device)
    for x, y in task.validation(tokens, VALIDATION_BATCH):
        with autocast(device, precision):
            logits = model(to_device(x, device))
        losses.append(task.loss(logits, to_device(y, device)))
        safepoint(at_rest)
    model.train()
    each = torch.cat(losses).double().cpu().numpy()
    blocks = block_means(each)
    return HeldOut(float(each.mean()), error_of_mean(blocks), sketch(blocks))


def settle(device: str) -> Callable[[], None] | None:
    """What waits until the device has done what is queued on it; None where nothing is."""
    return None if device == "cpu" else partial(torch.cuda.synchronize, device)


class _torch_seed:
    """torch's generators start at ``seed`` within the block and are as before after it."""

    def __init__(self, seed: int, device: str) -> None:
        self._seed, self._fork = seed, torch.random.fork_rng(devices=[] if device == "cpu" else [device])

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *exception) -> None:
        self._fork.__exit__(*exception)


def _optimizers(
    model: Transformer, genome: Genome, device: str, precision: str, every: int
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest. Weight decay acts on
    matrices and embeddings only, as in nanoGPT; a short convolution is a vector per tap. Muon moves at one of ``every``
    steps."""
    taps = {convolution.weight for convolution in model.convolutions()}
    hidden, matrices, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or parameter in taps:
            vectors.append(parameter)
        elif name.startswith("blocks.") and genome.optimizer == "muon":
            hidden.append(parameter)
        else:
            matrices.append(parameter)
    decay = genome.weight_decay
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    # A captured step reads its rate from the device.
    rate = genome.learning_rate if device == "cpu" else torch.tensor(float(genome.learning_rate), device=device)
    out: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [g for g in groups if g["params"]],
            lr=rate,
            betas=(0.9, float(genome.beta2)),
            fused=True,
            capturable=device != "cpu",
        )
    ]
    if hidden:
        out.append(Muon(hidden, lr=rate, weight_decay=decay, dtype=getattr(torch, precision), every=every))
    return out
