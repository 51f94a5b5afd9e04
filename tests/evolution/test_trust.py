"""Screening and variation alone are followed by what they gain."""

from __future__ import annotations

import numpy as np
import pytest

from evonas.evolution import Engine
from evonas.evolution.trust import ENOUGH, Trust
from evonas.genome import space_from_dict
from evonas.record import Objective

BOX = np.zeros(2), np.ones(2)
GONE = [np.nan, np.nan]


def told(*generations) -> Trust:
    trust = Trust(2)
    trust.note(np.array([[0.9, 0.9]]), np.array([-1]), None)
    for points, ways in generations:
        trust.note(np.array(points), np.array(ways), BOX)
    return trust


def test_while_little_was_told_the_surrogate_is_followed():
    assert told(([GONE, [0.5, 0.5]], [1, 0])).share(ENOUGH - 1) == 1.0


def test_what_gains_more_has_the_larger_share_and_the_other_some():
    points = [[0.5, 0.5], [0.85, 0.85]]
    assert told((points, [1, 0])).share(ENOUGH) == pytest.approx(0.9)
    assert told((points, [0, 1])).share(ENOUGH) == pytest.approx(0.1)
    assert told(([GONE, GONE], [0, 1])).share(ENOUGH) == pytest.approx(0.5)
    assert Trust(2).share(ENOUGH) == pytest.approx(0.5)


def test_what_was_won_long_ago_is_forgotten():
    trust = told(([[0.5, 0.5]], [1]))
    for k in range(400):
        step = 0.499 - k / 1000
        trust.note(np.array([[step, step], GONE]), np.array([0, 1]), BOX)
    assert trust.share(ENOUGH) < 0.2


def test_a_large_first_step_does_not_outweigh_many_small_later_ones():
    trust = told(([[0.1, 0.1], GONE], [1, 0]))
    assert trust.share(ENOUGH) == pytest.approx(0.9)
    for k in range(40):
        step = 0.0999 - k / 10_000
        trust.note(np.array([GONE, [step, step]]), np.array([1, 0]), BOX)
    assert trust.share(ENOUGH) < 0.5


def test_of_one_generation_the_larger_gain_counts_more():
    trust = told(([[0.6, 0.6], [0.58, 0.58]], [1, 0]))  # both beat 0.9, 0.9: by 0.15 and 0.166
    assert 0.4 < trust.share(ENOUGH) < 0.5


@pytest.mark.parametrize("at", [1, 30, 52])
def test_a_restored_engine_knows_what_it_knew(at):
    space = space_from_dict({"kind": "custom", "genes": {f"x{k}": {"low": 0.0, "high": 1.0} for k in range(6)}})

    def make() -> Engine:
        return Engine(
            space, [Objective("a"), Objective("b")], population_size=20, offspring_size=5, seed=1, surrogate=True
        )

    def advance(engine: Engine, until: int) -> list:
        out = []
        while engine.generation < until:
            for c in engine.ask():
                x = [c.genome[f"x{k}"] for k in range(6)]
                values = {"a": x[0], "b": 1 - x[0] ** 0.5 + sum((v - 0.3) ** 2 for v in x[1:])}
                engine.tell(c, values)
                out.append((c, values, 0.0))
        return out

    whole = make()
    before = advance(whole, at)
    again = make()
    again.restore(before, [m.genome.id for m in whole.population], at, [part.tolist() for part in whole.box])
    for one, other in ((whole.trust._gains, again.trust._gains), (whole.trust._tries, again.trust._tries)):
        assert one.tolist() == other.tolist()
    assert [c for c, *_ in advance(whole, at + 3)] == [c for c, *_ in advance(again, at + 3)]
