from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from evonas.model.dot_product import CausalDotProduct
from evonas.model.flash import flash_usable


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Full attention under a boolean band, the definition itself; (B, T, H, E)."""
    position = torch.arange(q.shape[2], device=q.device)
    distance = position[:, None] - position
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


def test_the_mask_is_made_where_the_rest_of_the_network_is():
    with torch.device("meta"):
        assert CausalDotProduct(3, 8).band.device.type == "meta"
    band = CausalDotProduct(3, 8).band
    assert band.device.type == "cpu" and band.dtype == torch.float32
    seen = [[0 <= i - j < 3 for j in range(8)] for i in range(8)]
    assert band.tolist() == [[0 if s else -torch.inf for s in row] for row in seen]


# -- on a GPU in half precision ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("width", [8, 20, 64])
@pytest.mark.parametrize("window", [1, 5, 32, 50, None])
@pytest.mark.parametrize("length", [1, 5, 64, 150])
def test_flash_attention_equals_masked_full_attention(length, window, width):
    generator = torch.Generator().manual_seed(length)
    q, k, v = (
        torch.randn(2, length, heads, width, generator=generator).cuda().transpose(1, 2).requires_grad_()
        for heads in (4, 2, 2)
    )
    core = CausalDotProduct(window, 150).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        assert flash_usable(q)
        y = core(q, k, v)
    assert y.dtype == torch.bfloat16
    expected = reference(q, k, v, window or length)
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.02)
    probe = torch.randn(y.shape, generator=generator).cuda()
    for given, wanted in zip(torch.autograd.grad((y * probe).sum(), (q, k, v)),
                             torch.autograd.grad((expected * probe).sum(), (q, k, v))):  # fmt: skip
        torch.testing.assert_close(given, wanted, rtol=0.05, atol=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_flash_attention_takes_a_chunk_with_the_keys_before_it():
    q, k, v = (torch.randn(1, heads, 96, 16, device="cuda", dtype=torch.bfloat16) for heads in (4, 2, 2))
    core = CausalDotProduct(32, 96).cuda()
    y = core(q, k, v)
    part = core(q[:, :, 64:], k[:, :, 32:], v[:, :, 32:])
    torch.testing.assert_close(part, y[:, 64:], rtol=0.02, atol=0.02)


def test_flash_attention_is_for_gpus_in_half_precision_only():
    q = torch.zeros(1, 1, 4, 16)
    assert not flash_usable(q) and not flash_usable(q.bfloat16())
    if torch.cuda.is_available():
        assert not flash_usable(q.cuda()) and flash_usable(q.cuda().bfloat16())
        assert not flash_usable(torch.zeros(1, 1, 4, 264, device="cuda", dtype=torch.bfloat16))
