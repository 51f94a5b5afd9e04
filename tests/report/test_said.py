"""What the sentences of a report say, so that they are understood without the README."""

from __future__ import annotations

import pytest

from evonas.record import Measure, Record
from evonas.report import build_report
from evonas.report.against import sentence
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
        "infeasible, nothing to compare with. To be compared with it, set the constraint no lower than this seed's own "
        "value; to push an objective below that, use --goal"
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
