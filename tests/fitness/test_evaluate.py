"""The evaluator a search is given: it does what is needed and no more, here as in any other process."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError

from evonas.errors import EXIT_USAGE, EvonasError
from evonas.executors import Call, make_executor
from evonas.fitness import EXACT, MEASURED, TRAINED, ProxyEvaluator, device_text, resolve_device
from evonas.fitness.train import Training
from evonas.genome import genome_to_dict
from evonas.genome.graph import cost
from evonas.model import build
from evonas.record import OBJECTIVES
from evonas.sketch import error_of_difference
from evonas.tasks import TextTask


@pytest.fixture
def evaluator(text_file):
    """evaluator(*needs, **changes) on the small text."""

    def make(*needs, **changes):
        options = {"tokens": 8 * 16 * 6, "validation_tokens": 160, "seed": 3, "latency_seconds": 0.001, **changes}
        return ProxyEvaluator("text", str(text_file), 16, needs=needs, **options)

    return make


def test_every_objective_belongs_to_one_step():
    assert sorted((*EXACT, *MEASURED, *TRAINED)) == sorted(OBJECTIVES)


@pytest.mark.parametrize(
    ("needs", "exact", "measured", "trained"),
    [
        (("loss", "latency"), (), ("latency",), ("loss",)),
        (("loss", "flops"), ("flops",), (), ("loss",)),
        (("params", "memory"), ("params",), ("memory",), ()),
        (tuple(OBJECTIVES), EXACT, MEASURED, TRAINED),
    ],
)
def test_only_what_is_needed_is_done(evaluator, genome, needs, exact, measured, trained):
    made = evaluator(*needs)
    assert (made.exact_names, made.measured_names, made.trained_names) == (exact, measured, trained)
    assert set(made.exact(genome())) == set(exact)
    assert set(made.measure(genome()).measures) == set(measured)


def test_preparing_draws_nothing_and_changes_no_result(evaluator, genome):
    plain, prepared = evaluator("loss"), evaluator("loss")
    before = torch.get_rng_state()
    prepared.prepare()
    assert torch.equal(before, torch.get_rng_state())
    assert prepared.train(genome()).measures == plain.train(genome()).measures


def test_a_need_named_twice_counts_once(evaluator):
    assert evaluator("loss", "latency", "latency").measured_names == ("latency",)


@pytest.mark.parametrize("changes", [{}, {"window": 8, "kv_rank": [4, None]}, {"activation": "gelu", "n_kv_heads": 1}])
def test_exact_is_the_cost_of_the_graph_and_of_the_built_model(evaluator, genome, changes):
    made, g = evaluator("params", "flops"), genome(**changes)
    found, expected = made.exact(g), cost(g, made.task.vocab_size, 16)
    assert found["params"].value == expected.params and found["flops"].value == expected.flops
    assert found["params"].value == sum(p.numel() for p in build(g, made.task.vocab_size, 16).parameters())
    assert all(m.spread == 0 and m.fidelity == "exact" for m in found.values())


def test_measuring_says_where_and_what_it_took(evaluator, genome):
    outcome = evaluator(*MEASURED).measure(genome())
    assert outcome.status == "ok" and set(outcome.measures) == set(MEASURED)
    assert all(0 < m.value < math.inf and m.device == device_text("cpu") for m in outcome.measures.values())
    assert outcome.provenance["device"] == "cpu" and outcome.provenance["threads"] == 1
    assert outcome.provenance["torch"] == torch.__version__ and outcome.provenance["device_name"]
    assert outcome.cost["measure_seconds"] > 0


def test_of_runs_that_began_before_it_memory_counts_no_tables(evaluator, genome):
    g = genome(window=8)
    whole, without = (evaluator("memory", whole_memory=w).measure(g).measures["memory"].value for w in (True, False))
    tables = sum(b.nbytes for b in build(g, evaluator("memory").task.vocab_size, 16).buffers())
    assert tables > 0 and whole - without == pytest.approx(tables / 1e6)


def test_training_says_at_what_fidelity(evaluator, genome):
    outcome = evaluator("loss").train(genome())
    loss = outcome.measures["loss"]
    assert outcome.status == "ok" and loss.fidelity == "768 tokens" and loss.device == "cpu" and loss.spread > 0
    assert outcome.cost["tokens"] == 768 and outcome.cost["seconds"] > 0


def test_a_divergence_is_an_outcome_with_its_reason(evaluator, genome):
    subject, diverging = evaluator("loss", tokens=10**6), genome(learning_rate=10.0, warmup=0, schedule="constant")
    outcome = subject.train(diverging)
    assert outcome.status == "non_finite" and not outcome.measures
    steps = int(re.search(r"step (\d+)", outcome.reason)[1])
    assert outcome.cost["seconds"] > 0
    assert outcome.cost["tokens"] == steps * diverging.batch_size * subject.context < 10**6


def test_the_seed_of_the_run_decides_and_threads_do_not(evaluator, genome):
    g = genome(dropout=0.1)
    first = evaluator("loss").train(g).measures
    torch.set_num_threads(2)
    torch.manual_seed(1)
    assert evaluator("loss").train(g).measures == first
    assert evaluator("loss", seed=4).train(g).measures != first


def test_a_loss_says_what_its_error_has_in_common_with_others(evaluator, genome):
    one, other = (evaluator("loss").train(genome(learning_rate=rate)).measures["loss"] for rate in (3e-3, 4e-3))
    apart = error_of_difference((one.spread, other.spread), (one.sketch, other.sketch))
    assert 0 < apart < 0.7 * math.hypot(one.spread, other.spread)


def test_a_pickled_copy_carries_no_data_and_gives_the_same(evaluator, genome):
    made = evaluator("loss", "flops")
    first = made.train(genome())
    blob = pickle.dumps(made)
    copy = pickle.loads(blob)
    assert len(blob) < 2000 and "task" not in copy.__dict__
    assert copy.train(genome()).measures == first.measures and copy.exact(genome()) == made.exact(genome())


def test_another_process_gives_the_same(evaluator, genome, tmp_path):
    made, g = evaluator("loss", "flops"), genome(dropout=0.1, optimizer="muon")
    (tmp_path / "evaluator").write_bytes(pickle.dumps(made))
    (tmp_path / "genome").write_text(json.dumps(genome_to_dict(g)))
    code = (
        "import json, pickle, sys; from pathlib import Path; from evonas.genome import genome_from_dict\n"
        "folder = Path(sys.argv[1])\n"
        "made = pickle.loads((folder / 'evaluator').read_bytes())\n"
        "g = genome_from_dict(json.loads((folder / 'genome').read_text())).genome\n"
        "exact = made.exact(g)['flops'].value\n"
        "assert 'torch' not in sys.modules, 'what is exact needs no torch'\n"
        "loss = made.train(g).measures['loss']\n"
        "print(json.dumps([exact, loss.value, loss.spread]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    loss = made.train(g).measures["loss"]
    assert json.loads(done.stdout) == [made.exact(g)["flops"].value, loss.value, loss.spread]


def test_data_that_can_not_be_used_is_the_users_error(evaluator, genome, tmp_path):
    made = ProxyEvaluator("text", str(tmp_path / "gone"), 16, needs=("loss",), tokens=100, validation_tokens=100)
    with pytest.raises(EvonasError, match="no such file"):
        made.train(genome())


# -- devices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpu", "CPU", "cuda:7", ""])
def test_a_device_that_does_not_exist(name):
    with pytest.raises(EvonasError, match="no such device") as caught:
        resolve_device(name)
    assert caught.value.exit_code == EXIT_USAGE and "auto, cpu or cuda" in caught.value.hint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(EvonasError, match="no CUDA device") as caught:
        resolve_device("cuda")
    assert caught.value.exit_code == EXIT_USAGE and "--device cpu" in caught.value.hint


def test_auto_is_the_gpu_where_there_is_one():
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"


# -- rungs ----------------------------------------------------------------------------------------------------------


def rungs(evaluator, tmp_path, **changes):
    return evaluator("loss", tokens=16 * 8 * 32, rungs=3, checkpoints=str(tmp_path / "weights"), **changes)


def test_each_rung_has_its_fidelity_and_pays_only_for_its_own_step(evaluator, genome, tmp_path):
    made, g = rungs(evaluator, tmp_path), genome()
    assert made.rungs == (256, 1024, 4096)
    found = [made.train(g, rung) for rung in range(3)]
    assert [o.measures["loss"].fidelity for o in found] == ["256 tokens", "1024 tokens", "4096 tokens"]
    assert [o.cost["tokens"] for o in found] == [256, 768, 3072]
    losses = [o.measures["loss"].value for o in found]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(("batch_size", "changed"), [(8, True), (32, False)])
def test_a_run_from_before_muon_was_sparing_goes_on_as_it_was(evaluator, genome, batch_size, changed):
    g = genome(optimizer="muon", batch_size=batch_size)
    found = [evaluator("loss", sparing_muon=sparing).train(g).measures for sparing in (True, False)]
    assert (found[0] != found[1]) is changed


@pytest.mark.parametrize(("optimizer", "changed"), [("muon", True), ("adamw", False)])
def test_only_muons_rates_depend_on_the_length_and_only_below_the_horizon(evaluator, genome, optimizer, changed):
    g = genome(optimizer=optimizer)
    found = {}
    for horizon in (None, 16 * 8 * 32):
        made = evaluator("loss", tokens=16 * 8 * 32, rungs=2, horizon=horizon)
        found[horizon, "first"] = made.train(g, 0).measures
        alone = evaluator("loss", tokens=16 * 8 * 32, horizon=horizon)
        found[horizon, "last alone"] = alone.train(g, 0).measures
    assert (found[None, "first"] != found[16 * 8 * 32, "first"]) == changed
    assert found[None, "last alone"] == found[16 * 8 * 32, "last alone"]


@pytest.mark.parametrize("lost", ["never kept", "lost on the way", "ahead"])
def test_where_the_checkpoint_is_not_that_of_the_rung_below_the_result_is_the_same(evaluator, genome, tmp_path, lost):
    g = genome(dropout=0.1, optimizer="muon")
    expected = [rungs(evaluator, tmp_path).train(g, rung).measures for rung in range(3)]
    made = evaluator("loss", tokens=4096, rungs=3) if lost == "never kept" else rungs(evaluator, tmp_path / "again")
    if lost != "ahead":
        assert made.train(g, 0).measures == expected[0]
    else:  # a kill after the checkpoint of rung 1 was written, before its record was
        made.train(g, 0), made.train(g, 1)
        assert made.train(g, 1).measures == expected[1] and made.train(g, 0).measures == expected[0]
    if lost == "lost on the way":
        made.retain([])
    assert made.train(g, 2).measures == expected[2]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("no space")])
def test_a_checkpoint_that_can_not_be_written_costs_time_and_no_evaluation(
    evaluator, genome, tmp_path, monkeypatch, error
):
    expected = [rungs(evaluator, tmp_path).train(genome(), rung).measures for rung in range(3)]

    def full(*args, **options):
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", full)
    made = rungs(evaluator, tmp_path / "again")
    found = [made.train(genome(), rung) for rung in range(3)]
    assert [o.measures for o in found] == expected and [o.cost["tokens"] for o in found] == [256, 1024, 4096]
    monkeypatch.setattr("evonas.fitness.train.Training.validate", full)
    with pytest.raises(type(error)):  # an error of the evaluation itself is not hidden
        made.train(genome(), 0)


def test_rungs_leave_the_objectives_alone_that_need_no_training(evaluator):
    assert evaluator("params", "latency", tokens=4096, rungs=3).rungs == (4096,)


def test_a_first_rung_shorter_than_the_context_is_refused(evaluator):
    with pytest.raises(EvonasError, match="less than one context") as caught:
        evaluator("loss", tokens=100, rungs=3)
    assert "--tokens 256" in caught.value.hint


def test_an_evaluator_with_checkpoints_needs_no_torch_to_clear_up(evaluator, tmp_path):
    code = (
        "import sys; from evonas.fitness.evaluate import ProxyEvaluator\n"
        "made = ProxyEvaluator('text', None, 16, needs=('loss',), tokens=4096, validation_tokens=160, rungs=2,\n"
        "    checkpoints=sys.argv[1])\n"
        "made.retain(['a' * 12]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


@pytest.fixture
def own_text(tmp_path, text_file):
    """A text that may be changed."""
    path = tmp_path / "own.txt"
    path.write_bytes(text_file.read_bytes())
    return path


def evaluator_on(data, **changes):
    options = {"tokens": 256, "validation_tokens": 64, "latency_seconds": 0.001, **changes}
    return ProxyEvaluator("text", str(data), 16, needs=("loss", "latency"), **options)


def test_data_that_changes_during_a_search_ends_it(own_text, genome):
    """A worker that is started late must not learn from another text than those before it."""
    made = evaluator_on(own_text)
    assert made.task
    text = own_text.read_text()
    with make_executor("processes", made, 1) as executor:
        ((_, trained),) = executor.map([Call("train", (genome(),))])
        assert trained.status == "ok"
        fresh = own_text.with_name("fresh.txt")
        fresh.write_text(text.swapcase())
        fresh.replace(own_text)
    for method in ("train", "measure"):
        with make_executor("processes", made, 1) as executor:
            with pytest.raises(EvonasError, match=r"own.txt was changed while it was learned from: .* then, .* now"):
                list(executor.map([Call(method, (genome(),))]))
    own_text.write_text(text)  # the same again, of another time
    with make_executor("processes", made, 1) as executor:
        ((_, again),) = executor.map([Call("train", (genome(),))])
    assert again.measures == trained.measures


def test_data_that_is_written_over_in_place_ends_it_where_it_is_mapped(own_text, genome, tmp_path):
    """A worker that runs sees the new bytes: neither a loss nor a checkpoint may come of them."""
    made = evaluator_on(own_text, tokens=1024, rungs=2, checkpoints=str(tmp_path / "kept"))
    assert made.task
    text = own_text.read_bytes()
    with make_executor("serial", made, 1) as executor:
        ((_, trained),) = executor.map([Call("train", (genome(),))])
        assert trained.status == "ok"
        (kept,) = (tmp_path / "kept").iterdir()
        before = kept.read_bytes()
        own_text.write_bytes(text.swapcase())
        for rung in (0, 1):
            with pytest.raises(EvonasError, match=r"own.txt was changed while it was learned from"):
                list(executor.map([Call("train", (genome(), rung))]))
        assert kept.read_bytes() == before
        own_text.write_bytes(text)  # the same again, of another time
        ((_, again),) = executor.map([Call("train", (genome(),))])
        assert again.measures == trained.measures
        own_text.rename(tmp_path / "away")  # what is mapped is still there
        ((_, again),) = executor.map([Call("train", (genome(),))])
        assert again.measures == trained.measures


def test_so_does_data_that_changes_while_a_training_runs(own_text, genome, tmp_path, monkeypatch):
    made = evaluator_on(own_text, tokens=1024, rungs=2, checkpoints=str(tmp_path / "kept"))
    assert made.task
    worker = pickle.loads(pickle.dumps(made))
    validate = Training.validate

    def changed_meanwhile(self, tokens):
        own_text.write_bytes(own_text.read_bytes().swapcase())
        return validate(self, tokens)

    monkeypatch.setattr(Training, "validate", changed_meanwhile)
    with pytest.raises(EvonasError, match="was changed while it was learned from"):
        worker.train(genome())
    assert not list((tmp_path / "kept").glob("*"))


def test_data_that_is_gone_when_a_worker_reads_it(own_text):
    made = evaluator_on(own_text)
    assert made.task
    own_text.unlink()
    with pytest.raises(EvonasError, match="no such file"):
        _ = pickle.loads(pickle.dumps(made)).task


def test_data_of_the_same_size_and_time_is_not_read_again(own_text, monkeypatch):
    made = evaluator_on(own_text)
    assert made.task
    blob = pickle.dumps(made)
    monkeypatch.setattr(TextTask, "fingerprint", property(lambda _: pytest.fail("read again")))
    copy = pickle.loads(blob)
    assert copy.task.vocab_size and pickle.loads(pickle.dumps(copy)).task.vocab_size
    monkeypatch.undo()
    os.utime(own_text, (0, 0))
    assert pickle.loads(blob).task.fingerprint == made.task.fingerprint
