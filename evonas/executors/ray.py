"""The executor over a Ray cluster, or a local Ray instance where there is none."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import EvonasError
from .base import default_workers
from .pool import Event, PoolExecutor, Worker, WorkerDied
from .worker import load_target, run_call, stdout_to_stderr, tail


class RayExecutor(PoolExecutor):
    """Runs calls in ``workers`` Ray actors of one CPU each, and an equal share of the cluster's GPUs, unless the target
    says that it uses none (``one_device`` False).

    It joins the Ray session of this process or the cluster named by ``RAY_ADDRESS``; otherwise it starts a local
    instance, which ``close`` shuts down again. On a cluster, evonas must be installed on every node.
    It differs from other backends in this: Ray does not tell the exit status or signal of a worker that died, only
    a description; it writes a line about it to stdout; and a worker that dies between two calls is noticed
    at the next one, which counts as an attempt.

    Args:
        target: see ``Executor``.
        workers: how many actors; None for one per CPU of the cluster.
        env: environment variables set in the actors before they import anything.
    """

    def __init__(self, target: Any, workers: int | None, env: Mapping[str, str] | None = None) -> None:
        with _own_sigterm():
            try:
                import ray
            except ImportError as error:
                raise EvonasError(
                    f"the executor 'ray' needs Ray, which cannot be imported: {error}",
                    "In your clone: pip install -e '.[ray]'",
                ) from error
            self._ray = ray
            self._owns_ray = not ray.is_initialized()
            if self._owns_ray:
                _init(ray, workers)
        try:
            resources = ray.cluster_resources()
            uses_gpu = getattr(target, "one_device", True)
            super().__init__(target, workers or max(1, int(resources.get("CPU", 1))))
            self._options = {
                "num_cpus": 1,
                "num_gpus": _share(resources.get("GPU", 0.0), self.workers) if uses_gpu else 0,
                "max_restarts": 0,
                "max_task_retries": 0,
                "runtime_env": {"env_vars": dict(env or {})},
            }
            self._target_ref = ray.put(self._target)
            self._start_missing(self._lanes)
        except BaseException:
            if self._owns_ray:
                ray.shutdown()
            raise

    def close(self) -> None:
        if self._closed:
            return
        super().close()
        if self._owns_ray:
            self._ray.shutdown()

    def _new_worker(self) -> Worker:
        return _RayWorker(self._ray, self._options, self._target_ref)

    def _wait(self, workers: list[Worker], seconds: float) -> dict[Worker, Event]:
        pending = {worker.pending: worker for worker in workers if worker.pending is not None}
        if not pending:
            return {}
        done, _ = self._ray.wait(list(pending), num_returns=1, timeout=seconds)
        if done:  # the others that finished, too
            done, _ = self._ray.wait(list(pending), num_returns=len(pending), timeout=0)
        return {pending[ref]: pending[ref].event() for ref in done}


class _RayWorker(Worker):
    def __init__(self, ray: Any, options: Mapping[str, Any], target_ref: Any) -> None:
        self._ray = ray
        self._actor = ray.remote(Actor).options(**options).remote(sys.path)
        self._loaded = False
        self.pending = self._actor.load.remote(target_ref)

    def event(self) -> Event:
        """What the finished call in ``pending`` says."""
        ref, self.pending = self.pending, None
        try:
            value = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return Event("died", str(error).strip().splitlines()[-1])
        if self._loaded:
            return Event("reply", value)
        self._loaded = True
        return Event("ready") if not value else Event("unusable", value)

    def send(self, call: bytes) -> None:
        try:
            self.pending = self._actor.run.remote(call)
        except self._ray.exceptions.RayError as error:
            raise WorkerDied from error

    def stop(self) -> None:
        if self._actor is not None and self._ray.is_initialized():
            self._ray.kill(self._actor, no_restart=True)
        self._actor = self.pending = None


class Actor:
    """Holds the target in a Ray worker; at the top level because Ray imports it by name."""

    def __init__(self, path: list[str]) -> None:
        sys.path.extend(entry for entry in path if entry not in sys.path)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        stdout_to_stderr()
        self._target: Any = None

    def load(self, target: bytes) -> str:
        """Take the target; the text of what went wrong, or an empty one."""
        try:
            self._target = load_target(target)
        except (Exception, SystemExit) as error:
            return tail(error)
        return ""

    def run(self, call: bytes) -> bytes:
        return run_call(self._target, call)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """What SIGTERM does stays ours: Ray sets a handler of its own, which exits with no word to anybody."""
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if ours else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _init(ray: Any, workers: int | None) -> None:
    """Join the cluster of RAY_ADDRESS, or start a local instance with a CPU for every worker asked for."""
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if not os.environ.get("RAY_ADDRESS"):
        # Without an address it would join what somebody has started on this host, and then refuse the CPUs.
        settings.update(address="local", include_dashboard=False, num_cpus=max(workers or 1, default_workers()))
    try:
        ray.init(**settings)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise EvonasError(f"Ray does not start: {error}", "Check RAY_ADDRESS, or use --executor processes.") from error


def _share(gpus: float, workers: int) -> float:
    """The GPUs of one worker. Below 1 they have to be of one GPU, so that as many workers fit on each; Ray knows
    ten-thousandths."""
    if gpus >= workers:
        return float(gpus // workers)
    if gpus < 1:
        return gpus / workers
    return math.floor(1e4 / math.ceil(workers / int(gpus))) / 1e4
