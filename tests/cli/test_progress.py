"""What a person sees while a search runs."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from evonas.cli.progress import Progress
from evonas.config import Settings
from evonas.record import Record


@pytest.fixture
def progress(tmp_path):
    settings = Settings(
        task="text", data=None, context=16, device="cpu", objectives=("loss", "latency"), constraints=(), population=4,
        generations=2, seed=0, tokens=1024, validation_tokens=160,
    )  # fmt: skip
    return Progress(settings, None, tmp_path / "run")


def line(progress, capsys, **row) -> str:
    progress.generation_finished({"generation": 0, "front_size": 3, "hypervolume": 0.5, "best": {}, **row})
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("rungs", "said"),
    [
        ([1200, 2], "trained 1,200, to the end 2,"),
        ([12, 7, 2], "trained 12, further 7, to the end 2,"),
        ([20, 12, 7, 0], "trained 20, further 12, 7, to the end 0,"),
    ],
)
def test_how_many_were_trained_how_long(progress, capsys, rungs, said):
    assert said in line(progress, capsys, rungs=rungs)


def test_without_rungs_there_is_nothing_to_tell(progress, capsys):
    assert "trained" not in line(progress, capsys)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"hypervolume": 0.0, "rungs": [4, 0]}, "hypervolume -,"),
        ({"hypervolume": 0.25, "rungs": [4, 1]}, "hypervolume 0.2500,"),
        ({"hypervolume": 0.0}, "hypervolume 0.0000,"),
        ({"hypervolume": None}, "hypervolume -,"),
    ],
)
def test_there_is_no_hypervolume_before_the_last_rung(progress, capsys, row, said):
    assert said in line(progress, capsys, **row)


@pytest.mark.parametrize(
    ("trained", "rungs", "said"),
    [
        (("loss",), (16384, 65536, 262144), "context 16, trained on 16,384, 65,536, 262,144 tokens, rung by rung; obj"),
        (("loss",), (262144,), "context 16, trained on 262,144 tokens; obj"),
        ((), (262144,), "context 16; obj"),
    ],
)
def test_it_begins_with_how_long_candidates_are_trained(progress, capsys, trained, rungs, said):
    search = SimpleNamespace(
        evaluator=SimpleNamespace(task=None, trained_names=trained, rungs=rungs),
        store=SimpleNamespace(records=[], generations=[]),
        executor=SimpleNamespace(workers=2),
    )
    with progress.showing(search):
        pass
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("left", [None, 60.0])
def test_what_a_terminal_shows_from_the_beginning_to_the_end(progress, left):
    progress.deadline = None if left is None else time.monotonic() + left
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=100)
    progress.console.print(progress._panel())
    progress.generation_started(0, 4)
    progress.console.print(progress._panel())
    progress.generation_finished({"generation": 0, "front_size": 3, "hypervolume": 0.5, "best": {"loss": 2.0}})
    progress.settling(0, 3)
    progress.console.print(progress._panel())
    shown = progress.console.file.getvalue()
    assert "1/2, candidate 0/4" in shown and "3 architectures, round 1" in shown and "2 nats" in shown


def test_what_breaks_a_constraint_has_not_failed(progress, capsys):
    for status in ("infeasible", "infeasible", "timeout"):
        progress.evaluated(Record("0", 0, 0, status))
    assert "failures 1 timeout," in line(progress, capsys), "without constraints nothing is said of them"
    progress.settings = replace(progress.settings, constraints=("latency<=2ms",))
    assert "failures 1 timeout, outside the constraints 2," in line(progress, capsys)
