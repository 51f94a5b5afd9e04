"""The search: the same seed gives the same run, an interruption changes nothing, a failure costs one candidate."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evonas.errors import EXIT_FAILED, EvonasError
from evonas.evolution import Engine
from evonas.evolution.selection import non_dominated
from evonas.genome import Genome, space_from_dict, space_to_dict
from evonas.record import MEASURED_AGAIN, Constraint, Objective
from evonas.report.compare import compare
from evonas.search import bring_here
from evonas.search.verdict import Verdict, bugs_at_the_end
from evonas.store import Store, note_revised, told_records

from .conftest import logged

HERE = Path(__file__).parent


def digest(folder) -> dict:
    """All that a run found, but for what it cost, in an order that does not depend on who finished first."""
    store = Store.open(folder)
    records = []
    for record in sorted(store.records, key=lambda r: (r.generation, r.index)):
        entry = store.genomes[record.genome_id]
        data = {k: v for k, v in record.to_dict().items() if k != "cost"}
        records.append((data, dict(entry.genome), entry.parents, entry.operator, entry.label))
    rows = [
        {
            k: g[k]
            for k in ("generation", "evaluations", "front_size", "hypervolume", "failures", "rng", "best", "credit")
        }
        | {"surrogate": g.get("surrogate")}
        for g in store.generations
    ]
    populations = [store.population(g["generation"]) for g in store.generations]
    return {"records": records, "rows": rows, "populations": populations, "reference": store.header["reference"]}


# -- the same seed, the same run ------------------------------------------------------------------------------------


def test_workers_and_processes_make_no_difference(targets, tmp_path, text_file, space_file):
    found = {}
    for executor, workers in (("serial", 1), ("processes", 1), ("processes", 2)):
        folder = tmp_path / f"{executor}{workers}"
        assert targets.run_on_text(folder, text_file, space_file, executor, workers) == "generations"
        found[folder.name] = digest(folder)
    command = [sys.executable, targets.__file__, tmp_path / "other", text_file, space_file, "serial", "1"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    found["other"] = digest(tmp_path / "other")
    assert len(found["serial1"]["records"]) == 25
    assert all(r[0]["status"] == "ok" for r in found["serial1"]["records"])
    for name, one in found.items():
        assert one == found["serial1"], name


def test_another_seed_is_another_run(targets, tmp_path, curve):
    for seed in (1, 2):
        targets.run(tmp_path / str(seed), curve, 2, seed=seed)
    assert digest(tmp_path / "1") != digest(tmp_path / "2")


# -- what a run writes ----------------------------------------------------------------------------------------------


def test_every_generation_says_what_was_found(targets, tmp_path, curve):
    assert targets.run(tmp_path / "run", curve, 6) == "generations"
    store = Store.open(tmp_path / "run")
    assert [g["generation"] for g in store.generations] == list(range(6))
    assert [g["evaluations"] for g in store.generations] == [6 * (k + 1) for k in range(6)]
    for row in store.generations:
        so_far = [r for r in store.records if r.generation <= row["generation"]]
        points = np.array([[r.value("loss"), r.value("latency")] for r in so_far])
        assert row["best"] == {"loss": points[:, 0].min(), "latency": points[:, 1].min()}
        assert row["front_size"] == non_dominated(points).sum()
        assert len(store.population(row["generation"])) == 6
        after = {"seed": 1, "next_generation": row["generation"] + 1, "exhausted": False, "reserve": []}
        assert row["rng"] == after
    volumes = [g["hypervolume"] for g in store.generations]
    assert volumes == sorted(volumes) and volumes[-1] > volumes[0] > 0


def test_seed_genomes_come_first_and_keep_their_names(targets, tmp_path, curve):
    space = targets.own_space()
    seeds = [space.sample(np.random.default_rng(k)) for k in range(2)]
    targets.run(tmp_path / "run", curve, 1, seeds=seeds, labels={seeds[0].id: "mine"})
    store = Store.open(tmp_path / "run")
    first = {r.index: r.genome_id for r in store.records}
    assert [first[0], first[1]] == [g.id for g in seeds]
    assert store.genomes[seeds[0].id].label == "mine" and store.genomes[seeds[0].id].operator == "seed"
    children = [e for e in store.genomes.values() if set(e.parents) & {g.id for g in seeds}]
    assert children and all(e.generation == 0 for e in children), "and there are mutants around them"


def test_what_is_to_be_maximised_is(targets, tmp_path, curve):
    evaluator = targets.Curve(curve.folder, needs=("skill", "latency"))
    goals = (Objective("skill", direction="max"), Objective("latency"))
    targets.run(tmp_path / "run", evaluator, 4, objectives=goals)
    store = Store.open(tmp_path / "run")
    assert store.generations[-1]["best"]["skill"] == max(r.value("skill") for r in store.records)
    best = max(store.records, key=lambda r: r.value("skill"))
    assert best.genome_id in store.population()


def test_a_small_space_is_exhausted_and_nothing_is_paid_for_twice(targets, tmp_path, curve):
    genes = {"width": {"low": 1, "high": 4}, "mood": ["fine"], "learning_rate": [1e-3, 1e-2]}
    space = targets.space_from_dict({"kind": "custom", "genes": genes})
    for _ in range(2):
        assert targets.run(tmp_path / "run", curve, 50, space=space) == "exhausted"
        assert len(Store.open(tmp_path / "run").records) == 8
    assert sorted(logged(curve, "begin train")) == sorted(set(logged(curve, "begin train")))


def move(targets, folder, here, deadline=None) -> None:
    with targets.make_executor("serial", here, 1) as executor, Store.open(folder, write=True) as store:
        bring_here(store, executor, here, "elsewhere", 60.0, deadline)


def test_on_another_machine_everything_is_measured_again(targets, tmp_path, curve):
    curve.rungs = (1, 4)
    folder = tmp_path / "run"
    targets.run(folder, curve, 6, device="cpu")
    before = logged(curve, "begin measure")
    here = targets.Elsewhere(curve.folder, rungs=(1, 4))
    move(targets, folder, here)
    again = logged(curve, "begin measure")[len(before) :]
    assert sorted(before) == sorted(again)
    store = Store.open(folder)
    for genome_id, entry in store.genomes.items():
        latency = store.record_of(genome_id).measures["latency"]
        assert (latency.device, latency.value) == ("elsewhere", pytest.approx(0.2 * entry.genome["width"]))
    assert {r.measures["latency"].device for r in compare(store).records} == {"elsewhere"}
    engine = targets.restored(folder, here, device="elsewhere")
    assert all(told[1] == pytest.approx(0.2 * i.genome.width) for i in engine.archive.values() for told in i.told)
    move(targets, folder, here)
    targets.run(folder, here, 7, device="elsewhere")
    new = {g.genome.architecture_id for g in Store.open(folder).genomes.values()} - set(before)
    assert sorted(logged(curve, "begin measure")[len(before) + len(again) :]) == sorted(new), "and once"


def test_what_breaks_a_constraint_there_is_no_parent(targets, tmp_path, curve):
    limit = (Constraint.parse("latency<=2ms"),)
    curve.rungs, folder = (1, 4), tmp_path / "run"
    targets.run(folder, curve, 6, device="cpu", constraints=limit)
    here = targets.Elsewhere(curve.folder, rungs=(1, 4))
    move(targets, folder, here)
    engine = targets.restored(folder, here, device="elsewhere", constraints=limit)
    slow = {i for i, e in Store.open(folder).genomes.items() if 10 < e.genome["width"] <= 20}
    assert slow and not any(i.feasible for i in engine.population if i.genome.id in slow)
    assert engine.front() and all(i.told[-1][1] <= 2 for i in engine.archive.values())
    # Known of what was ruled out are times of here alone: of what was ruled out before it moved, none.
    known = {i: individual.partly for i, individual in engine.refused.items()}
    widths = {i: e.genome["width"] for i, e in Store.open(folder).genomes.items()}
    assert slow & set(known) and {i for i, values in known.items() if values} == {i for i in known if widths[i] <= 20}
    assert all(values == {"latency": pytest.approx(0.2 * widths[i])} for i, values in known.items() if values)


def test_what_was_begun_here_and_goes_on_there_is_judged_there(targets, tmp_path, curve):
    """Within the first generation: what comes back at its place has its time there, and breaks the constraint."""
    limit, folder = (Constraint.parse("latency<=2ms"),), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        targets.run(folder, curve, 3, device="cpu", constraints=limit, listener=targets.Stop("evaluated", 6))
    here = targets.Elsewhere(curve.folder)
    move(targets, folder, here)
    targets.run(folder, here, 3, device="elsewhere", constraints=limit)
    store = Store.open(folder)
    slow = {i for i, e in store.genomes.items() if 10 < e.genome["width"] <= 20}
    front = targets.restored(folder, here, rungs=1, device="elsewhere", constraints=limit).front()
    assert slow and front and not slow & {i.genome.id for i in front}
    best = [i for i, e in store.genomes.items() if e.genome["width"] <= 10]
    losses = [min(r.value("loss") for i in best for r in store.records_of(i) if r.generation <= k) for k in range(3)]
    assert [g["best"]["loss"] for g in store.generations] == losses, "live, too"


def test_back_on_the_first_machine_all_rungs_have_its_times(targets, tmp_path, curve):
    """A latency that changes from rung to rung would be no size."""
    curve.rungs, folder = (1, 4), tmp_path / "run"
    targets.run(folder, curve, 6, device="cpu")
    move(targets, folder, targets.Elsewhere(curve.folder, rungs=(1, 4)))
    with targets.make_executor("serial", targets.Slower(curve), 1) as executor, Store.open(folder, write=True) as store:
        bring_here(store, executor, curve, "cpu", 60.0)
    engine = targets.restored(folder, curve, device="cpu")
    assert any(i.rung for i in engine.archive.values())
    assert all(told[1] == pytest.approx(0.11 * i.genome.width) for i in engine.archive.values() for told in i.told)
    assert engine.steady().keys() == {1}


def slow_the_top(store, factor: float) -> set[str]:
    """As settling revises it, those at the last rung take ``factor`` times as long: ids of their architectures."""
    found = set()
    for genome_id, entry in store.genomes.items():
        record = store.record_of(genome_id)
        if record.measures["loss"].fidelity == "4 tokens":
            latency = record.measures["latency"]
            measures = {**record.measures, "latency": replace(latency, value=factor * latency.value)}
            more = {"measures": measures, "cost": {}, "provenance": {"times_measured": 2}, "reason": MEASURED_AGAIN}
            store.append(entry.genome, replace(record, **more))
            found.add(entry.genome.architecture_id)
    return found


def test_what_settling_says_of_an_architecture_counts_for_all_that_have_it(targets, tmp_path, curve):
    """Or a twin at a lower rung were faster than the same network on the front."""
    curve.rungs, folder, space = (1, 4), tmp_path / "run", targets.own_space(widths=(1, 6))
    targets.run(folder, curve, 8, device="cpu", space=space)
    with Store.open(folder, write=True) as store:
        settled = slow_the_top(store, 1.05)
    told = targets.restored(folder, curve, device="cpu").archive.values()
    assert any(i.rung == 0 and i.genome.architecture_id in settled for i in told)
    for i in told:
        latency = (0.105 if i.genome.architecture_id in settled else 0.1) * i.genome.width
        assert [row[1] for row in i.told] == pytest.approx([latency] * len(i.told))


def test_one_that_can_not_be_measured_there_begins_nothing_anew(targets, tmp_path, curve):
    folder = tmp_path / "run"
    targets.run(folder, curve, 4, device="cpu")
    move(targets, folder, targets.Elsewhere(curve.folder))
    targets.run(folder, targets.Elsewhere(curve.folder), 6, device="elsewhere")
    with Store.open(folder, write=True) as store:
        before = store.header
        first = store.genomes[store.records[0].genome_id].genome
        store.append(first, replace(store.record_of(first.id), measures=store.records[0].measures))  # as on the other
        with targets.make_executor("serial", targets.Unmeasurable(curve.folder), 1) as executor:
            bring_here(store, executor, curve, "elsewhere", 60.0)
        assert (store.header["notes"], store.header["reference"]) == (before["notes"], before["reference"])


def test_prices_are_of_trainings_here_and_outlive_measuring_again(targets, tmp_path, curve):
    folder = tmp_path / "run"
    targets.run(folder, curve, 4, device="cpu")
    with Store.open(folder, write=True) as store:
        for i in store.population():
            again = replace(store.record_of(i), cost={}, reason=MEASURED_AGAIN)
            store.append(store.genomes[i].genome, again)
    prices = targets.restored(folder, curve, rungs=1, device="cpu").prices
    assert prices.keys() == Store.open(folder).genomes.keys() and set(prices.values()) == {0.5}
    here = targets.Elsewhere(curve.folder)
    move(targets, folder, here)
    assert not targets.restored(folder, here, rungs=1, device="elsewhere").prices


def test_a_deadline_chooses_by_price_from_the_first_generation_on(targets, tmp_path, curve, monkeypatch):
    curve.rungs = (1, 4)
    folder = tmp_path / "run"
    targets.run(folder, curve, 8, offspring=4)
    chosen = []
    promote = Engine._promote
    monkeypatch.setattr(Engine, "_promote", lambda self: (chosen.append(self.frugal), promote(self)))
    targets.run(folder, curve, 9, offspring=4, deadline=time.monotonic() + 60)
    assert chosen[0] is False and chosen[1:] and all(chosen[1:])


def test_what_can_not_be_measured_there_is_forgotten(targets, tmp_path, curve):
    folder = tmp_path / "run"
    targets.run(folder, curve, 4, device="cpu")
    engine = targets.restored(folder, curve, device="elsewhere", rungs=1)
    assert not engine.archive and engine.failed and len(engine.seen) == len(Store.open(folder).genomes)


def test_a_move_that_a_deadline_ends_is_gone_on_with(targets, tmp_path, curve):
    folder = tmp_path / "run"
    targets.run(folder, curve, 4, device="cpu")
    here = targets.Elsewhere(curve.folder)
    with pytest.raises(EvonasError, match=r"\d+ of \d+ architectures of run 'run' could not be measured"):
        move(targets, folder, here, time.monotonic())
    move(targets, folder, here)
    assert all(r.measures["latency"].device == "elsewhere" for r in compare(Store.open(folder)).records)


def test_hypervolumes_of_two_machines_are_not_compared(targets, tmp_path, curve):
    """On one that takes twice as long it has not ceased to grow."""
    folder = tmp_path / "run"
    targets.run(folder, curve, 8, device="cpu")
    before = Store.open(folder).generations[-1]["hypervolume"]
    here = targets.Elsewhere(curve.folder)
    move(targets, folder, here)
    assert targets.run(folder, here, 40, device="elsewhere", patience=6) == "patience"
    rows = Store.open(folder).generations
    assert rows[-1]["generation"] >= 8 + 6 and rows[8]["hypervolume"] > 0.8 * before


def test_nor_are_those_before_and_after_settling(targets, tmp_path, curve):
    """With times that have become longer it has not ceased to grow."""
    curve.rungs, folder = (1, 4), tmp_path / "run"
    targets.run(folder, curve, 12, device="cpu")
    with Store.open(folder, write=True) as store:
        note_revised(store)
        slow_the_top(store, 1.5)
    assert targets.run(folder, curve, 12 + 6, device="cpu", patience=6) == "generations"


# -- what is paid for -----------------------------------------------------------------------------------------------


def test_an_architecture_is_measured_once_and_a_genome_trained_once(targets, tmp_path, curve):
    space = targets.own_space(widths=(1, 5))
    with pytest.raises(KeyboardInterrupt):
        targets.run(tmp_path / "run", curve, 5, space=space, listener=targets.Stop("evaluated", 10))
    targets.run(tmp_path / "run", curve, 5, space=space)
    store = Store.open(tmp_path / "run")
    architectures = {e.genome.architecture_id for e in store.genomes.values()}
    assert len(store.records) == 30 and len(architectures) <= 5
    assert sorted(logged(curve, "begin measure")) == sorted(architectures)
    assert sorted(logged(curve, "begin train")) == sorted(store.genomes)
    for record in store.records:
        width = store.genomes[record.genome_id].genome.width
        assert record.value("latency") == pytest.approx(0.1 * width), "a measurement serves all that share it"


def test_nothing_trains_while_something_is_measured(targets, tmp_path, curve):
    targets.run(tmp_path / "run", curve, 3, executor="processes", workers=2)
    open_trainings = 0
    for line in (curve.folder / "log").read_text().splitlines():
        edge, what, _ = line.split()
        if what == "train":
            open_trainings += 1 if edge == "begin" else -1
        else:
            assert open_trainings == 0, line
    assert len(logged(curve, "end train")) == 18 and logged(curve, "end measure")


def test_only_what_has_a_name_is_called(targets, tmp_path, curve):
    evaluator = targets.Curve(curve.folder, needs=("flops", "latency"))
    targets.run(tmp_path / "run", evaluator, 2, objectives=("flops", "latency"))
    assert logged(curve, "begin measure") and not logged(curve, "begin train")


# -- constraints ----------------------------------------------------------------------------------------------------


def test_what_breaks_a_constraint_is_not_trained(targets, tmp_path, curve):
    bound = Constraint.parse("latency<=1.5ms")
    targets.run(tmp_path / "run", curve, 4, constraints=[bound])
    store = Store.open(tmp_path / "run")
    wide = {i for i, e in store.genomes.items() if e.genome.width > 15}
    assert wide and {r.genome_id for r in store.records if r.status == "infeasible"} == wide
    assert not wide & set(logged(curve, "begin train"))
    for record in (r for r in store.records if r.genome_id in wide):
        assert set(record.measures) == {"latency"} and "latency<=1.5ms is broken" in record.reason
    assert not wide & set(store.front_ids())
    assert store.generations[-1]["failures"] == {"infeasible": len(wide)}


def test_the_engine_is_told_what_was_measured_of_what_is_not_trained(targets, tmp_path, curve, monkeypatch):
    told, tell = {}, Engine.tell

    def noting(engine, candidate, values, violation=0.0):
        told[candidate.genome.id] = values
        tell(engine, candidate, values, violation)

    monkeypatch.setattr(Engine, "tell", noting)
    bound = {"constraints": [Constraint.parse("latency<=1.5ms")]}
    targets.run(tmp_path / "run", curve, 4, **bound)
    records = Store.open(tmp_path / "run").records
    measured = {r.genome_id: {"latency": r.value("latency")} for r in records if r.status == "infeasible"}
    assert measured and {i: told[i] for i in measured} == measured
    again = targets.restored(tmp_path / "run", curve, rungs=1, **bound)
    assert {i: individual.partly for i, individual in again.refused.items()} == measured


def test_a_constraint_on_the_loss_is_checked_after_training(targets, tmp_path, curve):
    targets.run(tmp_path / "run", curve, 3, constraints=[Constraint.parse("loss<=0.3")])
    store = Store.open(tmp_path / "run")
    statuses = {r.genome_id: r.status for r in store.records}
    for record in store.records:
        assert record.status == ("ok" if record.value("loss") <= 0.3 else "infeasible")
    assert set(statuses.values()) == {"ok", "infeasible"}
    assert all(statuses[i] == "ok" for i in store.front_ids())


def test_the_infeasible_guide_the_search_towards_the_bound(targets, tmp_path, curve):
    """Only 1 width of 40 will do, and the first population does not hold it."""
    tried = found = 0
    for seed in range(5, 17):
        folder = tmp_path / f"run{seed}"
        with contextlib.suppress(EvonasError):  # given up after five generations
            targets.run(folder, curve, 12, constraints=[Constraint.parse("latency<=0.15")], seed=seed)
        records = Store.open(folder).records
        if not any(r.ok for r in records if r.generation == 0):
            tried, found = tried + 1, found + any(r.ok for r in records)
    assert tried >= 8 and found >= 0.75 * tried  # at random: a good half


def test_a_constraint_that_nothing_meets_ends_the_run_with_the_closest_value(targets, tmp_path, curve):
    with pytest.raises(EvonasError) as caught:
        targets.run(tmp_path / "run", curve, 50, constraints=[Constraint.parse("latency<=0.05")])
    store = Store.open(tmp_path / "run")
    closest = min(r.value("latency") for r in store.records)
    assert caught.value.exit_code == EXIT_FAILED and caught.value.hint
    assert f"no candidate has met latency<=0.05ms in {len(store.records)} evaluations" in caught.value.message
    assert f"the closest that broke it has latency {closest:.4g}" in caught.value.message
    assert not logged(curve, "begin train")


def test_a_constraint_that_nothing_meets_ends_an_interrupted_run_at_the_same_generation(targets, tmp_path, curve):
    options = {"constraints": [Constraint.parse("latency<=0.05")]}
    with pytest.raises(EvonasError, match="no candidate has met"):
        targets.run(tmp_path / "whole", curve, 50, **options)
    for _ in range(50):
        with pytest.raises((KeyboardInterrupt, EvonasError)) as caught:
            targets.run(tmp_path / "run", curve, 50, listener=targets.Stop("generation_finished", 2), **options)
        if caught.type is EvonasError:
            break
    done, whole = (len(Store.open(tmp_path / name).generations) for name in ("run", "whole"))
    assert done == whole < 50


def test_so_does_one_whose_losses_are_judged_at_the_last_rung(targets, tmp_path, curve):
    evaluator = targets.Curve(curve.folder, rungs=(1, 4))
    how = {"constraints": [Constraint.parse("loss<=0.001")], "population": 8, "offspring": 6}
    ends = []
    for name, every in (("whole", None), ("run", 17)):
        while True:
            listener = {} if every is None else {"listener": targets.Stop("evaluated", every)}
            try:
                targets.run(tmp_path / name, evaluator, 60, **how, **listener)
            except KeyboardInterrupt:
                continue
            except EvonasError as error:
                assert "no candidate has met" in error.message
            break
        ends.append(len(Store.open(tmp_path / name).generations))
    assert ends[0] == ends[1] < 60


def test_it_says_so_where_what_meets_it_fails(targets, tmp_path, curve):
    """Narrow genomes raise when they are trained: the constraint is not to blame alone."""
    space = targets.space_from_dict(
        {
            "kind": "custom",
            "genes": {"width": {"low": 1, "high": 40}, "mood": ["fine", "raise"], "learning_rate": [1e-3, 1e-2]},
            "rules": ["width > 15 or mood == 'raise'"],
        }
    )
    with pytest.raises(EvonasError, match=r"without failing \(\d+ failed, \d+ broke a constraint\)"):
        targets.run(tmp_path / "run", curve, 50, space=space, constraints=[Constraint.parse("latency<=1.5")])


def test_it_is_no_success_to_reach_the_goal_or_the_deadline_without_anything_that_meets_it(targets, tmp_path, curve):
    options = {"constraints": [Constraint.parse("loss<=0.0001")], "executor": "serial"}
    for generations in (1, 2):
        with pytest.raises(EvonasError, match=f"no candidate has met .* in {6 * generations} evaluations") as caught:
            targets.run(tmp_path / "run", curve, generations, **options)
        assert caught.value.exit_code == EXIT_FAILED
    with pytest.raises(EvonasError, match="no candidate has met"):
        targets.run(tmp_path / "run", curve, 9, deadline=time.monotonic() - 1, **options)


def test_it_ends_so_too_when_the_space_is_exhausted_first(targets, tmp_path, curve):
    space = targets.space_from_dict(
        {"kind": "custom", "genes": {"width": {"low": 2, "high": 9}, "mood": ["fine"], "learning_rate": [1e-3]}}
    )
    with pytest.raises(EvonasError, match=r"no candidate has met .* the closest that broke it has latency 0\.2"):
        targets.run(tmp_path / "run", curve, 50, space=space, constraints=[Constraint.parse("latency<=0.1")])


# -- interruptions --------------------------------------------------------------------------------------------------

CONSTRAINTS = [Constraint.parse("latency<=3ms")]


@pytest.fixture(scope="module")
def whole(targets, tmp_path_factory):
    """What an uninterrupted run of five generations finds, infeasible and failing genomes among it."""
    folder = tmp_path_factory.mktemp("whole")
    space = targets.own_space(("fine", "raise", "nan"))
    targets.run(folder / "run", targets.Curve(folder), 5, space=space, constraints=CONSTRAINTS)
    found = digest(folder / "run")
    assert {r[0]["status"] for r in found["records"]} == {"ok", "infeasible", "error", "non_finite"}
    return found


@pytest.mark.parametrize(
    ("event", "after"),
    [("evaluated", k) for k in (1, 5, 6, 7, 12, 17, 29, 30)]
    + [("generation_started", k) for k in (1, 3)]
    + [("generation_finished", k) for k in (1, 4, 5)],
)
def test_an_interrupted_run_ends_as_if_nothing_had_happened(targets, tmp_path, curve, whole, event, after):
    options = {"space": targets.own_space(("fine", "raise", "nan")), "constraints": CONSTRAINTS}
    with pytest.raises(KeyboardInterrupt):
        targets.run(tmp_path / "run", curve, 5, listener=targets.Stop(event, after), **options)
    if event == "evaluated":
        assert len(Store.open(tmp_path / "run").records) == after, "what was evaluated is on the disk"
    assert targets.run(tmp_path / "run", curve, 5, **options) == "generations"
    assert digest(tmp_path / "run") == whole


def test_so_does_one_that_is_interrupted_again_and_again(targets, tmp_path, curve, whole):
    options = {"space": targets.own_space(("fine", "raise", "nan")), "constraints": CONSTRAINTS}
    for _ in range(30):
        with pytest.raises(KeyboardInterrupt):
            targets.run(tmp_path / "run", curve, 5, listener=targets.Stop("evaluated", 1), **options)
    targets.run(tmp_path / "run", curve, 5, **options)
    assert digest(tmp_path / "run") == whole
    assert len(logged(curve, "begin train")) == len(set(logged(curve, "begin train")))


def test_a_run_that_is_extended_ends_as_one_that_was_longer_from_the_start(targets, tmp_path, curve, whole):
    options = {"space": targets.own_space(("fine", "raise", "nan")), "constraints": CONSTRAINTS}
    for generations in (1, 3, 3, 5):
        assert targets.run(tmp_path / "run", curve, generations, **options) == "generations"
    assert digest(tmp_path / "run") == whole


# -- rungs ----------------------------------------------------------------------------------------------------------

RUNGS = (1, 4, 16)


@pytest.fixture(scope="module")
def whole_with_rungs(targets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rungs")
    evaluator = targets.Curve(folder, rungs=RUNGS)
    targets.run(folder / "run", evaluator, 9, space=targets.own_space(("fine", "raise", "nan")), offspring=4)
    return digest(folder / "run"), (folder / "retained").read_text().splitlines(), Store.open(folder / "run")


def test_the_best_come_again_at_the_next_rung(whole_with_rungs):
    _, _, store = whole_with_rungs
    by_genome: dict[str, list[str]] = {}
    for record in sorted(store.records, key=lambda r: (r.generation, r.index)):
        if record.ok:
            by_genome.setdefault(record.genome_id, []).append(record.measures["loss"].fidelity)
    assert all(found == [f"{n} tokens" for n in RUNGS[: len(found)]] for found in by_genome.values())
    assert {len(found) for found in by_genome.values()} == {1, 2, 3}
    top = [i for i, found in by_genome.items() if len(found) == 3]
    assert store.generations[0]["hypervolume"] == 0 < store.generations[-1]["hypervolume"]
    assert 0 < store.generations[-1]["front_size"] <= len(top)


def test_what_goes_on_trains_before_what_is_new_however_large(targets, tmp_path, curve):
    # What will be on the front is there sooner. A serial executor writes records in the order it is given.
    curve.rungs = RUNGS
    genes = {**space_to_dict(targets.own_space())["genes"], "n_layers": {"low": 1, "high": 999}}
    space = space_from_dict({"kind": "custom", "name": "own", "genes": genes})
    targets.run(tmp_path / "run", curve, 9, space=space, offspring=4)
    rungs: dict[str, int] = {}
    trained: dict[int, list[tuple[int, int]]] = {}
    store = Store.open(tmp_path / "run")
    for record in store.records:
        rung = rungs[record.genome_id] = rungs.get(record.genome_id, -1) + 1
        trained.setdefault(record.generation, []).append((rung, store.genomes[record.genome_id].genome["n_layers"]))
    assert any(len({rung for rung, _ in found}) == 3 for found in trained.values())
    for found in trained.values():
        assert found == sorted(found, reverse=True)


def test_only_what_may_come_again_is_kept(whole_with_rungs):
    _, retained, store = whole_with_rungs
    assert len(retained) == 9
    for g, ids in zip(store.generations, retained):
        kept = set(ids.split(",")) - {""}
        later = {r.genome_id for r in store.records if r.generation > g["generation"]}
        earlier = {r.genome_id for r in store.records if r.generation <= g["generation"]}
        assert later & earlier <= kept <= earlier


@pytest.mark.parametrize("every", [1, 3, 8])
def test_a_run_with_rungs_that_is_interrupted_ends_the_same(targets, tmp_path, curve, whole_with_rungs, every):
    curve.rungs = RUNGS
    options = {"space": targets.own_space(("fine", "raise", "nan")), "offspring": 4}
    count = len(whole_with_rungs[0]["records"])
    for _ in range(count // every):
        with pytest.raises(KeyboardInterrupt):
            targets.run(tmp_path / "run", curve, 9, listener=targets.Stop("evaluated", every), **options)
    targets.run(tmp_path / "run", curve, 9, **options)
    assert digest(tmp_path / "run") == whole_with_rungs[0]


@pytest.mark.parametrize("rungs", [(1, 4), RUNGS])
@pytest.mark.parametrize("after", range(1, 6))
def test_what_was_trained_for_an_end_that_is_put_off_is_not_trained_again(targets, tmp_path, curve, rungs, after):
    """Interrupted in the last generation, in which the front goes on, and resumed with another end, and again: others
    go on then."""
    curve.rungs = rungs
    options = {"offspring": 4, "seed": 3}
    folder = tmp_path / "run"
    targets.run(folder, curve, 5, **options)
    with pytest.raises(KeyboardInterrupt):
        targets.run(folder, curve, 6, listener=targets.Stop("evaluated", after), **options)
    for generations in (9, 10, 14):
        targets.run(folder, curve, generations, **options)
        trained = logged(curve, "end train")
        store = Store.open(folder)
        paid = [r for r in store.records if r.cost]
        assert len(paid) == len(trained) == len({(r.genome_id, r.measures["loss"].fidelity) for r in paid})
        told = [(rung, record) for rung, told, record in told_records(store) if told]
        for rung, record in told:
            assert record.measures["loss"].fidelity == f"{rungs[rung]} tokens"
        assert len({(rung, r.genome_id) for rung, r in told}) == len(told)
        assert {r.genome_id for _, r in told} <= {i for g in store.generations for _, i in g["asked"]}


@pytest.mark.parametrize("every", [5, 11])
def test_a_search_with_a_surrogate_that_is_interrupted_ends_the_same(targets, tmp_path, curve, every):
    """As ``evolve`` has it by default, failures and promotions among it."""
    curve.rungs = (1, 4)
    how = {
        "space": targets.own_space(("fine", "raise", "nan")), "population": 16, "offspring": 8, "initial": 8,
        "surrogate": True, "known": flops,
    }  # fmt: skip
    targets.run(tmp_path / "whole", curve, 10, **how)
    whole = Store.open(tmp_path / "whole")
    assert any(e.operator.startswith("screened+") for e in whole.genomes.values())
    assert {r.status for r in whole.records} >= {"ok", "error", "non_finite"} and len(whole.records) > 80
    for _ in range(len(whole.records) // every):
        with pytest.raises(KeyboardInterrupt):
            targets.run(tmp_path / "run", curve, 10, listener=targets.Stop("evaluated", every), **how)
    targets.run(tmp_path / "run", curve, 10, **how)
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def flops(genome) -> dict[str, float]:
    return {"flops": 1e3 * genome.width}


def test_a_run_from_before_it_said_who_was_asked_goes_on(targets, tmp_path, curve, monkeypatch):
    """Of several records of one genome in a generation the last counts, and none beyond the last rung."""
    curve.rungs = (1, 4)
    commit = Store.commit
    without = lambda self, row, members: commit(self, {k: v for k, v in row.items() if k != "asked"}, members)  # noqa: E731
    monkeypatch.setattr(Store, "commit", without)
    options = {"offspring": 4, "seed": 3}
    targets.run(tmp_path / "run", curve, 5, **options)
    with pytest.raises(KeyboardInterrupt):
        targets.run(tmp_path / "run", curve, 6, listener=targets.Stop("evaluated", 3), **options)
    targets.run(tmp_path / "run", curve, 9, **options)
    monkeypatch.undo()
    assert targets.run(tmp_path / "run", curve, 12, **options) == "generations"


def test_real_trainings_that_are_interrupted_go_on_from_their_weights(targets, tmp_path, text_file, space_file):
    targets.run_on_text(tmp_path / "whole", text_file, space_file, "serial", 1)
    found = digest(tmp_path / "whole")
    assert {len(Store.open(tmp_path / "whole").records_of(i)) for i in Store.open(tmp_path / "whole").genomes} == {1, 2}
    for after in (1, 4, 1, 2):
        with pytest.raises(KeyboardInterrupt):
            listener = targets.Stop("evaluated", after)
            targets.run_on_text(tmp_path / "run", text_file, space_file, "serial", 1, listener=listener)
    for path in list((tmp_path / "run" / "weights").iterdir())[:2]:
        path.unlink()  # what is lost is trained again
    targets.run_on_text(tmp_path / "run", text_file, space_file, "serial", 1)
    assert digest(tmp_path / "run") == found


def test_a_constraint_on_the_loss_counts_at_the_last_rung(targets, tmp_path, curve):
    curve.rungs = RUNGS
    bound = Constraint.parse("loss<=0.9")  # out of reach at the first rung
    targets.run(tmp_path / "run", curve, 8, offspring=4, constraints=(bound,))
    store = Store.open(tmp_path / "run")
    infeasible = [r for r in store.records if r.status == "infeasible"]
    assert all(r.measures["loss"].fidelity == "16 tokens" and r.value("loss") > 0.9 for r in infeasible)
    assert all(r.value("loss") <= 0.9 for r in store.records if r.ok and r.measures["loss"].fidelity == "16 tokens")
    assert store.generations[-1]["front_size"] > 0


def test_short_trainings_are_no_success_where_the_last_rung_meets_no_constraint(targets, tmp_path, curve):
    curve.rungs = RUNGS
    with pytest.raises(EvonasError, match=r"no candidate has met loss<=0.0001 in \d+ evaluations; the closest"):
        targets.run(tmp_path / "run", curve, 4, constraints=[Constraint.parse("loss<=0.0001")])
    assert any(r.ok for r in Store.open(tmp_path / "run").records)


def test_in_the_last_generations_the_expected_front_trains_to_the_end(targets, tmp_path, curve):
    curve.rungs = RUNGS
    targets.run(tmp_path / "run", curve, 9, offspring=4)
    store = Store.open(tmp_path / "run")
    late = [r for r in store.records if r.generation >= 7 and r.index >= 4]
    assert {r.measures["loss"].fidelity for r in late} >= {"16 tokens"}
    assert [g["generation"] for g in store.generations] == list(range(9))


def test_before_the_time_is_over_the_expected_front_trains_to_the_end(targets, tmp_path, curve):
    curve.rungs = RUNGS
    began = time.monotonic() + 1e6  # of a clock that a training moves on by what it says it takes
    clock = lambda: began + 0.5 * len(logged(curve, "begin train"))  # noqa: E731
    assert targets.run(tmp_path / "run", curve, 10**6, offspring=4, deadline=began + 40.0, clock=clock) == "budget"
    assert clock() <= began + 44.0, "a generation more"
    store = Store.open(tmp_path / "run")
    rungs: dict[int, list[int]] = {}
    for rung, told, record in told_records(store):
        if told:
            rungs.setdefault(record.generation, []).append(rung)
    assert any(0 not in found for found in rungs.values()), "a generation in which nothing new is begun"
    assert store.generations[-1]["hypervolume"] > 0


def tokens_paid(store) -> int:
    last = {}
    for record in sorted(store.records, key=lambda r: (r.generation, r.index)):
        last[record.genome_id] = int(record.measures["loss"].fidelity.split()[0])
    return sum(last.values())


@pytest.mark.parametrize("seeds", [0, 3])
@pytest.mark.parametrize(("population", "offspring"), [(8, 2), (16, 4), (16, 8)])
@pytest.mark.parametrize("rungs", [(1, 4), (1, 4, 16)])
@pytest.mark.parametrize("tokens", [40, 90])
def test_no_budget_of_tokens_is_exceeded(targets, tmp_path, curve, tokens, rungs, population, offspring, seeds):
    curve.rungs = rungs
    seeds = [targets.own_space().sample(np.random.default_rng(k)) for k in range(seeds)]
    options = {"population": population, "offspring": offspring, "initial": offspring, "seeds": seeds}
    assert targets.run(tmp_path / "run", curve, 10**6, tokens=tokens, **options) == "budget"
    assert tokens_paid(Store.open(tmp_path / "run")) <= tokens
    assert targets.run(tmp_path / "short", curve, 6, tokens=tokens, **options) in ("budget", "generations")
    assert tokens_paid(Store.open(tmp_path / "short")) <= tokens


@pytest.mark.parametrize("initial", [None, 3])
@pytest.mark.parametrize("tokens", [100, 200, 500])
def test_a_budget_of_tokens_is_kept_and_spent_on_a_trained_front(targets, tmp_path, curve, tokens, initial):
    curve.rungs = RUNGS
    assert targets.run(tmp_path / "run", curve, 10**6, offspring=4, initial=initial, tokens=tokens) == "budget"
    store = Store.open(tmp_path / "run")
    assert 0.9 * tokens <= tokens_paid(store) <= tokens
    late = [r.measures["loss"].fidelity for r in store.records if r.generation == store.records[-1].generation]
    assert "1 tokens" not in late and store.generations[-1]["front_size"] > 0


def test_it_stops_when_the_hypervolume_stands_still(targets, tmp_path, curve):
    curve.rungs = RUNGS
    assert targets.run(tmp_path / "run", curve, 200, offspring=4, patience=12) == "patience"
    rows = Store.open(tmp_path / "run").generations
    grown = [row["hypervolume"] for row in rows]
    now = len(rows) - len(RUNGS)
    assert 12 <= now < 150 and grown[now] <= grown[now - 12] * 1.001
    assert all(grown[k] > grown[k - 12] * 1.001 or grown[k] == 0 for k in range(12, now))
    assert targets.run(tmp_path / "run", curve, len(rows) + 3, offspring=4) == "generations", "it can be gone on with"


def test_patience_runs_out_the_same_when_interrupted(targets, tmp_path, curve):
    curve.rungs = RUNGS
    targets.run(tmp_path / "whole", curve, 200, offspring=4, patience=8)
    for _ in range(100):
        try:
            listener = targets.Stop("evaluated", 17)
            targets.run(tmp_path / "run", curve, 200, offspring=4, patience=8, listener=listener)
            break
        except KeyboardInterrupt:
            continue
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_patience_longer_than_the_search_changes_nothing(targets, tmp_path, curve):
    assert targets.run(tmp_path / "run", curve, 4, patience=10) == "generations"


def test_failures_count_in_a_budget_of_tokens(targets, tmp_path, curve):
    curve.rungs = RUNGS
    space = targets.own_space(("fine", "raise"))
    assert targets.run(tmp_path / "run", curve, 10**6, offspring=4, tokens=200, space=space) == "budget"
    records = sorted(Store.open(tmp_path / "run").records, key=lambda r: (r.generation, r.index))
    assert any(r.status == "error" for r in records)
    came = {r.genome_id: sum(s.genome_id == r.genome_id for s in records) for r in records}
    assert sum(RUNGS[n - 1] for n in came.values()) <= 200


def test_a_small_budget_of_tokens_ends_after_the_first_generation(targets, tmp_path, curve):
    curve.rungs = RUNGS
    assert targets.run(tmp_path / "run", curve, 10**6, offspring=4, tokens=5) == "budget"
    store = Store.open(tmp_path / "run")
    assert [row["generation"] for row in store.generations] == [0]


@pytest.mark.parametrize("initial", [None, 3])
def test_a_budget_of_tokens_ends_the_same_when_interrupted(targets, tmp_path, curve, initial):
    curve.rungs = RUNGS
    targets.run(tmp_path / "whole", curve, 10**6, offspring=4, initial=initial, tokens=200)
    for _ in range(100):
        try:
            listener = targets.Stop("evaluated", 7)
            targets.run(tmp_path / "run", curve, 10**6, offspring=4, initial=initial, tokens=200, listener=listener)
            break
        except KeyboardInterrupt:
            continue
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_a_few_failures_in_small_generations_do_not_end_a_run(targets, tmp_path, curve):
    space = targets.own_space(("fine", "raise", "nan"))
    assert targets.run(tmp_path / "run", curve, 30, space=space, population=6, offspring=1) == "generations"
    store = Store.open(tmp_path / "run")
    assert any(r.status == "error" and r.generation > 0 for r in store.records)


def test_a_loss_constraint_that_nothing_could_show_to_meet_is_no_success(targets, tmp_path, curve):
    curve.rungs = RUNGS
    with pytest.raises(EvonasError, match="nothing has come to the last rung") as caught:
        targets.run(tmp_path / "run", curve, 1, constraints=(Constraint.parse("loss<=0.5"),))
    assert caught.value.exit_code == EXIT_FAILED


def test_a_loss_constraint_that_is_hard_to_meet_is_given_time(targets, tmp_path, curve):
    """Few genomes come to the last rung in a few generations: that they all break it is no reason to give up."""
    curve.rungs = RUNGS
    with pytest.raises(EvonasError, match=r"no candidate has met loss<=0\.001"):
        targets.run(tmp_path / "run", curve, 20, offspring=2, constraints=(Constraint.parse("loss<=0.001"),))
    assert len(Store.open(tmp_path / "run").generations) > 8


def test_at_the_deadline_what_runs_is_stopped_and_resumed_later(targets, tmp_path, curve, when):
    targets.run(tmp_path / "whole", curve, 3)
    stuck = [e.genome.id for e in Store.open(tmp_path / "whole").genomes.values() if e.generation == 1][2]
    (curve.folder / "stuck").write_text(stuck)
    options = {"executor": "processes", "workers": 2}
    deadline = when(lambda: logged(curve, "begin train").count(stuck) == 2)  # once was in the whole run
    ended = targets.run(tmp_path / "run", curve, 3, deadline=deadline, **options)
    assert logged(curve, "begin train").count(stuck) == 2
    store = Store.open(tmp_path / "run")
    assert ended == "budget" and len(store.records) < 12 and store.record_of(stuck) is None
    (curve.folder / "stuck").unlink()
    assert targets.run(tmp_path / "run", curve, 3, **options) == "generations"
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_a_deadline_that_has_passed_starts_nothing(targets, tmp_path, curve):
    assert targets.run(tmp_path / "run", curve, 3, deadline=time.monotonic() - 1) == "budget"
    assert not logged(curve, "begin measure") and not Store.open(tmp_path / "run").records


# -- failures -------------------------------------------------------------------------------------------------------


def test_every_kind_of_failure_becomes_a_record_and_the_run_goes_on(targets, tmp_path, curve, monkeypatch):
    evaluator = targets.Curve(curve.folder, needs=("loss", "latency", "flops"))
    seeds = [Genome({"width": 5 + k, "mood": m, "learning_rate": 0.003}) for k, m in enumerate(targets.MOODS)]
    monkeypatch.setattr(targets, "Search", targets.Patient)
    ended = targets.run(
        tmp_path / "run", evaluator, 2, space=targets.own_space(targets.MOODS), seeds=seeds, population=len(seeds),
        objectives=("loss", "latency", "flops"), executor="processes", workers=2,
    )  # fmt: skip
    assert ended == "generations"
    store = Store.open(tmp_path / "run")
    assert len(store.records) == 2 * len(seeds) and len(store.generations) == 2
    for record in store.records:
        mood = store.genomes[record.genome_id].genome.mood
        assert record.status == targets.STATUS_OF[mood], mood
        assert record.ok or record.reason
    kept = {*store.population(0), *store.population(1), *store.front_ids()}
    assert all(store.genomes[i].genome.mood == "fine" for i in kept)
    assert store.population(0) == [seeds[0].id] and store.generations[0]["front_size"] == 1
    assert sum(store.generations[0]["failures"].values()) == len(seeds) - 1
    by_mood = {store.genomes[r.genome_id].genome.mood: r for r in store.records if r.generation == 0}
    assert "bad mood" in by_mood["raise"].reason and "no such kernel" in by_mood["measure_raise"].reason
    assert set(by_mood["raise"].measures) == {"latency", "flops"}, "what is known of it is kept"
    assert set(by_mood["nan"].measures) == {"latency", "flops"}
    trained = set(logged(curve, "begin train"))
    for mood in ("measure_raise", "measure_crash", "exact_nan"):
        assert by_mood[mood].genome_id not in trained


@pytest.mark.parametrize("needs", [("loss", "latency"), ("loss", "flops")])
def test_a_generation_that_fails_whole_ends_the_run_which_can_be_resumed(targets, tmp_path, curve, needs):
    evaluator = targets.Curve(curve.folder, needs=needs)
    targets.run(tmp_path / "run", evaluator, 1, objectives=needs)
    (curve.folder / "broken").touch()
    with pytest.raises(EvonasError) as caught:
        targets.run(tmp_path / "run", evaluator, 5, objectives=needs)
    assert caught.value.exit_code == EXIT_FAILED
    assert "3 candidates in a row failed with the same error, ValueError: bad mood in" in caught.value.message
    again = f"evonas resume {tmp_path / 'run'}"  # it is in no runs/
    assert "search_targets.py:" in caught.value.message and again in caught.value.hint
    assert "\n" not in caught.value.message
    (curve.folder / "broken").unlink()
    assert targets.run(tmp_path / "run", evaluator, 5, objectives=needs) == "generations"
    store = Store.open(tmp_path / "run")
    assert [sum(r.ok for r in store.records if r.generation == g) for g in range(5)] == [6, 6, 6, 6, 6]
    assert [r.status for r in store.records if r.generation == 1] == ["error"] * 3 + ["ok"] * 6, "what failed is kept"


def test_a_first_generation_that_fails_whole_can_be_resumed_too(targets, tmp_path, curve):
    (curve.folder / "broken").touch()
    with pytest.raises(EvonasError, match="3 candidates in a row failed"):
        targets.run(tmp_path / "run", curve, 3)
    (curve.folder / "broken").unlink()
    assert targets.run(tmp_path / "run", curve, 3) == "generations"
    store = Store.open(tmp_path / "run")
    assert store.generations[-1]["hypervolume"] > 0 and store.header["reference"] is not None
    (tmp_path / "other").mkdir()
    targets.run(tmp_path / "whole", targets.Curve(tmp_path / "other"), 3)
    assert digest(tmp_path / "run")["populations"] == digest(tmp_path / "whole")["populations"], "as if none had failed"


def test_what_failed_whole_is_done_again_to_the_end_whatever_interrupts_it(targets, tmp_path, curve):
    (curve.folder / "broken").touch()
    for _ in range(2):  # the cause is not mended at first
        with pytest.raises(EvonasError, match="3 candidates in a row failed"):
            targets.run(tmp_path / "run", curve, 1)
    (curve.folder / "broken").unlink()
    with pytest.raises(KeyboardInterrupt):
        targets.run(tmp_path / "run", curve, 1, listener=targets.Stop("evaluated", 2))
    assert targets.run(tmp_path / "run", curve, 1) == "generations"
    store = Store.open(tmp_path / "run")
    assert [r.status for r in store.records] == ["error"] * 6 + ["ok"] * 6


def test_a_bug_that_comes_later_costs_three_candidates_which_are_done_again(targets, tmp_path, curve):
    with pytest.raises(KeyboardInterrupt):
        targets.run(tmp_path / "run", curve, 1, listener=targets.Stop("evaluated", 2))
    (curve.folder / "broken").touch()
    with pytest.raises(EvonasError, match="3 candidates in a row failed"):
        targets.run(tmp_path / "run", curve, 1)
    (curve.folder / "broken").unlink()
    with pytest.raises(KeyboardInterrupt):
        targets.run(tmp_path / "run", curve, 1, listener=targets.Stop("evaluated", 1))
    assert targets.run(tmp_path / "run", curve, 1) == "generations"
    store = Store.open(tmp_path / "run")
    assert [r.status for r in store.records] == ["ok"] * 2 + ["error"] * 3 + ["ok"] * 4
    (tmp_path / "other").mkdir()
    targets.run(tmp_path / "whole", targets.Curve(tmp_path / "other"), 1)
    assert digest(tmp_path / "run")["populations"] == digest(tmp_path / "whole")["populations"]


def test_architectures_that_can_not_be_measured_cost_themselves_alone(targets, tmp_path, curve):
    """They are stored before the others are trained, whatever lay between them: that is no row."""
    space = targets.own_space(("fine", "measure_raise"))
    assert targets.run(tmp_path / "run", curve, 3, space=space, population=12) == "generations"
    first = [r.status for r in Store.open(tmp_path / "run").records if r.generation == 0]
    assert "error error error" in " ".join(first) and "ok" in first


def test_what_could_not_be_measured_has_not_stopped_a_run(targets, tmp_path, curve):
    """Three of them at the end, of an interrupted run, are no bug of its trainings, and not done again."""
    space = targets.own_space(("fine", "measure_raise"))
    with pytest.raises(KeyboardInterrupt):
        targets.run(tmp_path / "run", curve, 1, space=space, population=12, listener=targets.Stop("evaluated", 4))
    before = Store.open(tmp_path / "run").records
    assert [r.status for r in before] == ["error"] * 4
    assert targets.run(tmp_path / "run", curve, 1, space=space, population=12) == "generations"
    after = Store.open(tmp_path / "run").records
    assert after[:4] == before and len(after) == 12


def test_a_row_of_errors_is_told_alike_by_who_sees_them_come_and_who_finds_them(targets, tmp_path, curve):
    targets.run(tmp_path / "run", curve, 1)
    store = Store.open(tmp_path / "run")
    failed = replace(store.records[0], status="error", reason='ValueError: x\n  File "task.py", line 3')
    verdict = Verdict(targets.Engine(targets.own_space(), [targets.objective("loss")]), store, ())
    verdict.after_training(failed, 1)
    verdict.after_training(failed, 1)
    verdict.kept_untrained()  # of the next generation: infeasible, say
    verdict.after_training(failed, 1)
    verdict.after_training(failed, 1)
    with pytest.raises(EvonasError, match="3 candidates in a row failed"):
        verdict.after_training(failed, 1)
    other = replace(failed, status="infeasible", reason="")
    assert not bugs_at_the_end([failed, failed, other, failed], ("latency",))
    assert len(bugs_at_the_end([failed, failed, other, failed, failed, failed], ("latency",))) == 3


def test_a_bug_of_some_genomes_does_not_keep_the_others_from_being_trained_for_ever(targets, tmp_path, curve):
    evaluator, stops = targets.Narrow(curve.folder), 0
    while True:
        try:
            ended = targets.run(tmp_path / "run", evaluator, 1, population=12)
            break
        except EvonasError as error:
            assert "3 candidates in a row failed" in error.message
            stops += 1
            assert stops < 20
    records = Store.open(tmp_path / "run").records
    assert ended == "generations" and stops and any(r.ok for r in records)
    assert max(Counter(r.genome_id for r in records).values()) <= 3


def test_what_measuring_took_is_paid_once(targets, tmp_path, curve):
    targets.run(tmp_path / "run", targets.Priced(curve.folder, rungs=(1, 4)), 4)
    store = Store.open(tmp_path / "run")
    architectures = {store.genomes[r.genome_id].genome.architecture_id for r in store.records}
    assert sum(r.cost.get("measure_seconds", 0.0) for r in store.records) == len(architectures) < len(store.records)


def test_different_errors_in_a_row_are_no_bug(targets, tmp_path, curve):
    space = targets.own_space(("fine", "raise", "measure_raise"))
    targets.run(tmp_path / "run", curve, 4, space=space, seed=7)
    statuses = [r.status for r in Store.open(tmp_path / "run").records]
    assert "error error error" in " ".join(statuses)


def test_a_failure_among_successes_is_not_done_again(targets, tmp_path, curve):
    space = targets.own_space(("fine", "raise"))
    with pytest.raises(KeyboardInterrupt):
        targets.run(tmp_path / "run", curve, 1, space=space, population=8, listener=targets.Stop("evaluated", 7))
    before = Store.open(tmp_path / "run").records
    assert {r.status for r in before} == {"ok", "error"}
    targets.run(tmp_path / "run", curve, 1, space=space, population=8)
    after = Store.open(tmp_path / "run").records
    assert after[:7] == before and len(after) == 8


def test_what_diverges_whole_is_committed_as_no_repetition_mends_it(targets, tmp_path, curve):
    space = targets.own_space(("nan",))
    for generation in (0, 1):
        with pytest.raises(EvonasError, match=f"all 6 candidates of generation {generation} failed .6 non_finite"):
            targets.run(tmp_path / "run", curve, 3, space=space)
    assert len(Store.open(tmp_path / "run").records) == 12


def test_divergences_beside_what_can_be_mended_do_not_stop_it_for_ever(targets, tmp_path, curve):
    space = targets.own_space(("nan", "memory"))
    for tries in (1, 2, 3):
        with pytest.raises(EvonasError, match="all 6 candidates of generation 0 failed") as caught:
            targets.run(tmp_path / "run", curve, 1, space=space)
        assert ("Mend the cause" in caught.value.hint) == (tries < 3)
    tried = Counter((r.status, r.genome_id) for r in Store.open(tmp_path / "run").records)
    assert {(status, n) for (status, _), n in tried.items()} == {("non_finite", 1), ("out_of_memory", 3)}
    assert len(Store.open(tmp_path / "run").generations) == 1


def test_a_mistake_of_the_user_ends_the_run(targets, tmp_path, curve, text_file):
    evaluator = targets.ProxyEvaluator(
        "text", str(tmp_path / "gone"), 16, needs=("loss",), tokens=64, validation_tokens=64
    )
    with pytest.raises(EvonasError, match="no such file"):
        targets.run(tmp_path / "run", evaluator, 1, objectives=("loss",))
    assert not Store.open(tmp_path / "run").records
