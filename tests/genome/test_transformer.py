"""What makes a transformer genome buildable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.errors import EvonasError
from evonas.genome import (
    ARCHITECTURE_GENES,
    LAYER_GENES,
    TRAINING_DEFAULTS,
    TRAINING_GENES,
    Genome,
    bounded_windows,
    check_transformer,
    read_space,
    transformer_genome,
)
from evonas.genome.transformer import CHOICES, LIMITS, OPTIONAL, value_problem

BASE = {
    "n_layers": 2, "d_model": 64, "norm": "layernorm", "activation": "gelu", "position": "learned",
    "tied_embeddings": True, "n_heads": [4, 2], "ffn_ratio": 4,
}  # fmt: skip


def test_every_gene_has_its_limits_or_choices():
    assert {*LIMITS, *CHOICES, "tied_embeddings"} == {*ARCHITECTURE_GENES, *TRAINING_GENES}
    assert set(LAYER_GENES) <= set(ARCHITECTURE_GENES) and {*TRAINING_DEFAULTS, "init"} == set(TRAINING_GENES)
    assert all(value_problem(name, value) is None for name, value in TRAINING_DEFAULTS.items())


def test_missing_genes_take_their_defaults():
    genome = transformer_genome(BASE)
    assert genome.n_kv_heads == (4, 2) and genome.window == genome.kv_rank == (None, None)
    assert {name: genome[name] for name in TRAINING_DEFAULTS} == TRAINING_DEFAULTS
    assert genome.ffn_ratio == (4, 4) and check_transformer(genome) == []


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_numbers_are_held_to_their_limits(name):
    kind, low, high = LIMITS[name]
    outside = [low - 1, high + 1, 10**400, -(10**400), float("inf"), float("-inf"), float("nan")]
    outside += [low * 0.99] if kind is float and low > 0 else []
    wrong_kind = ["8", True, [8], {"a": 1}, (8,), b"8", {8}, 8j] + ([low + 0.5] if kind is int else [])
    wrong_kind += [] if name in OPTIONAL else [None]
    assert value_problem(name, low) is None and value_problem(name, high) is None
    for value in outside + wrong_kind:
        problem = value_problem(name, value)
        assert problem is not None and problem.startswith(f"{name} is "), value


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_words_are_held_to_their_choices(name):
    assert all(value_problem(name, word) is None for word in CHOICES[name])
    for value in ["", "x", CHOICES[name][0].upper(), None, 1, True, [CHOICES[name][0]], {"a": 1}]:
        assert CHOICES[name][0] in value_problem(name, value)


def test_true_and_false_are_no_numbers():
    assert value_problem("tied_embeddings", False) is None
    for value in (0, 1, "true", None, [True]):
        assert "true, false" in value_problem("tied_embeddings", value)


@pytest.mark.parametrize("name", [n for n in ARCHITECTURE_GENES if n in BASE and n not in ("n_layers",)])
def test_missing_genes_are_named(name):
    with pytest.raises(EvonasError, match=f"gene '{name}' is missing") as caught:
        transformer_genome({k: v for k, v in BASE.items() if k != name})
    assert "nanogpt-cpu" in caught.value.hint


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"d_modle": 64}, "'d_modle' (Did you mean 'd_model'?)"),
        ({3: 64}, "unknown gene 3"),
        ({"d_model": [64, 64]}, "d_model takes one value"),
        ({"n_heads": [4, 2, 2]}, "n_heads lists 3 layers, n_layers is 2"),
        ({"n_heads": []}, "n_heads lists 0 layers"),
        ({"n_heads": [4] * 5000}, "n_heads lists 5000 layers; at most 1024"),
        ({"n_heads": [4, [2]]}, "n_heads is '[2]'"),
        ({"n_heads": [4, 0]}, "n_heads is 0"),
        ({"n_heads": [4, None]}, "n_heads is None"),
        ({"n_heads": 5, "n_kv_heads": 5}, "layer 0: d_model 64 is not a multiple of n_heads 5"),
        ({"n_kv_heads": 3}, "layer 0: n_heads 4 is not a multiple of n_kv_heads 3"),
        ({"position": "rope", "d_model": 20, "n_heads": 4}, "even head width, got 5"),
        ({"position": "rope", "head_dim": 7}, "even head width, got 7"),
        ({"n_layers": 10**9}, "n_layers is 1000000000; allowed: 1 to 1024"),
        ({"n_layers": "2"}, "n_layers is '2'; it takes a whole number"),
        ({"n_layers": True}, "n_layers is True"),
        ({"n_layers": None}, "n_layers is None"),
        ({"d_model": 64.5}, "d_model is 64.5; it takes a whole number"),
        ({"d_model": "x" * 10_000}, "..."),
    ],
)
def test_every_problem_is_in_the_message(changes, words):
    with pytest.raises(EvonasError) as caught:
        transformer_genome({**BASE, **changes})
    assert words in caught.value.message and len(caught.value.message) < 1000


def test_all_problems_are_told_at_once():
    with pytest.raises(EvonasError) as caught:
        transformer_genome({**BASE, "norm": "batch", "dropout": 2, "d_model": -1, "x": 1})
    assert all(word in caught.value.message for word in ("norm", "dropout", "d_model", "'x'"))


def test_whole_floats_are_whole_numbers():
    floats = {**BASE, "n_layers": 2.0, "d_model": 64.0, "n_heads": [4.0, 2.0], "position": "rope"}
    genome = transformer_genome(floats)
    assert genome == transformer_genome({**BASE, "position": "rope"}) and type(genome.d_model) is int


def test_head_dim_frees_d_model_from_the_head_count():
    genome = transformer_genome({**BASE, "n_heads": 5, "head_dim": 16})
    assert genome.head_dim == 16 and check_transformer(genome) == []


def test_kv_heads_of_a_layer_with_a_latent_need_not_fit():
    """They have no effect there: a latent is expanded to every head."""
    latent = {**BASE, "n_heads": [4, 2], "n_kv_heads": [3, 2]}
    assert transformer_genome({**latent, "kv_rank": [8, None]}).n_kv_heads == (4, 2)
    with pytest.raises(EvonasError, match="layer 0: n_heads 4 is not a multiple of n_kv_heads 3"):
        transformer_genome({**latent, "kv_rank": [None, 8]})


def test_check_tells_what_a_changed_genome_lacks():
    genome = transformer_genome(BASE)
    assert check_transformer(genome.replace(n_kv_heads=(3, 2))) == [
        "layer 0: n_heads 4 is not a multiple of n_kv_heads 3"
    ]
    assert check_transformer(genome.replace(n_layers=3)) != []
    assert check_transformer(genome.replace(window=(0, None))) == ["window is 0; allowed: 1 to 1.67772e+07"]


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_windows_as_long_as_the_context_are_full_attention(seed, context):
    genome = read_space("text-cpu").sample(np.random.default_rng(seed))
    bounded = bounded_windows(genome, context)
    for before, after in zip(genome.window, bounded.window):
        assert after == (before if before is not None and before < context else None)
    assert {k: v for k, v in bounded.items() if k != "window"} == {k: v for k, v in genome.items() if k != "window"}
    assert bounded_windows(bounded, context) == bounded and check_transformer(bounded) == []
    assert read_space("text-cpu").bounded(context).check(bounded) == []


def test_a_thousand_problems_are_not_all_listed():
    with pytest.raises(EvonasError, match=r"layer 0: .*; and 1014 more") as error:
        transformer_genome({**BASE, "n_layers": 1024, "n_heads": 7})
    assert len(error.value.message) < 1_000
    with pytest.raises(EvonasError) as error:
        transformer_genome({**BASE, "x" * 100_000: 1})
    assert len(error.value.message) < 1_000


@pytest.mark.parametrize("gene", ["window", "kv_rank", "ffn_ratio"])
def test_one_value_for_all_layers_is_a_problem_of_a_stored_genome(gene):
    genes = dict(transformer_genome(BASE))
    problems = check_transformer(Genome({**genes, gene: genes[gene][0]}))
    assert any(problem.startswith(f"{gene} is ") for problem in problems)
