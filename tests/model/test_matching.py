from __future__ import annotations

import pytest

from evonas.genome import Genome, transformer_genome
from evonas.model.matching import Source, layer_losses, losses, match_layers

CONTEXT = 40
SMALL = {
    "n_layers": 1, "d_model": 32, "head_dim": 8, "n_heads": 4, "n_kv_heads": 2, "ffn_ratio": 2, "norm": "layernorm",
    "activation": "gelu", "position": "learned", "tied_embeddings": True,
}  # fmt: skip


def small(**changes) -> Genome:
    return transformer_genome({**SMALL, **changes})


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ([1, 2, 3], [1, 2, 3], [(0, False), (1, False), (2, False)]),
        ([1, 2, 3], [1, 3, 2, 3], [(0, False), (0, True), (1, False), (2, False)]),
        ([1, 2, 3], [3, 1, 2, 3], [(0, True), (0, False), (1, False), (2, False)]),
        ([1, 2, 3], [2, 3], [(1, False), (2, False)]),
        ([1, 2, 3], [1, 2, 2, 3], None),
        ([1, 2, 3], [2, 3, 4], [(0, False), (1, False), (2, False)]),  # all wider: nobody moves
        ([4, 4], [2], None),
    ],
)
def test_layers_are_matched_by_their_genes(old, new, expected):
    sources = match_layers(small(n_layers=len(old), ffn_ratio=old), small(n_layers=len(new), ffn_ratio=new), CONTEXT)
    if expected is not None:
        assert sources == [Source(*pair) for pair in expected]
    matched = [s.index for s in sources if not s.new]
    assert len(sources) == len(new) and matched == sorted(set(matched)) and len(matched) == min(len(old), len(new))


def test_a_layer_goes_to_the_one_that_can_hold_it():
    """Not to the one that shares more genes but is too narrow."""
    old = small(n_heads=4, n_kv_heads=4, ffn_ratio=2)
    new = small(n_layers=2, n_heads=[8, 4], n_kv_heads=[8, 4], ffn_ratio=[3, 1])
    assert match_layers(old, new, CONTEXT) == [Source(0, False), Source(0, True)]


@pytest.mark.parametrize(
    "old, new, lost",
    [
        ({"window": None}, {"window": 8}, "window full became 8"),
        ({"window": None}, {"window": CONTEXT}, None),
        ({"head_dim": 8}, {"head_dim": 4}, "head width 8 became 4"),
        ({"head_dim": 8}, {"head_dim": 10}, None),
        ({"head_dim": 8, "position": "rope"}, {"head_dim": 10, "position": "rope"}, "head width 8 became 10"),
        ({"head_dim": 8, "position": "rope"}, {"head_dim": 16, "position": "rope"}, None),
        # 8 and 10 have rotary parts of width 4, 12 one of 6.
        ({"kv_rank": 4, "position": "rope"}, {"kv_rank": 4, "position": "rope", "head_dim": 10}, None),
        ({"kv_rank": 4, "position": "rope"}, {"kv_rank": 4, "position": "rope", "head_dim": 12}, "head width 8 bec"),
        ({"kv_rank": 4}, {"kv_rank": 3}, "kv_rank 4 became 3"),
        ({"kv_rank": 4}, {"kv_rank": None}, "kv_rank 4 became none"),
        ({"kv_rank": 4}, {"kv_rank": 4, "n_heads": 2, "n_kv_heads": 2}, "n_heads 4 became 2"),
        ({"ffn_ratio": 2}, {"ffn_ratio": 1.5}, "feed-forward width 64 became 48"),
        ({"n_kv_heads": 4}, {"n_kv_heads": 2}, "4 heads on 4 KV heads became 4 heads on 2"),
        ({"n_kv_heads": 1}, {"n_kv_heads": 4}, None),
        ({"n_kv_heads": 2}, {"n_heads": 6, "n_kv_heads": 2}, None),
        ({"n_heads": 6, "n_kv_heads": 2}, {"n_heads": 6, "n_kv_heads": 3}, "6 heads on 2 KV heads became 6 heads on 3"),
        ({"n_heads": 6, "n_kv_heads": 2}, {"n_heads": 8, "n_kv_heads": 4}, None),
    ],
)
def test_what_a_layer_can_not_keep(old, new, lost):
    parent, child = small(**old), small(**new)
    found = layer_losses(parent, parent.layers[0], child, child.layers[0], CONTEXT)
    assert (len(found) == 1 and found[0].startswith(lost)) if lost else found == []


@pytest.mark.parametrize(
    "old, new, lost",
    [
        ({}, {"d_model": 24, "ffn_ratio": 64 / 24}, ["d_model 32 became 24"]),
        ({}, {"d_model": 40}, []),
        ({}, {"tied_embeddings": False}, []),
        ({"tied_embeddings": False}, {}, ["untied embeddings became tied"]),
        ({}, {"activation": "relu2"}, ["activation gelu became relu2"]),
        ({}, {"position": "rope"}, ["position learned became rope"]),
        ({"norm": "rmsnorm"}, {}, ["rmsnorm became layernorm"]),
        ({}, {"norm": "rmsnorm"}, ["layernorm became rmsnorm under tied embeddings"]),
        ({}, {"norm": "rmsnorm", "tied_embeddings": False}, []),
        ({"n_layers": 2}, {}, ["the parent's layer 1 is gone"]),
        ({"n_layers": 2}, {"n_layers": 2, "window": [None, 8]}, ["layer 1: window full became 8"]),
    ],
)
def test_what_a_network_can_not_keep(old, new, lost):
    parent, child = small(**old), small(**new)
    assert losses(parent, child, match_layers(parent, child, CONTEXT), CONTEXT) == lost
