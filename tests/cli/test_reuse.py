"""``--reuse``: of runs that differ, and of one that has gone."""

from __future__ import annotations

import shutil

import pytest

from evonas.store import Store

from .conftest import evaluations


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rungs", 2), "its rungs is 1, not 2"),
        (("--context", 32), "its context is 16, not 32"),
        (("--precision", "float32"), "its precision is bfloat16, not float32"),
        (("--precision", "bfloat16"), "its precision is float32, not bfloat16"),
    ],
)
def test_a_run_of_other_trainings_is_refused(cli, in_copy, small, options, said):
    with Store.open("runs/first", write=True) as store:
        precision = {"float32": "bfloat16", "bfloat16": "float32"}.get(
            options[1], store.header["settings"]["precision"]
        )
        store.set_header(settings={**store.header["settings"], "precision": precision})
    done = cli("evolve", *small, *options, "--reuse", "first", "--run", "second", code=2)
    assert f"run 'first' can't be reused: {said}" in done.sentence
    assert "Only runs of the same task, data, context, seed, device, precision, tokens and rungs can." in done.sentence
    assert not (in_copy / "runs/second").exists()


def test_resumed_without_the_run_it_reused_it_pays_itself(cli, in_copy, small, seed_file):
    """What it has taken is its own; the rest is trained, and that the other is gone is said."""
    serial = ("--executor", "serial")
    cli(
        "evolve", *small, "--seed-genome", seed_file, "--reuse", "first", "--generations", 1, "--run", "second", *serial
    )
    before = evaluations(Store.open("runs/second"))
    assert all(r.provenance["reused"] == "first" for r in before)
    gone = in_copy / "runs" / "first"
    shutil.rmtree(gone)
    done = cli("resume", "second", "--generations", 2, *serial)
    assert f"Note: nothing is reused of {gone}: " in " ".join(done.err.split())
    after = evaluations(Store.open("runs/second"))
    assert after[: len(before)] == before and len(after) == 8
    assert all("reused" not in r.provenance and r.cost["tokens"] > 0 for r in after[len(before) :])
