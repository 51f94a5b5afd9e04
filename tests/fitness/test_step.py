"""One step: what it changes, and that a captured one does the same as one op by op."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evonas.fitness.step import WARM_UP, GraphedStep
from evonas.fitness.train import Training

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
TOKENS = 16 * 8 * 12


def weights(training: Training) -> torch.Tensor:
    return torch.cat([p.detach().cpu().flatten() for p in training.model.parameters()])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_rate_that_is_a_tensor_steps_as_a_number_does(genome, task, optimizer):
    """As a captured step has it."""
    number, tensor = (Training(genome(optimizer=optimizer, weight_decay=0.1), task, seed=0) for _ in range(2))
    for each in tensor.optimizers:
        for group in each.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]))
    for training in (number, tensor):
        training.run(TOKENS)
    torch.testing.assert_close(weights(number), weights(tensor), rtol=1e-4, atol=1e-5)


def test_loss_and_norm_are_those_of_the_batch(genome, task):
    training = Training(genome(dropout=0.0), task, seed=0)
    x, y = task.batch(np.random.default_rng(0), 4)
    logits = training.model(torch.from_numpy(np.ascontiguousarray(x)))
    expected = task.loss(logits, torch.from_numpy(np.ascontiguousarray(y))).mean()
    expected.backward()
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in training.model.parameters()]))
    training.step(x, y, 1e-3)
    torch.testing.assert_close(training.step.loss, expected.detach())
    torch.testing.assert_close(training.step.norm, norm)


def test_a_step_without_rate_changes_no_weight(genome, task):
    training = Training(genome(), task, seed=0)
    before = weights(training)
    training.step(*task.batch(np.random.default_rng(0), 4), 0.0)
    assert torch.equal(before, weights(training))


@gpu
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_captured_step_trains_as_one_op_by_op(genome, task, optimizer):
    found = []
    for graphed in (True, False):
        g = genome(optimizer=optimizer, batch_size=8, block_conv_width=3)
        training = Training(g, task, seed=0, device="cuda")
        assert isinstance(training.step, GraphedStep)
        training.step.graphed = None if graphed else False
        training.run(16 * (8 * (WARM_UP + 20) + 3))  # and a last batch of three
        found.append((weights(training), training.validate(160)[0]))
        assert training.step.graphed is graphed
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-5)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)


@gpu
@pytest.mark.parametrize("wait", [lambda loss: loss.sum().item(), lambda loss: torch.cuda.synchronize()])
def test_a_loss_that_waits_for_the_device_trains_op_by_op(genome, task, wait):
    class Waiting:
        vocab_size, context, batch, validation = task.vocab_size, task.context, task.batch, task.validation

        @staticmethod
        def loss(logits, targets):
            loss = task.loss(logits, targets)
            wait(loss)
            return loss

    training = Training(genome(dropout=0.1), Waiting(), seed=0, device="cuda")
    training.run(TOKENS)
    assert training.step.graphed is False and training.validate(160)[0] < 10
    after = Training(genome(dropout=0.1), task, seed=0, device="cuda")  # in the same process
    after.run(TOKENS)
    assert after.step.graphed is True and after.validate(160)[0] < 10


@gpu
def test_dropout_differs_from_replay_to_replay(genome, task):
    training = Training(genome(dropout=0.5, learning_rate=1e-8, weight_decay=0), task, seed=0, device="cuda")
    batch, losses = task.batch(np.random.default_rng(0), 8), []
    for _ in range(WARM_UP + 4):
        training.step(*batch, 0.0)
        losses.append(training.step.loss.item())
    assert len(set(losses[WARM_UP:])) == 4


@gpu
def test_a_first_cycle_shorter_than_a_batch_keeps_no_later_one_from_being_captured(genome, task):
    training = Training(genome(batch_size=8), task, seed=0, device="cuda")
    training.run(16 * 5)
    training.run(16 * (5 + 8 * (WARM_UP + 4)))
    assert training.step.graphed is True


@gpu
@pytest.mark.parametrize(("kv_rank", "precision"), [(5, "float32"), (10, "float32"), (12, "bfloat16")])
def test_latents_of_any_rank_train_without_rotations(genome, task, kv_rank, precision):
    g = genome(kv_rank=kv_rank, position="learned", d_model=64, n_heads=4)
    training = Training(g, task, seed=0, device="cuda", precision=precision)
    training.run(16 * 8 * 4)
    assert np.isfinite(training.validate(160)[0])
