"""Dropout against its definition."""

from __future__ import annotations

import pytest
import torch

from evonas.model.dropout import dropout


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.9])
def test_it_drops_that_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    n = 400_000
    y = dropout(torch.ones(n), p)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.004)
    assert torch.unique(y[y != 0]).item() == pytest.approx(1 / (1 - p), rel=1e-3)
    assert y.mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_shape_comes_back_in_float32(shape, dtype):
    y = dropout(torch.ones(shape, dtype=dtype), 0.5)
    assert y.shape == shape and y.dtype == torch.float32


def test_neighbours_are_dropped_independently():
    """Four of them come from one random number."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.5) != 0).float().view(-1, 4)
    assert (torch.corrcoef(kept.T) - torch.eye(4)).abs().max() < 0.01


def test_gradients_pass_what_was_kept_and_nothing_else():
    torch.manual_seed(0)
    x = torch.randn(100, requires_grad=True)
    y = dropout(x, 0.3)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / x.detach())


def test_the_generator_decides():
    x = torch.ones(1000)
    draws = [(torch.manual_seed(seed), dropout(x, 0.5))[1] for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_even_all_but_everything_can_be_dropped():
    assert torch.isfinite(dropout(torch.ones(100), 1 - 1e-9)).all()
