"""``evonas calibrate`` on a small run, and what it refuses."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal

import pytest
import torch

from evonas.errors import EvonasError
from evonas.executors.serial import SerialExecutor
from evonas.fitness import ProxyEvaluator
from evonas.record import Measure, Outcome
from evonas.search import Search
from evonas.store import Store


def test_it_trains_a_sample_longer_and_tells_how_well_the_proxy_ranks(cli, in_copy):
    done = cli("calibrate", "first", "--genomes", 5, "--factor", 2, "--workers", 2)
    assert "Calibrated on 5 genomes trained 2 times longer" in done.out and "loss at 1,024 tokens: " in done.out
    found = held(in_copy)
    assert len(found["sample"]) == 5 and all(e["status"] == "ok" and e["long"] > 0 for e in found["sample"])
    assert "Calibrated on 5 genomes" in cli("report", "first").out
    assert json.loads(cli("report", "first", "--format", "json").out)["calibration"] == found["summary"]
    again = cli("calibrate", "first", "--genomes", 5, "--factor", 2)
    assert again.out == done.out and "calibrating" not in again.err, "what is trained is not paid for again"
    more = cli("calibrate", "first", "--genomes", 6, "--factor", 2)
    assert more.err.count("calibrating: ") <= 6


def test_it_trains_that_much_longer_and_again_as_the_run_did(cli, in_tmp_path, monkeypatch, small, text_file):
    """The same numbers as of such trainings made here: in one go, of rates meant for the run's length; with another
    seed, rung by rung."""
    objectives = ("--objective", "loss", "--objective", "flops")
    cli("evolve", *small, *objectives, "--tokens", 256, "--rungs", 2, "--executor", "serial", "--run", "first")
    monkeypatch.setattr("evonas.executors.make_executor", lambda name, target, *rest: SerialExecutor(target))
    cli("calibrate", "first", "--genomes", 4, "--factor", 3, "--repeats", 2)
    store, found = Store.open("runs/first"), held(in_tmp_path)
    genomes = {e["id"]: store.genomes[e["id"]].genome for e in found["sample"]}
    assert {genome.optimizer for genome in genomes.values()} == {"adamw", "muon"} and found["rungs"] == [64, 256]

    def loss(genome_id: str, tokens: int, rungs: int, seed: int) -> float:
        evaluator = ProxyEvaluator(
            "text", str(text_file), 16, needs=("loss",), tokens=tokens, rungs=rungs, validation_tokens=8192, seed=seed,
            horizon=256, precision="float32",
        )  # fmt: skip
        return evaluator.train(genomes[genome_id], rungs - 1).measures["loss"].value

    assert all(e["long"] == loss(e["id"], 768, 1, 0) for e in found["sample"]) and len(found["sample"]) == 4
    assert all(e["long"] == loss(e["id"], 256, 2, 1) for e in found["again"]) and len(found["again"]) > 0


def test_a_run_that_is_being_searched_is_left_alone(cli, in_copy):
    with Store.open(in_copy / "runs/first", write=True):
        done = cli("calibrate", "first", "--genomes", 5, code=2)
    assert "is being searched by process" in done.err and "evonas resume" in done.err and "Traceback" not in done.err


def test_two_calibrations_of_one_run_do_not_meet(cli, in_copy):
    from evonas.store.lock import WriterLock

    lock = WriterLock(in_copy / "runs/first/calibration.lock")
    try:
        done = cli("calibrate", "first", "--genomes", 5, code=1)
        assert "the calibration of run 'first' is being written by process" in done.sentence
        done = cli("resume", "first", "--generations", 3, code=1)
        assert "the calibration of run 'first' is being written by process" in done.sentence
    finally:
        lock.close()
    cli("resume", "first", "--generations", 3, "--executor", "serial")


def test_a_signal_is_an_interruption(cli, in_copy, monkeypatch):
    monkeypatch.setattr("evonas.fitness.evaluate.rung_tokens", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert "Interrupted" in cli("calibrate", "first", code=130).err


def test_a_run_of_a_device_that_is_not_here(cli, in_copy):
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], "device": "cuda"})
    said = cli("calibrate", "first", code=2).sentence
    assert "run 'first' trains on cuda" in said and "Calibrate it on such a machine" in said
    assert "--device" not in said


def held(folder) -> dict:
    return json.loads((folder / "runs/first/calibration.json").read_text())


@pytest.fixture
def training(monkeypatch):
    """The trainings done here, in this process: (genome id, tokens); ``fails`` names what to answer instead."""
    monkeypatch.setattr("evonas.executors.make_executor", lambda name, target, *rest: SerialExecutor(target))
    return Trainings(monkeypatch)


class Trainings:
    def __init__(self, monkeypatch):
        self.done, self.fails = [], None
        monkeypatch.setattr(
            "evonas.fitness.ProxyEvaluator.train", lambda evaluator, genome, rung=0: self.one(genome, evaluator)
        )

    def one(self, genome, evaluator):
        self.done.append(genome.id)
        if self.fails is not None:
            return self.fails(len(self.done))
        return Outcome(measures={"loss": Measure(2.0 + len(self.done) / 8, 0.0, f"{evaluator.rungs[-1]} tokens")})


def test_some_are_trained_with_another_seed_and_told_as_noise(cli, in_copy):
    done = cli("calibrate", "first", "--genomes", 5, "--factor", 1.5, "--repeats", 4, "--workers", 2)
    found = held(in_copy)
    there = [e for e in found["sample"] if len(e["losses"]) == len(found["rungs"])]
    assert {e["id"] for e in found["again"]} <= {e["id"] for e in there} and len(found["again"]) == min(4, len(there))
    assert done.err.count("with another seed: ") == len(found["again"]) > 0
    for e in found["again"]:
        assert e["status"] == "ok" and 0 < abs(e["long"] - e["losses"][-1]) < 0.5, "another seed, the same length"
    assert "A loss at the last rung varies by ±" in done.out and "from seed to seed (4 genomes" in done.out
    longer = cli("calibrate", "first", "--genomes", 5, "--factor", 2, "--repeats", 4)
    assert "with another seed: " not in longer.err, "the factor is nothing to them"
    without = cli("calibrate", "first", "--genomes", 5, "--factor", 2, "--repeats", 0)
    assert without.out == longer.out, "what is known of seeds stays"


def test_the_report_tells_what_the_front_comes_to_by_then(cli, in_copy):
    done = cli("calibrate", "first", "--genomes", 8, "--factor", 1.5, "--repeats", 0, "--workers", 2)
    assert "extrapolated to 1,536 tokens: " in done.out and "tokens from the last rung and the genes" in done.out
    report = json.loads(cli("report", "first", "--format", "json").out)
    long = {e["id"]: e["long"] for e in held(in_copy)["sample"]}
    assert len(long) >= 6 and report["calibration"]["extrapolation"]["genomes"] == len(long)
    for member in (*report["front"], *report["seeds"]):
        assert member["extrapolated"]["value"] == long.get(member["id"], member["extrapolated"]["value"])
    assert "loss at 1536: " in cli("report", "first").out


def test_interrupted_in_the_repeats_what_was_found_stands(cli, in_copy, training):
    def interrupt(done):
        if done == 6:
            raise KeyboardInterrupt
        return Outcome(measures={"loss": Measure(2.0 + done)})

    training.fails = interrupt
    cli("calibrate", "first", "--genomes", 5, "--factor", 3, "--repeats", 4, code=130)
    assert "Calibrated on 5 genomes trained 3 times longer" in cli("report", "first").out


def test_nothing_is_trained_twice_whatever_was_asked_between(cli, in_copy, training):
    for genomes, factor, trained in ((6, 1.5, 6), (4, 1.5, 6), (6, 1.5, 6), (4, 3, 10), (6, 1.5, 10), (6, 3, 12)):
        cli("calibrate", "first", "--repeats", 0, "--genomes", genomes, "--factor", factor)
        assert len(training.done) == trained
    assert len(held(in_copy)["trained"]) == 12


def test_an_interrupted_one_loses_neither_what_it_trained_nor_the_last_summary(cli, in_copy, training):
    said = cli("calibrate", "first", "--repeats", 0, "--genomes", 5, "--factor", 2).out.splitlines()[0]

    def interrupt(done):
        if done == 7:
            raise KeyboardInterrupt
        return Outcome(measures={"loss": Measure(2.0)})

    training.fails = interrupt
    cli("calibrate", "first", "--repeats", 0, "--genomes", 5, "--factor", 3, code=130)
    assert said in cli("report", "first").out and held(in_copy)["factor"] == 3
    training.done.clear()
    cli("calibrate", "first", "--repeats", 0, "--genomes", 5, "--factor", 3)
    assert len(training.done) == 4
    assert "trained 3 times longer" in cli("report", "first").out


def test_at_the_budgets_end_what_is_done_is_kept(cli, in_copy, training, monkeypatch, when):
    over = when(lambda: len(training.done) >= 2)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("evonas.cli.calibrate"), "end_of", lambda *_: over)
        done = cli("calibrate", "first", "--genomes", 6, "--repeats", 0, "--budget", "1h")
    assert len(training.done) == 2 and "4 are still to be trained; go on with: evonas calibrate first" in done.err
    cli("calibrate", "first", "--genomes", 6, "--repeats", 0)
    assert len(training.done) == 6


def test_a_failure_is_tried_again_a_divergence_is_not(cli, in_copy, training):
    outcomes = {2: Outcome("non_finite", reason="loss is nan at step 3\nmore"), 3: Outcome("error", reason="disk\nx")}
    training.fails = lambda done: outcomes.get(done, Outcome(measures={"loss": Measure(2.0 + done)}))
    done = cli("calibrate", "first", "--repeats", 0, "--genomes", 6, "--factor", 2)
    failed = [e for e in held(in_copy)["sample"] if e["status"] != "ok"]
    assert sorted((e["status"], e["reason"]) for e in failed) == [
        ("error", "disk"), ("non_finite", "loss is nan at step 3"),
    ]  # fmt: skip
    assert f"2 failed; the first: {failed[0]['id']}: " in done.err
    again = cli("calibrate", "first", "--repeats", 0, "--genomes", 6, "--factor", 2)
    assert len(training.done) == 7 and "on 5 genomes" in again.out and "1 failed" in again.err


def test_where_nothing_could_be_trained_the_first_reason_is_told(cli, in_copy, training):
    training.fails = lambda done: Outcome("error", reason="the disk is full\nTraceback")
    done = cli("calibrate", "first", "--repeats", 0, "--genomes", 4, code=1)
    assert "could be trained to the end; the first: " in done.sentence and "error: the disk is full" in done.sentence
    assert "Mend the cause" in done.sentence and "budget" not in done.sentence
    training.fails = lambda done: Outcome("non_finite", reason="loss is nan")
    for _ in range(2):  # the second time nothing waits
        assert "non_finite: loss is nan" in cli("calibrate", "first", "--repeats", 0, "--genomes", 4, code=1).sentence
    assert len(training.done) == 8


def test_other_data_of_that_name_is_refused(cli, in_copy, training):
    with Store.open("runs/first", write=True) as store:
        store.set_header(notes={**store.header["notes"], "data": "1 bytes, sha256 0"})
    done = cli("calibrate", "first", "--repeats", 0, "--genomes", 4, code=2)
    assert "is not what run 'first' began with: 1 bytes" in done.sentence and "Put the old file back" in done.sentence
    assert not training.done and not (in_copy / "runs/first/calibration.json").exists()


def test_a_hostile_file_breaks_neither_the_report_nor_the_next_calibration(cli, in_copy, training):
    path = in_copy / "runs/first/calibration.json"
    for content in ('{"summary": {"factor": NaN}}', f'{{"trained": [{"9" * 400}]}}', '{"summary": []}'):
        path.write_text(content)
        assert "Calibrated" not in cli("report", "first").out
        assert json.loads(cli("report", "first", "--format", "json").out)["calibration"] is None
    assert "Calibrated on 4" in cli("calibrate", "first", "--repeats", 0, "--genomes", 4).out


def test_a_run_that_takes_the_place_of_another_has_nothing_of_its_calibration(cli, in_copy, training, small):
    cli("calibrate", "first", "--genomes", 4)
    folder = in_copy / "runs/first"
    (folder / "population.h5").rename(in_copy / "mine.h5")
    (folder / "front.png").write_bytes(b"old")
    held = (folder / "calibration.json").read_text()
    cli("evolve", *small, "--run", "first", "--executor", "serial")
    assert "Calibrated" not in cli("report", "first").out and not (folder / "calibration.json").exists()
    assert (folder / "front.png").read_bytes() != b"old"
    (folder / "calibration.json").write_text(held.replace('"run": "', '"run": "another, not '))  # copied there
    assert "Calibrated" not in cli("report", "first").out
    training.done.clear()
    cli("calibrate", "first", "--genomes", 4, "--repeats", 0)
    assert len(training.done) == 4 and "Calibrated on 4" in cli("report", "first").out


def test_of_two_runs_in_one_folder_each_has_its_own(cli, in_copy, training):
    for name in ("day", "night"):
        shutil.copy(in_copy / "runs/first/population.h5", in_copy / f"{name}.h5")
    cli("calibrate", "night.h5", "--genomes", 4)
    assert "Calibrated on 4" in cli("report", "night.h5").out and "Calibrated" not in cli("report", "day.h5").out
    cli("calibrate", "day.h5", "--genomes", 5)
    assert "Calibrated on 4" in cli("report", "night.h5").out and "Calibrated on 5" in cli("report", "day.h5").out


# -- as a share of a search ------------------------------------------------------------------------------------------


@pytest.fixture
def evolve(cli, in_tmp_path, small):
    return lambda *options, code=0: cli("evolve", *small, "--run", "run", "--executor", "serial", *options, code=code)


@pytest.mark.parametrize(("pace", "longest"), [(0.0, None), (1e-6, 900.0), (1.0, 50.0 * 2 * 1024)])
def test_a_training_that_hangs_is_not_waited_for_without_end(cli, in_copy, training, monkeypatch, pace, longest):
    from evonas.executors import SerialExecutor

    real, given = SerialExecutor.map, []

    def mapped(self, calls, timeout=None, deadline=None):
        given.append(timeout)
        return real(self, calls, timeout, deadline)

    monkeypatch.setattr(SerialExecutor, "map", mapped)
    monkeypatch.setattr("evonas.report.sample.seconds_per_token", lambda store: dict.fromkeys(store.genomes, pace))
    cli("calibrate", "first", "--genomes", 4, "--factor", 2, "--repeats", 0)
    assert given == [None if longest is None else pytest.approx(longest)]  # a pace of 0: all of it was taken over


def test_a_search_spends_a_share_of_its_time_on_it(evolve, in_tmp_path, training, monkeypatch):
    monkeypatch.setattr("evonas.cli.calibrating._START_SECONDS", 0.0)
    monkeypatch.setattr("evonas.report.sample.seconds_per_token", lambda store: dict.fromkeys(store.genomes, 0.0))
    done = evolve("--calibrate", "10%")
    assert "Calibrated on " in done.out and "Not calibrated" not in done.err
    calibration = json.loads((in_tmp_path / "runs/run/calibration.json").read_text())
    assert calibration["factor"] == 4 and calibration["summary"]["genomes"] >= 4


def test_trainings_with_another_seed_are_counted_in_what_it_takes(monkeypatch, in_copy, capsys):
    from evonas.cli import calibrating
    from evonas.config import Settings

    monkeypatch.setattr(calibrating, "_SAMPLES", (4,))
    store = Store.open("runs/first")
    settings = Settings.from_dict(store.header["settings"])
    monkeypatch.setattr("evonas.report.sample.seconds_per_token", lambda _: dict.fromkeys(store.genomes, 1.0))
    # Two workers: 4 x 4 trainings' worth, and 4 with another seed, of 1,024 s each; each lot with its start.
    needed = 2 * 5.0 + 1.2 * (4 * 4 + 4) * 1024 / 2
    for seconds, found in ((needed - 1, 0), (needed + 1, 4)):
        assert calibrating.sample_within(store, settings, seconds, 2) == found


def test_a_calibration_that_was_begun_is_gone_on_with_in_what_time_there_is(cli, in_copy):
    """What it has trained is paid for: another sample would leave most of it out."""
    from evonas.cli import calibrating
    from evonas.config import Settings

    cli("calibrate", "first", "--genomes", 6, "--factor", 4, "--repeats", 0)
    path = in_copy / "runs/first/calibration.json"
    about = json.loads(path.read_text())
    store = Store.open("runs/first")
    settings = Settings.from_dict(store.header["settings"])
    assert calibrating.sample_within(store, settings, 0.0, 2) == 0  # it is done
    path.write_text(json.dumps({**about, "done": None}))
    assert calibrating.sample_within(store, settings, 0.0, 2) == 6
    untrained = [{**e, "long": None, "status": ""} for e in about["sample"]]
    for other in ({"sample": untrained}, {"factor": 20}):
        path.write_text(json.dumps({**about, "done": None, **other}))
        assert calibrating.sample_within(store, settings, 0.0, 2) == 0


def test_too_short_a_share_is_told_and_the_search_stands(evolve, in_tmp_path):
    done = evolve("--calibrate", "0.001%")
    assert "Not calibrated: to train 4 genomes 4 times longer takes some " in done.err
    assert "evonas calibrate run" in done.err and "2 generations" in done.out
    assert not (in_tmp_path / "runs/run/calibration.json").exists()


def test_what_was_kept_for_a_calibration_that_is_too_short_goes_to_the_search(evolve, monkeypatch):
    searched = []
    run = Search.run

    def counting(self, generations, deadline, **options):
        searched.append(deadline)
        return run(self, generations, deadline, **options)

    monkeypatch.setattr(Search, "run", counting)
    monkeypatch.setattr("evonas.cli.options.CLOSING_SECONDS", 0.5)
    monkeypatch.setattr("evonas.report.sample.seconds_per_token", lambda store: dict.fromkeys(store.genomes, 1.0))
    nothing_timed = "--objective", "loss", "--objective", "flops"
    done = evolve("--calibrate", "50%", "--budget", "8s", "--generations", 10**6, *nothing_timed)
    assert "Not calibrated" in done.err and "The time budget is spent." in done.out
    assert len(searched) == 2 and searched[1] - searched[0] > 2.5
    store = Store.open("runs/run")
    rows = store.generations
    assert [(g["generation"], g["rng"]["next_generation"]) for g in rows] == [(k, k + 1) for k in range(len(rows))]
    assert sum(r.generation < len(rows) for r in store.records if not r.revised) == 4 * len(rows)


def test_a_calibration_that_fails_takes_nothing_of_the_search(evolve, training, monkeypatch):
    def fails(*_):
        raise EvonasError("no genome of the sample could be trained", "Give it a smaller --factor.", exit_code=1)

    monkeypatch.setattr("evonas.cli.calibrating.sample_within", lambda *_: 4)
    monkeypatch.setattr("evonas.cli.calibrating.calibrate_within", fails)
    done = evolve("--calibrate", "5%", code=1)
    assert "2 generations" in done.out and "Next:" in done.out
    assert "the search is done; its calibration failed: no genome of the sample" in done.sentence
    assert "evonas calibrate run" in done.sentence and "--factor" not in done.err


def test_one_that_can_not_be_sized_takes_nothing_either(evolve, monkeypatch):
    def fails(*_):
        raise EvonasError("--data: no such file: gone.txt")

    monkeypatch.setattr("evonas.cli.calibrating.sample_within", fails)
    done = evolve("--calibrate", "5%")
    assert "Not calibrated: --data: no such file: gone.txt" in done.err and "Next:" in done.out


def test_interrupted_in_it_the_search_is_done(evolve, training, monkeypatch):
    monkeypatch.setattr("evonas.cli.calibrating.sample_within", lambda *_: 24)
    monkeypatch.setattr("evonas.cli.calibrating.calibrate_within", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    done = evolve("--calibrate", "5%", code=130)
    assert "the search is done. Go on with: evonas calibrate run --genomes 24" in done.err


def test_what_it_has_no_time_for_goes_on_with_the_same_sample(in_copy, training, capsys, monkeypatch, when):
    from evonas.cli import calibrating
    from evonas.config import Settings

    store = Store.open("runs/first")
    over = when(lambda: len(training.done) >= 2)
    real = SerialExecutor.map
    monkeypatch.setattr(SerialExecutor, "map", lambda self, calls, timeout, _: real(self, calls, timeout, over))
    settings = Settings.from_dict(store.header["settings"])
    calibrating.calibrate_within(store, settings, 6, 3600.0, 1, lambda: None)
    said = capsys.readouterr().err
    assert "are still to be trained; go on with: evonas calibrate first --genomes 6" in said


def test_the_share_comes_out_of_the_budget():
    from evonas.cli.options import CLOSING_SECONDS
    from evonas.cli.running import _search_end

    assert _search_end(None, 100.0, 0.05) is None
    assert _search_end(1100.0, 100.0, 0.0) == 1100.0 - CLOSING_SECONDS
    assert _search_end(1100.0, 100.0, 0.05) == pytest.approx(1050.0 - CLOSING_SECONDS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--factor", "1"), "factor"),
        (("--factor", "nan"), "factor"),
        (("--factor", "inf"), "factor"),
        (("--genomes", "3"), "genomes"),
        (("--budget", "soon"), "duration 'soon'"),
        (("--budget", "1s"), "too little"),
        (("--workers", "0"), "0 workers"),
        (("--workers", "5000"), "5000 workers"),
    ],
)
def test_what_it_refuses(cli, in_copy, options, said):
    assert said in cli("calibrate", "first", *options, code=2).err.lower()
    assert not (in_copy / "runs/first/calibration.json").exists()


def test_a_run_that_is_not_there(cli, in_tmp_path):
    assert "nothing" in cli("calibrate", "nothing", code=2).sentence
