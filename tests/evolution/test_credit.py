"""Credit: success raises a mutation's share, within bounds, and is forgotten."""

from __future__ import annotations

import pytest

from evonas.evolution.credit import Credit

BASE = {"step": 0.6, "shift": 0.3, "redraw": 0.1}


def test_before_anything_is_known_shares_are_their_own():
    credit = Credit(BASE)
    assert {name: credit.share(name) for name in BASE} == BASE


def test_what_succeeds_is_tried_more_and_nothing_dies_out():
    credit = Credit(BASE)
    for _ in range(200):
        credit.note("mate+step", False)
        credit.note("shift", True)
        credit.note("redraw", False)
    assert credit.share("shift") > 1.5 * BASE["shift"]
    assert 0.3 * BASE["step"] <= credit.share("step") < 0.6 * BASE["step"]


def test_equal_success_changes_nothing():
    credit = Credit(BASE)
    for k in range(300):
        for name in BASE:
            credit.note(name, k % 2 == 0)
    assert {name: credit.share(name) for name in BASE} == pytest.approx(BASE, rel=0.2)


def test_old_success_is_forgotten():
    credit = Credit(BASE)
    for _ in range(50):
        credit.note("shift", True)
        credit.note("step", False)
    high = credit.share("shift")
    for _ in range(300):
        credit.note("shift", False)
        credit.note("step", True)
    assert credit.share("shift") < BASE["shift"] < high


def test_operators_without_a_mutation_count_for_none():
    credit = Credit(BASE)
    for operator in ("mate", "sample", "promote", "", "mate+unheard-of"):
        credit.note(operator, True)
    assert {name: credit.share(name) for name in BASE} == BASE
