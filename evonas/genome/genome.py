"""The genome: an immutable, canonical set of genes, with a typed view of a transformer's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

ARCHITECTURE_GENES = (
    "n_layers", "d_model", "head_dim", "norm", "activation", "position", "tied_embeddings", "conv_width",
    "block_conv_width", "n_heads", "n_kv_heads", "window", "kv_rank", "ffn_ratio",
)  # fmt: skip
LAYER_GENES = ("n_heads", "n_kv_heads", "window", "kv_rank", "ffn_ratio")
TRAINING_GENES = (
    "learning_rate", "batch_size", "weight_decay", "warmup", "dropout", "schedule", "optimizer", "beta2", "grad_clip",
    "init",
)  # fmt: skip
# Genes that a genome leaves out where they have these values (a head width that follows from the others is None).
UNWRITTEN: dict[str, Any] = {"head_dim": None, "conv_width": 1, "block_conv_width": 1, "init": "normal"}

# Sequences per batch at which `learning_rate` is stated: nanoGPT's CPU batch.
REFERENCE_BATCH = 12


class Layer(NamedTuple):
    """The genes of one layer. ``window`` None is full attention; ``kv_rank`` None is ordinary keys and values."""

    n_heads: int
    n_kv_heads: int
    window: int | None
    kv_rank: int | None
    ffn_ratio: float


class Genome(Mapping):
    """Immutable mapping from gene name to a scalar, or to a tuple with one value per layer.

    The constructor brings the genes into canonical form, so that two genomes are equal, and have the same
    ``id``, exactly when no gene that has an effect differs:

    - per-layer genes are cut to ``n_layers`` values;
    - ``n_kv_heads`` of a layer with a ``kv_rank`` is its ``n_heads`` (a latent is expanded to every head,
      DeepSeek-V2, 2024, eq. 9-11);
    - ``head_dim`` equal to ``d_model / n_heads`` in every layer is dropped (None), and so are ``init`` "normal",
      ``conv_width`` 1 and ``block_conv_width`` 1;
    - whole floats are integers.

    ``id`` further counts a transformer's ``ffn_ratio`` as the hidden width it gives.

    Genes are also attributes: ``genome.d_model``. It holds no search-space knowledge; see ``SearchSpace.check``.
    """

    __slots__ = ("_architecture_id", "_genes", "_id")

    def __init__(self, genes: Mapping[str, Any]) -> None:
        self._begin({name: plain(genes[name]) for name in sorted(genes)})

    @classmethod
    def of_plain(cls, genes: dict[str, Any]) -> Genome:
        """The same from a new dict, sorted by name, of values that are ``plain`` already: for many at a time."""
        genome = cls.__new__(cls)
        genome._begin(genes)
        return genome

    def _begin(self, genes: dict[str, Any]) -> None:
        object.__setattr__(self, "_genes", _canonical(genes))
        object.__setattr__(self, "_id", None)
        object.__setattr__(self, "_architecture_id", None)

    def __getitem__(self, name: str) -> Any:
        return self._genes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._genes)

    def __len__(self) -> int:
        return len(self._genes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._genes[name]
        except KeyError:
            if name in UNWRITTEN:
                return UNWRITTEN[name]
            raise AttributeError(f"this genome has no gene {name!r}; it has {', '.join(self._genes)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a Genome is immutable; use genome.replace(...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Genome is immutable")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Genome) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Genome({self.id})"

    def __reduce__(self):
        return (Genome, (self._genes,))

    @property
    def id(self) -> str:
        """12 hex digits of the SHA-256 of the canonical JSON of all genes."""
        if self._id is None:
            object.__setattr__(self, "_id", _digest(self._genes))
        return self._id

    @property
    def architecture_id(self) -> str:
        """Like ``id`` over the genes that shape the network: genomes that share it share every measured cost."""
        if self._architecture_id is None:
            genes = {k: v for k, v in self._genes.items() if k not in TRAINING_GENES}
            object.__setattr__(self, "_architecture_id", _digest(genes))
        return self._architecture_id

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The per-layer genes of a transformer, layer by layer."""
        return tuple(Layer(*values) for values in zip(*(self._genes[name] for name in LAYER_GENES), strict=True))

    def head_dim_of(self, layer: Layer) -> int:
        """Width of one head of that layer: ``head_dim`` where the genome states it, else ``d_model // n_heads``."""
        return self.head_dim or self._genes["d_model"] // layer.n_heads

    def ffn_hidden_of(self, layer: Layer) -> int:
        """Hidden width of that layer's feed-forward: ``ffn_ratio * d_model``, to the nearest multiple of 8."""
        return ffn_hidden(self._genes["d_model"], layer.ffn_ratio)

    def learning_rate_at(self, batch_size: int) -> float:
        """``learning_rate`` is stated at REFERENCE_BATCH sequences and scales with the square root of the batch
        (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms")."""
        return self._genes["learning_rate"] * (batch_size / REFERENCE_BATCH) ** 0.5

    def replace(self, **changes: Any) -> Genome:
        """A new genome with these genes changed."""
        return Genome({**self._genes, **changes})


def ffn_hidden(d_model: int, ratio: float) -> int:
    return max(8, 8 * round(ratio * d_model / 8))


_OF_A_TRANSFORMER = frozenset(ARCHITECTURE_GENES) - UNWRITTEN.keys()
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(genes: Mapping) -> str:
    d_model, ratios = genes.get("d_model"), genes.get("ffn_ratio")
    ours = _OF_A_TRANSFORMER <= genes.keys()  # not of a space of one's own
    if ours and isinstance(d_model, int) and isinstance(ratios, tuple) and all(type(r) in (int, float) for r in ratios):
        genes = {**genes, "ffn_ratio": [ffn_hidden(d_model, ratio) for ratio in ratios]}
    return hashlib.sha256(_JSON.encode(genes).encode()).hexdigest()[:12]


def plain(value: Any) -> Any:
    """Python scalars only: numpy scalars unwrapped, lists as tuples, whole floats as int."""
    if isinstance(value, (list, tuple)):
        return tuple(plain(v) for v in value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _canonical(out: dict[str, Any]) -> dict[str, Any]:
    depth = out.get("n_layers")
    if isinstance(depth, int):
        for name, value in out.items():
            if isinstance(value, tuple):
                out[name] = value[:depth]
    if all(isinstance(out.get(name), tuple) for name in ("kv_rank", "n_kv_heads", "n_heads")):
        rows = zip(out["kv_rank"], out["n_kv_heads"], out["n_heads"])
        out["n_kv_heads"] = tuple(kv if rank is None else heads for rank, kv, heads in rows)
    if "head_dim" in out:
        derived = isinstance(out.get("n_heads"), tuple) and all(
            isinstance(h, int) and h * (out["head_dim"] or 0) == out.get("d_model") for h in out["n_heads"]
        )
        if derived:
            del out["head_dim"]
    for name, unwritten in UNWRITTEN.items():
        if name in out and out[name] == unwritten:
            del out[name]
    return out
