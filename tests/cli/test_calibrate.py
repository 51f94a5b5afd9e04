"""``evonas calibrate`` on a small run, and what it refuses."""

from __future__ import annotations

import json

import pytest


def test_it_trains_a_sample_longer_and_tells_how_well_the_proxy_ranks(cli, in_copy):
    done = cli("calibrate", "first", "--genomes", 5, "--factor", 2, "--workers", 2)
    assert "Calibrated on 5 genomes trained 2 times longer" in done.out and "loss at 1,024 tokens: " in done.out
    held = json.loads((in_copy / "runs/first/calibration.json").read_text())
    assert len(held["sample"]) == 5 and all(e["status"] == "ok" and e["long"] > 0 for e in held["sample"])
    assert "Calibrated on 5 genomes" in cli("report", "first").out
    assert json.loads(cli("report", "first", "--format", "json").out)["calibration"] == held["summary"]
    again = cli("calibrate", "first", "--genomes", 5, "--factor", 2)
    assert again.out == done.out and "long loss" not in again.err, "what is trained is not paid for again"
    more = cli("calibrate", "first", "--genomes", 6, "--factor", 2)
    assert more.err.count("long loss") <= 6


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
    ],
)
def test_what_it_refuses(cli, in_copy, options, said):
    assert said in cli("calibrate", "first", *options, code=2).err.lower()
    assert not (in_copy / "runs/first/calibration.json").exists()


def test_a_run_that_is_not_there(cli, in_tmp_path):
    assert "nothing" in cli("calibrate", "nothing", code=2).sentence
