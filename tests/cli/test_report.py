"""``evonas report`` on a finished run, in every form."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess

import pytest

from evonas.record import STATUSES
from evonas.store import Store

from .conftest import PYTHON_M, SEED, files


def test_json_keeps_the_contract(cli, in_finished):
    done = cli("report", "first", "--format", "json")
    report = json.loads(done.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    store = Store.open("runs/first")
    assert (report["run"], report["task"], report["device"], report["seed"]) == ("first", "text", "cpu", 0)
    assert report["objectives"] == [
        {"name": "loss", "unit": "nats", "direction": "min"},
        {"name": "latency", "unit": "ms", "direction": "min"},
    ]
    assert (report["generations"], report["evaluations"]) == (2, 8)
    assert set(report["failures"]) <= set(STATUSES) and sum(report["failures"].values()) == sum(
        not r.ok for r in store.records
    )
    assert report["hypervolume"] == [g["hypervolume"] for g in store.generations]
    assert [m["id"] for m in report["seeds"]] == [SEED.id]
    for member in (*report["front"], *report["seeds"]):
        assert set(member) >= {"id", "generation", "parents", "objectives", "genome"}
        record = store.record_of(member["id"])
        for name, measure in member["objectives"].items():
            assert measure["value"] == record.value(name) and math.isfinite(measure["spread"]) and measure["fidelity"]
        assert member["genome"]["d_model"] == store.genomes[member["id"]].genome.d_model


def test_the_front_is_what_nothing_evaluated_beats(cli, in_finished):
    front = {m["id"] for m in json.loads(cli("report", "--format", "json").out)["front"]}
    points = {r.genome_id: (r.value("loss"), r.value("latency")) for r in Store.open("runs/first").records if r.ok}
    best = {i for i, p in points.items() if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points.values())}
    assert front == best


def test_the_newest_run_is_the_default(cli, in_finished):
    assert cli("report").out == cli("report", "first").out == cli("report", "runs/first").out


def test_the_table_fits_a_pipe_and_holds_the_front(cli, in_finished, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    out = cli("report", "first").out
    assert all(i[:6] in out for i in Store.open("runs/first").front_ids()) and "hand-tuned" in out
    assert "±" in out and "\x1b[" not in out


def test_csv_has_one_line_per_member(cli, in_finished):
    rows = list(csv.DictReader(io.StringIO(cli("report", "first", "--format", "csv").out)))
    front = json.loads(cli("report", "first", "--format", "json").out)["front"]
    assert [row["id"] for row in rows] == [m["id"] for m in front]
    for row, member in zip(rows, front):
        assert float(row["loss"]) == member["objectives"]["loss"]["value"]
        assert row["d_model"] == str(member["genome"]["d_model"])


def test_markdown_has_a_table(cli, in_finished):
    lines = cli("report", "first", "--format", "markdown").out.splitlines()
    assert lines[0] == "# first"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) >= 3 and len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_a_picture_and_a_page_are_written_beside_the_report(cli, in_copy):
    before = files(in_copy / "runs")
    done = cli("report", "first", "--format", "json", "--plot", "front.png", "--html", "page.html")
    json.loads(done.out)
    assert (in_copy / "front.png").read_bytes().startswith(b"\x89PNG")
    page = (in_copy / "page.html").read_text()
    assert all(i[:6] in page for i in Store.open("runs/first").front_ids()) and "<html" in page
    assert "Plot: front.png" in done.err and "Page: page.html" in done.err
    assert files(in_copy / "runs") == before, "a report changes nothing in the run"


def test_a_reader_that_goes_away_is_no_crash(in_copy):
    """As in ``evonas report | head``. The page is written all the same."""
    process = subprocess.Popen(
        [*PYTHON_M, "report", "--format", "json", "--html", "page.html"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.close()
    with process.stderr:
        assert not process.stderr.read()
    assert process.wait() == 1 and (in_copy / "page.html").is_file()
