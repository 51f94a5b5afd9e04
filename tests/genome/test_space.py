"""Search spaces: whatever comes out of one lies in it and can be built."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from evonas.errors import EvonasError
from evonas.evolution import mate, mutate, stratified
from evonas.genome import (
    Genome,
    SearchSpace,
    bounded_windows,
    check_transformer,
    read_genome,
    read_space,
    space_from_dict,
    space_to_dict,
    transformer_genome,
)
from evonas.genome.gene import Gene
from evonas.genome.rules import Rule

quick = settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
seeds = st.integers(0, 2**32 - 1)

TRANSFORMER = {
    "kind": "transformer",
    "genes": {
        "n_layers": {"low": 1, "high": 5},
        "d_model": {"low": 24, "high": 120, "step": 12},
        "norm": ["layernorm", "rmsnorm"],
        "activation": ["gelu", "swiglu", "relu2"],
        "position": ["learned", "rope"],
        "tied_embeddings": [True, False],
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    },
    "layers": {
        "n_heads": [1, 2, 3, 4, 6, 8],
        "n_kv_heads": [1, 2, 3, 4],
        "window": [8, 32, "full"],
        "kv_rank": [4, 8, "none"],
        "ffn_ratio": {"low": 1.0, "high": 4.0, "step": 0.5},
    },
}


def transformer_space(genes=(), layers=(), stored=False, **top) -> SearchSpace:
    data = {**TRANSFORMER, **top}
    data["genes"] = {**data["genes"], **dict(genes)}
    data["layers"] = {**data["layers"], **dict(layers)}
    return space_from_dict(data, stored=stored)


def custom(genes, layers=None, **top) -> SearchSpace:
    return space_from_dict({"kind": "custom", "genes": genes, "layers": layers or {}, **top})


SPACES = {
    "text-cpu": lambda: read_space("text-cpu"),
    "text-gpu": lambda: read_space("text-gpu"),
    "cpu-short-context": lambda: read_space("text-cpu").bounded(32),
    "head_dim": lambda: transformer_space({"head_dim": [8, 12, 16]}),
    "odd head_dim": lambda: transformer_space({"head_dim": [7, 8, 9, "none"]}),
    "head_dim or none": lambda: transformer_space({"head_dim": [8, 16, "none"]}),
    "whole log": lambda: transformer_space({"batch_size": {"low": 2, "high": 300, "log": True}}),
    "every layer latent": lambda: transformer_space(layers={"kv_rank": [4, 8]}),
    "own conditions": lambda: transformer_space(
        active={"window": "kv_rank is none", "beta2": "optimizer == 'adamw'"},
        genes={"optimizer": ["adamw", "muon"], "beta2": [0.9, 0.95, 0.99]},
        stored=True,
    ),
    "own rules": lambda: transformer_space(
        rules=[
            "n_layers * d_model <= 300",
            "kv_rank is none or kv_rank * 4 <= d_model",
            "n_layers != 2",
            "position == 'rope' or window is none",
        ]
    ),
    "custom": lambda: custom(
        {"depth": {"low": 1, "high": 4}, "rate": {"low": 0.1, "high": 10.0, "log": True}, "kind of": ["a", "b"]},
        {"width": [4, 8, 16, "none"], "act": ["x", "y", "z"], "gate": [True, False]},
        length="depth",
        rules=["gate == true or width is not none", "rate < 5 or depth > 1"],
        active={"act": "gate"},
    ),
    "chained conditions": lambda: custom(
        {k: [1, 2, 3] for k in "abcd"}, active={"a": "b == 2", "b": "c == 2", "c": "d == 2"}
    ),
    "one field": lambda: custom({"x": {"low": -1.0, "high": 1.0}}),
    "sum": lambda: custom({k: {"low": 0, "high": 50} for k in "abc"}, rules=["a + b + c <= 50"]),
    "narrow": lambda: custom({k: {"low": 0, "high": 30} for k in "ab"}, rules=["a * 3 == b * 5", "a + b > 20"]),
    "names of a transformer": lambda: custom(
        {"n_layers": [1, 2, 3], "d_model": [8, 16]},
        {"n_heads": [2, 4], "n_kv_heads": [1, 2], "kv_rank": ["none", 8], "ffn_ratio": [1, 1.01, 2]},
    ),
    "single": lambda: custom({"a": 1, "b": ["x"]}),
}


@pytest.fixture(scope="module", params=list(SPACES))
def space(request) -> SearchSpace:
    return SPACES[request.param]()


@st.composite
def odd_spaces(draw) -> SearchSpace:
    """A small custom space with rules and conditions that nobody would write."""
    number_gene = st.one_of(
        st.lists(st.integers(-9, 9), min_size=1, max_size=5, unique=True),
        st.builds(lambda low, n, s: {"low": low, "high": low + n, "step": s}, st.integers(-9, 9), st.integers(0, 9),
                  st.sampled_from([1, 2, 0.5])),
        st.builds(lambda low, f: {"low": low, "high": low * f, "log": True}, st.floats(0.01, 9), st.floats(1, 100)),
        st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True).map(lambda c: [*c, "none"]),
    )  # fmt: skip
    other_gene = st.sampled_from([["u", "v"], [True, False], "fixed", ["u", 2, "none"]])
    gene = st.one_of(number_gene, number_gene, other_gene)
    genes = {f"g{i}": draw(gene) for i in range(draw(st.integers(1, 4)))}
    layers = {f"l{i}": draw(gene) for i in range(draw(st.integers(0, 3)))}
    data = {"kind": "custom", "genes": genes, "layers": layers}
    if layers or draw(st.booleans()):
        data["genes"]["depth"] = {"low": draw(st.integers(1, 3)), "high": draw(st.integers(3, 6))}
        data["length"] = "depth"
    names = [*genes, *layers]
    term = st.one_of(st.sampled_from(names), st.integers(-5, 20).map(str))
    compared = st.tuples(term, st.sampled_from(["<=", ">=", "!=", "=="]), term).map(" ".join)
    added = st.tuples(term, st.sampled_from("+-*%/"), term, st.just("<="), st.integers(0, 40).map(str)).map(" ".join)
    isnone = st.sampled_from(names).map(lambda n: f"{n} is none or {n} == 'u'")
    rule = st.recursive(
        st.one_of(compared, added, isnone), lambda r: st.tuples(r, st.just("or"), r).map(" ".join), max_leaves=3
    )
    data["rules"] = draw(st.lists(rule, max_size=3))
    active = draw(st.dictionaries(st.sampled_from([n for n in names if n != "depth"]), compared, max_size=2))
    data["active"] = active
    try:
        return space_from_dict(data)
    except EvonasError as error:
        # Rules that can't be met, or a scalar gene's condition on a layer's: refused with a reason.
        assert "rules" in error.message or "active." in error.message
        assume(False)


# -- in the space, and buildable -----------------------------------------------------------------------------------


def assert_member(space: SearchSpace, genome: Genome) -> None:
    assert space.check(genome) == [] and space.contains(genome)
    assert space.repair(genome) == genome and dict(space.repair(genome)) == dict(genome)
    if space.kind == "transformer":
        assert check_transformer(genome) == []
        assert transformer_genome(dict(genome)) == genome


def assert_everything_is_a_member(space: SearchSpace, seed: int, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    genomes = [space.sample(rng), *stratified(space, 3, rng)]
    for _ in range(rounds):
        first, second = genomes[rng.integers(len(genomes))], genomes[rng.integers(len(genomes))]
        child = mate(first, second, space, rng)
        mutant, operator = mutate(child, space, rng)
        assert (mutant == child) == (operator == "none")
        genomes += [child, mutant]
    for genome in genomes:
        assert_member(space, genome)
    for near in itertools.islice(space.neighbours(genomes[-1]), 20):
        assert_member(space, near)


def test_everything_a_space_gives_is_a_member(space):
    assert_everything_is_a_member(space, seed=0, rounds=40)


@quick
@given(odd_spaces(), seeds)
def test_everything_an_odd_space_gives_is_a_member(space, seed):
    assert_everything_is_a_member(space, seed, rounds=4)


junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda x: st.lists(x, max_size=4).map(tuple),
    max_leaves=6,
)


@quick
@given(st.sampled_from(["text-cpu", "head_dim", "custom", "sum", "own conditions"]), st.data())
def test_repair_makes_a_member_of_anything(name, data):
    space = SPACES[name]()
    values = data.draw(st.dictionaries(st.sampled_from(sorted(space.genes)), junk))
    mended = space.repair(values)
    assert_member(space, mended)
    assert space.repair(dict(values)) == mended


@quick
@given(odd_spaces(), st.data())
def test_repair_in_an_odd_space_makes_a_member_of_anything(space, data):
    values = data.draw(st.dictionaries(st.sampled_from(sorted(space.genes)), junk))
    assert_member(space, space.repair(values))


def test_draws_are_a_function_of_the_generator(space):
    def draws(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [space.sample(rng).id for _ in range(30)]

    assert draws(7) == draws(7)
    if space.name.startswith("text"):
        assert draws(7) != draws(8)


# -- repair --------------------------------------------------------------------------------------------------------


@quick
@given(seeds, st.sampled_from(["a + b + c <= 7", "a * b == c", "a == 3 or b > c", "a % 2 == 0 and b % 3 == c % 3"]))
def test_repair_changes_as_few_genes_as_can_be(seed, rule):
    space = custom({k: {"low": 0, "high": 5} for k in "abc"}, rules=[rule])
    rng = np.random.default_rng(seed)
    start = {k: int(rng.integers(6)) for k in "abc"}
    mended = space.repair(start)
    members = [dict(zip("abc", v)) for v in itertools.product(range(6), repeat=3)]
    members = [m for m in members if Rule(rule).holds(m)]

    def distance(genes) -> tuple[int, int]:
        return sum(genes[k] != start[k] for k in "abc"), sum(abs(genes[k] - start[k]) for k in "abc")

    assert distance(mended) == min(distance(m) for m in members)


def test_layers_are_mended_before_scalars():
    space = transformer_space()
    genes = {"n_layers": 2, "d_model": 60, "position": "learned", "kv_rank": None, "n_kv_heads": 2}
    genome = space.repair({**genes, "n_heads": (8, 4)})
    assert genome.d_model == 60 and genome.n_heads == (6, 4) and genome.n_kv_heads == (2, 2)


def test_scalars_give_way_where_layers_can_not():
    space = transformer_space(layers={"n_heads": [7]}, genes={"d_model": {"low": 24, "high": 120, "step": 4}})
    assert space.repair({"d_model": 60}).d_model == 56


def test_the_number_of_layers_gives_way_last():
    space = custom({"n": {"low": 1, "high": 9}, "d": [1, 2, 4]}, {"x": [1, 2, 3]}, length="n", rules=["n * d <= 6"])
    assert dict(space.repair({"n": 5, "d": 4, "x": (1, 2, 3, 1, 2)})) == {"n": 5, "d": 1, "x": (1, 2, 3, 1, 2)}
    assert dict(space.repair({"n": 9, "d": 1, "x": (1, 2, 3)})) == {"n": 6, "d": 1, "x": (1, 2, 3, 3, 3, 3)}


def test_loose_values_are_taken_as_meant():
    space = custom({"n": {"low": 1, "high": 4}}, {"x": [0, 1, 2], "w": [8, "none"]}, length="n")
    assert dict(space.repair({"n": 3, "x": 0, "w": None})) == {"n": 3, "x": (0, 0, 0), "w": (None,) * 3}
    assert space.repair({"n": 3, "x": [2, 0]})["x"] == (2, 0, 0)
    assert space.repair({"n": 99, "x": []}).n == 4


def test_large_ranges_under_a_rule_are_mended_to_all_of_the_space():
    # A search for a repair that walks the combinations in order would only ever find a = 0.
    space = custom({k: {"low": 0, "high": 100} for k in "abc"}, rules=["a + b + c <= 100"])
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(200)]
    for name in "abc":
        values = [g[name] for g in drawn]
        assert np.quantile(values, 0.9) > 50 and len(set(values)) > 30


def test_a_start_from_which_no_way_is_found_still_gives_a_member():
    # One of a million points is allowed, and the middle, from which the reader looks, is near it.
    genes = {k: {"low": 0, "high": 9999} for k in "abc"}
    space = custom(genes, rules=["a == 4999", "b == 4999 or b == 5000", "c * 2 - a == 4999"])
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert_member(space, space.sample(rng))


@pytest.mark.parametrize(
    "rules",
    [
        ["a < 0"],
        ["a > 3 and b > 3 and a + b < 3"],
        ["x > 50"],
        ["x < 0 and a > -1"],
        ["n > 99"],
        ["x is none"],
        ["a / 0 == 1"],
    ],
)
def test_rules_that_nothing_meets_are_found_on_reading(rules):
    genes = {"n": {"low": 1, "high": 8}, "a": {"low": 0, "high": 900}, "b": {"low": 0, "high": 900}}
    with pytest.raises(EvonasError, match="rules of space") as caught:
        custom(genes, {"x": {"low": 0, "high": 9}}, length="n", rules=rules)
    assert rules[0] in caught.value.message and "drop a rule" in caught.value.hint


# -- genes without effect ------------------------------------------------------------------------------------------


def test_inactive_genes_make_no_second_genome():
    space = SPACES["own conditions"]()
    genes = {"n_layers": 2, "kv_rank": (8, None), "optimizer": "muon"}
    one = space.repair({**genes, "window": (8, 8), "beta2": 0.9, "n_kv_heads": (1, 1)})
    other = space.repair({**genes, "window": (None, 8), "beta2": 0.99, "n_kv_heads": (4, 1)})
    assert one == other and one.id == other.id
    active = space.repair({**genes, "window": (8, None), "optimizer": "adamw", "beta2": 0.99})
    assert active.beta2 == 0.99 and active.window[1] is None and active != one


def test_conditions_that_hang_on_each_other_come_to_rest():
    space = SPACES["chained conditions"]()
    assert dict(space.repair({"a": 3, "b": 2, "c": 2, "d": 2})) == {"a": 3, "b": 2, "c": 2, "d": 2}
    assert dict(space.repair({"a": 3, "b": 2, "c": 2, "d": 1})) == {"a": 1, "b": 1, "c": 1, "d": 1}
    circle = custom({"a": [1, 2], "b": [1, 2]}, active={"a": "b == 2", "b": "a == 2"})
    assert circle.repair({"a": 1, "b": 2}) == circle.repair({"a": 2, "b": 1}) == circle.repair({"a": 1, "b": 1})
    assert dict(circle.repair({"a": 2, "b": 2})) == {"a": 2, "b": 2}


def test_an_inactive_value_is_no_reason_to_refuse_a_genome():
    space = SPACES["own conditions"]()
    genome = space.repair({"n_layers": 1, "kv_rank": (8,), "optimizer": "muon"})
    assert space.check(genome.replace(window=(77,), beta2=0.123)) == []
    assert space.check(genome.replace(window=(77,), kv_rank=(None,))) != []


# -- check ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"d_model": 61}, ["d_model: 61", "24 to 120 in steps of 12"]),
        ({"d_model": "wide"}, ["d_model: wide"]),
        ({"d_model": (60, 60)}, ["d_model: (60, 60)"]),
        ({"norm": "batchnorm"}, ["norm: batchnorm", "layernorm, rmsnorm"]),
        ({"tied_embeddings": 1}, ["tied_embeddings: 1", "true, false"]),
        ({"n_heads": (5, 4)}, ["n_heads: 5"]),
        ({"n_heads": (4, 8)}, ["d_model % n_heads == 0", "layer 1"]),
        ({"n_kv_heads": (3, 3)}, ["n_heads % n_kv_heads == 0", "layer 0, 1"]),
        ({"window": (9, None)}, ["window: 9", "8, 32, none"]),
        ({"window": (8,)}, ["window: takes 2 values"]),
        ({"window": 8}, ["window: takes 2 values"]),
        ({"n_layers": 9}, ["n_layers: 9", "window: takes 9 values"]),
        ({"n_layers": 10**9}, ["n_layers: 1000000000"]),
        ({"n_layers": "two"}, ["n_layers: two"]),
        ({"n_layers": None}, ["n_layers: none"]),
        ({"learning_rate": 1.0}, ["learning_rate: 1", "log scale"]),
        ({"surprise": 1}, ["surprise: not a gene"]),
    ],
)
def test_check_names_every_gene_that_is_wrong(changes, words):
    space = transformer_space()
    genes = {"n_layers": 2, "d_model": 60, "position": "learned", "n_heads": 4, "kv_rank": None, "n_kv_heads": 2}
    genome = space.repair(genes)
    problems = "\n".join(space.check(genome.replace(**changes)))
    assert all(word in problems for word in words), problems
    assert not space.contains(genome.replace(**changes))


def test_check_names_missing_genes():
    space = transformer_space()
    genes = dict(space.repair({}))
    del genes["norm"], genes["window"]
    assert space.check(Genome(genes)) == ["norm: missing", "window: missing"]


# -- neighbours ----------------------------------------------------------------------------------------------------


def test_neighbours_are_distinct_and_others(space):
    genome = space.sample(np.random.default_rng(1))
    near = list(itertools.islice(space.neighbours(genome), 300))
    assert len(set(near)) == len(near) and genome not in near


def test_neighbours_are_one_step_away_and_see_each_other():
    space = custom({"a": [1, 2, 4, 8], "b": ["x", "y", "z"], "n": [1, 2]}, {"w": [0, 1, 2]}, length="n")
    genome = space.repair({"a": 2, "b": "y", "n": 2, "w": (0, 1)})
    near = list(space.neighbours(genome))
    assert {(g.a, g.b, g.n, g.w) for g in near} == {
        (1, "y", 2, (0, 1)), (4, "y", 2, (0, 1)), (2, "x", 2, (0, 1)), (2, "z", 2, (0, 1)), (2, "y", 1, (0,)),
        (2, "y", 2, (1, 1)), (2, "y", 2, (0, 0)), (2, "y", 2, (0, 2)),
    }  # fmt: skip
    assert all(genome in space.neighbours(g) for g in near if g.n == 2)


# -- encode --------------------------------------------------------------------------------------------------------


def test_encoding_is_one_point_of_the_unit_cube_per_genome(space):
    rng = np.random.default_rng(2)
    genomes = [space.sample(rng) for _ in range(40)]
    codes = [space.encode(g) for g in genomes]
    assert len({c.shape for c in codes}) == 1 and codes[0].ndim == 1
    assert all(np.isfinite(c).all() and (c >= 0).all() and (c <= 1).all() for c in codes)
    for one, other, a, b in zip(genomes, genomes[1:], codes, codes[1:]):
        assert (one == other) <= np.array_equal(a, b)
        assert np.array_equal(a, space.encode(one))


def test_encoding_by_hand():
    space = custom({"n": [1, 2, 3], "c": ["u", "v"], "r": {"low": 1.0, "high": 100.0, "log": True}},
                   {"w": [4, 8, 16, "none"]}, length="n")  # fmt: skip
    code = space.encode(space.repair({"n": 2, "c": "v", "r": 10.0, "w": (4, None)}))
    assert code == pytest.approx([0.5, 0, 1, 0.5, 0.125, 0.875, 0.5])


def test_absent_layers_are_neutral():
    space = read_space("text-cpu")
    two = space.repair({"n_layers": 2, "d_model": 96, "n_heads": 4})
    five = space.repair({**two, "n_layers": 5})
    changed = np.flatnonzero(space.encode(two) != space.encode(five))
    assert len(changed) == 1  # n_layers itself


def test_inactive_genes_are_neutral():
    space = SPACES["own conditions"]()
    genome = space.repair({"n_layers": 2, "kv_rank": (8, None), "optimizer": "muon"})
    other = genome.replace(window=(32, genome.window[1]), beta2=0.99)
    assert other != genome and np.array_equal(space.encode(other), space.encode(genome))


# -- other spaces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nanogpt-cpu", "nanogpt-gpu", "gpt2", "llama-3.2-1b", "deepseek-v2-lite"])
def test_a_widened_space_holds_the_genome_and_still_works(name):
    genome = read_genome(name).genome
    space = read_space("text-cpu")
    wider = space.widened(genome)
    assert wider.check(genome) == []
    assert_everything_is_a_member(wider, seed=3, rounds=10)
    rng = np.random.default_rng(4)
    for _ in range(20):
        assert wider.contains(space.sample(rng)) or "head_dim" in wider.genes
    again = space_from_dict(json.loads(json.dumps(space_to_dict(wider))))
    assert again.check(genome) == [] and dict(again.repair(genome)) == dict(genome)


def test_a_space_is_widened_for_values_off_every_scale():
    space = read_space("text-cpu")
    genome = space.repair({}).replace(weight_decay=0, learning_rate=0.5, dropout=0.33, d_model=72, n_heads=(3,) * 4,
                                      n_kv_heads=(3,) * 4, kv_rank=(None,) * 4, beta2=0.5, warmup=0.07)  # fmt: skip
    assert check_transformer(genome) == [] and space.check(genome) != []
    wider = space.widened(genome)
    assert wider.check(genome) == []
    assert_everything_is_a_member(wider, seed=5, rounds=30)


def test_a_head_width_that_differs_by_layer_is_none_of_the_stated_ones():
    """Of a first layer alone the space would take the width for all, and so another network."""
    space = transformer_space({"head_dim": [16, 32], "d_model": [64, 128]}, {"n_heads": [2, 4, 8]})
    genome = space.repair({"n_layers": 2, "d_model": 128, "n_heads": 4, "n_kv_heads": 2, "kv_rank": None})
    assert genome.head_dim is None and space.check(genome) == []  # 32 in both layers
    mixed = genome.replace(n_heads=(4, 8))
    assert check_transformer(mixed) == []
    assert space.check(mixed) == ["head_dim: none (allowed: 16, 32)"]
    wider = space.widened(mixed)
    assert wider.genes["head_dim"].choices == (16, 32, None) and wider.check(mixed) == []
    assert wider.repair(mixed) == mixed == wider.coder.decode(wider.coder.encode([mixed]))[0]
    uneven = genome.replace(d_model=64, n_heads=(6, 6), n_kv_heads=(2, 2))
    assert "head_dim: none (allowed: 16, 32)" in space.check(uneven)  # 64 is no multiple of 6


def test_widening_stops_at_rules_and_unknown_genes():
    space = transformer_space(rules=["n_layers * d_model <= 300"])
    genome = space.repair({"n_layers": 4, "d_model": 60, "kv_rank": None, "n_heads": 4, "n_kv_heads": 2})
    with pytest.raises(EvonasError, match=r"n_layers \* d_model <= 300"):
        space.widened(genome.replace(d_model=120))
    with pytest.raises(EvonasError, match="surprise: not a gene"):
        space.widened(genome.replace(surprise=1))
    with pytest.raises(EvonasError, match="no gene"):
        space.widened(Genome({"a": 1}))


@pytest.mark.parametrize(("low", "high", "context"), [(8, 4096, 64), (8, 64, 64), (64, 4096, 64), (100, 4096, 64)])
def test_a_log_range_of_windows_is_bounded_too(low, high, context):
    data = space_to_dict(read_space("text-cpu"))
    data["layers"]["window"] = {"low": low, "high": high, "log": True}
    del data["prior"]["window"]
    space = space_from_dict(data).bounded(context)
    assert space.genes["window"].options == (*range(low, context), None)
    assert space_to_dict(space_from_dict(space_to_dict(space))) == space_to_dict(space)
    rng = np.random.default_rng(0)
    for _ in range(20):
        genome = space.sample(rng)
        assert bounded_windows(genome, context) == genome, "no second way to write full attention"
    short = {**data, "layers": {**data["layers"], "window": {"low": 8, "high": 32, "log": True}}}
    assert space_from_dict(short).bounded(64).genes["window"].options is None, "it stays a range"
    longest = space_from_dict({**data, "layers": {**data["layers"], "window": {"low": 8, "high": 2**20, "log": True}}})
    assert longest.bounded(2**19).genes["window"].high == 2**19 - 1, "too many to list"


def test_bounded_windows_are_shorter_than_the_context():
    space = transformer_space()
    assert space.genes["window"].options == (8, 32, None)
    assert space.bounded(33).genes["window"].options == (8, 32, None)
    assert space.bounded(32).genes["window"].options == (8, None)
    assert space.bounded(8).genes["window"].options == (None,)
    only = transformer_space(layers={"window": [16, 32]})
    assert only.bounded(24).genes["window"].options == (16, None)
    ranged = transformer_space(layers={"window": {"low": 8, "high": 64, "step": 8}})
    assert ranged.bounded(24).genes["window"].options == (8, 16, None)
    rng = np.random.default_rng(6)
    assert all(w is None or w < 24 for _ in range(30) for w in ranged.bounded(24).sample(rng).window)
    plain = custom({"a": [1, 2]})
    assert plain.bounded(8) is plain


# -- spaces made in Python -----------------------------------------------------------------------------------------


def test_a_space_of_ones_own_in_python():
    space = SearchSpace(
        [Gene("blocks", low=1, high=6, step=1), Gene("rate", low=1e-3, high=1.0, log=True),
         Gene("size", per_layer=True, choices=(64, 16, None))],
        [Rule("size is none or size * blocks <= 128")],
        length="blocks", name="mine",
    )  # fmt: skip
    assert_everything_is_a_member(space, seed=8, rounds=40)
    assert space.max_layers == 6 and "mine" in repr(space)
    assert custom({"a": 1}).max_layers == 0


@pytest.mark.parametrize(
    "genes, kwargs, words",
    [
        ([], {}, "there are none"),
        ([Gene("a", choices=(1,)), Gene("a", choices=(2,))], {}, "each name once; a"),
        ([Gene("x", True, (1,))], {}, "length: None"),
        ([Gene("n", choices=(1, 2)), Gene("x", True, (1,))], {"length": "m"}, "length: 'm'"),
        ([Gene("n", choices=("one",)), Gene("x", True, (1,))], {"length": "n"}, "length: 'n'"),
        ([Gene("n", choices=(0, 1)), Gene("x", True, (1,))], {"length": "n"}, "length: 'n'"),
        ([Gene("n", low=1.0, high=2.0), Gene("x", True, (1,))], {"length": "n"}, "length: 'n'"),
        ([Gene("n", low=1, high=2000, step=1), Gene("x", True, (1,))], {"length": "n"}, "length: 'n'"),
        ([Gene("x", True, (1, 2))], {"length": "x"}, "length: 'x'"),
        ([Gene("n", choices=(1,)), Gene("n_layers", choices=(1,)), Gene("x", True, (1,))], {"length": "n"}, "n_layers"),
        ([Gene("a", choices=(1,))], {"rules": [Rule("b == 1")]}, "unknown gene b"),
        ([Gene("a", choices=(1,))], {"active": {"a": Rule("b == 1")}}, "unknown gene b"),
        ([Gene("alpha", choices=(1,))], {"active": {"alhpa": Rule("alpha == 1")}}, "active.alhpa"),
        ([Gene("n", choices=(1,))], {"length": "n", "active": {"n": Rule("n == 1")}}, "active.n"),
        (
            [Gene("n", choices=(1,)), Gene("a", choices=(1,)), Gene("x", True, (1,))],
            {"length": "n", "active": {"a": Rule("x == 1")}},
            "active.a",
        ),
    ],
)
def test_genes_that_make_no_space_are_refused(genes, kwargs, words):
    with pytest.raises(EvonasError) as caught:
        SearchSpace(genes, **kwargs)
    assert words in caught.value.message


def test_a_latent_layer_has_no_other_condition_for_its_heads():
    with pytest.raises(EvonasError, match=r"active\.n_kv_heads"):
        transformer_space(active={"n_kv_heads": "window is none"})
    assert transformer_space(active={"n_kv_heads": "kv_rank is none"}).active.keys() == {"n_kv_heads"}


# -- the prior -----------------------------------------------------------------------------------------------------


def test_a_prior_is_kept_as_genomes_have_it_in_the_order_of_the_genes():
    genes = [Gene("n", choices=(1, 2)), Gene("a", low=0.0, high=1.0), Gene("x", True, (1, 2, None))]
    space = SearchSpace(genes, length="n", prior={"x": None, "a": 1.0, "n": np.int64(2)})
    assert list(space.prior.items()) == [("n", 2), ("a", 1), ("x", None)]
    assert [type(v) for v in space.prior.values()] == [int, int, type(None)]
    for prior, words in [
        ({5: 1}, "prior.5: no such gene"),
        ({"n": 2.5}, "prior.n: 2.5; the gene takes 1, 2"),
    ]:
        with pytest.raises(EvonasError, match=words):
            SearchSpace(genes, length="n", prior=prior)


def test_the_rate_of_a_prior_is_for_trainings_of_some_length():
    genes = [Gene("learning_rate", low=0.001, high=0.1, log=True), Gene("x", choices=(1, 2, 3))]
    space = SearchSpace(genes, prior={"learning_rate": 0.01, "x": 2}, prior_tokens=1000, kind="transformer")
    other = space.with_prior_rate(0.02, 250)
    assert (other.prior, other.prior_tokens) == ({"learning_rate": 0.02, "x": 2}, 250)
    assert (space.prior, space.prior_tokens) == ({"learning_rate": 0.01, "x": 2}, 1000)
    assert space.with_prior_rate(5.0, 10).prior["learning_rate"] == 0.1
    for tokens, prior, words in [
        (0, space.prior, "prior.tokens: 0; it takes a whole number from 1"),
        (10**400, space.prior, "it takes a whole number from 1"),
        (True, space.prior, "prior.tokens: True"),
        (1e6, space.prior, "prior.tokens: 1000000.0"),
        (1000, {"x": 2}, "prior.learning_rate is meant for, which is not there"),
    ]:
        with pytest.raises(EvonasError, match=words):
            SearchSpace(genes, prior=prior, prior_tokens=tokens, kind="transformer")
    with pytest.raises(EvonasError, match=r"prior\.tokens: a space of kind 'custom' has no trainings"):
        SearchSpace(genes, prior=space.prior, prior_tokens=1000)


def test_a_whole_float_is_repaired_to_a_whole_number():
    space = read_space("text-cpu")
    genome = space.repair({"n_layers": 2.0, "d_model": 64.0, "ffn_ratio": (2, 3.0)})
    assert (genome.n_layers, genome.d_model, genome.ffn_ratio) == (2, 64, (2, 3))


def test_narrower_and_wider_spaces_keep_the_prior():
    space = read_space("text-cpu")
    data = space_to_dict(space)
    data["prior"]["window"] = 64
    assert space_from_dict(data).bounded(64).prior["window"] is None, "as long as the context is full"
    assert space_from_dict(data).bounded(100).prior["window"] == 64
    assert space.bounded(32).prior == space.prior
    assert space.widened(space.repair({}).replace(d_model=200)).prior == space.prior


@pytest.mark.parametrize("effect", ["b == 0", "b == 1"])
def test_what_says_whether_a_gene_has_an_effect_gives_way_too(effect):
    """A rule that names a gene at rest can be met by giving it an effect, and not only by the one default genome."""
    data = {"kind": "custom", "genes": {"a": [1, 5], "b": [0, 1], "c": {"low": 0, "high": 99}}}
    space = space_from_dict({**data, "rules": ["a >= 5"], "active": {"a": effect}})
    drawn = [space.sample(np.random.default_rng(k)) for k in range(40)]
    assert all(space.check(g) == [] and g.a == 5 for g in drawn)
    assert len({g.c for g in drawn}) > 20
    coder = space.coder
    assert coder.decode(coder.repaired(coder.encode(drawn))) == drawn


def test_in_a_layer_too():
    data = {
        "kind": "custom",
        "length": "n",
        "genes": {"n": [1, 2]},
        "layers": {"a": [1, 5], "b": [0, 1], "c": [1, 2, 3]},
    }
    space = space_from_dict({**data, "rules": ["a >= 5"], "active": {"a": "b == 1"}})
    drawn = [space.sample(np.random.default_rng(k)) for k in range(40)]
    assert all(space.check(g) == [] and set(g.a) == {5} for g in drawn) and len(set(drawn)) > 6


@pytest.mark.parametrize("ranks", [["none", 8], [8, 16]])
def test_heads_of_keys_need_not_be_beside_heads_in_a_space_of_ones_own(ranks):
    data = {"kind": "custom", "length": "n", "genes": {"n": [1, 2]}, "layers": {"n_kv_heads": [1, 2], "kv_rank": ranks}}
    space = space_from_dict({**data, "active": {"n_kv_heads": "kv_rank is none"}})
    for k in range(20):
        assert space.check(space.sample(np.random.default_rng(k))) == []


@pytest.mark.parametrize("rule", ["n_kv_heads * 2 <= n_heads", "n_kv_heads <= 2"])
def test_a_rule_on_heads_of_keys_is_not_of_layers_with_a_latent(rule):
    space = space_from_dict({**space_to_dict(read_space("text-cpu")), "rules": [rule]})
    drawn = [space.sample(np.random.default_rng(k)) for k in range(200)]
    layers = [layer for g in drawn for layer in g.layers]
    assert all(space.check(g) == [] for g in drawn)
    assert any(layer.kv_rank is not None and layer.n_heads > 4 for layer in layers)
    assert all(Rule(rule).holds(layer._asdict()) for layer in layers if layer.kv_rank is None)
    coder = space.coder
    assert coder.decode(coder.repaired(coder.encode(drawn))) == drawn


def test_unless_it_names_the_latent():
    space = space_from_dict({**space_to_dict(read_space("text-cpu")), "rules": ["kv_rank is none or n_kv_heads <= 2"]})
    genome = space.repair({"n_layers": 1, "n_heads": (4,), "kv_rank": (None,), "d_model": 64})
    assert space.check(genome) == [] and "broken in layer 0" in space.check(genome.replace(kv_rank=(8,)))[0]


@pytest.mark.parametrize("name", ["conv_width", "block_conv_width", "init"])
def test_genes_that_a_genome_leaves_out_are_no_names_for_ones_own(name):
    with pytest.raises(EvonasError, match=f"can't be called {name}"):
        space_from_dict({"kind": "custom", "genes": {name: [1, 3, 5]}})


def test_genomes_of_ones_own_are_told_apart_by_all_their_genes():
    data = {"kind": "custom", "length": "n", "genes": {"n": [1], "d_model": [8]}}
    space = space_from_dict({**data, "layers": {"ffn_ratio": ["none", 0.25, 0.5, 1.0]}})
    assert len({space.sample(np.random.default_rng(k)).id for k in range(40)}) == 4


@pytest.mark.parametrize(
    ("rule", "cure"), [("d == 'none' or x < 1", "d is none"), ("x < 1 or d != 'full'", "d is full")]
)
def test_a_rule_that_quotes_what_no_gene_is_is_refused(rule, cure):
    data = {"kind": "custom", "genes": {"d": ["none", "cosine"], "x": {"low": 0, "high": 9}}}
    with pytest.raises(EvonasError, match="which no gene is") as error:
        space_from_dict({**data, "rules": [rule]})
    assert cure in error.value.hint
    assert space_from_dict({**data, "rules": ["d == 'cosine' or x < 1"]})
    data["genes"]["e"] = ["full", "half"]  # a text of this gene, not of that one
    assert space_from_dict({**data, "rules": ["d is none or e == 'full'"]})
