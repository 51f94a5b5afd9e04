"""Checkpoints: a training that stopped and went on is the training that never stopped."""

from __future__ import annotations

import itertools
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evonas.fitness import checkpoint
from evonas.fitness.train import Training, train

CYCLES = (8 * 16 * 4, 8 * 16 * 12, 8 * 16 * 20)


def trained(genome, task, cycles, seed=3) -> Training:
    training = Training(genome, task, seed=seed)
    for tokens in cycles:
        training.run(tokens)
    return training


def state(training: Training) -> dict[str, torch.Tensor]:
    optimizer = {f"{n}.{k}": t for n, k, t in checkpoint._state(training)}
    return {**training.model.state_dict(), **optimizer}


def same(a: Training, b: Training) -> bool:
    x, y = state(a), state(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


CHANGES = [
    {}, {"dropout": 0.2}, {"optimizer": "muon"}, {"optimizer": "muon", "dropout": 0.1, "tied_embeddings": False},
    {"position": "learned", "norm": "layernorm", "warmup": 0.2, "schedule": "cosine_restarts"},
    {"window": 8, "kv_rank": [4, None]}, {"optimizer": "muon", "conv_width": 3, "block_conv_width": 3},
]  # fmt: skip


@pytest.mark.parametrize("changes", CHANGES)
def test_stopped_and_continued_is_never_stopped(genome, task, tmp_path, changes):
    g, path = genome(**changes), tmp_path / "w" / "x.safetensors"
    whole = trained(g, task, CYCLES)
    checkpoint.save(trained(g, task, CYCLES[:1]), path)
    for done in (1, 2):
        training = Training(g, task, seed=3)
        assert checkpoint.load(training, path) and training.cycles == done
        training.run(CYCLES[done])
        checkpoint.save(training, path)
    assert same(training, whole) and training.tokens == whole.tokens == CYCLES[-1]
    assert training.validate(None) == whole.validate(None)
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


class Stop(Exception):
    pass


def stopped_at(*steps):
    """``on_step`` that raises at each of these steps, once."""
    left = list(steps)

    def on_step(step: int) -> None:
        if step in left:
            left.remove(step)
            raise Stop

    return on_step


@pytest.mark.parametrize("changes", CHANGES)
def test_stopped_midway_and_continued_is_never_stopped(genome, task, tmp_path, changes):
    """At every second step; what is written down at an evaluation is an odd number of steps of Muon's, too."""
    g, told = genome(**changes), []
    how = {"seed": 3, "validation_tokens": 128, "evaluations": 7}
    whole = train(g, task, 8 * 16 * 20, **how)
    on_step = stopped_at(*range(2, 21, 2))
    for _ in range(10):
        with pytest.raises(Stop):
            train(g, task, 8 * 16 * 20, **how, on_step=on_step, kept=tmp_path / "x.safetensors")
    evaluated = []
    done = train(
        g, task, 8 * 16 * 20, **how, kept=tmp_path / "x.safetensors", on_step=on_step,
        on_resume=lambda step, before: told.append((step, list(before))),
        on_evaluation=lambda step, steps, loss, spread, model: evaluated.append(loss),
    )  # fmt: skip
    assert (done.loss, done.spread, done.curve) == (whole.loss, whole.spread, whole.curve)
    weights = done.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    ((step, before),) = told
    assert step == before[-1][0] == 17 and [loss for *_, loss, _ in before] + evaluated == [x for _, x in whole.curve]


def test_it_is_written_down_once_a_minute_between_evaluations(genome, task, tmp_path, monkeypatch):
    path, seconds = tmp_path / "x.safetensors", iter(range(0, 1000, 7))
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: float(next(seconds)))
    with pytest.raises(Stop):
        train(genome(), task, 8 * 16 * 20, seed=3, kept=path, on_step=stopped_at(9))
    assert not path.exists()
    with pytest.raises(Stop):
        train(genome(), task, 8 * 16 * 20, seed=3, kept=path, on_step=stopped_at(12))
    training = Training(genome(), task, seed=3)
    assert checkpoint.load(training, path, midway=True) and 8 <= training.left.steps < 12


def test_writing_takes_no_more_than_a_twentieth_of_the_time(genome, task, tmp_path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])

    def save(*_):
        saved.append(now[0])
        now[0] += 10.0

    monkeypatch.setattr(checkpoint, "save", save)
    keeper = checkpoint.Keeper(Training(genome(), task, seed=3), tmp_path / "x")
    for _ in range(100):
        now[0] += 10.0
        keeper.look((), at_once=True)
    assert saved[0] == 10.0 and {b - a for a, b in itertools.pairwise(saved)} == {210.0}


def test_what_can_not_be_written_is_trained_on(genome, task, tmp_path):
    done = train(genome(), task, 8 * 16 * 20, seed=3, kept=tmp_path / "no" / "folder" / "x")
    assert done.curve == train(genome(), task, 8 * 16 * 20, seed=3).curve


def halfway(genome, task, path, change=None) -> None:
    """A training that was stopped at its 12th step of 20, with what it says of itself changed."""
    with pytest.raises(Stop):
        train(genome(), task, 8 * 16 * 20, seed=3, evaluations=2, kept=path, on_step=stopped_at(12))
    with safe_open(path, "pt") as file:
        about = file.metadata()
    about["progress"] = json.dumps(json.loads(about["progress"]) | (change or {}))
    save_file(load_file(path), path, metadata=about)


def test_what_is_midway_is_no_rung_and_the_other_way_round(genome, task, tmp_path):
    path, fresh = tmp_path / "x.safetensors", Training(genome(), task, seed=3)
    halfway(genome, task, path)
    assert not checkpoint.load(fresh, path) and fresh.left is None
    checkpoint.save(trained(genome(), task, CYCLES[:1]), path)
    assert not checkpoint.load(fresh, path, midway=True) and fresh.cycles == 0


NOT_MIDWAY = [
    {"steps": 0}, {"steps": "3"}, {"steps": True}, {"steps": None}, {"batches": None}, {"batches": {}},
    {"batches": {"bit_generator": "MT19937"}},
    {"batches": {"bit_generator": "PCG64", "state": {"state": -1, "inc": 1}, "has_uint32": 0, "uinteger": 0}},
    {"batches": {"bit_generator": "PCG64", "state": {"state": 2**200, "inc": 1}, "has_uint32": 0, "uinteger": 0}},
    {"evaluations": 3}, {"evaluations": [[1, 2.0]]}, {"evaluations": [[1, 2.0, float("nan")]]},
    {"evaluations": [[1.0, 2.0, 3.0]]}, {"evaluations": ["abc"]}, {"cycles": -1},
]  # fmt: skip


@pytest.mark.parametrize("change", NOT_MIDWAY, ids=lambda c: str(c)[:60])
def test_what_is_no_place_in_a_cycle_changes_nothing(genome, task, tmp_path, change):
    path = tmp_path / "x.safetensors"
    halfway(genome, task, path, change)
    fresh, untouched = Training(genome(), task, seed=3), Training(genome(), task, seed=3)
    assert not checkpoint.load(fresh, path, midway=True)
    assert fresh.left is None and fresh.first_loss is None and same(fresh, untouched)


def test_a_generator_in_no_state_changes_nothing(genome, task, tmp_path):
    path = tmp_path / "x.safetensors"
    halfway(genome, task, path)
    with safe_open(path, "pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    for state in (torch.full_like(tensors["dropout"], 255), tensors["dropout"][:8].clone()):
        save_file({**tensors, "dropout": state}, path, metadata=about)
        fresh = Training(genome(), task, seed=3)
        assert not checkpoint.load(fresh, path, midway=True) and fresh.left is None


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 10**9},
        {"steps": 21},
        {"sequences": 10**6},
        {"cycles": 3},
        {"evaluations": [[10**6, 2.0, 0.1]]},
        {"evaluations": []},
    ],
    ids=str,
)
def test_what_is_not_of_this_length_begins_anew(genome, task, tmp_path, change):
    path = tmp_path / "x.safetensors"
    halfway(genome, task, path, change)
    how = {"seed": 3, "evaluations": 2}
    told = []
    done = train(genome(), task, 8 * 16 * 20, **how, kept=path, on_resume=lambda *about: told.append(about))
    assert not told and done.curve == train(genome(), task, 8 * 16 * 20, **how).curve


def test_each_cycle_is_a_finished_training_and_the_loss_goes_on_falling(genome, task):
    training, losses = Training(genome(), task, seed=0), []
    for tokens in (8 * 16 * 10, 8 * 16 * 40, 8 * 16 * 160):
        training.run(tokens)
        losses.append(training.validate(None)[0])
    assert losses[0] > losses[1] > losses[2]


def test_divergence_is_told_from_the_very_first_loss(genome, task, tmp_path):
    training = trained(genome(), task, CYCLES[:1])
    checkpoint.save(training, tmp_path / "x.safetensors")
    fresh = Training(genome(), task, seed=3)
    checkpoint.load(fresh, tmp_path / "x.safetensors")
    assert fresh.first_loss == training.first_loss > 2


def test_what_is_not_of_this_training_is_not_taken(genome, task, tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(trained(genome(), task, CYCLES[:1]), path)
    for other in (Training(genome(dropout=0.1), task, seed=3), Training(genome(), task, seed=4)):
        before = {k: t.clone() for k, t in state(other).items()}
        assert not checkpoint.load(other, path)
        assert other.cycles == 0 and all(torch.equal(before[k], t) for k, t in state(other).items())


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "cut", "folder", "other shape"])
def test_a_file_that_can_not_be_used_is_as_good_as_none(genome, task, tmp_path, damage):
    path = tmp_path / "x.safetensors"
    checkpoint.save(trained(genome(), task, CYCLES[:1]), path)
    content = path.read_bytes()
    if damage == "other shape":
        training = Training(genome(), task, seed=3)
        about = {"genome": training.genome.id, "seed": "3", "progress": '{"cycles": 1, "sequences": 1}'}
        weights = {k: t[..., :4].contiguous() if t.dim() else t for k, t in load_file(path).items()}
        save_file(weights, path, metadata=about)
    else:
        path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage in ("empty", "garbage", "cut"):
        path.write_bytes({"empty": b"", "garbage": b"x" * 100, "cut": content[: len(content) // 2]}[damage])
    fresh = Training(genome(), task, seed=3)
    assert not checkpoint.load(fresh, path) and fresh.cycles == 0


PROGRESS = {"cycles": 1, "sequences": 32, "first_loss": 3.0}
NO_PROGRESS = [
    {**PROGRESS, "cycles": None}, {**PROGRESS, "cycles": "x"}, {**PROGRESS, "cycles": -1},
    {**PROGRESS, "cycles": 1e999},
    {**PROGRESS, "sequences": 10**400}, {**PROGRESS, "first_loss": None}, {**PROGRESS, "first_loss": [1]},
    {**PROGRESS, "first_loss": float("nan")}, {}, [], 1, "[" * 50_000,
]  # fmt: skip


@pytest.mark.parametrize("progress", NO_PROGRESS, ids=lambda p: str(p)[:60])
def test_progress_that_is_none_changes_nothing(genome, task, tmp_path, progress):
    path = tmp_path / "x.safetensors"
    checkpoint.save(trained(genome(), task, CYCLES[:1]), path)
    about = {"genome": genome().id, "seed": "3"}
    about["progress"] = progress if isinstance(progress, str) else json.dumps(progress)
    save_file(load_file(path), path, metadata=about)
    fresh, untouched = Training(genome(), task, seed=3), Training(genome(), task, seed=3)
    assert not checkpoint.load(fresh, path)
    assert fresh.cycles == 0 and fresh.first_loss is None and same(fresh, untouched)


CHANGED_STATE = {
    "missing": lambda name, tensor: None if name.endswith("exp_avg") else tensor,
    "another shape": lambda name, tensor: tensor[:1].clone() if name.endswith("momentum") else tensor,
    "another type": lambda name, tensor: tensor.long() if name.startswith("optimizer.") else tensor,
    "a step for every weight": lambda name, tensor: tensor.repeat(3) if name.endswith("step") else tensor,
}


@pytest.mark.parametrize("change", CHANGED_STATE)
def test_optimiser_state_that_does_not_fit_is_not_taken(genome, task, tmp_path, change):
    g, path = genome(optimizer="muon"), tmp_path / "x.safetensors"
    training = trained(g, task, CYCLES[:1])
    checkpoint.save(training, path)
    tensors = {name: CHANGED_STATE[change](name, tensor) for name, tensor in load_file(path).items()}
    about = {"genome": g.id, "seed": "3", "progress": json.dumps(PROGRESS)}
    save_file({name: t for name, t in tensors.items() if t is not None}, path, metadata=about)
    fresh = Training(g, task, seed=3)
    assert not checkpoint.load(fresh, path)
    fresh.run(CYCLES[0])
    assert same(fresh, training)


def test_only_what_is_named_is_kept(tmp_path):
    names = ("aaaaaaaaaaaa.safetensors", "bbbbbbbbbbbb.safetensors", "cccccccccccc.77.partial", "notes.txt")
    written = "dddddddddddd.78.partial"  # by a worker, just now
    for name in (*names, written):
        (tmp_path / name).touch()
    checkpoint.keep_only(tmp_path, ["aaaaaaaaaaaa", "dddddddddddd"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["aaaaaaaaaaaa.safetensors", written, "notes.txt"]
    checkpoint.keep_only(tmp_path / "absent", [])


def test_a_run_that_was_moved_is_not_begun_again_where_it_was(genome, task, tmp_path):
    training = Training(genome(), task, seed=0)
    training.run(128)
    with pytest.raises(FileNotFoundError):
        checkpoint.save(training, tmp_path / "gone" / "weights" / "x.safetensors")
    assert not (tmp_path / "gone").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_checkpoint(genome, task, tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    assert not checkpoint.load(Training(genome(), task, seed=0), tmp_path / "x.safetensors")
