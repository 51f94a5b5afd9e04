"""Calibration: whom it chooses, what the numbers mean, and a file that may be damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from evonas.errors import EvonasError
from evonas.record import Measure, Record
from evonas.report import build_report
from evonas.report.calibration import lines, seed_noise, summarise, tau
from evonas.report.calibration_file import (
    AS_LONG,
    EARLIER,
    FILE,
    begin,
    entry,
    note,
    read_calibration,
    trained_long,
    write_calibration,
)
from evonas.report.cells import summary_lines, table_of
from evonas.report.compare import compare
from evonas.report.sample import choose, choose_again, losses_told, seconds_per_token
from evonas.store import Store

from .conftest import SEED, TOKENS, header


def chosen_of(store, n):
    return choose(store, n, len(TOKENS), 50, 16)


def trained(store, n=24, longer=lambda c: -c.genome.d_model / 32.0, factor=4.0) -> dict:
    chosen = chosen_of(store, n)
    sample = [{**entry(c), "long": longer(c), "status": "ok"} for c in chosen]
    return {"factor": factor, "rungs": list(TOKENS), "sample": sample}


def test_the_sample_is_even_over_front_dominated_and_dropped_and_over_sizes_of_time(climbed):
    chosen = chosen_of(climbed, 16)
    counts = {s: sum(c.stratum == s for c in chosen) for s in {c.stratum for c in chosen}}
    assert set(counts) == {"front", "dominated", "stopped at rung 0", "stopped at rung 1"}
    assert len(chosen) == len({c.genome.id for c in chosen}) == 16 and max(counts.values()) <= 7
    for c in chosen:
        assert len(c.losses) == {"stopped at rung 0": 1, "stopped at rung 1": 2}.get(c.stratum, 3)
        assert c.expected == c.losses[-1] if len(c.losses) == 3 else c.expected < c.losses[-1]


def test_a_small_stratum_gives_its_places_to_the_others(climbed):
    assert len(chosen_of(climbed, 50)) == 50 and len(chosen_of(climbed, 500)) == 60


def test_of_the_front_those_are_trained_that_the_stopped_have_to_beat(climbed):
    chosen = chosen_of(climbed, 16)
    front = {r.genome_id: r.value("latency") for r in compare(climbed).front_records()}
    there = {c.genome.id for c in chosen if c.stratum == "front"}
    rivals = set()
    for c in chosen:
        faster = {i: v for i, v in front.items() if c.stratum.startswith("stopped") and v <= c.latency}
        rivals |= {max(faster, key=faster.get)} if faster else set()
    assert rivals and (rivals <= there if len(rivals) <= len(there) else there <= rivals)


def test_it_is_the_same_sample_every_time(climbed):
    assert chosen_of(climbed, 12) == chosen_of(climbed, 12)


def test_genomes_that_failed_on_the_way_are_not_chosen(climbed, tmp_path):
    with Store.create(tmp_path / "run", header(space=climbed.header["space"])) as store:
        for record in climbed.records[:20]:
            store.append(climbed.genomes[record.genome_id].genome, record)
        failed = climbed.records[0].genome_id
        store.append(climbed.genomes[failed].genome, Record(failed, 1, 0, "timeout", reason="slow"))
        assert failed not in {c.genome.id for c in chosen_of(store, 100)} and len(chosen_of(store, 100)) == 19


def test_who_broke_a_constraint_at_the_last_rung_is_of_the_sample(climbed, tmp_path):
    """The engine learns of them too; without them all would be of a sample cut off by the loss."""
    broke = [r.genome_id for r in climbed.records if r.measures["loss"].fidelity == "4096 tokens"][:2]
    with Store.create(tmp_path / "run", header(space=climbed.header["space"])) as store:
        for record in climbed.records:
            if record.genome_id in broke and record.measures["loss"].fidelity == "4096 tokens":
                record = replace(record, status="infeasible", reason="loss above")
            store.append(climbed.genomes[record.genome_id].genome, record)
        sample = {c.genome.id: c for c in chosen_of(store, 500)}
        assert len(losses_told(store)) == len(sample) == 60 and broke[0] in seconds_per_token(store)
    for i in broke:
        assert len(sample[i].losses) == 3 and sample[i].stratum == "dominated"


@pytest.mark.parametrize(
    ("objectives", "hint"), [(("latency",), "a run that trades off the loss"), (("loss",), "evonas resume {run}")]
)
def test_a_run_without_a_loss_is_refused(tmp_path, objectives, hint):
    with Store.create(tmp_path / "run", header(objectives)) as store:
        with pytest.raises(EvonasError, match="no genome with a loss") as error:
            chosen_of(store, 8)
    assert hint.format(run=tmp_path / "run") in error.value.hint


def test_a_perfect_proxy_and_a_reversed_one(climbed):
    right = summarise(trained(climbed, longer=lambda c: c.losses[0]))["predictors"][0]
    assert right["tau"] == 1 and right["low"] > 0.99 and right["regret"] == 0
    wrong = summarise(trained(climbed, longer=lambda c: -c.losses[0]))["predictors"][0]
    assert wrong["tau"] == -1 and wrong["high"] < -0.99 and wrong["regret"] > 0.5


def test_the_interval_holds_the_tau_and_narrows_with_more_genomes(climbed):
    assert summarise(trained(climbed, 8))["predictors"][0]["low"] is None, "too few to resample"
    few, many = (summarise(trained(climbed, n))["predictors"][0] for n in (12, 60))
    for row in (few, many):
        assert row["low"] <= row["tau"] <= row["high"]
    assert many["high"] - many["low"] < few["high"] - few["low"]


def test_longer_rungs_of_this_run_tell_more(climbed):
    summary = summarise(trained(climbed, 60))
    names = [row["what"] for row in summary["predictors"]]
    assert names == ["loss at 256 tokens", "loss at 1,024 tokens", "loss at 4,096 tokens", "expected at 4,096 tokens"]
    assert [row["genomes"] for row in summary["predictors"]] == [60, 20, 8, 60]
    assert summary["predictors"][3]["tau"] >= summary["predictors"][0]["tau"] - 0.05
    regions = summary["predictors"][0]["regions"]
    assert set(regions) == {f"{half} {of}" for half in ("smaller", "larger") for of in ("size", "learning rate")}


def test_where_all_have_the_same_there_are_no_halves(climbed):
    sample = trained(climbed, 60)
    for e in sample["sample"]:
        e["learning_rate"] = 5e-3
    assert set(summarise(sample)["predictors"][0]["regions"]) == {"smaller size", "larger size"}


def test_kept_is_the_share_of_the_best_that_reached_the_last_rung(climbed):
    def kept() -> list[float | None]:
        summary = summarise(sample)
        return [summary["kept"], summary["kept_volume"]]

    sample = trained(climbed, 60)
    for e in sample["sample"]:
        e["long"], e["latency"] = (0.0, 1.0) if len(e["losses"]) == 3 else (1.0, 2.0)
    assert kept() == [1.0, 1.0]
    assert "kept 100% [68%, 100%] of 8, 100.0% of its hypervolume; of all" in " ".join(lines(summarise(sample)))
    for e in sample["sample"]:
        e["long"], e["latency"] = 1 - e["long"], 3 - e["latency"]
    assert kept() == [0.0, 0.0]
    there, stopped = ([e for e in sample["sample"] if (len(e["losses"]) == 3) is top] for top in (True, False))
    for e, (long, latency) in zip((*there, *stopped), [(0.0, 1.0)] * len(there) + [(0.5, 0.0)] + [(1.0, 2.0)] * 60):
        e["long"], e["latency"] = long, latency
    assert kept() == [pytest.approx(len(there) / (len(there) + 1)), pytest.approx(0.055 / (0.055 + 0.05))]
    assert summarise({**sample, "rungs": sample["rungs"][:1]})["kept"] is None  # nothing was stopped
    for e in sample["sample"]:
        e["latency"] = None
    assert kept() == [None, None]


@pytest.mark.parametrize("names", [("loss", "params"), ("loss",)])
def test_kept_is_of_what_the_run_traded_off(climbed, tmp_path, names):
    """A latency that was only constrained made nobody stop."""
    with Store.create(tmp_path / "run", header(names, space=climbed.header["space"])) as store:
        for record in climbed.records:
            measures = {**record.measures, "params": Measure(1000.0, 0.0, "exact")}
            store.append(climbed.genomes[record.genome_id].genome, replace(record, measures=measures))
        summary = summarise(trained(store))
    assert summary["kept"] is None and summary["genomes"] == 24


def test_too_few_say_nothing(climbed):
    sample = trained(climbed, 12)
    for e in sample["sample"][3:]:
        e["long"], e["status"] = None, "timeout"
    summary = summarise(sample)
    assert summary["genomes"] == 3 and all(row["tau"] is None for row in summary["predictors"])
    assert any("too few genomes to say" in line for line in lines(summary))


def test_tau_is_scipys_and_none_where_nothing_varies():
    rng = np.random.default_rng(0)
    x, y = rng.random(8), rng.random(8)
    pairs = [(i, j) for i in range(8) for j in range(i)]
    assert tau(x, y) == pytest.approx(np.mean([np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs]))
    assert tau(np.ones(8), y) is None


def test_the_report_shows_the_last_calibration(climbed):
    assert build_report(climbed)["calibration"] is None
    sample = trained(climbed)
    write_calibration(climbed.folder, sample)
    assert build_report(climbed)["calibration"] is None, "not finished"
    write_calibration(climbed.folder, {**sample, "summary": summarise(sample)})
    report = build_report(climbed)
    text = summary_lines(report, table_of(report))
    assert report["calibration"] == summarise(sample)
    assert any(line.startswith("Calibrated on 24 genomes trained 4 times longer") for line in text)
    for a, b in pairwise(sorted((climbed.folder).glob("calibration*"))):
        assert a == b, "no temporary file is left"
    (climbed.folder / FILE).unlink()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff", b"[" * 100_000, b'{"factor": 1e999}', b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e18}',
     b'{"a": ' + b"9" * 400 + b"}", b'{"a": -' + b"9" * 5000 + b"}", b'{"trained": [{"id": 3}]}', b'{"trained": 7}',
     b'{"summary": {"genomes": 1}}', b'{"summary": 3}'],
)  # fmt: skip
def test_a_damaged_file_is_as_good_as_none(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    assert read_calibration(tmp_path) is None


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("summary", "factor"), "4"),
        (("summary", "genomes"), None),
        (("summary", "genomes"), True),
        (("summary", "kept"), [1]),
        (("summary", "kept_of"), "1"),
        (("summary", "kept_volume"), "1"),
        (("summary", "predictors"), 3),
        (("summary", "predictors", 0, "what"), "\ud800"),
        (("summary", "predictors", 0, "what"), "x" * 10_000),
        (("summary", "predictors", 0, "tau"), "0.5"),
        (("summary", "predictors", 0, "regret"), None),
        (("summary", "predictors", 0, "high"), None),
        (("summary", "predictors", 0, "regions"), {"smaller size": "0"}),
        (("summary", "extrapolation"), {"tokens": 8192, "genomes": 6}),
        (("summary", "extrapolation", "error"), "0.1"),
        (("summary", "seed_noise", "genomes"), None),
        (("data",), ["a"]),
        (("run",), 3),
        (("done",), "3"),
        (("factor",), "4"),
        (("sample",), 3),
        (("sample", 0), "a"),
        (("summary", "seed_noise"), [1, 2]),
        (("trained", 0, "status"), "crash"),
        (("trained", 0, "long"), None),
        (("trained", 0, "factor"), {}),
        (("trained", 0, "id"), ["a"]),
    ],
)
def test_one_wrong_value_in_a_file_makes_it_as_good_as_none(climbed, tmp_path, where, value):
    data = begun(climbed, 24, done=24)  # enough for intervals
    beside = {
        "extrapolation": {"tokens": 8192, "genomes": 6, "error": 0.05},
        "seed_noise": {"genomes": 4, "loss": 0.01},
    }
    data["summary"] = {**summarise(data), **beside}
    write_calibration(tmp_path, data)
    kept = {key: data[key] for key in ("run", "factor", "trained", "data", "summary", "done")}
    assert read_calibration(tmp_path) == json.loads(json.dumps({**kept, "genomes": 24}))
    inner = data
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    write_calibration(tmp_path, data)
    assert read_calibration(tmp_path) is None


def test_a_summary_of_an_earlier_version_is_read(climbed, tmp_path):
    data = begun(climbed)
    summary = summarise(data)
    old = {k: v for k, v in summary.items() if k not in ("kept_of", "kept_volume", "extrapolation", "seed_noise")}
    write_calibration(tmp_path, {**data, "summary": old})
    found = read_calibration(tmp_path)["summary"]
    unknown = dict.fromkeys(("kept_of", "kept_volume", "extrapolation", "seed_noise"))
    assert found == json.loads(json.dumps({**old, **unknown}))
    assert f"kept {old['kept']:.0%}; of all" in " ".join(lines(found))


def test_what_a_file_holds_beside_is_not_passed_on(climbed, tmp_path):
    summary = {**summarise(trained(climbed)), "evil": "\ud800"}
    write_calibration(tmp_path, {"summary": summary, "trained": []})
    summary = summarise(trained(climbed))
    unknown = {"run": None, "factor": None, "genomes": 0, "done": EARLIER}
    held = {**unknown, "trained": [], "data": None, "summary": summary}
    assert read_calibration(tmp_path) == held


def test_what_an_earlier_version_wrote_is_read(climbed, tmp_path):
    summary = summarise(trained(climbed))
    old = {key: value for key, value in summary.items() if key not in ("extrapolation", "seed_noise")}
    write_calibration(tmp_path, {"summary": old, "trained": []})
    assert read_calibration(tmp_path)["summary"] == {**old, "extrapolation": None, "seed_noise": None}
    assert lines(read_calibration(tmp_path)["summary"]) == lines(summary)[:-1]


# -- another seed -----------------------------------------------------------------------------------------------------


def test_those_with_another_seed_are_at_the_last_rung_small_to_large(climbed):
    chosen = chosen_of(climbed, 60)
    again = choose_again(chosen, len(TOKENS), 4)
    there = sorted((c for c in chosen if len(c.losses) == 3), key=lambda c: c.params)
    assert [c.params for c in again] == sorted(c.params for c in again) and len(again) == 4 < len(there) == 8
    assert again[0].params == there[0].params and again[-1].params == there[-1].params
    assert len(choose_again(chosen, len(TOKENS), 99)) == 8 and choose_again(chosen, len(TOKENS), 0) == []
    assert choose_again(chosen, 4, 3) == [], "nobody is there"


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_the_noise_of_seeds_is_what_they_change_apart(climbed, shift):
    rng = np.random.default_rng(0)
    losses = {str(k): 2.0 + rng.normal(0, 0.5) for k in range(400)}
    again = {i: loss + shift + rng.normal(0, 0.1 * np.sqrt(2)) for i, loss in losses.items()}
    found = seed_noise(losses, {**again, "not told any more": 9.0})
    assert found["genomes"] == 400 and found["loss"] == pytest.approx(0.1, rel=0.1)
    said = lines({**summarise(trained(climbed)), "seed_noise": {**found, "loss": 0.1}})[-1]
    assert said == (
        "A loss at the last rung varies by ±0.1 nats from seed to seed (400 genomes trained with two, 95% interval "
        "0.094 to 0.11)."
    )


def test_few_with_another_seed_say_nothing_and_that_is_said(climbed):
    few = seed_noise({"a": 1.0, "b": 2.0}, {"a": 1.5, "b": 2.0})
    assert few == {"genomes": 2, "loss": None} and seed_noise({"a": 1.0}, {}) is None
    said = lines({**summarise(trained(climbed)), "seed_noise": few})[-1]
    assert said == "How much a loss varies with the seed is not known: 2 genomes trained with two, it takes 4."


def test_long_and_repeated_trainings_are_kept_apart(climbed, tmp_path):
    chosen = chosen_of(climbed, 12)
    about = begin(chosen, 4.0, TOKENS, "text", None, choose_again(chosen, 3, 3))
    assert len(about["again"]) == 3
    for e in about["again"]:
        note(about, e, "ok", 7.0, "", AS_LONG)
    write_calibration(tmp_path, about)
    after = begin(chosen, 4.0, TOKENS, "text", read_calibration(tmp_path), choose_again(chosen, 3, 3))
    assert [e["long"] for e in after["again"]] == [7.0] * 3 and waiting(after) == 12
    assert trained_long(after["trained"], 4.0, "text") == trained_long(after["trained"], AS_LONG, "other") == {}
    assert set(trained_long(after["trained"], AS_LONG, "text").values()) == {7.0}


def test_the_report_takes_it_into_the_probabilities(climbed):
    before = {m["id"]: m["probability"] for m in build_report(climbed)["front"]}
    said = {}
    for noise in (0.5, None):
        summary = {**summarise(trained(climbed)), "seed_noise": {"genomes": 8, "loss": noise}}
        write_calibration(climbed.folder, {"trained": [], "summary": summary})
        report = build_report(climbed)
        (climbed.folder / FILE).unlink()
        lost = sum(before.values()) - sum(m["probability"] for m in report["front"])
        assert lost > 0.1 if noise else lost == 0
        report["front"][0]["probability"] = 0.5
        said[noise] = " ".join(summary_lines(report, table_of(report)))
        report["objectives"] = [o for o in report["objectives"] if o["name"] != "loss"]
        assert "another seed" not in " ".join(summary_lines(report, table_of(report)))
    assert "and what another seed changes" in said[0.5] and "but not what another seed would change" in said[None]


# -- what is kept -----------------------------------------------------------------------------------------------------


def begun(store, n=8, factor=2.0, data="text", before=None, done=8):
    """A calibration whose first ``done`` genomes that still wait are trained."""
    about = begin(chosen_of(store, n), factor, TOKENS, data, before)
    for e in [e for e in about["sample"] if not e["status"]][:done]:
        note(about, e, "ok", e["losses"][0], "", factor)
    return about


def waiting(about) -> int:
    return sum(not e["status"] for e in about["sample"])


def test_every_long_training_is_kept_whatever_sample_and_factor_come_between(climbed, tmp_path):
    def again(about):
        write_calibration(tmp_path, about)
        return read_calibration(tmp_path)

    before = again(begun(climbed, 8))
    before = again(begun(climbed, 4, before=before))
    before = again(begun(climbed, 8, factor=3.0, before=before, done=2))
    same = begun(climbed, 8, before=before, done=0)
    assert waiting(same) == 0 and all(e["long"] == e["losses"][0] for e in same["sample"])
    assert waiting(begun(climbed, 8, factor=3.0, before=before, done=0)) == 6
    assert waiting(begun(climbed, 8, data="another text", before=before, done=0)) == 8


def test_the_old_summary_stands_until_there_is_a_new_one(climbed):
    about = begun(climbed)
    about["summary"] = summarise(about)
    about["done"] = 88
    after = begun(climbed, factor=3.0, before=about, done=1)
    assert after["summary"] == about["summary"] and after["done"] is None


def test_only_what_would_come_again_is_recalled(climbed):
    about = begun(climbed, done=0)
    for e, status in zip(about["sample"], ("non_finite", "error", "crash", "out_of_memory", "ok")):
        note(about, e, status, 2.0 if status == "ok" else None, f"why \x1b\nTraceback\n{'x' * 9999}", 2.0)
    assert [e["reason"] for e in about["sample"][:5]] == ["why  "] * 5
    again = begun(climbed, before=about, done=0)
    assert [e["status"] for e in again["sample"]] == ["non_finite", "", "", "", "ok", "", "", ""]


def test_within_a_stratum_it_goes_from_small_to_large_and_one_alone_is_the_middle_one(climbed):
    chosen = chosen_of(climbed, 60)
    whole = {s: [c for c in chosen if c.stratum == s] for s in {c.stratum for c in chosen}}
    for members in whole.values():
        assert [c.params for c in members] == sorted(c.params for c in members)
    few = {c.stratum: c for c in chosen_of(climbed, 4)}
    assert len(few) == 4
    for stratum in {*few} - {"front"}:  # of which those are chosen that the stopped have to beat
        assert few[stratum] == whole[stratum][(len(whole[stratum]) - 1) // 2]
    twelve = [c for c in chosen_of(climbed, 12) if c.stratum == "stopped at rung 0"]
    assert twelve[0] == whole["stopped at rung 0"][0] and twelve[-1] == whole["stopped at rung 0"][-1]


def test_a_rung_that_nobody_reached_is_not_named(climbed, tmp_path):
    with Store.create(tmp_path / "run", header(space=climbed.header["space"])) as store:
        for record in climbed.records[:80]:
            store.append(climbed.genomes[record.genome_id].genome, record)
        sample = trained(store, 30)
    assert {len(e["losses"]) for e in sample["sample"]} == {1, 2}
    assert all(e["expected"] is None for e in sample["sample"])
    summary = summarise(sample)
    assert [row["what"] for row in summary["predictors"]] == ["loss at 256 tokens", "loss at 1,024 tokens"]
    assert summary["kept"] is None and "4,096" not in " ".join(lines(summary))


def test_a_folder_that_can_not_be_written(climbed, tmp_path):
    with pytest.raises(EvonasError, match="can't be written"):
        write_calibration(tmp_path / "gone", trained(climbed))


def test_a_run_of_which_all_have_failed_later_has_nobody_to_train_longer(tmp_path):
    with Store.create(tmp_path / "run", header()) as store:
        measures = {"loss": Measure(2.0, 0.1, "1000 tokens"), "latency": Measure(1.0, 0.0, "measured", "cpu")}
        store.append(SEED, Record(SEED.id, 0, 0, "ok", measures, cost={"seconds": 1.0, "tokens": 1000.0}))
        store.append(SEED, Record(SEED.id, 1, 0, "out_of_memory"))
        assert seconds_per_token(store) == {}
        with pytest.raises(EvonasError, match="no genome with a loss"):
            choose(store, 8, 2, 50, 16)
