"""One gene: its values, its scale, and steps on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evonas.errors import EvonasError
from evonas.genome.column import Column
from evonas.genome.gene import Gene, shown

quick = settings(deadline=None, derandomize=True, max_examples=150)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def genes(draw, ordered: bool = False) -> Gene:
    """Any gene: choices with and without None, categories, steps, continuous, logarithmic, whole logarithmic."""
    kinds = ["numbers", "steps", "float steps", "range", "log", "whole log"] + ([] if ordered else ["texts", "mixed"])
    kind = draw(st.sampled_from(kinds))
    if kind == "numbers":
        numbers = draw(st.lists(st.integers(-50, 50) | st.floats(-9, 9), min_size=1, max_size=8, unique=True))
        return Gene("x", choices=tuple(numbers + [None] * draw(st.integers(0, 1))))
    if kind == "texts":
        return Gene("x", choices=tuple(draw(st.lists(st.text(max_size=4), min_size=1, max_size=5, unique=True))))
    if kind == "mixed":
        return Gene("x", choices=draw(st.sampled_from([(True, False), ("a", 2, None), (True, "b", 3.5), (None,)])))
    if kind == "steps":
        low = draw(st.integers(-100, 100))
        return Gene("x", low=low, high=low + draw(st.integers(0, 60)), step=draw(st.integers(1, 9)))
    if kind == "float steps":
        low = draw(st.integers(-20, 20)) / 10
        return Gene("x", low=low, high=low + draw(st.integers(0, 30)) / 20, step=draw(st.sampled_from([0.05, 0.3])))
    if kind == "range":
        low = draw(st.floats(-1e6, 1e6))
        return Gene("x", low=low, high=low + draw(st.floats(0, 1e6)))
    if kind == "log":
        low = draw(st.floats(1e-9, 1e3))
        return Gene("x", low=low, high=low * draw(st.floats(1, 1e6)), log=True)
    low = draw(st.integers(1, 100))
    return Gene("x", low=low, high=low + draw(st.integers(0, 5000)), log=True)


def several(gene: Gene) -> bool:
    return len(gene.options) > 1 if gene.options is not None else gene.high > gene.low


def moved_from(gene: Gene, value, rng, scale: float = 0.15):
    column = Column(gene)
    return column.values(column.moved(np.array([column.code(value)]), rng, scale)).tolist()[0]


def same(a, b) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


# -- properties of every gene --------------------------------------------------------------------------------------


@quick
@given(genes(), seeds)
def test_draws_lie_in_the_gene_and_survive_nearest(gene, seed):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        value = gene.sample(rng)
        assert gene.contains(value)
        assert same(gene.nearest(value), value)
        assert 0.0 <= gene.to_unit(value) <= 1.0


@quick
@given(genes(), seeds)
def test_options_survive_the_way_through_the_unit_scale(gene, seed):
    if gene.options is not None:
        assert all(same(gene.from_unit(gene.to_unit(option)), option) for option in gene.options)
    else:
        value = gene.sample(np.random.default_rng(seed))
        # Values are rounded to three digits, so that the way back is exact to half a step of the third.
        assert gene.from_unit(gene.to_unit(value)) == pytest.approx(value, rel=5.1e-3, abs=1e-9)


@quick
@given(genes(), seeds, st.floats(1e-6, 3))
def test_a_move_leads_to_another_value_whenever_there_is_one(gene, seed, scale):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        value = gene.sample(rng)
        moved = moved_from(gene, value, rng, scale)
        assert gene.contains(moved)
        assert same(moved, value) != several(gene)


@quick
@given(genes(ordered=True), seeds)
def test_the_unit_scale_and_shifts_follow_the_order(gene, seed):
    rng = np.random.default_rng(seed)

    def key(value):
        return math.inf if value is None else value

    units = np.sort(rng.random(20))
    values = [key(gene.from_unit(u)) for u in units]
    assert values == sorted(values)
    for u in units:
        value = gene.from_unit(u)
        smaller, larger = gene.shifted(value, -1), gene.shifted(value, 1)
        assert gene.contains(smaller) and gene.contains(larger)
        assert key(smaller) <= key(value) <= key(larger)
        if several(gene):
            assert not (same(smaller, value) and same(larger, value)) or gene.options is None


@quick
@given(genes(), st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.integers(), st.floats(), st.just((1, 2))))
def test_nearest_takes_anything_and_gives_a_value_of_the_gene(gene, value):
    assert gene.contains(gene.nearest(value))
    if gene.contains(value):
        assert gene.nearest(value) is value


@quick
@given(genes(ordered=True), st.floats(-1e4, 1e4))
def test_nearest_number_is_nearest(gene, value):
    found = gene.nearest(value)
    if gene.options is None:
        inside = min(max(value, gene.low), gene.high)
        assert found == pytest.approx(inside, rel=1e-9, abs=0.51 if gene.is_whole else 1e-9)
        return
    numbers = [o for o in gene.options if o is not None]
    if not numbers or (None in gene.options and value > max(numbers)):
        assert found is None  # beyond the largest number lies "full"
    else:
        assert abs(found - value) == min(abs(o - value) for o in numbers)


@quick
@given(genes(), st.one_of(st.integers(-200, 200), st.floats(-200, 200), st.sampled_from(["a", None])), seeds)
def test_a_widened_gene_holds_the_new_value_and_the_old_ones(gene, value, seed):
    assume(value not in (0, 1) or True not in (gene.choices or ()))  # 1 and true can't both be choices
    wider = gene.widened(value)
    if gene.options is None and not isinstance(value, (int, float)):
        assert wider == gene  # a continuous range can't hold a word; the space says so
        return
    assert wider.contains(value)
    rng = np.random.default_rng(seed)
    for old in [gene.sample(rng) for _ in range(10)]:
        at = wider.nearest(old)
        assert at == old or at == pytest.approx(old, rel=1e-9, abs=1e-9)
    assert several(gene) or same(gene.sample(rng), value) or several(wider)
    assert wider.contains(wider.sample(rng)) and wider.contains(moved_from(wider, value, rng))


# -- what a scale means --------------------------------------------------------------------------------------------


def test_log_gene_steps_by_ratio():
    gene = Gene("learning_rate", low=1e-4, high=1.0, log=True)
    rng = np.random.default_rng(0)

    def log_steps(value):
        return np.array([math.log10(moved_from(gene, value, rng, 0.05) / value) for _ in range(2000)])

    small, large = log_steps(1e-3), log_steps(1e-1)
    # 0.05 of four decades: the same spread of ratios wherever the step starts.
    assert np.std(small) == pytest.approx(0.2, rel=0.1) and np.std(large) == pytest.approx(0.2, rel=0.1)
    assert abs(np.mean(small)) < 0.03 and abs(np.mean(large)) < 0.03
    linear = Gene("dropout", low=0.0, high=1.0)
    steps = np.array([moved_from(linear, 0.5, rng, 0.05) - 0.5 for _ in range(2000)])
    assert np.std(steps) == pytest.approx(0.05, rel=0.1)


def test_log_draws_are_even_in_ratio():
    gene = Gene("x", low=1e-4, high=1.0, log=True)
    rng = np.random.default_rng(1)
    decades = np.histogram([math.log10(gene.sample(rng)) for _ in range(4000)], bins=[-4, -3, -2, -1, 0])[0]
    assert decades.min() > 900


@pytest.mark.parametrize("gene", [Gene("x", low=0.0, high=1.0), Gene("x", low=0, high=20, step=1)])
def test_ends_reflect(gene):
    # A step over an end comes back inside: the end itself is no trap that gathers all of them.
    rng = np.random.default_rng(2)
    for end in (gene.low, gene.high):
        moved = [moved_from(gene, end, rng, 0.2) for _ in range(500)]
        assert end not in moved and len(set(moved)) > 8
        assert max(moved.count(v) for v in set(moved)) < 0.42 * len(moved)
        distance = abs(np.array(moved) - end) / (gene.high - gene.low)
        assert 0.12 < np.mean(distance) < 0.22 and max(distance) < 0.9


def test_a_short_step_leads_to_either_neighbour():
    gene = Gene("x", low=0, high=20, step=1)
    rng = np.random.default_rng(5)
    moved = [moved_from(gene, 10, rng, 1e-6) for _ in range(400)]
    assert set(moved) == {9, 11} and 150 < moved.count(9) < 250


def test_categories_are_moved_to_evenly():
    gene = Gene("x", choices=("a", "b", "c", "d"))
    rng = np.random.default_rng(3)
    counts = {c: 0 for c in "abcd"}
    for _ in range(3000):
        counts[moved_from(gene, "b", rng)] += 1
    assert counts.pop("b") == 0 and min(counts.values()) > 850


def test_none_is_the_largest_choice():
    gene = Gene("window", choices=(None, 64, 16))
    assert gene.options == (16, 64, None) and gene.is_ordered
    assert gene.shifted(64, 1) is None and gene.shifted(None, 1) is None and gene.shifted(None, -1) == 64
    assert gene.nearest(100) is None and gene.nearest(33) == 16 and gene.nearest(50) == 64
    assert [gene.to_unit(v) for v in (16, 64, None)] == pytest.approx([1 / 6, 3 / 6, 5 / 6])


def test_true_is_not_the_number_one():
    assert not Gene("x", choices=(1, 2)).contains(True) and not Gene("x", choices=(True, False)).contains(1)
    assert not Gene("x", low=0.0, high=2.0).contains(True)


def test_whole_numbers_on_a_log_scale():
    gene = Gene("batch_size", low=4, high=512, log=True)
    rng = np.random.default_rng(4)
    drawn = {gene.sample(rng) for _ in range(500)}
    assert all(type(v) is int and 4 <= v <= 512 for v in drawn) and {4, 5, 6} & drawn and max(drawn) > 400
    assert gene.contains(100) and not gene.contains(100.5) and gene.nearest(100.6) == 101
    assert (gene.shifted(4, -1), gene.shifted(512, 1)) == (4, 512)
    narrow = Gene("x", low=1, high=3, log=True)
    assert [narrow.shifted(v, 1) for v in (1, 2, 3)] == [2, 3, 3]


def test_step_options_are_written_as_short_as_they_were_meant():
    assert Gene("x", low=0.0, high=0.3, step=0.1).options == (0, 0.1, 0.2, 0.3)
    assert Gene("x", low=1, high=10, step=4).options == (1, 5, 9)


@pytest.mark.parametrize(
    "gene, value, options",
    [
        (Gene("x", low=2, high=6, step=2), 10, (2, 4, 6, 8, 10)),
        (Gene("x", low=2, high=6, step=2), 0, (0, 2, 4, 6)),
        (Gene("x", low=2, high=6, step=2), 5, (2, 4, 5, 6)),
        (Gene("x", low=0, high=9, step=1), 10**9, (*range(10), 10**9)),
        (Gene("x", choices=(8, None)), 4, (4, 8, None)),
        (Gene("x", choices=("a",)), "b", ("a", "b")),
    ],
)
def test_widening_keeps_the_grid_where_it_can(gene, value, options):
    assert gene.widened(value).options == options


def test_a_log_scale_that_must_hold_zero_becomes_linear():
    wider = Gene("weight_decay", low=1e-3, high=0.3, log=True).widened(0)
    assert not wider.log and wider.contains(0) and wider.contains(0.3) and wider.from_unit(0.5) == 0.15


@pytest.mark.parametrize(
    "kwargs",
    [
        {"choices": ()},
        {"choices": (1, 1.0)},
        {"choices": (1, True)},
        {"choices": (float("nan"),)},
        {"choices": (float("inf"), 1)},
        {"low": 2, "high": 1},
        {"low": 0, "high": float("inf")},
        {"low": float("nan"), "high": 1.0},
        {"low": 0, "high": 10**400, "step": 10**399},
        {"low": 0, "high": 1, "step": 0},
        {"low": 0, "high": 1, "step": -1},
        {"low": 0, "high": 1, "step": float("nan")},
        {"low": 0.0, "high": 1.0, "log": True},
        {"low": -1, "high": 1, "log": True},
        {"low": 1, "high": 9, "step": 1, "log": True},
        {"low": "1", "high": 2},
    ],
)
def test_what_makes_no_gene_is_refused_by_name(kwargs):
    with pytest.raises(EvonasError, match="'depth'"):
        Gene("depth", **kwargs)


def test_descriptions_say_what_is_allowed():
    assert Gene("x", choices=(True, False)).describe() == "true, false"
    assert Gene("x", choices=(16, None)).describe() == "16, none"
    assert Gene("x", low=0.0, high=0.2, step=0.05).describe() == "0 to 0.2 in steps of 0.05"
    assert Gene("x", low=1e-4, high=1e-2, log=True).describe() == "0.0001 to 0.01 (log scale)"
    assert Gene("x", low=4, high=64, log=True).describe() == "whole numbers 4 to 64 (log scale)"


def test_anything_can_be_shown_in_a_message():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(nested) == "a list too large to print" and shown(10**5000) == "a int too large to print"
    assert shown("x" * 1000) == "'" + 56 * "x" + "..." and shown(3) == "3"


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(0.999, 0.9999, False), (1000.0, 1005.0, False), (0.99, 0.9999, False), (99.9, 100.0, True)],
)
def test_a_narrow_range_is_covered(low, high, log):
    """Three digits would leave its two ends."""
    gene = Gene("x", low=low, high=high, log=log)
    rng = np.random.default_rng(0)
    drawn = {gene.sample(rng) for _ in range(200)}
    assert len(drawn) > 20 and all(gene.contains(v) and gene.nearest(v) == v for v in drawn)
    column = Column(gene)
    units = rng.random(50)
    assert column.at(units).tolist() == [gene.from_unit(u) for u in units], "one by one or many at a time"
    wide = Gene("x", low=0.1, high=1.0)
    assert {len(f"{wide.sample(rng):g}") for _ in range(50)} <= {3, 4, 5}, "others stay short"


@pytest.mark.parametrize(
    ("name", "word"), [("x", "none"), ("window", "full"), ("kv_rank", "none"), ("head_dim", "full")]
)
def test_a_text_that_files_write_for_none_is_no_choice(name, word):
    """The space of a run would be read back with None in its place."""
    with pytest.raises(EvonasError, match=f"{name}.*'{word}'") as caught:
        Gene(name, choices=("a", word))
    assert "None" in caught.value.hint
    assert Gene("attention", choices=("full", "latent")).contains("full")
