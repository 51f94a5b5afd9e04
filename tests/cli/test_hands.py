"""Whether workers wait for each other: who decides, where it can't be, and that a run without ends like others."""

from __future__ import annotations

import pytest

from evonas.cli.hands import Hands
from evonas.config import Settings
from evonas.errors import EvonasError
from evonas.fitness import ProxyEvaluator
from evonas.store import Store

from .conftest import evaluations

BOTH, FREE, ONLY_TIMED = ("loss", "latency"), ("loss", "params"), ("latency", "params")


def decided(hands: Hands, needs=BOTH, device="cpu", deadline: float | None = 100.0, before: bool | None = None) -> bool:
    settings = Settings(
        task="text", data=None, context=16, objectives=needs, constraints=(), population=4, generations=2, seed=0,
        device=device, tokens=64, validation_tokens=64, asynchronous=before,
    )  # fmt: skip
    evaluator = ProxyEvaluator("text", None, 16, needs=needs, tokens=64, validation_tokens=64)
    return hands.wait(settings, evaluator, deadline)


@pytest.mark.parametrize(
    ("hands", "where", "wait"),
    [
        (Hands(2, "auto"), {}, False),
        (Hands(2, "processes"), {"deadline": None}, True),  # the same seed is the same search
        (Hands(1, "auto"), {}, True),  # nothing to wait for
        (Hands(2, "auto", False), {}, True),
        (Hands(2, "auto", True), {"deadline": None}, False),
        (Hands(1, "auto", True), {}, False),
        (Hands(None, "serial"), {}, True),
        (Hands(8, "ray"), {}, True),
        (Hands(8, "ray", True), {}, False),
        (Hands(8, "ray"), {"needs": FREE}, True),
        (Hands(8, "ray", True), {"needs": FREE}, False),
        (Hands(8, "auto"), {"device": "cuda"}, True),
        (Hands(8, "auto"), {"device": "cuda", "needs": FREE}, True),
        (Hands(8, "auto", True), {"device": "cuda"}, False),
        (Hands(8, "auto", True), {"device": "cuda", "needs": FREE}, False),
        (Hands(8, "auto"), {"needs": ONLY_TIMED}, True),
        (Hands(2, "auto"), {"before": False}, True),  # as the run began
        (Hands(2, "auto"), {"before": True, "deadline": None}, False),
        (Hands(2, "auto", False), {"before": True}, True),
        (Hands(2, "serial"), {"before": True}, True),
    ],
)
def test_who_waits(hands, where, wait):
    assert decided(hands, **where) is wait


@pytest.mark.parametrize(
    ("executor", "where", "said"),
    [
        ("serial", {}, "one worker, in this process"),
        ("auto", {"needs": ONLY_TIMED}, "nothing is trained"),
    ],
)
def test_where_they_have_to_it_is_said(executor, where, said):
    with pytest.raises(EvonasError, match=f"--asynchronous: .*{said}") as raised:
        decided(Hands(4, executor, True), **where)
    assert "Leave it out" in raised.value.hint


@pytest.mark.parametrize(
    ("hands", "command"),
    [
        (Hands(None, "auto"), "evonas resume r"),
        (Hands(3, "processes", True), "evonas resume r --workers 3 --executor processes"),  # the store has the rest
    ],
)
def test_a_run_goes_on_as_it_was_asked_for(hands, command):
    assert hands.to_resume("r") == command


def test_without_a_barrier_a_run_is_made_resumed_and_reported(cli, in_tmp_path, text_file, space_file):
    small = ("--data", text_file, "--space", space_file, "--context", 16, "--tokens", 1024, "--population", 4)
    options = ("--run", "free", "--generations", 3, "--offspring", 3, "--workers", 2, "--asynchronous")
    done = cli("evolve", *small, *options)
    assert "3 generations" in done.out and "generation 3/3" in done.err
    store = Store.open("runs/free")
    assert [len(row["asked"]) >= 3 for row in store.generations] == [True] * 3
    before = len(evaluations(store))
    cli("resume", "free", "--generations", 5, "--workers", 2)
    store = Store.open("runs/free")
    assert store.header["settings"]["asynchronous"] is True
    assert sum(len(row["asked"]) for row in store.generations) == len(evaluations(store)) > before
    assert "front" in cli("report", "free").out
    cli("resume", "free", "--generations", 6, "--synchronous")
    store = Store.open("runs/free")
    assert len(store.generations) == 6 and store.header["settings"]["asynchronous"] is False


def test_the_command_line_says_where_it_can_not_be(cli, in_tmp_path, text_file):
    done = cli("evolve", "--data", text_file, "--executor", "serial", "--asynchronous", code=2)
    assert "one worker" in done.sentence and not (in_tmp_path / "runs").exists()
