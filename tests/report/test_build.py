"""The JSON contract, what counts as the front, and the gain over the seeds, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evonas.record import Measure, Record
from evonas.report import build_report, png, to_json, to_markdown
from evonas.report.against import TO_COMPARE, against_seeds, sentence
from evonas.report.cells import summary_lines, table_of, title_line
from evonas.report.compare import compare
from evonas.sketch import sketch
from evonas.store import Store

from .conftest import SEED, header

MEMBER_KEYS = ["id", "generation", "parents", "objectives", "constraints", "extrapolated", "genome"]


def variant(k: int):
    return SEED.replace(beta2=round(0.9 + 0.001 * k, 3))


def add(store, k, loss, latency, fidelity="1000 tokens", device="cpu", spread=0.0, genome=None, **changes):
    genome = genome or variant(k)
    measures = {"loss": Measure(loss, spread, fidelity), "latency": Measure(latency, spread, "measured", device)}
    fields = {"genome_id": genome.id, "generation": 0, "index": k, "status": "ok", "measures": measures, **changes}
    store.append(genome, Record(**fields))


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "hand", header()) as store:
        yield store


def ids(*numbers):
    return [variant(k).id for k in numbers]


def front(store):
    return [member["id"] for member in build_report(store)["front"]]


def test_the_contract(run):
    report = build_report(run)
    assert list(report) == [
        "run", "task", "data", "device", "device_name", "context", "conditions", "seed", "objectives", "generations",
        "evaluations", "failures", "failed_last", "hypervolume", "front", "ties", "seeds", "against_seed", "fidelity",
        "left_out", "other_device", "constraints", "goals", "created", "seconds", "versions", "status_of_run", "rungs",
        "surrogate", "calibration",
    ]  # fmt: skip
    assert report["rungs"] == [] and report["calibration"] is None
    assert (report["device_name"], report["context"], report["conditions"]) == ("cpu", None, {})
    assert (report["run"], report["task"], report["device"], report["seed"]) == ("demo", "text", "cpu", 7)
    assert report["objectives"] == [
        {"name": "loss", "unit": "nats", "direction": "min"},
        {"name": "latency", "unit": "ms", "direction": "min"},
    ]
    assert (report["generations"], report["evaluations"], report["failures"]) == (8, 192, {"non_finite": 8})
    assert len(report["hypervolume"]) == 8 and report["hypervolume"] == sorted(report["hypervolume"])
    assert report["status_of_run"] == {"generations_asked": 9, "generations_done": 8, "ended": False}
    for member in report["front"] + report["seeds"]:
        assert list(member) == MEMBER_KEYS + ["probability"] * (member in report["front"])
        assert list(member["objectives"]) == ["loss", "latency"]
        for measure in member["objectives"].values():
            assert list(measure) == ["value", "spread", "fidelity"]
    assert {i for pair in report["ties"] for i in pair} <= {m["id"] for m in report["front"]}
    assert [m["id"] for m in report["seeds"]] == [SEED.id]
    assert report["seeds"][0]["genome"]["n_heads"] == [4, 4, 4, 4]
    assert json.loads(to_json(report)) == report


def test_the_front_is_the_non_dominated_set_of_every_ok_record(run):
    report = build_report(run)
    points = {r.genome_id: (r.value("loss"), r.value("latency")) for r in run.records if r.ok}
    expected = {
        i for i, p in points.items()
        if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points.values())
    }  # fmt: skip
    assert {m["id"] for m in report["front"]} == expected
    losses = [m["objectives"]["loss"]["value"] for m in report["front"]]
    assert losses == sorted(losses)
    assert set(expected) - set(run.population())  # older generations count too


def test_failures_and_nan_never_reach_the_front(store):
    add(store, 0, 2.0, 2.0)
    add(store, 1, float("nan"), 0.1)
    add(store, 2, 0.1, float("inf"))
    add(store, 3, 0.1, 0.1, status="timeout")
    store.append(variant(4), Record(variant(4).id, 0, 4, "ok", {"loss": Measure(0.0, 0.0, "1000 tokens")}))
    report = build_report(store)
    assert [m["id"] for m in report["front"]] == ids(0)
    assert report["failures"] == {"non_finite": 2, "timeout": 1}


def test_equal_points_are_all_kept(store):
    for k in (0, 1):
        add(store, k, 1.0, 1.0)
    assert sorted(front(store)) == sorted(ids(0, 1))


def test_only_the_highest_fidelity_is_compared(store):
    add(store, 0, 1.0, 1.0, "1000 tokens")
    add(store, 1, 5.0, 5.0, "9000 tokens")
    add(store, 2, 4.0, 6.0, "9000 tokens")
    add(store, 2, 0.5, 0.5, "1000 tokens")
    report = build_report(store)
    assert [m["id"] for m in report["front"]] == ids(2, 1)
    assert (report["fidelity"], report["left_out"]) == ({"loss": "9000 tokens", "latency": "measured"}, 2)


def test_latencies_of_two_devices_are_not_compared(store):
    add(store, 0, 1.0, 1.0, device="laptop")
    add(store, 1, 2.0, 2.0, device="server")
    add(store, 2, 3.0, 3.0, device="server")
    report = build_report(store)
    assert front(store) == ids(1) and (report["left_out"], report["other_device"]) == (1, 1)
    add(store, 4, 3.0, 3.0, "500 tokens", device="laptop")
    report = build_report(store)
    lines = summary_lines(report, table_of(report))
    assert "1 genome of the same fidelity is not compared: timed on another device." in lines
    assert "1 evaluations of another fidelity are not compared." in lines


def test_a_seed_that_was_timed_elsewhere_has_no_percentage_between_two_machines(store):
    add(store, 0, 1.0, 1.0, device="laptop")
    add(store, 1, 2.0, 0.5, device="laptop")
    add(store, 2, 2.5, 2.0, device="server", genome=SEED)  # while a run that has moved is measured again
    report = build_report(store)
    (seed,) = report["seeds"]
    assert seed["objectives"]["latency"]["fidelity"] == "measured on server"
    table = table_of(report)
    assert [change for row in table.front for _, change in row.objectives[1:]] == ["", ""]
    assert table.seeds[0].objectives[1][1] == "measured on server"
    assert all(change for row in table.front for _, change in row.objectives[:1]), "losses are compared"


def test_what_is_only_constrained_has_the_fidelity_of_the_front_too(tmp_path):
    with Store.create(tmp_path / "run", header(("latency", "params"), constraints=["loss<=3"])) as store:
        for genome, tokens, k in ((variant(0), 4096, 0), (SEED, 1024, 1)):
            measures = {
                "loss": Measure(2.0, 0.0, f"{tokens} tokens", "cpu"),
                "latency": Measure(1.0 + k, 0.0, "measured", "cpu"),
                "params": Measure(9.0 - k),
            }
            store.append(genome, Record(genome.id, 0, k, "ok", measures))
        report = build_report(store)
    assert report["fidelity"] == {"latency": "measured", "params": "exact", "loss": "4096 tokens"}
    assert "1,024 tokens" in [change for _, change in table_of(report).seeds[0].objectives]


def test_with_rungs_too_it_says_who_was_timed_elsewhere(store):
    for k, device in enumerate(("laptop", "laptop", "server", "server", "server")):
        add(store, k, 2.0, 2.0, "1024 tokens", device)
        add(store, k, 1.0, 1.0 + k, "4096 tokens", device, generation=1)
    add(store, 5, 2.0, 2.0, "1024 tokens", "laptop")
    store.commit({"generation": 1, "rungs": [6, 5], "expected": []}, ids(0, 1))
    report = build_report(Store.open(store.folder))
    assert report["other_device"] == 2
    lines = summary_lines(report, table_of(report))
    assert "2 genomes of the same fidelity are not compared: timed on another device." in lines
    assert not any("another fidelity" in line for line in lines)


def test_a_constraint_of_another_rung_is_not_another_device(tmp_path):
    with Store.create(tmp_path / "run", header(("latency", "params"), constraints=["loss<=3"])) as store:
        for k, tokens in enumerate((4096, 1024)):
            measures = {
                "loss": Measure(2.0, 0.0, f"{tokens} tokens", "cpu"),
                "latency": Measure(1.0 + k, 0.0, "measured", "cpu"),
                "params": Measure(9.0 - k),
            }
            store.append(variant(k), Record(variant(k).id, 0, k, "ok", measures))
        report = build_report(store)
    assert (report["left_out"], report["other_device"]) == (1, 0)
    assert not any("another device" in line for line in summary_lines(report, table_of(report)))


def test_the_last_record_of_a_genome_counts(store):
    add(store, 0, 1.0, 1.0)
    add(store, 0, 3.0, 3.0)
    add(store, 1, 2.0, 2.0)
    assert front(store) == ids(1)


def test_directions_are_respected(tmp_path):
    objectives = [
        {"name": "accuracy", "unit": "", "direction": "max"},
        {"name": "latency", "unit": "ms", "direction": "min"},
    ]
    with Store.create(tmp_path / "r", header(objectives=objectives)) as store:
        for k, (accuracy, latency) in enumerate([(0.5, 1.0), (0.9, 4.0), (0.4, 2.0)]):
            genome = SEED if k == 0 else variant(k)
            measures = {"accuracy": Measure(accuracy), "latency": Measure(latency)}
            store.append(genome, Record(genome.id, 0, k, "ok", measures))
        add_last = Record(variant(3).id, 0, 3, "ok", {"accuracy": Measure(0.6), "latency": Measure(0.5)})
        store.append(variant(3), add_last)
        report = build_report(store)
    assert [m["id"] for m in report["front"]] == ids(1, 3)
    entry = report["against_seed"][0]
    assert entry["at_seed_accuracy"]["gain"] == pytest.approx(0.5)
    assert entry["at_seed_latency"]["gain"] == pytest.approx(0.1)
    assert sentence(entry, report["objectives"]).endswith(
        f"at its accuracy 50% less latency ({variant(3).id}); at its latency 0.1 more accuracy ({variant(3).id})"
    )


def test_the_gain_over_the_seed_by_hand(store):
    add(store, 9, 2.0, 10.0, genome=SEED, spread=0.02)
    add(store, 4, 1.97, 0.5)  # no worse, as it seems, but by less than two standard errors
    add(store, 0, 1.5, 20.0)
    add(store, 1, 1.88, 9.0)
    add(store, 2, 1.95, 5.9)
    add(store, 3, 2.2, 1.0)
    entry = build_report(store)["against_seed"][0]
    assert list(entry) == ["id", "label", "status", "at_seed_loss", "at_seed_latency", "trained", "ahead"]
    assert entry["trained"] == "1000 tokens" and entry["ahead"] is None
    assert (entry["id"], entry["label"], entry["status"]) == (SEED.id, "nanogpt-cpu", "ok")
    # Of those with a loss clearly below 2.0 (0, 1, 2) number 2 is the fastest: 4.1 of 10 ms are saved.
    at_loss = entry["at_seed_loss"]
    assert (at_loss["id"], at_loss["objective"], at_loss["value"]) == (variant(2).id, "latency", 5.9)
    assert at_loss["gain"] == pytest.approx(4.1) and at_loss["ratio"] == pytest.approx(0.41)
    assert at_loss["within_spread"] is False
    # Of those that take at most 10 ms (1, 2, 3, 4) number 1 has the lowest loss: 0.12 less.
    at_latency = entry["at_seed_latency"]
    assert (at_latency["id"], at_latency["objective"], at_latency["seed_value"]) == (variant(1).id, "loss", 2.0)
    assert at_latency["gain"] == pytest.approx(0.12) and at_latency["ratio"] == pytest.approx(0.06)
    assert sentence(entry, build_report(store)["objectives"]) == (
        f"nanogpt-cpu ({SEED.id}), all trained to 1,000 tokens: at its loss 41% less latency ({variant(2).id}); "
        f"at its latency 0.12 nats less loss ({variant(1).id})"
    )


def test_a_gain_inside_the_spread_says_so(store):
    add(store, 9, 2.0, 10.0, genome=SEED, spread=0.1)
    add(store, 0, 1.9, 10.0, spread=0.1)
    report = build_report(store)
    entry = report["against_seed"][0]
    assert entry["at_seed_latency"]["within_spread"] is True
    assert "0.1 nats less loss" in sentence(entry, report["objectives"])
    assert "within the error" in sentence(entry, report["objectives"])


@pytest.mark.parametrize(("latency", "hidden"), [(9.8, True), (9.6, False)])
def test_so_does_one_inside_what_timings_differ_by(store, latency, hidden):
    """However alike the repeats within each of two are: the errors of both are 1%, two of their difference 2.8%."""
    for k, genome, milliseconds in ((9, SEED, 10.0), (0, variant(0), latency)):
        measures = {
            "loss": Measure(2.0 - 0.1 * (k == 0), 0.0, "1000 tokens"),
            "latency": Measure(milliseconds, 1e-4, "measured", "cpu"),
        }
        store.append(genome, Record(genome.id, 0, k, "ok", measures))
    report = build_report(store)
    assert report["against_seed"][0]["at_seed_loss"]["within_spread"] is hidden
    assert report["seeds"][0]["objectives"]["latency"]["spread"] == 1e-4, "shown as measured"


def test_what_errors_have_in_common_does_not_hide_a_gain_and_another_seed_may(store):
    text = sketch(np.random.default_rng(0).standard_normal(200))
    for k, loss, genome in ((9, 2.0, SEED), (0, 1.9, None)):
        genome = genome or variant(k)
        measures = {
            "loss": Measure(loss, 0.1, "1000 tokens", "cpu", text),
            "latency": Measure(10.0, 0.0, "measured", "cpu"),
        }
        store.append(genome, Record(genome.id, 0, k, "ok", measures))
    assert build_report(store)["against_seed"][0]["at_seed_latency"]["within_spread"] is False
    for noise, hidden in ((0.03, False), (0.05, True)):
        entry = against_seeds(store, compare(store), {"loss": noise})[0]
        assert entry["at_seed_latency"]["within_spread"] is hidden


def test_a_gain_is_told_after_long_trainings_too_where_these_are_known(store):
    """Short, the member is far ahead at less latency; long, it is behind, and only the other one is not."""
    add(store, 9, 2.0, 10.0, genome=SEED, spread=0.01)
    for k, latency in ((0, 1.0), (1, 6.0)):
        add(store, k, 1.5 - 0.1 * k, latency, spread=0.01)
    long = {SEED.id: 1.2, variant(0).id: 1.4, variant(1).id: 1.0}
    ahead = {i: {"tokens": 9000, "value": v, "spread": 0.02 if i != SEED.id else None} for i, v in long.items()}
    entry = against_seeds(store, compare(store), ahead=ahead)[0]
    assert sentence(entry, build_report(store)["objectives"]) == (
        f"nanogpt-cpu ({SEED.id}), all trained to 1,000 tokens: at its loss 90% less latency ({variant(0).id}); "
        f"at its latency 0.6 nats less loss ({variant(1).id}). Expected, all trained to 9,000 tokens: at its loss "
        f"40% less latency ({variant(1).id}); at its latency 0.2 nats less loss ({variant(1).id})"
    )
    del ahead[SEED.id]
    assert against_seeds(store, compare(store), ahead=ahead)[0]["ahead"] is None


def test_a_loss_that_was_trained_long_is_not_exact(store):
    """A hair below the seed's, both trained: no member is clearly no worse, the gain in loss is within its error."""
    add(store, 9, 2.0, 10.0, genome=SEED, spread=0.01)
    add(store, 0, 1.5, 1.0, spread=0.01)
    ahead = {i: {"tokens": 9000, "value": v, "spread": None} for i, v in ((SEED.id, 1.2), (variant(0).id, 1.1999))}
    entry = against_seeds(store, compare(store), ahead=ahead)[0]["ahead"]
    assert entry["at_seed_loss"]["id"] == SEED.id and entry["at_seed_loss"]["gain"] == 0
    assert entry["at_seed_latency"]["id"] == variant(0).id and entry["at_seed_latency"]["within_spread"] is True


def test_a_network_of_the_seed_is_as_fast_as_it(store):
    for k, genome, loss in ((9, SEED, 2.0), (0, SEED.replace(beta2=0.97), 1.5)):
        measures = {"loss": Measure(loss, 0.0, "1000 tokens"), "latency": Measure(3.0, 0.5, "measured", "cpu")}
        store.append(genome, Record(genome.id, 0, k, "ok", measures))
    assert build_report(store)["against_seed"][0]["at_seed_latency"]["gain"] == 0.5


def test_an_unbeaten_seed(store):
    add(store, 9, 1.0, 1.0, genome=SEED)
    add(store, 0, 2.0, 2.0)
    report = build_report(store)
    assert report["against_seed"][0]["at_seed_loss"]["gain"] == 0
    assert sentence(report["against_seed"][0], report["objectives"]).endswith(
        "at its loss nothing with less latency; at its latency nothing with less loss"
    )


def test_a_seed_that_is_beaten_within_the_error_alone(store):
    """At its loss, as far as that can be told, nothing is faster; who seems so may not be."""
    add(store, 9, 2.0, 10.0, genome=SEED, spread=0.1)
    add(store, 0, 1.95, 9.0, spread=0.1)
    report = build_report(store)
    assert report["front"][0]["id"] != SEED.id and report["against_seed"][0]["at_seed_loss"] is None
    assert "at its loss nothing clearly with less latency; at its" in sentence(
        report["against_seed"][0], report["objectives"]
    )
    add(store, 0, 2.0001, 9.0, spread=0.1)  # now the seed is on the front, and the other still may be no worse
    assert "at its loss nothing clearly with less latency; at its" in sentence(
        build_report(store)["against_seed"][0], report["objectives"]
    )
    add(store, 1, 1.0, 11.0, spread=0.1)  # clearly no worse, and slower
    report = build_report(store)
    assert report["against_seed"][0]["at_seed_loss"]["unclear"] is True
    assert "at its loss nothing clearly with less latency" in sentence(report["against_seed"][0], report["objectives"])


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"status": "infeasible", "measures": {}}, "infeasible, nothing to compare with"),
        ({"measures": {"loss": Measure(2.0, 0.0, "5 tokens"), "latency": Measure(1.0)}}, "not measured like the front"),
    ],
)
def test_a_seed_that_can_not_be_compared(store, changes, text):
    add(store, 0, 1.0, 1.0)
    add(store, 9, 0.0, 0.0, genome=SEED, **changes)
    report = build_report(store)
    entry = report["against_seed"][0]
    assert entry["at_seed_loss"] is None and entry["at_seed_latency"] is None
    assert text in sentence(entry, report["objectives"])
    assert [m["id"] for m in report["seeds"]] == [SEED.id]


def test_a_run_without_any_ok_record(store):
    empty = build_report(store)
    assert empty["front"] == empty["seeds"] == empty["against_seed"] == empty["hypervolume"] == []
    add(store, 0, 1.0, 1.0, status="crash")
    report = build_report(store)
    assert (report["front"], report["failures"], report["evaluations"]) == ([], {"crash": 1}, 1)
    to_json(report)


def test_a_single_objective(tmp_path):
    with Store.create(tmp_path / "r", header(("loss",))) as store:
        for genome, loss in ((SEED, 2.0), (variant(0), 1.5), (variant(1), 3.0)):
            store.append(genome, Record(genome.id, 0, 0, "ok", {"loss": Measure(loss)}))
        report = build_report(store)
    assert [m["id"] for m in report["front"]] == ids(0)
    assert report["against_seed"][0]["best"]["gain"] == 0.5
    assert sentence(report["against_seed"][0], report["objectives"]).endswith(f"0.5 nats less loss ({variant(0).id})")


def test_a_live_run_is_reported_as_it_stands(store):
    add(store, 0, 2.0, 2.0)
    with_one = build_report(Store.open(store.folder))
    add(store, 1, 1.0, 1.0)
    with_two = build_report(Store.open(store.folder))
    assert ([m["id"] for m in with_one["front"]], [m["id"] for m in with_two["front"]]) == (ids(0), ids(1))
    assert with_two["generations"] == 0


def test_three_objectives(tmp_path):
    rng = np.random.default_rng(0)
    with Store.create(tmp_path / "r", header(("loss", "latency", "memory"))) as store:
        points = rng.random((30, 3)).round(2)
        for k, point in enumerate(points):
            measures = {n: Measure(float(v)) for n, v in zip(("loss", "latency", "memory"), point)}
            store.append(variant(k), Record(variant(k).id, 0, k, "ok", measures))
        found = set(front(store))
    expected = [k for k, p in enumerate(points) if not any((q <= p).all() and (q < p).any() for q in points)]
    assert found == set(ids(*expected))


def test_rungs_say_who_was_trained_how_long_and_how_far_to_trust_it(store):
    for k, fidelity in enumerate(("1024 tokens", "1024 tokens", "4096 tokens")):
        add(store, k, 2.0 - 0.1 * k, 1.0 + k, fidelity=fidelity)
    expected = [{"rung": 0, "of": 1024, "pairs": 5, "error": {"loss": 0.0871, "latency": 0.0004}}]
    store.set_header(settings={"tokens": 4096})
    store.commit({"generation": 0, "rungs": [3, 1], "expected": expected}, ids(0, 1, 2))
    report = build_report(Store.open(store.folder))
    assert report["rungs"] == [
        {"fidelity": "1024 tokens", "genomes": 3, "pairs": 5, "error": {"loss": 0.0871, "latency": 0.0004}},
        {"fidelity": "4096 tokens", "genomes": 1, "pairs": None, "error": None},
    ]
    text = " ".join(summary_lines(report, table_of(report)))
    assert "3 genomes were trained to 1,024 tokens, 1 of them to 4,096; the front holds only the last." in text
    assert "Loss at 4,096 tokens, predicted from 1,024: off by ±0.087." in text
    assert "Latency at" not in text  # it was measured once more: nothing that a rung tells
    assert "another fidelity" not in text and front(store) == ids(2)


def test_of_several_rungs_each_has_its_count_and_its_error(store):
    for k, fidelity in enumerate(("16384 tokens", "65536 tokens", "262144 tokens")):
        add(store, k, 2.0 - 0.1 * k, 1.0 + k, fidelity=fidelity)
    expected = [
        {"rung": k, "of": of, "pairs": 50, "error": {"loss": error, "latency": 0.0}}
        for k, (of, error) in enumerate(((16384, 0.1), (65536, 0.05)))
    ]
    store.set_header(settings={"tokens": 262144})
    store.commit({"generation": 0, "rungs": [1212, 81, 27], "expected": expected}, ids(0, 1, 2))
    report = build_report(Store.open(store.folder))
    assert [rung["fidelity"] for rung in report["rungs"]] == ["16384 tokens", "65536 tokens", "262144 tokens"]
    assert summary_lines(report, table_of(report))[1:3] == [
        "1,212 genomes were trained to 16,384 tokens, 81 of them to 65,536, 27 to 262,144; the front holds only the "
        "last.",
        "Loss at 262,144 tokens, predicted from 16,384: off by ±0.1; from 65,536: ±0.05.",
    ]


@pytest.mark.parametrize(
    ("noted", "said"),
    [
        (
            {"tau": 0.6251, "coverage": 0.583, "share": 1.0},
            "Of the latest results, unseen, the surrogate told the order at tau 0.63, and 58% within its standard "
            "deviation (68% would be right).",
        ),
        ({"tau": 0.05, "coverage": None, "share": 0.0}, "told the order at tau 0.05."),
        ({"tau": 0.3, "coverage": None, "share": 0.5}, "told the order at tau 0.3."),
        (None, None), ({}, None), ("good", None), ({"tau": "high", "share": 1}, None), ({"tau": 7, "share": 1}, None),
    ],
)  # fmt: skip
def test_how_far_the_surrogate_could_be_trusted_is_told(store, noted, said):
    add(store, 0, 2.0, 1.0)
    store.commit({"generation": 0, "surrogate": noted}, ids(0))
    report = build_report(Store.open(store.folder))
    text = " ".join(summary_lines(report, table_of(report)))
    assert (said in text) if said else ("surrogate" not in text and report["surrogate"] is None)


def test_a_front_below_the_last_rung_says_so(store):
    add(store, 0, 2.0, 1.0, fidelity="1024 tokens")
    store.set_header(settings={"tokens": 4096})
    expected = [{"rung": 0, "of": 1024, "pairs": 0, "error": {"loss": None}}]
    store.commit({"generation": 0, "rungs": [1, 0], "expected": expected}, ids(0))
    report = build_report(Store.open(store.folder))
    assert (
        "1 genome was trained to 1,024 tokens, 0 of them to 4,096; the front holds only those at 1,024 so far."
        in summary_lines(report, table_of(report))
    )


@pytest.mark.parametrize("status", ["infeasible", "timeout", "crash"])
def test_a_seed_that_failed_at_a_higher_rung_is_not_its_shorter_self(store, status):
    add(store, 0, 1.0, 1.0, "4096 tokens")
    add(store, 9, 2.0, 3.0, "1024 tokens", genome=SEED)
    measures = {"latency": Measure(3.0, 0.0, "measured", "cpu")}
    measures |= {"loss": Measure(1.5, 0.0, "4096 tokens")} if status == "infeasible" else {}
    add(store, 9, 0.0, 0.0, genome=SEED, generation=3, status=status, measures=measures)
    report = build_report(store)
    entry = report["against_seed"][0]
    assert entry["status"] == status and entry["at_seed_loss"] is None
    cure = f". {TO_COMPARE}" if status == "infeasible" else ""
    assert sentence(entry, report["objectives"]) == f"nanogpt-cpu ({SEED.id}): {status}, nothing to compare with{cure}"
    row = table_of(report).seeds[0]
    assert row.label == f"nanogpt-cpu, {status}"
    assert row.objectives[0] == (("1.5", "=") if status == "infeasible" else ("2", "1,024 tokens"))
    assert row.objectives[1] == ("3", "=")


def test_a_seed_that_is_not_as_far_as_the_front_is_marked(store):
    add(store, 0, 1.0, 1.0, "4096 tokens")
    add(store, 9, 2.0, 3.0, "1024 tokens", genome=SEED)
    report = build_report(store)
    assert report["seeds"][0]["objectives"]["loss"]["fidelity"] == "1024 tokens"
    assert table_of(report).seeds[0].objectives == [("2", "1,024 tokens"), ("3", "=")]
    assert "2 (1,024 tokens)" in to_markdown(report)


def test_a_seed_done_again_at_its_place_counts_as_it_ended(store):
    add(store, 0, 1.0, 1.0)
    add(store, 9, 0.0, 0.0, genome=SEED, status="crash", measures={})
    add(store, 9, 2.0, 3.0, genome=SEED)
    assert build_report(store)["against_seed"][0]["status"] == "ok"


def test_an_error_that_is_not_known_yet_is_not_told(store):
    add(store, 0, 2.0, 1.0, fidelity="1024 tokens")
    expected = [{"rung": 0, "of": 1024, "pairs": 1, "error": {"loss": float("nan"), "latency": float("nan")}}]
    store.commit({"generation": 0, "rungs": [1, 0], "expected": expected}, ids(0))
    report = build_report(Store.open(store.folder))
    assert report["rungs"][0]["error"] == {"loss": None, "latency": None}
    assert not any("predicted from" in line for line in summary_lines(report, table_of(report)))


def test_a_header_of_the_wrong_types_is_shown_as_far_as_it_is_text(tmp_path):
    deep: list = []
    for _ in range(300):
        deep = [deep]
    with Store.create(
        tmp_path / "odd", header(settings={"task": deep}, versions={"torch": deep, "h5py": "3"})
    ) as store:
        report = build_report(store)
    assert report["task"] == report["data"] == "" and report["versions"] == {"torch": "", "h5py": "3"}


@pytest.mark.parametrize(
    ("settings", "data", "title"),
    [
        ({"task": "text", "data": "/home/me/input.txt"}, "input.txt", "task text (input.txt) on cpu"),
        ({"task": "text", "data": None}, "embedded corpus", "task text (embedded corpus) on cpu"),
        ({"task": "mine:Own", "data": None}, "", "task mine:Own on cpu"),
        ({"task": "text", "data": "a\x1b[2J"}, "a\x1b[2J", "task text (a [2J) on cpu"),
        ({"task": "text", "data": ["odd"]}, "", "task text on cpu"),
        ({"task": "text", "data": f"/{'d' * 250}/input.txt"}, "input.txt", "task text (input.txt) on cpu"),
    ],
)
def test_what_was_learned_is_said(tmp_path, settings, data, title):
    with Store.create(tmp_path / "run", header(settings=settings)) as store:
        report = build_report(store)
    assert report["data"] == data and f": {title}, " in title_line(report)


def test_a_run_without_objectives_has_an_empty_front(tmp_path):
    with Store.create(tmp_path / "none", header(())) as store:
        store.append(SEED, Record(SEED.id, 0, 0, "ok", {"loss": Measure(1.0)}))
        report, picture = build_report(store), png(store)
    assert (report["front"], report["ties"], report["objectives"]) == ([], [], [])
    assert "Nothing is on the front yet." in to_markdown(report)
    assert picture.startswith(b"\x89PNG")
