"""A short convolution against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from evonas.model.short_convolution import ShortConvolution


@pytest.mark.parametrize("length", [1, 2, 4, 33])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_it_is_a_causal_depthwise_convolution_and_so_is_its_gradient(width, length):
    torch.manual_seed(0)
    layer = ShortConvolution(6, width).double()
    with torch.no_grad():
        layer.weight.normal_()
    x = torch.randn(3, length, 6, dtype=torch.double, requires_grad=True)
    kernel = layer.weight.detach().flip(0).T[:, None].requires_grad_()  # torch's kernels run backwards
    expected = F.conv1d(F.pad(x.transpose(1, 2), (width - 1, 0)), kernel, groups=6).transpose(1, 2)
    y = layer(x)
    torch.testing.assert_close(y, expected)
    into = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, x, into)[0], torch.autograd.grad(expected, x, into)[0])
    layer.zero_grad()
    layer(x).backward(into)
    expected = F.conv1d(F.pad(x.transpose(1, 2), (width - 1, 0)), kernel, groups=6).transpose(1, 2)
    taps = torch.autograd.grad(expected, kernel, into)[0][:, 0].T.flip(0)
    torch.testing.assert_close(layer.weight.grad, taps)


def test_it_begins_as_the_identity():
    x = torch.randn(2, 5, 4)
    assert torch.equal(ShortConvolution(4, 3)(x), x)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("lengths", [[1] * 9, [4, 1, 4], [2, 7], [9]])
def test_in_pieces_it_looks_back_on_what_went_before(width, lengths):
    torch.manual_seed(0)
    layer, x = ShortConvolution(6, width).double(), torch.randn(3, 9, 6, dtype=torch.double)
    with torch.no_grad():
        layer.weight.normal_()
    tail = layer.new_tail(3)
    y = torch.cat([layer(piece, tail) for piece in x.split(lengths, 1)], 1)
    torch.testing.assert_close(y, layer(x))
    tail = layer.new_tail(3)
    begun = sum(lengths[:-1])
    layer(x[:, :begun], tail)
    y = torch.cat([layer(x[:, t : t + 1], tail, t) for t in range(begun, 9)], 1)
    torch.testing.assert_close(y, layer(x)[:, begun:])


def test_only_what_wants_a_gradient_gets_one():
    layer, x = ShortConvolution(4, 3), torch.randn(2, 5, 4)
    layer(x).sum().backward()
    assert layer.weight.grad is not None and x.grad is None
    layer.weight.requires_grad_(False)
    (dx,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    assert torch.equal(dx, torch.ones_like(x))
