"""Layers without drawn weights: as torch's, and a network made on any device is complete."""

from __future__ import annotations

import subprocess
import sys

import torch

from evonas.genome import transformer_genome
from evonas.model import build
from evonas.model.undrawn import Embedding, Linear

GENES = {
    "n_layers": 2, "d_model": 16, "n_heads": 2, "ffn_ratio": 2, "norm": "rmsnorm", "activation": "gelu",
    "position": "rope", "tied_embeddings": False,
}  # fmt: skip


def test_they_compute_what_torch_s_do():
    linear, embedding = Linear(3, 2), Embedding(5, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(6.0).view(2, 3))
        embedding.weight.copy_(torch.arange(15.0).view(5, 3))
    x = embedding(torch.tensor([[4, 0]]))
    torch.testing.assert_close(x, torch.tensor([[[12.0, 13, 14], [0, 1, 2]]]))
    torch.testing.assert_close(linear(x), x @ linear.weight.T)
    assert set(linear.state_dict()) == set(embedding.state_dict()) == {"weight"}


def test_making_one_draws_nothing():
    before = torch.get_rng_state()
    Linear(3, 2), Embedding(5, 3)
    assert torch.equal(before, torch.get_rng_state())


def test_a_network_is_made_on_its_device():
    made = build(transformer_genome({**GENES, "window": [8, None]}), 20, 32, device="meta")
    assert {t.device.type for t in (*made.parameters(), *made.buffers())} == {"meta"}


def test_building_imports_no_compiler():
    code = (
        "import sys; from evonas.genome import transformer_genome; from evonas.model import build;"
        f"build(transformer_genome({GENES}), 65, 64); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
