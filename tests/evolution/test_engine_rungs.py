"""The engine with several rungs: who comes again, what counts, and that it is all reproducible."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from evonas.errors import EvonasError
from evonas.evolution import Engine, hypervolume, hypervolume_box, non_dominated
from evonas.genome import Genome, space_from_dict
from evonas.record import Objective

SPACE = space_from_dict(
    {
        "kind": "custom",
        "genes": {
            "size": {"low": 1, "high": 40},
            "rate": {"low": 1e-4, "high": 1.0, "log": True},
            "kind": ["a", "b", "c"],
        },
    }
)
GOALS = (Objective("loss"), Objective("time"))


def loss_at(genome: Genome, rung: int) -> float:
    """High rates look good early, large sizes gain late."""
    rate = np.log10(genome.rate) / 4
    return 3 - 0.1 * rung + (0.5 * -rate, 0.2 * -rate, (rate + 0.6) ** 2)[rung] - 0.01 * rung * genome.size


def values(candidate) -> dict[str, float]:
    return {"loss": loss_at(candidate.genome, candidate.rung), "time": float(candidate.genome.size)}


def engine(**options) -> Engine:
    return Engine(
        SPACE, GOALS, **{"population_size": 8, "offspring_size": 4, "rungs": 3, "reduction": 3, "seed": 0, **options}
    )


def play(e: Engine, generations: int, answer=values):
    """All candidates of that many generations, in the order they were asked for."""
    asked = []
    while e.generation < generations:
        batch = e.ask()
        assert batch
        asked += batch
        for candidate in batch:
            e.tell(candidate, answer(candidate))
    return asked


def state(e: Engine):
    return (
        [(m.genome.id, m.fitness.values, m.told) for m in e.population],
        [m.genome.id for m in e.front()],
        e.hypervolume(),
    )


def test_every_genome_starts_at_the_bottom_and_climbs_without_gaps():
    asked = play(engine(), 30)
    rungs: dict[str, list[int]] = {}
    for candidate in asked:
        rungs.setdefault(candidate.genome.id, []).append(candidate.rung)
    assert all(found == list(range(len(found))) for found in rungs.values())
    assert len({(c.generation, c.index) for c in asked}) == len(asked)


def test_who_is_expected_to_add_most_to_the_front_goes_on_first():
    e, chosen = engine(rungs=2, population_size=12, offspring_size=6), 0
    for generation in range(1, 30):
        play(e, generation)
        hopeful, promoted = [i.genome.id for i in e.unfinished()], [c.genome.id for c in e.promoted()]
        if e.reached()[1]:
            assert promoted[: len(hopeful)] == hopeful[: len(promoted)]
            chosen += min(len(promoted), len(hopeful))
    assert chosen > 20


def test_what_they_are_expected_to_add_is_the_hypervolume_that_is_lost_without_them():
    e, compared = engine(rungs=2, population_size=12, offspring_size=6), 0
    for generation in range(2, 30, 3):
        play(e, generation)
        at_the_end = [i for i in e.archive.values() if i.rung == 1]
        people = list({i.genome.id: i for i in (*at_the_end, *e.population, *e.reserve)}.values())
        points = np.array([i.fitness.values for i in people])
        kept = np.flatnonzero(non_dominated(points))
        front, box = points[kept], hypervolume_box(points[kept])
        lost = {
            people[k].genome.id: hypervolume(front, *box) - hypervolume(np.delete(front, place, 0), *box)
            for place, k in enumerate(kept)
            if people[k].rung == 0
        }
        line = [i.genome.id for i in e.unfinished()]
        assert set(line) == set(lost) and [lost[i] for i in line] == sorted(lost.values(), reverse=True)
        compared += len(line) > 1
    assert compared > 3


def test_where_time_is_limited_who_adds_most_for_what_it_takes_goes_on_first():
    e = engine(population_size=16)
    play(e, 20)
    line = [i.genome.id for i in e.unfinished()]
    assert len(line) > 2
    e.prices = {genome_id: 1.0 for genome_id in line} | {line[-1]: 1e-9, line[0]: 1e9}
    assert [i.genome.id for i in e.unfinished()] == line
    e.frugal = True
    assert [i.genome.id for i in e.unfinished()] == [line[-1], *line[1:-1], line[0]]
    e.prices = {line[0]: 2.0}  # others are as dear as those that are known
    assert [i.genome.id for i in e.unfinished()] == line


def test_before_there_is_a_front_rank_and_crowding_say_who_goes_on():
    e = engine(rungs=2, population_size=12)
    play(e, 1)
    extremes = {min(e.population, key=lambda i: i.told[0][objective]).genome.id for objective in (0, 1)}
    assert not e.reached()[1] and extremes <= {c.genome.id for c in e.promoted()}


def test_one_in_four_goes_on():
    asked = play(engine(reduction=4), 60)
    assert [c.rung for c in asked if c.generation == 1].count(1) == 2
    counts = Counter(c.rung for c in asked)
    assert counts[0] == 8 + 59 * 4
    # At most that many: who has left the population, or has no worse one left to outdo, does not go on.
    assert 0.7 * 60 <= counts[1] <= 61 and 0.5 * 15 <= counts[2] <= 15


def test_the_front_holds_only_what_was_told_at_the_last_rung():
    e = engine()
    asked = play(e, 30)
    top = {c.genome.id for c in asked if c.rung == 2}
    assert e.front() and {m.genome.id for m in e.front()} <= top
    for member in e.front():
        assert member.fitness.values == (loss_at(member.genome, 2), member.genome.size)
    assert 0 < e.hypervolume()


def test_before_anything_is_there_the_front_is_that_of_the_highest_rung_reached():
    e = engine()
    assert e.front() == [] and e.reached() == [0, 0, 0]
    for done, rung in ((1, 0), (2, 1)):
        play(e, done)
        assert {m.rung for m in e.front()} == {rung} and e.hypervolume() == 0 and e.box is None
        assert all(m.told[-1] == (loss_at(m.genome, rung), m.genome.size) for m in e.front())
    assert e.reached() == [12, 2, 0]


def test_the_hypervolume_never_falls():
    e, seen = engine(), []
    for generation in range(1, 40):
        play(e, generation)
        seen.append(e.hypervolume())
    assert seen == sorted(seen) and seen[-1] > 0


def test_members_below_are_compared_by_what_is_expected_of_them():
    e = engine(population_size=12)
    play(e, 80)
    below = [m for m in e.population if m.rung < 2]
    ladder = e.ladder()
    assert ladder.error(0)[1] == 0 and ladder.error(0)[0] < 0.2
    for member in below:
        assert member.fitness.values != member.told[-1]
        assert member.fitness.values[0] == pytest.approx(loss_at(member.genome, 2), abs=0.35)


def test_it_is_not_led_astray_by_what_only_looks_good_early():
    """At rung 0 the highest rate is best; at the last one 10^-2.4 is."""
    found = [m.genome.rate for seed in range(3) for e in [engine(seed=seed)] if play(e, 80) for m in e.front()]
    assert 1e-3 < np.median(found) < 3e-2


def test_seed_genomes_go_all_the_way():
    bad = Genome({"size": 40, "rate": 1e-4, "kind": "c"})  # dominated from the start
    e = engine(seed_genomes=[bad])
    asked = play(e, 4)
    assert [c.rung for c in asked if c.genome == bad] == [0, 1, 2]
    assert e.archive[bad.id].rung == 2


def test_what_fails_at_a_higher_rung_is_gone():
    e = engine()
    failed = set()

    def answer(candidate):
        if candidate.rung == 1 and candidate.genome.size % 2:
            failed.add(candidate.genome.id)
            return None
        return values(candidate)

    asked = play(e, 30, answer)
    assert failed and not failed & {m.genome.id for m in (*e.population, *e.front(), *e.archive.values())}
    assert max(Counter(c.genome.id for c in asked if c.genome.id in failed).values()) == 2


def test_what_breaks_a_constraint_at_a_higher_rung_is_infeasible():
    e = engine()
    while e.generation < 12:
        for candidate in e.ask():
            broken = candidate.rung == 2 and candidate.genome.kind == "a"
            e.tell(candidate, None if broken else values(candidate), 0.5 if broken else 0.0)
    assert all(m.genome.kind != "a" for m in e.front())


SEEDS = [Genome({"size": size, "rate": 0.1, "kind": "b"}) for size in (3, 17, 30, 31, 38)]


@pytest.mark.parametrize(
    "options", [{}, {"initial_size": 3}, {"initial_size": 3, "population_size": 24, "seed_genomes": SEEDS}]
)
@pytest.mark.parametrize("done", [1, 2, 3, 7, 20])
def test_restoring_continues_exactly(done, options):
    whole, first, second = (engine(**options) for _ in range(3))
    rest = [c for c in play(whole, 25) if c.generation >= done]
    asked = sorted(play(first, done), key=lambda c: (c.generation, c.index))
    box = None if first.box is None else tuple(p.tolist() for p in first.box)
    members, reserve = ([m.genome.id for m in some] for some in (first.population, first.reserve))
    second.restore([(c, values(c), 0.0) for c in asked], members, done, box, reserve=reserve)
    assert play(second, 25) == rest and state(second) == state(whole)


def test_who_has_no_place_in_the_population_and_is_expected_on_the_front_is_set_aside():
    e, seen = engine(population_size=4), set()
    for generation in range(1, 40):
        play(e, generation)
        members = {i.genome.id for i in e.population}
        assert len(e.reserve) <= 4 and not members & {i.genome.id for i in e.reserve}
        for i in e.reserve:
            assert i.rung < 2 and i.feasible and e.archive[i.genome.id] is i and i.genome.id in e.waiting()
            assert not any(m.fitness.dominates(i.fitness) for m in (*e.population, *e.front()))
            seen.add(i.genome.id)
    assert len(seen) > 4
    waiting = {i.genome.id for i in e.reserve}
    assert waiting and waiting <= {i.genome.id for i in e.unfinished()}
    e.close()
    gone_on = {c.genome.id for c in play(e, e.generation + 1) if c.rung}
    assert waiting <= gone_on


def test_those_beyond_the_front_come_behind_it_and_are_all_that_could_go_on():
    e = engine(population_size=16)
    play(e, 20)
    first, all_of_them = e.unfinished(), e.unfinished(beyond=True)
    assert all_of_them[: len(first)] == first and len({i.genome.id for i in all_of_them}) == len(all_of_them)
    able = {i.genome.id for i in (*e.population, *e.reserve) if i.rung < 2 and i.feasible}
    assert {i.genome.id for i in all_of_them} == able and len(all_of_them) > len(first)
    rest = all_of_them[len(first) :]
    assert not any(rest[0].fitness.dominates(i.fitness) is False and i.fitness.dominates(rest[0].fitness) for i in rest)
    assert engine().unfinished() == engine().unfinished(beyond=True) == []


@pytest.mark.parametrize("done", [6, 12])
def test_restored_members_are_expected_as_before_to_the_last_bit(done):
    def noisy(candidate):
        share = int(candidate.genome.id[:6], 16) / 16**6
        return {name: v * (1 + 0.1 * share / (1 + candidate.rung)) for name, v in values(candidate).items()}

    first, second = engine(), engine()
    asked = sorted(play(first, done, noisy), key=lambda c: (c.generation, c.index))
    box = None if first.box is None else tuple(p.tolist() for p in first.box)
    second.restore([(c, noisy(c), 0.0) for c in asked], [m.genome.id for m in first.population], done, box)
    assert any(m.rung == 0 for m in first.population) and first.ladder().models[0].pairs > 3
    assert [m.fitness.wvalues for m in second.population] == [m.fitness.wvalues for m in first.population]


def test_candidates_told_in_any_order_give_the_same_run():
    plain, shuffled = engine(), engine()
    rng = np.random.default_rng(0)
    play(plain, 20)
    while shuffled.generation < 20:
        batch = shuffled.ask()
        for k in rng.permutation(len(batch)):
            shuffled.tell(batch[k], values(batch[k]))
    assert state(shuffled) == state(plain)


def test_small_portions_are_no_obstacle():
    e, asked = engine(), []
    for n in itertools.islice(itertools.cycle((1, 2, 3)), 60):
        batch = e.ask(n)
        asked += batch
        for candidate in batch:
            e.tell(candidate, values(candidate))
    assert len(asked) == 120 and e.generation > 10 and {c.rung for c in asked} == {0, 1, 2}


def test_an_exhausted_space_still_ends():
    tiny = space_from_dict({"kind": "custom", "genes": {"size": [1, 2, 3], "rate": [0.1, 0.5], "kind": "a"}})
    e = Engine(tiny, GOALS, population_size=4, offspring_size=2, rungs=3, reduction=2, seed=0)
    asked = []
    for _ in range(30):
        batch = e.ask()
        asked += batch
        for candidate in batch:
            e.tell(candidate, values(candidate))
    assert not e.ask() and Counter(c.rung for c in asked)[0] == 6


# -- a first generation that is a part of the first population ------------------------------------------------------


def test_the_rest_of_the_first_population_comes_before_any_offspring():
    whole, part = engine(population_size=10).ask(), play(engine(population_size=10, initial_size=4), 4)
    new = [c for c in part if c.rung == 0]
    assert [c.genome for c in new[:10]] == [c.genome for c in whole]
    assert [c.generation for c in new] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert not any(c.parents for c in new[:10]) and all(c.parents for c in new[10:])


def test_the_best_of_a_part_go_on_before_they_are_due():
    e = engine(population_size=16, initial_size=8, reduction=8)
    asked = play(e, 4)
    by_generation = [[sum(c.rung == rung for c in asked if c.generation == g) for rung in range(3)] for g in range(4)]
    assert by_generation == [[8, 0, 0], [4, 4, 0], [4, 0, 4], [4, 0, 0]]
    counts = Counter(c.rung for c in play(e, 60))
    assert counts[1] <= (8 + 4 * 59) // 8 - 4 + 1 and not counts[2]  # the later ones wait


def test_all_of_the_first_population_in_one_generation_is_never_early():
    plain, same = play(engine(), 12), play(engine(initial_size=8), 12)
    more = play(engine(initial_size=100), 12)
    assert plain == same == more


def test_the_hypervolume_is_within_what_all_of_the_first_population_has():
    e = engine(population_size=12, initial_size=8, rungs=2)
    play(e, 2)
    assert e.reached()[1] == 4 and e.box is not None and e.hypervolume() > 0
    times = [i.told[-1][1] for i in e.archive.values()]
    assert len(times) == 12 and (e.box[0][1], e.box[1][1] > max(times)) == (min(times), True)
    e = engine(population_size=40, initial_size=4, rungs=2)
    play(e, 1)
    assert e.box is None
    play(e, 2)
    assert e.box is not None, "but it is not waited for"


def test_of_a_small_part_no_more_than_half_is_early():
    asked = play(engine(population_size=16, initial_size=3, offspring_size=2), 3)
    assert [sum(c.rung == 1 for c in asked if c.generation == g) for g in (1, 2)] == [1, 0]


def test_what_a_closing_cut_off_of_the_first_population_comes_when_it_goes_on():
    e = engine(population_size=16, initial_size=3, offspring_size=2, seed_genomes=SEEDS)
    play(e, 1)
    e.close(offspring=False)
    while batch := e.ask():
        for candidate in batch:
            e.tell(candidate, values(candidate))
    e.reopen()
    play(e, 20)
    assert {c.genome.id for c in e._first} <= e.seen


def test_the_surrogate_plans_for_the_places_that_the_first_population_leaves():
    e = engine(population_size=24, initial_size=16, offspring_size=16, rungs=2, surrogate=True)
    play(e, 1)
    asked = [c for c in e.ask() if c.rung == 0]
    assert [bool(c.parents) for c in asked] == [False] * 8 + [True] * 8
    screened = [c.operator.startswith("screened+") for c in asked[8:]]
    assert any(screened) and screened == sorted(screened, reverse=True), "from the best on"


def test_a_part_of_a_first_population_that_is_short():
    tiny = space_from_dict({"kind": "custom", "genes": {"size": [1, 2, 3], "rate": [0.1, 0.5], "kind": "a"}})
    e = Engine(tiny, GOALS, population_size=16, offspring_size=4, initial_size=4, rungs=3, seed=0)
    while batch := e.ask():
        for candidate in batch:
            e.tell(candidate, values(candidate))
    assert e.exhausted and e.reached() == [6, 6, 6]


@pytest.mark.parametrize("initial", [0, -1, 1.5, True, "4"])
def test_a_part_that_is_none(initial):
    with pytest.raises(EvonasError, match="initial size"):
        engine(initial_size=initial)


@pytest.mark.parametrize("options", [{"rungs": 0}, {"rungs": 1.5}, {"reduction": 1}])
def test_rungs_that_make_no_sense(options):
    with pytest.raises(EvonasError, match="whole numbers"):
        engine(**options)


# -- constraints on what training changes ---------------------------------------------------------------------------


def bound(values) -> float:
    return max(0.0, values["loss"] - 2.45)  # hardly any genome is below it before the last rung


def constrained(goals=GOALS, **options) -> Engine:
    watched = () if Objective("loss") in goals else ("loss",)
    return Engine(
        SPACE, goals, population_size=12, offspring_size=6, rungs=3, reduction=3, seed=0, watched=watched, broken=bound,
        **options,
    )  # fmt: skip


def play_constrained(e: Engine, generations: int) -> list:
    asked = []
    while e.generation < generations:
        for candidate in e.ask():
            asked.append(candidate)
            v = {**values(candidate), "rate": candidate.genome.rate}
            e.tell(candidate, v, bound(v) if candidate.rung == 2 else 0.0)
    return asked


@pytest.mark.parametrize("goals", [GOALS, (Objective("time"), Objective("rate", "", "max"))])
def test_a_constraint_on_the_loss_guides_the_search_before_it_is_judged(goals):
    e = constrained(goals)
    asked = play_constrained(e, 50)
    late = [c for c in asked if c.rung == 2 and c.generation > 15]
    kept = [c for c in late if bound(values(c)) == 0]
    assert len(kept) > 0.5 * len(late) > 1
    assert e.front() and all(bound({"loss": loss_at(m.genome, 2)}) == 0 for m in e.front())
    assert sum(m.feasible for m in e.population) > 6


def test_what_breaks_it_at_the_end_still_tells_what_to_expect():
    e = constrained()
    play_constrained(e, 100)
    broke = [i for i in e.archive.values() if i.rung == 2 and not i.feasible]
    assert broke and e.ladder().models[1].pairs == sum(i.rung == 2 for i in e.archive.values())


def test_a_watched_value_must_be_told():
    e = constrained((Objective("time"), Objective("rate", "", "max")))
    candidate = e.ask(1)[0]
    with pytest.raises(EvonasError, match="missing: loss"):
        e.tell(candidate, {"time": 1.0, "rate": 1.0})


@pytest.mark.parametrize("done", [1, 3, 9])
def test_restoring_with_constraints_continues_exactly(done):
    whole, first, second = constrained(), constrained(), constrained()
    play_constrained(whole, 15)
    asked = sorted(play_constrained(first, done), key=lambda c: (c.generation, c.index))
    told = [(c, values(c), bound(values(c)) if c.rung == 2 else 0.0) for c in asked]
    box = None if first.box is None else tuple(p.tolist() for p in first.box)
    second.restore(told, [m.genome.id for m in first.population], done, box)
    play_constrained(second, 15)
    assert state(second) == state(whole)


# -- the end --------------------------------------------------------------------------------------------------------


def test_closing_brings_the_expected_front_to_the_last_rung():
    e = engine(population_size=12)
    play(e, 20)
    waiting = {i.genome.id for i in e.unfinished()}
    assert waiting
    e.close(offspring=False)
    asked = []
    while batch := e.ask():
        asked += batch
        for candidate in batch:
            e.tell(candidate, values(candidate))
    assert not e.unfinished() and all(c.rung > 0 for c in asked)
    assert waiting & {i.genome.id for i in e.archive.values() if i.rung == 2}


def test_closing_brings_the_closest_to_where_a_constraint_is_judged():
    e = Engine(
        SPACE, GOALS, population_size=12, rungs=3, reduction=100, seed=0, broken=lambda told: told["loss"] + 10.0
    )
    while batch := e.ask():
        for candidate in batch:
            told = values(candidate)
            e.tell(candidate, told, told["loss"] + 10.0 if candidate.rung == 2 else 0.0)
        if e.generation == 3:
            e.close(offspring=False)
    assert e.reached() == [36, 1, 1]


def test_closing_may_be_limited_to_some():
    e = engine(population_size=12)
    play(e, 20)
    waiting = e.unfinished()
    assert len(waiting) > 2
    e.close(offspring=False, only=[i.genome.id for i in waiting[:2]])
    e.close(offspring=False, only=[waiting[1].genome.id])
    asked = e.ask()
    assert [c.genome for c in asked] == [waiting[1].genome] and asked[0].rung == waiting[1].rung + 1
    for candidate in asked:
        e.tell(candidate, values(candidate))
    e.close(offspring=False, only=[])
    assert e.ask() == []


def test_closed_to_offspring_any_number_asked_for_is_of_those_that_go_on():
    e = engine()
    play(e, 6)
    e.close(offspring=False)
    waiting, seen = len(e.promoted()), len(e.seen)
    batch = e.ask(waiting + 5)
    assert waiting and len(batch) == waiting and all(c.rung for c in batch)
    assert e.ask(3) == [] and len(e.seen) == seen and not e.exhausted
    for candidate in batch:
        e.tell(candidate, values(candidate))
    while batch := e.ask(4):
        for candidate in batch:
            e.tell(candidate, values(candidate))
    assert len(e.seen) == seen and not e.unfinished()
    e.reopen()
    assert e.ask() and not e.exhausted


def test_reopened_with_a_closed_generation_outstanding_the_space_is_not_exhausted():
    e = engine()
    play(e, 6)
    e.close(offspring=False)
    batch = e.ask()
    e.reopen()
    assert batch and e.ask(2) == [] and not e.exhausted
    for candidate in batch:
        e.tell(candidate, values(candidate))
    assert any(not c.rung for c in e.ask())


def test_closed_in_the_midst_of_a_generation_it_ends_with_what_was_begun():
    e = engine()
    play(e, 6)
    batch = e.ask(len(e.promoted()) + 2)
    for candidate in batch:
        e.tell(candidate, values(candidate))
    e.close(offspring=False)
    born = len(e.seen)
    while batch := e.ask(3):
        for candidate in batch:
            assert candidate.rung
            e.tell(candidate, values(candidate))
    assert len(e.seen) == born and not e.unfinished() and e.generation > 6


def test_generations_of_the_closing_let_no_more_go_on_afterwards():
    e = engine(rungs=2)
    play(e, 12)
    e.close(offspring=False)
    while batch := e.ask():
        for candidate in batch:
            e.tell(candidate, values(candidate))
    e.reopen()
    play(e, e.generation + 12)
    born = sum(1 for i in e.archive.values() if i.index < e._numbers.start(e.generation))
    climbed = e.reached()[1] + len(e.promoted())
    assert born == e._born and climbed <= max(born // 3, 8) + 8


def test_one_by_one_a_space_that_ends_still_trains_what_it_has():
    genes = {"size": {"low": 1, "high": 4}, "rate": [0.1, 0.2], "kind": ["a", "b"]}
    tiny = space_from_dict({"kind": "custom", "genes": genes})
    e = Engine(tiny, GOALS, population_size=6, offspring_size=4, rungs=2, reduction=4, seed=0)
    while batch := e.ask(1):
        e.tell(batch[0], values(batch[0]))
    assert len(e.seen) == 16 and not e.unfinished() and e.reached()[1] >= 6


def test_a_violation_that_was_told_below_the_last_rung_is_not_forgotten():
    e = engine(rungs=2)
    spoilt = set()
    for _ in range(8):
        for candidate in e.ask():
            if candidate.rung == 0 and candidate.genome.size > 10:
                spoilt.add(candidate.genome.id)
                e.tell(candidate, values(candidate), violation=0.5)
            else:
                e.tell(candidate, values(candidate))
            assert not candidate.rung or candidate.genome.id not in spoilt
    assert spoilt and not spoilt & {m.genome.id for m in e.front()}
    assert all(not m.feasible for m in e.population if m.genome.id in spoilt)


def test_who_has_nothing_measured_is_not_the_closest_to_a_constraint():
    e = engine(population_size=6, broken=lambda told: 0.3)
    for k, candidate in enumerate(e.ask()):
        if k % 2:
            e.tell(candidate, None, 0.001)
        else:
            e.tell(candidate, values(candidate))
    e.close(offspring=False)
    (closest,) = e.unfinished()
    assert closest.rung == 0 and [c.genome for c in e.promoted()] == [closest.genome]


def test_closing_keeps_the_offspring_where_asked_to():
    e = engine()
    play(e, 10)
    e.close()
    asked = play(e, 12)
    assert sum(c.rung == 0 for c in asked) == 8
    assert len([c for c in asked if c.rung]) >= len([c for c in play(engine(), 12) if c.rung and c.generation >= 10])


def test_closing_twice_or_in_the_midst_of_a_generation_does_no_harm():
    e = engine()
    play(e, 10)
    begun = e.ask(3)
    e.close()
    e.close()
    for candidate in begun:
        e.tell(candidate, values(candidate))
    play(e, 13)
    assert e.generation == 13


@pytest.mark.parametrize("sizes", [(16, 4, None), (16, 2, None), (16, 2, 2)])
def test_an_exhausted_space_trains_what_it_has_to_the_end(sizes):
    tiny = space_from_dict({"kind": "custom", "genes": {"size": [1, 2, 3, 4, 5], "rate": [0.1, 0.5], "kind": "a"}})
    population, offspring, initial = sizes
    e = Engine(tiny, GOALS, population_size=population, offspring_size=offspring, initial_size=initial, rungs=3, seed=0)
    while batch := e.ask():
        before = e.generation
        for candidate in batch:
            e.tell(candidate, values(candidate))
        assert e.generation > before, "all that was asked for is all of a generation"
    assert e.exhausted and e.reached() == [10, 10, 10]


@pytest.mark.parametrize("rungs", [2, 3])
def test_an_exhausted_space_trains_those_set_aside_to_the_end(rungs):
    genes = {"size": {"low": 1, "high": 16}, "rate": [0.01, 0.1, 0.5], "kind": ["a", "b"]}
    e = Engine(space_from_dict({"kind": "custom", "genes": genes}), GOALS, population_size=4, rungs=rungs, seed=1)
    while batch := e.ask():
        for candidate in batch:
            e.tell(candidate, values(candidate))
    assert e.exhausted and e.unfinished() == e.reserve == [] and e.reached()[-1] > 4
