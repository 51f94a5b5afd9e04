"""What has failed tells where others would."""

from __future__ import annotations

import numpy as np
import pytest

from evonas.evolution import Engine
from evonas.evolution.failing import Soundness
from evonas.evolution.surrogate import Features
from evonas.genome import Genome, space_from_dict
from evonas.record import Objective

SPACE = space_from_dict(
    {
        "kind": "custom",
        "genes": {"rate": {"low": 1e-4, "high": 1.0, "log": True}, "size": {"low": 1, "high": 40}, "kind": ["a", "b"]},
    }
)


def genomes(n: int, seed: int = 0) -> list[Genome]:
    rng = np.random.default_rng(seed)
    return list(dict.fromkeys(SPACE.sample(rng) for _ in range(n)))


def diverges(genome: Genome) -> bool:
    return genome.rate > 0.1


def fitted(fails, n: int = 80, seed: int = 0) -> Soundness:
    drawn = genomes(n, seed)
    failed = [g for g in drawn if fails(g)]
    return Soundness(Features(SPACE, None), [g for g in drawn if not fails(g)], failed)


def test_it_learns_the_region_that_fails():
    model, fresh = fitted(diverges), genomes(200, seed=1)
    chances = model.of(fresh)
    assert ((0 <= chances) & (chances <= 1)).all()
    bad = np.array([diverges(g) for g in fresh])
    assert chances[bad].mean() < 0.4 and chances[~bad].mean() > 0.85


def test_a_few_failures_or_ones_without_a_pattern_say_nothing():
    fresh = genomes(50, seed=1)
    rare = iter([True] * 3)
    for model in (
        fitted(lambda g: next(rare, False)),
        fitted(lambda g: int(g.id, 16) % 5 == 0),
        fitted(lambda g: False),
        fitted(lambda g: True),
    ):
        assert (model.of(fresh) == 1).all()
    assert len(fitted(diverges).of([])) == 0


def test_the_order_of_arrival_changes_nothing():
    drawn = genomes(60)
    sound, failed = [g for g in drawn if not diverges(g)], [g for g in drawn if diverges(g)]
    features, fresh = Features(SPACE, None), genomes(20, seed=1)
    one = Soundness(features, sound, failed).of(fresh)
    assert (one == Soundness(features, sound[::-1], failed[::-1]).of(fresh)).all()


def lost_later(seed: int, violation: float) -> int:
    """Of 64 later candidates of a search whose best rates lie next to those that diverge, how many were lost."""

    def told(genome: Genome):
        loss = (np.log10(genome.rate) + 1.2) ** 2 + 1 / genome.size
        return None if diverges(genome) else {"loss": float(loss), "time": float(genome.size)}

    goals = (Objective("loss"), Objective("time"))
    engine = Engine(SPACE, goals, population_size=16, offspring_size=8, seed=seed, surrogate=True)
    failures = []
    while engine.generation < 16:
        batch = engine.ask()
        failures.append(sum(told(c.genome) is None for c in batch))
        for candidate in batch:
            values = told(candidate.genome)
            engine.tell(candidate, values, violation if values is None else 0.0)
    assert set(engine.failed) == {i for i in engine.seen if i not in engine.archive}
    return sum(failures[8:])


@pytest.mark.parametrize("seed", range(3))
def test_a_search_with_a_surrogate_walks_into_fewer_failures(seed):
    assert lost_later(seed, 0.0) <= 0.25 * 8 * 8


def test_what_breaks_a_constraint_before_it_has_values_is_stayed_away_from_too():
    assert sum(lost_later(seed, 0.5) for seed in range(3)) <= 0.25 * 3 * 8 * 8  # not learned from, all of them are


def test_it_says_how_often_they_fail_and_not_how_many_it_learns_from(monkeypatch):
    """One in fifty fails, most beyond a rate; of each kind it learns from 60."""
    monkeypatch.setattr("evonas.evolution.failing._LATEST", 60)
    rng, some = np.random.default_rng(0), genomes(1000)
    fails = [rng.random() < (0.8 if g.rate > 0.3 else 0.02) for g in some]
    sound, failed = ([g for g, f in zip(some, fails) if f == kind] for kind in (False, True))
    said = Soundness(Features(SPACE, None), sound, failed).of(some)
    high = np.array([g.rate > 0.3 for g in some])
    assert said[~high].mean() > 0.9 and 0.05 < said[high].mean() < 0.5
    of_as_many = Soundness(Features(SPACE, None), sound[-60:], failed[-60:]).of(some)
    assert said[~high].mean() > of_as_many[~high].mean() + 0.02
