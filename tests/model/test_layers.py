"""Norms, feed-forwards and rotary embeddings against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from evonas.model.feed_forward import FEED_FORWARDS
from evonas.model.norm import NORMS
from evonas.model.rotary import Rotary


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", NORMS)
def test_norms_follow_their_formula(name):
    norm = NORMS[name](12).double()
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    x = draw(2, 3, 12)
    centred = x - x.mean(-1, keepdim=True) if name == "layernorm" else x
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("name", FEED_FORWARDS)
def test_feed_forwards_follow_their_formula(name):
    layer = FEED_FORWARDS[name](6, 8).double()
    up, down = draw(16 if name == "swiglu" else 8, 6, seed=1), draw(6, 8, seed=2)
    layer.load_state_dict({"up.weight": up, "down.weight": down})
    x = draw(2, 3, 6)
    h = x @ up.T
    if name == "gelu":
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
    elif name == "relu2":
        h = torch.where(h > 0, h * h, 0.0)
    else:
        gate, h = h[..., :8], h[..., 8:]
        h = gate / (1 + torch.exp(-gate)) * h
    torch.testing.assert_close(layer(x), h @ down.T)


@pytest.mark.parametrize("start", [0, 3, 100])  # within the tables, and past them
def test_rotary_turns_pairs_by_position(start):
    x = draw(2, 4, 3, 6)
    y = Rotary(6, 8).double()(x, start)
    for t in range(4):
        for i in range(3):
            angle = (start + t) * 10000.0 ** (-2 * i / 6)
            a, b = x[:, t, :, i], x[:, t, :, i + 3]
            torch.testing.assert_close(y[:, t, :, i], a * math.cos(angle) - b * math.sin(angle), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(
                y[:, t, :, i + 3], b * math.cos(angle) + a * math.sin(angle), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("length", [256, 257, 300])  # past 256 in halves
def test_rotary_of_a_long_sequence_is_the_same_without_gradients(length):
    x, rotary = draw(2, length, 3, 6), Rotary(6, 280).double()
    before = x.clone()
    with torch.no_grad():
        y = rotary(x, 5)
    torch.testing.assert_close(y, rotary(x, 5), rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)
