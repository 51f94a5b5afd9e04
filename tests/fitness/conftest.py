"""A small genome and task, and one thread: small products gain nothing from more."""

from __future__ import annotations

import pytest
import torch

from evonas.genome import transformer_genome
from evonas.tasks import load_task

GENES = {
    "n_layers": 2, "d_model": 32, "n_heads": 2, "ffn_ratio": 2, "norm": "rmsnorm", "activation": "swiglu",
    "position": "rope", "tied_embeddings": True, "learning_rate": 3e-3, "batch_size": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def genome():
    """genome(**changes): a small transformer with these genes changed."""
    return lambda **changes: transformer_genome({**GENES, **changes})


@pytest.fixture(scope="session")
def task(text_file):
    return load_task("text", str(text_file), 16)
