"""Which measured values can't be told apart where it matters, and what one more measurement makes of a mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.evolution.ties import CLEAR, near_ties

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
