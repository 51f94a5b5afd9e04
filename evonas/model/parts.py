"""The weights of a block under the names and axes by which they belong together.

D d_model, C block_conv_width, H heads, K KV heads, E key width of a head, V value width of a head, P rotary width,
R kv_rank, G gates, F hidden width
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..genome import Genome
from ..genome.graph import rope_dim
from .axes import rotary

# Part -> its axes. `out` and `down` write to the residual stream, what ends in D otherwise reads from it.
AXES = {
    "attention_norm": "D", "attention_convolution": "CD", "q": "HED", "k": "KED", "v": "KVD", "out": "DHV",
    "q_rope": "HPD", "k_rope": "PD", "latent": "RD", "latent_norm": "R", "latent_k": "HER", "latent_v": "HVR",
    "ffn_norm": "D", "ffn_convolution": "CD", "up": "GFD", "down": "DF",
}  # fmt: skip

Parts = dict[str, torch.Tensor]


def block_parts(weights: Mapping[str, torch.Tensor], genome: Genome, index: int) -> Parts:
    """Views of the tensors of block ``index``, each shaped as ``AXES`` says."""
    prefix = f"blocks.{index}."
    w = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    layer, d_model = genome.layers[index], genome.d_model
    heads, width = layer.n_heads, genome.head_dim_of(layer)
    hidden = genome.ffn_hidden_of(layer)
    parts = {
        "attention_norm": w["attention_norm.weight"],
        "out": w["attention.out.weight"].view(d_model, heads, width),
        "ffn_norm": w["ffn_norm.weight"],
        "up": w["ffn.up.weight"].view(-1, hidden, d_model),
        "down": w["ffn.down.weight"],
    }
    names = "attention_convolution", "ffn_convolution"
    parts |= {name: w[f"{name}.weight"] for name in names if f"{name}.weight" in w}
    if layer.kv_rank is None:
        counts = (heads, layer.n_kv_heads, layer.n_kv_heads)
        qkv = w["attention.qkv.weight"].view(-1, width, d_model).split(counts)
        return {**parts, **dict(zip("qkv", qkv))}
    rope = rope_dim(width) if genome.position == "rope" else 0
    q, q_rope, k_rope, latent = w["attention.down.weight"].split((heads * width, heads * rope, rope, layer.kv_rank))
    latent_k, latent_v = w["attention.up.weight"].view(2, heads, width, layer.kv_rank)
    return {
        **parts,
        "q": q.view(heads, width, d_model),
        "q_rope": q_rope.view(heads, rope, d_model),
        "k_rope": k_rope,
        "latent": latent,
        "latent_norm": w["attention.latent_norm.weight"],
        "latent_k": latent_k,
        "latent_v": latent_v,
    }


def as_latent(parts: Parts, rank: int, rope: bool) -> Parts:
    """Plain attention as latent attention of at most ``rank``: the truncated joint singular value decomposition of keys
    and values (MHA2MLA, Ji et al. 2025). With ``rope`` the frequencies of the rotary part move there from the
    queries, with the mean of the KV heads as the key that all share.

    An approximation even at full rank: latents are normalised. The up-projection is scaled for the latent of an
    average token.
    """
    q, keys, values = parts["q"], parts["k"], parts["v"]
    kv_heads, width, _ = keys.shape
    left, size, right = torch.linalg.svd(torch.cat((keys, values)).flatten(0, 1), full_matrices=False)
    latent = right[:rank]
    up = (left * size)[:, :rank] * _latent_size(parts, latent)
    latent_k, latent_v = up.view(2, kv_heads, width, -1).repeat_interleave(len(q) // kv_heads, 1)
    rotated = _rotated(width) if rope else []
    plain = q.clone()
    plain[:, rotated] = 0
    return {
        **{name: part for name, part in parts.items() if name not in ("k", "v")},
        "q": plain,
        "q_rope": q[:, rotated],
        "k_rope": keys.mean(0)[rotated],
        "latent": latent,
        "latent_norm": latent.new_ones(len(latent)),
        "latent_k": latent_k,
        "latent_v": latent_v,
    }


def as_plain(parts: Parts, rope: bool) -> Parts:
    """Latent attention as plain attention with a KV head per head: its down- and up-projection multiplied, for the
    latent of an average token. With ``rope`` the rotary part takes the place of what gets its frequencies."""
    latent = parts["latent_norm"][:, None] * parts["latent"] / _latent_size(parts, parts["latent"])
    q, keys, values = parts["q"].clone(), parts["latent_k"] @ latent, parts["latent_v"] @ latent
    if rope:
        rotated = _rotated(q.shape[1])
        q[:, rotated], keys[:, rotated] = parts["q_rope"], parts["k_rope"]
    rest = {name: part for name, part in parts.items() if "latent" not in name and "rope" not in name}
    return {**rest, "q": q, "k": keys, "v": values}


def _rotated(width: int) -> torch.Tensor:
    """The places of a rotated head that have the frequencies of the rotary part of latent attention, in its order."""
    part = rotary(width, rope_dim(width))
    return part.source[part.to.argsort()]


def _latent_size(parts: Parts, latent: torch.Tensor) -> torch.Tensor:
    """Root mean square of the latent of inputs of independent channels and tokens, normalised and convolved as
    attention reads them."""
    gains = parts["attention_norm"]
    if "attention_convolution" in parts:
        gains = gains * parts["attention_convolution"].square().sum(0).sqrt()
    return (latent * gains).square().sum(1).mean().sqrt().clamp(min=1e-6)
