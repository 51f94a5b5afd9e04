from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from evonas.model.dot_product import CausalDotProduct


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Full attention under a boolean band, the definition itself; (B, T, H, E)."""
    distance = torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    visible = (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2)


@pytest.mark.parametrize("context", [8, 256])  # the mask made beforehand, and past the context
@pytest.mark.parametrize("window", [1, 5, 31, 32, 33, 50])
@pytest.mark.parametrize("length", [1, 5, 32, 33, 50, 63, 64, 65, 66, 99, 100, 101, 150, 192])
def test_windowed_equals_masked_full_attention(length, window, context):
    generator = torch.Generator().manual_seed(length * 100 + window)
    q, k, v = (
        torch.randn(2, heads, length, 6, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    )
    expected = reference(q, k, v, window)
    y = CausalDotProduct(window, context).double()(q, k, v)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    probe = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    for given, wanted in zip(torch.autograd.grad((y * probe).sum(), (q, k, v)),
                             torch.autograd.grad((expected * probe).sum(), (q, k, v))):  # fmt: skip
        torch.testing.assert_close(given, wanted, rtol=1e-9, atol=1e-9)


def test_the_mask_is_bounded_by_the_window_not_by_the_context():
    assert CausalDotProduct(64, 100_000).band.shape == (128, 128)
    assert CausalDotProduct(64, 100).band.shape == (100, 100)
    assert CausalDotProduct(2**24, 1024).band.numel() == 0
    assert CausalDotProduct(None, 1024).band.numel() == 0
