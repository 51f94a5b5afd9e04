"""Spaces in TOML: what is read, and that everything wrong is refused by name with a cure, quickly."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evonas.errors import EvonasError
from evonas.evolution.sampling import around_prior
from evonas.genome import (
    SearchSpace,
    check_transformer,
    read_space,
    space_from_dict,
    space_to_dict,
)
from evonas.genome.io import shipped_file
from evonas.genome.toml import tomllib

BASE = {
    "schema": 1,
    "genes": {
        "n_layers": {"low": 1, "high": 4},
        "d_model": {"low": 32, "high": 64, "step": 16},
        "norm": "layernorm",
        "activation": ["gelu", "swiglu"],
        "position": ["learned"],
        "tied_embeddings": True,
    },
    "layers": {"n_heads": [1, 2, 4], "n_kv_heads": [1, 2], "ffn_ratio": {"low": 1.0, "high": 4.0, "step": 0.5}},
}
CUSTOM = {"kind": "custom", "genes": {"a": [1, 2], "n": [1, 2]}, "layers": {"x": [1, 2]}, "length": "n"}


def with_(data: dict, path: str, value) -> dict:
    out = copy.deepcopy(data)
    *folders, key = path.split(".")
    at = out
    for folder in folders:
        at = at.setdefault(folder, {})
    if value is ...:
        del at[key]
    else:
        at[key] = value
    return out


def assert_equal(one: SearchSpace, other: SearchSpace) -> None:
    assert other.genes == one.genes and list(other.genes) == list(one.genes)
    assert [g.options for g in other.genes.values()] == [g.options for g in one.genes.values()]
    assert (other.rules, other.active, other.length) == (one.rules, one.active, one.length)
    assert (other.name, other.kind, other.prior) == (one.name, one.kind, one.prior)
    assert other.prior_tokens == one.prior_tokens


# -- what is read --------------------------------------------------------------------------------------------------

EVERYTHING = """
name = "mine"
kind = "custom"
length = "depth"
rules = ["width <= rate * 1000 or width is none", "act != 'z' or depth > 1"]

[genes]
depth = { low = 1, high = 3 }
rate = { low = 1e-3, high = 1.0, log = true }
units = { low = 4, high = 64, log = true }
level = { low = -1.0, high = 1.0 }
share = { low = 0.0, high = 0.3, step = 0.1 }
even = { choices = [8, 2, 4] }
fixed = 7
on = [true, false]

[layers]
width = ["none", 16, 4]
act = ["x", "y", "z"]

[active]
act = "on"

[prior]
rate = 0.01
width = "none"
act = "y"
"""


def test_every_kind_of_gene(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(EVERYTHING)
    space = read_space(path)
    options = {name: gene.options for name, gene in space.genes.items()}
    assert options == {
        "depth": (1, 2, 3), "rate": None, "units": None, "level": None, "share": (0, 0.1, 0.2, 0.3),
        "even": (2, 4, 8), "fixed": (7,), "on": (True, False), "width": (4, 16, None), "act": ("x", "y", "z"),
    }  # fmt: skip
    assert space.genes["rate"].log and space.genes["units"].is_whole and not space.genes["level"].log
    assert [g.name for g in space.layer_genes] == ["width", "act"]
    assert (space.name, space.kind, space.length, space.max_layers) == ("mine", "custom", "depth", 3)
    assert space.prior == {"rate": 0.01, "width": None, "act": "y"}
    rng = np.random.default_rng(0)
    for genome in [space.sample(rng) for _ in range(50)]:
        assert type(genome.units) is int
        assert all(w is None or w <= genome.rate * 1000 for w in genome.width)
        assert genome.depth > 1 or "z" not in genome.act
        assert genome.on or set(genome.act) == {"x"}


def test_the_file_name_is_the_name_where_the_file_states_none(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(EVERYTHING.replace('name = "mine"', ""))
    assert read_space(path).name == "tiny"


def test_genes_that_a_transformer_space_leaves_out_are_fixed():
    space = space_from_dict(BASE)
    genome = space.sample(np.random.default_rng(0))
    assert check_transformer(genome) == []
    assert genome.optimizer == "adamw" and set(genome.window) == set(genome.kv_rank) == {None}
    assert space.genes["batch_size"].options == (12,)


@pytest.mark.parametrize("name", ["text-cpu", "text-gpu"])
def test_shipped_spaces(name):
    space = read_space(name)
    assert space.name == name and space.kind == "transformer"
    assert read_space(shipped_file(name, ".toml")).genes == space.genes


@pytest.mark.parametrize("data", [BASE, CUSTOM, tomllib.loads(EVERYTHING)], ids=["transformer", "custom", "everything"])
def test_round_trip_is_lossless_also_through_json(data):
    space = space_from_dict(data)
    assert_equal(space, space_from_dict(space_to_dict(space)))
    assert_equal(space, space_from_dict(json.loads(json.dumps(space_to_dict(space)))))


@pytest.mark.parametrize("name", ["text-cpu", "text-gpu"])
def test_round_trip_of_shipped_widened_and_bounded_spaces(name):
    space = read_space(name)
    odd = space.repair({}).replace(weight_decay=0, d_model=72, learning_rate=0.31, head_dim=24)
    for variant in (space, space.bounded(32), space.widened(odd)):
        again = space_from_dict(json.loads(json.dumps(space_to_dict(variant))))
        assert_equal(variant, again)
        rng, same = np.random.default_rng(1), np.random.default_rng(1)
        assert [variant.sample(rng).id for _ in range(20)] == [again.sample(same).id for _ in range(20)]


# -- what is refused -----------------------------------------------------------------------------------------------

deep: list = []
for _ in range(50_000):
    deep = [deep]

MALFORMED = [
    # (base, key to set (... deletes it), value, what the message must name, what the hint or message must offer)
    (BASE, "gene", {}, "'gene'", "genes"),
    (BASE, "schema", 2, "schema", "Upgrade"),
    (BASE, "schema", 0, "schema", "schema = 1"),
    (BASE, "schema", "1", "schema", "schema = 1"),
    (BASE, "schema", True, "schema", "schema = 1"),
    (BASE, "kind", "transformers", "kind", "transformer, custom"),
    (BASE, "kind", ["custom"], "kind", "transformer, custom"),
    (BASE, "name", 5, "name", "text"),
    (BASE, "genes", 5, "genes", "[genes]"),
    (BASE, "genes", [], "genes", "[genes]"),
    (BASE, "layers", "x", "layers", "[layers]"),
    (BASE, "active", ["x"], "active", "[active]"),
    (BASE, "rules", "d_model > 3", "rules", "list"),
    (BASE, "rules", {"a": "b"}, "rules", "list"),
    (BASE, "length", "n_layer", "length", "[genes]"),
    (BASE, "length", "d_model", "length", "n_layers"),
    (BASE, "length", "norm", "length", "whole numbers"),
    (BASE, "length", 3, "length", "whole numbers"),
    (BASE, "length", ["n_layers"], "length", "whole numbers"),
    # genes and their names
    (BASE, "genes.d_modle", [32], "genes.d_modle", "'d_model'"),
    (BASE, "genes.n_heads", [2], "genes.n_heads", "[layers]"),
    (BASE, "layers.d_model", [32], "layers.d_model", "[genes]"),
    (BASE, "layers.n_head", [2], "layers.n_head", "'n_heads'"),
    (BASE, "genes.n_layers", ..., "genes.n_layers", "[genes]"),
    (BASE, "layers.n_heads", ..., "layers.n_heads", "[layers]"),
    (CUSTOM, "layers.a", [1], "; a", "once"),
    (CUSTOM, "genes", {}, "length", "[genes]"),
    ({"kind": "custom"}, "genes", {}, "genes", "there are none"),
    # ranges
    (BASE, "genes.d_model.step", 0, "genes.d_model.step", "step = 1"),
    (BASE, "genes.d_model.step", -16, "genes.d_model.step", "step = 16"),
    (BASE, "genes.d_model.step", "16", "genes.d_model.step", "number"),
    (BASE, "genes.d_model.step", True, "genes.d_model.step", "number"),
    (BASE, "genes.d_model.step", float("nan"), "genes.d_model.step", "number"),
    (BASE, "genes.d_model.step", 0.5, "genes.d_model.step", "whole number"),
    (BASE, "genes.d_model.setp", 16, "genes.d_model.setp", "'step'"),
    (BASE, "genes.d_model.low", 128, "genes.d_model", "Swap"),
    (BASE, "genes.d_model.low", ..., "genes.d_model.low", "low = .."),
    (BASE, "genes.d_model.high", ..., "genes.d_model.high", "high = .."),
    (BASE, "genes.d_model.low", "32", "genes.d_model.low", "number"),
    (BASE, "genes.d_model.low", None, "genes.d_model.low", "number"),
    (BASE, "genes.d_model.low", [32], "genes.d_model.low", "number"),
    (BASE, "genes.d_model.low", {}, "genes.d_model.low", "number"),
    (BASE, "genes.d_model.low", float("-inf"), "genes.d_model.low", "number"),
    (BASE, "genes.d_model.low", 4, "genes.d_model.low", "8 to 65536"),
    (BASE, "genes.d_model.high", 10**9, "genes.d_model.high", "8 to 65536"),
    (BASE, "genes.d_model", {"low": 32.0, "high": 64.0}, "genes.d_model", "low = 32, high = 64"),
    (BASE, "genes.d_model", {"low": 32.0, "high": 64.0, "log": True}, "genes.d_model", "low = 32, high = 64"),
    (BASE, "genes.d_model", {}, "genes.d_model.low", "low = .."),
    (BASE, "genes.d_model", {"choices": [32], "low": 1}, "genes.d_model", "not both"),
    (BASE, "genes.beta2", {"low": 0.9, "high": 1.5}, "genes.beta2.high", "0.999999"),
    (BASE, "genes.learning_rate", {"low": 0, "high": 0.1, "log": True}, "genes.learning_rate.low", "1e-08"),
    (BASE, "genes.weight_decay", {"low": 0.0, "high": 0.1, "log": True}, "genes.weight_decay.low", "drop log"),
    (BASE, "genes.weight_decay", {"low": 0.1, "high": 1.0, "step": 0.1, "log": True}, "weight_decay.step", "drop log"),
    (BASE, "genes.weight_decay", {"low": 0.1, "high": 1.0, "log": 1}, "genes.weight_decay.log", "true, false"),
    (BASE, "genes.weight_decay", {"low": 0.1, "high": 1.0, "log": "yes"}, "genes.weight_decay.log", "true, false"),
    # choices
    (BASE, "genes.d_model", [], "genes.d_model", "1 to"),
    (BASE, "genes.d_model", [32, 32], "genes.d_model", "once"),
    (BASE, "genes.d_model", [32, 32.0], "genes.d_model", "once"),
    (BASE, "genes.d_model", [32, True], "genes.d_model", "whole number"),
    (BASE, "genes.d_model", [32, "none"], "genes.d_model", "whole number"),
    (BASE, "genes.d_model", ["32"], "genes.d_model", "whole number"),
    (BASE, "genes.d_model", [[32]], "genes.d_model", "number"),
    (BASE, "genes.d_model", [{"low": 1}], "genes.d_model", "number"),
    (BASE, "genes.d_model", None, "genes.d_model", "whole number"),
    (BASE, "genes.d_model", [36.5], "genes.d_model", "whole number"),
    (BASE, "genes.norm", ["layernrom"], "genes.norm", "layernorm, rmsnorm"),
    (BASE, "genes.norm", [1], "genes.norm", "layernorm, rmsnorm"),
    (BASE, "genes.tied_embeddings", [0, 1], "genes.tied_embeddings", "true, false"),
    (BASE, "layers.window", ["full", "none"], "layers.window", "once"),
    (BASE, "layers.window", ["all"], "layers.window", "whole number"),
    (BASE, "layers.n_heads", [0], "layers.n_heads", "1 to 1024"),
    (BASE, "layers.n_heads", [1, -2], "layers.n_heads", "1 to 1024"),
    (CUSTOM, "genes.a", [1, float("nan")], "genes.a", "finite"),
    (CUSTOM, "genes.a", [1, float("inf")], "genes.a", "finite"),
    (CUSTOM, "genes.a", [1, True], "genes.a", "once"),
    (CUSTOM, "genes.a", ["none", "none"], "genes.a", "once"),
    # hostile sizes
    (BASE, "genes.n_layers", 10**9, "genes.n_layers", "1 to 1024"),
    (BASE, "genes.n_layers", {"low": 1, "high": 10**9}, "genes.n_layers.high", "1 to 1024"),
    (CUSTOM, "genes.n", 10**9, "length", "1 to 1024"),
    (CUSTOM, "genes.n", {"low": 1, "high": 10**9}, "genes.n.step", "larger step"),
    (CUSTOM, "genes.n", {"low": 1, "high": 5000}, "length", "1 to 1024"),
    (BASE, "layers.ffn_ratio", {"low": 1.0, "high": 4.0, "step": 1e-9}, "layers.ffn_ratio.step", "larger step"),
    (BASE, "layers.ffn_ratio", {"low": 1.0, "high": 4.0, "step": 1e-320}, "layers.ffn_ratio.step", "larger step"),
    (CUSTOM, "genes.a", {"low": 0, "high": 10**400}, "genes.a.high", "finite"),
    (CUSTOM, "genes.a", {"low": -(10**300), "high": 10**300, "step": 1}, "genes.a.step", "larger step"),
    (CUSTOM, "genes.a", {"low": 1e15, "high": 1e15 + 5, "step": 1}, "genes.a.step", "lost"),
    (CUSTOM, "genes.a", list(range(10_001)), "genes.a", "10000"),
    (CUSTOM, "genes.a", ["x" * 10**6, 10**5000], "genes.a", "number"),
    (CUSTOM, "genes.a", deep, "genes.a", "number"),
    (CUSTOM, "genes.a", {"low": deep, "high": 1}, "genes.a.low", "number"),
    (CUSTOM, "name", deep, "name", "text"),
    (CUSTOM, "kind", deep, "kind", "custom"),
    (CUSTOM, "schema", 16**9999, "schema", "Upgrade"),
    (CUSTOM, "length", deep, "length", "whole numbers"),
    (CUSTOM, "rules", [deep], "rules[0]", "text"),
    # rules
    (BASE, "rules", ["d_model > 0", "d_modle > 3"], "rules[1]", "'d_model'"),
    (BASE, "rules", ["d_model >"], "rules[0]", "d_model % n_heads == 0"),
    (BASE, "rules", [5], "rules[0]", "text"),
    (BASE, "rules", [None], "rules[0]", "text"),
    (BASE, "rules", ["d_model ** 9 > 3"], "rules[0]", "+ - * / // %"),
    (BASE, "rules", ["d_model.real > 3"], "rules[0]", "gene names"),
    (BASE, "rules", ["print(d_model)"], "rules[0]", "min, max, abs"),
    (BASE, "rules", ["(lambda: 1)()"], "rules[0]", "min, max, abs"),
    (BASE, "rules", ["__import__('os').getcwd()"], "rules[0]", "min, max, abs"),
    (BASE, "rules", ["d_model > 3 " + "and d_model > 3 " * 99], "rules[0]", "500"),
    (BASE, "rules", ["d_model < 0"], "d_model < 0", "drop a rule"),
    (BASE, "active", {"window": "d_modle > 3"}, "active.window", "'d_model'"),
    (BASE, "active", {"windwo": "d_model > 3"}, "active.windwo", "'window'"),
    (BASE, "active", {"window": 5}, "active.window", "text"),
    (BASE, "active", {"n_layers": "d_model > 3"}, "active.n_layers", "always"),
    (BASE, "active", {"d_model": "window is none"}, "active.d_model", "[layers]"),
    (BASE, "active", {"n_kv_heads": "window is none"}, "active.n_kv_heads", "Leave it out"),
    # the prior
    (BASE, "prior", ["gelu"], "prior", "[prior]"),
    (BASE, "prior", {"activatoin": "gelu"}, "prior.activatoin", "'activation'"),
    (BASE, "prior", {"activation": "relu2"}, "prior.activation", "gelu, swiglu"),
    (BASE, "prior", {"activation": None}, "prior.activation", "gelu, swiglu"),
    (BASE, "prior", {"activation": ["gelu"]}, "prior.activation", "gelu, swiglu"),
    (BASE, "prior", {"d_model": 40}, "prior.d_model", "32 to 64 in steps of 16"),
    (BASE, "prior", {"n_heads": "none"}, "prior.n_heads", "1, 2, 4"),
    (BASE, "prior", {"ffn_ratio": float("nan")}, "prior.ffn_ratio", "1 to 4"),
    (BASE, "prior", {"weight_decay": 0.2}, "prior.weight_decay", "left out of the file"),
    (BASE, "prior", {"conv_width": 4}, "prior.conv_width", "Add conv_width under [genes]"),
    (BASE, "prior", {"tokens": 4096}, "prior.tokens", "Give both, or neither"),
    (BASE, "prior", {"tokens": "none"}, "prior.tokens", "a whole number"),
    (CUSTOM, "prior", {"tokens": 4096}, "prior.tokens", "no such gene"),
    (CUSTOM, "prior", {"a": True}, "prior.a", "1, 2"),
    (CUSTOM, "prior", {"a": deep}, "prior.a", "1, 2"),
]  # fmt: skip


@pytest.mark.parametrize(
    "base, key, value, named, cure", MALFORMED, ids=[f"{i}-{case[1]}" for i, case in enumerate(MALFORMED)]
)
def test_everything_wrong_is_named_with_its_cure(base, key, value, named, cure):
    with pytest.raises(EvonasError) as caught:
        space_from_dict(with_(base, key, value))
    assert named in caught.value.message
    assert cure in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("data", [None, [], "space", 3, True, ["genes"], 1.5])
def test_what_is_no_table_is_refused(data):
    with pytest.raises(EvonasError, match=r"\[genes\]"):
        space_from_dict(data)


@pytest.mark.parametrize(
    "text, words",
    [
        ("genes = {", "not TOML"),
        ("a = 1\na = 2", "not TOML"),
        ("[genes]\nn_layers = 1 2", "line 2"),
        ("schema = " + "9" * 5000, "not TOML"),
        ("schema = 0x" + "f" * 5000, "schema"),
        ("x = " + "[" * 4000 + "]" * 4000, "not TOML"),
        ("x = " + "{a=" * 4000 + "1" + "}" * 4000, "not TOML"),
        ("a." * 5000 + "a = 1", "line 1 has more than 1000 dots"),
        ("# " + "x" * 2**18, "larger than 256 kB"),
        ("", "genes.n_layers"),
        ("schema = 1979-05-27", "schema"),
        ("kind = 'custom'\n[genes]\na = [1979-05-27]", "genes.a"),
        ("kind = 'custom'\n[genes]\na = { low = 07:32:00, high = 2 }", "genes.a.low"),
        ("kind = 'custom'\n[[genes]]\na = 1", "genes"),
        ("kind = 'custom'\n[genes]\na.b = 1", "genes.a.b"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_path(text, words, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(EvonasError) as caught:
        read_space(path)
    assert words in caught.value.message and str(path) in caught.value.message


def test_files_that_are_none(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b"name = '\xff'")
    for path, words in [
        (tmp_path, "is a folder"),
        (tmp_path / "missing.toml", "no file"),
        (tmp_path / "latin.toml", "not UTF-8"),
        ("x" * 5000, "no file"),
        ("a\0b", "no file"),
        ("", "is a folder"),
    ]:
        with pytest.raises(EvonasError, match=words):
            read_space(path)
    with pytest.raises(EvonasError) as caught:
        read_space("text-cup")
    assert "'text-cpu'" in caught.value.hint


# -- fuzz ----------------------------------------------------------------------------------------------------------

fuzz = settings(
    deadline=None,
    derandomize=True,
    max_examples=250,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
known_words = st.sampled_from(
    ["schema", "name", "kind", "genes", "layers", "rules", "active", "length", "low", "high", "step", "log", "choices",
     "n_layers", "d_model", "n_heads", "window", "kv_rank", "learning_rate", "norm", "custom", "transformer", "none",
     "full", "gelu", "layernorm", "d_model % n_heads == 0", "window is none", "a", "b", "a > b", "a / b < 1"]
)  # fmt: skip
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.integers(),
    st.floats(),
    known_words,
    known_words,
    st.text(max_size=8),
)
anything = st.recursive(
    leaves,
    lambda x: st.one_of(
        st.lists(x, max_size=5), st.dictionaries(st.one_of(known_words, st.text(max_size=4)), x, max_size=5)
    ),
    max_leaves=12,
)
TOP = ("schema", "name", "kind", "genes", "layers", "rules", "active", "length", "prior")


def check_space(data) -> None:
    """Read ``data``; where it is accepted, the space works."""
    try:
        space = space_from_dict(data)
    except EvonasError as error:
        assert error.message and len(str(error)) < 5000
        return
    rng = np.random.default_rng(0)
    for genome in (space.repair({}), space.sample(rng), *around_prior(space, 1, rng)):
        assert space.check(genome) == []
        assert space.kind != "transformer" or check_transformer(genome) == []
    assert_equal(space, space_from_dict(json.loads(json.dumps(space_to_dict(space)))))


@fuzz
@given(anything)
def test_any_data_is_a_space_or_refused(data):
    check_space(data)


@fuzz
@given(st.dictionaries(st.sampled_from(TOP), anything, max_size=5))
def test_any_data_under_known_keys_is_a_space_or_refused(data):
    check_space(data)


@fuzz
@given(st.sampled_from([BASE, CUSTOM]), st.data())
def test_a_space_with_one_place_spoilt_still_works_or_is_refused(base, draw):
    data = copy.deepcopy(base)
    at = data
    while True:
        key = draw.draw(st.sampled_from(sorted(at)))
        if not isinstance(at[key], dict) or draw.draw(st.integers(0, 3)) == 0:
            break
        at = at[key]
    at[key] = draw.draw(anything)
    check_space(data)


@fuzz
@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.one_of(
            st.fixed_dictionaries(
                {"low": st.integers(-9, 99) | st.floats(), "high": st.integers(-9, 99) | st.floats()},
                optional={"step": st.integers(-1, 9) | st.floats(), "log": st.booleans()},
            ),
            st.lists(leaves, max_size=4),
        ),
        min_size=1,
    ),
    st.lists(st.sampled_from(["a > b", "a is none or a < 3", "c % d == 0", "a + b * c < d", "not a == b"]), max_size=3),
)
def test_any_numbers_make_a_space_or_are_refused(genes, rules):
    check_space({"kind": "custom", "genes": genes, "rules": rules})


SHIPPED = shipped_file("text-cpu", ".toml").read_bytes()


@fuzz
@given(
    st.lists(
        st.tuples(st.integers(0, len(SHIPPED) - 1), st.integers(0, 3), st.binary(max_size=3) | st.sampled_from(
            [b"0", b"9", b"-", b".", b"]", b"[", b'"', b"e", b"\n", b",", b"true", b"_"]
        )),
        min_size=1,
        max_size=4,
    )
)  # fmt: skip
def test_the_shipped_file_with_damaged_bytes_is_read_or_refused(tmp_path_factory, edits):
    text = bytearray(SHIPPED)
    for at, cut, put in edits:
        text[at : at + cut] = put
    path: Path = tmp_path_factory.mktemp("fuzz") / "space.toml"
    path.write_bytes(bytes(text))
    try:
        space = read_space(path)
    except EvonasError as error:
        assert str(path) in error.message
        return
    genome = space.sample(np.random.default_rng(0))
    assert space.check(genome) == [] and check_transformer(genome) == []


@pytest.mark.parametrize(
    "text",
    [
        f"{'k' * 90_000} = 1",
        f"[genes]\n{'k' * 90_000} = 1",
        f"[genes]\nn_layers = {{ {'k' * 90_000} = 1 }}",
        "kind = 'custom'\nrules = [" + "'1 > 2', " * 5_000 + "]\n[genes]\na = [1, 2]",
    ],
)
def test_messages_do_not_repeat_a_file_of_any_length(tmp_path, text):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(EvonasError) as error:
        read_space(tmp_path / "s.toml")
    assert len(str(error.value)) < 2_000


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("activation != 'swigl' or d_model <= 128", "'swigl', which"),
        ("position != 'ropee'", "'ropee', which position never is"),
        ("tied_embeddings != 'true'", "'true', which tied_embeddings never is"),
        ("kv_rank != 'none' or d_model <= 128", "holds the text 'none', which no gene is"),
        ("window == 'full' or d_model <= 128", "holds the text 'full', which no gene is"),
    ],
)
def test_a_text_that_no_gene_of_a_rule_ever_is(rule, said):
    data = space_to_dict(read_space("text-cpu"))
    with pytest.raises(EvonasError) as caught:
        space_from_dict({**data, "rules": [*data.get("rules", ()), rule]})
    assert said in caught.value.message and ("id you mean" in caught.value.hint or "quotes" in caught.value.hint)
    stored = space_from_dict({**data, "rules": [*data.get("rules", ()), rule]}, stored=True)
    assert rule in [r.text for r in stored.rules], "a run that began with it goes on"
    fixed = {**data, "genes": {**data["genes"], "position": ["learned"]}}
    fixed["prior"] = {name: value for name, value in data["prior"].items() if name != "position"}
    space_from_dict({**fixed, "rules": ["position != 'rope' or d_model > 32"]})


def test_a_gene_of_a_rule_that_is_none_is_named_before_its_texts():
    data = space_to_dict(read_space("text-cpu"))
    with pytest.raises(EvonasError, match="names unknown gene 'activatoin'"):
        space_from_dict({**data, "rules": ["activatoin == 'swiglu'"]})


WIDTHS = {
    "genes": {**BASE["genes"], "head_dim": [8, 16, "none"]},
    "layers": {**BASE["layers"]},
}


@pytest.mark.parametrize(
    "ruled", [{"rules": ["head_dim is not none"]}, {"active": {"window": "head_dim == 8"}}], ids=["rule", "condition"]
)
def test_no_rule_tells_a_head_width_of_none_from_one_that_is_stated(ruled):
    """A genome does not: it leaves out what follows from ``d_model`` and ``n_heads``."""
    with pytest.raises(EvonasError, match="names head_dim, which may be none") as caught:
        space_from_dict({**WIDTHS, **ruled})
    assert "none" in caught.value.hint
    space_from_dict({**WIDTHS, **ruled}, stored=True)
    for choices in ([8, 16], "none"):
        space_from_dict({**WIDTHS, "genes": {**WIDTHS["genes"], "head_dim": choices}, "rules": ["head_dim != 32"]})


@pytest.mark.parametrize("rule", ["n_layers < 4 or head_dim >= 32", "not head_dim < 16", "head_dim >= 16"])
def test_a_rule_on_a_head_width_that_is_no_gene_is_refused(rule):
    """It was none throughout: the rule held nothing, or more than it says."""
    data = space_to_dict(read_space("text-cpu"))
    with pytest.raises(EvonasError, match="head_dim, which is no gene of this space") as caught:
        space_from_dict({**data, "rules": [rule]})
    assert "d_model // n_heads" in caught.value.hint
    with pytest.raises(EvonasError, match="no gene of this space"):
        space_from_dict({**CUSTOM, "rules": ["head_dim is none"]})
    if rule != "head_dim >= 16":  # which none meets
        space_from_dict({**data, "rules": [rule]}, stored=True)


def test_a_run_that_began_with_a_transformers_gene_at_rest_goes_on():
    data = {**BASE, "active": {"window": "kv_rank is none"}}
    with pytest.raises(EvonasError, match=r"active\.window: every gene of a transformer but n_kv_heads"):
        space_from_dict(data)
    space = space_from_dict(data, stored=True)
    assert_equal(space, space_from_dict(space_to_dict(space), stored=True))
    space_from_dict({**BASE, "active": {"n_kv_heads": "kv_rank is none"}})
