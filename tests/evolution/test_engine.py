"""The ask/tell engine: reproducible, resumable, without duplicates, and better than chance."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random

import moocore
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evonas.errors import EXIT_FAILED, EvonasError
from evonas.evolution import Candidate, Engine, hypervolume, non_dominated
from evonas.evolution.environment import select_nsga2, select_nsga3
from evonas.genome import Genome, SearchSpace, read_space, space_from_dict
from evonas.record import Objective

quick = settings(deadline=None, derandomize=True, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
TWO = (Objective("error", "%"), Objective("size"))
FOUR = (*TWO, Objective("time", "ms"), Objective("gain", "", "max"))


def custom(genes, layers=None, **top) -> SearchSpace:
    return space_from_dict({"kind": "custom", "genes": genes, "layers": layers or {}, **top})


SPACE = custom(
    {"n": {"low": 1, "high": 5}, "rate": {"low": 1e-4, "high": 1.0, "log": True}, "act": ["x", "y", "z"]},
    {"w": [1, 2, 4, 8, 16], "g": [True, False]},
    length="n",
    rules=["w < 16 or g == true"],
)
TINY = custom({"a": [1, 2, 3, 4], "b": ["x", "y", "z"]})


def chance(genome: Genome, salt: str) -> float:
    """A number in [0, 1) that is the genome's own."""
    return int(hashlib.sha256((genome.id + salt).encode()).hexdigest()[:8], 16) / 2**32


def evaluate(genome: Genome) -> tuple[dict[str, float] | None, float]:
    """What a real evaluation gives: mostly values, sometimes a failure, sometimes a broken constraint."""
    if chance(genome, "failed") < 0.15:
        return None, 0.0
    if chance(genome, "infeasible") < 0.2:
        return None, 0.01 + chance(genome, "violation")
    return values_of(genome)


def values_of(genome: Genome) -> tuple[dict[str, float], float]:
    if "w" in genome:
        size = float(sum(genome["w"]))
    else:
        size = float(genome["a"] if "a" in genome else genome["d_model"] * genome["n_layers"])
    return {
        "error": 10 / (1 + size) + chance(genome, "error"),
        "size": size,
        "time": chance(genome, "time"),
        "gain": chance(genome, "gain") - size,
    }, 0.0


def advance(engine: Engine, generations: int, told: list | None = None) -> Engine:
    for _ in range(generations):
        for candidate in engine.ask():
            result = evaluate(candidate.genome)
            engine.tell(candidate, *result)
            if told is not None:
                told.append((candidate, *result))
    return engine


def state(engine: Engine) -> tuple:
    """Everything a user sees, to the last bit."""
    return (
        engine.generation,
        [m.genome.id for m in engine.population],
        [(m.genome.id, m.fitness.values, m.index) for m in engine.front()],
        engine.hypervolume(),
        None if engine.box is None else [point.tolist() for point in engine.box],
        sorted(engine.seen),
    )


def make(objectives=TWO, **kwargs) -> Engine:
    kwargs = {"population_size": 8, "seed": 3, **kwargs}
    return Engine(kwargs.pop("space", SPACE), objectives, **kwargs)


SETTINGS = pytest.mark.parametrize(
    "objectives, kwargs",
    [
        (TWO, {}),
        (TWO, {"offspring_size": 3}),
        (TWO, {"population_size": 3, "offspring_size": 7}),
        (FOUR, {"population_size": 12}),
        (TWO, {"space": read_space("text-cpu"), "population_size": 5}),
    ],
    ids=["two", "few offspring", "many offspring", "four", "text-cpu"],
)


# -- the same run --------------------------------------------------------------------------------------------------


def run(engine: Engine, generations: int, order=lambda candidates: candidates) -> list:
    """All (generation, index, genome, parents, operator) asked for."""
    asked = []
    for _ in range(generations):
        candidates = engine.ask()
        asked += [(c.generation, c.index, c.genome.id, c.parents, c.operator) for c in candidates]
        for candidate in order(candidates):
            engine.tell(candidate, *evaluate(candidate.genome))
    return asked


@SETTINGS
def test_the_same_seed_gives_the_same_run_and_another_another(objectives, kwargs):
    one, other, different = make(objectives, **kwargs), make(objectives, **kwargs), make(objectives, **kwargs, seed=4)
    asked = run(one, 5)
    assert asked == run(other, 5) and state(one) == state(other)
    assert asked != run(different, 5)


@SETTINGS
def test_the_order_of_telling_does_not_count(objectives, kwargs):
    first = make(objectives, **kwargs)
    asked = run(first, 5)
    shuffle = np.random.default_rng(0).permutation
    for order in (lambda cs: cs[::-1], lambda cs: [cs[i] for i in shuffle(len(cs))]):
        other = make(objectives, **kwargs)
        assert run(other, 5, order) == asked
        assert state(other) == state(first)


def test_hypervolume_is_the_same_to_the_last_bit_in_any_order():
    # Summed in the order of these two points, the volume of 0.6144 ends in another last digit.
    points = [(0.0, 1.0, 1.0, 1.0), (1.0, 0.0, 1.0, 1.0)]
    box = np.zeros(4), np.full(4, 5.0)
    volumes = set()
    for order in ((0, 1), (1, 0)):
        engine = make([Objective(f"o{i}") for i in range(4)], population_size=2)
        engine.restore([], [], 0, tuple(point.tolist() for point in box))
        candidates = engine.ask()
        for k in order:
            engine.tell(candidates[k], {f"o{i}": value for i, value in enumerate(points[k])})
        volumes.add(engine.hypervolume())
    assert len(volumes) == 1


def test_every_candidate_has_a_generator_of_its_own():
    engine = make(population_size=4, seed=9)
    draws: list[float] = []

    def parents(population, k, rng):
        draws.append(rng.random())
        return population[:k]

    engine.toolbox.register("select_parents", parents)
    for generation in range(3):
        draws.clear()
        for candidate in engine.ask():
            engine.tell(candidate, {"error": candidate.index, "size": -candidate.index})
        if generation:
            assert {np.random.default_rng((9, generation, index)).random() for index in range(4)} <= set(draws)


def test_global_generators_are_neither_used_nor_touched():
    runs = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        engine = make(FOUR, population_size=10)
        runs.append((run(engine, 4), state(engine)))
        expected = random.Random(seed).random(), np.random.RandomState(seed).random()
        assert (random.random(), np.random.random()) == expected  # noqa: NPY002
    assert runs[0] == runs[1]


@quick
@given(st.lists(st.integers(0, 11), min_size=5, max_size=30), st.booleans())
def test_the_size_of_the_bites_does_not_count(bites, at_once):
    # Candidates of one generation don't depend on each other's results: asking one by one, telling each before the
    # next, is the same run, as long as no bite reaches over the end of a generation.
    whole = make(offspring_size=5)
    asked = run(whole, 4)
    engine, found, waiting = make(offspring_size=5), [], []
    for bite in itertools.cycle([*bites, 1]):
        size = 8 if not engine.generation else 5
        done = len(found) if not engine.generation else (len(found) - 8) % 5
        candidates = engine.ask(min(bite, size - done))
        found += [(c.generation, c.index, c.genome.id, c.parents, c.operator) for c in candidates]
        waiting += candidates
        if not at_once or done + len(candidates) == size:
            for candidate in reversed(waiting):
                engine.tell(candidate, *evaluate(candidate.genome))
            waiting = []
        if len(found) >= len(asked):
            break
    assert found == asked and state(engine) == state(whole)


def test_a_generation_is_selected_when_its_last_candidate_is_told():
    engine = make(population_size=4)
    for index in range(4):
        (candidate,) = engine.ask(1)
        assert (candidate.generation, candidate.index, engine.generation) == (0, index, 0)
        assert engine.population == []
        engine.tell(candidate, {"error": index, "size": -index})
    assert engine.generation == 1 and len(engine.population) == 4
    assert engine.ask(1)[0].generation == 1


# -- outstanding candidates ----------------------------------------------------------------------------------------


def test_generations_can_be_asked_for_ahead_and_told_in_any_order():
    def ahead(order) -> Engine:
        engine = make(population_size=6)
        candidates = [c for _ in range(3) for c in engine.ask()]
        assert [(c.generation, c.index) for c in candidates] == [(g, i) for g in range(3) for i in range(6)]
        assert len({c.genome for c in candidates}) == 18
        told = []
        for k in order:
            engine.tell(candidates[k], *evaluate(candidates[k].genome))
            told.append(k)
            done = [all(g * 6 + i in told for i in range(6)) for g in range(3)]
            assert engine.generation == [*done, False].index(False)
        return engine

    orders = [list(range(18)), list(reversed(range(18))), list(np.random.default_rng(1).permutation(18))]
    assert len({str(state(ahead(order))) for order in orders}) == 1


def test_fewer_than_none_are_not_to_be_had():
    with pytest.raises(EvonasError, match="-1 candidates asked for"):
        make().ask(-1)


def test_asking_goes_on_over_the_end_of_a_generation():
    engine = make(population_size=4, offspring_size=3)
    candidates = engine.ask(9)
    assert [(c.generation, c.index) for c in candidates] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2),
                                                             (2, 0), (2, 1)]  # fmt: skip
    assert engine.ask(0) == []
    for candidate in candidates:
        engine.tell(candidate, *evaluate(candidate.genome))
    assert engine.generation == 2 and [c.index for c in engine.ask(1)] == [2]


def test_what_was_told_is_kept_by_birth_whatever_the_order_of_arrival():
    kept = []
    for order in (list, lambda candidates: candidates[::-1]):
        engine = make(population_size=6)
        run(engine, 5, order)
        kept.append((list(engine.archive), list(engine.failed)))
    assert kept[0] == kept[1] and kept[0][1]


@pytest.mark.parametrize("which", ["twice", "never asked", "another run's", "another genome", "after restore"])
def test_only_outstanding_candidates_can_be_told(which):
    engine = make()
    (candidate, *_) = engine.ask()
    values = {"error": 1.0, "size": 1.0}
    if which == "twice":
        engine.tell(candidate, values)
    elif which == "never asked":
        candidate = Candidate(candidate.genome, (), "seed", 0, 8)
    elif which == "another run's":
        candidate = Candidate(candidate.genome, (), "seed", 5, 0)
    elif which == "another genome":  # at the same place of a run with another seed
        (candidate, *_) = make(seed=4).ask()
    else:
        engine = make()
        engine.restore([(candidate, values, 0.0)], [candidate.genome.id], 1, None)
    with pytest.raises(EvonasError, match="not asked for, or told twice"):
        engine.tell(candidate, values)


# -- resume --------------------------------------------------------------------------------------------------------


@SETTINGS
@pytest.mark.parametrize("done", [1, 2, 4])
def test_a_restored_run_goes_on_as_if_it_had_never_stopped(objectives, kwargs, done):
    straight = make(objectives, **kwargs)
    told: list = []
    for _ in range(done):
        for candidate in straight.ask():
            # One of every generation fails and one breaks a constraint.
            fixed = {0: (None, 0.0), 1: (None, 0.1 + 0.1 * candidate.generation)}
            result = fixed.get(candidate.index) or values_of(candidate.genome)
            straight.tell(candidate, *result)
            told.append((candidate, *result))
    # Through text, as a store keeps it.
    text = json.dumps(
        {
            "told": [[dict(c.genome), c.parents, c.operator, c.generation, c.index, v, x] for c, v, x in told],
            "population": [m.genome.id for m in straight.population],
            "box": straight.box and [point.tolist() for point in straight.box],
        }
    )
    kept = json.loads(text)
    restored = make(objectives, **kwargs)
    history = [(Candidate(Genome(g), tuple(p), o, n, i), v, x) for g, p, o, n, i, v, x in kept["told"]]
    restored.restore(history, kept["population"], done, kept["box"])
    assert state(restored) == state(straight)
    for _ in range(3):
        assert run(restored, 1) == run(straight, 1)
        assert state(restored) == state(straight)


def test_a_run_interrupted_within_a_generation_asks_for_the_same_again():
    straight = make()
    told: list = []
    advance(straight, 2, told)
    box, population = straight.box, [m.genome.id for m in straight.population]
    asked = straight.ask()
    straight.tell(asked[0], *evaluate(asked[0].genome))
    restored = make()
    restored.restore(told, population, 2, box)
    assert restored.ask() == asked


def test_a_member_without_an_evaluation_can_not_be_restored():
    with pytest.raises(EvonasError, match="000000000000 has no evaluation"):
        make().restore([], ["000000000000"], 1, None)


# -- no duplicates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [SPACE, TINY], ids=["space", "tiny"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_genome_is_asked_for_twice(space, seed):
    engine = make(space=space, seed=seed, population_size=5)
    asked = [genome for _, _, genome, _, _ in run(engine, 12)]
    assert len(asked) == len(set(asked)) and set(asked) == engine.seen


@pytest.mark.parametrize("population_size", [2, 5, 7, 12, 50])
def test_a_space_that_runs_out_gives_fewer_then_none(population_size):
    engine = make(space=TINY, population_size=population_size)
    sizes = []
    while candidates := engine.ask():
        sizes.append(len(candidates))
        before = engine.generation
        for candidate in candidates:
            engine.tell(candidate, *evaluate(candidate.genome))
        assert engine.generation == before + 1
    assert sum(sizes) == 12  # every genome there is, once
    assert sizes[:-1] == [population_size] * (len(sizes) - 1) and sizes[-1] <= population_size
    last = engine.generation
    assert engine.ask() == [] and engine.ask(3) == [] and engine.generation == last == len(sizes)
    everything = [Genome({"a": a, "b": b}) for a in (1, 2, 3, 4) for b in "xyz"]
    assert set(engine.archive) == {g.id for g in everything if evaluate(g)[0] is not None}


def test_a_space_that_runs_out_one_by_one():
    engine = make(space=TINY, population_size=5)
    while candidates := engine.ask(1):
        engine.tell(candidates[0], *evaluate(candidates[0].genome))
    assert len(engine.seen) == 12 and engine.generation == 3
    whole = make(space=TINY, population_size=5)
    run(whole, 4)
    assert state(engine) == state(whole)


def test_a_space_that_runs_out_with_candidates_outstanding():
    engine = make(space=TINY, population_size=5)
    candidates = engine.ask(20)
    assert len(candidates) == 12 and engine.ask() == []
    for candidate in reversed(candidates):
        assert engine.generation == 0
        engine.tell(candidate, *evaluate(candidate.genome))
    assert engine.generation == 3 and engine.ask() == []


def test_inactive_genes_make_no_second_candidate():
    space = custom({"a": [1, 2], "b": [1, 2, 3, 4]}, active={"b": "a == 2"})
    seed = Genome({"a": 1, "b": 3})  # the value of b has no effect
    assert space.check(seed) == []
    engine = make(space=space, population_size=2, seed_genomes=[seed])
    asked = []
    while candidates := engine.ask():
        asked += [c.genome for c in candidates]
        for candidate in candidates:
            engine.tell(candidate, None)
    assert sorted((g.a, g.b) for g in asked) == [(1, 1), (2, 1), (2, 2), (2, 3), (2, 4)]


# -- failures and constraints --------------------------------------------------------------------------------------


def test_failed_candidates_are_no_parents_members_or_front():
    engine = make(population_size=6)
    failed = set()
    for generation in range(6):
        for candidate in engine.ask():
            assert not failed & set(candidate.parents)
            if chance(candidate.genome, "f") < 0.5:
                failed.add(candidate.genome.id)
                engine.tell(candidate, None)
            else:
                engine.tell(candidate, {"error": chance(candidate.genome, "e"), "size": generation})
        assert not failed & {m.genome.id for m in engine.population}
        assert not failed & {m.genome.id for m in engine.front()} and not failed & set(engine.archive)
    assert failed


def test_a_run_survives_generations_in_which_everything_fails():
    engine = make(population_size=4)
    for _ in range(2):
        for candidate in engine.ask():
            engine.tell(candidate, None)
        assert engine.population == engine.front() == [] and engine.hypervolume() == 0.0 and engine.box is None
    advance(engine, 3)
    assert engine.generation == 5 and engine.front() and engine.hypervolume() > 0


def test_infeasible_candidates_only_fill_up_smaller_violation_first():
    engine = make(population_size=4)
    first = engine.ask()
    for candidate, violation in zip(first, (0.5, 0.1, 0.9, 0.2)):
        engine.tell(candidate, None, violation)
    assert [m.genome for m in engine.population] == [first[i].genome for i in (1, 3, 0, 2)]
    assert engine.front() == [] and engine.box is None and engine.hypervolume() == 0.0
    second = engine.ask()
    assert {p for c in second for p in c.parents} <= {c.genome.id for c in first}
    for candidate, result in zip(second, [({"error": 9.0, "size": 9.0}, 0.0), (None, 0.05), (None, 0.0), (None, 3.0)]):
        engine.tell(candidate, *result)
    # The one that works, however bad, then by violation; the failed one nowhere.
    expected = [second[0].genome, second[1].genome, first[1].genome, first[3].genome]
    assert [m.genome for m in engine.population] == expected
    assert [m.genome for m in engine.front()] == [second[0].genome]


def test_values_of_an_infeasible_candidate_do_not_reach_the_front():
    engine = make(population_size=2)
    one, other = engine.ask()
    engine.tell(one, {"error": 0.0, "size": 0.0}, violation=0.1)
    engine.tell(other, {"error": 5.0, "size": 5.0})
    assert [m.genome for m in engine.front()] == [other.genome]
    assert [m.genome for m in engine.population] == [other.genome, one.genome]


@pytest.mark.parametrize(
    "values, violation, words",
    [
        ({"error": math.nan, "size": 1.0}, 0.0, "'error' is nan"),
        ({"error": 1.0, "size": math.inf}, 0.0, "'size' is inf"),
        ({"error": 1.0, "size": -math.inf}, 0.0, "'size' is -inf"),
        ({"error": np.float32("nan"), "size": 1.0}, 0.0, "'error' is nan"),
        ({"error": "low", "size": 1.0}, 0.0, "'error' is low"),
        ({"error": None, "size": 1.0}, 0.0, "'error' is None"),
        ({"error": 1.0}, 0.0, "missing: size"),
        ({"error": math.nan}, 1.0, "'error' is nan"),
        ({"error": "low"}, 1.0, "'error' is low"),
        ({}, 0.0, "missing: error, size"),
        (None, math.nan, "violation nan"),
        (None, math.inf, "violation inf"),
        (None, -1.0, "violation -1"),
        ({"error": 1.0, "size": 1.0}, -0.5, "violation -0.5"),
    ],
)
def test_numbers_that_are_none_are_refused_and_nothing_changes(values, violation, words):
    engine = make(population_size=2)
    one, other = engine.ask()
    with pytest.raises(EvonasError) as caught:
        engine.tell(one, values, violation)
    assert words in caught.value.message
    assert engine.archive == {} and engine.generation == 0
    engine.tell(one, {"error": 1, "size": np.float32(2), "more": "ignored"})  # it is still outstanding
    engine.tell(other, None)
    assert [m.fitness.values for m in engine.front()] == [(1.0, 2.0)]


def test_what_was_refused_is_kept_with_the_values_that_it_has():
    engine = make(population_size=4)
    some, none, failed, sound = engine.ask()
    engine.tell(some, {"size": np.float32(3), "more": 1.0}, 0.5)
    engine.tell(none, None, 0.25)
    engine.tell(failed, None)
    engine.tell(sound, {"error": 1.0, "size": 1.0})
    assert {i: r.partly for i, r in engine.refused.items()} == {some.genome.id: {"size": 3.0}, none.genome.id: {}}
    assert [m.genome for m in engine.front()] == [sound.genome] and set(engine.archive) == {sound.genome.id}
    assert {m.genome.id: m.violation for m in engine.population if m.violation} == {
        some.genome.id: 0.5,
        none.genome.id: 0.25,
    }


# -- objectives ----------------------------------------------------------------------------------------------------


def test_a_maximum_is_the_minimum_of_its_negative():
    largest = make((Objective("gain", "", "max"), Objective("size")))
    smallest = make((Objective("gain", "", "min"), Objective("size")))
    for _ in range(5):
        pairs = list(zip(largest.ask(), smallest.ask()))
        for up, down in pairs:
            assert up.genome == down.genome
            gain, size = chance(up.genome, "gain") * 9, float(sum(up.genome.w))
            largest.tell(up, {"gain": gain, "size": size})
            smallest.tell(down, {"gain": -gain, "size": size})
    assert [m.genome for m in largest.front()] == [m.genome for m in smallest.front()]
    assert [m.fitness.values[0] for m in largest.front()] == [-m.fitness.values[0] for m in smallest.front()]
    assert largest.hypervolume() == smallest.hypervolume()
    best = max(chance(m.genome, "gain") * 9 for m in largest.archive.values())
    assert largest.front()[0].fitness.values[0] == best


def test_the_front_is_the_front_of_everything_told():
    engine = advance(make(), 6)
    points = {m.genome: (m.fitness.values[0], m.fitness.values[1]) for m in engine.archive.values()}
    keep = non_dominated(np.array(list(points.values())))
    front = engine.front()
    assert {m.genome for m in front} == {g for g, k in zip(points, keep) if k}
    assert [m.fitness.values[0] for m in front] == sorted(m.fitness.values[0] for m in front)


def test_hypervolume_never_falls_and_its_box_stays():
    engine = make()
    volumes, boxes = [], []
    for _ in range(8):
        advance(engine, 1)
        volumes.append(engine.hypervolume())
        boxes.append(engine.box)
    assert volumes == sorted(volumes) and volumes[-1] > volumes[0] > 0
    assert all(box is boxes[0] for box in boxes)


def test_of_many_objectives_the_hypervolume_is_added_to_and_never_computed_whole(monkeypatch):
    """Of six and 1,200 points the whole takes seconds."""
    goals = [Objective(f"o{i}") for i in range(6)]

    def values(genome) -> dict[str, float]:
        parts = np.array([0.1 + chance(genome, o.name) for o in goals])
        return dict(zip((o.name for o in goals), (parts / parts.sum()).tolist()))

    engine, told, rows = make(goals, population_size=20), [], []
    whole = moocore.hypervolume

    def counted(points, ref):
        rows.append(len(points))
        return whole(points, ref=ref)

    monkeypatch.setattr(moocore, "hypervolume", counted)
    for _ in range(6):
        for candidate in engine.ask():
            told.append((candidate, values(candidate.genome), 0.0))
            engine.tell(*told[-1])
    volume = engine.hypervolume()
    within = (engine.points(engine.best) < engine.box[1]).all(axis=1).sum()
    assert within > 100 and max(rows) < 0.7 * within, "a front clipped to what one point dominates"
    monkeypatch.undo()
    assert volume == pytest.approx(hypervolume(engine.points(engine.best), *engine.box), rel=1e-12) and volume > 0
    restored = make(goals, population_size=20)
    restored.restore(told, [m.genome.id for m in engine.population], 6, engine.box)
    assert restored.hypervolume() == volume, "to the last bit"


@pytest.mark.parametrize("m, select", [(1, select_nsga2), (2, select_nsga2), (3, select_nsga2), (4, select_nsga3),
                                       (5, select_nsga3)])  # fmt: skip
def test_nsga3_from_four_objectives(m, select):
    objectives = [Objective(f"o{i}") for i in range(m)]
    engine = make(objectives, population_size=6)
    assert engine.toolbox.select.func is select
    for _ in range(4):
        for candidate in engine.ask():
            engine.tell(candidate, {o.name: chance(candidate.genome, o.name) for o in objectives})
    assert len(engine.population) == 6 and engine.hypervolume() > 0


# -- seeds, screen, operators --------------------------------------------------------------------------------------


def test_seed_genomes_come_first_with_mutants_around_them():
    seeds = [SPACE.repair({"n": 1, "w": 1}), SPACE.repair({"n": 5, "w": 8})]
    engine = make(population_size=12, seed_genomes=[*seeds, seeds[0]])
    first = engine.ask()
    assert [c.genome for c in first[:2]] == seeds and [c.operator for c in first[:2]] == ["seed", "seed"]
    assert all(c.parents == () for c in first[:2])
    mutants = [c for c in first if c.parents]
    assert len(mutants) == 5 and {p for c in mutants for p in c.parents} == {g.id for g in seeds}
    assert [c.operator for c in first].count("stratified") == 5


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"population_size": 1}, "population size 1"),
        ({"population_size": 2.5}, "population size 2.5"),
        ({"population_size": "8"}, "population size '8'"),
        ({"offspring_size": 0}, "offspring size 0"),
        ({"offspring_size": 1.5}, "offspring size 1.5"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 0.5}, "seed 0.5"),
        ({"seed": None}, "seed None"),
        ({"objectives": ()}, "at least one objective"),
        ({"objectives": (Objective("a"), Objective("a"))}, "each named once"),
        ({"objectives": ("error",)}, "Objective"),
        ({"seed_genomes": [Genome({"n": 1})]}, "rate: missing"),
        ({"seed_genomes": [SPACE.repair({}).replace(act="q")]}, "act: q"),
        ({"population_size": 2, "seed_genomes": [SPACE.repair({"n": n}) for n in (1, 2, 3)]}, "3 seed genomes"),
    ],
)
def test_wrong_settings_are_refused(kwargs, words):
    with pytest.raises(EvonasError) as caught:
        make(**{"objectives": TWO, **kwargs})
    assert words in str(caught.value)


def test_screened_candidates_are_never_asked_for():
    screened = []

    def screen(genome: Genome) -> float:
        screened.append(genome)
        return max(0.0, sum(genome.w) - 20.0)

    engine = make(screen=screen)
    asked = [c.genome for _ in range(6) for c in _told(engine)]
    assert all(sum(g.w) <= 20 for g in asked) and any(sum(g.w) > 20 for g in screened)


def _told(engine: Engine) -> list[Candidate]:
    candidates = engine.ask()
    for candidate in candidates:
        engine.tell(candidate, *evaluate(candidate.genome))
    return candidates


def test_a_screen_that_nothing_passes_is_a_failed_run():
    for start in (lambda e: e.ask(), lambda e: e.prepare()):
        with pytest.raises(EvonasError, match="no genome was found that meets") as caught:
            start(make(screen=lambda genome: 1.0))
        assert caught.value.exit_code == EXIT_FAILED and "Loosen" in caught.value.hint


def test_operators_can_be_replaced():
    engine = make(population_size=6)
    calls = dict.fromkeys(("mate", "mutate", "select", "select_parents"), 0)

    def grow(genome, space, rng):
        calls["mutate"] += 1
        return space.repair({**genome, "rate": space.genes["rate"].sample(rng)}), "grow"

    def first(one, other, space, rng):
        calls["mate"] += 1
        return one

    def newest(individuals, k, rng):
        calls["select"] += 1
        return sorted(individuals, key=lambda i: -i.index)[:k]

    def youngest(population, k, rng):
        calls["select_parents"] += 1
        return population[:k]

    engine.toolbox.register("mutate", grow)
    engine.toolbox.register("mate", first)
    engine.toolbox.register("select", newest)
    engine.toolbox.register("select_parents", youngest)
    for generation in range(4):
        candidates = engine.ask()
        if generation:
            assert {c.operator for c in candidates} <= {"grow", "mate+grow"}
            assert {p for c in candidates for p in c.parents} <= {m.genome.id for m in engine.population[:2]}
        for candidate in candidates:
            engine.tell(candidate, {"error": candidate.index, "size": candidate.index})
        assert [m.index for m in engine.population] == list(range(6 * generation + 5, 6 * generation - 1, -1))
    assert all(calls.values())


def test_lineage_names_what_came_before():
    engine = make(population_size=6)
    known: set[str] = set()
    operators = set()
    for _ in range(5):
        candidates = _told(engine)
        for c in candidates:
            assert isinstance(c.parents, tuple) and set(c.parents) <= known and len(c.parents) <= 2
            operators.add(c.operator)
        known |= {c.genome.id for c in candidates}
    assert "stratified" in operators and any(o.startswith("mate+") for o in operators)


# -- it works ------------------------------------------------------------------------------------------------------


def zdt1(genome: Genome) -> dict[str, float]:
    """Zitzler, Deb and Thiele 2000, test function T1: the front is size = 1 - sqrt(error), at x1 = x2 = ... = 0."""
    x = [genome[f"x{i}"] for i in range(8)]
    g = 1 + 9 * sum(x[1:]) / (len(x) - 1)
    return {"error": x[0], "size": g * (1 - math.sqrt(x[0] / g))}


def zdt1_front() -> list[tuple[float, float]]:
    return [(e, 1 - math.sqrt(e)) for e in np.linspace(0, 1, 2001)]


def network(genome: Genome) -> dict[str, float]:
    """A network's trade-off in small: width and depth each pay less and less, and cost what they are."""
    return {"error": sum(1 / (1 + w) for w in genome.w) / genome.n + 1 / genome.n, "size": float(sum(genome.w))}


def network_front() -> list[tuple[float, float]]:
    """1 / (1 + w) is convex: the best network of a depth and size has layers of equal width, up to one."""
    out = []
    for n in range(1, 13):
        for size in range(n, 32 * n + 1):
            width, wider = divmod(size, n)
            out.append(((wider / (width + 2) + (n - wider) / (width + 1)) / n + 1 / n, float(size)))
    return out


PROBLEMS = {
    "zdt1": (custom({f"x{i}": {"low": 0.0, "high": 1.0} for i in range(8)}), zdt1, zdt1_front, [0.0, 0.0], [1.1, 6.0]),
    "network": (
        custom({"n": {"low": 1, "high": 12}}, {"w": {"low": 1, "high": 32}}, length="n"),
        network, network_front, [0.0, 0.0], [1.6, 384.0],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_evolution_beats_random_search_of_the_same_size(name):
    space, problem, front, ideal, reference = PROBLEMS[name]

    def volume(points) -> float:
        return hypervolume(np.array(points, dtype=float), np.array(ideal), np.array(reference))

    best = volume(front())
    evolved, drawn = [], []  # what is missing to the known front
    for seed in range(5):
        engine = Engine(space, TWO, population_size=20, seed=seed)
        for _ in range(15):
            for candidate in engine.ask():
                engine.tell(candidate, problem(candidate.genome))
        evolved.append(best - volume([m.fitness.values for m in engine.archive.values()]))
        rng = np.random.default_rng(seed)
        drawn.append(best - volume([list(problem(space.sample(rng)).values()) for _ in engine.archive]))
    assert min(evolved) >= -1e-9
    assert np.median(evolved) < 0.6 * np.median(drawn), (evolved, drawn)


def test_zdt1_comes_close_to_its_known_front():
    space, problem, *_ = PROBLEMS["zdt1"]
    distances = []
    for seed in range(3):
        engine = Engine(space, TWO, population_size=20, seed=seed)
        for _ in range(40):
            for candidate in engine.ask():
                engine.tell(candidate, problem(candidate.genome))
        front = [m.fitness.values for m in engine.front()]
        distances.append(np.mean([size - (1 - math.sqrt(error)) for error, size in front]))
        assert min(e for e, _ in front) < 0.05 and max(e for e, _ in front) > 0.6 and len(front) > 15
    assert 0 <= np.median(distances) < 0.1


def test_a_first_population_cut_short_by_constraints_is_no_exhausted_space():
    space = custom({"x": {"low": 0.0, "high": 1.0}, "y": {"low": 0.0, "high": 1.0}})
    allowed: set[str] = set()

    def screen(genome: Genome) -> float:  # three pass at first, then all
        if engine.generation == 0 and len(allowed) >= 3 and genome.id not in allowed:
            return 1.0
        allowed.add(genome.id)
        return 0.0

    engine = Engine(space, TWO, population_size=8, seed=0, screen=screen)
    for _ in range(3):
        for candidate in engine.ask():
            engine.tell(candidate, {"error": candidate.genome.x, "size": candidate.genome.y})
        assert not engine.exhausted
    assert engine.generation == 3 and len(engine.seen) == 3 + 2 * 8


def test_numpy_numbers_are_numbers_and_other_things_are_not():
    assert make(population_size=np.int64(8), seed=np.int64(3)).ask()
    for wrong in ({"population_size": True}, {"seed": 1.0}, {"seed_genomes": [None]}):
        with pytest.raises(EvonasError):
            make(**wrong)


# -- goals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [("min", "max"), ("max", "min")])
def test_better_than_a_goal_is_as_good_as_the_goal(directions):
    objectives = [Objective("a", "", directions[0]), Objective("b", "", directions[1])]
    engine = Engine(TINY, objectives, population_size=4, seed=0, goals={"a": 5.0})
    told = np.array([[4.0, 1.0], [6.0, 2.0]])
    expected = [[5.0, 1.0], [6.0, 2.0]] if directions[0] == "min" else [[4.0, 1.0], [5.0, 2.0]]
    assert engine.wanted(told).tolist() == expected and told.tolist() == [[4.0, 1.0], [6.0, 2.0]]


def test_a_goal_changes_who_survives_and_not_what_is_reported():
    def play(**goals):
        engine = Engine(SPACE, TWO, population_size=8, seed=0, goals=goals)
        for _ in range(12):
            for candidate in engine.ask():
                engine.tell(candidate, values_of(candidate.genome)[0])
        return engine

    engine = play(size=8.0)
    sizes = [m.told[-1][1] for m in engine.population]
    assert np.mean([s <= 8 for s in sizes]) < np.mean([m.told[-1][1] <= 8 for m in play().population])
    assert all(m.fitness.values[1] >= 8 for m in engine.population)
    told = np.array([m.told[-1] for m in engine.archive.values()])
    assert sorted(m.told[-1] for m in engine.front()) == sorted(map(tuple, told[non_dominated(told)]))


@pytest.mark.parametrize("goals", [{"nothing": 1.0}, {"error": math.nan}, {"error": math.inf}])
def test_a_goal_needs_an_objective_and_a_finite_value(goals):
    with pytest.raises(EvonasError):
        Engine(TINY, TWO, population_size=4, goals=goals)
