"""The engine whose generations are whatever results come next."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from evonas.evolution import AsynchronousEngine, Engine
from evonas.genome import space_from_dict
from evonas.record import Objective

SPACE = space_from_dict(
    {
        "kind": "custom",
        "genes": {"size": {"low": 1, "high": 40}, "rate": {"low": 1e-4, "high": 1.0, "log": True}, "kind": ["a", "b"]},
    }
)
GOALS = (Objective("loss"), Objective("time"))


def values(candidate) -> dict[str, float] | None:
    genome = candidate.genome
    if genome.kind == "b" and genome.size % 5 == 0:
        return None
    rate = np.log10(genome.rate) / 4
    loss = 3 - 0.1 * candidate.rung + (rate + 0.6) ** 2 - 0.01 * (1 + candidate.rung) * genome.size
    return {"loss": float(loss), "time": float(genome.size)}


def make(kind=AsynchronousEngine, **options):
    return kind(SPACE, GOALS, **{"population_size": 8, "offspring_size": 4, "rungs": 2, "reduction": 3, **options})


def state(engine: Engine) -> tuple:
    members = [(m.genome.id, m.index, m.told) for m in (*engine.population, *engine.reserve)]
    return members, [m.genome.id for m in engine.front()], engine.hypervolume(), sorted(engine.seen), engine.generation


def work(engine: AsynchronousEngine, workers: int, goal: int, lost=(), seed: int = 0) -> list:
    """So many workers, each candidate for a time of its own, those in ``lost`` (numbers) for ever; what was told, in
    order, as placed."""
    rng, busy, asked, told, now = np.random.default_rng(seed), [], 0, [], 0.0
    while engine.generation < goal:
        while len(busy) < workers and (engine.promoted() or engine.asking < goal + (workers if lost else 0)):
            found = engine.ask(1)
            if not found:
                break
            if asked not in lost:
                heapq.heappush(busy, (now + rng.lognormal(), asked, found[0]))
            asked += 1
        if not busy:
            break
        now, _, candidate = heapq.heappop(busy)
        told.append((engine.placed(candidate), values(candidate)))
        engine.tell(candidate, values(candidate))
    return told


@pytest.mark.parametrize("rungs", [1, 2, 3])
@pytest.mark.parametrize("surrogate", [False, True])
def test_told_in_the_order_in_which_it_was_asked_for_it_is_the_engine(rungs, surrogate):
    engines = [make(kind, rungs=rungs, surrogate=surrogate, seed=2) for kind in (Engine, AsynchronousEngine)]
    for _ in range(12):
        for engine in engines:
            batch = engine.ask()
            for candidate in batch:
                assert engine.placed(candidate) == candidate
                engine.tell(candidate, values(candidate))
        assert state(engines[0]) == state(engines[1])


def test_a_generation_ends_when_as_many_as_it_has_places_were_told_whichever_they_are():
    engine = make(rungs=1, initial_size=4)
    first = engine.ask(10)
    for k in (9, 2, 7, 4):
        assert engine.generation == 0
        engine.tell(first[k], values(first[k]))
    assert engine.generation == 1 and len(engine.pending()) == 6
    assert sorted(i.index for i in engine.archive.values()) == sorted(
        k for k, c in enumerate((9, 2, 7, 4)) if values(first[c]) is not None
    ), "born in the order of their results"


@pytest.mark.parametrize("workers", [1, 3, 11])
@pytest.mark.parametrize("rungs", [1, 3])
def test_every_result_has_a_place_of_its_own_as_if_one_generation_had_followed_the_other(workers, rungs):
    engine = make(rungs=rungs)
    told = work(engine, workers, 9)
    by_generation: dict[int, list] = {}
    for placed, _ in told:
        by_generation.setdefault(placed.generation, []).append(placed)
    for generation in range(9):
        children = by_generation[generation]
        size = 8 if generation == 0 else 4
        new = [c.index for c in children if not c.rung]
        assert sorted(new) == list(range(size))
        assert sorted(c.index for c in children if c.rung) == list(range(size, len(children)))
    assert len({c.genome.id for c, _ in told if not c.rung}) == sum(not c.rung for c, _ in told)


@pytest.mark.parametrize("workers", [2, 9])
def test_what_is_stored_brings_another_engine_to_the_same_state(workers):
    engine, other = make(seed=3), make(seed=3)
    told = work(engine, workers, 8)
    told = sorted((t for t in told if t[0].generation < 8), key=lambda t: (t[0].generation, t[0].index))
    box = tuple(map(list, engine.box))
    ids = [[i.genome.id for i in members] for members in (engine.population, engine.reserve)]
    other.restore([(c, v, 0.0) for c, v in told], ids[0], 8, box, False, ids[1])
    engine.withdraw()
    for side in (engine, other):  # whoever was promoted and is not told is chosen anew
        side.close()
        side.reopen()
    mine, theirs = state(engine), state(other)
    assert mine[:3] == theirs[:3] and mine[4] == theirs[4]
    assert engine.promoted() == other.promoted()


def test_who_is_lost_holds_nothing_up():
    engine = make(rungs=2)
    work(engine, 6, 10, lost=(1, 30))
    assert engine.generation == 10 and len(engine.front()) > 2


def test_the_same_order_of_results_gives_the_same_run():
    runs = [work(make(seed=5, surrogate=True), 5, 8) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0] != work(make(seed=5, surrogate=True), 5, 8, seed=1)


def test_who_goes_on_does_so_while_others_are_evaluated():
    """Half of the first generation go on at its end, whatever is still outstanding."""
    engine = make(initial_size=8)
    first = engine.ask(12)
    for candidate in first[:8]:
        engine.tell(candidate, values(candidate))
    (promoted,) = engine.ask(1)
    assert promoted.rung == 1 and len(engine.pending()) == 4
    assert promoted.genome.id in engine.waiting() and {c.genome.id for c in first[8:]} <= engine.waiting()


def test_while_the_front_is_closed_a_generation_waits_for_all():
    engine = make()
    work(engine, 1, 5)
    ahead = engine.ask(len(engine.promoted()) + 6)
    engine.close(offspring=False)
    closing = engine.ask()
    assert closing and all(c.rung for c in closing)
    for candidate in (*closing, *ahead):
        engine.tell(candidate, values(candidate))
    # Six were new, of which a generation takes four; the others are of the next one, with whoever goes on in it.
    assert engine.generation == 6 and not engine.pending()
    further = engine.ask()
    assert further and all(c.rung for c in further)
    for candidate in further:
        assert engine.generation == 6
        engine.tell(candidate, values(candidate))
    assert engine.generation == 7


def test_in_the_last_generation_who_goes_on_is_waited_for():
    engine = make()
    work(engine, 1, 5)
    engine.close()
    batch = engine.ask()
    slow = next(c for c in batch if c.rung)
    for candidate in batch:
        if candidate is not slow:
            engine.tell(candidate, values(candidate))
    assert engine.generation == 5
    engine.tell(slow, values(slow))
    assert engine.generation == 6


def test_a_small_space_ends():
    space = space_from_dict({"kind": "custom", "genes": {"size": {"low": 1, "high": 13}, "kind": ["a"], "rate": [0.1]}})
    engine = AsynchronousEngine(space, GOALS, population_size=4, offspring_size=3, rungs=2)
    work(engine, 5, 100)
    assert engine.exhausted and len(engine.seen) == 13 and not engine.ask()
    assert all(i.rung == 1 for i in (*engine.population, *engine.reserve)), "who is left trains to the end"


def test_what_was_withdrawn_may_be_asked_for_again():
    engine = make(rungs=2)
    work(engine, 1, 4)
    promoted = engine.promoted()
    assert promoted
    lost = engine.ask()
    engine.withdraw()
    assert not engine.pending() and not engine.ask(0)
    engine.close()
    engine.reopen()
    again = engine.ask()
    assert [c.genome for c in again] == [c.genome for c in lost] and again[0].rung == 1
    with pytest.raises(Exception, match="not asked for"):
        engine.tell(lost[-1], values(lost[-1])) or engine.tell(lost[-1], values(lost[-1]))


def test_only_what_can_follow_is_adopted():
    engine, other = make(rungs=2), make(rungs=2)
    work(engine, 1, 4)
    work(other, 1, 4)
    promoted, *_, new = other.ask()
    assert promoted.rung == 1 and engine.adopt(new, values(new))
    assert not engine.adopt(new, values(new)), "it is known"
    assert not engine.adopt(replace(new, genome=other.ask()[-1].genome), None), "its place is taken"
    assert engine.adopt(promoted, values(promoted))
    assert all(c.genome.id != promoted.genome.id for c in engine.promoted())
    assert not engine.adopt(promoted, values(promoted)), "it is known at that rung"
    unknown = next(c for c in other.ask() if not c.rung)
    assert not engine.adopt(replace(unknown, generation=4, index=9, rung=1), None), "not known at the one below"
    assert not engine.adopt(replace(unknown, generation=2, index=90), None), "of a generation that is done"


def test_what_was_told_ends_a_generation_where_nothing_more_comes():
    engine = make()
    work(engine, 1, 4)
    batch = engine.ask()
    engine.tell(batch[0], values(batch[0]))
    assert engine.finish() and engine.generation == 5 and not engine.pending()
    assert not engine.finish() and engine.generation == 5, "nothing was told of it"
    again = engine.ask()
    assert again and again[-1].generation == 5


def test_one_generation_ends_at_a_time():
    """So that each can be stored before the next, also where all of the next was told while one waited."""
    engine = make()
    work(engine, 1, 5)
    slow, *ahead = engine.ask(len(engine.promoted()) + 12)
    assert slow.rung == 1
    engine.close()
    for candidate in ahead:
        engine.tell(candidate, values(candidate))
    assert engine.generation == 5
    while engine.promoted():
        (candidate,) = engine.ask(1)
        engine.tell(candidate, values(candidate))
    engine.tell(slow, values(slow))
    assert engine.generation == 6
    engine.close(offspring=False, only=())
    engine.advance()
    assert engine.generation == 7, "of the eight that had been too many four are its own"
    engine.until = 7
    engine.advance()
    assert engine.generation == 7, "no generation ends any more"
    engine.until = None
    engine.advance()
    assert engine.generation == 8


def test_births_never_meet():
    """However many are outstanding when the front is closed, and when it goes on: no two individuals are of one age."""
    for workers, seed in itertools.product((3, 12), range(4)):
        engine = make(rungs=3, seed=seed)
        work(engine, workers, 6, seed=seed)
        ahead = engine.ask(len(engine.promoted()) + workers)
        engine.close(offspring=False)
        for candidate in (*ahead, *engine.ask()):
            engine.tell(candidate, values(candidate))
        engine.reopen()
        work(engine, workers, engine.generation + 4, seed=seed)
        assert max(Counter(i.index for i in engine.archive.values()).values()) == 1
