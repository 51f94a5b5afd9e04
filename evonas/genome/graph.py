"""The operations of a transformer genome and what they cost: parameters, FLOPs and KV-cache values. No torch here.

``evonas.model`` builds exactly these operations and takes the few sizes they must agree on from this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import EvonasError
from .gene import listed
from .genome import Genome, Layer
from .transformer import check_transformer

if TYPE_CHECKING:
    import networkx

# Queries per block of windowed attention are never fewer: below this the fused kernels gain nothing.
MIN_ATTENTION_BLOCK = 32


def attention_block(window: int) -> int:
    """Queries handled together in windowed attention; a block of C queries looks at C + W keys."""
    return max(window, MIN_ATTENTION_BLOCK)


def first_block(length: int, window: int) -> int:
    """Queries of the first block: what remains after blocks of C, at least C, so that no block needs padding
    and every later one has W keys before it."""
    block = attention_block(window)
    return length if length < 2 * block else block + length % block


def attention_pairs(length: int, window: int | None) -> int:
    """Query-key pairs whose score is computed for ``length`` tokens: T^2 in full, O(T * W) in a window."""
    if window is None or length <= window:
        return length * length
    first = first_block(length, window)
    return first * first + (length - first) * (attention_block(window) + window)


def rope_dim(head_dim: int) -> int:
    """Width of the decoupled rotary part of latent attention: half a head, rounded down to even, at least 2
    (DeepSeek-V2, 2024, sec. 3.1.2: d_R = d_h / 2)."""
    return max(2, head_dim // 4 * 2)


@dataclass(frozen=True)
class Operation:
    """One node of the computation graph.

    ``params`` are trainable values, ``flops`` 2 per multiply-add of a matrix product over the whole context at
    batch 1 (norms, activations, look-ups and the few taps of a short convolution count 0, as in torch's
    FlopCounterMode), ``kv_values`` the numbers
    kept for decoding. ``inputs`` name the operations it reads; ``layer`` is None outside the blocks.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    layer: int | None = None
    params: int = 0
    flops: float = 0.0
    kv_values: int = 0


@dataclass(frozen=True)
class Cost:
    """``flops`` of one forward pass over the context at batch 1; ``kv_cache_bytes`` allocated at batch 1."""

    params: int
    flops: float
    kv_cache_bytes: int


def operations(genome: Genome, vocab_size: int, context: int) -> list[Operation]:
    """The operations of ``genome`` in the order they run; raises EvonasError for what can't be built."""
    check_buildable(genome, vocab_size, context)
    d_model = genome.d_model
    norm_op = genome.norm
    ops = [
        Operation("tokens", "input"),
        Operation("token_embedding", "embedding", ("tokens",), params=vocab_size * d_model),
    ]
    stream = "token_embedding"
    if genome.conv_width > 1:
        ops.append(Operation("short_convolution", "convolution", (stream,), params=genome.conv_width * d_model))
        stream = "short_convolution"
    if genome.position == "learned":
        ops.append(Operation("position_embedding", "embedding", params=context * d_model))
        ops.append(Operation("embedding_sum", "add", (stream, "position_embedding")))
        stream = "embedding_sum"
    for index, layer in enumerate(genome.layers):
        attend = _attention if layer.kv_rank is None else _latent_attention
        for branch, part in (("attention", attend), ("ffn", _feed_forward)):
            prefix = f"blocks.{index}.{branch}"
            ops.append(Operation(f"{prefix}_norm", norm_op, (stream,), index, d_model))
            if (width := genome.block_conv_width) > 1:
                values = width * d_model
                name, inputs = f"{prefix}_convolution", (ops[-1].name,)
                ops.append(Operation(name, "convolution", inputs, index, params=values, kv_values=values))
            ops += part(genome, layer, index, prefix, ops[-1].name, context)
            ops.append(Operation(f"{prefix}_residual", "add", (stream, ops[-1].name), index))
            stream = ops[-1].name
    ops.append(Operation("norm", norm_op, (stream,), params=d_model))
    inputs = ("norm", "token_embedding") if genome.tied_embeddings else ("norm",)
    head_params = 0 if genome.tied_embeddings else vocab_size * d_model
    ops.append(Operation("head", "linear", inputs, None, head_params, 2.0 * context * d_model * vocab_size))
    return ops


def cost(genome: Genome, vocab_size: int, context: int, bytes_per_value: int = 4) -> Cost:
    """Analytic cost of ``genome``; the parameters and cache bytes are those of the built model, exactly.

    Raises EvonasError for a genome that can't be built or a size below 1.
    """
    ops = operations(genome, vocab_size, context)
    return Cost(
        params=sum(op.params for op in ops),
        flops=sum(op.flops for op in ops),
        kv_cache_bytes=sum(op.kv_values for op in ops) * bytes_per_value,
    )


def computation_graph(genome: Genome, vocab_size: int, context: int) -> networkx.DiGraph:
    """A directed acyclic graph along the data flow, residual connections included.

    Nodes are operation names with the attributes ``op``, ``layer``, ``params``, ``flops`` and ``kv_values``.
    """
    import networkx  # imported here: only pictures and inspection need it, `cost` runs thousands of times

    graph = networkx.DiGraph(genome=genome.id, vocab_size=vocab_size, context=context)
    for op in operations(genome, vocab_size, context):
        graph.add_node(op.name, op=op.op, layer=op.layer, params=op.params, flops=op.flops, kv_values=op.kv_values)
        graph.add_edges_from((source, op.name) for source in op.inputs)
    return graph


def check_buildable(genome: Genome, vocab_size: int, context: int) -> None:
    """Raise EvonasError unless ``genome`` is a valid transformer and both sizes are whole numbers from 1."""
    problems = check_transformer(genome)
    for name, value in (("vocab_size", vocab_size), ("context", context)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            problems.append(f"{name} is {value!r}; it takes a whole number from 1")
    if problems:
        raise EvonasError("can't build this genome: " + listed(problems), "'evonas genome check' lists every reason.")


def _linear(name: str, source: str, index: int, width_in: int, width_out: int, context: int) -> Operation:
    weights = width_in * width_out
    return Operation(name, "linear", (source,), index, weights, 2.0 * context * weights)


def _attention(genome: Genome, layer: Layer, index: int, prefix: str, source: str, context: int) -> list[Operation]:
    head_dim, heads, kv_heads = genome.head_dim_of(layer), layer.n_heads, layer.n_kv_heads
    width = heads * head_dim
    ops = [_linear(f"{prefix}.qkv", source, index, genome.d_model, width + 2 * kv_heads * head_dim, context)]
    if genome.position == "rope":
        ops.append(Operation(f"{prefix}.rope", "rope", (ops[-1].name,), index))
    flops = 4.0 * attention_pairs(context, layer.window) * width
    kv_values = 2 * kv_heads * head_dim * min(layer.window or context, context)
    ops.append(Operation(f"{prefix}.dot_product", "attention", (ops[-1].name,), index, 0, flops, kv_values))
    ops.append(_linear(f"{prefix}.out", ops[-1].name, index, width, genome.d_model, context))
    return ops


def _latent_attention(
    genome: Genome, layer: Layer, index: int, prefix: str, source: str, context: int
) -> list[Operation]:
    head_dim, heads, rank = genome.head_dim_of(layer), layer.n_heads, layer.kv_rank
    width = heads * head_dim
    rope = rope_dim(head_dim) if genome.position == "rope" else 0
    down, norm, up = f"{prefix}.down", f"{prefix}.latent_norm", f"{prefix}.up"
    ops = [
        _linear(down, source, index, genome.d_model, width + (heads + 1) * rope + rank, context),
        Operation(norm, "rmsnorm", (down,), index, rank),
        _linear(up, norm, index, rank, 2 * width, context),
    ]
    inputs = (down, up)
    if rope:
        ops.append(Operation(f"{prefix}.rope", "rope", (down,), index))
        inputs = (*inputs, f"{prefix}.rope")
    flops = 4.0 * attention_pairs(context, layer.window) * heads * (head_dim + rope)
    kv_values = (rank + rope) * min(layer.window or context, context)
    ops.append(Operation(f"{prefix}.dot_product", "attention", inputs, index, 0, flops, kv_values))
    ops.append(_linear(f"{prefix}.out", f"{prefix}.dot_product", index, width, genome.d_model, context))
    return ops


def _feed_forward(genome: Genome, layer: Layer, index: int, prefix: str, source: str, context: int) -> list[Operation]:
    hidden, d_model = genome.ffn_hidden_of(layer), genome.d_model
    gates = 2 if genome.activation == "swiglu" else 1
    return [
        _linear(f"{prefix}.up", source, index, d_model, gates * hidden, context),
        Operation(f"{prefix}.activation", genome.activation, (f"{prefix}.up",), index),
        _linear(f"{prefix}.down", f"{prefix}.activation", index, hidden, d_model, context),
    ]
