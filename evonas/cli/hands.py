"""What a search has to work with: workers, where they are, and whether they wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import EvonasError
from .options import worker_count

if TYPE_CHECKING:
    from ..executors import Executor
    from ..fitness import ProxyEvaluator


class Hands(NamedTuple):
    """``--workers``, ``--executor`` and ``--asynchronous``, None where they were not given."""

    workers: int | None
    executor: str
    asynchronous: bool | None = None

    def wait(self, device: str, evaluator: ProxyEvaluator, deadline: float | None) -> bool:
        """Whether they wait for each other at the end of a generation. Raises EvonasError where they have to and were
        told not to."""
        from ..executors import default_workers

        reason = self._reason(device, evaluator)
        if self.asynchronous and reason:
            raise EvonasError(f"--asynchronous: {reason}", "Leave it out.")
        if self.asynchronous is not None:
            return not self.asynchronous
        several = (worker_count(self.workers, device) or default_workers()) > 1
        return bool(reason) or deadline is None or not several

    def _reason(self, device: str, evaluator: ProxyEvaluator) -> str:
        """Why nothing else is possible, if it is."""
        if self.executor == "serial":
            return "with --executor serial there is one worker, in this process"
        if not evaluator.trained_names:
            return "nothing is trained in this search, and what is measured is so alone"
        if evaluator.measured_names and (device != "cpu" or self.executor == "ray"):
            where = "on a cluster" if self.executor == "ray" else "on a GPU"
            return f"{where} trainings can't pause while {', '.join(evaluator.measured_names)} is measured"
        return ""

    def make_executor(self, device: str, evaluator: ProxyEvaluator, wait: bool) -> Executor:
        from ..executors import make_executor

        env = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if device == "cpu" else None
        count = worker_count(self.workers, device)
        spare = {} if wait or not evaluator.measured_names else {"spare": True}
        return make_executor(self.executor, evaluator, count, env, **spare)

    def to_resume(self, run: str) -> str:
        """What goes on with the run as it was asked for; the store knows where it ends."""
        words = ["evonas", "resume", run]
        words += ["--workers", str(self.workers)] if self.workers is not None else []
        words += ["--executor", self.executor] if self.executor != "auto" else []
        if self.asynchronous is not None:
            words.append("--asynchronous" if self.asynchronous else "--synchronous")
        return " ".join(words)
