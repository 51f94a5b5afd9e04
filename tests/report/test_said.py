"""What the sentences of a report say, so that they are understood without the README."""

from __future__ import annotations

import pytest

from evonas.cli.progress import _to_train
from evonas.fitness.latency import CPU_THREADS
from evonas.record import Measure, Record
from evonas.report import build_report, to_html, to_markdown
from evonas.report.against import as_accurate, sentence
from evonas.report.cells import summary_lines, table_of
from evonas.store import Store

from .conftest import SEED, header


def add(store, k, loss, latency, status="ok", device="cpu", spread=0.0):
    genome = SEED if k is None else SEED.replace(beta2=round(0.9 + 0.001 * k, 3))
    measures = {
        "loss": Measure(loss, spread, "1000 tokens", device),
        "latency": Measure(latency, spread, "measured", device),
    }
    store.append(genome, Record(genome.id, 0, k or 0, status, measures))


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "run", header()) as store:
        yield store


def lines(store) -> list[str]:
    report = build_report(store)
    return summary_lines(report, table_of(report))


def test_a_seed_that_a_constraint_rules_out_says_how_it_would_be_compared(store):
    add(store, 0, 1.0, 1.0)
    add(store, None, 2.0, 3.0, "infeasible")
    report = build_report(store)
    (entry,) = report["against_seed"]
    assert sentence(entry, report["objectives"]).endswith(
        "infeasible, nothing to compare with. To be compared with it, loosen the constraint until this seed meets it; "
        "to ask for more of an objective than that, use --goal"
    )
    assert any(line.endswith("use --goal.") for line in lines(store))


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        (("infeasible", "infeasible", "timeout"), "Outside the constraints: 2. Failed: 1 timeout (of 4 evaluations)."),
        (("infeasible",), "Outside the constraints: 1 (of 2 evaluations)."),
        (("timeout", "timeout", "crash"), "Failed: 2 timeout, 1 crash (of 4 evaluations)."),
    ],
)
def test_what_breaks_a_constraint_has_not_failed(store, statuses, said):
    add(store, 0, 1.0, 1.0)
    for k, status in enumerate(statuses, 1):
        add(store, k, 2.0, 2.0, status)
    assert said in lines(store)


@pytest.mark.parametrize(
    ("device", "model", "said"),
    [
        ("cpu", "A CPU 7", "one thread of A CPU 7"),
        ("cuda", "A GPU 100", "a CUDA graph, where it can be, on A GPU 100"),
    ],
)
def test_what_a_latency_is_stands_in_every_form(tmp_path, device, model, said):
    settings = {"generations": 9, "task": "text", "context": 64}
    with Store.create(tmp_path / "run", header(settings=settings, device=device)) as store:
        add(store, 0, 1.0, 1.0, device=model)
        report = build_report(store)
        line = f"Latency: one forward pass of 64 tokens, batch 1, float32, {said}."
        assert line in lines(store)
        assert line in to_markdown(report) and line in to_html(report)
    assert (report["context"], report["device_name"]) == (64, model)
    assert report["conditions"] == {"latency": f"one forward pass of 64 tokens, batch 1, float32, {said}"}


def test_every_measured_objective_says_how(tmp_path):
    names = ("loss", "decode_latency", "memory")
    with Store.create(
        tmp_path / "run", header(names, settings={"context": 1024}, constraints=["latency<=9ms"])
    ) as store:
        measures = {n: Measure(1.0, 0.0, "measured", "A CPU") for n in (*names[1:], "latency")}
        store.append(SEED, Record(SEED.id, 0, 0, "ok", {"loss": Measure(2.0, 0.0, "9 tokens"), **measures}))
        said = lines(store)
    assert "Latency: one forward pass of 1,024 tokens, batch 1, float32, one thread of A CPU." in said
    assert "Decode latency: one token with the KV cache filled to 1,024, batch 1, float32, one thread of A CPU." in said
    assert "Memory: peak of one forward pass of 1,024 tokens, KV cache included, batch 1, float32, on A CPU." in said


@pytest.mark.parametrize("context", [None, True, "64", 10**400, -1])
def test_a_context_that_is_none_is_not_told(tmp_path, context):
    with Store.create(tmp_path / "run", header(settings={"context": context})) as store:
        add(store, 0, 1.0, 1.0)
        report = build_report(store)
    assert (report["context"], report["conditions"]) == (None, {})


def test_one_thread_is_what_times_are_taken_on():
    assert CPU_THREADS == 1, "as record.conditions_of has it"


def test_the_signs_of_a_table_are_explained_as_far_as_they_occur(store):
    def signs() -> list[str]:
        return [line for line in lines(store) if "Percentages" in line or "±" in line or "~" in line]

    add(store, 0, 1.0, 1.0)
    assert signs() == []
    add(store, None, 2.0, 3.0)
    assert signs() == ["Percentages: change against seed nanogpt-cpu."]
    add(store, 0, 1.0, 1.0, spread=0.1)
    of_a_time = "standard error; of a time measured once, half the interquartile range of its repeats"
    assert signs() == [f"Percentages: change against seed nanogpt-cpu. ±: {of_a_time}."]
    report = build_report(store)
    for member in report["front"]:
        member["extrapolated"] = {"tokens": 9000, "value": 0.5, "spread": 0.1}
    assert f"±: {of_a_time}. ~: extrapolated." in " ".join(summary_lines(report, table_of(report)))


def test_whom_to_train_in_place_of_a_seed_is_as_accurate_and_clearly_faster(store):
    add(store, None, 2.0, 10.0, spread=0.01)
    add(store, 0, 1.5, 20.0, spread=0.01)
    assert as_accurate(build_report(store)) is None
    add(store, 1, 1.9, 9.99, spread=0.01)  # faster within the error alone
    assert as_accurate(build_report(store)) is None
    add(store, 2, 1.8, 5.9, spread=0.01)
    report = build_report(store)
    like_seed = report["against_seed"][0]["at_seed_loss"]["id"], "as accurate as nanogpt-cpu, 41% less latency"
    assert as_accurate(report) == like_seed
    most = report["front"][0]["id"]
    assert _to_train(report) == [like_seed, (most, "the most accurate")] and most != like_seed[0]
    assert _to_train({**report, "against_seed": []}) == [(most, "the most accurate")]
    report["front"] = [m for m in report["front"] if m["id"] == like_seed[0]]
    assert _to_train(report) == [like_seed], "one line for one genome"
    (entry,) = report["against_seed"]
    entry["ahead"] = {**entry, "at_seed_loss": {**entry["at_seed_loss"], "ratio": 0.2}}
    assert as_accurate(report)[1].endswith(", 20% less latency"), "long trainings say more"
