"""What trainings take, how long one may take, and what is left of a budget."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from evonas.executors import make_executor
from evonas.search import FIRST_TIMEOUT
from evonas.search.account import MIN_TIMEOUT
from evonas.store import MOVED, Store

RUNGS = (1, 4, 16)


def test_a_timeout_grows_with_the_rung(targets, tmp_path, curve):
    curve.rungs = (1, 1000, 1000_000)
    evaluator, seen = curve, []
    engine = targets.Engine(targets.own_space(), [targets.objective("loss")], rungs=3)
    with Store.create(tmp_path / "run", targets.header(engine)) as store:
        with targets.make_executor("serial", evaluator, 1) as pool:
            search = targets.Search(engine, store, pool, evaluator)
            for seconds in (300.0, 0.2, 300.0, 0.1):
                search._account.pace.note(f"{seconds}", 0, seconds)
            seen = [search._account.timeout(2)]  # too few peers to go by
            search._account.pace.note("another", 0, 4.0)
            for number in range(4):
                search._account.pace.note(f"{number}", 1, 0.1)
            seen += [search._account.timeout(rung) for rung in (0, 1, 2)]
    assert seen[0] == 900 and seen[1] == 200 and seen[2] == pytest.approx(200 * 999)
    assert seen[3] == pytest.approx(200 * 999_000)


@pytest.fixture
def searching(targets, tmp_path, curve):
    """searching(monkeypatch, done, stored) -> (search of three rungs with so many generations done, its clock)."""

    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    def make(monkeypatch, done: int, stored: float, workers: int = 1):
        curve.rungs = RUNGS
        targets.run(tmp_path / "run", curve, done, offspring=4)
        engine = targets.Engine(targets.own_space(), [targets.objective(n) for n in ("loss", "latency")],
                                population_size=6, offspring_size=4, seed=1, rungs=len(RUNGS))  # fmt: skip
        pool = targets.make_executor("serial", curve, 1)
        pool.workers = workers
        store = Store.open(tmp_path / "run", write=True)
        monkeypatch.setattr(type(store), "seconds", 1e6)  # with a calibration in the end
        store.generations[-1]["seconds"] = stored
        clock = Clock()
        return targets.Search(engine, store, pool, curve, clock=clock), clock

    return make


def test_a_generation_takes_what_those_here_took_and_before_them_what_those_stored_did(searching, monkeypatch):
    search, clock = searching(monkeypatch, 4, stored=40.0)

    def left():
        return search._account.budgets(search.engine.unfinished(), 900.0, clock.now + 13.0, None)[0]

    assert left().generation == 10.0 and left().left == pytest.approx(10.0) and left().whole > 80
    search._account.warm = (4, clock.now)  # the first here, which had workers to start, is done
    assert left().generation == 10.0
    search._account.warm = (2, clock.now - 6.0)
    assert left().generation == 3.0


def test_a_resumed_search_closes_by_the_whole_of_its_budget(searching, monkeypatch):
    """Not by what is left of it, of which half is too little for the front."""
    search, clock = searching(monkeypatch, 4, stored=3000.0)
    monkeypatch.setattr(search._account.pace, "to_the_end", lambda *_: 455.0 / len(search.engine.unfinished()))
    closed = []
    monkeypatch.setattr(search.engine, "close", lambda *how: closed.append(how))
    monkeypatch.setattr(search.engine, "ask", lambda: [])
    search._account.warm = (3, clock.now - 10.0)
    for began in (None, clock.now - 3000.0):
        search.run(10**6, clock.now + 600.0, began=began)
    assert len(closed) == 1


@pytest.mark.parametrize("one_device", [True, False])
def test_closing_trainings_share_the_workers_and_on_one_device_its_speed(searching, monkeypatch, curve, one_device):
    curve.one_device = one_device
    search, clock = searching(monkeypatch, 5, stored=40.0, workers=4)
    unfinished = search.engine.unfinished()
    assert unfinished
    budget = search._account.budgets(unfinished, 0.0, clock.now + 1e6, None)[0]
    costs = [search._account.pace.to_the_end(i.genome.id, i.rung) for i in unfinished]
    assert list(budget.costs) == costs and min(costs) > 0
    assert (budget.lanes, budget.alone) == (4, not one_device)
    assert budget.affordable == set(range(len(costs)))


def test_no_clock_and_no_tokens_are_no_budget(searching, monkeypatch):
    search, _ = searching(monkeypatch, 3, stored=9.0)
    assert search._account.budgets(search.engine.unfinished(), 0.0, None, None) == []
    assert [b.left for b in search._account.budgets(search.engine.unfinished(), 0.0, None, 1e6)] == [
        1e6 - search._account.paid
    ]


def test_trainings_that_diverge_soon_shorten_no_timeout(targets, tmp_path, curve):
    evaluator = targets.Diverging(curve.folder)
    targets.run(tmp_path / "run", evaluator, 6)
    store = Store.open(tmp_path / "run")
    assert Counter(r.status for r in store.records).most_common(1)[0][0] == "non_finite"
    engine = targets.Engine(targets.own_space(), [targets.objective(n) for n in ("loss", "latency")], population_size=6)
    assert targets.Search(engine, store, None, evaluator)._account.timeout() >= 100.0


def test_what_was_only_looked_at_again_prices_no_way_to_the_end(targets, tmp_path, curve):
    folder = tmp_path / "run"
    targets.run(folder, targets.Curve(curve.folder, rungs=(1, 4)), 4)
    with Store.open(folder) as store:
        engine = targets.Engine(targets.own_space(), [targets.objective(n) for n in ("loss", "latency")], rungs=2)
        search = targets.Search(engine, store, None, targets.Curve(curve.folder, rungs=(1, 4)))
        record = store.records[0]
        before = search._account.pace.to_the_end(record.genome_id, 0)
        search._account.note(0, replace(record, cost={"seconds": 1e-6, "tokens": 0.0}))
        assert search._account.pace.to_the_end(record.genome_id, 0) == before > 0.1
        search._account.note(0, replace(record, cost={"seconds": 50.0, "tokens": 1.0}))
        assert search._account.pace.to_the_end(record.genome_id, 0) > before


def test_after_a_move_the_way_to_the_end_has_the_price_it_had(targets, tmp_path, curve):
    """Not none: a generation would begin that leaves nothing for it."""
    folder, evaluator = tmp_path / "run", targets.Curve(curve.folder, rungs=(1, 4))
    targets.run(folder, evaluator, 4)
    found = {}
    for moved in (0, 4):
        with Store.open(folder, write=True) as store:
            store.set_header(notes={**store.header["notes"], MOVED: moved})
            goals = [targets.objective(n) for n in ("loss", "latency")]
            engine = targets.Engine(targets.own_space(), goals, population_size=6, rungs=2)
            with make_executor("serial", evaluator, 1) as pool:
                search = targets.Search(engine, store, pool, evaluator)
                unfinished = [SimpleNamespace(genome=store.genomes[r.genome_id].genome, rung=0)
                              for r in store.records[:3]]  # fmt: skip
                (budget,) = search._account.budgets(unfinished, 0.0, 1e9, None)
                found[moved] = list(budget.costs)
                assert search._account.timeout() == (FIRST_TIMEOUT if moved else MIN_TIMEOUT)
    assert found[4] == found[0] and min(found[0]) > 0


def test_after_a_move_a_training_may_take_as_long_as_it_did(targets, tmp_path, curve):
    """Or those expected on the front, which train first and longest, were all killed."""
    folder, evaluator = tmp_path / "run", targets.Curve(curve.folder, rungs=(1, 4))
    targets.run(folder, evaluator, 4)
    with Store.open(folder, write=True) as store:
        store.set_header(notes={**store.header["notes"], MOVED: 4})
        goals = [targets.objective(n) for n in ("loss", "latency")]
        search = targets.Search(targets.Engine(targets.own_space(), goals, rungs=2), store, None, evaluator)
        for number in range(50):
            search._account.elsewhere.note(f"{number}", 0, 120.0)
        assert [search._account.timeout(rung) for rung in (0, 1)] == [50 * 120, 50 * 120 * 3]
        for number in range(5):
            search._account.pace.note(f"{number}", 0, 2.0)
        assert [search._account.timeout(rung) for rung in (0, 1)] == [50 * 2, 50 * 2 * 3]
