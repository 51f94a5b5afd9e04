from __future__ import annotations

import pytest
import torch

from evonas.genome import transformer_genome
from evonas.model import build
from evonas.model.parts import AXES, as_latent, as_plain, block_parts

GENES = {
    "n_layers": 2, "d_model": 24, "head_dim": 6, "n_heads": 4, "n_kv_heads": 2, "ffn_ratio": 2, "norm": "rmsnorm",
    "activation": "gelu", "tied_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize("kv_rank", [None, 5])
@pytest.mark.parametrize("position", ["learned", "rope"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_parts_are_views_of_every_weight_of_the_block(kv_rank, position, activation):
    genome = transformer_genome({**GENES, "kv_rank": kv_rank, "position": position, "activation": activation})
    model = build(genome, 11, 8)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    parts = block_parts(weights, genome, 1)
    assert all(part.dim() == len(AXES[name]) for name, part in parts.items())
    for part in parts.values():
        part.add_(1000)
    for name, tensor in weights.items():
        # Every value once, and of no other block.
        expected = (tensor > 900) & (tensor < 1100) if name.startswith("blocks.1.") else tensor.abs() < 100
        assert expected.all(), name
    sizes = {}
    for name, part in parts.items():
        for letter, size in zip(AXES[name], part.shape):
            assert sizes.setdefault(letter, size) == size, (name, letter)


@pytest.mark.parametrize("rope", [False, True])
def test_kinds_of_attention_have_each_others_parts(rope):
    position = "rope" if rope else "learned"
    plain = transformer_genome({**GENES, "position": position})
    latent = transformer_genome({**GENES, "position": position, "kv_rank": 7, "n_kv_heads": 4})
    of_plain, of_latent = (block_parts(build(g, 11, 8).state_dict(), g, 0) for g in (plain, latent))
    made = as_latent(of_plain, 7, rope)
    assert {name: part.shape for name, part in made.items()} == {name: part.shape for name, part in of_latent.items()}
    made = as_plain(of_latent, rope)
    assert made.keys() == of_plain.keys()
    for name, part in of_plain.items():
        assert made[name].shape == ((4, 6, 24) if name in ("k", "v") else part.shape)


def test_a_latent_of_full_rank_spans_keys_and_values():
    genome = transformer_genome({**GENES, "position": "learned"})
    parts = block_parts(build(genome, 11, 8).state_dict(), genome, 0)
    made = as_latent(parts, 99, False)
    latent = made["latent"]
    assert len(latent) == 24
    size = (latent * parts["attention_norm"]).square().sum(1).mean().sqrt()
    torch.testing.assert_close(made["latent_k"] @ latent / size, parts["k"].repeat_interleave(2, 0))
    torch.testing.assert_close(made["latent_v"] @ latent / size, parts["v"].repeat_interleave(2, 0))
