"""Which layer of a parent each layer of a child continues, and what a child's genome can't keep of its parent's
function. Genes only, no tensors.

H heads, K KV heads, G = H / K queries per KV head, E head width, P rotary width of latent attention
"""

from __future__ import annotations

from typing import NamedTuple

from ..genome import Genome, Layer
from ..genome.graph import rope_dim


class Source(NamedTuple):
    """The parent's layer ``index``; ``new`` where the child's layer is an additional one beside it."""

    index: int
    new: bool


def match_layers(parent: Genome, child: Genome, context: int) -> list[Source]:
    """The source of every layer of ``child``, in the order of the parent's layers.

    The alignment of the highest sum of similarities, as in Needleman and Wunsch (1970) with free gaps: an inserted,
    duplicated or removed layer shifts those behind it instead of pairing all of them wrongly. A layer that can hold
    its parent's exactly comes before any that merely look alike; relative depth decides between equals. A new layer
    goes with the matched layer before it, at the start with the one after it.
    """
    known: dict[tuple[Layer, Layer], float] = {}
    rows, columns = parent.layers, child.layers

    def similarity(i: int, j: int) -> float:
        a, b = pair = rows[i], columns[j]
        if pair not in known:
            exact = not layer_losses(parent, a, child, b, context)
            known[pair] = 1 + 10 * exact + sum(x == y for x, y in zip(a, b))
        return known[pair] - abs((i + 0.5) / len(rows) - (j + 0.5) / len(columns))

    best = [[0.0] * (len(columns) + 1) for _ in range(len(rows) + 1)]
    for i in range(len(rows)):
        for j in range(len(columns)):
            best[i + 1][j + 1] = max(best[i][j + 1], best[i + 1][j], best[i][j] + similarity(i, j))
    matched: dict[int, int] = {}
    i, j = len(rows), len(columns)
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            matched[j] = i
    nearest = matched[min(matched)]
    sources = []
    for j in range(len(columns)):
        nearest = matched.get(j, nearest)
        sources.append(Source(nearest, j not in matched))
    return sources


def losses(parent: Genome, child: Genome, sources: list[Source], context: int) -> list[str]:
    """What ``child`` can't keep of its parent's function, in words; empty where the mapping preserves it exactly."""
    lost = []
    for name in ("activation", "position"):
        if parent[name] != child[name]:
            lost.append(f"{name} {parent[name]} became {child[name]}")
    if child.d_model < parent.d_model:
        lost.append(f"d_model {parent.d_model} became {child.d_model}")
    for name in ("conv_width", "block_conv_width"):
        old, new = getattr(parent, name), getattr(child, name)
        if new < old:
            lost.append(f"{name} {old} became {new}")
    if parent.conv_width > 1 and parent.norm == "layernorm":
        # Neither what is taken out of the stream nor what is laid on new channels is the mean after the convolution.
        if child.norm == "rmsnorm":
            lost.append("layernorm became rmsnorm behind a short convolution")
        elif child.d_model > parent.d_model:
            lost.append(f"d_model {parent.d_model} became {child.d_model} between layernorm and a short convolution")
    if child.tied_embeddings and not parent.tied_embeddings:
        lost.append("untied embeddings became tied")
    if parent.norm != child.norm:
        if child.norm == "layernorm":
            lost.append("rmsnorm became layernorm")
        elif child.tied_embeddings:
            lost.append("layernorm became rmsnorm under tied embeddings")
    kept = {source.index for source in sources if not source.new}
    lost += [f"the parent's layer {i} is gone" for i in range(parent.n_layers) if i not in kept]
    for j, (layer, source) in enumerate(zip(child.layers, sources)):
        if not source.new:
            reasons = layer_losses(parent, parent.layers[source.index], child, layer, context)
            lost += [f"layer {j}: {reason}" for reason in reasons]
    return lost


def layer_losses(parent: Genome, old: Layer, child: Genome, new: Layer, context: int) -> list[str]:
    """What layer ``new`` of ``child`` can't keep of the parent's layer ``old``, over at most ``context`` tokens."""
    lost = []
    old_window, new_window = (min(layer.window or context, context) for layer in (old, new))
    if old_window != new_window:
        lost.append(f"window {old.window or 'full'} became {new.window or 'full'}")
    old_hidden, new_hidden = parent.ffn_hidden_of(old), child.ffn_hidden_of(new)
    if new_hidden < old_hidden:
        lost.append(f"feed-forward width {old_hidden} became {new_hidden}")
    if (old.kv_rank is None) != (new.kv_rank is None):
        return [*lost, f"kv_rank {old.kv_rank or 'none'} became {new.kv_rank or 'none'}"]
    old_width, new_width = parent.head_dim_of(old), child.head_dim_of(new)
    if not _width_fits(old_width, new_width, child.position == "rope", old.kv_rank is not None):
        lost.append(f"head width {old_width} became {new_width}")
    if old.kv_rank is not None:
        if new.kv_rank < old.kv_rank:
            lost.append(f"kv_rank {old.kv_rank} became {new.kv_rank}")
        if new.n_heads < old.n_heads:
            lost.append(f"n_heads {old.n_heads} became {new.n_heads}")
        return lost
    group, new_group = old.n_heads // old.n_kv_heads, new.n_heads // new.n_kv_heads
    # Every KV head needs whole groups of its own, with room for all of its queries.
    if new.n_kv_heads < old.n_kv_heads * -(-group // new_group):
        lost.append(f"{old.n_heads} heads on {old.n_kv_heads} KV heads became {new.n_heads} heads on {new.n_kv_heads}")
    return lost


def _width_fits(old: int, new: int, rope: bool, latent: bool) -> bool:
    """Whether a head of width ``new`` holds one of width ``old``: rope has the old frequencies BASE^(-2i/old) among
    the new ones only where the rotated width is a multiple of the old one."""
    if not rope:
        return new >= old
    return new >= old and rope_dim(new) % rope_dim(old) == 0 if latent else new % old == 0
