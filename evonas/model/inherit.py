"""A child network that starts from its parent's weights.

N vocabulary, T positions; other axes as in ``parts``
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..errors import EvonasError
from ..genome import Genome
from ..genome.graph import rope_dim
from .axes import Axis, axis, heads, leading, rotary, strongest, take
from .matching import losses, match_layers
from .parts import AXES, Parts, as_latent, as_plain, block_parts
from .transformer import Transformer


@dataclass(frozen=True)
class Inheritance:
    """What a child took from its parent.

    ``share`` of the child's parameters hold values of the parent's, the rest are fresh, or zero where a fresh value
    would change the function. ``lost`` says in words what the child can't keep of its parent's function.
    """

    share: float
    lost: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the child computes what its parent does, up to rounding and without dropout, for every sequence that
        both take (learned positions end at the context)."""
        return not self.lost


@torch.no_grad()
def inherit(child: Transformer, genome: Genome, weights: Mapping[str, torch.Tensor]) -> Inheritance:
    """Fill ``child``, freshly built, with the ``weights`` (a state dict) of its parent network of ``genome``.

    What fits is copied, in ``child``'s dtype and on its device; the parent stays as it is. Which layer continues which
    is for ``match_layers`` to say.

    Growth preserves the function (Net2Net, Chen et al. 2016; network morphisms, Wei et al. 2016), and all that is new
    gets a gradient at the first step, or at the second where it waits for a zero matrix to move:

    - hidden units, heads, value widths: fresh, their columns of the matrix that writes to the residual stream zero;
    - key widths: rows of the queries zero, of the keys fresh, queries scaled for the new 1/sqrt(E). With rope only to
      multiples of the old width, else every pair goes to the nearest frequency;
    - KV heads: copies, each for its part of the queries; more heads per KV head: see above;
    - layers: the weights of the layer before, with zero output matrices (LLaMA Pro, Wu et al. 2024). Small values
      instead of zero would let the layer learn one step earlier and change the function;
    - ``d_model`` from D to D': new channels hold 0 (rmsnorm) or the mean of the old ones (layernorm, which then neither
      moves the mean nor sees them); the stream is scaled by sqrt(D'/D), which keeps the denominator, epsilon included,
      and the norm weights by the inverse. What reads them is fresh;
    - ``kv_rank``: as ``d_model`` with rmsnorm;
    - a head of its own starts as the tied embedding; rmsnorm after layernorm takes matrices whose outputs have mean
      zero (SliceGPT, Ashkboos et al. 2024, sec. 3.1), exact without tied embeddings.

    Shrinking keeps the strongest hidden units, heads and channels by the norm of their weights, the same ones in
    every matrix; fewer KV heads are means of those they replace. What changes the function by nature keeps its
    matrices: windows, positions, activations, attention with and without a latent (``as_latent``, ``as_plain``), and
    embeddings that become tied, as the sum of both.

    Raises EvonasError naming the tensor when ``weights`` are not those of ``genome`` over the vocabulary of ``child``
    or not finite.
    """
    weights = _checked(child, genome, weights)
    own = {name: p.detach() for name, p in child.named_parameters()}
    sources = match_layers(genome, child.genome, child.context)
    blocks = [block_parts(weights, genome, i) for i in range(genome.n_layers)]
    head = weights.get("head.weight", weights["token_embedding.weight"]).clone()
    if child.head is None and not genome.tied_embeddings:
        # The two are nearly orthogonal: each does its work beside the other.
        embedding = weights["token_embedding.weight"]
        embedding += head * (embedding.norm() / head.norm().clamp(min=1e-6))
    if (genome.norm, child.genome.norm) == ("layernorm", "rmsnorm"):
        _centre(weights, blocks)
    stream = _stream(weights, blocks, child.genome.d_model)
    scale = math.sqrt(max(1.0, child.genome.d_model / genome.d_model))
    taken = _fill_embeddings(own, weights, stream, scale, child.genome)
    if child.head is not None:
        taken += take(own["head.weight"], head, (leading(len(head), len(head)), stream))
    for j, source in enumerate(sources):
        parent = _rewritten(blocks[source.index], genome, source.index, child.genome, j, scale)
        taken += _fill_block(block_parts(own, child.genome, j), parent, stream, child.genome, source.new)
    lost = losses(genome, child.genome, sources, child.context)
    return Inheritance(taken / sum(p.numel() for p in own.values()), tuple(lost))


def _checked(child: Transformer, genome: Genome, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous copies in the dtype and on the device of ``child``; raises EvonasError."""
    positions = weights.get("position_embedding.weight")
    context = len(positions) if isinstance(positions, torch.Tensor) and positions.dim() == 2 else child.context
    with torch.device("meta"):
        expected = Transformer(genome, child.vocab_size, max(1, context)).state_dict()
    where = f"genome {genome.id} over {child.vocab_size} tokens"
    hint = "Give the state dict of a network that was built from this genome, for the same task."
    like = child.token_embedding.weight
    checked = {}
    for name, tensor in expected.items():
        given = weights.get(name)
        if not isinstance(given, torch.Tensor):
            raise EvonasError(f"the weights of {where} need a tensor {name}; there is none", hint)
        if given.shape != tensor.shape:
            shapes = f"{tuple(given.shape)}, expected {tuple(tensor.shape)}"
            raise EvonasError(f"{name} has shape {shapes} for {where}", hint)
        if not given.isfinite().all():
            raise EvonasError(f"{name} holds values that are not finite", "A network that diverged has no children.")
        checked[name] = given.detach().to(like.device, like.dtype, copy=True).contiguous()
    extra = sorted(weights.keys() - expected.keys())
    if extra:
        raise EvonasError(f"{where} has no tensor {extra[0]}", hint)
    return checked


def _centre(weights: dict[str, torch.Tensor], blocks: list[Parts]) -> None:
    """Take the mean over the channels out of everything that is written to the residual stream, in place."""
    for name in ("token_embedding.weight", "position_embedding.weight"):
        if name in weights:
            weights[name] -= weights[name].mean(1, keepdim=True)
    for part in (block[name] for block in blocks for name in ("out", "down")):
        part -= part.mean(0, keepdim=True)


def _stream(weights: dict[str, torch.Tensor], blocks: list[Parts], d_model: int) -> Axis:
    """The channels of the residual stream: all, or those that most is written to."""
    embedding = weights["token_embedding.weight"]
    if d_model >= embedding.shape[1]:
        return leading(embedding.shape[1], d_model)
    score = embedding.square().mean(0)
    if "short_convolution.weight" in weights:
        score = score * weights["short_convolution.weight"].square().sum(0)
    if "position_embedding.weight" in weights:
        score = score + weights["position_embedding.weight"].square().mean(0)
    for block in blocks:
        score = score + block["out"].square().sum((1, 2)) + block["down"].square().sum(1)
    return strongest(score, d_model)


def _fill_embeddings(
    own: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], stream: Axis, scale: float, genome: Genome
) -> int:
    """Token and position embeddings and the last norm; returns how many values were taken."""
    taken = 0
    for name in ("token_embedding.weight", "position_embedding.weight"):
        if name in own and name in weights:
            rows = leading(len(weights[name]), len(own[name]))
            taken += take(own[name], weights[name] * scale, (rows, stream))
            known = own[name][: len(rows.to)]
            known[:, stream.new] = _new_channels(known.T, stream, genome).T
    name = "short_convolution.weight"
    if name in own and name in weights:
        taken += take(own[name], weights[name], (leading(len(weights[name]), len(own[name])), stream))
    # Tied embeddings read with the scale they write with.
    norm = weights["norm.weight"] / (scale**2 if genome.tied_embeddings else scale)
    return taken + take(own["norm.weight"], norm, (stream,))


def _new_channels(written: torch.Tensor, stream: Axis, genome: Genome) -> torch.Tensor:
    """What new channels get of a matrix (D, ...) that writes to the residual stream."""
    if genome.norm == "rmsnorm":
        return torch.zeros_like(written[stream.new])
    return written[stream.to].mean(0, keepdim=True).expand_as(written[stream.new])


def _score_width(genome: Genome, index: int) -> int:
    """Values in the dot product of a query and a key of that layer, by whose root its scores are divided."""
    layer = genome.layers[index]
    width = genome.head_dim_of(layer)
    if layer.kv_rank is not None and genome.position == "rope":
        width += rope_dim(width)
    return width


def _rewritten(parts: Parts, genome: Genome, index: int, child: Genome, child_index: int, scale: float) -> Parts:
    """The parts of layer ``index`` of the parent, with the child's kind of attention and feed-forward and with its
    scales of the residual stream (by ``scale``) and of the attention scores. Widths stay."""
    parts, rope = dict(parts), genome.position == child.position == "rope"
    latent = child.layers[child_index].kv_rank
    if latent is None and "latent" in parts:
        parts = as_plain(parts, rope)
    elif latent is not None and "latent" not in parts:
        parts = as_latent(parts, latent, rope)
    parts["up"] = _with_gates(parts["up"], 2 if child.activation == "swiglu" else 1)
    score_scale = math.sqrt(_score_width(child, child_index) / _score_width(genome, index))
    factors = {"q": score_scale, "q_rope": score_scale, "out": scale, "down": scale}
    factors.update({"attention_norm": 1 / scale, "ffn_norm": 1 / scale})
    return {name: part * factors.get(name, 1.0) for name, part in parts.items()}


def _fill_block(own: Parts, parent: Parts, stream: Axis, genome: Genome, new: bool) -> int:
    """One block of a child, views in ``own``, from parts of the same kind; returns how many values were taken."""
    axes = {"D": stream, "G": leading(len(own["up"]), len(own["up"]))}
    axes["F"] = strongest(parent["up"].norm(dim=(0, 2)) * parent["down"].norm(dim=0), own["down"].shape[1])
    axes["V"] = strongest(parent["out"].norm(dim=(0, 1)), own["out"].shape[2])
    width, new_width = parent["q"].shape[1], own["q"].shape[1]
    if "latent" in own:
        parent = _fill_latent(own, parent, axes)
        axes["E"] = leading(width, new_width)
    else:
        strength = parent["out"].norm(dim=(0, 2))
        axes["H"], pool = heads(strength, len(parent["k"]), len(own["q"]), len(own["k"]))
        pool = pool.to(parent["k"])
        parent = {**parent, **{name: torch.einsum("ck,k...->c...", pool, parent[name]) for name in "kv"}}
        some = pool.sum(1).nonzero()[:, 0].cpu()
        axes["K"] = axis(len(pool), some, some)
        axes["E"] = (rotary if genome.position == "rope" else leading)(width, new_width)
    own["q"][axes["H"].to[:, None], axes["E"].new] = 0
    if "ffn_convolution" in own.keys() & parent.keys():
        axes["C"] = leading(len(parent["ffn_convolution"]), len(own["ffn_convolution"]))
    taken = 0
    for name, part in own.items():
        if name not in parent:  # a convolution, the identity as it is drawn
            continue
        writes = name in ("out", "down")
        if writes:
            part.zero_()
        if not (writes and new):
            taken += take(part, parent[name], [axes[letter] for letter in AXES[name]])
        if writes:
            part[stream.new] = _new_channels(part, stream, genome)
    return taken


def _fill_latent(own: Parts, parent: Parts, axes: dict[str, Axis]) -> Parts:
    """Adds the axes of latent attention and zeroes what its growth needs zero; returns the parent's parts, rescaled."""
    rank, new_rank = len(parent["latent"]), len(own["latent"])
    axes["H"] = strongest(parent["out"].norm(dim=(0, 2)), len(own["q"]))
    axes["P"] = rotary(len(parent["k_rope"]), len(own["k_rope"]))
    strength = parent["latent_k"].square().sum((0, 1)) + parent["latent_v"].square().sum((0, 1))
    axes["R"] = strongest(strength.sqrt() * parent["latent_norm"].abs(), new_rank)
    own["q_rope"][axes["H"].to[:, None], axes["P"].new] = 0
    own["latent"][axes["R"].new] = 0
    scale = math.sqrt(max(1.0, new_rank / rank))
    return {**parent, "latent": parent["latent"] * scale, "latent_norm": parent["latent_norm"] / scale}


def _with_gates(up: torch.Tensor, gates: int) -> torch.Tensor:
    """``up`` (G, F, D) with ``gates`` matrices. swiglu from one starts with it as gate and as value: u^2 sigmoid(u), a
    smooth relu2; back, with its gate."""
    return up[:1] if gates < len(up) else up.expand(gates, *up.shape[1:])
