from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.errors import EvonasError
from evonas.evolution import mutate
from evonas.genome import Genome, read_space, transformer_genome
from evonas.model import Inheritance, Transformer, build, inherit

VOCAB, CONTEXT = 19, 40
SMALL = {
    "n_layers": 3, "d_model": 32, "head_dim": 8, "n_heads": 4, "n_kv_heads": 2, "ffn_ratio": 2, "norm": "layernorm",
    "activation": "gelu", "position": "learned", "tied_embeddings": True,
}  # fmt: skip
few = settings(max_examples=20, deadline=None, derandomize=True)


def small(**changes) -> Genome:
    return transformer_genome({**SMALL, **changes})


def parent_of(genome: Genome, context: int = CONTEXT) -> Transformer:
    """In float64, with weights large enough that every part shows in the logits, and gains that differ."""
    generator = torch.Generator().manual_seed(0)
    model = build(genome, VOCAB, context, generator=generator).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not name.endswith("convolution.weight"):
                parameter.mul_(8)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator).mul(0.3))
    return model


def child_of(parent: Transformer, genome: Genome, context: int = CONTEXT) -> tuple[Transformer, Inheritance]:
    model = build(genome, VOCAB, context, generator=torch.Generator().manual_seed(1)).double().eval()
    return model, inherit(model, parent.genome, parent.state_dict())


def tokens_of(length: int = CONTEXT, batch: int = 2) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(2))


def assert_same_function(parent: Transformer, child: Transformer, tolerance: float = 1e-9) -> None:
    tokens = tokens_of()
    with torch.no_grad():
        torch.testing.assert_close(child(tokens), parent(tokens), rtol=tolerance, atol=tolerance)


def per_layer(draw, depth: int, *options) -> list:
    return draw(st.lists(st.sampled_from(options), min_size=depth, max_size=depth))


@st.composite
def genes(draw) -> dict:
    """Genes of small networks with an explicit head width, so that each one can grow by itself."""
    depth = draw(st.integers(1, 3))
    heads = per_layer(draw, depth, (1, 1), (2, 1), (2, 2), (4, 2), (6, 2), (4, 4))
    return {
        "n_layers": depth,
        "d_model": draw(st.sampled_from((16, 24, 40))),
        "head_dim": draw(st.sampled_from((4, 6, 8))),
        "position": draw(st.sampled_from(("learned", "rope"))),
        "norm": draw(st.sampled_from(("layernorm", "rmsnorm"))),
        "activation": draw(st.sampled_from(("gelu", "swiglu", "relu2"))),
        "tied_embeddings": draw(st.booleans()),
        "conv_width": draw(st.sampled_from((1, 1, 2, 4))),
        "block_conv_width": draw(st.sampled_from((1, 1, 2, 4))),
        "n_heads": [h for h, _ in heads],
        "n_kv_heads": [k for _, k in heads],
        "window": per_layer(draw, depth, None, 3, 17),
        "kv_rank": per_layer(draw, depth, None, None, 4, 7),
        "ffn_ratio": per_layer(draw, depth, 0.5, 1.5, 2),
    }


# -- growth ----------------------------------------------------------------------------------------------------------


def more_heads(draw, g: dict) -> dict:
    """More heads, more KV heads or both, in any way that leaves every KV head room for all of its queries."""
    out = {"n_heads": [], "n_kv_heads": []}
    for heads, kv in zip(g["n_heads"], g["n_kv_heads"]):
        fitting = [(h, k) for h in range(1, 13) for k in range(1, h + 1) if h % k == 0 and h >= heads
                   and k >= kv * -(-(heads // kv) // (h // k))]  # fmt: skip
        h, k = draw(st.sampled_from(fitting))
        out["n_heads"].append(h)
        out["n_kv_heads"].append(k)
    return out


def more_layers(draw, g: dict) -> dict:
    copies = per_layer(draw, g["n_layers"], 1, 2, 3)
    names = ("n_heads", "n_kv_heads", "window", "kv_rank", "ffn_ratio")
    rows = {name: [v for v, n in zip(g[name], copies) for _ in range(n)] for name in names}
    return {"n_layers": sum(copies), **rows}


def convolved(g: dict) -> bool:
    """Whether the mean over the channels that layernorm takes out is not what it was in the embeddings."""
    return g["conv_width"] > 1 and g["norm"] == "layernorm"


GROWTH = {
    "ffn": lambda draw, g: {"ffn_ratio": [r + draw(st.sampled_from((0, 0.5, 2))) for r in g["ffn_ratio"]]},
    "heads": more_heads,
    "width": lambda draw, g: {"d_model": g["d_model"] + (0 if convolved(g) else draw(st.sampled_from((8, 16, 24))))},
    "head width": lambda draw, g: {"head_dim": 2 * g["head_dim"] if g["position"] == "rope" else g["head_dim"] + 3},
    "rank": lambda draw, g: {"kv_rank": [r and r + draw(st.sampled_from((0, 1, 5))) for r in g["kv_rank"]]},
    "untied": lambda draw, g: {"tied_embeddings": False},
    "norm": lambda draw, g: {"norm": g["norm"] if g["tied_embeddings"] or convolved(g) else "rmsnorm"},
    "convolution": lambda draw, g: {"conv_width": g["conv_width"] + draw(st.sampled_from((1, 3)))},
    "block convolutions": lambda draw, g: {"block_conv_width": g["block_conv_width"] + draw(st.sampled_from((1, 3)))},
    "layers": more_layers,
}


def assert_grows_exactly(g: dict, changes: dict) -> None:
    parent = parent_of(transformer_genome(g))
    child, inheritance = child_of(parent, transformer_genome({**g, **changes}))
    assert inheritance.lost == () and inheritance.exact
    assert_same_function(parent, child)


@pytest.mark.parametrize("name", GROWTH)
@few
@given(g=genes(), data=st.data())
def test_growth_preserves_the_function(name, g, data):
    assert_grows_exactly(g, GROWTH[name](data.draw, g))


@few
@given(genes(), st.data())
def test_growth_of_everything_at_once_preserves_the_function(g, data):
    grown = dict(g)
    for grow in GROWTH.values():
        if data.draw(st.booleans()):
            grown.update(grow(data.draw, grown))
    assert_grows_exactly(g, grown)


@pytest.mark.parametrize("changes", [{"d_model": 64}, {"d_model": 48, "head_dim": None, "n_heads": 4}])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_growth_in_single_precision(changes, norm):
    changes = {"ffn_ratio": 3, "n_layers": 5, "n_heads": 8, "n_kv_heads": 4, **changes}
    parent = parent_of(small(norm=norm)).float()
    child, inheritance = child_of(parent, small(norm=norm, **changes))
    assert inheritance.exact
    assert_same_function(parent, child.float(), 1e-4)


@pytest.mark.parametrize("context", [8, 64])
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_another_context_is_exact_for_what_both_take(position, context):
    parent = parent_of(small(position=position))
    child, inheritance = child_of(parent, small(position=position, d_model=48), context)
    tokens = tokens_of(min(CONTEXT, context))
    assert inheritance.exact
    torch.testing.assert_close(child(tokens), parent(tokens), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kv_rank", [None, 5])
@pytest.mark.parametrize("position", ["learned", "rope"])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_nothing_that_has_grown_is_stuck(norm, position, kv_rank):
    """Every single value gets a gradient after two steps, and no two new hidden units the same."""
    conv_width = 3 if norm == "rmsnorm" else 1
    how = {"norm": norm, "position": position}
    parent = parent_of(small(**how, kv_rank=kv_rank, n_layers=1, conv_width=conv_width, block_conv_width=2))
    grown = small(
        **how, kv_rank=kv_rank and 9, block_conv_width=3, n_layers=2, d_model=40, head_dim=16, n_heads=8,
        n_kv_heads=4, ffn_ratio=3, tied_embeddings=False, conv_width=conv_width and 4,
    )  # fmt: skip
    child, inheritance = child_of(parent, grown)
    assert inheritance.exact
    tokens = torch.arange(2 * CONTEXT).view(2, CONTEXT) % VOCAB
    for _ in range(3):
        child.zero_grad()
        F.cross_entropy(child(tokens).flatten(0, 1), ((7 * tokens + 3) % VOCAB).flatten()).backward()
        with torch.no_grad():
            for parameter in child.parameters():
                parameter -= 0.1 * parameter.grad
    for name, parameter in child.named_parameters():
        assert (parameter.grad != 0).all(), name
    for block in child.blocks:
        assert len(block.ffn.down.weight.grad.T.unique(dim=0)) == block.ffn.down.in_features


# -- identity, and what only fits in part ----------------------------------------------------------------------------


@few
@given(genes())
def test_the_same_genome_is_the_same_network(g):
    parent = parent_of(transformer_genome(g))
    child, inheritance = child_of(parent, parent.genome)
    assert inheritance == Inheritance(1.0, ())
    for name, tensor in child.state_dict().items():
        assert torch.equal(tensor, parent.state_dict()[name]), name


@settings(few, max_examples=60)
@given(genes(), genes())
def test_any_child_of_any_parent_fits_and_keeps_its_word(g, other):
    parent = parent_of(transformer_genome(g))
    before = {name: tensor.clone() for name, tensor in parent.state_dict().items()}
    child, inheritance = child_of(parent, transformer_genome(other))
    assert 0 < inheritance.share <= 1
    assert child(tokens_of()).isfinite().all()
    assert all(torch.equal(before[name], tensor) for name, tensor in parent.state_dict().items())
    own = {t.untyped_storage().data_ptr() for t in child.parameters()}
    assert not own & {t.untyped_storage().data_ptr() for t in parent.parameters()}
    if inheritance.exact:
        assert_same_function(parent, child)


def test_mutations_of_a_real_space():
    space, rng = read_space("text-cpu"), np.random.default_rng(0)
    exact = 0
    for _ in range(40):
        parent = parent_of(space.sample(rng))
        child, inheritance = child_of(parent, mutate(parent.genome, space, rng)[0])
        if inheritance.exact:
            exact += 1
            assert_same_function(parent, child)
    assert exact >= 10


def test_what_a_convolution_loses():
    parent = parent_of(small(conv_width=4))
    for changes, lost in (
        ({"conv_width": 2}, "conv_width 4 became 2"),
        ({"d_model": 40}, "d_model 32 became 40 between layernorm and a short convolution"),
        ({"norm": "rmsnorm", "tied_embeddings": False}, "layernorm became rmsnorm behind a short convolution"),
    ):
        child, inheritance = child_of(parent, small(**{"conv_width": 4, **changes}))
        assert inheritance.lost == (lost,)
    parent = parent_of(small(conv_width=4, block_conv_width=3))
    _, inheritance = child_of(parent, small(conv_width=4, block_conv_width=2))
    assert inheritance.lost == ("block_conv_width 3 became 2",)
    taps = parent.short_convolution.weight
    child, _ = child_of(parent, small(conv_width=2))
    assert torch.equal(child.short_convolution.weight, taps[:2])


def test_training_genes_change_nothing():
    parent = parent_of(small())
    _, inheritance = child_of(parent, small(dropout=0.1, learning_rate=3e-3, optimizer="muon"))
    assert inheritance == Inheritance(1.0)


def test_a_narrower_feed_forward_keeps_its_strongest_units_whole_and_all_else():
    parent = parent_of(small(activation="swiglu"))
    child, inheritance = child_of(parent, small(activation="swiglu", ffn_ratio=[2, 1.5, 2]))
    assert inheritance.lost == ("layer 1: feed-forward width 64 became 48",) and inheritance.share == 1
    old, new = parent.blocks[1].ffn, child.blocks[1].ffn
    gate, value = old.up.weight.chunk(2)
    strength = (gate.square().sum(1) + value.square().sum(1)).sqrt() * old.down.weight.norm(dim=0)
    kept = strength.topk(48).indices.sort().values
    assert torch.equal(new.up.weight, torch.cat((gate[kept], value[kept])))
    assert torch.equal(new.down.weight, old.down.weight[:, kept])
    for name, tensor in child.state_dict().items():
        assert name.startswith("blocks.1.ffn.") or torch.equal(tensor, parent.state_dict()[name]), name


def test_fewer_heads_stay_whole():
    parent = parent_of(small(n_kv_heads=4))
    child, inheritance = child_of(parent, small(n_heads=[4, 2, 4], n_kv_heads=[4, 2, 4]))
    assert inheritance.lost == ("layer 1: 4 heads on 4 KV heads became 2 heads on 2",)
    old, new = parent.blocks[1].attention, child.blocks[1].attention
    out = old.out.weight.view(32, 4, 8)
    kept = out.norm(dim=(0, 2)).topk(2).indices.sort().values
    assert torch.equal(new.out.weight.view(32, 2, 8), out[:, kept])
    old_qkv, new_qkv = old.qkv.weight.view(3, 4, 8, 32), new.qkv.weight.view(3, 2, 8, 32)
    assert torch.equal(new_qkv, old_qkv[:, kept])


def test_fewer_kv_heads_are_the_mean_of_those_they_replace():
    parent = parent_of(small(n_kv_heads=4))
    child, _ = child_of(parent, small(n_kv_heads=2))
    old, new = (m.blocks[0].attention.qkv.weight.view(-1, 8, 32) for m in (parent, child))
    assert torch.equal(new[:4], old[:4])
    torch.testing.assert_close(new[4:], old[4:].view(4, 2, 8, 32).mean(1))


def test_a_narrower_stream_has_the_same_channels_everywhere():
    parent = parent_of(small())
    child, inheritance = child_of(parent, small(d_model=24, ffn_ratio=64 / 24))
    assert inheritance.lost == ("d_model 32 became 24",) and inheritance.share == 1
    old, new = parent.state_dict(), child.state_dict()
    kept = [int((old["norm.weight"] == gain).nonzero()) for gain in new["norm.weight"]]
    assert kept == sorted(set(kept)) and len(kept) == 24
    for name, tensor in new.items():
        source = old[name]
        writes = name.endswith(("out.weight", "down.weight"))
        assert torch.equal(tensor, source[kept] if writes else source[..., kept]), name


def test_a_removed_layer_leaves_the_others_as_they_are():
    parent = parent_of(small(ffn_ratio=[1, 2, 3]))
    child, inheritance = child_of(parent, small(n_layers=2, ffn_ratio=[1, 3]))
    assert inheritance.lost == ("the parent's layer 1 is gone",) and inheritance.share == 1
    for i, j in ((0, 0), (2, 1)):
        for name, tensor in child.blocks[j].state_dict().items():
            assert torch.equal(tensor, parent.blocks[i].state_dict()[name]), name


@pytest.mark.parametrize("rank, error", [(4, 0.9), (16, 0.6), (32, 0.35)])
def test_a_latent_in_place_of_keys_and_values_is_near(rank, error):
    """Farther with a smaller rank; a fresh attention in its place is off by more than 1."""
    parent = parent_of(small(n_kv_heads=4, n_layers=1))
    child, inheritance = child_of(parent, small(kv_rank=rank, n_layers=1))
    assert inheritance.lost == (f"layer 0: kv_rank none became {rank}",) and inheritance.share == 1
    x = torch.randn(4, CONTEXT, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = parent.blocks[0].attention_norm(x)
    expected = parent.blocks[0].attention(x)
    assert (child.blocks[0].attention(x) - expected).norm() < error * expected.norm()
    back, _ = child_of(child, parent.genome)
    again = child.blocks[0].attention(x)
    assert (back.blocks[0].attention(x) - again).norm() < 0.6 * again.norm()


def test_rope_takes_other_head_widths_to_the_nearest_frequency():
    parent = parent_of(small(position="rope", n_layers=1))
    child, inheritance = child_of(parent, small(position="rope", n_layers=1, head_dim=12))
    assert inheritance.lost == ("layer 0: head width 8 became 12",)
    key = parent.blocks[0].attention.qkv.weight.view(8, 8, 32)[4]
    new_key = child.blocks[0].attention.qkv.weight.view(8, 12, 32)[4]
    torch.testing.assert_close(new_key[[0, 2, 3, 5, 6, 8, 9, 11]], key, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kv_rank, back", [(None, 6), (6, None)])
def test_a_rotary_part_keeps_its_frequencies(kv_rank, back):
    """Width 8 has four frequencies; the rotary part, of width 4, has the first and the third of them."""
    parent = parent_of(small(position="rope", n_layers=1, n_kv_heads=4, kv_rank=kv_rank))
    child, _ = child_of(parent, small(position="rope", n_layers=1, n_kv_heads=4, kv_rank=back))
    plain, latent = (m.blocks[0].attention for m in ((parent, child) if back else (child, parent)))
    q, k, _ = plain.qkv.weight.view(3, 4, 8, 32)
    _, rope, _ = latent.down.weight.split((32, 20, 6))
    rope, scale = rope.view(5, 4, 32), (8 / 12) ** 0.5  # from a score of 12 values to one of 8
    torch.testing.assert_close(q[:, [0, 2, 4, 6]], rope[:4] * scale)
    torch.testing.assert_close(k.mean(0)[[0, 2, 4, 6]], rope[4])


def test_embeddings_that_become_tied_are_a_sum():
    parent = parent_of(small(tied_embeddings=False))
    child, inheritance = child_of(parent, small())
    assert inheritance.lost == ("untied embeddings became tied",)
    embedding, head = parent.token_embedding.weight, parent.head.weight
    torch.testing.assert_close(child.token_embedding.weight, embedding + head * embedding.norm() / head.norm())


# -- wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: w.pop("blocks.2.ffn.up.weight"), "need a tensor blocks.2.ffn.up.weight; there is none"),
        (lambda w: w.update({"norm.weight": torch.ones(31)}), "norm.weight has shape (31,), expected (32,)"),
        (lambda w: w.update({"position_embedding.weight": torch.ones(5)}), "position_embedding.weight has shape (5,)"),
        (lambda w: w.update({"position_embedding.weight": torch.ones(0, 32)}), "position_embedding.weight has shape"),
        (lambda w: w.update({"token_embedding.weight": torch.ones(20, 32)}), "expected (19, 32)"),
        (lambda w: w["blocks.1.ffn.up.weight"][3, 2].fill_(torch.nan), "blocks.1.ffn.up.weight holds values that are"),
        (lambda w: w.update({"norm.weight": None}), "need a tensor norm.weight"),
        (lambda w: w.update({"head.weight": torch.ones(19, 32)}), "has no tensor head.weight"),
    ],
)
def test_weights_of_another_genome_are_refused(change, words):
    weights = parent_of(small()).state_dict()
    change(weights)
    child = build(small(ffn_ratio=3), VOCAB, CONTEXT)
    before = {name: tensor.clone() for name, tensor in child.state_dict().items()}
    with pytest.raises(EvonasError) as error:
        inherit(child, small(), weights)
    assert words in error.value.message and error.value.hint
    assert all(torch.equal(before[name], tensor) for name, tensor in child.state_dict().items())
