"""What a command was told, and what its run stores, reaches what trains and what screens."""

from __future__ import annotations

import pytest

from evonas.cli import running
from evonas.cli.evaluator import evaluator_of, needs_of
from evonas.config import Settings
from evonas.evolution import Engine
from evonas.fitness import ProxyEvaluator, resolve_precision
from evonas.genome import read_space, space_from_dict, write_genome
from evonas.record import Constraint
from evonas.store import Store

from .conftest import SEED, evaluations

BFLOAT16 = resolve_precision("auto", "cpu") == "bfloat16"


def joined(store, **changes) -> tuple[ProxyEvaluator, Engine]:
    """Evaluator and engine of a run's settings, but for ``changes``, as ``run_search`` makes them."""
    settings = Settings.from_dict({**store.header["settings"], **changes})
    evaluator = evaluator_of(settings, needs_of(settings))
    constraints = tuple(Constraint.parse(text) for text in settings.constraints)
    return evaluator, running._engine(settings, space_from_dict(store.header["space"]), evaluator, constraints, [])


def test_by_default_a_surrogate_screens_and_trainings_are_as_of_this_version(cli, in_tmp_path, small, monkeypatch):
    seen = []

    def run(search, *_, **__):
        seen.append(search)
        raise KeyboardInterrupt

    monkeypatch.setattr("evonas.search.Search.run", run)
    cli("evolve", *small, "--executor", "serial", "--seed", 5, "--rungs", 2, "--run", "run", code=130)
    (search,) = seen
    assert search.engine.screening is not None and search.engine.seed == 5
    evaluator = search.evaluator
    assert (evaluator.seed, evaluator.horizon, evaluator.rungs) == (5, 1024, (256, 1024))
    assert (evaluator.sparing_muon, evaluator.whole_memory, evaluator.validation_tokens) == (True, True, 8192)
    assert (evaluator.device, evaluator.precision) == ("cpu", resolve_precision("auto", "cpu"))


def test_what_a_run_stores_is_what_it_goes_on_with(finished):
    """A run of an earlier version has no scaled rates, no sparing Muon, no tables in its memory and no surrogate."""
    store = Store.open(finished[0] / "runs" / "first")
    evaluator, engine = joined(store)
    assert engine.screening is not None
    assert (evaluator.horizon, evaluator.sparing_muon, evaluator.whole_memory) == (1024, True, True)
    earlier = dict.fromkeys(("surrogate", "scaled_rates", "sparing_muon", "whole_memory"), False)
    other = {"seed": 7, "validation_tokens": 160, "tokens": 4096, "rungs": 2, "precision": "bfloat16"}
    evaluator, engine = joined(store, **earlier, **other)
    assert engine.screening is None and engine.seed == 7 and engine.rungs == 2
    assert (evaluator.horizon, evaluator.sparing_muon, evaluator.whole_memory) == (None, False, False)
    assert (evaluator.seed, evaluator.validation_tokens, evaluator.rungs) == (7, 160, (1024, 4096))
    assert evaluator.precision == "bfloat16" and evaluator.context == 16


@pytest.mark.parametrize(
    "precision",
    ["float32", pytest.param("bfloat16", marks=pytest.mark.skipif(not BFLOAT16, reason="no units for it")), "auto"],
)
def test_a_wide_enough_network_trains_in_the_precision_asked_for(cli, in_tmp_path, small, space_file, precision):
    """The small space's own networks are too narrow for another than float32."""
    (in_tmp_path / "wide.toml").write_text(space_file.read_text().replace("d_model = [16, 32]", "d_model = 64"))
    options = ("--space", "wide.toml", "--tokens", 64, "--generations", 1, "--objective", "loss", "--run", "run")
    cli("evolve", *small, "--executor", "serial", *options, "--precision", precision)
    trained = [r for r in evaluations(Store.open("runs/run")) if r.ok]
    in_which = resolve_precision(precision, "cpu")
    assert trained and {r.provenance["precision"] for r in trained} == {in_which}


@pytest.mark.skipif(not BFLOAT16, reason="this CPU has no units for it")
def test_one_in_full_too(cli, in_tmp_path, text_file):
    write_genome("wide.json", SEED.replace(d_model=64), name="wide", context=16)
    curves = {}
    for precision in ("float32", "bfloat16", "auto"):
        options = ("--tokens", 1024, "--device", "cpu", "--precision", precision, "-o", precision)
        cli("train", "wide.json", "--data", text_file, *options)
        curves[precision] = (in_tmp_path / precision / "curve.csv").read_text()
    assert curves["float32"] != curves["bfloat16"] == curves["auto"]


def test_what_is_measured_for_a_constraint_is_known_to_the_engine(finished):
    store = Store.open(finished[0] / "runs" / "first")
    limits = ("memory<=0.02MB", "params<=6k", "loss<=3", "latency<=5ms")
    _, engine = joined(store, constraints=limits)
    assert set(engine.names[len(engine.objectives) :]) == {"memory", "loss", "latency"} - {
        o.name for o in engine.objectives
    }
    assert engine.broken({"memory": 0.04, "loss": 1.0, "latency": 1.0}) == engine.broken({"memory": 0.04}) > 0
    assert engine.broken({"latency": 1.0}) == 0


def test_muons_rate_at_the_first_rung_is_that_of_a_training_so_short(cli, in_tmp_path, small, text_file, space_file):
    """Rates are meant for trainings of --tokens, and a quarter of them takes twice the rate."""
    text = space_file.read_text().replace('["adamw", "muon"]', '"muon"')
    (in_tmp_path / "muon.toml").write_text(text)
    options = ("--space", "muon.toml", "--tokens", 4096, "--rungs", 2, "--population", 2, "--generations", 1)
    objectives = ("--objective", "loss", "--objective", "flops")
    cli("evolve", *small, "--executor", "serial", *options, *objectives, "--run", "run")
    store = Store.open("runs/run")
    found = {r.genome_id: r.value("loss") for r in store.records if r.measures["loss"].fidelity == "1024 tokens"}
    assert found and read_space("muon.toml").genes["optimizer"].options == ("muon",)

    def first_rung(horizon: int | None) -> dict[str, float]:
        evaluator = ProxyEvaluator(
            "text", str(text_file), 16, needs=("loss",), tokens=4096, rungs=2, validation_tokens=8192, horizon=horizon,
            precision="float32",
        )  # fmt: skip
        return {i: evaluator.train(store.genomes[i].genome).measures["loss"].value for i in found}

    assert found == first_rung(4096)
    assert not set(found.values()) & set(first_rung(None).values())
