"""Sketches of errors: what they keep of differences, and texts that are none."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest

from evonas.sketch import FEWEST, WIDTH, block_means, directions, error_of_difference, error_of_mean, sketch


def losses(seed: int, n: int = 500, apart: float = 0.1, models: int = 2) -> np.ndarray:
    """(models, n): what is hard for one is hard for all, and a little of each one's own."""
    rng = np.random.default_rng(seed)
    return 2 + rng.standard_normal(n) + apart * rng.standard_normal((models, n))


def error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def error_by_blocks(values: np.ndarray) -> float:
    return error(block_means(values))


@pytest.mark.parametrize("apart", [0.02, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("n", [16, 500])
def test_the_error_of_a_difference_is_that_of_the_differences(apart, n):
    for seed in range(20):
        a, b = losses(seed, n, apart)
        estimate = error_of_difference((error_by_blocks(a), error_by_blocks(b)), (sketch(a), sketch(b)))
        assert estimate == pytest.approx(error_by_blocks(a - b), rel=0.03, abs=1e-3 * error_by_blocks(a))
        assert apart > 0.1 or estimate < 0.2 * math.hypot(error_by_blocks(a), error_by_blocks(b))


def test_that_of_fewer_examples_than_blocks_is_known_as_well():
    a, b = losses(0, n=FEWEST)
    estimate = error_of_difference((error(a), error(b)), (sketch(a), sketch(b)))
    assert estimate == pytest.approx(error(a - b), rel=0.03)


def test_of_a_few_blocks_there_is_no_sketch():
    """The deviations of two numbers are the same up to their sign: any two losses would have one error in common."""
    for n in range(FEWEST):
        assert sketch(losses(0, n=n)[0]) == ""
    a, b = losses(0, n=3, apart=3.0)
    assert error_of_difference((0.1, 0.1), (sketch(a), sketch(b))) == math.hypot(0.1, 0.1)


@pytest.mark.parametrize("n", [2, 3, 6, 15, 16, 500])
def test_however_few_the_blocks_twice_the_error_covers_what_it_should(n):
    means = np.random.default_rng(0).standard_normal((3000, n))
    missed = [abs(row.mean()) > 1.96 * error_of_mean(block_means(row)) for row in means]
    assert 0.03 < np.mean(missed) < 0.085
    assert error_of_mean(means[0, :1]) == 0.0


def test_the_same_losses_differ_by_nothing_and_opposite_ones_by_twice():
    a = losses(0)[0]
    assert error_of_difference((0.2, 0.2), (sketch(a), sketch(a + 3))) < 1e-3
    assert error_of_difference((0.2, 0.2), (sketch(a), sketch(-a))) == pytest.approx(0.4, rel=1e-3)


def test_without_a_sketch_errors_are_independent():
    a = sketch(losses(0)[0])
    for pair in (("", ""), (a, ""), ("", a)):
        assert error_of_difference((3.0, 4.0), pair) == 5
    assert error_of_difference((0.0, 0.0), (a, "")) == 0


def test_very_many_examples():
    a, b = losses(1, n=40_000)
    assert error_of_difference((error(a), error(b)), (sketch(a), sketch(b))) == pytest.approx(error(a - b), rel=0.3)


def test_the_error_of_a_mean_of_what_goes_together_is_that_of_its_blocks():
    """An AR(1) series whose neighbours correlate 0.9: the true error, over many series, is four times the naive one."""
    rng, means, naive, blocks = np.random.default_rng(0), [], [], []
    for _ in range(300):
        x = rng.standard_normal(600)
        for k in range(1, len(x)):
            x[k] += 0.9 * x[k - 1]
        means.append(x.mean())
        naive.append(error(x))
        blocks.append(error(block_means(x)))
    assert np.std(means) > 3.5 * np.mean(naive)
    assert np.mean(blocks) == pytest.approx(np.std(means), rel=0.2)
    assert len(block_means(x)) == WIDTH and block_means(x[:3]).tolist() == x[:3].tolist()


def test_joint_draws_have_the_covariance_of_the_means():
    each = losses(3, apart=0.3, models=3)
    drawn = directions([sketch(row) for row in each]) @ np.random.default_rng(0).standard_normal((WIDTH, 20_000))
    assert np.corrcoef(drawn) == pytest.approx(np.corrcoef([block_means(row) for row in each]), abs=0.02)
    assert drawn.std(axis=1) == pytest.approx(np.ones(3), abs=0.02)


def test_scale_and_shift_do_not_matter_and_what_is_written_stays_what_it_is():
    values = np.arange(6.0)
    for other in (7 + 1e-9 * values, 1e6 * values - 4, 1e300 * values, -1e-300 * (5 - values)):
        assert directions([sketch(other)]) == pytest.approx(directions([sketch(values)]), abs=1e-3)
    written = "yLi9taavpi+9Ncg4AAAAAAAAAAAAAAAAAAAAAAAAAAA="
    assert sketch(values) == written
    assert directions([written])[0, :6] == pytest.approx((values - 2.5) / math.sqrt(17.5), abs=1e-3)


@pytest.mark.parametrize("values", [[1.0] * 5, [1.0, math.nan, 2.0], [1.0, math.inf], [2.0], [0.0] * 3, []])
def test_what_does_not_vary_or_is_no_number_has_none(values):
    assert sketch(np.array(values)) == ""


@pytest.mark.parametrize(
    "text",
    ["", "x", "é" * 44, "*" * 44, "A" * 44, "A" * 43 + "=", "A" * 42 + "==", "A" * 10_000,
     base64.b64encode(b"\xff\x7f" * WIDTH).decode(), base64.b64encode(np.full(WIDTH, 9, "<f2").tobytes()).decode(),
     base64.b64encode(np.full(64, 1 / 8, "<f2").tobytes()).decode()],  # the last is as of an earlier version
)  # fmt: skip
def test_what_is_no_sketch_is_nothing(text):
    assert np.isnan(directions([text])).all() and directions([text]).shape == (1, WIDTH)


def test_no_sketches_at_all():
    assert directions([]).shape == (0, WIDTH)
