"""The engine whose populations are arrays."""

from __future__ import annotations

import numpy as np
import pytest

from evonas.errors import EvonasError
from evonas.evolution import ArrayEngine, Engine, environment, hypervolume
from evonas.evolution.environment import best_places, select_nsga2
from evonas.evolution.fitness import Individual, ParetoFitness
from evonas.evolution.variation import mutate_codes
from evonas.genome import Genome, read_space, space_from_dict
from evonas.genome.codes import Codes
from evonas.record import Objective

LAYERED = space_from_dict(
    {"kind": "custom", "length": "n", "genes": {"n": [1, 2, 3, 4, 5, 6], "a": {"low": 0.0, "high": 1.0}},
     "layers": {"w": {"low": 0, "high": 9}, "kind": list("xyz")}}
)  # fmt: skip
TINY = space_from_dict({"kind": "custom", "genes": {"a": [0, 1, 2], "b": list("uv")}})
BOTH = [Objective("error"), Objective("size")]


def flat(codes: Codes) -> set[bytes]:
    return {row.tobytes() for row in codes.flat() + 0.0}


def error_and_size(codes: Codes) -> np.ndarray:
    """(n, 2): wide layers in the first places lower the error, all widths cost."""
    n_layers, a = codes.scalars[:, 0] + 1, codes.scalars[:, 1]
    gain = (codes.layers[:, :, 0] / (1 + np.arange(codes.layers.shape[1]))).sum(axis=1)
    return np.stack([30 - gain + (a - 0.7) ** 2, codes.layers[:, :, 0].sum(axis=1) + n_layers], axis=1)


def evolved(generations: int, **settings) -> ArrayEngine:
    engine = ArrayEngine(settings.pop("space", LAYERED), settings.pop("objectives", BOTH), **settings)
    for _ in range(generations):
        engine.tell(error_and_size(engine.ask()))
    return engine


@pytest.mark.parametrize("space", [LAYERED, read_space("text-cpu")], ids=["custom", "transformer"])
def test_all_that_is_asked_for_is_of_the_space_and_new(space):
    engine, seen = ArrayEngine(space, BOTH, population_size=60, offspring_size=40, seed=3), set()
    for generation in range(5):
        codes = engine.ask()
        assert len(codes) == (60 if generation == 0 else 40)
        assert len(flat(codes)) == len(codes) and not flat(codes) & seen
        seen |= flat(codes)
        assert all(space.contains(genome) for genome in space.coder.decode(codes))
        engine.tell(np.random.default_rng(generation).random((len(codes), 2)))
    assert (engine.generation, engine.told, len(engine.population)) == (5, 220, 60)


def test_one_seed_gives_one_run():
    fronts = [evolved(6, population_size=20, seed=seed).front() for seed in (1, 1, 2)]
    assert fronts[0] == fronts[1] != fronts[2]


def test_what_was_asked_for_can_be_changed_by_the_caller():
    """What is told belongs to the genomes as they were asked for."""
    engines = [ArrayEngine(LAYERED, BOTH, population_size=10, seed=0) for _ in range(2)]
    for engine, spoils in zip(engines, (False, True)):
        codes = engine.ask()
        values = error_and_size(codes)
        if spoils:
            codes.scalars[:], codes.layers[:] = 0.0, 0.0
        engine.tell(values)
    assert engines[0].front() == engines[1].front()


def test_the_front_is_of_all_that_was_told():
    engine, told = ArrayEngine(LAYERED, BOTH, population_size=8, seed=0), []
    for _ in range(10):
        codes = engine.ask()
        values = error_and_size(codes)
        told += [(tuple(row), genome) for row, genome in zip(values.tolist(), LAYERED.coder.decode(codes))]
        engine.tell(values)
    best = sorted(
        row for row, _ in told if not any(all(a <= b for a, b in zip(other, row)) and other != row for other, _ in told)
    )
    front = engine.front()
    assert len(best) > 8  # more than the population can hold
    assert [values for _, values in front] == best
    assert all((values, genome) in told for genome, values in front)


def test_what_is_larger_the_better():
    up = [Objective("error", "", "max"), Objective("size", "", "max")]
    engines = [ArrayEngine(LAYERED, objectives, population_size=12, seed=4) for objectives in (BOTH, up)]
    for _ in range(5):
        for engine, sign in zip(engines, (1, -1)):
            engine.tell(sign * error_and_size(engine.ask()))
    plain, negated = (engine.front() for engine in engines)
    assert [g for g, _ in plain] == [g for g, _ in negated]
    assert [values for _, values in plain] == [tuple(-v for v in values) for _, values in negated]


def test_it_finds_what_the_engine_of_candidates_finds():
    """Hypervolume after as many evaluations, without a surrogate in both: medians of seven seeds."""
    found = {"arrays": [], "candidates": [], "at random": []}
    for seed in range(7):
        by_arrays = [values for _, values in evolved(8, population_size=20, seed=seed).front()]
        engine = Engine(LAYERED, BOTH, population_size=20, seed=seed)
        for _ in range(8):
            for candidate in engine.ask():
                values = error_and_size(LAYERED.coder.encode([candidate.genome]))[0]
                engine.tell(candidate, {"error": values[0], "size": values[1]})
        rng = np.random.default_rng(seed)
        drawn = error_and_size(LAYERED.coder.encode([LAYERED.sample(rng) for _ in range(160)]))
        points = by_arrays, [i.told[-1] for i in engine.front()], drawn
        for name, rows in zip(found, points):
            found[name].append(hypervolume(np.array(rows), np.array([0.0, 0.0]), np.array([31.0, 60.0])))
    arrays, candidates, at_random = (float(np.median(found[name])) for name in found)
    assert at_random < arrays and 1 - arrays < 1.15 * (1 - candidates)


def test_failures_are_no_parents_and_on_no_front():
    engine = ArrayEngine(LAYERED, BOTH, population_size=30, seed=0)
    for _ in range(4):
        codes = engine.ask()
        values = error_and_size(codes)
        values[codes.scalars[:, 0] >= 3, 1] = np.nan
        engine.tell(values)
        assert (engine.population.scalars[:, 0] < 3).all()
    assert engine.front() and all(genome["n"] <= 3 for genome, _ in engine.front())


def test_it_goes_on_where_all_have_failed():
    engine = ArrayEngine(LAYERED, BOTH, population_size=10, seed=0)
    engine.tell(np.full((len(engine.ask()), 2), np.nan))
    assert engine.front() == [] and len(engine.population) == 0
    codes = engine.ask()
    engine.tell(error_and_size(codes))
    assert len(codes) == 10 and engine.front()


def test_constraints_come_first_and_keep_off_the_front():
    engine = ArrayEngine(LAYERED, BOTH, population_size=20, seed=0)
    for _ in range(6):
        codes = engine.ask()
        wide = codes.layers[:, :, 0].max(axis=1)
        engine.tell(error_and_size(codes), np.maximum(wide - 2, 0.0))
    assert engine.front() and all(max(genome["w"]) <= 2 for genome, _ in engine.front())
    assert (engine.population.layers[:, :, 0].max(axis=1) <= 2).all()


def test_a_space_that_is_exhausted_gives_fewer_then_none():
    engine, seen = ArrayEngine(TINY, BOTH, population_size=4, seed=0), set()
    for _ in range(6):
        codes = engine.ask()
        assert not flat(codes) & seen
        seen |= flat(codes)
        engine.tell(codes.scalars)
    assert len(seen) == 6 and engine.told == 6 and len(codes) == 0


def test_seed_genomes_come_first_with_mutants_around_them():
    seed = LAYERED.repair({"n": 2, "a": 0.25, "w": (3, 9), "kind": ("x", "z")})
    engine, mutated = ArrayEngine(LAYERED, BOTH, population_size=10, seed=0, seed_genomes=[seed]), []

    def noted(codes, coder, rng):
        mutated.append(codes.flat()[0])
        return mutate_codes(codes, coder, rng)

    engine.toolbox.register("mutate", noted)
    codes = engine.ask()
    assert LAYERED.coder.decode(codes)[0] == seed
    # Of nine places four are for mutants: one, one, two and two mutations away.
    assert len(mutated) == 6 and sum((row == codes.flat()[0]).all() for row in mutated) == 4


def test_members_are_nobody_elses():
    engine = evolved(2, population_size=10, seed=0)
    engine.population.scalars[:], engine.population.layers[:] = 0.0, 0.0
    assert flat(engine.population) == flat(evolved(2, population_size=10, seed=0).population)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_of_a_space_is_found_one_by_one(seed):
    engine = ArrayEngine(TINY, BOTH, population_size=4, offspring_size=1, seed=seed)
    while len(codes := engine.ask()):
        engine.tell(codes.scalars)
    assert engine.told == 6


def test_mutations_that_help_are_drawn_more_often():
    """Only depth counts here: a layer less always helps, one more never."""
    deep = space_from_dict(
        {"kind": "custom", "length": "n", "genes": {"n": list(range(1, 61))}, "layers": {"w": {"low": 0, "high": 9}}}
    )
    engine = ArrayEngine(deep, [Objective("depth")], population_size=200, seed=0)
    for _ in range(3):
        engine.tell(engine.ask().scalars)
    assert engine.credit.share("remove") > 1.2 * 0.1
    assert engine.credit.share("insert") < 0.8 * 0.07


def test_operators_can_be_replaced():
    engine, called = ArrayEngine(LAYERED, BOTH, population_size=10, seed=0), []

    def worst(points, violations, births, k):
        called.append(len(points))
        return best_places(points, violations, births, len(points))[::-1][:k]

    engine.toolbox.register("select", worst)
    for _ in range(4):
        engine.tell(error_and_size(engine.ask()))
    good = evolved(4, population_size=10, seed=0)
    assert called == [10, 20, 20, 20]
    ends = [np.zeros(2), np.array([31.0, 60.0])]
    kept, best = (hypervolume(error_and_size(each.population), *ends) for each in (engine, good))
    assert kept < 0.8 * best


@pytest.mark.parametrize("seed", range(5))
def test_the_best_places_are_those_of_the_selection_of_individuals(seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(6, size=(40, 2)).astype(float)
    violations = np.where(rng.random(40) < 0.3, rng.integers(1, 4, size=40), 0).astype(float)
    births = rng.permutation(40)
    people = [
        Individual(Genome({"i": k}), ParetoFitness(("min", "min"), () if broken else row, broken), birth)
        for k, (row, broken, birth) in enumerate(zip(points.tolist(), violations.tolist(), births.tolist()))
    ]
    for k in (1, 17, 35, 40):
        chosen = [i.genome["i"] for i in select_nsga2(people, k, rng)]
        assert best_places(points, violations, births, k).tolist() == chosen


def test_parents_are_different_and_the_best_are_chosen_most_often():
    first, second = environment.tournament_places(4000, 10, np.random.default_rng(0))
    assert (first != second).all() and set(first) == set(range(9))  # the last wins no tournament for the first place
    assert np.bincount(first)[0] == pytest.approx(4000 * 0.2, rel=0.1)
    first, second = environment.tournament_places(5, 1, np.random.default_rng(0))
    assert (first == 0).all() and (second == 0).all()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "violations", "said"),
    [
        (np.zeros((9, 2)), None, "shape"),
        (np.zeros((10, 3)), None, "shape"),
        (np.zeros(10), None, "shape"),
        ([["much", 1.0]] * 10, None, "no array of numbers"),
        (np.full((10, 2), np.inf), None, "finite"),
        (np.zeros((10, 2)), np.zeros(3), "shape"),
        (np.zeros((10, 2)), np.full(10, -1.0), "not below 0"),
        (np.zeros((10, 2)), np.full(10, np.nan), "finite"),
    ],
)  # fmt: skip
def test_values_that_are_none_are_refused_and_change_nothing(values, violations, said):
    engine = ArrayEngine(LAYERED, BOTH, population_size=10, seed=0)
    codes = engine.ask()
    with pytest.raises(EvonasError, match=said):
        engine.tell(values, violations)
    engine.tell(error_and_size(codes))
    assert engine.front() == evolved(1, population_size=10, seed=0).front()


def test_ask_and_tell_take_turns():
    engine = ArrayEngine(LAYERED, BOTH, population_size=10, seed=0)
    with pytest.raises(EvonasError, match="nothing was asked for"):
        engine.tell(np.zeros((10, 2)))
    engine.ask()
    with pytest.raises(EvonasError, match="has not been told"):
        engine.ask()


@pytest.mark.parametrize("settings", [{"population_size": 1}, {"offspring_size": 0}, {"seed": -1}])
def test_settings_are_checked(settings):
    with pytest.raises(EvonasError):
        ArrayEngine(LAYERED, BOTH, **settings)
