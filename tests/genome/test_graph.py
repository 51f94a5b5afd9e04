"""The computation graph by itself; that its cost is the built model's is tested in tests/model."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import networkx
import pytest

from evonas.errors import EvonasError
from evonas.genome import Genome, transformer_genome
from evonas.genome.graph import attention_pairs, computation_graph, cost, operations, rope_dim

NANOGPT_CPU = {
    "n_layers": 4, "d_model": 128, "n_heads": 4, "ffn_ratio": 4, "norm": "layernorm", "activation": "gelu",
    "position": "learned", "tied_embeddings": True,
}  # fmt: skip


def nanogpt(**changes) -> Genome:
    return transformer_genome({**NANOGPT_CPU, **changes})


def test_nanogpts_cost_by_hand():
    found = cost(nanogpt(), 65, 64)
    weights = 4 * (4 * 128 * 128 + 8 * 128 * 128)
    assert found.params == weights + (65 + 64) * 128 + (2 * 4 + 1) * 128
    assert found.flops == 2 * 64 * (weights + 65 * 128) + 4 * 4 * 64 * 64 * 128
    assert found.kv_cache_bytes == 4 * 2 * 64 * 128 * 4
    assert cost(nanogpt(), 65, 64, bytes_per_value=2).kv_cache_bytes == found.kv_cache_bytes // 2


def test_cost_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        cost(nanogpt(), 65, 64).params = 0


@pytest.mark.parametrize(
    ("gene", "cheaper", "costs"),
    [
        ("n_kv_heads", {"n_kv_heads": 1}, ("params", "flops", "kv_cache_bytes")),
        ("window", {"window": 16}, ("flops", "kv_cache_bytes")),
        ("kv_rank", {"kv_rank": 16}, ("params", "kv_cache_bytes")),
        ("ffn_ratio", {"ffn_ratio": 2}, ("params", "flops")),
        ("n_layers", {"n_layers": 2}, ("params", "flops", "kv_cache_bytes")),
        ("position", {"position": "rope"}, ("params",)),
        ("head_dim", {"head_dim": 16}, ("params", "flops", "kv_cache_bytes")),
    ],
)
def test_every_gene_that_claims_to_save_does(gene, cheaper, costs):
    full, saving = cost(nanogpt(), 65, 256), cost(nanogpt(**cheaper), 65, 256)
    for name in costs:
        assert getattr(saving, name) < getattr(full, name), (gene, name)


def test_pairs_are_square_in_full_and_linear_in_a_window():
    assert attention_pairs(100, None) == attention_pairs(100, 100) == 100 * 100
    for window in (1, 16, 64):
        pairs = [attention_pairs(length, window) for length in range(1, 600)]
        assert all(p <= 2 * max(window, 32) * length for length, p in enumerate(pairs, 1))
        # Never fewer than the pairs a window of that width really has.
        assert all(p >= sum(min(t + 1, window) for t in range(length)) for length, p in enumerate(pairs, 1))


@pytest.mark.parametrize(("head_dim", "width"), [(2, 2), (4, 2), (6, 2), (8, 4), (10, 4), (32, 16), (64, 32)])
def test_the_rotary_part_is_half_a_head_and_even(head_dim, width):
    assert rope_dim(head_dim) == width


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_the_graph_follows_the_data(position, tied):
    genome = nanogpt(position=position, tied_embeddings=tied, kv_rank=[None, 16, None, 16], activation="swiglu")
    graph = computation_graph(genome, 65, 64)
    assert networkx.is_directed_acyclic_graph(graph)
    assert [n for n in graph if not graph.out_degree(n)] == ["head"]
    ancestors = networkx.ancestors(graph, "head")
    assert set(graph) == ancestors | {"head"}
    # Both ways round every residual: without the attention of a layer its sum still reaches the head.
    assert set(graph.predecessors("blocks.1.ffn_residual")) == {"blocks.1.ffn.down", "blocks.1.attention_residual"}
    assert graph.has_edge("token_embedding", "head") is tied
    assert ("position_embedding" in graph) is (position == "learned")
    assert ("blocks.0.attention.rope" in graph) is (position == "rope")
    assert graph.nodes["blocks.2.ffn.up"]["layer"] == 2 and graph.nodes["norm"]["layer"] is None
    assert {d["op"] for _, d in graph.nodes(data=True)} >= {"linear", "attention", "swiglu", "layernorm", "rmsnorm"}


def test_the_graph_sums_to_the_cost():
    genome = nanogpt(kv_rank=[None, 16, None, 16], window=[8, 8, None, None], n_kv_heads=2)
    graph, total = computation_graph(genome, 65, 64), cost(genome, 65, 64)
    for name, expected in (("params", total.params), ("flops", total.flops), ("kv_values", total.kv_cache_bytes / 4)):
        assert sum(value for _, value in graph.nodes(data=name)) == expected
    assert [op.name for op in operations(genome, 65, 64)] == list(graph)


def test_what_cannot_be_built_has_no_cost():
    with pytest.raises(EvonasError, match="not a multiple of n_heads 5"):
        cost(Genome({**nanogpt(), "n_heads": (5,) * 4}), 65, 64)
    for sizes in ((0, 64), (65, -1), (65.0, 64), (65, None)):
        with pytest.raises(EvonasError, match="whole number from 1"):
            cost(nanogpt(), *sizes)
        with pytest.raises(EvonasError, match="whole number from 1"):
            computation_graph(nanogpt(), *sizes)


def test_cost_needs_neither_torch_nor_networkx():
    code = "import sys, evonas.genome.graph; sys.exit(bool({'torch', 'networkx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
