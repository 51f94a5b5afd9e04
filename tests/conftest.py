"""What the tests of several rooms share: a hypothesis profile, a small text and a small search space."""

from __future__ import annotations

import importlib
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# What the caller's terminal has is no business of the tests'.
for _name in ("EVONAS_DEBUG", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
    os.environ.pop(_name, None)

# No deadline: how long an example takes says nothing on a busy machine. The same examples each time: what fails there
# is of the change, not of the draw.
hypothesis.settings.register_profile("evonas", deadline=None, derandomize=True)
hypothesis.settings.load_profile("evonas")

SPACE = """\
schema = 1
name = "tiny"

[genes]
n_layers = { low = 1, high = 2 }
d_model = [16, 32]
norm = ["layernorm", "rmsnorm"]
activation = ["gelu", "swiglu"]
position = ["learned", "rope"]
tied_embeddings = [true, false]
learning_rate = { low = 1e-3, high = 3e-2, log = true }
batch_size = [4, 8]
dropout = [0.0, 0.1]
optimizer = ["adamw", "muon"]

[layers]
n_heads = [1, 2]
n_kv_heads = [1, 2]
window = [8, "full"]
kv_rank = [4, "none"]
ffn_ratio = [1.0, 2.0]
"""
WORDS = "the cat sat on a mat and saw how the rain ran down over some old roof until it was dark".split()


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """Some 12 kB of words in random order: there is something to learn in it, and it is not learned by heart."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "words.txt"
    path.write_text(" ".join(rng.choice(WORDS) for _ in range(3000)))
    return path


@pytest.fixture(scope="session")
def space_file(tmp_path_factory) -> Path:
    """A search space of small transformers, for contexts from 9 tokens on."""
    path = tmp_path_factory.mktemp("space") / "tiny.toml"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="module")
def targets():
    """The module of evaluators; spawned workers get this process's sys.path."""
    sys.path.insert(0, str(Path(__file__).parent))
    yield importlib.import_module("search_targets")
    sys.path.remove(str(Path(__file__).parent))


@pytest.fixture
def curve(targets, tmp_path):
    """The evaluator with its folder for logs and switches."""
    folder = tmp_path / "work"
    folder.mkdir()
    return targets.Curve(folder)


def logged(evaluator, what: str) -> list[str]:
    path = evaluator.folder / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.removeprefix(what + " ") for line in lines if line.startswith(what + " ")]


class When(float):
    """A deadline that comes once ``happened()``, not at some second: that is too early on a busy machine. It is far
    away in all else."""

    def __new__(cls, happened: Callable[[], bool]) -> When:
        self = super().__new__(cls, "inf")
        self.happened = happened
        return self

    def __le__(self, now: float) -> bool:  # asked as ``now >= deadline``
        return bool(self.happened())


@pytest.fixture
def when() -> type[When]:
    return When


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
