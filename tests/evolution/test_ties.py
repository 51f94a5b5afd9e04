"""Which measured values can't be told apart where it matters, and what one more measurement makes of a mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.evolution.ties import CLEAR, SINGLE, near_ties, tied_records, weighed, without_mean
from evonas.record import Measure, Record, of_measurements

LOSS_LATENCY = np.array([False, True])


def ties(values, spread=0.1, measured=LOSS_LATENCY):
    values = np.array(values, float)
    return near_ties(values, np.where(measured, spread, 0.0) * np.ones_like(values), measured)


def test_neighbours_on_the_front_are_a_tie_within_their_joint_error():
    joint = CLEAR * np.hypot(0.1, 0.1)
    assert ties([[2.0, 1.0], [1.0, 1.0 + 0.99 * joint]]) == [(0, 1)]
    assert ties([[2.0, 1.0], [1.0, 1.0 + 1.01 * joint]]) == []


def test_what_only_just_misses_the_front_may_belong_there():
    assert ties([[1.0, 1.0], [2.0, 1.1]]) == [(0, 1)]  # were it the faster one, it would
    assert ties([[1.0, 1.0], [2.0, 2.0]]) == []


def test_whoever_is_clearly_dominated_is_left_alone():
    # The last one is as fast as the second, but the first is better than it by far.
    assert ties([[1.0, 1.0], [0.5, 2.0], [1.5, 1.95]]) == []


def test_equal_measurements_are_one_measurement():
    assert ties([[1.0, 1.0], [2.0, 1.0]]) == []  # two trainings of one architecture


def test_an_equal_value_beside_a_clear_one_is_none():
    # Loss, latency, memory: the last is measured too, without error.
    values, measured = np.array([[2.0, 1.0, 7.0], [1.0, 5.0, 7.0]]), np.array([False, True, True])
    assert near_ties(values, np.array([[0.0, 0.1, 0.0]] * 2), measured) == []
    values[1, 1] = 1.1
    assert near_ties(values, np.array([[0.0, 0.1, 0.0]] * 2), measured) == [(0, 1)]


@pytest.mark.parametrize("measured", [[False, False], [True, True]])
def test_without_what_is_measured_there_is_no_tie_and_all_may_be(measured):
    found = ties([[1.0, 1.02], [1.02, 1.0]], measured=np.array(measured))
    assert found == ([(0, 1)] if measured[0] else [])


def test_of_no_rows_there_are_none():
    assert near_ties(np.zeros((0, 2)), np.zeros((0, 2)), LOSS_LATENCY) == []


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_without_error_nothing_is_a_tie(rows):
    assert ties(rows, spread=0.0) == []


# -- what a single timing is worth ----------------------------------------------------------------------------------


def timed(k: int, latency: float, spread: float, singles: list[float] | None = None) -> Record:
    measures = {"loss": Measure(3.0 - k, 1e-3, "9 tokens"), "latency": Measure(latency, spread, "measured", "cpu")}
    provenance = of_measurements({"latency": singles}) if singles else {}
    return Record(f"g{k}", 0, k, "ok", measures, provenance=provenance)


def test_one_timing_is_worth_what_timings_differ_by_not_what_its_repeats_do():
    close, clear = 1 + 1.9 * SINGLE * 2**0.5, 1 + 2.2 * SINGLE * 2**0.5
    for other, expected in ((close, [(0, 1)]), (clear, [])):
        records = [timed(0, 1.0, 1e-5), timed(1, other, 1e-5)]
        assert tied_records(records, ["loss", "latency"], ["min", "min"], ["latency"]) == expected
    known = weighed([timed(0, 5.0, 1e-5), timed(1, 5.0, 0.9)])
    assert [r.measures["latency"].spread for r in known] == [5 * SINGLE, 0.9]
    assert [r.measures["loss"].spread for r in known] == [1e-3, 1e-3]


def test_what_has_no_error_or_was_timed_again_is_as_it_is():
    records = [timed(0, 5.0, 0.0), timed(1, 5.0, 1e-5, [5.0, 5.2]), timed(2, 5.0, float("nan"))]
    assert all(a is b for a, b in zip(weighed(records), records))


@pytest.mark.parametrize("error", [0.001, 0.05])
def test_where_a_run_has_timed_some_again_these_say_what_one_is_worth(error):
    rng = np.random.default_rng(0)
    several = [timed(k, 2.0, 1e-5, (2 + 2 * error * rng.standard_normal(6)).tolist()) for k in range(20)]
    spread = weighed([*several, *several, timed(20, 3.0, 1e-5)])[-1].measures["latency"].spread
    assert spread == pytest.approx(3 * error, rel=0.3)
    # Three differences are too few to tell, and two genomes of one architecture have the same ones.
    of_three = timed(0, 2.0, 1e-5, several[0].singles("latency")[:4])
    assert weighed([of_three, of_three, timed(1, 3.0, 1e-5)])[-1].measures["latency"].spread == 3 * SINGLE


def test_a_mean_of_several_says_nothing_of_errors():
    assert without_mean([2.0, 2.0, 2.0, 2.5, 2.0]) == [2.0, 2.5, 2.0] and without_mean([1.0, 2.0]) == [1.0, 2.0]
    assert without_mean([]) == [] and without_mean([3.0] * 4) == [3.0]
