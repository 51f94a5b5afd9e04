"""Training one genome: what it gives, what it depends on, and when it gives up."""

from __future__ import annotations

import math
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from evonas.fitness.train import VALIDATION_BATCH, DivergenceError, Training, settle, steps_for, train, validate
from evonas.genome import read_space
from evonas.genome.genome import REFERENCE_BATCH
from evonas.safepoint import rest_by
from evonas.sketch import error_of_difference
from evonas.tasks import load_task

FEW = 8 * 16 * 12  # tokens: 12 steps of the base genome


def weights(trained) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}


def same(a, b) -> bool:
    return a.loss == b.loss and all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values()))


# -- determinism ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"dropout": 0.2}, {"optimizer": "muon", "dropout": 0.2}])
def test_the_seed_alone_decides(genome, task, changes):
    first = train(genome(**changes), task, FEW, seed=5)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    torch.randn(7)
    assert same(first, train(genome(**changes), task, FEW, seed=5))
    assert not same(first, train(genome(**changes), task, FEW, seed=6))


def test_it_leaves_the_global_generators_alone(genome, task):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    train(genome(dropout=0.2), task, FEW, seed=5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()


def test_neither_order_nor_thread_matter(genome, task):
    a, b = genome(dropout=0.1), genome(dropout=0.1, activation="gelu")
    there = [train(g, task, FEW, seed=5) for g in (a, b)]
    with ThreadPoolExecutor(1) as pool:
        back = list(pool.map(lambda g: train(g, task, FEW, seed=5), (b, a)))
    assert same(there[0], back[1]) and same(there[1], back[0])


# -- what it gives --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_falls_on_a_learnable_text(genome, task, text_file, optimizer):
    trained = train(genome(optimizer=optimizer), task, 8 * 16 * 150, seed=0, evaluations=3)
    share = np.bincount(np.frombuffer(text_file.read_bytes(), np.uint8)) / text_file.stat().st_size
    of_letters_alone = -sum(p * math.log(p) for p in share if p)
    losses = [loss for _, loss in trained.curve]
    assert losses[0] > losses[1] > losses[2] == trained.loss
    assert trained.loss < 0.8 * of_letters_alone


def test_without_learning_the_loss_is_that_of_a_guess(genome, task):
    trained = train(genome(learning_rate=1e-8, weight_decay=0, tied_embeddings=False), task, FEW, seed=0)
    assert trained.loss == pytest.approx(math.log(task.vocab_size), rel=0.02)


def test_the_loss_is_the_mean_over_all_held_out_sequences(genome, task):
    trained = train(genome(dropout=0.5), task, FEW, seed=0)
    trained.model.eval()
    x, y = (torch.from_numpy(np.concatenate(part)) for part in zip(*task.validation(None, 64)))
    with torch.no_grad():
        logits = trained.model(x)
    each = cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(dim=1).double()
    assert trained.loss == pytest.approx(each.mean().item(), rel=1e-5)
    blocks = torch.stack([part.mean() for part in each.tensor_split(16)])  # neighbouring windows are alike
    assert trained.spread == pytest.approx(blocks.std().item() / math.sqrt(16), rel=1e-4)


def test_how_far_two_networks_differ_is_known_better_than_either(genome, task):
    found = [train(genome(learning_rate=rate), task, 4 * FEW, seed=0).model for rate in (3e-3, 4e-3)]
    a, b = (validate(model, task, None, "cpu") for model in found)
    x, y = (torch.from_numpy(np.concatenate(part)) for part in zip(*task.validation(None, 64)))
    with torch.no_grad():
        one, other = (cross_entropy(m.eval()(x).transpose(1, 2), y, reduction="none").mean(dim=1) for m in found)
    error = (one - other).double().std().item() / math.sqrt(len(y))
    assert error_of_difference((a.spread, b.spread), (a.sketch, b.sketch)) == pytest.approx(error, rel=0.3)
    assert error < 0.7 * math.hypot(a.spread, b.spread)


def test_a_fixed_part_of_the_held_out_data_may_do(genome, task):
    trained = train(genome(), task, FEW, seed=0, validation_tokens=160)
    assert (trained.loss, trained.spread) == validate(trained.model, task, 160, "cpu")[:2]
    assert trained.loss != validate(trained.model, task, None, "cpu")[0]


@pytest.mark.parametrize(
    ("batch_size", "tokens", "steps", "seen"),
    [
        (8, FEW, 12, FEW),
        (8, 1, 1, 16),  # one sequence at least
        (8, 8 * 16 * 2 + 16 * 3 + 5, 3, 8 * 16 * 2 + 16 * 3),  # the last batch is what is left, in whole sequences
        (32, FEW, 3, FEW),
        (64, FEW, 2, FEW),
        (500, FEW, 1, FEW),
    ],
)
def test_every_batch_size_sees_the_same_tokens(genome, task, batch_size, tokens, steps, seen):
    g = genome(batch_size=batch_size)
    done = []
    trained = train(g, task, tokens, seed=0, on_step=done.append)
    assert steps_for(g, 16, tokens) == steps == trained.steps and done == list(range(1, steps + 1))
    assert trained.tokens == seen == trained.curve[-1][0]


def test_evaluations_are_spread_evenly_and_the_last_comes_after_the_last_step(genome, task):
    calls = []
    trained = train(
        genome(), task, FEW, seed=0, evaluations=4, on_evaluation=lambda step, steps, *rest: calls.append((step, steps))
    )
    assert calls == [(3, 12), (6, 12), (9, 12), (12, 12)]
    assert [tokens for tokens, _ in trained.curve] == [3 * 128, 6 * 128, 9 * 128, 12 * 128]
    assert trained.curve[-1][1] == trained.loss


def test_it_may_rest_after_every_step_and_every_batch_held_out_and_is_the_same(genome, task, request):
    undisturbed, seen = train(genome(dropout=0.2), task, FEW, seed=5), []
    request.addfinalizer(lambda: rest_by(None))
    rest_by(seen.append)
    assert same(undisturbed, train(genome(dropout=0.2), task, FEW, seed=5))
    held_out = len(list(task.validation(None, VALIDATION_BATCH)))
    assert held_out > 1 and seen == [None] * (12 + held_out), "nothing is queued on a CPU"


def test_on_a_gpu_what_is_queued_is_waited_for_first(monkeypatch):
    seen = []
    monkeypatch.setattr("torch.cuda.synchronize", seen.append)
    settle("cuda:1")()
    assert seen == ["cuda:1"] and settle("cpu") is None


def test_more_evaluations_than_steps_are_one_per_step(genome, task):
    assert len(train(genome(), task, 3 * 128, seed=0, evaluations=20).curve) == 3


def test_an_evaluation_on_the_way_changes_nothing(genome, task):
    assert same(train(genome(), task, FEW, seed=0), train(genome(), task, FEW, seed=0, evaluations=4))


@pytest.mark.parametrize(
    ("batch_size", "sparing", "still"),
    [(4, True, [2, 4]), (8, True, [2, 4]), (31, True, [2, 4]), (32, True, []), (8, False, [])],
)
def test_muon_moves_every_second_step_where_a_step_has_fewer_than_512_tokens(genome, task, batch_size, sparing, still):
    g = genome(optimizer="muon", weight_decay=0.0, batch_size=batch_size)
    training = Training(g, task, seed=0, sparing_muon=sparing)
    (name,) = [n for n, p in training.model.named_parameters() if n.startswith("blocks.0.") and p.dim() == 2][:1]
    matrix = dict(training.model.named_parameters())[name]
    seen = [matrix.detach().clone()]
    training.run(5 * batch_size * 16, lambda step: seen.append(matrix.detach().clone()))
    assert [step for step in range(1, 6) if torch.equal(seen[step - 1], seen[step])] == still


# -- every training gene does what it says --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [3, 12, 48])
def test_the_rate_grows_with_the_square_root_of_the_batch(genome, task, batch_size):
    """AdamW's first step moves every weight by the learning rate, whatever the gradient; norms are not decayed."""
    g = genome(batch_size=batch_size, learning_rate=1e-3, schedule="constant", warmup=0, weight_decay=0.1)
    trained = train(g, task, batch_size * 16, seed=0)
    assert trained.steps == 1
    moved = (trained.model.norm.weight - 1).abs().max().item()
    assert moved == pytest.approx(1e-3 * math.sqrt(batch_size / REFERENCE_BATCH), rel=1e-2)


@pytest.mark.parametrize(("optimizer", "share"), [("muon", 0.5), ("adamw", 1.0)])
def test_a_rate_meant_for_shorter_trainings_is_taken_over(genome, task, optimizer, share):
    """As above, of the norms, which AdamW has in either case."""
    g = genome(batch_size=8, learning_rate=1e-3, schedule="constant", warmup=0, optimizer=optimizer)
    training = Training(g, task, seed=0, horizon=2 * 16)
    assert training.run(8 * 16) == 1
    moved = (training.model.norm.weight - 1).abs().max().item()
    assert moved == pytest.approx(share * 1e-3 * math.sqrt(8 / REFERENCE_BATCH), rel=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 6e-3}, {"batch_size": 4}, {"weight_decay": 1.0}, {"warmup": 0.5}, {"dropout": 0.3},
        {"schedule": "constant"}, {"schedule": "cosine_restarts"}, {"schedule": "linear"}, {"init": "fan_in"},
        {"optimizer": "muon"}, {"beta2": 0.9}, {"grad_clip": 1e-3},
    ],
    ids=str,
)  # fmt: skip
def test_every_training_gene_changes_the_outcome(genome, task, change):
    base = train(genome(), task, FEW, seed=0)
    assert not same(base, train(genome(**change), task, FEW, seed=0))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_gradients_are_clipped_to_the_genomes_norm(genome, task, optimizer):
    training = Training(genome(grad_clip=1e-3, optimizer=optimizer), task, seed=0)
    assert training.run(8 * 16) == 1
    gradients = [p.grad.flatten() for p in training.model.parameters() if p.grad is not None]
    assert torch.cat(gradients).norm().item() == pytest.approx(1e-3, rel=1e-4)
    assert training.step.norm.item() > 0.01, "as it was before"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_adamws_betas_are_09_and_the_genomes(genome, task, optimizer):
    training = Training(genome(beta2=0.97, optimizer=optimizer), task, seed=0)
    (adamw,) = (o for o in training.optimizers if isinstance(o, torch.optim.AdamW))
    assert [group["betas"] for group in adamw.param_groups] == [(0.9, 0.97)] * len(adamw.param_groups)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weight_decay_shrinks_matrices_and_leaves_norms(genome, task, optimizer):
    changes = {"schedule": "constant", "warmup": 0, "batch_size": 12, "learning_rate": 0.01, "optimizer": optimizer}
    changes |= {"conv_width": 3, "block_conv_width": 2}
    plain, decayed = (
        weights(train(genome(**changes, weight_decay=decay), task, 12 * 16, seed=0)) for decay in (0.0, 5.0)
    )
    start = weights(train(genome(**{**changes, "learning_rate": 1e-8}, weight_decay=0.0), task, 12 * 16, seed=0))
    for name, tensor in decayed.items():
        if tensor.dim() == 1 or "convolution" in name:
            assert torch.equal(tensor, plain[name]), name
        else:  # decoupled: exactly rate * decay of the weight before the step
            torch.testing.assert_close(plain[name] - tensor, 0.05 * start[name], atol=2e-7, rtol=1e-3)


def test_muon_moves_the_matrices_of_the_blocks_and_adamw_the_rest(genome, task):
    changes = {"schedule": "constant", "warmup": 0, "batch_size": 12, "weight_decay": 0.0, "block_conv_width": 2}
    adamw, muon = (train(genome(**changes, optimizer=o), task, 12 * 16, seed=0).model for o in ("adamw", "muon"))
    for (name, a), (_, b) in zip(adamw.named_parameters(), muon.named_parameters()):
        hidden = name.startswith("blocks.") and a.dim() == 2 and "convolution" not in name
        assert torch.equal(a, b) != hidden, name


# -- divergence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_absurd_learning_rate_is_given_up_within_a_few_steps(genome, task, optimizer):
    steps = []
    with pytest.raises(DivergenceError, match="step"):
        train(
            genome(learning_rate=10.0, warmup=0, optimizer=optimizer), task, 8 * 16 * 5000, seed=0, on_step=steps.append
        )
    assert len(steps) < 20


class Poisoned:
    """The text task, but the loss is not a number from the third batch on, or on held-out data only."""

    def __init__(self, task, where: str) -> None:
        self.task, self.where, self.batches = task, where, 0
        self.name, self.vocab_size, self.context, self.validation = "p", task.vocab_size, task.context, task.validation

    def batch(self, rng, batch_size):
        self.batches += 1
        return self.task.batch(rng, batch_size)

    def loss(self, logits, targets):
        bad = self.batches == 3 if self.where == "training" else not torch.is_grad_enabled()
        return self.task.loss(logits, targets) * (math.nan if bad else 1.0)


@pytest.mark.parametrize(("where", "steps", "message"), [("training", 2, "loss nan"), ("validation", 12, "held-out")])
def test_a_loss_that_is_no_number_is_a_divergence(genome, task, where, steps, message):
    done = []
    with pytest.raises(DivergenceError, match=message):
        train(genome(), Poisoned(task, where), FEW, seed=0, on_step=done.append)
    assert len(done) == steps


# -- the whole space ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_task(text_file):
    return load_task("text", str(text_file), 40)  # longer than the blocks of windowed attention


@pytest.mark.parametrize("space", ["text-cpu", "tiny"])
def test_every_genome_of_the_space_trains(space, space_file, wide_task):
    found = read_space(space_file if space == "tiny" else space).bounded(wide_task.context)

    @settings(max_examples=12)
    @given(st.integers(0, 2**32 - 1))
    def trains(seed):
        g = found.sample(np.random.default_rng(seed))
        try:
            trained = train(g, wide_task, 2 * g.batch_size * 40, seed=0, validation_tokens=80)
        except DivergenceError:
            return  # an outcome, not an error
        assert trained.steps == 2 and math.isfinite(trained.loss) and trained.spread >= 0

    trains()


def test_a_beta2_of_zero_is_a_beta2(genome, task):
    training = Training(genome(beta2=0.0, learning_rate=1e-4), task, seed=0)
    assert training.run(16 * 8 * 6) and math.isfinite(training.validate(160).loss)
