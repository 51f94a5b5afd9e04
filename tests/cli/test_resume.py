"""``evonas resume``: the newest run, a finished one, and one that was interrupted by a signal."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from evonas.cli.running import interrupts
from evonas.config import MAX_GENERATIONS
from evonas.errors import EvonasError
from evonas.search import Settled
from evonas.store import ENDED, UNSETTLED, Store, note_end

from .conftest import PYTHON_M, evaluations

PATIENCE = 120.0  # seconds; a hang fails by it


def test_a_finished_run_says_how_to_extend_it(cli, in_copy):
    done = cli("resume", "first", code=2)
    assert "run 'first' has done its 2 generations" in done.sentence
    assert "evonas resume first --generations 32" in done.sentence


@pytest.mark.parametrize("generations", [0, -1])
def test_no_generations_are_refused(cli, in_copy, generations):
    done = cli("resume", "first", "--generations", generations, code=2)
    assert f"generations is {generations}" in done.sentence


def test_no_workers_are_refused(cli, in_copy):
    done = cli("resume", "first", "--generations", 3, "--workers", 0, code=2)
    assert "0 workers" in done.sentence and len(evaluations(Store.open("runs/first"))) == 8


def test_it_takes_the_newest_run_and_extends_it(cli, in_copy):
    before = Store.open("runs/first")
    done = cli("resume", "--generations", 3, "--executor", "serial")
    store = Store.open("runs/first")
    assert "generation 3/3" in done.err and "3 generations, 4 evaluations of this sitting in" in done.out
    assert store.records[: len(before.records)] == before.records and len(evaluations(store)) == 12
    assert [g["generation"] for g in store.generations] == [0, 1, 2]
    assert store.generations[:2] == before.generations
    latencies = {}  # a near-tie of the first sitting may have been measured more often by its end, and counts as that
    for record in evaluations(store):
        key = store.genomes[record.genome_id].genome.architecture_id, record.times_measured
        latencies.setdefault(key, set()).add(record.value("latency"))
    assert all(len(values) == 1 for values in latencies.values()), "measured once per architecture"


def test_a_clock_that_was_set_back_since(cli, in_copy):
    """Its files, and what it says of itself, are of the future."""
    later = time.time() + 400 * 86400
    with Store.open("runs/first", write=True) as store:
        before = store.seconds
        store.set_header(created="2099-01-01T00:00:00+00:00")
    for path in Path("runs/first").iterdir():
        os.utime(path, (later, later))
    assert "3 generations, 4 evaluations" in cli("resume", "--generations", 3, "--executor", "serial").out
    store = Store.open("runs/first")
    assert store.finished == sorted(store.finished) and store.seconds >= max(store.finished) >= before
    assert "run first" in cli("report").out


def test_a_machine_without_bfloat16_is_told_of(cli, in_copy, monkeypatch):
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], "precision": "bfloat16"})
    for has in (False, True):
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda has=has: has)
        done = cli("resume", "--generations", 3 + has, "--executor", "serial")
        assert ("for which this CPU has no units" in done.err) == (not has)


def test_a_budget_takes_it_on_without_a_goal(cli, in_copy, an_hour):
    an_hour(4)
    done = cli("resume", "first", "--budget", "1h", "--executor", "serial")
    assert "The time budget is spent." in done.out and len(evaluations(Store.open("runs/first"))) > 8
    assert f"generations {len(Store.open('runs/first').generations)}, " in done.out, "of no number"
    asked = json.loads(cli("report", "first", "--format", "json").out)["status_of_run"]["generations_asked"]
    assert asked is None
    done = cli("resume", "first", code=2)
    assert "has spent its budget" in done.sentence
    assert "--generations" in done.sentence and "--budget" in done.sentence
    with Store.open("runs/first", write=True) as store:  # as a run was before its budget was kept
        note_end(store, None)
        store.set_header(settings={k: v for k, v in store.header["settings"].items() if k != "budget"})
    done = cli("resume", "first", code=2)
    assert "had a time budget and no other end" in done.sentence
    assert "--generations" in done.sentence and "--budget" in done.sentence


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C as soon as the search runs."""

    def run(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("evonas.search.Search.run", run)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--generations 9", "evonas resume first"),
        ("--generations 9 --workers 2 --executor processes", "evonas resume first --workers 2 --executor processes"),
        ("--generations 9 --budget 1h", "evonas resume first"),
        ("--generations 9 --patience 30", "evonas resume first"),
        ("--budget 1h --executor serial", "evonas resume first --executor serial"),
    ],
)
def test_an_interrupted_extension_goes_on_with_what_it_printed(cli, in_copy, interrupted, monkeypatch, options, says):
    done = cli("resume", "first", *options.split(), code=130)
    command = done.err.split("Go on with: ")[1].strip()
    assert re.fullmatch(says, command)
    goal = Store.open("runs/first").header["settings"]["generations"]
    assert goal == (9 if "--generations" in options else MAX_GENERATIONS), "it is on the disk at once"
    asked = []

    def run(self, generations, deadline, patience, began):
        asked.append((generations, None if deadline is None else deadline - time.monotonic(), patience))
        return "generations"

    monkeypatch.setattr("evonas.search.Search.run", run)
    cli(*command.split()[1:])
    ((generations, left, patience),) = asked
    assert (generations, patience) == (goal, 30 if "--patience" in options else None)
    assert (left is not None) == ("--budget" in options) and (left is None or 3500 < left < 3600)


def test_a_budget_counts_the_time_after_the_last_evaluation(cli, in_copy, monkeypatch):
    """A sitting that is interrupted in its first training has taken its time too."""

    def run(*_, **__):
        time.sleep(2)
        raise KeyboardInterrupt

    monkeypatch.setattr("evonas.search.Search.run", run)
    before = Store.open("runs/first").seconds
    for sitting in (1, 2):
        cli("resume", "first", *(("--budget", "10m") if sitting == 1 else ()), "--executor", "serial", code=130)
        assert Store.open("runs/first").seconds >= before + 2 * sitting


@pytest.mark.parametrize(("spent", "least", "most"), [(10.0, 540, 590), (560.0, 50, 60)])
def test_a_killed_run_goes_on_with_what_is_left_of_its_budget(cli, in_copy, monkeypatch, spent, least, most):
    with Store.open("runs/first", write=True) as store:
        about = {"budget": 600.0, "patience": 7, "calibrate": 0.0, "generations": 50}
        store.set_header(settings={**store.header["settings"], **about})
    monkeypatch.setattr(Store, "seconds", spent)
    asked = []

    def run(self, generations, deadline, patience, began):
        asked.append((generations, deadline - time.monotonic(), patience, time.monotonic() - began))
        return "generations"

    monkeypatch.setattr("evonas.search.Search.run", run)
    cli("resume", "first", "--executor", "serial")
    ((generations, left, patience, gone),) = asked
    assert (generations, patience) == (50, 7) and least < left < most, "a minute at least"
    assert spent <= gone < spent + 600 - left, "of the whole budget"


def test_another_end_is_that_alone(cli, in_copy, monkeypatch):
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], "budget": store.seconds + 600, "patience": 7})
    monkeypatch.setattr("evonas.search.Search.run", lambda *_, **__: "generations")

    def end(*options):
        cli("resume", "first", *options)
        settings = Store.open("runs/first").header["settings"]
        return tuple(settings[name] for name in ("generations", "budget", "patience", "calibrate"))

    assert end("--generations", 60, "--patience", 9) == (60, None, 9, 0)
    about = pytest.approx(1200, abs=60)
    assert end("--budget", "20m", "--calibrate", "5%") == (MAX_GENERATIONS, about, None, 0.05)
    assert end("--patience", 8) == (MAX_GENERATIONS, about, 8, 0.05), "no other end"
    assert end("--generations", 70, "--budget", "10m") == (70, pytest.approx(600, abs=60), None, 0)


def test_interrupted_after_its_search_a_run_is_done(cli, in_copy, monkeypatch):
    monkeypatch.setattr("evonas.search.Search.settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    cli("resume", "first", "--generations", 3, "--executor", "serial", code=130)
    assert "has done its 3 generations" in cli("resume", "first", code=2).sentence
    assert Store.open("runs/first").header["notes"][ENDED] == "generations"
    monkeypatch.setattr("evonas.search.Search._evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    done = cli("resume", "first", "--generations", 4, "--executor", "serial", code=130)
    assert "evonas resume first" in done.err and ENDED not in Store.open("runs/first").header["notes"]


@pytest.mark.parametrize("why", ["generations", "budget", "patience", "exhausted"])
def test_killed_after_its_search_a_run_gets_what_follows_it(cli, in_copy, monkeypatch, why):
    with Store.open("runs/first", write=True) as store:
        about = {"budget": store.seconds, "patience": 7, "generations": 2 if why == "generations" else 50}
        store.set_header(settings={**store.header["settings"], **about})
        note_end(store, why, unsettled=True)
    asked = []
    monkeypatch.setattr("evonas.search.Search.run", lambda *_, **__: asked.append("a search"))
    monkeypatch.setattr("evonas.search.Search.settle", lambda *_: asked.append("settling") or Settled(0, 0, 0))
    done = cli("resume", "first", "--executor", "serial")
    assert asked == ["settling"] and "The search of run 'first' was done" in done.err and "Next:" in done.out
    notes = Store.open("runs/first").header["notes"]
    assert UNSETTLED not in notes and notes[ENDED] == why
    assert Store.open("runs/first").header["settings"]["generations"] == about["generations"]
    cli("resume", "first", "--executor", "serial", code=2)
    assert asked == ["settling"]


def test_killed_before_its_calibration_a_run_gets_that_too(cli, in_copy, monkeypatch):
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], "calibrate": 0.9})
        note_end(store, "generations", unsettled=True)
    asked = []

    def calibrate(store, settings, sample, *_):
        asked.append((sample, UNSETTLED in store.header["notes"]))

    monkeypatch.setattr("evonas.cli.running._sample", lambda *_: 4)
    monkeypatch.setattr("evonas.cli.running._calibrate", calibrate)
    cli("resume", "first", "--executor", "serial")
    assert asked == [(4, True)], "killed now it would be done again"
    assert UNSETTLED not in Store.open("runs/first").header["notes"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_an_interrupt_that_was_lost_ends_a_searchs_calibration_too(cli, in_copy, monkeypatch):
    def calibrated(*args):
        with contextlib.suppress(KeyboardInterrupt):  # as a finaliser does
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        args[-1]()

    monkeypatch.setattr("evonas.cli.running._sample", lambda *_: 4)
    monkeypatch.setattr("evonas.cli.calibrating.calibrated", calibrated)
    done = cli("resume", "first", "--generations", 3, "--calibrate", "50%", "--executor", "serial", code=130)
    assert "Interrupted; the search is done. Go on with: evonas calibrate first" in done.err


def test_what_was_calibrated_by_hand_is_not_again(cli, in_copy, monkeypatch):
    cli("calibrate", "first", "--genomes", 4, "--factor", 1.5, "--repeats", 0)
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], "calibrate": 0.9})
        note_end(store, "generations", unsettled=True)
    asked = []
    monkeypatch.setattr("evonas.cli.running._sample", lambda *_: asked.append("a sample") or 0)
    assert "Next:" in cli("resume", "first", "--executor", "serial").out
    assert not asked


@pytest.mark.parametrize("done", [None, 3])
def test_a_calibration_that_was_killed_or_is_of_before_is_done_again(cli, in_copy, monkeypatch, done):
    cli("calibrate", "first", "--genomes", 4, "--factor", 4, "--repeats", 0)
    path = in_copy / "runs/first/calibration.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "done": done}))
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], "calibrate": 0.9})
        note_end(store, "generations", unsettled=True)
    asked = []
    monkeypatch.setattr("evonas.cli.running._sample", lambda *_: asked.append("a sample") or 0)
    cli("resume", "first", "--executor", "serial")
    assert asked == ["a sample"]
    again = "evonas calibrate first --genomes 4" if done is None else "evonas calibrate first"
    assert cli("resume", "first", code=2).sentence.endswith(f"; calibrate it: {again}")
    of_an_earlier_version = {key: value for key, value in about.items() if key != "done"}
    for found in (about, of_an_earlier_version):
        path.write_text(json.dumps(found))
        assert "calibrate it" not in cli("resume", "first", code=2).sentence


def test_killed_before_it_noted_its_end_a_run_gets_what_follows_it(cli, in_copy, monkeypatch):
    with Store.open("runs/first", write=True) as store:
        note_end(store, None)
    asked = []
    monkeypatch.setattr("evonas.search.Search._evaluate", lambda *_: asked.append("a search"))
    monkeypatch.setattr("evonas.search.Search.settle", lambda *_: asked.append("settling") or Settled(0, 0, 0))
    done = cli("resume", "first", "--executor", "serial")
    assert asked == ["settling"] and "Next:" in done.out
    notes = Store.open("runs/first").header["notes"]
    assert notes[ENDED] == "generations" and UNSETTLED not in notes
    cli("resume", "first", "--executor", "serial", code=2)


def test_a_run_in_which_all_has_failed_is_no_success_when_resumed(cli, in_copy):
    with Store.open("runs/first") as store:
        header, genomes = store.header, store.genomes
    settings = {**header["settings"], "generations": 1}
    with Store.create(
        "runs/bad", {**header, "settings": settings, "reference": None, "notes": header["notes"]}
    ) as store:
        failed = [r for r in Store.open("runs/first").records if r.generation == 0]
        for record in failed:
            entry = genomes[record.genome_id]
            store.append(entry.genome, dataclasses.replace(record, status="non_finite", measures={}, reason="nan"))
        store.commit({"generation": 0, "rng": {"seed": 0, "next_generation": 1}}, [])
        note_end(store, None)
    done = cli("resume", "bad", "--executor", "serial", code=1)
    assert "none of " in done.sentence and "has succeeded" in done.sentence


def test_what_a_calibration_takes_counts_however_it_ends(cli, in_copy, monkeypatch):
    noted = []

    def note_time() -> None:
        noted.append(Store.open("runs/first").seconds)

    def calibrate(store, *args):
        note_time()
        store._opened_at -= 100  # so long it takes
        args[-1]()  # as after a training
        note_time()  # this is what a kill would leave
        store._opened_at -= 100

    monkeypatch.setattr("evonas.cli.running._sample", lambda *_: 4)
    monkeypatch.setattr("evonas.cli.running._calibrate", calibrate)
    cli("resume", "first", "--generations", 3, "--calibrate", "50%", "--executor", "serial")
    note_time()
    assert [b - a for a, b in pairwise(noted)] == [pytest.approx(100, abs=20)] * 2


def test_a_calibration_that_fails_is_not_tried_for_ever(cli, in_copy, monkeypatch):
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], "calibrate": 0.9})
        note_end(store, "generations", unsettled=True)

    def calibrate(*_):
        raise EvonasError("no genome could be trained", exit_code=1)

    monkeypatch.setattr("evonas.cli.running._sample", lambda *_: 4)
    monkeypatch.setattr("evonas.cli.running._calibrate", calibrate)
    cli("resume", "first", "--executor", "serial", code=1)
    assert "has done its 2 generations" in cli("resume", "first", "--executor", "serial", code=2).sentence


def test_an_unsettled_search_may_be_taken_further_all_the_same(cli, in_copy):
    with Store.open("runs/first", write=True) as store:
        note_end(store, "generations", unsettled=True)
    done = cli("resume", "first", "--generations", 3, "--executor", "serial")
    assert "3 generations, " in done.out and "was done" not in done.err
    assert UNSETTLED not in Store.open("runs/first").header["notes"]


@pytest.mark.parametrize(
    "notes", [{"unsettled": True}, {"ended": "made up", "unsettled": True}, {"ended": "generations", "unsettled": 1}]
)
def test_notes_that_say_nothing_sound_are_passed_over(cli, in_copy, notes):
    with Store.open("runs/first", write=True) as store:
        store.set_header(
            notes={**store.header["notes"], "ended": "generations", **notes} if "ended" in notes else notes
        )
    assert "has done its 2 generations" in cli("resume", "first", "--executor", "serial", code=2).sentence


def test_time_that_is_too_short_for_more_leaves_what_there_is(cli, in_copy, monkeypatch):
    with Store.open("runs/first", write=True) as store:
        about = {"budget": store.seconds + 1, "generations": 50}
        store.set_header(settings={**store.header["settings"], **about})
    monkeypatch.setattr("evonas.search.Search.run", lambda *_, **__: "budget")
    done = cli("resume", "first", "--executor", "serial")
    assert "The time budget is spent." in done.out and "Next:" in done.out
    assert Store.open("runs/first").header["settings"]["budget"] == about["budget"], "it is not moved"


def test_a_calibration_gets_its_share_of_all_sittings(cli, in_copy, monkeypatch):
    with Store.open("runs/first", write=True) as store:
        about = {"budget": 1600.0, "calibrate": 0.1, "generations": 50}
        store.set_header(settings={**store.header["settings"], **about})
    monkeypatch.setattr(Store, "seconds", 1000.0)
    monkeypatch.setattr("evonas.cli.running._sample", lambda *_: 0)
    asked = []

    def run(self, generations, deadline, patience, began):
        asked.append(deadline - time.monotonic())
        return "generations"

    monkeypatch.setattr("evonas.search.Search.run", run)
    cli("resume", "first", "--executor", "serial")
    assert asked == [pytest.approx((600 - 3 - 160) - 20, abs=15)]


def test_of_the_sittings_since_it_was_told_how_far_to_go(cli, in_copy, monkeypatch):
    """A run that took ten hours, and is given ten minutes more, is not calibrated for half an hour."""
    monkeypatch.setattr("evonas.cli.running._sample", lambda *_: 0)
    asked = []

    def run(self, generations, deadline, patience, began):
        asked.append(deadline - time.monotonic())
        raise KeyboardInterrupt

    monkeypatch.setattr("evonas.search.Search.run", run)
    for seconds, options in ((36000.0, ("--budget", "10m", "--calibrate", "10%")), (36060.0, ())):
        monkeypatch.setattr(Store, "seconds", seconds)
        cli("resume", "first", *options, "--executor", "serial", code=130)
    assert asked == [pytest.approx((600 - 3 - 60) - 20, abs=15), pytest.approx((540 - 3 - 60) - 20, abs=15)]


def test_a_run_of_very_many_generations_needs_no_other_end(cli, in_copy, monkeypatch):
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], "generations": MAX_GENERATIONS})
        note_end(store, None)
    monkeypatch.setattr("evonas.search.Search.run", lambda *_, **__: "generations")
    assert "Next:" in cli("resume", "first", "--executor", "serial").out


def test_another_end_counts_before_the_search_goes_on(cli, in_copy, monkeypatch):
    with Store.open("runs/first", write=True) as store:
        note_end(store, "patience")
    monkeypatch.setattr("evonas.search.Search._restore", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    cli("resume", "first", "--generations", 9, code=130)
    assert "Go on with: evonas resume first" in cli("resume", "first", code=130).err
    assert Store.open("runs/first").header["settings"]["generations"] == 9


def test_interrupted_while_a_calibration_is_sized_it_ends_with_what_it_has(cli, in_copy, monkeypatch):
    monkeypatch.setattr("evonas.cli.running._sample", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    done = cli("resume", "first", "--generations", 3, "--calibrate", "5%", "--executor", "serial", code=130)
    assert "the search was done" in done.err and "evonas calibrate first" in done.err and "Next:" in done.out


@pytest.mark.parametrize(
    ("why", "options", "says"),
    [
        ("budget", (), "has spent its budget"),
        ("budget", ("--patience", 9), "has spent its budget"),
        ("patience", (), "its hypervolume had ceased to grow"),
        ("exhausted", (), "has seen every genome"),
        ("patience", ("--patience", 9), None),
        ("patience", ("--generations", 60), None),
        (["made", "up"], (), None),
    ],
)
def test_a_run_that_has_ended_says_why(cli, in_copy, monkeypatch, why, options, says):
    with Store.open("runs/first", write=True) as store:
        about = {"budget": store.seconds + 100, "patience": 7, "calibrate": 0.1, "generations": 50}
        store.set_header(settings={**store.header["settings"], **about})
        note_end(store, why)
    monkeypatch.setattr("evonas.search.Search.run", lambda *_, **__: "generations")
    done = cli("resume", "first", *options, "--executor", "serial", code=2 if says else 0)
    if says:
        assert says in done.sentence and "evonas calibrate first" in done.sentence, "which is due"
        about = {"summary": {"genomes": 4}, "done": Store.open("runs/first").evaluated}
        monkeypatch.setattr("evonas.report.calibration_file.read_calibration", lambda _: about)
        assert "evonas calibrate" not in cli("resume", "first", *options, code=2).sentence


def test_a_longer_timeout_can_be_given(cli, in_copy, interrupted):
    cli("resume", "first", "--generations", 9, "--timeout", "2h", code=130)
    assert Store.open("runs/first").header["settings"]["timeout"] == 7200
    assert "'2'" in cli("resume", "first", "--timeout", "2", code=2).sentence


@pytest.mark.parametrize("budget", ["1s", "5s"])
def test_a_budget_too_short_for_anything_is_refused(cli, in_copy, budget):
    done = cli("resume", "first", "--budget", budget, code=2)
    assert f"--budget {budget} is too little" in done.sentence and "--budget 1m" in done.sentence


def with_settings(run: str, **changes) -> None:
    with Store.open(run, write=True) as store:
        store.set_header(settings={**store.header["settings"], **changes})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_of_a_device_that_is_not_here(cli, in_copy):
    with_settings("first", device="cuda")
    done = cli("resume", "first", "--generations", 3, code=2)
    assert "run 'first' measures on cuda: no CUDA device" in done.sentence
    assert "evonas evolve --seed-genome first:ID" in done.sentence and len(evaluations(Store.open("runs/first"))) == 8


def test_a_run_of_another_kind_of_file_is_only_read(cli, in_copy):
    (in_copy / "runs" / "first" / "population.h5").rename(in_copy / "copy.h5")
    assert "copy.h5 is not the folder of a run" in cli("resume", "copy.h5", code=2).sentence


@pytest.fixture
def own_data(cli, in_tmp_path, small, text_file):
    """A finished run ``own`` on a text that may be changed."""
    (in_tmp_path / "own.txt").write_bytes(text_file.read_bytes())
    cli("evolve", *small, "--data", "own.txt", "--generations", 1, "--objective", "loss", "--run", "own",
        "--executor", "serial")  # fmt: skip
    return in_tmp_path / "own.txt"


def test_data_that_has_moved_is_found_where_it_is_said_to_be(cli, own_data):
    moved = own_data.rename(own_data.with_name("moved.txt"))
    said = cli("resume", "own", "--generations", 3, "--executor", "serial", code=2).sentence
    assert "no such file" in said and "--data PATH says where to" in said
    cli("resume", "own", "--generations", 3, "--executor", "serial", "--data", moved)
    assert Store.open("runs/own").header["settings"]["data"] == str(moved)
    other = moved.with_name("other.txt")
    other.write_text(moved.read_text().upper())
    assert "is not what run" in cli("resume", "own", "--generations", 4, "--data", other, code=2).sentence
    cli("calibrate", "own", "--genomes", 4, "--repeats", 0, "--data", moved)


def test_what_is_refused_has_told_the_run_nothing(cli, own_data):
    before = Store.open("runs/own").header
    other = own_data.with_name("other.txt")
    other.write_text("too short")
    cli("resume", "own", "--generations", 4, "--executor", "serial", "--data", other, code=2)
    assert Store.open("runs/own").header == before


def test_other_data_of_that_name_is_refused(cli, own_data):
    text = own_data.read_bytes()
    own_data.write_bytes(text[:-1] + b"!")
    done = cli("resume", "own", "--generations", 2, "--executor", "serial", code=2)
    assert "own.txt is not what run 'own' began with" in done.sentence and f"{len(text)} bytes" in done.sentence
    assert "Put the old file back" in done.sentence and len(Store.open("runs/own").records) == 4
    some = next(iter(Store.open("runs/own").genomes))
    trained = cli("train", f"own:{some}", "--tokens", 256, "--device", "cpu")
    assert "Note: the data is not what own:" in trained.err, "one genome may be trained on other data"
    own_data.write_bytes(text)
    cli("resume", "own", "--generations", 2, "--executor", "serial")
    assert len(Store.open("runs/own").records) == 8


def test_another_embedded_corpus_is_refused(cli, in_copy):
    """It comes with Python, and differs between its versions."""
    with Store.open("runs/first", write=True) as store:
        notes = {"data": "1 bytes, sha256 0"}
        store.set_header(settings={**store.header["settings"], "data": None}, notes=notes)
    done = cli("resume", "first", "--generations", 3, code=2)
    assert "the embedded corpus is not what run 'first' began with: 1 bytes" in done.sentence
    assert "Resume it with Python 3." in done.sentence


def test_another_machine_measures_everything_again_and_is_told_of(cli, in_copy, monkeypatch):
    assert "Note: run" not in cli("resume", "first", "--generations", 3, "--executor", "serial").err
    for place in ("evonas.fitness", "evonas.fitness.latency"):
        monkeypatch.setattr(f"{place}.device_text", "Other {}".format)
    done = cli("resume", "first", "--generations", 9, "--executor", "serial")
    assert re.search(r"this is Other cpu: its \d+ architectures are measured again first", done.err)
    store = Store.open("runs/first")
    ok = [r for r in store.records if r.ok]
    last = {r.genome_id: r.measures["latency"].device for r in ok}
    report = json.loads(cli("report", "first", "--format", "json").out)
    assert len({r.measures["latency"].device for r in ok}) == 2 and set(last.values()) == {"Other cpu"}
    assert report["left_out"] == 0 and report["device"] == "cpu"
    assert "Note: run" not in cli("resume", "first", "--generations", 10, "--executor", "serial").err, "and once"


# -- signals --------------------------------------------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def descendants(pid: int) -> set[int]:
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found |= {int(child)} | descendants(int(child))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


UNCAUGHT = "exec('raise KeyboardInterrupt')"
CAUGHT = f"try:\n        {UNCAUGHT}\n    except KeyboardInterrupt:\n        raise SystemExit(130) from None"


@pytest.mark.parametrize(("body", "said"), [(UNCAUGHT, "Interrupted.\n"), (CAUGHT, "")])
def test_an_interrupt_of_an_import_ends_as_any_other(tmp_path, body, said):
    """SciPy executes texts while it is imported; Python under -m would kill itself for one that was interrupted, also
    where the command has caught it and says with what to end."""
    code = f"import evonas.cli\n\ndef cli(**how):\n    {body}\n\nevonas.cli.cli = cli\nevonas.cli.main()\n"
    (tmp_path / "interrupted.py").write_text(code)
    done = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)


@linux
@pytest.mark.parametrize(
    ("sent", "executor", "workers"), [(signal.SIGINT, "processes", 2), (signal.SIGTERM, "serial", 0)]
)
def test_a_signal_leaves_a_run_that_goes_on(cli, in_tmp_path, small, sent, executor, workers):
    errors = in_tmp_path / "stderr"
    options = ["--run", "live", "--generations", "5000", "--executor", executor]
    options += ["--workers", str(workers)] if workers else []
    options += ["--objective", "loss", "--objective", "flops"]
    with open(errors, "w") as file:
        process = subprocess.Popen(
            [*PYTHON_M, "evolve", *small, *options], stdout=subprocess.PIPE, stderr=file, text=True
        )
    try:
        wait_until(lambda: "generation 2/" in errors.read_text() or process.poll() is not None, "no generation ended")
        children = descendants(process.pid)
        assert len(children) >= workers, errors.read_text()
        live = json.loads(cli("report", "live", "--format", "json").out)
        os.kill(process.pid, sent)
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and not out, errors.read_text()[-1500:]
    said = errors.read_text()
    assert "Interrupted" in said and "evonas resume live" in said and "Traceback" not in said, said
    wait_until(lambda: not any(map(is_running, children)), "workers outlive their run")
    assert live["generations"] >= 2 and live["front"] and live["evaluations"] >= 8

    store = Store.open("runs/live")
    done, records = len(store.generations), store.records
    assert len(records) >= live["evaluations"]
    cli("resume", "--generations", done + 1, "--executor", "serial")
    after = Store.open("runs/live")
    assert len(after.generations) == done + 1 and after.records[: len(records)] == records
    assert len(evaluations(after)) == 4 * (done + 1), "nothing was lost, nothing done twice"


@linux
def test_a_run_that_goes_on_is_not_resumed_a_second_time(cli, in_copy):
    with Store.open("runs/first", write=True):
        done = cli("resume", "first", "--generations", 3, code=(1, 2))
        assert "first" in done.sentence
        assert len(json.loads(cli("report", "first", "--format", "json").out)["front"]) > 0
    assert len(evaluations(Store.open("runs/first"))) == 8


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_python_lost_comes_again(number):
    """As one does that arrives in a finaliser."""
    before = signal.signal(number, signal.SIG_DFL)  # it may be ignored here: what runs in the background ignores Ctrl-C
    try:
        with interrupts() as check:
            check()
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), number)
                time.sleep(5)
            with pytest.raises(KeyboardInterrupt):
                check()
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


class Finalised:
    def __init__(self, then) -> None:
        self._then = then

    def __del__(self) -> None:
        self._then()


def fail() -> None:
    raise ValueError("in a finaliser")


def test_what_comes_in_a_finaliser_is_raised_again_and_not_reported(capsys):
    hook = sys.unraisablehook
    with interrupts() as check:
        check()
        Finalised(lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert capsys.readouterr().err == ""
        with pytest.raises(KeyboardInterrupt):
            check()
    assert sys.unraisablehook is hook


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_faults_in_a_finaliser_are_reported_as_ever(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    with interrupts():
        Finalised(fail)
    assert [type(r.exc_value) for r in reported] == [ValueError]
