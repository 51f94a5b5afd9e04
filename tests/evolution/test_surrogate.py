"""What the surrogate takes in, what it says of genomes never tried, and how it is judged."""

from __future__ import annotations

import numpy as np
import pytest

from evonas.evolution import surrogate
from evonas.evolution.fitness import Individual, ParetoFitness
from evonas.evolution.surrogate import Features, Surrogate, _Warp
from evonas.genome import space_from_dict

LAYERED = space_from_dict(
    {
        "kind": "custom",
        "length": "depth",
        "genes": {"depth": {"low": 1, "high": 4}, "width": {"low": 8, "high": 64, "step": 8}, "kind": ["a", "b", "c"]},
        "layers": {"heads": [1, 2, 4], "shape": ["round", "square"]},
    }
)


def cost(genome) -> float:
    return float(genome.width * sum(genome.heads))


def error(genome, rung: int = 0) -> float:
    return 10 / (1 + sum(genome.heads)) + (genome.kind == "b") + 0.01 * genome.width - 0.5 * rung


def individuals(count: int, rungs: int = 1, seed: int = 0, told=error) -> list[Individual]:
    rng = np.random.default_rng(seed)
    out = []
    for k in range(count):
        genome = LAYERED.sample(rng)
        rows = [(told(genome, r), cost(genome)) for r in range(1 + (rungs > 1 and k % 3 == 0) * (rungs - 1))]
        out.append(Individual(genome, ParetoFitness(("min", "min"), rows[-1]), k, rows))
    return out


def refused(individual: Individual, **values: float) -> Individual:
    """The same, had it broken a constraint when no more than these values were known."""
    worse = ParetoFitness(("min", "min"), (), 0.3)
    return Individual(individual.genome, worse, individual.index, (), 0.3, values)


def known(genome) -> dict[str, float]:
    return {"cost": cost(genome), "width": float(genome.width), "nothing": float("nan")}


def test_every_input_has_its_group_whatever_the_depth():
    features = Features(LAYERED, None)
    rng = np.random.default_rng(0)
    rows = features.of([LAYERED.sample(rng) for _ in range(20)])
    assert {len(row) for row in rows} == {len(features.groups)}
    # three scalar fields, and a mean and the deviations from it of two per-layer ones
    assert features.groups == [0, 1, 2, 2, 2, 3, *[4] * 4, 5, 5, *[6] * 8]


def test_layers_that_are_alike_deviate_nowhere():
    genome = LAYERED.repair({"depth": 2, "width": 8, "kind": "a", "heads": (2, 2), "shape": ("round", "round")})
    row = Features(LAYERED, None).of([genome])[0]
    assert np.abs(row[6:10]).max() < 1e-12 and np.abs(row[12:]).max() < 1e-12


def test_what_is_known_is_exact_and_the_rest_is_learned():
    told = individuals(60)
    surrogate = Surrogate(Features(LAYERED, known), told, ["error", "cost"], 1)
    fresh = [i.genome for i in individuals(30, seed=1)]
    mean, std = surrogate.predict(fresh)
    assert mean[:, 1].tolist() == [cost(g) for g in fresh] and not std[:, 1].any()
    truth = np.array([error(g) for g in fresh])
    assert np.sqrt(((mean[:, 0] - truth) ** 2).mean()) < 0.3 * truth.std()
    assert surrogate.skill > 0.7


def test_without_anything_known_all_objectives_are_learned():
    surrogate = Surrogate(Features(LAYERED, None), individuals(60), ["error", "cost"], 1)
    fresh = [i.genome for i in individuals(30, seed=1)]
    mean, std = surrogate.predict(fresh)
    assert (std > 0).all() and (mean[:, 1] > 0).all(), "a cost that spans much is taken as its logarithm"
    assert np.corrcoef(np.log(mean[:, 1]), np.log([cost(g) for g in fresh]))[0, 1] > 0.95


def test_an_objective_that_never_varied_is_taken_to_stay_and_says_nothing_of_the_others():
    told = individuals(60)
    for individual in told:
        individual.told = tuple((row[0], 0.25) for row in individual.told)
    surrogate = Surrogate(Features(LAYERED, None), told, ["error", "time"], 1)
    fresh = [i.genome for i in individuals(30, seed=1)]
    mean, std = surrogate.predict(fresh)
    assert (mean[:, 1] == 0.25).all() and not std[:, 1].any() and all(map(surrogate.tells_of, fresh))
    assert surrogate.skill > 0.7
    for individual in told[-40:]:  # lately, it was all the same
        individual.told = tuple((row[0], 0.25 if individual.index > 25 else 0.5 + row[0]) for row in individual.told)
    assert Surrogate(Features(LAYERED, None), told, ["error", "time"], 1).skill > 0.7
    for individual in told:
        individual.told = ((1.0, 0.25),)
    assert Surrogate(Features(LAYERED, None), told, ["error", "time"], 1).skill == 0.0, "there is nothing to rank"


def test_values_too_large_for_a_models_numbers_are_no_trouble():
    told = individuals(40)
    for individual in told:
        individual.told = tuple((row[0], 1e308 * (1.2 + 0.01 * individual.index)) for row in individual.told)
    surrogate = Surrogate(Features(LAYERED, None), told, ["error", "huge"], 1)
    mean, _ = surrogate.predict([told[0].genome])
    assert surrogate.skill == 0.0 and np.isfinite(mean).all()


def test_values_near_zero_bend_no_model():
    """A cosine is 0 but for the last digits in some: their logarithms alone would be all that a model sees."""
    told = individuals(60)
    for k, individual in enumerate(told):
        (error, size), *_ = individual.told
        individual.told = ((1e-17 if k % 6 == 0 else error, size),)
    clean = [i for k, i in enumerate(told) if k % 6]
    mean, std = Surrogate(Features(LAYERED, None), told, ["error", "size"], 1).predict([i.genome for i in clean])
    assert np.isfinite(mean).all() and np.isfinite(std).all()
    assert np.corrcoef(mean[:, 0], [i.told[0][0] for i in clean])[0, 1] > 0.5


def test_what_is_expected_stays_a_number_however_far_a_model_goes():
    warp = _Warp(np.array([1e-9, 1.0, 50.0]))
    mean, std = warp.back(np.array([-1e4, 0.0, 1e4]), np.array([1e3, 1.0, 1e3]))
    assert np.isfinite(mean).all() and np.isfinite(std).all() and mean[0] < 1e-9
    values = np.array([1e-9, 0.3, 1.0, 50.0])
    assert warp.back(warp.of(values), np.zeros(4))[0] == pytest.approx(values)
    assert (_Warp(np.array([-1.0, 5.0])).of(values) == values).all()


def test_what_an_evaluation_takes_is_learned_beside_a_typical_one():
    told, new = individuals(60), [i.genome for i in individuals(40, seed=9)]
    surrogate = Surrogate(Features(LAYERED, known), told, ["error", "cost"], 1)
    paid = {i.genome.id: 3.0 * cost(i.genome) for i in told}
    expected = surrogate.prices(new, paid)
    wanted = np.array([3.0 * cost(g) for g in new]) / np.median(list(paid.values()))
    np.testing.assert_allclose(expected, wanted, rtol=0.1)
    few = dict(list(paid.items())[:7])
    assert (surrogate.prices(new, few) == 1).all() and (surrogate.prices(new, {}) == 1).all()
    assert (surrogate.prices(new, dict.fromkeys(paid, 0.0)) == 1).all(), "what was taken over cost nothing"


def test_noise_shows_as_a_lack_of_skill():
    rng = np.random.default_rng(0)
    skills = [
        Surrogate(
            Features(LAYERED, known), individuals(60, seed=s, told=lambda g, r: rng.random()), ["error", "cost"], 1
        )
        for s in range(5)
    ]
    assert np.median([s.skill for s in skills]) < 0.2


def test_how_often_it_was_within_its_error_is_told():
    """About two thirds of what it had not seen where it fits, hardly any where the world has changed since."""
    rng = np.random.default_rng(1)

    def coverage(told) -> float:
        return Surrogate(Features(LAYERED, known), told, ["error", "cost"], 1).coverage

    noisy = [individuals(80, seed=s, told=lambda g, r: error(g, r) + 0.1 * rng.standard_normal()) for s in range(12)]
    found = [coverage(told) for told in noisy]
    assert 0.5 < np.mean(found) < 0.85 and max(found) <= 1.0
    for told in noisy:
        for individual in told[-24:]:
            (loss, size), *_ = individual.told
            individual.told = ((loss + 2.0, size),)
    assert np.mean([coverage(told) for told in noisy]) < 0.35 < np.mean(found)
    few = individuals(4)
    assert coverage(few) is None
    assert Surrogate(Features(LAYERED, known), individuals(40), ["cost"], 1).coverage is None, "nothing is unknown"


def test_lower_rungs_count_as_what_they_are():
    told = individuals(60, rungs=3)
    surrogate = Surrogate(Features(LAYERED, known), told, ["error", "cost"], 3)
    fresh = [i.genome for i in individuals(30, seed=1)]
    mean, _ = surrogate.predict(fresh)
    truth = np.array([error(g, 2) for g in fresh])
    assert abs((mean[:, 0] - truth).mean()) < 0.15, "a rung takes off half a nat"


def test_what_few_have_otherwise_at_a_higher_rung_is_no_matter_of_rungs():
    """A time that was measured once more, as in ``Climbing.steady``."""
    told = individuals(60, rungs=3)
    (*rows, (loss, time)), i = told[3].told, told[3]
    again = Individual(i.genome, i.fitness, i.index, [*rows, (loss, 1.05 * time)])
    fresh = [i.genome for i in individuals(30, seed=1)]
    both = told, [*told[:3], again, *told[4:]]
    before, after = (Surrogate(Features(LAYERED, None), of, ["error", "cost"], 3).predict(fresh)[0] for of in both)
    assert (before == after).all()


def test_few_points_judge_nothing():
    assert Surrogate(Features(LAYERED, known), individuals(6), ["error", "cost"], 1).skill == 0.0


def test_many_points_are_cut_to_what_a_model_can_hold(monkeypatch):
    fitted = []

    class Noting(surrogate.GaussianProcess):
        def __init__(self, inputs, y):
            fitted.append(len(y))
            super().__init__(inputs, y)

    monkeypatch.setattr(surrogate, "GaussianProcess", Noting)
    assert Surrogate(Features(LAYERED, known), individuals(400), ["error", "cost"], 1).skill > 0.7
    for count in (210, 700):  # with results of later rungs: 140, all of which have room, and 468
        Surrogate(Features(LAYERED, known), individuals(count, rungs=3), ["error", "cost"], 3)
    assert fitted == [surrogate.MAX_POINTS] * 3


def test_what_only_constraints_look_at_is_told_and_judges_nothing():
    rng = np.random.default_rng(1)
    told = individuals(60)
    for individual in told:
        individual.told = tuple((*row, float(rng.random())) for row in individual.told)
    surrogate = Surrogate(Features(LAYERED, None), told, ["error", "cost", "noise"], 1, watched=1)
    assert surrogate.skill > 0.7
    mean, std = surrogate.predict([i.genome for i in individuals(20, seed=1)])
    assert mean.shape == std.shape == (20, 3) and 0 < mean[:, 2].min() and mean[:, 2].max() < 1
    assert Surrogate(Features(LAYERED, None), told, ["error", "cost", "noise"], 1).skill < 0.4


def test_violations_are_learned_from_both_sides():
    def broken(genome) -> float:
        return max(0.0, genome.width / 8 - 4.0)

    told, fresh = individuals(80), [i.genome for i in individuals(60, seed=1)]
    violations = {i.genome: broken(i.genome) for i in told if broken(i.genome)}
    surrogate = Surrogate(Features(LAYERED, known), told, ["error", "cost"], 1, violations=violations)
    found, true = surrogate.violations(fresh), np.array([broken(genome) for genome in fresh])
    assert ((found > 0) == (true > 0)).mean() > 0.9 and np.corrcoef(found, true)[0, 1] > 0.9
    partly = [refused(i) if i.genome in violations else i for i in told]
    surrogate = Surrogate(Features(LAYERED, known), partly, ["error", "cost"], 1, violations=violations)
    found = surrogate.violations(fresh)
    assert ((found > 0) == (true > 0)).mean() > 0.9 and np.corrcoef(found, true)[0, 1] > 0.9
    assert surrogate.explained == {genome.id for genome in violations}
    # What is far off hides nothing of the others.
    far = {genome: 1e300 if genome.width == 64 else value for genome, value in violations.items()}
    found = Surrogate(Features(LAYERED, known), told, ["error", "cost"], 1, violations=far).violations(fresh)
    assert ((found > 0) == (true > 0)).mean() > 0.85 and np.isfinite(found).all()


def test_of_violations_that_say_nothing_none_is_expected():
    told, fresh = individuals(80), [i.genome for i in individuals(60, seed=1)]
    for violations in ({}, {i.genome: 0.1 for i in told}):
        surrogate = Surrogate(Features(LAYERED, known), told, ["error", "cost"], 1, violations=violations)
        assert surrogate.violations(fresh).tolist() == [0.0] * 60 and not surrogate.explained


def test_what_broke_constraints_counts_as_far_as_it_has_values():
    """Wide ones were measured and never trained: their cost is learned all the same, and their error is not."""
    told, fresh = individuals(120), [i.genome for i in individuals(60, seed=1) if i.genome.width > 40]
    wide = [i for i in told if i.genome.width > 40]
    partly = [refused(i, cost=cost(i.genome)) if i in wide else i for i in told]
    names, violations = ["error", "cost"], {i.genome: 0.0 for i in wide}
    surrogate = Surrogate(Features(LAYERED, None), partly, names, 1, violations=violations)
    narrow = Surrogate(Features(LAYERED, None), [i for i in told if i not in wide], names, 1)
    costs = np.array([cost(genome) for genome in fresh])
    with_it, without = (np.abs(np.log(s.predict(fresh)[0][:, 1] / costs)).mean() for s in (surrogate, narrow))
    assert with_it < 0.7 * without
    assert surrogate.predict(fresh)[0][:, 0].tolist() == pytest.approx(narrow.predict(fresh)[0][:, 0].tolist(), abs=0.1)
    assert surrogate.explained == {i.genome.id for i in wide} and not surrogate.violations(fresh).any()
    # Some whose violation no value explains, and that nothing can be learned from: alone, and all alike.
    violations = dict.fromkeys(violations, 0.3)
    alike = Surrogate(Features(LAYERED, None), [i for i in partly if i.partly], names, 1, violations=violations)
    assert not alike.explained and alike.unknown == {"error"}
    assert alike.skill > 0.7, "as far as there is something to judge"


@pytest.mark.parametrize("factor", [1.0, 30.0, 1e4, 1e290])
def test_what_is_far_off_changes_little_of_the_scale_of_the_rest_and_is_expected_far_off(factor):
    told = individuals(120)
    wide = [i for i in told if i.genome.width > 40]
    narrow = [i for i in told if i not in wide]
    ruled_out = [refused(i, cost=factor * cost(i.genome)) for i in wide]
    violations = {i.genome: 0.0 for i in ruled_out}
    model = Surrogate(Features(LAYERED, None), narrow + ruled_out, ["error", "cost"], 1, 0, violations)
    fresh = [i.genome for i in individuals(80, seed=1)]
    near, far = ([g for g in fresh if (g.width > 40) == off] for off in (False, True))
    costs = model.predict(near)[0][:, 1]
    assert model.skill > 0.7 and np.corrcoef(np.log(costs), np.log([cost(g) for g in near]))[0, 1] > 0.9
    if factor > 1:
        limit = max(cost(i.genome) for i in narrow)
        assert (costs <= 1.5 * limit).mean() > 0.9 < (model.predict(far)[0][:, 1] > 1.5 * limit).mean()


def test_however_many_there_are_what_was_ruled_out_is_learned_from():
    everyone = individuals(surrogate.MAX_POINTS + 200)
    early = [refused(i) for i in everyone[:100] if i.genome.width > 40]
    told = [*early, *(i for i in everyone if i.genome.width <= 40)]
    assert len(early) > 20 and len(told) > surrogate.MAX_POINTS
    violations = {i.genome: i.genome.width / 8 - 5 for i in early}
    model = Surrogate(Features(LAYERED, None), told, ["error", "cost"], 1, violations=violations)
    assert model.explained == {i.genome.id for i in early}
    fresh = [i.genome for i in individuals(60, seed=1)]
    assert ((model.violations(fresh) > 0) == [g.width > 40 for g in fresh]).mean() > 0.9


@pytest.mark.parametrize("spread", [0.1, 1e-3, 0.0])
def test_what_is_watched_is_expected_to_break_a_limit_that_only_the_ruled_out_broke(spread):
    """All that has all values lies within it, by far and nearly or quite alike, or near it."""
    fresh, told = [i.genome for i in individuals(60, seed=1)], []
    for i in individuals(120):
        beyond = i.genome.width > 40
        memory = 0.1 * i.genome.width if beyond or spread == 0.1 else 1.0 + spread * i.genome.width
        i.told = ((*i.told[0][:2], memory),)
        told.append(refused(i, memory=memory) if beyond else i)
    violations = {i.genome: 0.0 for i in told if not i.told}
    model = Surrogate(Features(LAYERED, known), told, ["error", "cost", "memory"], 1, 1, violations)
    found = model.predict(fresh)[0][:, 2]
    assert ((found > 4.4) == [g.width > 40 for g in fresh]).mean() > 0.9


@pytest.mark.parametrize("count", [1, 2, 11])
def test_few_results_beside_what_was_ruled_out_make_no_scale(count):
    everyone = individuals(60)
    told = [i if k < count else refused(i, cost=cost(i.genome)) for k, i in enumerate(everyone)]
    violations = {i.genome: 0.0 for i in told if not i.told}
    model = Surrogate(Features(LAYERED, known), told, ["error", "time"], 1, 0, violations)
    assert model.unknown == set() and model.skill == 0.0
    model = Surrogate(Features(LAYERED, None), told, ["error", "cost"], 1, 0, violations)
    fresh = [i.genome for i in individuals(40, seed=1)]
    found = np.log(model.predict(fresh)[0][:, 1])
    assert np.corrcoef(found, np.log([cost(g) for g in fresh]))[0, 1] > 0.9 and model.skill_at_constraints() > 0.5


def test_what_is_positive_is_never_expected_to_be_nothing():
    """Far below the least, as a short length scale may bend it."""
    y = np.array([0.1, 0.2, 0.4, 3.0, 9.0])
    warp = _Warp(y)
    low = warp.heights.min() - 10 * np.ptp(warp.heights)
    assert warp.back(np.array([low]), np.array([0.1]))[0].tolist() == pytest.approx([0.05])
    assert warp.back(warp.heights, np.zeros(5))[0].tolist() == pytest.approx(y.tolist())


def test_what_only_constraints_look_at_is_expected_within_what_was_seen():
    told = individuals(60)
    for individual in told:
        individual.told = tuple((*row, 0.01 * individual.genome.width) for row in individual.told[:1])
    narrow = [i for i in told if i.genome.width < 40]
    mean, _ = Surrogate(Features(LAYERED, None), narrow, ["error", "cost", "width"], 1, watched=1).predict(
        [i.genome for i in individuals(200, seed=1)]
    )
    assert mean[:, 2].min() >= 0.08 and mean[:, 2].max() == 0.32
