"""Screening: where its proposals come from, when it steps back, and that it gains."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evonas.evolution import Engine, Individual, ParetoFitness, hypervolume, screening
from evonas.evolution.judging import SCREENED
from evonas.evolution.screening import _by_gain, _hope, _leading
from evonas.evolution.selection import hypervolume_box, hypervolume_gain
from evonas.evolution.surrogate import Surrogate
from evonas.genome import space_from_dict
from evonas.record import Objective

SPACE = space_from_dict(
    {"kind": "custom", "genes": {**{f"x{k}": {"low": 0.0, "high": 1.0} for k in range(8)}, "kind": ["a", "b", "c"]}}
)
GOALS = (Objective("f"), Objective("g"))
NONE = np.zeros((0, 2))  # points


def zdt(genome) -> dict[str, float]:
    """Like ZDT1 (Zitzler et al. 2000), with a category that has to be right."""
    rest = np.mean([genome[f"x{k}"] for k in range(1, 8)]) + 0.2 * (genome.kind != "b")
    g = 1 + 9 * rest
    return {"f": genome.x0, "g": float(g * (1 - np.sqrt(genome.x0 / g)))}


def above(genome) -> float:
    """By how much a constraint is broken that rules out most of what is best without it."""
    return max(0.0, 0.5 - float(np.mean([genome[f"x{k}"] for k in range(1, 8)])))


def noise(genome) -> dict[str, float]:
    rng = np.random.default_rng(int(genome.id, 16))
    return {"f": float(rng.random()), "g": float(rng.random())}


def play(evaluate, generations: int, **options) -> tuple[Engine, list]:
    settings = {"population_size": 16, "offspring_size": 8, "seed": 0, "surrogate": True}
    engine = Engine(SPACE, GOALS, **{**settings, **options})
    asked = []
    while engine.generation < generations:
        for candidate in engine.ask():
            asked.append(candidate)
            engine.tell(candidate, evaluate(candidate.genome))
    return engine, asked


def reached(engine: Engine) -> float:
    points = np.array([m.told[-1] for m in engine.archive.values()])
    return hypervolume(points, np.zeros(2), np.array([1.0, 4.0]))


def test_it_gains_on_a_smooth_problem():
    with_it = [reached(play(zdt, 12, seed=seed)[0]) for seed in range(5)]
    without = [reached(play(zdt, 12, seed=seed, surrogate=False)[0]) for seed in range(5)]
    assert np.median(with_it) > np.median(without) + 0.03


def test_what_the_population_has_forgotten_of_the_front_is_not_found_again():
    """With eight members, of a front of many more."""
    engine, _ = play(zdt, 30, population_size=8)
    members = {i.genome.id for i in engine.population}
    forgotten = [i for i in engine.best if i.genome.id not in members]
    leading = _leading(engine, engine.population)
    assert len(forgotten) >= 8 and {i.genome.id for i in leading} == members | {i.genome.id for i in engine.best}
    again = [(np.array(forgotten[0].told[-1]), np.zeros(2)), (np.array(forgotten[0].told[-1]) - 0.01, np.zeros(2))]
    assert _by_gain(engine, leading, leading, again, np.ones(2), np.zeros(2, dtype=bool), 1, NONE) == [1]
    front = engine.points(leading)
    assert hypervolume_gain(front, again[0][0], *hypervolume_box(front)) == 0.0


def test_few_of_a_batch_are_more_likely_to_fail_than_not():
    engine, _ = play(zdt, 4)
    leading = _leading(engine, engine.population)
    pool = [(np.array([0.1 * k, -1.0 - k]), np.zeros(2)) for k in range(12)]  # all ahead of the front
    risky = np.arange(12) >= 4
    chosen = _by_gain(engine, leading, leading, pool, np.ones(12), risky, 8, NONE)
    assert len(chosen) == 6 and sum(risky[chosen]) == 2
    assert len(_by_gain(engine, leading, leading, pool, np.ones(12), ~risky, 8, NONE)) == 8


def test_nothing_is_chosen_for_what_one_that_is_outstanding_will_gain():
    engine, _ = play(zdt, 4)
    leading = _leading(engine, engine.population)
    pool = [(np.array([0.10, -2.0]), np.zeros(2)), (np.array([0.9, -2.1]), np.zeros(2))]
    args = engine, leading, leading, pool, np.ones(2), np.zeros(2, dtype=bool)
    assert _by_gain(*args, 1, NONE) == [0]
    assert _by_gain(*args, 1, np.array([[0.09, -2.01]])) == [1]


def test_what_short_trainings_came_to_does_not_say_what_the_cheap_end_is_worth():
    """Gains are told in a box of one fidelity: the last rung's."""
    engine = Engine(SPACE, GOALS, rungs=2)
    rng = np.random.default_rng(0)

    def told(*rows) -> Individual:
        return Individual(SPACE.sample(rng), ParetoFitness(("min", "min"), rows[-1]), 0, rows)

    leading = [told((0.10, 3.0), (0.10, 2.40)), told((0.5, 2.5), (0.5, 1.9)), told((2.0, 2.4), (2.0, 1.7))]
    short = told((0.2, 8.0))
    pool = [(np.array([0.08, 2.45]), np.zeros(2)), (np.array([0.3, 2.1]), np.zeros(2))]
    chosen = _by_gain(engine, [*leading, short], leading, pool, np.ones(2), np.zeros(2, dtype=bool), 1, NONE)
    assert chosen == [1]
    assert _by_gain(
        engine, [*leading, told((0.2, 3.0), (0.2, 8.0))], leading, pool, np.ones(2), np.zeros(2, dtype=bool), 1, NONE
    ) == [0]


def test_a_small_share_is_some_of_the_offspring_now_and_then():
    engine, _ = play(zdt, 10)
    planned = [len(engine.screening.plan(engine, generation, 0.4)) for generation in range(10, 50)]
    assert set(planned) == {0, 1} and 5 < sum(planned) < 30


def test_with_rungs_it_hopes_for_no_more_than_it_expects():
    """Whoever goes on is chosen once more, so that what is uncertain need not be tried for that alone."""
    mean, std = np.array([[1.0, 2.0]]), np.array([[0.5, 0.0]])
    hopes = {rungs: _hope(Engine(SPACE, GOALS, rungs=rungs), mean, std).tolist() for rungs in (1, 2)}
    assert hopes == {1: [[0.75, 2.0]], 2: [[1.0, 2.0]]}


@pytest.mark.parametrize(("coverage", "believed"), [(None, 0.0), (0.1, 0.0), (0.35, 0.5), (0.5, 1.0), (0.9, 1.0)])
def test_an_uncertainty_that_was_wrong_is_believed_less(coverage, believed):
    engine, _ = play(zdt, 10)
    individuals = list(engine.archive.values())
    surrogate = Surrogate(engine.screening._features, individuals, engine.names, 1)
    genomes = [SPACE.sample(np.random.default_rng(k)) for k in range(5)]
    surrogate.coverage = coverage
    found = screening._expected(engine, surrogate, [screening.Proposal(g, (), "") for g in genomes])
    mean, std = surrogate.predict(genomes)
    np.testing.assert_allclose([e.std for e in found], believed * std)
    np.testing.assert_allclose([e.mean for e in found], mean)


def test_it_says_how_well_it_had_told_right():
    engine, _ = play(zdt, 12)
    judged = engine.screening.judged[max(engine.screening.judged)]
    assert max(engine.screening.judged) == engine.generation - 1 and len(engine.screening.judged) <= 2
    assert set(judged) == {"tau", "coverage", "share"} and judged["tau"] > 0.5 and judged["share"] == 1.0
    assert 0 <= judged["coverage"] <= 1


def price(genome) -> float:
    """In seconds; what is found at high x0 takes twenty times as long."""
    return 1.0 + 19.0 * genome.x0


def test_by_gain_per_price_it_gains_more_for_the_same():
    """Where one end of the front is dear, the other is found first. (Later on the two come to the same.)"""
    spent, gained = {}, {}
    for frugal in (False, True):
        found = []
        for seed in range(5):
            engine = Engine(SPACE, GOALS, population_size=16, offspring_size=8, seed=seed, surrogate=True)
            engine.frugal, paid = frugal, 0.0
            while paid < 300:
                for candidate in engine.ask():
                    engine.tell(candidate, zdt(candidate.genome))
                    engine.prices[candidate.genome.id] = price(candidate.genome)
                    paid += price(candidate.genome)
            found.append((len(engine.archive), reached(engine)))
        spent[frugal], gained[frugal] = np.median(found, axis=0)
    left = {frugal: (4 - 1 / 3) / 4 - volume for frugal, volume in gained.items()}  # of all from f 0 to 1
    assert spent[True] > 1.2 * spent[False] and left[True] < 0.9 * left[False]


def test_prices_change_nothing_where_there_is_time_enough():
    def asked(prices: bool) -> list[str]:
        engine = Engine(SPACE, GOALS, population_size=16, offspring_size=8, seed=0, surrogate=True)
        out = []
        while engine.generation < 8:
            for candidate in engine.ask():
                out.append(candidate.genome.id)
                engine.tell(candidate, zdt(candidate.genome))
                engine.prices.update({candidate.genome.id: price(candidate.genome)} if prices else {})
        return out

    assert asked(True) == asked(False)


def test_with_rungs_it_proposes_three_in_four():
    _, asked = play(zdt, 40, rungs=2)
    new = [c.operator.startswith(SCREENED) for c in asked if c.generation >= 10 and not c.rung]
    assert len(new) == 240 and 0.7 < np.mean(new) < 0.8


def test_what_it_proposes_is_new_passes_the_screen_and_comes_from_told_genomes():
    engine, asked = play(zdt, 10, screen=lambda genome: max(0.0, genome.x1 - 0.8))
    ids = [c.genome.id for c in asked]
    assert len(set(ids)) == len(ids) and all(c.genome.x1 <= 0.8 for c in asked)
    for k, candidate in enumerate(asked):
        assert set(candidate.parents) <= set(ids[:k]) and len(candidate.parents) <= 2
    assert engine.screening.plan(engine, 10, 8)


def test_where_nothing_can_be_learned_it_steps_back():
    plans = []
    for seed in range(6):
        engine, _ = play(noise, 6, seed=seed)
        plans.append(len(engine.screening.plan(engine, 6, 8)))
    assert np.median(plans) <= 1


def test_too_little_is_no_ground_to_plan_on():
    engine, _ = play(zdt, 1, population_size=6)
    assert engine.screening.plan(engine, 1, 8) == []


@pytest.mark.parametrize("done", [1, 2, 5])
def test_restoring_continues_exactly(done):
    _, all_asked = play(zdt, 8)
    first, asked = play(zdt, done)
    second = Engine(SPACE, GOALS, population_size=16, offspring_size=8, seed=0, surrogate=True)
    box = tuple(p.tolist() for p in first.box)
    second.restore([(c, zdt(c.genome), 0.0) for c in asked], [m.genome.id for m in first.population], done, box)
    while second.generation < 8:
        for candidate in second.ask():
            asked.append(candidate)
            second.tell(candidate, zdt(candidate.genome))
    assert [c.genome.id for c in asked] == [c.genome.id for c in all_asked]


def test_restoring_with_constraints_and_failures_continues_exactly():
    """Told with values, without, and nothing at all."""

    def result(genome) -> tuple[dict[str, float] | None, float]:
        broken = above(genome)
        if genome.x1 > 0.7:
            return None, 0.0
        values = {**zdt(genome), "rest": 1.0 - genome.x3}
        if broken and genome.x2 < 0.5:
            return (None if genome.x4 < 0.5 else {"f": values["f"]}), broken
        return values, broken

    def engine() -> Engine:
        limit = {"watched": ["rest"], "broken": lambda values: max(0.0, values.get("rest", 0.0) - 0.9)}
        return Engine(
            SPACE, GOALS, population_size=16, offspring_size=8, initial_size=10, seed=2, surrogate=True, **limit
        )

    def go_on(engine: Engine, generations: int, asked: list) -> list:
        while engine.generation < generations:
            for candidate in engine.ask():
                asked.append(candidate)
                engine.tell(candidate, *result(candidate.genome))
        return asked

    all_asked = go_on(engine(), 10, [])
    first, second = engine(), engine()
    asked = go_on(first, 5, [])
    box = tuple(p.tolist() for p in first.box)
    second.restore([(c, *result(c.genome)) for c in asked], [m.genome.id for m in first.population], 5, box)
    assert first.refused and len(first.refused) < len(first.failed)
    assert [c.genome.id for c in go_on(second, 10, asked)] == [c.genome.id for c in all_asked]
    assert any(c.operator.startswith(SCREENED) for c in all_asked if c.generation > 5)


def test_known_objectives_are_taken_as_they_are():
    calls = []

    def known(genome):
        calls.append(genome.id)
        return {"f": genome.x0}

    engine, _ = play(zdt, 8, known=known)
    assert calls and len(calls) == len(set(calls)), "asked once of each genome"
    assert reached(engine) > 0.4


def test_a_maximised_objective():
    found = []
    for surrogate in (True, False):
        goals = (Objective("f"), Objective("g", "", "max"))
        engine = Engine(SPACE, goals, population_size=16, offspring_size=8, seed=0, surrogate=surrogate)
        while engine.generation < 12:
            for candidate in engine.ask():
                values = zdt(candidate.genome)
                engine.tell(candidate, {"f": values["f"], "g": -values["g"]})
        points = np.array([m.told[-1] for m in engine.archive.values()]) * [1, -1]
        found.append(hypervolume(points, np.zeros(2), np.array([1.0, 4.0])))
    assert found[0] > found[1]


@pytest.mark.parametrize("value", [None, math.nan])
def test_genomes_of_which_less_is_known_are_left_to_variation(value):
    def known(genome):
        return {"f": genome.x0 if genome.x0 > 0.02 else value}

    engine, asked = play(zdt, 8, known=known)
    assert engine.generation == 8 and len(asked) == 16 + 7 * 8


def test_what_is_expected_to_break_a_constraint_is_not_proposed(monkeypatch):
    def broken(values) -> float:
        return max(0.0, values["g"] - 2.0)

    def share() -> float:
        late = []
        for seed in range(3):
            engine = Engine(
                SPACE, GOALS, population_size=16, offspring_size=8, seed=seed, surrogate=True, broken=broken
            )
            while engine.generation < 12:
                for candidate in engine.ask():
                    values = zdt(candidate.genome)
                    late += [broken(values) > 0] if candidate.generation > 4 else []
                    engine.tell(candidate, values, broken(values))
        return sum(late) / len(late)

    aware = share()
    monkeypatch.setattr("evonas.evolution.screening._breaks", lambda *expected: 0.0)
    assert aware < 0.8 * share()


@pytest.mark.parametrize("way", ["violation", "watched", "margin"])
def test_constraints_on_what_is_no_objective_are_learned_too(way):
    """Whether their violation alone is told or what they look at: more of the feasible front is found than without, and
    not by asking for nothing but what breaks them."""
    least = -np.inf if way == "margin" else 0.0  # what is below 0 is met as well
    watched = {"watched": ["rest"], "broken": lambda values: max(least, 0.5 - values["rest"])}
    found = {}
    for surrogate in (False, True):
        volumes, late = [], []
        for seed in range(3):
            options = {"population_size": 16, "offspring_size": 4, "seed": seed, "surrogate": surrogate}
            engine = Engine(SPACE, GOALS, **options, **({} if way == "violation" else watched))
            while engine.generation < 20:
                for c in engine.ask():
                    rest = float(np.mean([c.genome[f"x{k}"] for k in range(1, 8)]))
                    engine.tell(c, {**zdt(c.genome), "rest": rest}, above(c.genome))
                    late += [above(c.genome) > 0] if c.generation > 8 else []
            met = np.array([i.told[-1][:2] for i in engine.archive.values() if not i.violation])
            volumes.append(hypervolume(met, np.zeros(2), np.array([1.0, 10.0])))
        found[surrogate] = np.median(volumes), np.mean(late)
    assert found[True][0] > found[False][0] + 0.01
    assert found[True][1] < 0.5  # 1.0 where they are not learned


def rarely_met(genome, values_too: bool) -> tuple[dict[str, float] | None, float]:
    """As ``tell`` takes it, where one in some hundred meets the constraint, judged by what is known first."""
    slow = 1 + 9 * zdt(genome)["g"]
    broken = max(0.0, slow - 8.0)
    if not broken:
        return {"f": genome.x0, "g": slow}, 0.0
    return ({"g": slow} if values_too else None), broken


def seeking(seed: int, surrogate: bool = True, **options) -> Engine:
    settings = {"population_size": 16, "offspring_size": 4, "seed": seed, "surrogate": surrogate}
    return Engine(SPACE, GOALS, broken=lambda values: max(0.0, values["g"] - 8.0), **{**settings, **options})


def test_what_was_ruled_out_leads_to_what_meets_the_constraints():
    """Before anything was trained, and while very little was."""

    def meet_it(values_too: bool, surrogate: bool) -> list[int]:
        found = []
        for seed in range(5):
            engine = seeking(seed, surrogate)
            while engine.generation < 16:
                for c in engine.ask():
                    engine.tell(c, *rarely_met(c.genome, values_too))
            found.append(len(engine.archive))
        return found

    alone = np.median(meet_it(False, False))
    assert np.median(meet_it(True, True)) > 1.5 * alone and np.median(meet_it(False, True)) > 1.5 * alone


@pytest.mark.parametrize("done", [1, 3])
@pytest.mark.parametrize("values_too", [True, False])
@pytest.mark.parametrize("rungs", [1, 2])
def test_restoring_continues_exactly_where_nothing_meets_the_constraints_so_far(done, values_too, rungs):
    def go_on(engine: Engine, generations: int, asked: list) -> list:
        while engine.generation < generations:
            for c in engine.ask():
                asked.append(c)
                engine.tell(c, *rarely_met(c.genome, values_too))
        return asked

    whole = go_on(seeking(1, rungs=rungs), 12, [])
    first, second = seeking(1, rungs=rungs), seeking(1, rungs=rungs)
    asked = go_on(first, done, [])
    box = None if first.box is None else tuple(p.tolist() for p in first.box)
    told = [(c, *rarely_met(c.genome, values_too)) for c in sorted(asked, key=lambda c: (c.generation, c.index))]
    members, reserve = ([i.genome.id for i in group] for group in (first.population, first.reserve))
    second.restore(told, members, done, box, reserve=reserve)
    assert len(first.archive) < 12 and any(c.operator.startswith(SCREENED) for c in asked) == (done > 1)
    assert [c.genome.id for c in go_on(second, 12, asked)] == [c.genome.id for c in whole]


def test_of_very_many_that_were_ruled_out_some_are_learned_from(monkeypatch):
    fitted = []

    class Noting(Surrogate):
        def __init__(self, features, individuals, *args):
            fitted.append(len(individuals))
            super().__init__(features, individuals, *args)

    monkeypatch.setattr(screening, "Surrogate", Noting)
    engine = seeking(0, population_size=600)
    for c in engine.ask():
        engine.tell(c, {"g": 9.0 + c.genome.x1}, 1.0 + c.genome.x1)
    assert len(engine.population) == 600 and engine.ask() and fitted == [screening._REFUSED]


@pytest.mark.parametrize("no_number", [math.inf, math.nan])
def test_what_is_no_number_for_a_constraint_breaks_it(no_number):
    """Below the last rung, where it is what is expected, and of offspring."""
    limit = {"watched": ["rest"], "broken": lambda values: no_number if values["rest"] > 0.8 else -values["rest"]}
    engine = Engine(SPACE, GOALS, population_size=16, offspring_size=8, rungs=2, surrogate=True, **limit)
    while engine.generation < 6:
        for c in engine.ask():
            engine.tell(c, {**zdt(c.genome), "rest": c.genome.x3}, float(c.genome.x3 > 0.8))
    assert engine.breaks([0.0, 0.0, 0.9]) == 1.0 and engine.breaks([0.0, 0.0, 0.5]) == 0.0
    assert all(i.told[-1][2] <= 0.8 for i in engine.best)


def test_while_nothing_meets_the_constraints_it_seeks_what_breaks_them_least():
    def needed(surrogate: bool, seed: int) -> int:
        engine = Engine(SPACE, GOALS, population_size=16, offspring_size=4, seed=seed, surrogate=surrogate)
        for k in range(400):
            (c,) = engine.ask(1)
            broken = max(0.0, sum(abs(c.genome[f"x{j}"] - 0.3) for j in range(1, 8)) - 0.5)
            engine.tell(c, zdt(c.genome), broken)
            if not broken:
                return k
        return 400

    with_it, without = ([needed(s, seed) for seed in range(3)] for s in (True, False))
    assert np.median(with_it) < 0.7 * np.median(without)


@pytest.mark.parametrize("surrogate", [False, True])
def test_a_goal_sends_the_search_where_the_other_objective_still_gains(surrogate):
    """f below 0.5 counts as 0.5: what is asked for lies there, and g is lower there than without a goal."""
    options = {"surrogate": surrogate, "population_size": 12}
    found = {}
    for goals in ({}, {"f": 0.5}):
        lowest, there = [], []
        for seed in range(4):
            engine, asked = play(zdt, 14, seed=seed, goals=goals, **options)
            lowest.append(min(m.told[-1][1] for m in engine.archive.values() if m.told[-1][0] <= 0.6))
            there.append(np.mean([c.genome.x0 > 0.3 for c in asked[60:]]))
        found[bool(goals)] = np.median(lowest), np.median(there)
    assert found[True][1] > found[False][1] + 0.15
    assert found[True][0] <= found[False][0] + 0.05
