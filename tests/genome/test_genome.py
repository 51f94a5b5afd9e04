"""The genome: immutable, canonical, with an identity that is the same everywhere."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.genome import (
    ARCHITECTURE_GENES,
    LAYER_GENES,
    TRAINING_GENES,
    Genome,
    Layer,
    read_genome,
    transformer_genome,
)

BASE = {
    "n_layers": 2, "d_model": 64, "norm": "layernorm", "activation": "gelu", "position": "learned",
    "tied_embeddings": True, "n_heads": [4, 2], "n_kv_heads": [2, 2], "window": [16, None], "kv_rank": None,
    "ffn_ratio": [4, 2.5],
}  # fmt: skip


def genome(**changes) -> Genome:
    return transformer_genome({**BASE, **changes})


# -- canonical form ------------------------------------------------------------------------------------------------


def test_identity_is_what_it_was_when_the_first_runs_were_stored():
    # A stored run names its genomes by id: these literals may only change together with the store's schema.
    seed = read_genome("nanogpt-cpu").genome
    assert seed.id == "fbc5624b5b6e"
    assert seed.architecture_id == "3cb6a2e62e71"
    assert Genome({"b": 2.0, "a": "x", "c": [1, None, True]}).id == "d1c1c5560183"


def test_id_is_the_same_in_another_process_with_another_hash_seed():
    code = "from evonas.genome import read_genome as r; g = r('mistral-7b-v0.1').genome; print(g.id, g.architecture_id)"
    found = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    here = read_genome("mistral-7b-v0.1").genome
    assert found == {f"{here.id} {here.architecture_id}"}


def test_layers_past_n_layers_do_not_count():
    longer = Genome({**genome(), "n_heads": (4, 2, 8, 1), "ffn_ratio": (4, 2.5, 1, 1)})
    assert longer == genome() and longer.id == genome().id and longer["n_heads"] == (4, 2)


def test_kv_heads_of_a_layer_with_a_latent_do_not_count():
    one, other = genome(kv_rank=[8, None], n_kv_heads=[1, 2]), genome(kv_rank=[8, None], n_kv_heads=[4, 2])
    assert one == other and one["n_kv_heads"] == (4, 2)
    # ... and they do in a layer without one.
    assert genome(kv_rank=[8, None], n_kv_heads=[4, 1]) != other


def test_kv_heads_of_a_space_of_ones_own_need_not_be_a_transformers():
    genes = {"n_layers": 2, "n_heads": 4, "kv_rank": (8, None), "n_kv_heads": (1, 2)}
    assert Genome(genes).n_kv_heads == (1, 2)


def test_head_dim_counts_only_where_it_is_not_what_follows_from_the_others():
    assert genome(n_heads=4, n_kv_heads=4, head_dim=16) == genome(n_heads=4, n_kv_heads=4)
    assert genome(n_heads=4, n_kv_heads=4, head_dim=32) != genome(n_heads=4, n_kv_heads=4)
    # One width for layers of different head counts is not what d_model / n_heads gives in both.
    assert genome(head_dim=16).head_dim == 16 and genome(head_dim=16) != genome()
    assert genome().head_dim is None and genome(head_dim=None) == genome()


def test_the_usual_initialisation_goes_without_saying():
    assert genome(init="normal") == genome() and "init" not in genome(init="normal") and genome().init == "normal"
    assert genome(init="fan_in").init == "fan_in"


def test_feed_forward_counts_by_its_hidden_width():
    # 2.5 * 64 = 160 and 2.52 * 64 = 161.3 are both 160 hidden units.
    assert genome(ffn_ratio=2.5).id == genome(ffn_ratio=2.52).id
    assert genome(ffn_ratio=2.5).id != genome(ffn_ratio=2.6).id


def test_a_feed_forward_of_a_space_of_ones_own_counts_as_it_is():
    genes = {"n_layers": 2, "d_model": 64, "activation": "gelu", "position": "learned", "ffn_ratio": (2.5, 2.5)}
    assert Genome(genes).id != Genome({**genes, "ffn_ratio": (2.5, 2.52)}).id
    assert Genome({**genes, "ffn_ratio": ("none", "wide")}).id != Genome(genes).id
    everything = {**dict.fromkeys(ARCHITECTURE_GENES, 1), **genes, "ffn_ratio": (None, 2)}
    assert Genome(everything).id != Genome({**everything, "ffn_ratio": (None, 3)}).id


@pytest.mark.parametrize("name", [n for n in ARCHITECTURE_GENES + TRAINING_GENES if n not in ("n_layers", "head_dim")])
def test_every_other_gene_counts(name):
    other = {
        "d_model": 128, "norm": "rmsnorm", "activation": "swiglu", "position": "rope", "tied_embeddings": False,
        "n_heads": (4, 4), "n_kv_heads": (1, 2), "window": (None, None), "kv_rank": (None, 8), "ffn_ratio": (4, 1),
        "conv_width": 4, "block_conv_width": 3,
        "learning_rate": 2e-3, "batch_size": 16, "weight_decay": 0.0, "warmup": 0.2, "dropout": 0.1,
        "schedule": "constant", "optimizer": "muon", "beta2": 0.95, "grad_clip": 2.0,
        "init": "fan_in",
    }[name]  # fmt: skip
    changed = genome().replace(**{name: other})
    assert changed != genome() and changed.id != genome().id
    assert (changed.architecture_id == genome().architecture_id) == (name in TRAINING_GENES)


def test_the_form_of_the_input_does_not_count():
    genes = dict(genome())
    twisted = {k: genes[k] for k in reversed(genes)}
    twisted.update(d_model=np.int64(64), dropout=np.float32(0.0), ffn_ratio=[4.0, np.float64(2.5)], n_layers=2.0)
    assert Genome(twisted) == genome() and dict(Genome(twisted)) == dict(genome())
    assert all(type(v) in (int, float, str, bool, tuple, type(None)) for v in Genome(twisted).values())


def test_true_is_not_one():
    assert Genome({"a": True}) != Genome({"a": 1})


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.text()
)


@settings(deadline=None, derandomize=True)
@given(st.dictionaries(st.text(min_size=1), st.one_of(scalars, st.lists(scalars, max_size=5)), max_size=8))
def test_canonical_form_is_a_fixed_point_and_survives_json(genes):
    one = Genome(genes)
    again = Genome(dict(one))
    assert again == one and dict(again) == dict(one) and list(again) == list(one) == sorted(one)
    through = Genome(json.loads(json.dumps(dict(one))))
    assert through.id == one.id and dict(through) == dict(one)


# -- immutability --------------------------------------------------------------------------------------------------


def test_nothing_of_a_genome_can_be_changed():
    source = {"n_layers": 2, "x": [1, 2]}
    made = Genome(source)
    before = made.id
    source["x"][0], source["n_layers"] = 9, 1
    assert dict(made) == {"n_layers": 2, "x": (1, 2)}
    with pytest.raises(AttributeError, match="immutable"):
        made.x = (3, 4)
    with pytest.raises(AttributeError, match="immutable"):
        made._genes = {}
    with pytest.raises(AttributeError, match="immutable"):
        del made._genes
    with pytest.raises(TypeError):
        made["x"] = (3, 4)
    with pytest.raises(TypeError):
        del made["x"]
    with pytest.raises(AttributeError):
        made.new = 1
    dict(made)["x"] = ()
    assert made.id == before == Genome({"n_layers": 2, "x": (1, 2)}).id


def test_replace_leaves_the_original_alone():
    one = genome()
    other = one.replace(d_model=128, n_layers=1)
    assert (one.d_model, one.n_layers) == (64, 2)
    assert (other.d_model, other.n_layers, other.n_heads) == (128, 1, (4,))


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copies_and_pickles_are_equal(twin):
    one = genome(kv_rank=[8, None])
    other = twin(one)
    assert other == one and hash(other) == hash(one) and dict(other) == dict(one)
    assert len({one, other}) == 1 and {one: "found"}[other] == "found"


def test_a_genome_equals_only_genomes():
    one = Genome({"a": 1})
    assert one != {"a": 1} and one != one.id and one == Genome({"a": 1.0})


# -- views ---------------------------------------------------------------------------------------------------------


def test_typed_view_of_the_layers():
    one = genome(kv_rank=[None, 8])
    assert one.layers == (Layer(4, 2, 16, None, 4), Layer(2, 2, None, 8, 2.5))
    assert [one.head_dim_of(layer) for layer in one.layers] == [16, 32]
    assert [one.ffn_hidden_of(layer) for layer in one.layers] == [256, 160]
    assert genome(head_dim=8).head_dim_of(one.layers[0]) == 8
    assert tuple(Layer._fields) == LAYER_GENES


def test_genes_are_attributes_and_unknown_ones_are_named():
    assert genome().d_model == 64 and genome().window == (16, None)
    with pytest.raises(AttributeError, match=r"no gene 'd_modle'.*d_model"):
        _ = genome().d_modle
    assert not hasattr(genome(), "_nothing")


def test_learning_rate_scales_with_the_square_root_of_the_batch():
    one = genome(learning_rate=1e-3)
    assert one.learning_rate_at(12) == pytest.approx(1e-3)
    assert one.learning_rate_at(48) == pytest.approx(2e-3)
    assert one.learning_rate_at(3) == pytest.approx(5e-4)
