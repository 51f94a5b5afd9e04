"""What one run takes over from another."""

from __future__ import annotations

import pytest

from evonas.record import MEASURED_AGAIN, Measure, Record
from evonas.store import Store, known_from

from .conftest import HEADER, genome


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "old", HEADER) as store:
        yield store


def add(store, k, rung=0, loss=2.0, device="a cpu", status="ok", **changes):
    g = genome(k)
    measures = {"latency": Measure(1.0 + k, 0.1, "measured", device)}
    if status == "ok":
        measures["loss"] = Measure(loss, 0.01, f"{rung} tokens", "cpu")
    store.append(g, Record(g.id, rung, k, status, measures, reason="why", cost={"seconds": 9.0}, **changes))
    return g


def test_every_rung_of_a_genome_and_the_time_of_its_architecture(store):
    g = add(store, 0, 0, 3.0)
    add(store, 0, 1, 2.0)
    known = known_from([store], ("latency",), ("loss",), "a cpu")
    assert {key: o.measures["loss"].value for key, o in known.trained.items()} == {(g.id, 0): 3.0, (g.id, 1): 2.0}
    assert known.measured[g.architecture_id].measures["latency"].value == 1.0
    for outcome in (*known.trained.values(), *known.measured.values()):
        assert not outcome.cost and outcome.provenance["reused"] == "old"


def test_a_settled_time_is_not_replaced_by_a_single_one(store):
    """Whichever of an architecture's genomes comes later in the run."""
    g = add(store, 0)
    again = {"latency": Measure(5.0, 0.01, "measured", "a cpu"), "loss": Measure(2.0, 0.01, "0 tokens", "cpu")}
    store.append(g, Record(g.id, 0, 0, "ok", again, MEASURED_AGAIN, provenance={"times_measured": 4}))
    assert store.record_of(g.id).times_measured > 1
    other = g.replace(learning_rate=2 * g.learning_rate)
    single = {**again, "latency": Measure(9.0, 0.1, "measured", "a cpu")}
    store.append(other, Record(other.id, 1, 3, "ok", single))
    assert other.architecture_id == g.architecture_id
    known = known_from([store], ("latency",), ("loss",), "a cpu")
    assert known.measured[g.architecture_id].measures["latency"].value == 5.0


def test_times_of_another_machine_are_not_taken(store):
    add(store, 0, device="another cpu")
    known = known_from([store], ("latency",), ("loss",), "a cpu")
    assert not known.measured and len(known.trained) == 1


@pytest.mark.parametrize(("status", "taken"), [("non_finite", True), ("timeout", False), ("crash", False)])
def test_of_failures_only_divergence_would_come_again(store, status, taken):
    g = add(store, 0, status=status)
    known = known_from([store], ("latency",), ("loss",), "a cpu")
    assert ((g.id, 0) in known.trained) is taken
    if taken:
        assert (known.trained[g.id, 0].status, known.trained[g.id, 0].reason) == ("non_finite", "why")


def test_all_that_is_needed_must_be_there(store):
    add(store, 0)
    known = known_from([store], ("latency", "memory"), (), "a cpu")
    assert not known.measured and not known.trained


def test_no_runs_know_nothing():
    known = known_from([], ("latency",), ("loss",), "a cpu")
    assert not known.measured and not known.trained
