from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evonas.fitness.schedule import FINAL_SHARE, learning_rates, prior_for, rate_share
from evonas.genome import read_space, space_from_dict, space_to_dict
from evonas.genome.transformer import SCHEDULES

PEAK = 0.4


@given(st.sampled_from(SCHEDULES), st.floats(0, 1), st.integers(1, 400))
def test_every_step_has_a_rate_above_zero_and_at_most_the_peak(schedule, warmup, steps):
    rates = np.array(learning_rates(schedule, PEAK, warmup, steps))
    rising = min(round(warmup * steps), steps - 1)
    assert len(rates) == steps
    assert np.all(rates > 0) and np.all(rates <= PEAK * (1 + 1e-12))
    assert rates[rising] == pytest.approx(PEAK), "the peak follows the warm-up"
    assert np.all(np.diff(rates[: rising + 1]) > 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_is_a_straight_line_to_the_peak(schedule):
    rates = learning_rates(schedule, PEAK, 0.25, 40)
    assert rates[:11] == pytest.approx([PEAK * (k + 1) / 11 for k in range(11)])


def test_cosine_falls_to_a_tenth():
    rates = np.array(learning_rates("cosine", PEAK, 0.0, 101))
    assert rates[-1] == pytest.approx(0.1 * PEAK)
    assert np.all(np.diff(rates) < 0)
    for done in (0.25, 0.5, 0.75):
        share = 0.5 * (1 + math.cos(math.pi * done))
        assert rates[round(100 * done)] == pytest.approx(PEAK * (0.1 + 0.9 * share))


def test_cosine_after_warm_up_still_ends_at_a_tenth():
    assert learning_rates("cosine", PEAK, 0.2, 50)[-1] == pytest.approx(0.1 * PEAK)


def test_restarts_come_after_cycles_of_length_1_2_4():
    rates = np.array(learning_rates("cosine_restarts", PEAK, 0.0, 701))
    assert [k for k in range(1, 701) if rates[k] > rates[k - 1]] == [101, 301]
    for start in (0, 101, 301):
        assert rates[start] == pytest.approx(PEAK, rel=1e-3)
    for end in (100, 300, 700):
        assert rates[end] == pytest.approx(FINAL_SHARE * PEAK)


def test_restarts_come_after_the_warm_up_too():
    rates = np.array(learning_rates("cosine_restarts", PEAK, 0.1, 779))
    falling = rates[78:]
    assert [k for k in range(1, 701) if falling[k] > falling[k - 1]] == [101, 301]


def test_linear_falls_straight_towards_zero():
    rates = learning_rates("linear", PEAK, 0.2, 50)
    assert rates[10:] == pytest.approx([PEAK * (40 - k) / 40 for k in range(40)])


def test_constant_stays():
    assert learning_rates("constant", PEAK, 0.1, 30)[3:] == [PEAK] * 27


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_a_single_step_is_taken_at_the_peak(schedule, warmup):
    assert learning_rates(schedule, PEAK, warmup, 1) == [PEAK]


@pytest.mark.parametrize(
    ("optimizer", "tokens", "horizon", "share"),
    [
        ("muon", 1600, 100, 0.25),
        ("muon", 100, 100, 1.0),
        ("muon", 25, 100, 2.0),
        ("muon", 1600, None, 1.0),
        ("adamw", 1600, 100, 1.0),
        ("adamw", 25, 100, 1.0),
    ],
)
def test_muons_rate_falls_with_the_square_root_of_the_length(optimizer, tokens, horizon, share):
    assert rate_share(optimizer, tokens, horizon) == pytest.approx(share)


def test_a_priors_rate_is_taken_over_where_it_is_muons_and_its_length_is_known():
    space = read_space("text-cpu")
    found = space.prior_tokens
    longer = prior_for(space, 4 * found)
    assert longer.prior == {**space.prior, "learning_rate": space.prior["learning_rate"] / 2}
    assert longer.prior_tokens == 4 * found and longer.genes == space.genes
    assert prior_for(longer, found).prior == space.prior
    assert prior_for(space, found) is space
    assert prior_for(space, 1).prior["learning_rate"] == space.genes["learning_rate"].high, "as high as the space goes"


@pytest.mark.parametrize(
    ("changes", "share"),
    [({"optimizer": "adamw"}, 1.0), ({"optimizer": None}, 1.0), ({"tokens": None}, 1.0), ({}, 0.5)],
)
def test_a_priors_rate_stays_where_nothing_says_how_it_falls(changes, share):
    data = space_to_dict(read_space("text-cpu"))
    data["prior"] = {name: v for name, v in {**data["prior"], **changes}.items() if v is not None}
    space = space_from_dict(data)
    taken = prior_for(space, 4 * 262_144)
    assert taken.prior["learning_rate"] == share * space.prior["learning_rate"]


def test_of_one_optimiser_a_prior_need_not_speak():
    data = space_to_dict(read_space("text-cpu"))
    del data["prior"]["optimizer"]
    data["genes"]["optimizer"] = ["muon"]
    assert prior_for(space_from_dict(data), 4 * 262_144).prior["learning_rate"] == data["prior"]["learning_rate"] / 2
