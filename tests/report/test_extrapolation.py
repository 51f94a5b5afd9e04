"""What long trainings of a few tell of the others: against a law that is known, and where nothing can be told."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from evonas.genome import TRAITS, Genome
from evonas.report import build_report, extrapolation, render_table, to_csv, to_html, to_markdown
from evonas.report.calibration import lines, summary_of, tau
from evonas.report.calibration_file import AS_LONG, FILE, begin, note, read_calibration, trained_long, write_calibration
from evonas.report.cells import _ahead, table_of
from evonas.report.extrapolation import FEWEST, each_left_out, extrapolate, features
from evonas.report.sample import choose, choose_again, losses_told
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
    assert found.losses.keys() == set(ids) and found.left_out.expected.keys() == set(ids[:-1])
    spread = np.std([later(climbed, i) for i in ids])
    assert found.error < 0.6 * spread, "the mean change would be off by more"
    assert found.losses[ids[-1]] == pytest.approx(later(climbed, ids[-1]), abs=3 * found.error)


def test_the_error_is_that_of_those_left_out(climbed):
    ids = at_the_last(climbed)
    long = {i: later(climbed, i) for i in ids}
    found = extrapolated(climbed, long)
    expected = found.left_out.expected
    assert found.error == pytest.approx(np.sqrt(np.mean([(expected[i] - long[i]) ** 2 for i in ids])))
    for i in ids[:2]:
        alone = extrapolated(climbed, {k: v for k, v in long.items() if k != i})
        assert alone.losses[i] == pytest.approx(expected[i])


def test_what_says_nothing_is_ranked_at_random_not_the_other_way_round():
    """Losses and genes that have nothing to do with the long loss."""
    found: dict[str, list[float]] = {"expected": [], "ranked": []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        last, long = ({str(k): v for k, v in enumerate(row)} for row in (np.full(8, 2.0), rng.normal(1, 0.1, 8)))
        left_out = each_left_out({i: features([last[i]], rng.random(3)) for i in last}, last, long)
        for name in found:
            values = np.array(list(getattr(left_out, name).values())).round(9)
            found[name].append(tau(values, np.array(list(long.values()))) or 0.0)
    expected, ranked = np.mean(found["expected"]), np.mean(found["ranked"])
    assert expected < -0.05 and abs(ranked) < 0.05 and ranked - expected > 0.1


def test_loss_its_change_and_traits_stand_apart_from_the_genes(climbed, monkeypatch):
    made = []
    model = extrapolation.RungModel
    monkeypatch.setattr(extrapolation, "RungModel", lambda *args: made.append(model(*args)) or made[-1])
    ids = at_the_last(climbed)
    extrapolated(climbed, {i: later(climbed, i) for i in ids})
    rest = len(made[0].groups) - 2 - TRAITS
    assert made[0].groups.tolist() == [*range(2 + TRAITS), *[2 + TRAITS] * rest] and rest > 5
    row = features([2.0], np.arange(3.0)), features([3.0, 2.0], np.arange(3.0))
    assert [r.tolist() for r in row] == [[2.0, 0.0, 0.0, 1.0, 2.0], [2.0, -1.0, 0.0, 1.0, 2.0]]


@pytest.mark.parametrize("genes", [{"batch_size": 0}, {"learning_rate": -1}, {"optimizer": 7}, {"n_layers": 10**400}])
def test_a_genome_that_cannot_be_takes_nothing_from_the_report(climbed, tmp_path, genes):
    hostile = at_the_last(climbed)[-1]
    with Store.create(tmp_path / "run", header(space=climbed.header["space"])) as store:
        for record in climbed.records:
            genome = climbed.genomes[record.genome_id].genome
            if record.genome_id == hostile:
                genome = Genome({**genome, **genes})
                record = replace(record, genome_id=genome.id)
            store.append(genome, record)
    long = {i: later(climbed, i) for i in at_the_last(climbed)[:-1]}
    found = extrapolated(Store.open(tmp_path / "run"), long)
    assert found is None or found.losses.keys() > long.keys()
    assert found is not None or genes["n_layers"] > 1e300


def test_the_latest_of_very_many_count(climbed, monkeypatch):
    monkeypatch.setattr("evonas.report.extrapolation.MOST", 7)
    ids = at_the_last(climbed)
    found = extrapolated(climbed, {i: later(climbed, i) for i in ids})
    assert list(found.left_out.expected) == ids[-7:] and len(found.losses) == len(ids)


def test_numbers_beyond_all_bounds_tell_nothing(climbed):
    assert extrapolated(climbed, {i: 1e308 * (-1) ** k for k, i in enumerate(at_the_last(climbed))}) is None


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


@pytest.fixture
def own(climbed, tmp_path):
    """A copy of ``climbed`` to write to: others look at that."""
    shutil.copytree(climbed.folder, tmp_path / "run")
    with Store.open(tmp_path / "run", write=True) as store:
        yield store


def test_the_report_shows_it_for_the_front(own):
    ids = at_the_last(own)
    front = [member["id"] for member in build_report(own)["front"]]
    longer = [*front[:1], *(i for i in ids if i not in front)]
    assert len(front) >= 2 and len(longer) >= FEWEST
    everyone = choose(own, 60, len(TOKENS), 50, 16)
    about = begin([c for c in everyone if c.genome.id in longer], 4.0, TOKENS, "x", None)
    for e in about["sample"]:
        note(about, e, "ok", later(own, e["id"]), "", 4.0)
    found = extrapolated(own, trained_long(about["trained"], 4.0, "x"))
    about["summary"] = summary_of(own, about)
    assert about["summary"]["extrapolation"] == {"tokens": 16384, "genomes": len(longer), "error": found.error}
    assert about["summary"]["predictors"][-1]["what"] == "extrapolated to 16,384 tokens"
    said = f"tokens from the last rung and the genes: standard error {found.error:.2g} nats"
    assert said in lines(about["summary"])[-1]
    own.commit({"generation": len(own.generations), "rungs": [60, 20, 8]}, [])
    write_calibration(own.folder, about)
    report = build_report(own)
    (own.folder / FILE).unlink()
    of = {m["id"]: m["extrapolated"] for m in report["front"]}
    assert of[front[0]] == {"tokens": 16384, "value": pytest.approx(later(own, front[0])), "spread": None}
    assert of[front[1]] == {"tokens": 16384, "value": found.losses[front[1]], "spread": found.error}
    table = table_of(report)
    assert table.ahead == ["loss at 16.4k"]
    cells = {row.id: row.ahead[0][0] for row in table.front}
    assert cells[front[0]] == f"{later(own, front[0]):.4g}"
    assert cells[front[1]].startswith("~") and " ±" in cells[front[1]]
    for text in (to_markdown(report), to_html(report), to_csv(report)):
        assert "loss at 16.4k" in text or "extrapolated,extrapolated_spread,extrapolated_tokens" in text
    assert "\n- Calibrated on" in to_markdown(report) and "\n  - loss at 256 tokens" in to_markdown(report)
    assert '\n<li class="of">loss at 256 tokens' in to_html(report)
    console = Console(file=io.StringIO(), width=80)
    render_table(report, console)
    assert f"loss at 16.4k: {cells[front[1]]}" in console.file.getvalue()
    assert [m["extrapolated"] for m in build_report(own)["front"]] == [None] * len(front)


def test_what_diverged_in_so_long_a_training_is_expected_nothing_of(own):
    front = [member["id"] for member in build_report(own)["front"]]
    everyone = choose(own, 60, len(TOKENS), 50, 16)
    about = begin([c for c in everyone if len(c.losses) == len(TOKENS)], 4.0, TOKENS, "x", None)
    for e in about["sample"]:
        if e["id"] == front[0]:
            note(about, e, "non_finite", None, "loss is nan", 4.0)
        else:
            note(about, e, "ok", later(own, e["id"]), "", 4.0)
    about["summary"] = summary_of(own, about)
    own.commit({"generation": len(own.generations), "rungs": [60, 20, 8]}, [])
    write_calibration(own.folder, about)
    report = build_report(own)
    assert report["calibration"] == about["summary"] and report["calibration"]["diverged"] == 1
    of = {m["id"]: m["extrapolated"] for m in report["front"]}
    assert of[front[0]] is None and all(of[i] is not None for i in front[1:])
    assert "1 more diverged in so long a training: none of these numbers tell of it." in lines(about["summary"])
    assert not any("diverged" in line for line in lines({**about["summary"], "diverged": 0}))


def test_beside_a_seed_stands_how_much_it_gains_by_then():
    seed = {"extrapolated": {"tokens": 9, "value": 2.0, "spread": None}}
    member = {"extrapolated": {"tokens": 9, "value": 1.5, "spread": 0.1}}
    assert _ahead(member, [seed]) == ("~1.50 ±0.10", "-25%") and _ahead(member, []) == ("~1.50 ±0.10", "")
    assert _ahead(seed, [seed]) == ("2", "=") and _ahead({}, [seed]) == ("-", "")


def test_too_few_at_the_last_rung_are_told(climbed):
    few = [c for c in choose(climbed, 60, len(TOKENS), 50, 16) if len(c.losses) == 3][:4]
    about = begin(few, 4.0, TOKENS, None, None)
    for e in about["sample"]:
        note(about, e, "ok", 1.0, "", 4.0)
    summary = summary_of(climbed, about)
    assert summary["extrapolation"] == {"tokens": 16384, "genomes": 4, "error": None}
    said = "Nothing is extrapolated: of those at the last rung 4 were trained longer, it takes 6."
    assert said in lines(summary)


def test_seeds_count_whatever_sample_is_asked_for(climbed):
    chosen = choose(climbed, 60, len(TOKENS), 50, 16)
    about = begin(chosen, 4.0, TOKENS, None, None, choose_again(chosen, 3, 6))
    for k, e in enumerate(about["again"]):
        note(about, e, "ok", e["losses"][-1] + 0.1 * k, "", AS_LONG)
    write_calibration(climbed.folder, about)
    after = begin(chosen, 9.0, TOKENS, None, read_calibration(climbed.folder))
    (climbed.folder / FILE).unlink()
    expected = np.std(0.1 * np.arange(6), ddof=1) / np.sqrt(2)
    assert summary_of(climbed, after)["seed_noise"] == {"genomes": 6, "loss": pytest.approx(expected)}
