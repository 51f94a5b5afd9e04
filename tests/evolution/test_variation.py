"""Crossover and mutation: pure, inside the space, and made of what the parents hold."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.evolution import mate, mutate
from evonas.evolution.variation import (
    MUTATIONS,
    duplicate_layer,
    insert_layer,
    redraw_gene,
    remove_layer,
    scale_sizes,
    shift_field,
    step_genes,
)
from evonas.genome import Genome, SearchSpace, read_space, space_from_dict

quick = settings(deadline=None, derandomize=True, max_examples=150)
seeds = st.integers(0, 2**32 - 1)


def custom(genes, layers=None, **top) -> SearchSpace:
    return space_from_dict({"kind": "custom", "genes": genes, "layers": layers or {}, **top})


# Without rules, so that nothing is repaired: what an operator does is all there is to see.
LAYERED = custom(
    {"n": {"low": 1, "high": 8}, "rate": {"low": 1e-4, "high": 1.0, "log": True}, "act": ["x", "y", "z"], "k": [1, 2]},
    {"w": {"low": 0, "high": 99}, "c": list("abcdefgh"), "g": [True, False]},
    length="n",
)
FLAT = custom({"a": {"low": 0.0, "high": 1.0}, "b": [1, 2, 4], "c": ["u", "v"]})


def draw(space: SearchSpace, seed: int, n: int = 1) -> list[Genome]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(n)]


def apply(operator, genome: Genome, space: SearchSpace, rng: np.random.Generator) -> dict:
    """The genes after one mutation, before any repair."""
    coder = space.coder
    codes = coder.encode([genome])
    return space.genes_of(coder.decode(coder.fitted(codes, operator(codes, coder, rng)))[0])


def changed_in(before: Genome, after: dict) -> list[str]:
    """Genes that differ; of layers those that are in both."""
    return [
        n
        for n, old in before.items()
        if (any(a != b for a, b in zip(old, after[n])) if isinstance(old, tuple) else old != after[n])
    ]


def rows(genome) -> list[tuple]:
    return list(zip(genome["w"], genome["c"], genome["g"]))


def is_subsequence(short: list, long: list) -> bool:
    rest = iter(long)
    return all(item in rest for item in short)


def test_a_mutant_is_another_genome_where_other_codes_are_not():
    """Hidden widths round to multiples of 8, and a head width that follows from the others is left out."""
    space = space_from_dict(
        {
            "kind": "custom",
            "length": "n_layers",
            "genes": {"n_layers": [1], "d_model": [32], "head_dim": [None, 16]},
            "layers": {"n_heads": [2], "ffn_ratio": {"low": 1.0, "high": 2.0}},
        }
    )
    rng = np.random.default_rng(0)
    genome = space.sample(rng)
    mutants = [mutate(genome, space, rng) for _ in range(200)]
    assert all(child != genome and name != "none" for child, name in mutants)


# -- crossover -----------------------------------------------------------------------------------------------------


@quick
@given(seeds)
def test_a_child_is_made_of_its_parents(seed):
    first, second = draw(LAYERED, seed, 2)
    child = mate(first, second, LAYERED, np.random.default_rng(seed))
    assert child.n in (first.n, second.n)
    assert child.act in (first.act, second.act) and child.k in (first.k, second.k)
    low, high = sorted((first.rate, second.rate))
    assert low * 0.99 <= child.rate <= high * 1.01
    base, other = (first, second) if child.n == first.n else (second, first)
    if first.n == second.n and sum(a != b for a, b in zip(child.c, base.c)) > sum(
        a != b for a, b in zip(child.c, other.c)
    ):
        base, other = other, base
    for name in ("w", "c", "g"):
        for i, value in enumerate(child[name]):
            there = min(int((i + 0.5) / base.n * other.n), other.n - 1)
            assert value in (base[name][i], other[name][there])


def test_one_aligned_segment_is_exchanged():
    # Parents that say of every layer whose it is and how deep it lies.
    first = LAYERED.repair({"n": 4, "w": (0, 1, 2, 3), "c": "a", "g": True})
    second = LAYERED.repair({"n": 8, "w": tuple(range(10, 18)), "c": "h", "g": False})
    rng = np.random.default_rng(0)
    whole_layers, single_fields, lengths = 0, 0, set()
    for _ in range(300):
        child = mate(first, second, LAYERED, rng)
        mine, yours = (first, second) if child.n == 4 else (second, first)
        taken = {}
        for name in ("w", "c", "g"):
            at = [i for i, v in enumerate(child[name]) if v not in mine[name]]
            taken[name] = at
            assert at == list(range(at[0], at[-1] + 1)) if at else True  # one piece
        for i in taken["w"]:
            assert child.w[i] == yours.w[min(int((i + 0.5) / mine.n * yours.n), yours.n - 1)]  # from the same depth
        fields = [name for name, at in taken.items() if at]
        assert len(fields) in (1, 3)
        whole_layers += len(fields) == 3 and taken["w"] == taken["c"] == taken["g"]
        single_fields += len(fields) == 1
        lengths.add(len(taken[fields[0]]))
    assert whole_layers > 100 and single_fields > 100 and len(lengths) >= 6


@quick
@given(seeds)
def test_twins_have_a_twin(seed):
    (genome,) = draw(LAYERED, seed)
    assert mate(genome, genome, LAYERED, np.random.default_rng(seed)) == genome


def test_ordered_genes_are_met_in_between_on_their_own_scale():
    first, second = FLAT.repair({"a": 0.0}), FLAT.repair({"a": 1.0})
    rng = np.random.default_rng(1)
    children = [mate(first, second, FLAT, rng).a for _ in range(600)]
    between = [a for a in children if 0 < a < 1]
    assert 100 < len(between) < 260 and abs(np.mean(between) - 0.5) < 0.1
    log_first, log_second = LAYERED.repair({"rate": 1e-4}), LAYERED.repair({"rate": 1.0})
    rates = [mate(log_first, log_second, LAYERED, rng).rate for _ in range(600)]
    between = [r for r in rates if 1e-4 < r < 1]
    assert len(between) > 100 and abs(np.mean(np.log10(between)) + 2) < 0.4


# -- mutation ------------------------------------------------------------------------------------------------------


@quick
@given(seeds, st.sampled_from(["layered", "flat"]))
def test_steps_move_one_to_three_genes(seed, which):
    space = LAYERED if which == "layered" else FLAT
    (genome,) = draw(space, seed)
    changed = space.repair(apply(step_genes, genome, space, np.random.default_rng(seed)))
    names = [n for n in genome if n != space.length and genome[n] != changed[n]]
    places = sum(sum(a != b for a, b in zip(genome[n], changed[n])) if space.genes[n].per_layer else 1 for n in names)
    if changed.get("n") == genome.get("n"):
        assert places <= 3


def test_numeric_steps_are_on_the_genes_own_scale():
    rng = np.random.default_rng(2)
    ratios = []
    for start in (1e-3, 1e-1):
        genome = LAYERED.repair({"rate": start})
        stepped = [apply(step_genes, genome, LAYERED, rng)["rate"] / start for _ in range(1500)]
        ratios.append(np.std(np.log10([r for r in stepped if r != 1])))
    assert ratios[0] == pytest.approx(ratios[1], rel=0.25)  # the same ratios at both ends of three decades
    assert 0.3 < ratios[0] < 1.0


@quick
@given(seeds)
def test_layers_are_inserted_removed_and_duplicated(seed):
    (genome,) = draw(LAYERED, seed)
    rng = np.random.default_rng(seed)
    before = rows(genome)

    inserted = apply(insert_layer, genome, LAYERED, rng)
    duplicated = apply(duplicate_layer, genome, LAYERED, rng)
    removed = apply(remove_layer, genome, LAYERED, rng)
    for values, change in ((inserted, 1), (duplicated, 1), (removed, -1)):
        if 1 <= genome.n + change <= 8:
            assert values["n"] == genome.n + change == len(values["w"])
        else:
            assert values == dict(genome)
        assert {k: v for k, v in values.items() if k in ("rate", "act", "k")} == {
            k: v for k, v in genome.items() if k in ("rate", "act", "k")
        }
    assert is_subsequence(before, rows(inserted)) and is_subsequence(before, rows(duplicated))
    assert is_subsequence(rows(removed), before)
    assert set(rows(duplicated)) == set(before)
    if duplicated["n"] > genome.n:
        twins = [i for i in range(genome.n) if rows(duplicated)[i] == rows(duplicated)[i + 1]]
        assert twins  # the copy lies beside its original
    assert LAYERED.check(Genome(inserted)) == []


@quick
@given(seeds)
def test_a_shift_moves_one_field_by_one_option(seed):
    (genome,) = draw(LAYERED, seed)
    changed = apply(shift_field, genome, LAYERED, np.random.default_rng(seed))
    different = changed_in(genome, changed)
    assert len(different) <= 1 and not {"c", "act", "g"} & set(different)  # categories have no larger and smaller
    if different == ["w"]:
        steps = {b - a for a, b in zip(genome.w, changed["w"])} - {0}
        assert steps in ({1}, {-1})


@quick
@given(seeds)
def test_a_redraw_sets_one_field(seed):
    (genome,) = draw(LAYERED, seed)
    changed = apply(redraw_gene, genome, LAYERED, np.random.default_rng(seed))
    different = changed_in(genome, changed)
    assert len(different) <= 1
    if different and LAYERED.genes[different[0]].per_layer:
        assert len(set(changed[different[0]])) == 1 and len(changed[different[0]]) == genome.n


def test_every_operator_is_used_where_it_applies():
    rng = np.random.default_rng(3)
    genome = LAYERED.repair({"n": 4})
    used = [mutate(genome, LAYERED, rng)[1] for _ in range(1500)]
    shares = {name: used.count(name) / len(used) for name in MUTATIONS}
    assert shares == pytest.approx({name: share for name, (_, share) in MUTATIONS.items()}, abs=0.05)
    flat = {mutate(FLAT.repair({}), FLAT, rng)[1] for _ in range(300)}
    assert flat == {"step", "shift", "scale", "redraw"}


def test_a_length_without_layers_is_a_gene_like_others():
    space = custom({"n": {"low": 1, "high": 4}, "a": [1, 2]}, length="n")
    rng = np.random.default_rng(4)
    children = {mutate(space.repair({}), space, rng)[0] for _ in range(200)}
    assert {c.n for c in children} == {1, 2, 3, 4} and all(space.contains(c) for c in children)


@pytest.mark.parametrize(
    "space", [custom({"a": 1, "b": ["x"]}), custom({"n": 1}, {"w": [3]}, length="n")], ids=["flat", "layered"]
)
def test_where_there_is_nothing_else_the_genome_comes_back(space):
    genome = space.repair({})
    assert mutate(genome, space, np.random.default_rng(0)) == (genome, "none")
    assert mate(genome, genome, space, np.random.default_rng(0)) == genome


def test_all_of_a_small_space_can_be_reached():
    space = custom(
        {"n": [1, 2, 3], "act": ["x", "y"]}, {"w": [0, 1, "none"]}, length="n", rules=["n < 3 or act == 'x'"]
    )
    rng = np.random.default_rng(5)
    genome = space.repair({})
    seen = {genome}
    for _ in range(4000):
        genome = mutate(genome, space, rng)[0]
        seen.add(genome)
    assert len(seen) == 2 * (3 + 9) + 27


# -- purity --------------------------------------------------------------------------------------------------------


def test_operators_are_pure_functions_of_their_arguments():
    space = read_space("text-cpu")
    first, second = draw(space, 6, 2)
    before = dict(first), dict(second)
    found = set()
    for state in (1, 2):
        random.seed(state)
        np.random.seed(state)  # noqa: NPY002
        rng = np.random.default_rng(7)
        children = [mate(first, second, space, rng).id for _ in range(20)]
        mutants = [mutate(first, space, rng) for _ in range(20)]
        found.add((*children, *((g.id, name) for g, name in mutants)))
        expected = random.Random(state).random(), np.random.RandomState(state).random()
        assert (random.random(), np.random.random()) == expected  # noqa: NPY002
    assert len(found) == 1
    assert (dict(first), dict(second)) == before


@quick
@given(seeds)
def test_a_ramp_is_a_straight_line_through_the_layers_about_where_they_were(seed):
    (genome,) = draw(LAYERED, seed)
    ramp, _ = MUTATIONS["ramp"]
    after = apply(ramp, genome, LAYERED, np.random.default_rng(seed))
    assert after["n"] == genome.n and changed_in(genome, after) in ([], ["w"])  # the only ordered gene of layers
    line = after["w"]
    steps = np.diff(line)
    assert (steps >= 0).all() or (steps <= 0).all()
    inside = [w for w in line if 0 < w < 99]  # the rest may be cut off
    assert all(abs(bend) <= 1 for bend in np.diff(inside, 2))  # straight but for whole numbers
    if len(inside) == genome.n:
        assert abs(np.mean(line) - np.mean(genome.w)) <= 1


def test_ramps_rise_fall_and_are_flat():
    genome = LAYERED.repair({"n": 8, "w": (10, 90, 20, 80, 30, 70, 40, 60), "c": "a", "g": True})
    ramp, rng = MUTATIONS["ramp"][0], np.random.default_rng(4)
    lines = [apply(ramp, genome, LAYERED, rng)["w"] for _ in range(300)]
    rises = np.array([line[-1] - line[0] for line in lines])
    assert all(60 < count < 140 for count in ((rises > 2).sum(), (rises < -2).sum(), (rises == 0).sum()))
    assert 15 < np.abs(rises[rises != 0]).mean() < 60


@quick
@given(seeds)
def test_scaling_moves_all_sizes_one_way_and_nothing_else(seed):
    genome, rng = draw(LAYERED, seed)[0], np.random.default_rng(seed)
    before = LAYERED.genes_of(genome)
    after = apply(scale_sizes, genome, LAYERED, rng)
    assert after["rate"] == before["rate"] and after["act"] == before["act"]
    assert all(len(after[name]) == after["n"] for name in "wcg")
    larger, smaller = after["n"] > before["n"], after["n"] < before["n"]
    means = np.mean(before["w"]), np.mean(after["w"])
    if after["n"] == before["n"]:
        steps = [b - a for a, b in zip(before["w"], after["w"])] + [after["k"] - before["k"]]
        assert all(step >= 0 for step in steps) or all(step <= 0 for step in steps)
    else:
        assert after["k"] >= before["k"] if larger else after["k"] <= before["k"]
        assert is_subsequence(list(before["c"]), list(after["c"])) if larger else smaller
    assert min(means) >= 0


def test_scaling_reaches_far_in_one_step():
    space = read_space("text-cpu").bounded(64)
    rng = np.random.default_rng(0)
    small = space.repair({**space.genes_of(space.sample(rng)), "d_model": 48})
    widths = [space.repair(apply(scale_sizes, small, space, rng))["d_model"] for _ in range(60)]
    assert max(widths) >= 128 and min(widths) == 32
