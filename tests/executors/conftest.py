"""What the tests of executors share: targets, and executors that are closed at the end."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from evonas.executors import make_executor

HERE = Path(__file__).parent


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
