"""What is left of a budget, and what closing trainings will take."""

from __future__ import annotations

import pytest

from evonas.search.closing import Left, Pace


@pytest.fixture
def pace():
    return Pace((10, 40, 160))


def test_without_experience_a_rung_takes_as_long_as_its_tokens_say(pace):
    pace.note("a", 0, 2.0)
    assert pace.to_the_end("a", 0) == pytest.approx(2 * 3 + 2 * 12)
    assert pace.to_the_end("a", 2) == 0


def test_what_rungs_take_beside_those_below_is_learned_from_genomes_with_both(pace):
    pace.note("a", 0, 2.0)
    pace.note("a", 1, 1.0)  # most of the first was its start
    pace.note("b", 1, 50.0)  # came from elsewhere: tells nothing of its own rung below
    pace.note("c", 0, 6.0)
    assert pace.to_the_end("c", 0) == pytest.approx(3.0 + 3.0 * 4)


def test_a_member_never_timed_takes_what_its_rung_takes(pace):
    for seconds in (5.0, 1.0, 2.0):
        pace.note(f"{seconds}", 0, seconds)
    assert pace.to_the_end("reused", 0) == pytest.approx(2 * 3 + 2 * 12)
    assert Pace((10, 40)).to_the_end("reused", 0) == 0


def test_typical_seconds_are_medians_of_rungs_with_enough_peers(pace):
    for k, seconds in enumerate((9.0, 1.0, 3.0)):
        pace.note(f"{k}", 0, seconds)
    pace.note("0", 1, 7.0)
    assert pace.typical() == {0: 3.0, 1: 7.0} and pace.typical(peers=2) == {0: 3.0}


@pytest.mark.parametrize(
    ("left", "closing", "affordable"),
    [
        (100.0, False, {0, 1, 2}),
        (40.0, False, {0, 1, 2}),
        (39.0, True, {0, 1, 2}),
        (25.0, True, {0, 1}),
        (5.0, True, set()),
    ],
)
def test_the_front_is_closed_while_there_is_enough_for_it(left, closing, affordable):
    budget = Left(left, 100.0, 10.0, [10.0, 10.0, 9.9])
    assert (budget.closing, budget.affordable) == (closing, affordable)


def test_who_is_too_dear_does_not_stand_in_the_way_of_others():
    assert Left(20.0, 100.0, 10.0, [30.0, 8.0, 15.0, 12.0]).affordable == {1, 3}


def test_side_by_side_they_share_the_time_but_one_alone_is_no_faster_unless_it_is_one_device():
    costs = [4.0, 32.0, 4.0]
    assert Left(20.0, 100.0, 10.0, costs, lanes=2).affordable == {0, 1, 2}
    assert Left(20.0, 100.0, 10.0, costs, lanes=2, alone=True).affordable == {0, 2}
    assert Left(4.0, 100.0, 10.0, costs, lanes=2, alone=True).affordable == {0, 2}


def test_no_more_than_a_share_of_a_budget_is_kept_for_closing():
    assert not Left(100.0, 100.0, 10.0, [30.0, 60.0]).closing
    assert not Left(61.0, 100.0, 10.0, [25.0, 35.0]).closing
    assert Left(60.0, 100.0, 10.0, [25.0, 35.0]).closing


@pytest.mark.parametrize("left, closing", [(59.0, False), (21.0, False), (20.0, True)])
def test_nothing_is_kept_for_who_is_too_dear(left, closing):
    budget = Left(left, 100.0, 10.0, [200.0, 5.0, 5.0])
    assert (budget.closing, budget.affordable) == (closing, {1, 2})
    assert not Left(left, 100.0, 10.0, [200.0]).closing and Left(10.0, 100.0, 10.0, [200.0]).closing


def test_with_nothing_unfinished_the_budget_is_for_generations():
    budget = Left(11.0, 100.0, 10.0, [], alone=True)
    assert not budget.closing and not budget.affordable and budget._replace(left=10.0).closing
