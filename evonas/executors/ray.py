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
from ..safepoint import Settle, rest_by
from .base import default_workers
from .lanes import Event, Worker, WorkerDied
from .pool import PoolExecutor
from .worker import load_target, run_call, stdout_to_stderr, tail

# Of a CPU, or of a GPU, for a spare actor: the others, where they take whole ones, leave it as much.
_SPARE = 0.01


class RayExecutor(PoolExecutor):
    """Runs calls in ``workers`` Ray actors of one CPU each, and an equal share of the cluster's GPUs (of one GPU at
    most, with a ``spare`` one), unless the target says that it uses none (``one_device`` False).

    It joins the Ray session of this process or the cluster named by ``RAY_ADDRESS``; otherwise it starts a local
    instance, which ``close`` shuts down again. On a cluster, evonas must be installed on every node.
    It differs from other backends in this: Ray does not tell the exit status or signal of a worker that died, only
    a description; it writes a line about it to stdout; and a worker that dies between two calls is noticed
    at the next one, which counts as an attempt.

    Args:
        target: see ``Executor``.
        workers: how many actors; None for one per CPU of the cluster.
        env: environment variables set in the actors before they import anything.
        spare: one more actor, which takes next to nothing of a CPU or GPU, for what is done alone: then calls of a
            ``stream`` rest at their next ``safepoint`` for it, and one that comes to none is waited for.
    """

    def __init__(
        self, target: Any, workers: int | None, env: Mapping[str, str] | None = None, *, spare: bool = False
    ) -> None:
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
            super().__init__(target, workers or max(1, int(resources.get("CPU", 1))), spare)
            self._options = {
                "num_cpus": 1 - _SPARE * spare,
                "num_gpus": _share(resources.get("GPU", 0.0), self.workers, spare) if uses_gpu else 0,
                "max_restarts": 0,
                "max_task_retries": 0,
                "runtime_env": {"env_vars": dict(env or {})},
            }
            self._actor = _resting(ray) if spare else ray.remote(Actor)
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

    def _new_worker(self, spare: bool) -> Worker:
        needs = ("num_cpus", "num_gpus") if spare else ()
        options = {**self._options, **{name: min(self._options[name], _SPARE) for name in needs}}
        return _RayWorker(self._ray, self._actor.options(**options), self._target_ref)

    def _wait(self, workers: list[Worker], seconds: float) -> dict[Worker, Event]:
        # What became of its call comes last, and is what counts.
        pending = {ref: worker for worker in workers for ref in (worker.rests, worker.pending) if ref is not None}
        if not pending:
            return {}
        done, _ = self._ray.wait(list(pending), num_returns=1, timeout=seconds)
        if done:  # the others that finished, too
            done, _ = self._ray.wait(list(pending), num_returns=len(pending), timeout=0)
        events = ((worker, worker.event(ref)) for ref, worker in pending.items() if ref in done)
        return {worker: event for worker, event in events if event is not None}


class _RayWorker(Worker):
    def __init__(self, ray: Any, actor: Any, target_ref: Any) -> None:
        self._ray = ray
        self._actor = actor.remote(sys.path)
        self._loaded = False
        self._calls = self._order = 0  # sent; the next to rest, until it is to go on
        self.pending = self._actor.load.remote(target_ref)
        self.rests = None  # what tells that it does

    def event(self, ref: Any) -> Event | None:
        """What finished says: the call in ``pending``, or what ``rests`` tells."""
        if ref == self.rests:
            self.rests = None
            with contextlib.suppress(self._ray.exceptions.RayError):  # its call tells that it has died
                return Event("rests") if self._ray.get(ref) else None
            return None
        self.pending = None
        try:
            value = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return Event("died", str(error).strip().splitlines()[-1])
        if self._loaded:
            return Event("reply", value)
        self._loaded = True
        return Event("ready") if not value else Event("unusable", value)

    def send(self, call: bytes) -> None:
        self._calls += 1
        try:
            self.pending = self._actor.run.remote(call)
        except self._ray.exceptions.RayError as error:
            raise WorkerDied from error

    def pause(self) -> bool:
        self.rests = self._send_order(self._actor.rest, self._order, self._calls)
        return False

    def go_on(self) -> None:
        self._send_order(self._actor.go_on, self._order)
        self.rests, self._order = None, self._order + 1

    def _send_order(self, method: Any, *args: int) -> Any:
        with contextlib.suppress(self._ray.exceptions.RayError):  # its call tells that it has died
            return method.remote(*args)

    def stop(self) -> None:
        if self._actor is not None and self._ray.is_initialized():
            self._ray.kill(self._actor, no_restart=True)
        self._actor = self.pending = self.rests = None


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


class RestingActor(Actor):
    """Its calls, one at a time, rest at safepoints when asked to by ``rest``, which comes on a thread of its own, as
    ``go_on`` does. Orders to rest are numbered, and none is kept that is over."""

    def __init__(self, path: list[str]) -> None:
        super().__init__(path)
        self._turn = threading.Condition()
        self._done = 0  # calls
        self._wanted = self._resting = self._over = -1  # orders: the last one, the one that is kept, the last to end
        rest_by(self._rest)

    def run(self, call: bytes) -> bytes:
        try:
            return super().run(call)
        finally:
            with self._turn:
                self._done += 1
                self._turn.notify_all()

    def rest(self, order: int, calls: int) -> bool:
        """Wait until the last of so many calls rests; False where it has ended, or the order is over, before that."""
        with self._turn:
            self._wanted = max(self._wanted, order)
            self._turn.wait_for(lambda: self._resting == order or self._done >= calls or self._over >= order)
            return self._resting == order

    def go_on(self, order: int) -> None:
        with self._turn:
            self._over = max(self._over, order)
            self._turn.notify_all()

    def _rest(self, settle: Settle) -> None:
        if self._wanted <= self._over:
            return
        if settle is not None:
            settle()
        with self._turn:
            self._resting = order = self._wanted
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._over >= order)
            self._resting = -1


def _resting(ray: Any) -> Any:
    """``RestingActor`` for Ray. Two threads: an order to rest may be waiting when the one to go on comes."""
    for order in (RestingActor.rest, RestingActor.go_on):
        ray.method(concurrency_group="orders")(order)
    return ray.remote(concurrency_groups={"orders": 2})(RestingActor)


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


def _share(gpus: float, workers: int, spare: bool = False) -> float:
    """The GPUs of one worker. Below 1 they have to be of one GPU, so that as many workers fit on each, and a ``spare``
    one on one of them; Ray knows ten-thousandths."""
    if gpus >= workers and not spare:
        return float(gpus // workers)
    if gpus < 1:
        return gpus / (workers + spare)
    return math.floor(1e4 * (1 - _SPARE * spare) / math.ceil(workers / int(gpus))) / 1e4
