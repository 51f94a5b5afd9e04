"""``evonas evolve`` from end to end on a small text: what it prints, what it writes, where it takes genomes from."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import itertools
import json
import re
import shutil

import pytest

from evonas.cli import running, same
from evonas.config import REDUCTION, Settings
from evonas.errors import EvonasError
from evonas.executors import SerialExecutor
from evonas.fitness import device_text
from evonas.genome import Genome, genome_to_dict, read_space, space_from_dict, transformer_genome, write_genome
from evonas.record import Measure, Record
from evonas.store import Store

from .conftest import SEED, evaluations

HF_GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 32, "n_head": 2, "n_layer": 2, "n_ctx": 16,
    "n_positions": 16, "n_inner": 64, "activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1,
    "resid_pdrop": 0.1, "layer_norm_epsilon": 1e-05, "vocab_size": 100, "tie_word_embeddings": True,
}  # fmt: skip
OWN_TASK = """
import numpy as np
from torch.nn.functional import cross_entropy

class Alternating:
    name, vocab_size = "alternating", 2
    def __init__(self, data, context):
        self.context = context
    def _rows(self, starts):
        tokens = (np.asarray(starts)[:, None] + np.arange(self.context + 1)) % 2
        return tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)
    def batch(self, rng, batch_size):
        return self._rows(rng.integers(0, 2, size=batch_size))
    def validation(self, tokens, batch_size):
        yield self._rows([0, 1])
    def loss(self, logits, targets):
        return cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=1)
"""


HEADER = {
    "objectives": [{"name": "loss", "unit": "nats", "direction": "min"}], "seed": 0, "device": "cpu", "command": "test",
    "settings": {}, "space": {}, "seed_genomes": [],
}  # fmt: skip


@pytest.fixture
def evolve(cli, in_tmp_path, small):
    """evolve(*args, run="run") -> (Done, its Store or None): a small search in this process. The last of two equal
    options counts."""

    def call(*args, run="run", code=0):
        options = ["--executor", "serial", "--objective", "loss", "--objective", "flops", "--run", run]
        done = cli("evolve", *small, *options, *args, code=code)
        folder = in_tmp_path / "runs" / run
        return done, Store.open(folder) if (folder / "population.h5").exists() else None

    return call


# -- the finished run -----------------------------------------------------------------------------------------------


def test_it_ends_with_the_front_a_plot_and_what_to_type_next(finished):
    folder, done = finished
    assert done.code == 0, done.err
    store = Store.open(folder / "runs" / "first")
    assert all(i[:6] in done.out for i in store.front_ids())
    assert "loss" in done.out and "latency" in done.out and "hand-tuned" in done.out
    assert (folder / "runs" / "first" / "front.png").read_bytes().startswith(b"\x89PNG")
    for words in ("2 generations, 8 evaluations", "runs/first/front.png", "runs/first/population.h5", "Next:"):
        assert words in done.out
    best = min((r for r in store.records if r.ok), key=lambda r: r.value("loss"))
    assert f"evonas train first:{best.genome_id[:6]}" in done.out
    assert "evonas report first" in done.out and "evonas resume first --generations 32" in done.out


def test_it_tells_how_it_goes(finished):
    _, done = finished
    lines = [line for line in done.err.splitlines() if line.startswith("generation ")]
    assert [line.split(":")[0] for line in lines] == ["generation 1/2", "generation 2/2"]
    for line in lines:
        for words in ("front", "hypervolume", "best loss", "best latency", "evaluations", "/s)", "failures", "left"):
            assert words in line
    assert "words.txt" in done.err and "2 workers" in done.err and "Traceback" not in done.err


def test_with_rungs_the_first_population_comes_in_parts_and_in_runs_from_before_it_does_not(
    cli, in_tmp_path, text_file, space_file
):
    def first_rung(store) -> list[int]:
        there = [r.generation for r in evaluations(store) if r.measures["loss"].fidelity == "64 tokens"]
        return [there.count(generation) for generation in (0, 1)]

    small = ("--data", text_file, "--space", space_file, "--context", "16", "--tokens", "256", "--workers", "1")
    parts = ("--population", "6", "--offspring", "3", "--rungs", "2", "--generations", "2", "--run", "parts")
    cli("evolve", *small, *parts)
    store = Store.open(in_tmp_path / "runs" / "parts")
    assert store.header["settings"]["initial"] == 3
    assert first_rung(store) == [3, 3]
    for name, options in (("one", ("--rungs", "1", "--offspring", "3")), ("all", ("--rungs", "2"))):
        cli("evolve", *small, "--population", "6", *options, "--generations", "1", "--run", name)
    whole = [Store.open(in_tmp_path / "runs" / name).header["settings"]["initial"] for name in ("one", "all")]
    assert whole == [0, 6]
    with Store.open(in_tmp_path / "runs" / "all", write=True) as store:
        settings = {k: v for k, v in store.header["settings"].items() if k != "initial"}
        store.set_header(settings={**settings, "offspring": 3})
    cli("resume", "all", "--generations", "2", "--workers", "1")
    store = Store.open(in_tmp_path / "runs" / "all")
    assert first_rung(store) == [6, 3]
    born = {r.genome_id: r.generation for r in reversed(evaluations(store))}  # the first one of each
    assert [list(born.values()).count(generation) for generation in (0, 1)] == [6, 3]
    assert all(store.genomes[i].parents for i, generation in born.items() if generation == 1)


def test_it_stores_what_it_was_asked_and_what_it_found(finished, text_file):
    store = Store.open(finished[0] / "runs" / "first")
    settings = Settings.from_dict(store.header["settings"])
    assert (settings.data, settings.context, settings.population) == (str(text_file), 16, 4)
    assert (settings.tokens, settings.generations, settings.objectives) == (1024, 2, ("loss", "latency"))
    assert space_from_dict(store.header["space"]).check(SEED) == []
    assert len(evaluations(store)) == 8 and [g["generation"] for g in store.generations] == [0, 1]
    for record in (r for r in store.records if r.ok):
        loss, latency = record.measures["loss"], record.measures["latency"]
        assert loss.fidelity == "1024 tokens" and loss.spread > 0 and 0 < loss.value < 6
        assert latency.fidelity == "measured" and latency.value > 0 and latency.device == device_text("cpu")
        assert record.provenance["threads"] == 1


def test_the_seed_is_evaluated_in_the_first_generation_with_mutants_around_it(finished):
    store = Store.open(finished[0] / "runs" / "first")
    first = [r for r in evaluations(store) if r.genome_id == SEED.id]
    assert [(r.generation, r.index) for r in first] == [(0, 0)]
    assert store.header["seed_genomes"] == [{"id": SEED.id, "label": "hand-tuned"}]
    assert store.genomes[SEED.id].label == "hand-tuned"
    assert any(e.parents == (SEED.id,) and e.generation == 0 for e in store.genomes.values())


# -- where it starts from -------------------------------------------------------------------------------------------


def test_a_shipped_genome_outside_the_space_is_refused_or_widens_it(evolve, in_tmp_path):
    done, _ = evolve("--seed-genome", "nanogpt-cpu", code=2)
    for gene in ("n_layers", "d_model", "n_heads", "ffn_ratio"):
        assert gene in done.sentence
    assert "seed genome 'nanogpt-cpu' lies outside space 'tiny'" in done.sentence and "--widen" in done.sentence
    assert not (in_tmp_path / "runs").exists()
    _, store = evolve("--seed-genome", "nanogpt-cpu", "--widen", "--generations", 1, "--tokens", 64)
    space = space_from_dict(store.header["space"])
    seed = store.genomes[store.header["seed_genomes"][0]["id"]].genome
    assert (seed.n_layers, seed.d_model) == (4, 128) and space.check(seed) == []
    assert space.genes["n_layers"].contains(4) and space.genes["n_layers"].contains(1)
    assert store.record_of(seed.id).ok


def test_a_seed_that_widening_can_not_take_is_named_as_it_was_typed(evolve, in_tmp_path, space_file):
    (in_tmp_path / "ruled.toml").write_text('rules = ["n_layers * d_model <= 64"]\n' + space_file.read_text())
    write_genome("typed.json", SEED.replace(d_model=64), name="known-as", context=16)
    done, _ = evolve("--space", "ruled.toml", "--seed-genome", "typed.json", "--widen", code=2)
    assert "seed genome 'known-as' (typed.json): the space can't be widened" in done.sentence


def test_the_name_of_the_data_is_no_markup(evolve, in_tmp_path, text_file):
    (in_tmp_path / "[bold]w[!].txt").write_bytes(text_file.read_bytes())
    done, _ = evolve("--data", "[bold]w[!].txt", "--generations", 1)
    assert "run: text, [bold]w[!].txt; cpu" in done.err


def test_a_seed_brings_its_context(cli, in_tmp_path, text_file, space_file, seed_file):
    cli(
        "evolve", "--data", text_file, "--space", space_file, "--seed-genome", seed_file, "--device", "cpu",
        "--executor", "serial", "--population", 2, "--generations", 1, "--tokens", 64, "--objective", "flops",
        "--run", "run",
    )  # fmt: skip
    assert Store.open(in_tmp_path / "runs" / "run").header["settings"]["context"] == 16


def test_a_long_context_has_enough_held_out_windows_to_compare_losses(cli, in_tmp_path, space_file):
    """On the same few windows errors would count as independent, and no gain of a few tenths of a nat as one."""
    small = ("--space", space_file, "--device", "cpu", "--population", 2, "--generations", 1, "--rungs", 1)
    how = ("--executor", "serial", "--objective", "loss", "--context", 1024)
    cli("evolve", *small, *how, "--tokens", 16384, "--run", "run")
    store = Store.open(in_tmp_path / "runs" / "run")
    assert store.header["settings"]["validation_tokens"] == 16 * 1024
    assert all(record.measures["loss"].sketch for record in evaluations(store))
    cli("evolve", *small, *how, "--tokens", 1024, "--run", "brief")  # no more is measured on than is learned from
    assert Store.open(in_tmp_path / "runs" / "brief").header["settings"]["validation_tokens"] == 8192


def test_a_hugging_face_config_and_a_genome_of_a_run_are_seeds_too(evolve, in_tmp_path):
    (in_tmp_path / "config.json").write_text(json.dumps(HF_GPT2))
    done, store = evolve("--seed-genome", "config.json", "--seed-genome", in_tmp_path, "--widen", "--generations", 1)
    (seed,) = store.header["seed_genomes"]
    genome = store.genomes[seed["id"]].genome
    assert (genome.n_layers, genome.d_model, genome.activation) == (2, 32, "gelu")
    assert "Note (" in done.err, "what the genome can't say is told"
    other = next(i for i in store.genomes if i != seed["id"])
    _, again = evolve("--seed-genome", f"run:{other[:8]}", "--widen", "--generations", 1, run="again")
    assert again.header["seed_genomes"] == [{"id": other, "label": f"run:{other}"}]
    assert again.record_of(other).measures == store.record_of(other).measures


def test_a_seed_of_a_run_of_another_length_has_the_rate_for_this_one(cli, in_copy, small, space_file):
    with Store.open("runs/first", write=True) as store:
        genome = read_space(space_file).repair(SEED.replace(optimizer="muon", learning_rate=4e-3))
        store.append(genome, Record(genome.id, 9, 0, "ok", {"loss": Measure(2.0)}))
    options = (*small, "--seed-genome", f"first:{genome.id[:8]}", "--tokens", 4096, "--generations", 1, "--widen")
    done = cli("evolve", *options, "--run", "longer")
    assert "learning rate 0.002 in place of 0.004" in " ".join(done.err.split())
    store = Store.open("runs/longer")
    (seed,) = store.header["seed_genomes"]
    assert store.genomes[seed["id"]].genome == genome.replace(learning_rate=2e-3)


def test_the_rate_of_the_spaces_prior_is_taken_over_to_the_tokens_of_the_run(evolve, in_tmp_path, space_file):
    prior = '\n[prior]\noptimizer = "muon"\nlearning_rate = 4e-3\ntokens = 1024\n[layers]'
    (in_tmp_path / "guessed.toml").write_text(space_file.read_text().replace("\n[layers]", prior))
    _, store = evolve("--space", "guessed.toml", "--tokens", 4096, "--generations", 1)
    space = space_from_dict(store.header["space"])
    assert (space.prior, space.prior_tokens) == ({"learning_rate": 2e-3, "optimizer": "muon"}, 4096)
    rates = [known.genome.learning_rate for known in store.genomes.values()]
    assert 2e-3 in rates and 4e-3 not in rates


def test_a_goal_that_is_none_is_told_as_a_goal(cli, in_tmp_path):
    said = cli("evolve", "--goal", "latency 2ms", code=2).sentence
    assert "goal 'latency 2ms' is not of the form" in said and "--goal 'latency<=5ms'" in said


def test_goals_and_precision_are_kept_with_the_run(evolve):
    _, store = evolve("--objective", "latency", "--goal", "latency<=0.2ms", "--precision", "float32")
    assert store.header["settings"]["goals"] == ["latency<=0.2ms"]
    assert store.header["settings"]["precision"] == "float32"
    trained = [r for r in evaluations(store) if r.ok]
    assert trained and all(r.provenance["precision"] == "float32" for r in trained)


def test_interrupted_while_near_ties_are_measured_again_it_ends_with_what_it_has(evolve, monkeypatch):
    def settle(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("evonas.search.Search.settle", settle)
    done, _ = evolve("--calibrate", "50%", code=130)
    assert "Next:" in done.out and "the search was done" in done.err
    assert "calibrating" not in done.err, "and nothing more is begun"


def test_the_most_accurate_is_named_whatever_the_first_objective_is(cli, in_tmp_path, small):
    options = ("--objective", "flops", "--objective", "loss", "--generations", 3, "--run", "run")
    done = cli("evolve", *small, "--executor", "serial", *options)
    store = Store.open("runs/run")
    front = {i: store.record_of(i).value("loss") for i in store.front_ids()}
    assert len(set(front.values())) > 1, "else the order tells nothing"
    best = min(front, key=front.get)
    assert f"evonas train run:{best[:6]}" in done.out


def test_a_seed_that_breaks_a_constraint_is_told_of_at_once(evolve, seed_file):
    done, _ = evolve("--seed-genome", seed_file, "--constraint", "flops<=1e5", "--widen", code=(0, 1))
    assert re.search(r"Note: seed hand-tuned is infeasible \(flops<=\S+ is broken: \S+\): the report will", done.err)


def test_trainings_of_a_few_steps_and_long_passes_of_a_seed_are_said_before(cli, in_tmp_path, monkeypatch, text_file):
    monkeypatch.setattr("evonas.search.Search.run", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    done = cli("evolve", "--seed-genome", "gpt2", "--widen", "--device", "cpu", "--run", "a", code=130)
    said = " ".join(done.err.split())
    assert "131,072 tokens are 1 steps of its batch of 480" in said and "--tokens N for more" in said
    assert "the context of 1,024 is a seed's" in said and "GFLOP" in said and "the first rung is 1 steps" in said
    for options in (("--seed-genome", "nanogpt-cpu"), ()):
        done = cli("evolve", *options, "--device", "cpu", "--run", f"b{len(options)}", code=130)
        assert "steps of its batch" not in done.err and "the first rung" not in done.err and "GFLOP" not in done.err


@pytest.mark.parametrize("batch_size", ["{ low = 4, high = 128, log = true }", "[8, 16.0]", "64"])
def test_steps_are_counted_whatever_the_space_says_of_batches(cli, in_tmp_path, monkeypatch, space_file, batch_size):
    monkeypatch.setattr("evonas.search.Search.run", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    (in_tmp_path / "mine.toml").write_text(space_file.read_text().replace("[4, 8]", batch_size))
    how = ("evolve", "--space", "mine.toml", "--device", "cpu", "--context", 1024)
    assert "the first rung is" in " ".join(cli(*how, "--run", "a", code=130).err.split())
    done = cli(*how, "--run", "b", "--objective", "latency", "--objective", "params", code=130)
    assert "the first rung is" not in " ".join(done.err.split()), "nothing is trained"


def test_what_is_stored_reaches_the_search(evolve, monkeypatch):
    seen = []

    def run(self, *_, **__):
        seen.append((self._account.timeout(), self.engine.goals, self.engine.screening, self.engine.reduction))
        raise KeyboardInterrupt

    monkeypatch.setattr("evonas.search.Search.run", run)
    evolve("--objective", "latency", "--goal", "latency<=0.2ms", "--timeout", "2m", "--no-surrogate", code=130)
    assert seen == [(120.0, {"latency": 0.2}, None, REDUCTION)]


def test_near_ties_are_measured_again_and_said(evolve, monkeypatch):
    times = itertools.count()

    def nearly_alike(*_, **__):
        return Measure(1 + 1e-4 * next(times), 0.5, "measured", device_text("cpu"))

    monkeypatch.setattr("evonas.fitness.latency.forward_latency", nearly_alike)
    done, store = evolve("--objective", "latency")
    again = [r for r in store.records if r.revised]
    assert again and "could not be told apart by what was measured" in done.out
    for record in again:
        assert record.times_measured > 1 and not record.cost and record.generation <= 1


def test_a_users_own_task_trains_in_workers(cli, in_tmp_path, space_file):
    (in_tmp_path / "my_tasks.py").write_text(OWN_TASK)
    cli(
        "evolve", "--task", "my_tasks:Alternating", "--space", space_file, "--context", 16, "--tokens", 12800,
        "--population", 3, "--generations", 1, "--workers", 1, "--objective", "loss", "--device", "cpu",
    )  # fmt: skip
    (folder,) = (in_tmp_path / "runs").iterdir()
    assert folder.name.startswith("alternating-")
    store = Store.open(folder)
    assert min(r.value("loss") for r in store.records if r.ok) < 0.3, "half of ln 2: it has learned to alternate"


def test_a_seed_with_genes_without_effect_has_one_id_everywhere(evolve, cli, in_tmp_path):
    """KV heads beside a latent are as many as heads: in the header and in the report too."""
    settled = SEED.replace(kv_rank=(4, 4))
    data = genome_to_dict(settled, name="latent", context=16)
    (in_tmp_path / "latent.json").write_text(json.dumps({**data, "genes": {**data["genes"], "n_kv_heads": 1}}))
    _, store = evolve("--seed-genome", "latent.json", "--generations", 1)
    assert store.header["seed_genomes"] == [{"id": settled.id, "label": "latent"}]
    assert Genome(transformer_genome(store.header["settings"]["seeds"][0]["genes"])) == settled
    report = json.loads(cli("report", "run", "--format", "json").out)
    assert [m["id"] for m in report["seeds"]] == [settled.id] == [e["id"] for e in report["against_seed"]]


@pytest.mark.parametrize(
    "gene, effect",
    [("head_dim", "position == 'rope'"), ("window", "kv_rank is none"), ("beta2", "optimizer == 'adamw'")],
)
def test_no_gene_of_a_transformer_is_put_to_rest(evolve, in_tmp_path, space_file, gene, effect):
    """It would make another network of a seed, and of half of those searched."""
    text = space_file.read_text().replace("[layers]", "head_dim = [4, 8]\nbeta2 = [0.95, 0.99]\n[layers]")
    (in_tmp_path / "resting.toml").write_text(text + f'\n[active]\n{gene} = "{effect}"\n')
    write_genome("plain.json", SEED, name="plain", context=16)
    done, _ = evolve("--space", "resting.toml", "--seed-genome", "plain.json", "--widen", "--generations", 1, code=2)
    assert f"active.{gene}: every gene of a transformer but n_kv_heads" in done.sentence and "rule" in done.sentence


# -- what it looks for ----------------------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_search(evolve):
    found = []
    for run, seed in (("a", 5), ("b", 5), ("c", 6)):
        _, store = evolve("--seed", seed, "--generations", 1, run=run)
        found.append([(r.genome_id, r.status, r.value("loss")) for r in store.records])
    assert found[0] == found[1] != found[2]


def test_all_objectives_at_once(evolve):
    names = ("latency", "decode_latency", "memory", "params")
    _, store = evolve(*(word for name in names for word in ("--objective", name)), "--generations", 1)
    for record in (r for r in store.records if r.ok):
        assert set(record.measures) == {"loss", "flops", *names}
        assert all(m.value > 0 for m in record.measures.values())


def test_analytic_constraints_are_never_broken_and_measured_ones_are_noted(evolve):
    done, store = evolve("--constraint", "params<=6k", "--constraint", "memory<=0.025MB")
    assert store.header["constraints"] == ["params<=6000", "memory<=0.025MB"]
    assert all(r.value("params") <= 6000 for r in store.records)
    assert "Constraints: params<=6000, memory<=0.025MB." in done.out and "memory [MB]" in done.out
    for record in store.records:
        assert (record.status == "infeasible") == (record.value("memory") > 0.025)
        assert ("loss" in record.measures) == record.ok
    broke = sum(not r.ok for r in store.records)
    assert 0 < broke < len(store.records)
    last = [line for line in done.err.splitlines() if line.startswith("generation ")][-1]
    assert f", failures none, outside the constraints {broke}, time left " in last


def test_a_constraint_that_nothing_meets_fails_the_run_and_keeps_what_was_found(evolve):
    done, store = evolve("--constraint", "memory<=0.001MB", "--generations", 9, code=1)
    assert f"no candidate has met memory<=0.001MB in {len(store.records)} evaluations" in done.sentence
    assert "Loosen the constraint" in done.sentence
    closest = min(r.value("memory") for r in store.records)
    assert f"memory {closest:.4g}" in done.sentence
    assert store.records and all(r.status == "infeasible" for r in store.records)


def test_everything_that_diverges_fails_the_run(evolve, in_tmp_path, space_file):
    text = space_file.read_text().replace("{ low = 1e-3, high = 3e-2, log = true }", "10.0")
    (in_tmp_path / "hot.toml").write_text(text)
    done, store = evolve("--space", "hot.toml", "--tokens", 4096, code=1)
    assert "all 4 candidates of generation 0 failed (4 non_finite)" in done.sentence
    assert "evonas resume run" in done.sentence and len(store.records) == 4


def test_a_constraint_on_the_loss_that_nothing_meets_is_no_success(evolve):
    done, store = evolve("--constraint", "loss<=0.1", code=1)
    assert f"no candidate has met loss<=0.1 in {len(store.records)} evaluations" in done.sentence
    assert len(store.generations) == 2, "what was found is kept"


def test_an_error_that_comes_before_anything_is_evaluated_leaves_no_run(evolve, in_tmp_path, monkeypatch):
    def fail(*_, **__):
        raise EvonasError("no such luck")

    monkeypatch.setattr("evonas.search.Search.run", fail)
    done, store = evolve(code=2)
    assert "no such luck" in done.sentence and store is None and not (in_tmp_path / "runs").exists()
    (in_tmp_path / "runs" / "run").mkdir(parents=True)
    (in_tmp_path / "runs" / "run" / "mine").touch()
    assert evolve(code=2)[0].sentence and [p.name for p in (in_tmp_path / "runs" / "run").iterdir()] == ["mine"]


def test_the_command_and_what_the_data_was_are_stored(finished, text_file):
    header = Store.open(finished[0] / "runs" / "first").header
    assert header["command"].startswith(f"evonas evolve --data {text_file} --space")
    text = text_file.read_bytes()
    assert header["notes"]["data"] == f"{len(text)} bytes, sha256 {hashlib.sha256(text).hexdigest()}"


# -- its time -------------------------------------------------------------------------------------------------------


def test_a_budget_ends_a_search_that_has_no_other_end(evolve, cli, in_tmp_path, small, an_hour):
    an_hour(4)
    without_goal = small[: small.index("--generations")]
    done = cli("evolve", *without_goal, "--objective", "flops", "--executor", "serial", "--run", "b", "--budget", "1h")
    store = Store.open(in_tmp_path / "runs" / "b")
    assert "The time budget is spent." in done.out and len(store.generations) > 3
    assert f"{len(store.generations)} generations, {len(store.records)} evaluations" in done.out
    settings = store.header["settings"]
    assert settings["budget"] == pytest.approx(3600) and store.header["notes"]["ended"] == "budget"
    assert (settings["patience"], settings["calibrate"]) == (None, 0)


def test_where_it_ends_is_kept_with_the_run(evolve):
    _, store = evolve("--patience", 9, "--calibrate", "0.5%", "--generations", 1)
    settings = store.header["settings"]
    assert [settings[name] for name in ("generations", "budget", "patience", "calibrate")] == [1, None, 9, 0.005]
    assert store.header["notes"]["ended"] == "generations"


def test_a_budget_in_which_nothing_finishes_fails_and_leaves_nothing(evolve, in_tmp_path):
    options = ["--budget", "6s", "--tokens", 10**7, "--executor", "processes", "--workers", 1]
    done, store = evolve(*options, code=1)
    assert re.search(r"no candidate finished in \d+ s", done.sentence) and "--budget" in done.sentence
    assert store is None and not (in_tmp_path / "runs").exists()


def test_a_small_space_is_searched_to_its_end(evolve, in_tmp_path):
    genes = {k: v[0] if isinstance(v, tuple) else v for k, v in SEED.items()}
    layers = ("n_heads", "n_kv_heads", "window", "kv_rank", "ffn_ratio")
    word = {"window": "full", "kv_rank": "none"}
    lines = [f"{k} = {json.dumps(v)}" for k, v in genes.items() if k not in (*layers, "d_model")]
    lines += ["d_model = [16, 32, 48]", "[layers]", *(f"{k} = {json.dumps(word.get(k, genes[k]))}" for k in layers)]
    (in_tmp_path / "three.toml").write_text("[genes]\n" + "\n".join(lines))
    assert read_space("three.toml").check(Genome(SEED)) == []
    done, store = evolve("--space", "three.toml", "--generations", 9)
    assert "Every genome of the space has been seen." in done.out and len(store.records) == 3
    assert "evonas train run:" in done.out and "evonas resume" not in done.out, "there is nothing to search on for"
    assert {genome_to_dict(e.genome)["genes"]["d_model"] for e in store.genomes.values()} == {16, 32, 48}


def test_what_an_earlier_run_has_paid_for_is_taken_over(cli, in_copy, small, seed_file):
    options = [*small, "--seed-genome", seed_file, "--reuse", "first"]
    cli("evolve", *options, "--run", "second", "--generations", 3)
    first, second = Store.open("runs/first"), Store.open("runs/second")
    known = {(r.genome_id, r.generation): r for r in first.records}
    again = [r for r in evaluations(second) if (r.genome_id, r.generation) in known]
    assert len(again) >= 4 and len(evaluations(second)) == 12
    for record in again:
        before = known[record.genome_id, record.generation]
        assert record.measures == before.measures and record.provenance["reused"] == "first" and not record.cost
    assert all(r.cost["tokens"] > 0 for r in evaluations(second) if "reused" not in r.provenance)


def test_reusing_changes_nothing_where_nothing_is_measured(cli, in_tmp_path, small):
    options = [*small, "--objective", "loss", "--objective", "flops", "--rungs", 2, "--generations", 3]
    cli("evolve", *options, "--run", "plain")
    cli("evolve", *options, "--run", "again", "--reuse", "plain")
    found = []
    for name in ("plain", "again"):
        store = Store.open(f"runs/{name}")
        records = sorted(store.records, key=lambda r: (r.generation, r.index))
        found.append([(r.genome_id, r.generation, r.index, r.status, r.measures) for r in records])
    assert found[0] == found[1]
    assert sum("reused" in r.provenance for r in store.records) == len(store.records)


def _before_there_was(setting: str, run: str) -> None:
    """As a run was then."""
    with Store.open(run, write=True) as store:
        settings = dict(store.header["settings"])
        assert settings.pop(setting) is True
        store.set_header(settings=settings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--reuse", "nothing"), "nothing"),
        (("--reuse", "first", "--seed", 5), "its seed is 0, not 5"),
        (("--reuse", "first", "--tokens", 2048), "its tokens is 1024, not 2048"),
        (("--reuse", "first", "--data", "other.txt"), "other data"),
        (("--reuse", "of_a_gpu"), "its device is cuda, not cpu"),
        (("--reuse", "scaled_rates"), "an earlier version made it, which trained otherwise (scaled_rates)"),
        (("--reuse", "sparing_muon"), "an earlier version made it, which trained otherwise (sparing_muon)"),
    ],
)
def test_a_run_that_would_train_otherwise_can_not_be_reused(cli, in_copy, small, options, said):
    (in_copy / "other.txt").write_text("quite another text " * 200)
    if options[-1] == "of_a_gpu":
        shutil.copytree("runs/first", "runs/of_a_gpu")
        with Store.open("runs/of_a_gpu", write=True) as store:
            about = {"device": "cuda", "sparing_muon": False}
            store.set_header(settings={**store.header["settings"], **about})
    if options[-1] in ("scaled_rates", "sparing_muon"):
        shutil.copytree("runs/first", f"runs/{options[-1]}")
        _before_there_was(options[-1], f"runs/{options[-1]}")
    assert said in cli("evolve", *small, *options, "--run", "second", code=2).sentence
    assert not (in_copy / "runs/second").exists()


def test_losses_of_other_data_are_not_taken_over_where_a_task_can_not_tell(in_copy):
    """A task need not have a fingerprint: two files are not the same data because neither has one."""
    settings = Settings.from_dict({**Store.open("runs/first").header["settings"], "data": "a.bin"})
    with Store.create("runs/run", {**HEADER, "settings": settings.to_dict(), "notes": {}}) as store:
        same.check_same(store, settings, None)
        with pytest.raises(EvonasError, match=r"its data is a\.bin, not b\.bin"):
            same.check_same(store, dataclasses.replace(settings, data="b.bin"), None)
        same.check_same(store, dataclasses.replace(settings, data="b.bin"), None, again=True)  # moved since


def test_memory_that_was_measured_otherwise_is_said_to_be_that(in_copy):
    header = Store.open("runs/first").header
    settings = Settings.from_dict({**header["settings"], "objectives": ["loss", "memory"], "whole_memory": True})
    before = dataclasses.replace(settings, whole_memory=False)
    with Store.create("runs/run", {**header, "settings": before.to_dict()}) as store:
        with pytest.raises(EvonasError, match="which measured memory otherwise"):
            same.check_same(store, settings, header["notes"]["data"])


def test_a_disk_that_is_full_at_once_leaves_no_run_to_resume(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("evonas.store.journal.Journal.append", full)
    with pytest.raises(EvonasError, match="no space left") as error:
        with running._new_run(Store.create(tmp_path / "run", HEADER)) as store:
            store.append(SEED, Record(SEED.id, 0, 0, "crash"))
    assert "resume" not in error.value.hint and "same command" in error.value.hint and error.value.exit_code == 1
    assert not (tmp_path / "run" / "population.h5").exists()


def test_checkpoints_of_a_run_that_was_here_are_not_gone_on_from(cli, in_tmp_path, small):
    (in_tmp_path / "runs/run/weights").mkdir(parents=True)
    stale = in_tmp_path / "runs/run/weights/0123456789ab.safetensors"
    stale.write_bytes(b"of another length")
    cli("evolve", *small, "--run", "run", "--generations", 1)
    assert not stale.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rungs", 2, "--generations", 1), "beyond rung 1 of 2; --rungs 1"),
        (("--rungs", 4, "--generations", 3, "--tokens", 4096), "beyond rung 3 of 4; --rungs 3"),
        (("--rungs", 2, "--generations", 2), ""),
        (("--rungs", 1, "--generations", 1), ""),
        (("--objective", "params", "--objective", "flops", "--rungs", 2, "--generations", 1), ""),  # nothing is trained
    ],
)
def test_a_run_too_short_for_its_rungs_says_so_first(cli, in_tmp_path, small, options, said):
    err = " ".join(cli("evolve", *small, *options).err.split())
    assert said in err and ("Note: in" in err) is bool(said)


def test_what_a_cluster_searches_is_calibrated_here_by_as_many_as_there_are_cpus(cli, in_tmp_path, small, monkeypatch):
    asked = []

    def make_here(name, target, workers, *rest):
        asked.append(workers)
        return SerialExecutor(target)

    def sample(*args):
        asked.append(args[-1])
        return 4

    monkeypatch.setattr("evonas.executors.make_executor", make_here)
    monkeypatch.setattr("evonas.cli.running._sample", sample)
    monkeypatch.setattr("evonas.cli.running._calibrate", lambda *args: asked.append(args[-2]))
    for executor in ("ray", "auto"):
        cli("evolve", *small, "--run", executor, "--executor", executor, "--workers", 64, "--calibrate", "5%")
    assert asked == [64, None, None, 64, 64, 64]
