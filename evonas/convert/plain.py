"""A genome with every size spelled out: all an exported network needs to know. Its source goes into each export."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """``window`` None is full attention, ``kv_rank`` None ordinary keys and values."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    window: int | None
    kv_rank: int | None
    ffn_hidden: int


@dataclass(frozen=True)
class Genome:
    """What shapes the network. ``id`` is that of the evonas genome it was made from."""

    id: str
    d_model: int
    norm: str
    activation: str
    position: str
    tied_embeddings: bool
    conv_width: int
    block_conv_width: int
    dropout: float
    layers: tuple[Layer, ...]

    def head_dim_of(self, layer: Layer) -> int:
        return layer.head_dim

    def ffn_hidden_of(self, layer: Layer) -> int:
        return layer.ffn_hidden
