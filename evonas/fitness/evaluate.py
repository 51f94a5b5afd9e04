"""From a genome to its measures: what is exact, what is measured alone on the device, what is trained."""

from __future__ import annotations

import contextlib
import os
import platform
import stat
import time
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..errors import EvonasError
from ..genome import Genome
from ..genome.graph import cost
from ..record import CONDITIONS, Measure, Outcome
from ..tasks import Task, fingerprint, load_task
from .precision import resolve_precision

if TYPE_CHECKING:
    from .train import Training

EXACT = ("params", "flops")
MEASURED = tuple(CONDITIONS)
TRAINED = ("loss",)


class ProxyEvaluator:
    """Evaluates genomes of one task on one device; picklable, and sent once to every worker.

    The search calls, in this order: ``exact`` (free), ``measure`` (alone on the device, once per architecture) and
    ``train`` (in any worker), rung by rung. Each gives the measures among ``needs`` that belong to it.

    Args:
        task, data, context: as ``load_task`` takes them.
        needs: names of the objectives and constraints that someone will look at.
        tokens: training tokens at the last rung; the same for every genome.
        rungs, growth: how many rungs there are, and how many times more tokens each has than the one before.
        checkpoints: folder in which a training waits for its next rung; None: it is repeated from the start.
        validation_tokens: held-out tokens of its loss.
        seed: of initial weights and data order; one for the whole run, so that candidates differ in their genes only.
        device: "cpu" or "cuda".
        precision: of the matrix products of a training; see ``resolve_precision``.
        horizon: tokens of the trainings that learning rates are meant for; None: for any. See ``rate_share``.
        sparing_muon: as ``Training`` takes it.
        whole_memory: whether ``memory`` counts a network's tables, as ``forward_memory`` has it.
        latency_seconds: time spent on the repeats of one timing; None: 0.05 on a CPU, 0.1 on a GPU. From one timing to
            the next a time varies by 1% there, however long each is.
    """

    def __init__(
        self,
        task: str,
        data: str | None,
        context: int,
        *,
        needs: Sequence[str],
        tokens: int,
        validation_tokens: int,
        rungs: int = 1,
        growth: int = 4,
        checkpoints: str | None = None,
        seed: int = 0,
        device: str = "cpu",
        precision: str = "auto",
        horizon: int | None = None,
        sparing_muon: bool = True,
        whole_memory: bool = True,
        latency_seconds: float | None = None,
    ) -> None:
        self.task_name, self.data, self.context = task, data, context
        self.needs, self.validation_tokens, self.checkpoints = tuple(needs), validation_tokens, checkpoints
        self.seed, self.device = seed, device
        self._began_with: str | None = None  # the data of a task that was loaded, for its copies elsewhere
        self._stamp: tuple[int, int] | None = None
        usual = 0.05 if device == "cpu" else 0.1
        self.latency_seconds = usual if latency_seconds is None else latency_seconds
        self.horizon, self.sparing_muon, self.whole_memory = horizon, sparing_muon, whole_memory
        self.one_device = device != "cpu"
        # "auto" is asked where it trains: this process may do without torch.
        self.precision = precision if precision == "auto" else resolve_precision(precision, device)
        self.exact_names = tuple(n for n in EXACT if n in self.needs)
        self.measured_names = tuple(n for n in MEASURED if n in self.needs)
        self.trained_names = tuple(n for n in TRAINED if n in self.needs)
        self.rungs = rung_tokens(tokens, rungs if self.trained_names else 1, growth)
        if self.rungs[0] < context:
            raise EvonasError(
                f"{tokens} tokens in {rungs} rungs leave {self.rungs[0]} for the first, less than one context of "
                f"{context}",
                f"Write --tokens {context * growth ** (rungs - 1)} or more, fewer --rungs or a smaller --context.",
            )

    def __getstate__(self) -> dict:
        state = {k: v for k, v in self.__dict__.items() if k != "task"}
        if (task := self.__dict__.get("task")) is not None:
            state["_began_with"] = self._began_with or fingerprint(task)
        return state

    @cached_property
    def task(self) -> Task:
        """Raises EvonasError also where its data is not what this, or what it is a copy of, began with."""
        stamp = _stamp_of(self.data)  # before it is read
        task = load_task(self.task_name, self.data, self.context)
        # To read it all takes seconds per gigabyte.
        if self._began_with is not None and (stamp is None or stamp != self._stamp):
            if (now := fingerprint(task)) != self._began_with:
                raise EvonasError(
                    f"{self.data or 'the data'} was changed while it was learned from: {self._began_with} then, "
                    f"{now} now",
                    "Put the old file back and go on.",
                )
        self._stamp = stamp
        return task

    def _check_data(self) -> None:
        """Raises EvonasError where a file was written over in place: what is mapped of it has changed with it."""
        # One that was removed is still there for who has mapped it.
        if self._began_with is not None and _stamp_of(self.data) not in (None, self._stamp):
            del self.task
            _ = self.task  # is it what this began with?

    def prepare(self) -> None:
        """Load what a worker needs before its first call, so that all do it at once and nothing of it is timed: the
        data, torch, what its optimisers import when they are made (seconds), and the device's libraries."""
        import torch

        self.task.batch(np.random.default_rng(0), 1)
        matrix = torch.nn.Parameter(torch.ones(8, 8, device=self.device))
        optimizer = torch.optim.AdamW([matrix], fused=True)
        torch.mm(matrix, matrix).sum().backward()
        optimizer.step()
        if self.device != "cpu":
            torch.cuda.synchronize()

    def exact(self, genome: Genome) -> dict[str, Measure]:
        """Parameters and FLOPs, by formula; needs no torch."""
        known = self.known(genome)
        return {name: Measure(known[name]) for name in self.exact_names}

    def known(self, genome: Genome) -> dict[str, float]:
        """What tells something of a genome at no cost, wanted or not: parameters and FLOPs."""
        found = cost(genome, self.task.vocab_size, self.context)
        return {name: float(getattr(found, name)) for name in EXACT}

    def measure(self, genome: Genome) -> Outcome:
        """Latency and memory on the device. Nothing else may run on it meanwhile."""
        import torch

        from ..model import build
        from . import latency

        started = time.perf_counter()
        # Fixed weights: latency must not depend on what was drawn before.
        weights = torch.Generator(self.device).manual_seed(self.seed)
        model = build(genome, self.task.vocab_size, self.context, generator=weights, device=self.device).eval()
        measures = {}
        if "latency" in self.measured_names:
            measures["latency"] = latency.forward_latency(model, self.device, self.latency_seconds)
        if "decode_latency" in self.measured_names:
            measures["decode_latency"] = latency.decode_latency(model, self.device, self.latency_seconds)
        if "memory" in self.measured_names:
            measures["memory"] = latency.forward_memory(model, self.device, self.whole_memory)
        spent = {"measure_seconds": time.perf_counter() - started}
        return Outcome(measures=measures, cost=spent, provenance=self._provenance(latency.CPU_THREADS))

    def training(self, genome: Genome) -> Training:
        """A fresh one, as ``train`` begins it."""
        from .train import Training

        precision = resolve_precision(self.precision, self.device)
        how = {"precision": precision, "horizon": self.horizon, "sparing_muon": self.sparing_muon}
        return Training(genome, self.task, seed=self.seed, device=self.device, **how)

    def train(self, genome: Genome, rung: int = 0) -> Outcome:
        """The proxy's held-out loss at that rung. Goes on from the checkpoint of the rung below, from scratch without
        one; either way the result is the same (see ``Training``). A divergence is an Outcome with status
        "non_finite". Raises EvonasError where its data has changed."""
        import torch
        from safetensors import SafetensorError

        from . import checkpoint
        from .train import DivergenceError

        if self.device == "cpu":
            torch.set_num_threads(1)
        started = time.perf_counter()
        path = None if self.checkpoints is None else checkpoint.path_of(self.checkpoints, genome.id)
        training = self.training(genome)
        self._check_data()
        if path is not None and checkpoint.load(training, path) and training.cycles > rung + 1:
            training = self.training(genome)  # it is ahead of us
        paid = training.tokens

        def spent() -> dict[str, float]:
            return {"seconds": time.perf_counter() - started, "tokens": float(training.tokens - paid)}

        outcome = {"provenance": {**self._provenance(1), "precision": training.precision}}
        try:
            while training.cycles <= rung:
                training.run(self.rungs[training.cycles])
            found = training.validate(self.validation_tokens)
        except DivergenceError as error:
            return Outcome("non_finite", reason=str(error), cost=spent(), **outcome)
        finally:
            self._check_data()  # before anything is kept of it
        if path is not None and rung < len(self.rungs) - 1:
            # A full disk takes the checkpoint, not the evaluation: the next rung trains this one again.
            with contextlib.suppress(OSError, SafetensorError):
                checkpoint.save(training, path)
        if self.device != "cpu":
            outcome["provenance"]["cuda_graph"] = int(bool(training.step.graphed))
        measure = Measure(found.loss, found.spread, f"{self.rungs[rung]} tokens", self.device, found.sketch)
        return Outcome(measures={"loss": measure}, cost=spent(), **outcome)

    def retain(self, genome_ids: Collection[str]) -> None:
        """Only these genomes may go on: the checkpoints of all others are removed."""
        if self.checkpoints is not None:
            from .checkpoint import keep_only

            keep_only(self.checkpoints, genome_ids)

    def _provenance(self, threads: int) -> dict[str, str | int | float]:
        import torch

        name = torch.cuda.get_device_name() if self.device != "cpu" else platform.machine()
        threads = threads if self.device == "cpu" else torch.get_num_threads()  # set on a CPU alone
        return {"device": self.device, "device_name": name, "threads": threads, "torch": torch.__version__}


def _stamp_of(data: str | None) -> tuple[int, int] | None:
    """What changes with a file's content; None where there is no such file."""
    if data is None:
        return None
    try:
        about = os.stat(data)
    except (OSError, ValueError):
        return None
    return (about.st_size, about.st_mtime_ns) if stat.S_ISREG(about.st_mode) else None


def rung_tokens(tokens: int, rungs: int, growth: int) -> tuple[int, ...]:
    """Training tokens of each rung, the last of them ``tokens``."""
    return tuple(max(1, tokens // growth ** (rungs - 1 - k)) for k in range(rungs))


def resolve_device(name: str) -> str:
    """``auto`` is the GPU where there is one. Raises EvonasError for a device this machine lacks."""
    if name not in ("auto", "cpu", "cuda"):
        raise EvonasError(f"no such device {name!r}", "Allowed: --device auto, cpu or cuda.")
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise EvonasError(
            "no CUDA device is to be seen here", "Use --device cpu, or install a CUDA build of torch and its driver."
        )
    return "cpu"
