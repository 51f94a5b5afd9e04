"""From a genome to its measures: what is exact, what is measured alone on the device, what is trained."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from functools import cached_property

from ..errors import EvonasError
from ..genome import Genome
from ..genome.graph import cost
from ..record import Measure, Outcome
from ..tasks import Task, load_task

EXACT = ("params", "flops")
MEASURED = ("latency", "decode_latency", "memory")
TRAINED = ("loss",)


class ProxyEvaluator:
    """Evaluates genomes of one task on one device; picklable, and sent once to every worker.

    The search calls, in this order: ``exact`` (free), ``measure`` (alone on the device, once per architecture) and
    ``train`` (in any worker). Each gives the measures among ``needs`` that belong to it.

    Args:
        task, data, context: as ``load_task`` takes them.
        needs: names of the objectives and constraints that someone will look at.
        tokens: training tokens of the proxy; the same for every genome.
        validation_tokens: held-out tokens of its loss.
        seed: of initial weights and data order; one for the whole run, so that candidates differ in their genes only.
        device: "cpu" or "cuda".
        latency_seconds: time spent on the repeats of one timing.
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
        seed: int = 0,
        device: str = "cpu",
        latency_seconds: float = 0.1,
    ) -> None:
        self.task_name, self.data, self.context = task, data, context
        self.needs, self.tokens, self.validation_tokens = tuple(needs), tokens, validation_tokens
        self.seed, self.device, self.latency_seconds = seed, device, latency_seconds
        self.exact_names = tuple(n for n in EXACT if n in self.needs)
        self.measured_names = tuple(n for n in MEASURED if n in self.needs)
        self.trained_names = tuple(n for n in TRAINED if n in self.needs)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "task"}

    @cached_property
    def task(self) -> Task:
        return load_task(self.task_name, self.data, self.context)

    def exact(self, genome: Genome) -> dict[str, Measure]:
        """Parameters and FLOPs, by formula; needs no torch."""
        found = cost(genome, self.task.vocab_size, self.context)
        return {name: Measure(float(getattr(found, name))) for name in self.exact_names}

    def measure(self, genome: Genome) -> Outcome:
        """Latency and memory on the device. Nothing else may run on it meanwhile."""
        import torch

        from ..model import build
        from . import latency

        started = time.perf_counter()
        # Fixed weights: latency must not depend on what was drawn before.
        model = build(genome, self.task.vocab_size, self.context, generator=torch.Generator().manual_seed(self.seed))
        model = model.to(self.device).eval()
        measures = {}
        if "latency" in self.measured_names:
            measures["latency"] = latency.forward_latency(model, self.device, self.latency_seconds)
        if "decode_latency" in self.measured_names:
            measures["decode_latency"] = latency.decode_latency(model, self.device, self.latency_seconds)
        if "memory" in self.measured_names:
            measures["memory"] = latency.forward_memory(model, self.device)
        spent = {"measure_seconds": time.perf_counter() - started}
        return Outcome(measures=measures, cost=spent, provenance=self._provenance(latency.CPU_THREADS))

    def train(self, genome: Genome) -> Outcome:
        """The proxy's held-out loss. A divergence is an Outcome with status "non_finite"."""
        import torch

        from .train import DivergenceError, train

        if self.device == "cpu":
            torch.set_num_threads(1)
        started = time.perf_counter()
        try:
            done = train(
                genome,
                self.task,
                self.tokens,
                seed=self.seed,
                device=self.device,
                validation_tokens=self.validation_tokens,
            )
        except DivergenceError as error:
            spent = {"seconds": time.perf_counter() - started}
            return Outcome("non_finite", reason=str(error), cost=spent, provenance=self._provenance(1))
        loss = Measure(done.loss, done.spread, f"{self.tokens} tokens", self.device)
        spent = {"seconds": time.perf_counter() - started, "tokens": float(done.tokens)}
        return Outcome(measures={"loss": loss}, cost=spent, provenance=self._provenance(1))

    def _provenance(self, threads: int) -> dict[str, str | int | float]:
        import torch

        name = torch.cuda.get_device_name() if self.device != "cpu" else platform.machine()
        return {"device": self.device, "device_name": name, "threads": threads, "torch": torch.__version__}


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
