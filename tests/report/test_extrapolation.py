"""What long trainings of a few tell of the others: against a law that is known, and where nothing can be told."""

from __future__ import annotations

import numpy as np
import pytest

from evonas.report import build_report
from evonas.report.calibration import (
    FILE,
    begin,
    choose,
    lines,
    losses_told,
    note,
    summarise,
    trained_long,
    write_calibration,
)
from evonas.report.cells import summary_lines, table_of
from evonas.report.extrapolation import FEWEST, extrapolate
from evonas.store import Store

from .conftest import TOKENS, header


def later(store, genome_id: str, noise: float = 0.0) -> float:
    """Larger networks gain more."""
    last = losses_told(store)[genome_id][-1].measures["loss"].value
    return last - 0.3 - store.genomes[genome_id].genome.d_model / 64 + noise


def at_the_last(store) -> list[str]:
    return [i for i, records in losses_told(store).items() if len(records) == len(TOKENS)]


def extrapolated(store, long):
    return extrapolate(store, losses_told(store), len(TOKENS), long)


def test_a_law_in_the_genes_is_found_and_told_of_those_not_trained(climbed):
    ids = at_the_last(climbed)
    found = extrapolated(climbed, {i: later(climbed, i) for i in ids[:-1]})
    assert found.losses.keys() == set(ids) and found.left_out.keys() == set(ids[:-1])
    spread = np.std([later(climbed, i) for i in ids])
    assert found.error < 0.6 * spread, "the mean change would be off by more"
    assert found.losses[ids[-1]] == pytest.approx(later(climbed, ids[-1]), abs=3 * found.error)


def test_the_error_is_that_of_those_left_out(climbed):
    ids = at_the_last(climbed)
    long = {i: later(climbed, i) for i in ids}
    found = extrapolated(climbed, long)
    assert found.error == pytest.approx(np.sqrt(np.mean([(found.left_out[i] - long[i]) ** 2 for i in ids])))
    for i in ids[:2]:
        alone = extrapolated(climbed, {k: v for k, v in long.items() if k != i})
        assert alone.losses[i] == pytest.approx(found.left_out[i])


def test_too_few_tell_nothing(climbed):
    ids = at_the_last(climbed)
    assert extrapolated(climbed, {i: later(climbed, i) for i in ids[: FEWEST - 1]}) is None
    below = [i for i in losses_told(climbed) if i not in ids]
    assert extrapolated(climbed, {i: 1.0 for i in below}) is None, "none of them is at the last rung"


@pytest.mark.parametrize("space", [{}, {"kind": "custom", "genes": {"x": [1, 2]}}, {"genes": 3}])
def test_a_run_of_another_space_tells_nothing(climbed, tmp_path, space):
    with Store.create(tmp_path / "run", header(space=space)) as store:
        for record in climbed.records:
            store.append(climbed.genomes[record.genome_id].genome, record)
        assert extrapolated(store, {i: 1.0 for i in at_the_last(climbed)}) is None


def test_one_rung_has_no_change_to_learn_from(climbed, tmp_path):
    with Store.create(tmp_path / "run", header(space=climbed.header["space"])) as store:
        for record in climbed.records[:60]:
            store.append(climbed.genomes[record.genome_id].genome, record)
        told = losses_told(store)
        found = extrapolate(store, told, 1, {i: 1.0 for i in list(told)[:12]})
    assert len(found.losses) == 60 and np.isfinite(list(found.losses.values())).all()


def test_the_report_shows_it_for_the_front(climbed):
    chosen = choose(climbed, 40, len(TOKENS), 50, 16)
    about = begin(chosen, 4.0, TOKENS, None, None)
    for e in about["sample"]:
        note(about, e, "ok", later(climbed, e["id"]), "", 4.0)
    found = extrapolated(climbed, trained_long(about["trained"], 4.0, None))
    about["summary"] = summarise(about, found)
    assert about["summary"]["extrapolation"] == {"tokens": 16384, "error": found.error}
    assert about["summary"]["predictors"][-1]["what"] == "extrapolated to 16,384 tokens"
    said = f"tokens from the last rung and the genes: standard error {found.error:.2g} nats"
    assert said in lines(about["summary"])[-1]
    with_rungs = {"generation": len(climbed.generations), "rungs": [60, 20, 8]}
    climbed.commit(with_rungs, [])
    write_calibration(climbed.folder, about)
    report = build_report(climbed)
    (climbed.folder / FILE).unlink()
    for member in report["front"]:
        assert member["extrapolated"] == {"tokens": 16384, "value": found.losses[member["id"]], "spread": found.error}
    table = table_of(report)
    assert table.objectives[-1] == "loss at 16.4k"
    assert all(row.objectives[-1][0].startswith("~") and " ±" in row.objectives[-1][0] for row in table.front)
    assert any("Extrapolated to 16,384 tokens" in line for line in summary_lines(report, table))
    assert [member["extrapolated"] for member in build_report(climbed)["front"]] == [None] * len(report["front"])
