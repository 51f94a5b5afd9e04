"""What a search has to work with: workers, where they are, and whether they wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import EvonasError
from .options import worker_count

if TYPE_CHECKING:
    from ..config import Settings
    from ..executors import Executor
    from ..fitness import ProxyEvaluator


class Hands(NamedTuple):
    """``--workers``, ``--executor`` and ``--asynchronous``, None where they were not given."""

    workers: int | None
    executor: str
    asynchronous: bool | None = None

    def wait(self, settings: Settings, evaluator: ProxyEvaluator, deadline: float | None) -> bool:
        """Whether they wait for each other at the end of a generation: as asked for, now or (``settings``) when the run
        began; else unless a time is set for several on CPUs of this machine. Raises EvonasError where they have to, and
        are told not to now."""
        from ..executors import default_workers

        reason = self._reason(evaluator)
        if self.asynchronous and reason:
            raise EvonasError(f"--asynchronous: {reason}", "Leave it out, or say --synchronous.")
        wanted = settings.asynchronous if self.asynchronous is None else self.asynchronous
        if reason or wanted is not None:
            return bool(reason) or not wanted
        here = settings.device == "cpu" and self.executor != "ray"
        return deadline is None or not here or (self.workers or default_workers()) == 1

    def _reason(self, evaluator: ProxyEvaluator) -> str:
        """Why nothing else is possible, if it is."""
        if self.executor == "serial":
            return "with --executor serial there is one worker, in this process"
        if not evaluator.trained_names:
            return "nothing is trained in this search, and what is measured is so alone"
        return ""

    def make_executor(self, device: str, evaluator: ProxyEvaluator, wait: bool) -> Executor:
        from ..executors import make_executor

        env = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if device == "cpu" else None
        spare = not wait and bool(evaluator.measured_names)
        return make_executor(self.executor, evaluator, worker_count(self.workers, device), env, spare)

    def to_resume(self, run: str) -> str:
        """What goes on with the run as it was asked for; the store knows where it ends, and whether workers wait."""
        words = ["evonas", "resume", run]
        words += ["--workers", str(self.workers)] if self.workers is not None else []
        words += ["--executor", self.executor] if self.executor != "auto" else []
        return " ".join(words)
