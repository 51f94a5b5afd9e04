"""What the tests of executors share: targets, and executors that are closed at the end."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from evonas.executors import make_executor

HERE = Path(__file__).parent
# Far longer than any call here needs; a hang fails by it instead of blocking the suite.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def targets():
    """The module of targets; spawned workers get this process's sys.path."""
    sys.path.insert(0, str(HERE))
    yield importlib.import_module("executor_targets")
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def ray_session():
    """One Ray instance for all tests: starting one takes seconds."""
    import ray

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=4)
    yield
    ray.shutdown()


@pytest.fixture
def make(targets, tmp_path, request):
    """make(name, workers=2, target=None, env=None, spare=False) -> Executor, closed at the end of the test."""
    made = []

    def _make(name, workers=2, target=None, env=None, spare=False):
        if name == "ray":
            request.getfixturevalue("ray_session")
        made.append(make_executor(name, target or targets.Target(tmp_path), workers, env, spare))
        return made[-1]

    yield _make
    for executor in made:
        executor.close()


def never_ready(executor, place: int, monkeypatch) -> None:
    """The worker at that place is started anew and stops on its way."""
    lane = executor._lanes[place]
    executor._drop(lane)
    executor._start(lane)
    os.kill(lane.worker.process.pid, signal.SIGSTOP)
    monkeypatch.setattr("evonas.executors.pool.START_LIMIT", 0.5)
    monkeypatch.setattr("evonas.executors.pool.HEARTBEAT", 0.1)


def eventually(condition) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
