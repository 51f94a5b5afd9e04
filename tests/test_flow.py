"""The search without a barrier: what comes first counts first, and nothing is lost."""

from __future__ import annotations

import contextlib
import time
from collections import Counter

import pytest

from evonas.errors import EvonasError
from evonas.record import Constraint
from evonas.store import Store, told_records

from .conftest import logged

CONSTRAINTS = [Constraint.parse("latency<=3ms")]
MOODS = ("fine", "raise", "nan")


@pytest.fixture
def curve(curve):
    """Of two rungs."""
    curve.rungs = (1, 4)
    return curve


@pytest.fixture
def flat(curve):
    """The same of one rung: who is told earlier changes nothing within a generation."""
    curve.rungs = (1,)
    return curve


def digest(folder) -> tuple:
    """All that a run found, but for what it cost, in the order of places."""
    store = Store.open(folder)
    records = sorted(store.records, key=lambda r: (r.generation, r.index))
    records = [{k: v for k, v in r.to_dict().items() if k != "cost"} for r in records]
    rows = [
        {k: sorted(v) if k == "asked" else v for k, v in row.items() if k not in ("seconds", "time")}
        for row in store.generations
    ]
    return records, rows, [store.population(k) for k in range(len(rows))], sorted(store.front_ids())


OPTIONS = {"offspring": 4, "initial": 4}


def check_places(store: Store, offspring: int = 4, whole: bool = True) -> None:
    """Whatever was found counts, each in a place of its own, generation by generation."""
    records = {(r.generation, r.index, r.genome_id) for r in store.records}
    assert [row["generation"] for row in store.generations] == list(range(len(store.generations)))
    for row in store.generations:
        asked = [tuple(place) for place in row["asked"]]
        new = sorted(i for i, _ in asked if i < offspring)
        assert new == list(range(len(new))) and (len(new) == offspring or not whole)
        assert sorted(i for i, _ in asked) == [*new, *range(offspring, offspring + len(asked) - len(new))]
        assert all((row["generation"], *place) in records for place in asked)
    assert sum(len(row["asked"]) for row in store.generations) == len(store.records) == len(records)


@pytest.fixture(scope="module")
def whole(targets, tmp_path_factory):
    """What one worker finds, generation after generation."""
    folder = tmp_path_factory.mktemp("whole")
    space = targets.own_space(MOODS)
    targets.run(folder / "run", targets.Curve(folder), 8, space=space, constraints=CONSTRAINTS, **OPTIONS)
    found = digest(folder / "run")
    assert {r["status"] for r in found[0]} == {"ok", "infeasible", "error", "non_finite"}
    return found


def test_with_one_worker_it_is_the_search_with_a_barrier(targets, tmp_path, flat, whole):
    options = {"space": targets.own_space(MOODS), "constraints": CONSTRAINTS, "asynchronous": True, **OPTIONS}
    assert targets.run(tmp_path / "run", flat, 8, **options) == "generations"
    assert digest(tmp_path / "run") == whole


@pytest.mark.parametrize("every", [1, 3, 7])
def test_interrupted_again_and_again_it_ends_the_same(targets, tmp_path, flat, whole, every):
    options = {"space": targets.own_space(MOODS), "constraints": CONSTRAINTS, "asynchronous": True, **OPTIONS}
    for _ in range(len(whole[0]) // every):
        with pytest.raises(KeyboardInterrupt):
            targets.run(tmp_path / "run", flat, 8, listener=targets.Stop("evaluated", every), **options)
    targets.run(tmp_path / "run", flat, 8, **options)
    assert digest(tmp_path / "run") == whole
    assert set(Counter(logged(flat, "begin train")).values()) == {1}


def test_it_goes_on_with_a_barrier_and_without(targets, tmp_path, flat, whole):
    options = {"space": targets.own_space(MOODS), "constraints": CONSTRAINTS, **OPTIONS}
    for k in range(len(whole[0])):
        with pytest.raises(KeyboardInterrupt):
            listener = targets.Stop("evaluated", 1)
            targets.run(tmp_path / "run", flat, 8, listener=listener, asynchronous=bool(k % 2), **options)
    targets.run(tmp_path / "run", flat, 8, asynchronous=True, **options)
    assert digest(tmp_path / "run") == whole


@pytest.mark.parametrize("every", [1, 2, 5])
def test_with_rungs_nothing_is_lost_nor_paid_twice(targets, tmp_path, curve, every):
    """Though who comes next may be another: more is known of those that go on."""
    options = {"asynchronous": True, "surrogate": True, **OPTIONS}
    ended, sittings = "", 0
    while ended != "generations":
        sittings += 1
        try:
            ended = targets.run(tmp_path / "run", curve, 8, listener=targets.Stop("evaluated", every), **options)
        except KeyboardInterrupt:
            assert sittings < 80
    store = Store.open(tmp_path / "run")
    check_places(store)
    assert len(store.generations) == 8 and sittings >= len(store.records) // every
    rungs = [(record.genome_id, rung) for rung, told, record in told_records(store) if told]
    assert len(rungs) == len(set(rungs)) == len(logged(curve, "begin train"))
    assert sum(rung for _, rung in rungs) >= 4


@pytest.mark.parametrize(("limit", "ended"), [({"tokens": 40}, "budget"), ({"patience": 4}, "patience")])
def test_it_ends_as_it_does_with_a_barrier(targets, tmp_path, flat, limit, ended):
    for name, asynchronous in (("with", False), ("without", True)):
        assert targets.run(tmp_path / name, flat, 60, asynchronous=asynchronous, **limit, **OPTIONS) == ended
    assert digest(tmp_path / "with") == digest(tmp_path / "without")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_budget_of_tokens_is_spent_on_a_trained_front(targets, tmp_path, curve, workers):
    executor = "processes" if workers > 1 else "serial"
    options = {"executor": executor, "workers": workers, "asynchronous": True, **OPTIONS}
    assert targets.run(tmp_path / "run", curve, 10**6, tokens=120, **options) == "budget"
    store = Store.open(tmp_path / "run")
    check_places(store, whole=False)
    paid = sum((1, 3)[rung] for rung, _, _ in told_records(store))
    assert 90 < paid <= 120 + 4 * (workers - 1), "what was under way when it was reckoned is finished"
    assert store.generations[-1]["hypervolume"] > 0


@pytest.mark.parametrize("workers", [2, 5])
def test_every_generation_has_its_places_filled(targets, tmp_path, curve, workers):
    options = {"executor": "processes", "workers": workers, "asynchronous": True, **OPTIONS}
    assert targets.run(tmp_path / "run", curve, 7, **options) == "generations"
    store = Store.open(tmp_path / "run")
    check_places(store)
    assert len(store.generations) == 7
    last = [record for rung, _, record in told_records(store) if rung == 1]
    assert last and store.generations[-1]["hypervolume"] > 0
    trained = Counter(logged(curve, "end train"))
    assert set(trained.values()) == {1, 2} and len(trained) == 28


def test_nothing_trains_while_something_is_measured(targets, tmp_path, curve):
    targets.run(tmp_path / "run", curve, 6, executor="processes", workers=3, asynchronous=True, **OPTIONS)
    measuring = False
    for line in (curve.folder / "log").read_text().splitlines():
        edge, what, _ = line.split()
        assert not (measuring and what == "train"), line
        measuring = what == "measure" and edge == "begin"


def test_trainings_that_rest_at_safepoints_are_as_if_they_had_not(
    targets, tmp_path, text_file, space_file, monkeypatch
):
    rests, arrived = [], targets.AsynchronousSearch._arrived

    def noting(search, *args) -> None:
        rests.append(search.executor.paused)
        arrived(search, *args)

    monkeypatch.setattr(targets.AsynchronousSearch, "_arrived", noting)
    evaluator = targets.ProxyEvaluator(
        "text", str(text_file), 16, needs=("loss", "latency"), tokens=4096, rungs=2, validation_tokens=160,
        checkpoints=str(tmp_path / "run" / "weights"), latency_seconds=0.02,
    )  # fmt: skip
    evaluator.one_device = True  # as on a GPU, which goes on when a process is stopped
    space = targets.read_space(space_file).bounded(16)
    options = {"space": space, "population": 5, "executor": "processes", "workers": 2, "asynchronous": True}
    assert targets.run(tmp_path / "run", evaluator, 3, **options) == "generations"
    store = Store.open(tmp_path / "run")
    found = [(r, rung) for rung, asked, r in told_records(store) if asked and r.ok and not r.revised]
    assert len(found) > 12 and {rung for _, rung in found} == {0, 1} and any(rests)
    fresh = targets.ProxyEvaluator(
        "text", str(text_file), 16, needs=("loss",), tokens=4096, rungs=2, validation_tokens=160
    )
    for record, rung in found[-6:]:
        genome = store.genomes[record.genome_id].genome
        assert record.value("loss") == fresh.train(genome, rung).measures["loss"].value


def test_the_slowest_is_not_waited_for_nor_lost(targets, tmp_path, curve, when):
    targets.run(tmp_path / "whole", curve, 2, **OPTIONS)
    stuck = [e.genome.id for e in Store.open(tmp_path / "whole").genomes.values() if e.generation == 0][1]
    (curve.folder / "stuck").write_text(stuck)
    options = {"executor": "processes", "workers": 2, "asynchronous": True, **OPTIONS}
    before = len(logged(curve, "end train"))
    deadline = when(lambda: len(logged(curve, "end train")) > before + 30)
    assert targets.run(tmp_path / "run", curve, 10**6, deadline=deadline, **options) == "budget"
    store = Store.open(tmp_path / "run")
    assert store.generations[-1]["generation"] > 2 and store.record_of(stuck) is None
    (curve.folder / "stuck").unlink()
    found = len(store.records)
    goal = store.generations[-1]["generation"] + 4
    assert targets.run(tmp_path / "run", curve, goal, **options) == "generations"
    store = Store.open(tmp_path / "run")
    check_places(store, whole=False)
    assert len(store.records) > found


def test_a_deadline_that_has_passed_starts_nothing(targets, tmp_path, curve):
    ended = targets.run(tmp_path / "run", curve, 3, deadline=time.monotonic() - 1, asynchronous=True)
    assert ended == "budget" and not logged(curve, "begin measure") and not Store.open(tmp_path / "run").records


@pytest.mark.parametrize("workers", [1, 3])
def test_a_small_space_is_exhausted(targets, tmp_path, curve, workers):
    space = targets.space_from_dict(
        {"kind": "custom", "genes": {"width": {"low": 1, "high": 9}, "mood": ["fine"], "learning_rate": [0.003]}}
    )
    options = {"executor": "processes" if workers > 1 else "serial", "workers": workers, "asynchronous": True}
    assert targets.run(tmp_path / "run", curve, 50, space=space, population=4, **options) == "exhausted"
    store = Store.open(tmp_path / "run")
    assert len(store.genomes) == 9
    check_places(store, whole=False)


def test_every_kind_of_failure_costs_one_candidate(targets, tmp_path, curve):
    moods = ("fine", "crash", "raise", "nan", "memory", "measure_raise", "measure_crash")
    options = {"executor": "processes", "workers": 2, "asynchronous": True, "population": 8}
    ended = targets.run(tmp_path / "run", curve, 5, space=targets.own_space(moods), offspring=6, **options)
    store = Store.open(tmp_path / "run")
    assert ended == "generations" and len(store.generations) == 5
    for record in store.records:
        assert record.status == targets.STATUS_OF[store.genomes[record.genome_id].genome.mood]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_fails_whole_ends_the_run_and_is_done_again(targets, tmp_path, curve, workers):
    (curve.folder / "broken").touch()
    executor = "processes" if workers > 1 else "serial"
    options = {"executor": executor, "workers": workers, "asynchronous": True, **OPTIONS}
    with pytest.raises(EvonasError, match="failed with the same error"):
        targets.run(tmp_path / "run", curve, 4, **options)
    (curve.folder / "broken").unlink()
    assert targets.run(tmp_path / "run", curve, 4, **options) == "generations"
    store = Store.open(tmp_path / "run")
    assert len(store.generations) == 4 and all(store.record_of(genome_id).ok for genome_id in store.genomes)


def test_prices_are_without_what_a_training_paused(targets, tmp_path, curve, monkeypatch):
    """As if each training of 0.5 s had paused for an eighth of a second."""
    monkeypatch.setattr("evonas.executors.base.Executor.paused", 0.125)
    targets.run(tmp_path / "run", curve, 2, asynchronous=True, **OPTIONS)
    costs = [r.cost["seconds"] for r in Store.open(tmp_path / "run").records if r.ok]
    assert costs and set(costs) == {0.375}


def test_a_seed_that_is_overtaken_and_interrupted_comes_again(targets, tmp_path, curve, when):
    seed = targets.own_space().repair({"width": 40, "mood": "fine", "learning_rate": 0.003})
    (curve.folder / "stuck").write_text(seed.id)
    options = {"executor": "processes", "workers": 2, "asynchronous": True, "seeds": [seed], **OPTIONS}
    deadline = when(lambda: len(logged(curve, "end train")) > 12)
    assert targets.run(tmp_path / "run", curve, 10**6, deadline=deadline, **options) == "budget"
    store = Store.open(tmp_path / "run")
    assert store.generations and store.record_of(seed.id) is None
    (curve.folder / "stuck").unlink()
    for asynchronous in (True, False):
        goal = len(Store.open(tmp_path / "run").generations) + 3
        targets.run(tmp_path / "run", curve, goal, **{**options, "asynchronous": asynchronous})
        told = [
            rung for rung, asked, r in told_records(Store.open(tmp_path / "run")) if asked and r.genome_id == seed.id
        ]
        assert told == [0, 1], "and goes all the way"


def test_a_search_goes_on_after_its_deadline(targets, tmp_path, curve, when):
    """As one does that finds that a calibration has no use for its time."""
    engine = targets.AsynchronousEngine(
        targets.own_space(), [targets.objective(n) for n in ("loss", "latency")],
        population_size=6, offspring_size=4, initial_size=4, seed=1, rungs=2,
    )  # fmt: skip
    with (
        targets.make_executor("processes", curve, 2, spare=True) as pool,
        Store.create(tmp_path / "run", targets.header(engine)) as store,
    ):
        search = targets.AsynchronousSearch(engine, store, pool, curve)
        for more in (7, 7, 7):
            so_far = len(store.records)
            assert search.run(10**6, when(lambda to=so_far + more: len(store.records) >= to)) == "budget"
            assert not engine.pending()
        assert search.run(len(store.generations) + 3) == "generations"
    check_places(Store.open(tmp_path / "run"), whole=False)
    assert max(Counter(i.index for i in engine.archive.values()).values()) == 1


@pytest.mark.parametrize("rungs", [(1, 4), (1, 4, 16)])
def test_with_more_workers_than_a_generation_has_places_the_front_is_trained_to_the_end(
    targets, tmp_path, curve, rungs
):
    curve.rungs = rungs
    options = {"executor": "processes", "workers": 6, "asynchronous": True, "population": 6}
    ended = targets.run(tmp_path / "run", curve, 60, patience=3, offspring=2, initial=2, **options)
    assert ended == "patience"
    store = Store.open(tmp_path / "run")
    asked = {(row["generation"], *place) for row in store.generations for place in map(tuple, row["asked"])}
    late = [r for r in store.records if (r.generation, r.index, r.genome_id) not in asked]
    assert all(r.generation == len(store.generations) for r in late), "what was under way at the end is kept"
    reached = [
        rung for rung, told, record in told_records(store) if told and record.generation < len(store.generations)
    ]
    assert max(reached) == len(rungs) - 1


@pytest.mark.parametrize("workers", [1, 3])
def test_a_generation_that_runs_out_of_memory_is_done_again(targets, tmp_path, curve, workers):
    """It is no bug of the task: nothing ends the run before all of the generation have failed."""
    executor = "processes" if workers > 1 else "serial"
    options = {"asynchronous": True, "executor": executor, "workers": workers, **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        targets.run(tmp_path / "run", curve, 3, listener=targets.Stop("generation_finished", 1), **options)
    (curve.folder / "full").touch()
    for _ in range(2):
        with pytest.raises(EvonasError, match=r"all . candidates of generation 1 failed"):
            targets.run(tmp_path / "run", curve, 3, **options)
    (curve.folder / "full").unlink()
    assert targets.run(tmp_path / "run", curve, 3, **options) == "generations"
    store = Store.open(tmp_path / "run")
    assert all(store.record_of(i).ok for row in store.generations for _, i in row["asked"])


@pytest.mark.parametrize("after", range(9, 17))
def test_interrupted_while_the_front_is_closed_all_counts(targets, tmp_path, curve, after):
    options = {"asynchronous": True, "tokens": 30, **OPTIONS}
    with contextlib.suppress(KeyboardInterrupt):
        targets.run(tmp_path / "run", curve, 60, listener=targets.Stop("evaluated", after), **options)
    assert targets.run(tmp_path / "run", curve, 60, **options) == "budget"
    store = Store.open(tmp_path / "run")
    check_places(store, whole=False)
    rungs = [(record.genome_id, rung) for rung, told, record in told_records(store) if told]
    assert len(rungs) == len(set(rungs)) == len(logged(curve, "begin train"))


def test_failures_of_the_last_moment_are_no_end(targets, tmp_path, curve, when):
    """A budget that is spent is no failure though all that was told of the last generation has failed."""
    options = {"executor": "processes", "workers": 2, "asynchronous": True, "population": 6, "offspring": 6}
    deadline = when(lambda: _spoilt(curve) and len(logged(curve, "begin train")) > 16)
    assert targets.run(tmp_path / "run", curve, 10**6, deadline=deadline, **options) == "budget"
    (curve.folder / "full").unlink(missing_ok=True)
    goal = len(Store.open(tmp_path / "run").generations) + 1
    assert targets.run(tmp_path / "run", curve, goal, **options) == "generations"


def _spoilt(curve) -> bool:
    """From some training on all run out of memory."""
    if len(logged(curve, "end train")) >= 10:
        (curve.folder / "full").touch()
    return (curve.folder / "full").exists()
