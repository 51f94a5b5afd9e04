"""Muon against torch's own, and its orthogonalisation against the singular value decomposition."""

from __future__ import annotations

import pytest
import torch

from evonas.fitness.muon import Muon, orthogonalised

SHAPES = [(8, 8), (48, 16), (16, 48), (1, 12), (12, 1), (96, 32)]


def matrices(shape, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def polynomial(values: torch.Tensor) -> torch.Tensor:
    """Five rounds of the quintic of Jordan et al. (2024), on singular values."""
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


@pytest.mark.parametrize("shape", SHAPES)
def test_it_applies_the_quintic_to_the_singular_values_and_keeps_the_vectors(shape):
    batch = torch.stack(matrices(shape, 3))
    for matrix, found in zip(batch.double(), orthogonalised(batch)):
        u, s, vh = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), u @ torch.diag(polynomial(s)) @ vh, atol=2e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_close_to_one(shape):
    for matrix in orthogonalised(torch.stack(matrices(shape, 4, seed=1))):
        values = torch.linalg.svdvals(matrix)
        assert values.max() < 1.3 and values.median() > 0.6


def test_the_scale_of_a_matrix_does_not_count_and_zero_stays_zero():
    batch = torch.stack(matrices((8, 24), 2))
    torch.testing.assert_close(orthogonalised(batch), orthogonalised(1000 * batch), atol=1e-4, rtol=1e-4)
    assert torch.equal(orthogonalised(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_it_steps_as_torchs_muon_does(shape, weight_decay):
    """torch orthogonalises in bfloat16, whose 8 bits of mantissa leave some 2% of an update open."""
    start, rate, steps = matrices(shape, 1)[0], 0.02, 6
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        Muon([ours], lr=rate, weight_decay=weight_decay),
        torch.optim.Muon([theirs], lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
    )
    for gradient in matrices(shape, steps, seed=2):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    difference, moved = (ours - theirs).norm(), (theirs - start).norm()
    assert moved > 0
    assert difference < 0.03 * moved


def test_a_batch_of_one_shape_equals_matrix_by_matrix():
    shapes = [(8, 8), (16, 8), (8, 8), (8, 16)]
    start = [torch.randn(s, generator=torch.Generator().manual_seed(k)) for k, s in enumerate(shapes)]
    together = [torch.nn.Parameter(m.clone()) for m in start]
    alone = [torch.nn.Parameter(m.clone()) for m in start]
    optimizers = [Muon(together, lr=0.1), *(Muon([p], lr=0.1) for p in alone)]
    for step in range(3):
        for k, pair in enumerate(zip(together, alone)):
            for parameter in pair:
                generator = torch.Generator().manual_seed(100 * step + k)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
    for one, other, before in zip(together, alone, start):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert not torch.equal(one, before)


def test_of_two_steps_the_first_goes_twice_as_far_and_the_second_is_remembered():
    start, first, second, third = matrices((8, 8), 4)
    rare, often = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = Muon([rare], lr=0.1, weight_decay=0.5, every=2), Muon([often], lr=0.1, weight_decay=0.5)
    moved = []
    for gradient in (first, second, third):
        before = rare.detach().clone(), often.detach().clone()
        for parameter, optimizer in zip((rare, often), optimizers):
            parameter.grad = gradient.clone()
            optimizer.step()
        moved.append([(p.detach() - 0.95 * b) for p, b in zip((rare, often), before)])  # beside what decays
    torch.testing.assert_close(moved[0][0], 2 * moved[0][1])
    assert moved[1][0].abs().max() < 1e-6 < moved[1][1].abs().max()
    torch.testing.assert_close(moved[2][0], 2 * moved[2][1])  # by the momentum of all three gradients


def test_a_cycle_begins_with_a_move():
    parameter = torch.nn.Parameter(torch.eye(4))
    optimizer = Muon([parameter], lr=0.1, every=2)
    for turn in range(3):
        before = parameter.detach().clone()
        parameter.grad = matrices((4, 4), 1, seed=turn)[0]
        if turn == 1:
            optimizer.begin()
        optimizer.step()
        assert torch.equal(parameter, before) is (turn == 2)


def test_a_parameter_without_gradient_stays():
    still, moving = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    moving.grad = torch.eye(4)
    Muon([still, moving], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(still, torch.ones(4, 4)) and not torch.equal(moving, torch.ones(4, 4))


def test_the_rate_of_the_group_counts_at_each_step():
    parameter = torch.nn.Parameter(torch.zeros(6, 6))
    optimizer = Muon([parameter], lr=1.0)
    parameter.grad = torch.eye(6)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert torch.equal(parameter, torch.zeros(6, 6))


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_it_is_the_same_within_its_rounding(shape):
    batch = torch.stack(matrices(shape, 3))
    exact, rounded = orthogonalised(batch), orthogonalised(batch, torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert ((rounded - exact).norm() / exact.norm()).item() < 0.05
