"""Asking while results are outstanding: nothing waits for the slowest, and what is outstanding is reckoned with."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from evonas.evolution import Engine, hypervolume, screening
from evonas.genome import space_from_dict
from evonas.record import Objective

SPACE = space_from_dict(
    {"kind": "custom", "genes": {**{f"x{k}": {"low": 0.0, "high": 1.0} for k in range(6)}, "kind": ["a", "b", "c"]}}
)
GOALS = (Objective("f"), Objective("g"))


def evaluate(genome) -> dict[str, float]:
    """Like ZDT1 (Zitzler et al. 2000), with a category that has to be right."""
    g = 1 + 9 * np.mean([genome[f"x{k}"] for k in range(1, 6)]) + 2 * (genome.kind != "b")
    return {"f": genome.x0, "g": float(g * (1 - np.sqrt(genome.x0 / g)))}


def make(**options) -> Engine:
    return Engine(SPACE, GOALS, **{"population_size": 16, "offspring_size": 4, **options})


def workers(engine: Engine, count: int, evaluations: int, lost: int | None = None, seed: int = 0) -> list:
    """As many at a time, each for a time of its own; the candidate of number ``lost`` never comes back. Candidates in
    the order in which they were asked for."""
    rng, busy, asked, now = np.random.default_rng(seed), [], [], 0.0
    while True:
        while len(busy) < count and len(asked) < evaluations:
            (candidate,) = engine.ask(1)
            if len(asked) != lost:
                heapq.heappush(busy, (now + rng.lognormal(), len(asked), candidate))
            asked.append(candidate)
        if not busy:
            return asked
        now, _, candidate = heapq.heappop(busy)
        engine.tell(candidate, evaluate(candidate.genome))


def reached(engine: Engine) -> float:
    points = np.array([i.told[-1] for i in engine.archive.values()])
    return hypervolume(points, np.zeros(2), np.array([1.0, 10.0]))


@pytest.mark.parametrize("surrogate", [False, True])
@pytest.mark.parametrize("lost", [0, 40])
def test_one_that_does_not_come_back_holds_nothing_up(surrogate, lost):
    engine, other = make(surrogate=surrogate), make(surrogate=surrogate)
    asked = workers(engine, 6, 160, lost)
    workers(other, 6, 160)
    assert engine.generation == asked[lost].generation and len(engine.archive) == 159
    late = [c for c in asked[60:] if c.parents]
    assert len(late) == 100 and reached(engine) > reached(other) - 0.02


def test_more_workers_than_the_population_has_places_begin_all_over_the_space():
    engine = make()
    ahead = engine.ask(40)
    assert {c.operator for c in ahead} == {"stratified"} and len({c.genome for c in ahead}) == 40
    for part in (ahead[:16], ahead[16:32]):  # in each the whole range, not what chance brings
        assert min(c.genome.x0 for c in part) < 1 / 16 and max(c.genome.x0 for c in part) > 15 / 16
    # As soon as half a population is told, that is what comes next.
    for candidate in ahead[3:11]:
        engine.tell(candidate, evaluate(candidate.genome))
    after = engine.ask(6)
    assert engine.generation == 0 and all(c.parents for c in after)
    assert {i for c in after for i in c.parents} <= {c.genome.id for c in ahead[3:11]}


def test_many_workers_lose_little():
    def found(count: int, **options) -> float:
        engines = [make(surrogate=True, seed=seed, **options) for seed in range(3)]
        for engine in engines:
            workers(engine, count, 150)
        return float(np.median([reached(engine) for engine in engines]))

    one = found(1)
    assert found(32) > one - 0.03 and found(32, offspring_size=16) > one - 0.06


def test_the_same_order_of_calls_gives_the_same_run():
    runs = [workers(make(surrogate=True, seed=3), 8, 90, lost=50) for _ in range(2)]
    assert [c.genome.id for c in runs[0]] == [c.genome.id for c in runs[1]]


def test_what_is_outstanding_is_believed_to_come_out_as_expected(monkeypatch):
    """Or what comes next would be chosen as if it were not there."""
    engine = make(surrogate=True)
    for candidate in (c for _ in range(12) for c in engine.ask()):
        engine.tell(candidate, evaluate(candidate.genome))
    noted = []

    def choosing(*args) -> list[int]:
        noted.append(args[-1])
        return chosen(*args)

    chosen = screening._by_gain
    monkeypatch.setattr(screening, "_by_gain", choosing)
    first = engine.ask(4)
    engine.ask(4)
    assert noted[0].shape == (0, 2)
    true = np.array([list(evaluate(c.genome).values()) for c in first])
    assert noted[1] == pytest.approx(true, abs=0.3) and noted[1][:, 0] == pytest.approx(true[:, 0], abs=0.05)


def test_who_is_asked_for_and_not_told():
    engine = make()
    first = engine.ask(5)
    engine.tell(first[2], evaluate(first[2].genome))
    engine.tell(first[3], None)
    assert engine.pending() == [c.genome for k, c in enumerate(first) if k in (0, 1, 4)]
