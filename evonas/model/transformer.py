"""A decoder language model for any valid transformer genome.

B batch, T sequence, D d_model, V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import EvonasError
from ..genome import Genome, Layer
from ..genome.graph import check_buildable, rope_dim
from .attention import Attention
from .cache import Cache, LayerCache, Past
from .dot_product import CausalDotProduct
from .dropout import dropout
from .feed_forward import FEED_FORWARDS
from .latent_attention import LatentAttention
from .narrow import narrowed
from .norm import NORMS
from .rotary import Rotary
from .short_convolution import ShortConvolution, Tail
from .undrawn import Embedding, Linear

INIT_STD = 0.02
# Tokens a block works on together where no gradient is wanted: more only take memory. Twice as many are one chunk.
CHUNK = 256


class Block(nn.Module):
    """Pre-norm residual block: attention, then feed-forward; x_BTD -> x_BTD. Between a norm and what it feeds may be a
    short convolution."""

    def __init__(self, genome: Genome, layer: Layer, attention: nn.Module) -> None:
        super().__init__()
        norm = NORMS[genome.norm]
        self.dropout = float(genome.dropout)
        width = genome.block_conv_width
        self.attention_norm = norm(genome.d_model)
        self.attention_convolution = ShortConvolution(genome.d_model, width) if width > 1 else None
        self.attention = attention
        self.ffn_norm = norm(genome.d_model)
        self.ffn_convolution = ShortConvolution(genome.d_model, width) if width > 1 else None
        self.ffn = FEED_FORWARDS[genome.activation](genome.d_model, genome.ffn_hidden_of(layer))

    def forward(self, x: torch.Tensor, cache: LayerCache | None = None) -> torch.Tensor:
        tails = None if cache is None else _forgotten(cache.tails)
        if self.training and self.dropout:
            x = x + dropout(self.attention(self._to_attention(x, tails), cache), self.dropout)
            return x + dropout(self.ffn(self._to_ffn(x, tails)), self.dropout)
        x = x + self.attention(self._to_attention(x, tails), cache)
        return x + self.ffn(self._to_ffn(x, tails))

    def forward_(self, x: torch.Tensor, cache: LayerCache | None = None) -> None:
        """``forward`` in place and in chunks, without dropout: beside ``x`` itself a windowed block takes memory for
        O(CHUNK + W) tokens; one of full attention takes it for T, but for its feed-forward."""
        lengths = self.attention.core.chunks(x.shape[1], CHUNK)
        past = Past() if len(lengths) > 1 else None
        tails = self._new_tails(x.shape[0]) if cache is None else _forgotten(cache.tails)
        for part in x.split(lengths, 1):
            part += self.attention(self._to_attention(part, tails), cache, past)
            for piece in part.split(CHUNK, 1):
                piece += self.ffn(self._to_ffn(piece, tails))

    def decode(self, x: torch.Tensor, cache: LayerCache, position: int) -> torch.Tensor:
        x = x + self.attention.decode(self._to_attention(x, cache.tails, position), cache, position)
        return x + self.ffn(self._to_ffn(x, cache.tails, position))

    def new_cache(self, batch_size: int, slots: int) -> LayerCache:
        cache = self.attention.new_cache(batch_size, slots)
        cache.tails = self._new_tails(batch_size)
        return cache

    def _to_attention(self, x: torch.Tensor, tails: tuple[Tail, ...] | None, position: int | None = None):
        x = self.attention_norm(x)
        return x if self.attention_convolution is None else self.attention_convolution(x, tails and tails[0], position)

    def _to_ffn(self, x: torch.Tensor, tails: tuple[Tail, ...] | None, position: int | None = None):
        x = self.ffn_norm(x)
        return x if self.ffn_convolution is None else self.ffn_convolution(x, tails and tails[1], position)

    def _new_tails(self, batch_size: int) -> tuple[Tail, ...]:
        convolutions = self.attention_convolution, self.ffn_convolution
        return tuple(c.new_tail(batch_size) for c in convolutions if c is not None)


def _forgotten(tails: tuple[Tail, ...]) -> tuple[Tail, ...]:
    """For a sequence that begins."""
    for tail in tails:
        tail.forget()
    return tails


class Transformer(nn.Module):
    """Decoder language model over ``vocab_size`` tokens, its weights not yet drawn: ``init_weights`` does.

    Dropout (the genome's rate) acts on the embeddings and on the outputs of attention and feed-forward, not on the
    attention probabilities; it draws from torch's own generator, which alone torch's dropout can use. With tied
    embeddings there is no ``head`` module: the logits come from ``token_embedding.weight``.
    """

    def __init__(self, genome: Genome, vocab_size: int, context: int) -> None:
        super().__init__()
        self.genome, self.vocab_size, self.context = genome, vocab_size, context
        self.dropout = float(genome.dropout)
        self.token_embedding = Embedding(vocab_size, genome.d_model)
        width = genome.conv_width
        self.short_convolution = ShortConvolution(genome.d_model, width) if width > 1 else None
        learned = genome.position == "learned"
        self.position_embedding = Embedding(context, genome.d_model) if learned else None
        self.blocks = nn.ModuleList(_blocks(genome, context))
        self.norm = NORMS[genome.norm](genome.d_model)
        tied = genome.tied_embeddings
        self.head = None if tied else Linear(genome.d_model, vocab_size)

    def init_weights(self, generator: torch.Generator | None = None, init: str = "normal") -> None:
        """Draw the weights; gains of norms are 1, a short convolution passes everything as it is.

        "normal" is GPT-2's: N(0, 0.02), and 0.02 / sqrt(2 n_layers) for what writes to the residual stream. "fan_in":
        N(0, 1 / sqrt(inputs)) (LeCun et al. 1998), 0 for what writes to the residual stream, so that every block
        begins as the identity (Zhang et al. 2019, "Fixup"). A one-hot token is one input of an embedding; a tied one
        is drawn as the head it also is.
        """
        residual_std = INIT_STD / (2 * len(self.blocks)) ** 0.5
        for convolution in self.convolutions():
            convolution.init_weights()
        taps = {convolution.weight for convolution in self.convolutions()}
        for name, parameter in self.named_parameters():
            if parameter in taps:
                continue
            if parameter.dim() < 2:
                nn.init.ones_(parameter)
                continue
            residual = name.endswith(("attention.out.weight", "ffn.down.weight"))
            if init == "fan_in":
                one_hot = "embedding" in name and self.head is not None
                std = 0.0 if residual else 1.0 if one_hot else parameter.shape[1] ** -0.5
            else:
                std = residual_std if residual else INIT_STD
            nn.init.normal_(parameter, 0.0, std, generator=generator)

    def convolutions(self) -> list[ShortConvolution]:
        """All of them, over the embeddings and in the blocks."""
        return [module for module in self.modules() if isinstance(module, ShortConvolution)]

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, V) of the token after each of ``tokens_BT``.

        Raises EvonasError where tokens are not (B, T), or T exceeds ``context`` and positions are learned (rope
        extrapolates).
        """
        return self._logits(self._through_blocks(self._embed(tokens_BT), [None] * len(self.blocks)))

    def new_cache(self, batch_size: int = 1) -> Cache:
        """An empty KV cache in the model's dtype and on its device: ``min(window, context)`` slots a layer."""
        layers = self.genome.layers
        slots = [min(layer.window or self.context, self.context) for layer in layers]
        caches = [block.new_cache(batch_size, n) for block, n in zip(self.blocks, slots)]
        # With rope and every window inside its ring, nothing ever needs a token the ring has dropped.
        endless = self.position_embedding is None and all(layer.window == n for layer, n in zip(layers, slots))
        return Cache(caches, batch_size, None if endless else self.context, self.genome.conv_width)

    @torch.no_grad()
    def prefill(self, tokens_BT: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Like ``forward`` over the first tokens of an empty ``cache``, which then holds them; logits (B, T, V)."""
        if cache.length:
            raise EvonasError(
                f"prefill needs an empty cache; this one holds {cache.length} tokens", "Call cache.reset() first."
            )
        self._check_room(tokens_BT, cache)
        x_BTD = self._through_blocks(self._embed(tokens_BT), cache.layers)
        cache.note(0, tokens_BT)
        cache.length = tokens_BT.shape[1]
        return self._logits(x_BTD)

    @torch.no_grad()
    def decode(self, tokens_B1: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Logits (B, V) after one more token, which ``cache`` then holds. Dropout is never applied.

        Raises EvonasError where tokens are not (B, 1) or the cache is full.
        """
        self._check_room(tokens_B1, cache)
        if tokens_B1.shape[1] != 1:
            raise EvonasError(f"decode takes tokens of shape (B, 1), got {tuple(tokens_B1.shape)}", "Use prefill.")
        position = cache.length
        if self.short_convolution is None:
            x_B1D = narrowed(self.token_embedding(tokens_B1))
        else:
            cache.note(position, tokens_B1)
            x_B1D = self.short_convolution(narrowed(self.token_embedding(cache.noted(position))))[:, -1:]
        if self.position_embedding is not None:
            x_B1D = x_B1D + narrowed(self.position_embedding.weight[position])
        for block, layer_cache in zip(self.blocks, cache.layers):
            x_B1D = block.decode(x_B1D, layer_cache, position)
        cache.length = position + 1
        return self._logits(x_B1D)[:, 0]

    def _embed(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        if tokens_BT.dim() != 2 or not tokens_BT.shape[1]:
            raise EvonasError(f"tokens have shape {tuple(tokens_BT.shape)}; expected (batch, sequence), sequence >= 1")
        x_BTD = narrowed(self.token_embedding(tokens_BT))
        if self.short_convolution is not None:
            x_BTD = self.short_convolution(x_BTD)
        if self.position_embedding is not None:
            length = tokens_BT.shape[1]
            if length > self.context:
                raise EvonasError(
                    f"{length} tokens exceed the context of {self.context} learned positions",
                    "Give fewer tokens, or build with a longer context or position 'rope'.",
                )
            x_BTD = x_BTD + narrowed(self.position_embedding.weight[:length])
        return dropout(x_BTD, self.dropout) if self.training and self.dropout else x_BTD

    def _through_blocks(self, x_BTD: torch.Tensor, caches: Sequence[LayerCache | None]) -> torch.Tensor:
        """x_BTD after all blocks, which may overwrite it."""
        in_chunks = x_BTD.shape[1] > 2 * CHUNK and not torch.is_grad_enabled() and not self.training
        for block, cache in zip(self.blocks, caches):
            if in_chunks:
                block.forward_(x_BTD, cache)
            else:
                x_BTD = block(x_BTD, cache)
        return x_BTD

    def _logits(self, x_BTD: torch.Tensor) -> torch.Tensor:
        x_BTD = self.norm(x_BTD)
        return F.linear(x_BTD, self.token_embedding.weight) if self.head is None else self.head(x_BTD)

    def _check_room(self, tokens_BT: torch.Tensor, cache: Cache) -> None:
        if tokens_BT.dim() != 2 or tokens_BT.shape[0] != cache.batch_size:
            raise EvonasError(
                f"tokens have shape {tuple(tokens_BT.shape)}; this cache holds a batch of {cache.batch_size}",
                "Make the cache with model.new_cache(batch_size).",
            )
        if cache.limit is not None and cache.length + tokens_BT.shape[1] > cache.limit:
            raise EvonasError(
                f"the cache holds {cache.length} of at most {cache.limit} tokens; {tokens_BT.shape[1]} more do not fit",
                "Build the model with a longer context.",
            )


def build(
    genome: Genome,
    vocab_size: int,
    context: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Transformer:
    """The network of ``genome`` with fresh weights, in training mode, in float32.

    ``context`` is the longest sequence it is meant for. ``generator`` draws the weights on ``device``; None is torch's
    default generator there. Raises EvonasError for a genome that can't be built.
    """
    check_buildable(genome, vocab_size, context)
    with torch.device(device):
        model = Transformer(genome, vocab_size, context)
    model.to(device)
    model.init_weights(generator, genome.init)
    return model


def _blocks(genome: Genome, context: int) -> list[Block]:
    """The blocks; layers of one window share its mask, layers of one rotary width share its tables."""
    cores: dict[int | None, CausalDotProduct] = {}
    rotaries: dict[int, Rotary] = {}
    blocks = []
    for layer in genome.layers:
        head_dim = genome.head_dim_of(layer)
        core = cores[layer.window] = cores.get(layer.window) or CausalDotProduct(layer.window, context)
        rotary = None
        if genome.position == "rope":
            width = head_dim if layer.kv_rank is None else rope_dim(head_dim)
            rotary = rotaries[width] = rotaries.get(width) or Rotary(width, context)
        if layer.kv_rank is None:
            attention = Attention(genome.d_model, layer.n_heads, layer.n_kv_heads, head_dim, core, rotary)
        else:
            attention = LatentAttention(genome.d_model, layer.n_heads, head_dim, layer.kv_rank, core, rotary)
        blocks.append(Block(genome, layer, attention))
    return blocks
