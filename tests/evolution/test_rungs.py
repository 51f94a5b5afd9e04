"""Rungs: what is expected of a longer training, how sure that is, and how many go on to it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evonas.evolution.rungs import Ladder, RungModel, described, due, traits_in
from evonas.genome import TRAITS, Genome, read_space, space_from_dict, traits


def population(n: int, seed: int = 0, noise: float = 0.01):
    """(told at rung 0, told at rung 1, genes): the gain depends on the first gene, the second column is a time."""
    rng = np.random.default_rng(seed)
    genes = rng.random((n, 5))
    lower = np.stack([3 + rng.normal(0, 0.2, n), 1 + rng.random(n)], axis=1)
    change = np.stack([-0.5 - genes[:, 0] + rng.normal(0, noise, n), np.zeros(n)], axis=1)
    return lower, lower + change, genes


def features(lower, genes):
    return np.concatenate([lower, genes], axis=1)


def test_a_few_pairs_tell_of_what_stands_alone_among_many_features():
    # Thirty genes of which none matters, and one number that does.
    errors = {None: [], 1: []}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        inputs = rng.random((60, 31))
        below = 3 + 0.01 * rng.random((60, 1))
        above = below - 1 - np.sin(3 * inputs[:, :1]) + 0.02 * rng.standard_normal((60, 1))
        for alone, found in errors.items():
            model = RungModel(inputs[:20], below[:20], above[:20], alone)
            found.append(np.abs(model.expected(below[20:], inputs[20:]) - above[20:]).mean())
    assert np.mean(errors[1]) < 0.9 * np.mean(errors[None])


def test_with_many_pairs_every_feature_is_judged_by_itself():
    lower, upper, genes = population(60)
    made = [
        RungModel(features(lower, genes), lower, upper, alone).expected(lower, features(lower, genes))
        for alone in (None, 2)
    ]
    assert made[0].tolist() == made[1].tolist()


@pytest.mark.parametrize("sign", [1, -1])  # positive values are taken in logarithms, others as they are
def test_of_a_lead_as_much_remains_as_the_pairs_tell(sign):
    """Twice: what was ahead stays so by as much, and by nothing at all."""
    errors = {}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        genes, lead = rng.random((60, 6)), 0.4 * rng.standard_normal((60, 1))
        below, gain = 4 + lead, 0.3 * genes[:, :1]
        for kept, above in (("all", below - 1 - gain), ("none", 3 - gain)):
            above = sign * (above + 0.02 * rng.standard_normal((60, 1)))
            inputs = features(sign * below, genes)
            for shares in ((1.0,), (1.0, 0.75, 0.5)):
                model = RungModel(inputs[:15], sign * below[:15], above[:15], None, shares)
                off = np.abs(model.expected(sign * below[15:], inputs[15:]) - above[15:]).mean()
                errors.setdefault((kept, len(shares)), []).append(off)
    mean = {key: np.mean(found) for key, found in errors.items()}
    assert mean["none", 3] < 0.95 * mean["none", 1] and mean["all", 3] < 1.05 * mean["all", 1]


def test_of_what_never_changes_all_remains():
    lower, _, genes = population(20)
    model = RungModel(features(lower, genes), lower, lower, None, (1.0, 0.5))
    assert model.expected(lower, features(lower, genes)).tolist() == lower.tolist()


def test_what_a_genome_is_described_by():
    space = read_space("text-cpu").bounded(64)
    genome = space.sample(np.random.default_rng(0))
    made = described(space, genome)
    assert made[:TRAITS].tolist() == traits(genome).tolist()
    assert made[TRAITS:].tolist() == space.encode(genome, per_layer=False).tolist()
    assert traits_in(space) == TRAITS
    own = space_from_dict({"kind": "custom", "genes": {"d_model": {"low": 0, "high": 9}}})
    assert described(own, own.repair({"d_model": 0})).tolist() == [0.05] and traits_in(own) == 0


@pytest.mark.parametrize("gene", ["batch_size", "learning_rate", "n_layers", "d_model", "optimizer"])
@pytest.mark.parametrize("value", [0, False, -1, "x", math.nan, None, (3,)])
def test_what_does_not_lie_in_the_space_is_described_as_what_does(gene, value):
    space = read_space("text-cpu").bounded(64)
    genes = dict(space.sample(np.random.default_rng(0)))
    made = described(space, Genome({**genes, gene: value}))
    assert np.isfinite(made).all() and made.shape == described(space, Genome(genes)).shape


def test_genes_share_a_length_scale_beside_traits_only():
    lower, upper, genes = population(12)
    told = [((tuple(a), tuple(b)), g) for a, b, g in zip(lower, upper, genes)]
    assert Ladder(told, 2, 2).models[0].groups.tolist() == list(range(7))
    assert Ladder(told, 2, 2, traits=1).models[0].groups.tolist() == [0, 1, 2, 3, 3, 3, 3]
    third = [((*rows, rows[-1]), g) for rows, g in told]
    models = Ladder(third, 3, 2, traits=1).models
    assert [m.groups.tolist() for m in models] == [[0, 1, 2, 3, 3, 3, 3], [0, 1, 2, 3, 4, 5, 5, 5, 5]]


def test_without_pairs_nothing_changes_and_nothing_is_known_of_the_error():
    model = RungModel(np.zeros((0, 3)), np.zeros((0, 2)), np.zeros((0, 2)))
    assert np.isnan(model.error).all() and model.pairs == 0
    assert model.expected(np.array([[1.0, 2.0]]), np.ones((1, 3))).tolist() == [[1.0, 2.0]]


def test_a_few_pairs_give_the_mean_change():
    below, above = np.array([[4.0, 1.0]] * 3), np.array([[2.0, 1.0], [1.0, 1.0], [0.5, 1.0]])  # 1/2, 1/4, 1/8 of it
    genes = np.random.default_rng(0).random((3, 4))
    model = RungModel(genes, below, above)
    assert model.expected(np.array([[8.0, 7.0]]), np.ones((1, 4))) == pytest.approx(np.array([[2.0, 7.0]]))
    # Each left out is expected to change as the (geometric) mean of the other two.
    others = 4 * np.array([2**-2.5, 2**-2.0, 2**-1.5])
    assert model.left_out[0][:, 0] == pytest.approx(others)
    assert model.error == pytest.approx([np.sqrt(np.mean((others - above[:, 0]) ** 2)), 0.0])


def test_values_that_may_be_negative_change_by_differences():
    below, above = np.array([[0.0], [2.0], [4.0]]), np.array([[-1.0], [0.0], [1.0]])
    model = RungModel(np.random.default_rng(0).random((3, 4)), below, above)
    assert model.expected(np.array([[5.0]]), np.ones((1, 4))) == pytest.approx(np.array([[3.0]]))
    # Each left out is expected to change as the mean of the other two: by -2.5, -2, -1.5 instead of -1, -2, -3.
    assert model.error == pytest.approx([np.sqrt((1.5**2 + 0 + 1.5**2) / 3)])


def test_genes_that_explain_the_change_are_found():
    lower, upper, genes = population(40)
    model = RungModel(features(lower, genes)[:30], lower[:30], upper[:30])
    expected = model.expected(lower[30:], features(lower, genes)[30:])
    plain = np.abs(lower[30:, 0] + (upper - lower)[:30, 0].mean() - upper[30:, 0]).mean()
    assert np.abs(expected[:, 0] - upper[30:, 0]).mean() < 0.35 * plain
    assert (expected[:, 1] == lower[30:, 1]).all(), "a time does not change with training"


def test_the_error_it_states_is_the_error_it_makes():
    ratios = []
    for seed in range(20):
        lower, upper, genes = population(60, seed, noise=0.1)
        model = RungModel(features(lower, genes)[:30], lower[:30], upper[:30])
        made = model.expected(lower[30:], features(lower, genes)[30:])[:, 0] - upper[30:, 0]
        ratios.append(np.sqrt((made**2).mean()) / model.error[0])
    assert 0.8 < np.median(ratios) < 1.25


def test_genes_that_explain_nothing_do_no_harm():
    rng = np.random.default_rng(1)
    change = rng.normal(-1, 0.1, (12, 1))
    model = RungModel(rng.random((12, 40)), np.zeros((12, 1)), change)
    expected = model.expected(np.zeros((50, 1)), rng.random((50, 40)))
    assert np.abs(expected + 1).mean() < 0.1


def test_expected_changes_stay_within_those_seen():
    lower, upper, genes = population(30)
    model = RungModel(features(lower, genes), lower, upper)
    far = model.expected(np.array([[3.0, 1.0]]), np.full((1, 7), 1e6))[0, 0]
    shares = (upper / lower)[:, 0]
    assert 3 * shares.min() * (1 - 1e-9) <= far <= 3 * shares.max() * (1 + 1e-9)


def test_a_gene_that_never_varied_says_nothing():
    lower, upper, genes = population(30)
    genes[:, 3] = 0.5
    model = RungModel(features(lower, genes), lower, upper)
    other = genes[:1].copy()
    other[0, 3] = 0.9
    at = [model.expected(lower[:1], features(lower[:1], g)).tolist() for g in (genes[:1], other)]
    assert at[0] == at[1]


def test_at_the_last_rung_what_was_told_counts():
    ladder = Ladder([], 2, 2)
    assert ladder.expected([[(3.0, 1.0), (2.0, 1.0)]], [np.zeros(4)]) == [(2.0, 1.0)]
    assert ladder.error(1).tolist() == [0.0, 0.0]


def test_rungs_are_chained():
    lower, upper, genes = population(30)
    third = upper - [0.25, 0.0]
    told = [((tuple(a), tuple(b), tuple(c)), g) for a, b, c, g in zip(lower, upper, third, genes)]
    ladder = Ladder(told, 3, 2)
    first, second = ladder.expected([[lower[0]], [lower[0], upper[0]]], [genes[0]] * 2)
    assert second == pytest.approx(tuple(third[0]), abs=1e-4)
    assert first[0] == pytest.approx(third[0, 0], abs=0.15)
    assert ladder.error(0)[0] > ladder.error(1)[0] and ladder.error(0)[1] == 0


def test_a_rung_nobody_has_reached_changes_nothing():
    lower, upper, genes = population(10)
    told = [((tuple(a), tuple(b)), g) for a, b, g in zip(lower, upper, genes)]
    ladder = Ladder(told, 3, 2)
    assert ladder.expected([told[0][0]], [genes[0]]) == [told[0][0][-1]]
    assert np.isnan(ladder.error(1)).all() and np.isnan(ladder.error(0)).all()


@pytest.mark.parametrize(("rung", "born", "expected"), [(1, 3, 0), (1, 8, 2), (2, 15, 0), (2, 40, 2), (3, 72, 1)])
def test_one_in_so_many_goes_on(rung, born, expected):
    assert due(rung, born, 4) == expected


@pytest.mark.parametrize("size", [1e-300, 1e154, 1e306])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_objectives_of_any_size_give_numbers(size, sign):
    lower, upper, genes = population(12)
    lower, upper = lower * size, upper * size
    lower[::2] *= sign
    ladder = Ladder([((tuple(a), tuple(b)), g) for a, b, g in zip(lower, upper, genes)], 2, 2)
    assert np.isfinite(ladder.expected([[tuple(a)] for a in lower], genes)).all()


def test_twins_are_no_trouble():
    lower, upper, genes = population(8)
    told = [((tuple(a), tuple(b)), g) for a, b, g in zip(lower, upper, genes)]
    ladder = Ladder(told * 3, 2, 2)
    assert ladder.expected([[tuple(lower[0])]], genes[:1])[0] == pytest.approx(upper[0], rel=0.02)
    assert np.isfinite(ladder.error(0)).all()


def test_a_time_measured_once_more_changes_no_other():
    lower, upper, genes = population(20)
    upper[7, 1] *= 1.05
    model = RungModel(features(lower, genes), lower, upper)
    assert model.expected(lower, features(lower, genes))[:, 1].tolist() == lower[:, 1].tolist()
    few = RungModel(features(lower, genes)[5:8], lower[5:8], upper[5:8])
    assert few.expected(lower, features(lower, genes))[:, 1].tolist() == lower[:, 1].tolist()


def test_many_at_once_are_expected_as_one_by_one():
    lower, upper, genes = population(70, noise=0.05)
    ladder = Ladder([((tuple(a), tuple(b)), g) for a, b, g in zip(lower, upper, genes)][:40], 2, 2)
    told = [[tuple(a)] for a in lower]
    together = ladder.expected(told, genes)
    assert together == [ladder.expected([t], [g])[0] for t, g in zip(told, genes)]
    assert len(set(together)) == 70


def test_what_is_not_positive_where_pairs_were_changes_by_their_mean():
    below, above = np.linspace(1, 2, 12)[:, None], np.linspace(1, 2, 12)[:, None] / 2
    model = RungModel(below, below, above)
    found = model.expected(np.array([[-1.0], [0.0], [1.5]]), np.array([[-1.0], [0.0], [1.5]]))
    assert found[:, 0] == pytest.approx([-1.75, -0.75, 0.75], abs=1e-6)


def test_a_pair_that_falls_to_zero_is_no_trouble():
    lower, upper, genes = population(12)
    upper[3, 0] = 0.0
    model = RungModel(features(lower, genes), lower, upper)
    assert np.isfinite(model.expected(lower, features(lower, genes))).all() and np.isfinite(model.error).all()


@pytest.mark.parametrize("n", [2, 3, 40, 41, 90])
def test_every_pair_is_left_out_once_from_three_on(n):
    lower, upper, genes = population(n)
    expected, ranked = RungModel(features(lower, genes), lower, upper).left_out
    assert np.isnan(expected).all() == np.isnan(ranked).all() == (n < 3)
    if n > 3:
        assert 0 < np.abs(expected[:, 0] - upper[:, 0]).max() < 0.6
        other = upper.copy()
        other[0, 0] += 0.5  # what is left out does not see itself
        again = RungModel(features(lower, genes), lower, other).left_out[0]
        assert again[0, 0] == pytest.approx(expected[0, 0], abs=1e-9)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 1e-9 else 0.0


@pytest.mark.parametrize("explained", [0.0, 0.9])  # of the variance of the changes, by the first of two features
def test_what_is_left_out_is_ranked_as_new_ones_are(explained):
    """Ranked by what is expected of them, those that nothing tells of would seem to be ranked the wrong way round; by
    what they are ranked by, none seem ranked better than others of which the model was never told."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.random((88, 2))
        told = math.sqrt(12 * explained) * (x[:, 0] - 0.5) + math.sqrt(1 - explained) * rng.standard_normal(88)
        below, above = np.zeros((88, 1)), told[:, None]
        left_out = RungModel(x[:8], below[:8], above[:8]).left_out
        new = RungModel(x[1:8], below[1:8], above[1:8]).expected(below[8:], x[8:])[:, 0]
        of_new = [correlation(new[k - 8 : k], told[k : k + 8]) for k in range(8, 88, 8)]
        found.append([*(correlation(values[:, 0], told[:8]) for values in left_out), np.mean(of_new)])
    expected, ranked, new = np.mean(found, axis=0)
    assert expected < ranked < new + 0.05, "not inflated"
    assert ranked > new - 0.15 and (explained > 0 or expected < new - 0.15), "nor the wrong way round"


def test_the_last_of_very_many_pairs_count(monkeypatch):
    monkeypatch.setattr("evonas.evolution.rungs._MOST", 30)
    lower, upper, genes = population(60)
    told = [((tuple(a), tuple(b)), g) for a, b, g in zip(lower, upper, genes)]
    assert Ladder(told, 2, 2).models[0].pairs == 30
    assert Ladder(told, 2, 2).expected([told[0][0][:1]], genes[:1]) == Ladder(told[30:], 2, 2).expected(
        [told[0][0][:1]], genes[:1]
    )


@pytest.mark.parametrize("pairs", [3, 12])
def test_what_would_be_beyond_all_bounds_is_a_number(pairs):
    genes = np.random.default_rng(0).random((pairs, 2))
    tiny, huge = np.geomspace(1e-300, 1e-150, pairs)[:, None], np.geomspace(1e100, 1e300, pairs)[:, None]
    for below, above in ((tiny, huge), (-huge, huge * 5), (np.full((pairs, 1), -8e307), np.full((pairs, 1), 8e307))):
        model = RungModel(genes, below, above)
        values = np.array([[1.0], [1e10], [1e-300], [-1e300]])
        assert np.isfinite(model.expected(values, np.ones((4, 2)))).all() and np.isfinite(model.error).all()
