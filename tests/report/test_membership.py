"""The probability of a place on the front, against what is known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evonas.record import Measure, Record
from evonas.report import build_report
from evonas.report.cells import summary_lines, table_of
from evonas.report.compare import compare
from evonas.report.membership import front_probabilities
from evonas.sketch import sketch
from evonas.store import Store

from .conftest import SEED, header


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "hand", header()) as store:
        yield store


def add(store, k, loss, latency, loss_spread=0.0, latency_spread=0.0, loss_sketch="") -> str:
    genome = SEED.replace(beta2=round(0.9 + 0.0001 * k, 4))
    measures = {
        "loss": Measure(loss, loss_spread, "1000 tokens", "cpu", loss_sketch),
        "latency": Measure(latency, latency_spread, "measured", "cpu"),
    }
    store.append(genome, Record(genome.id, 0, k, "ok", measures))
    return genome.id


def test_exact_values_leave_no_doubt(store):
    a, b = add(store, 0, 1.0, 2.0), add(store, 1, 2.0, 1.0)
    add(store, 2, 2.5, 2.5)
    assert front_probabilities(compare(store)) == {a: 1.0, b: 1.0}


@pytest.mark.parametrize(("gap", "expected"), [(0.0, 0.5), (1.0, 0.76), (2.0, 0.921)])
def test_one_that_is_hardly_better_is_often_beaten(store, gap, expected):
    """Same latency, losses ``gap`` spreads apart: the better one stays so with Phi(gap / sqrt 2)."""
    better, _ = add(store, 0, 2.0, 1.0, 0.1), add(store, 1, 2.0 + 0.1 * gap + 1e-9, 1.0, 0.1)
    found = front_probabilities(compare(store))[better]
    assert found == pytest.approx(expected, abs=0.06)
    assert expected == pytest.approx(0.5 * (1 + math.erf(gap / 2)), abs=0.01)


@pytest.mark.parametrize(("apart", "expected"), [(0.0, 0.5), (1e-9, 0.75)])
def test_a_latency_that_two_share_is_one_measurement(store, apart, expected):
    """The two differ in how they train: their losses alone say which is better, however uncertain the time is. Of two
    measurements the other has to be better twice."""
    better, _ = add(store, 0, 2.0, 1.0, 0.1, 0.05), add(store, 1, 2.0 + 1e-9, 1.0 + apart, 0.1, 0.05)
    assert front_probabilities(compare(store))[better] == pytest.approx(expected, abs=0.06)


def test_a_single_timing_is_drawn_from_what_timings_differ_by(store):
    """The better one is slower by 1%, a standard error of each: the other is the faster one with Phi(1 / sqrt 2)."""
    better, faster = add(store, 0, 1.0, 2.0, 0.0, 1e-5), add(store, 1, 1.5, 1.98, 0.0, 1e-5)
    assert front_probabilities(compare(store)) == {better: 1.0, faster: pytest.approx(0.76, abs=0.06)}
    assert build_report(store)["front"][0]["objectives"]["latency"]["spread"] == 1e-5, "shown as measured"


def test_errors_in_common_leave_the_order_as_it_is(store):
    """0.2 spreads apart, each with an error of its own of a tenth of what they share: Phi(0.2 / (0.1 sqrt 2))."""
    rng = np.random.default_rng(0)
    text = rng.standard_normal(400)
    one, other = (sketch(text + 0.1 * rng.standard_normal(400)) for _ in range(2))
    better, _ = add(store, 0, 2.0, 1.0, 0.1, loss_sketch=one), add(store, 1, 2.02, 1.0, 0.1, loss_sketch=other)
    found = front_probabilities(compare(store))[better]
    assert found == pytest.approx(0.5 * (1 + math.erf(1)), abs=0.04)


def test_one_without_a_sketch_is_drawn_apart(store):
    text = sketch(np.random.default_rng(0).standard_normal(400))
    first = add(store, 0, 2.0, 1.0, 0.1, loss_sketch=text)
    add(store, 1, 2.0 + 1e-9, 1.0, 0.1, loss_sketch=text)
    assert front_probabilities(compare(store))[first] == 1
    add(store, 2, 2.0 + 1e-9, 1.0, 0.1)
    assert front_probabilities(compare(store))[first] == pytest.approx(0.5, abs=0.06)


def test_what_breaks_a_constraint_is_no_rival(tmp_path):
    with Store.create(tmp_path / "run", header(constraints=["latency>=1ms"])) as store:
        only = add(store, 0, 2.0, 1.5, 0.1)
        add(store, 1, 1.0, 0.5, 0.1)
        assert front_probabilities(compare(store)) == {only: 1.0}


def test_nor_is_what_breaks_one_that_is_not_known_of_all(tmp_path):
    with Store.create(tmp_path / "run", header(constraints=["memory<=2MB"])) as store:
        only = add(store, 0, 2.0, 1.5, 0.1)
        better = SEED.replace(beta2=0.8)
        measures = {
            "loss": Measure(1.0, 0.1, "1000 tokens", "cpu"),
            "latency": Measure(0.5, 0.0, "measured", "cpu"),
            "memory": Measure(3.0, 0.0, "exact"),
        }
        store.append(better, Record(better.id, 0, 1, "ok", measures))
        assert front_probabilities(compare(store)) == {only: 1.0}


@pytest.mark.parametrize(
    ("name", "inside", "expected"), [("latency", 1.0, 0.84), ("latency", 0.0, 0.5), ("memory", 1.0, 0.84)]
)
def test_a_constraint_that_is_met_by_a_hair_may_not_be(tmp_path, name, inside, expected):
    """``inside`` spreads within the bound: Phi of that; what is only constrained counts as well."""
    with Store.create(
        tmp_path / "run", header(constraints=[f"{name}<=2{'ms' if name == 'latency' else 'MB'}"])
    ) as store:
        genome = SEED.replace(beta2=0.9)
        others = {"latency": Measure(1.0, 0.0, "measured", "cpu")} if name == "memory" else {}
        measures = {
            "loss": Measure(1.0, 0.0, "1000 tokens"),
            **others,
            name: Measure(2 - 0.1 * inside, 0.1, "measured", "cpu"),
        }
        store.append(genome, Record(genome.id, 0, 0, "ok", measures))
        assert front_probabilities(compare(store))[genome.id] == pytest.approx(expected, abs=0.06)


def test_one_just_outside_a_constraint_is_a_rival(tmp_path):
    """The faster one is out by a hair: where it is not, it dominates what is on the front."""
    with Store.create(tmp_path / "run", header(constraints=["latency>=1ms"])) as store:
        add(store, 0, 1.0, 1.0 - 1e-9, latency_spread=0.1)
        member = add(store, 1, 1.0, 3.0)
        assert front_probabilities(compare(store)) == {member: pytest.approx(0.5, abs=0.06)}


def test_noise_beside_the_spread_is_of_its_objective_and_apart_for_each(store):
    text = sketch(np.random.default_rng(0).standard_normal(400))
    first = add(store, 0, 2.0, 1.0, 0.001, loss_sketch=text)
    add(store, 1, 2.1, 1.0, 0.001, loss_sketch=text)
    found = front_probabilities(compare(store), {"loss": 0.1})[first]
    assert found == pytest.approx(0.5 * (1 + math.erf(0.5)), abs=0.06)
    for other in ("latency", "memory"):
        assert front_probabilities(compare(store), {other: 0.1})[first] == 1


def test_what_is_far_behind_changes_nothing(store):
    rng = np.random.default_rng(0)
    ids = [add(store, k, 2.0 - 0.3 * k, 1.0 + k, 0.05, 0.05) for k in range(4)]
    before = front_probabilities(compare(store))
    for k in range(100):
        add(store, 10 + k, 4.0 + rng.random(), 5.0 + rng.random(), 0.05, 0.05)
    after = front_probabilities(compare(store))
    assert before.keys() == after.keys() == set(ids)
    assert all(after[i] > 0.9 and after[i] == pytest.approx(before[i], abs=0.05) for i in ids)


def test_spreads_that_are_no_numbers_count_as_none(store):
    only = add(store, 0, 1.0, 1.0, math.nan, math.inf)
    assert front_probabilities(compare(store)) == {only: 1.0}


def test_a_run_without_results(store):
    assert front_probabilities(compare(store)) == {}


def test_the_report_tells_a_doubt_and_keeps_quiet_where_there_is_none(store):
    sure, doubtful = add(store, 0, 1.0, 9.0, 0.01), add(store, 1, 2.0, 1.0, 0.1)
    add(store, 2, 2.05, 1.0, 0.1)
    report = build_report(store)
    assert [m["id"] for m in report["front"]] == [sure, doubtful]
    assert report["front"][0]["probability"] == 1 and 0.4 < report["front"][1]["probability"] < 0.8
    table = table_of(report)
    assert [bool(row.probability) for row in table.front] == [False, True]
    assert any(line.startswith("p: probability") for line in summary_lines(report, table))
