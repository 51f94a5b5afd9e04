"""What a transformer genome must hold to be built and trained, whatever the search space says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import EvonasError, did_you_mean
from .gene import listed, shown
from .genome import ARCHITECTURE_GENES, LAYER_GENES, TRAINING_GENES, UNWRITTEN, Genome

NORMS = ("layernorm", "rmsnorm")
ACTIVATIONS = ("gelu", "swiglu", "relu2")
POSITIONS = ("learned", "rope")
SCHEDULES = ("cosine", "cosine_restarts", "linear", "constant")
OPTIMIZERS = ("adamw", "muon")
INITS = ("normal", "fan_in")

# Numeric genes: (type, lowest, highest). The bounds only keep a hostile file from asking for the whole
# machine; a search space is far narrower.
LIMITS: dict[str, tuple[type, float, float]] = {
    "n_layers": (int, 1, 1024),
    "d_model": (int, 8, 65536),
    "head_dim": (int, 1, 4096),
    "n_heads": (int, 1, 1024),
    "n_kv_heads": (int, 1, 1024),
    "window": (int, 1, 2**24),
    "kv_rank": (int, 1, 65536),
    "ffn_ratio": (float, 0.0625, 64.0),
    "conv_width": (int, 1, 64),
    "block_conv_width": (int, 1, 64),
    "learning_rate": (float, 1e-8, 10.0),
    "batch_size": (int, 1, 65536),
    "weight_decay": (float, 0.0, 10.0),
    "warmup": (float, 0.0, 1.0),
    "dropout": (float, 0.0, 0.95),
    "beta2": (float, 0.0, 0.999999),
    "grad_clip": (float, 1e-6, 1e6),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "norm": NORMS,
    "activation": ACTIVATIONS,
    "position": POSITIONS,
    "schedule": SCHEDULES,
    "optimizer": OPTIMIZERS,
    "init": INITS,
}
OPTIONAL = ("window", "kv_rank", "head_dim")  # None has a meaning

# Hyperparameters a genome gets when its source names none: nanoGPT's, as far as they transfer.
TRAINING_DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 12,
    "weight_decay": 0.1,
    "warmup": 0.05,
    "dropout": 0.0,
    "schedule": "cosine",
    "optimizer": "adamw",
    "beta2": 0.99,
    "grad_clip": 1.0,
}


def transformer_genome(genes: Mapping[str, Any]) -> Genome:
    """A checked transformer genome from loose genes: a per-layer gene may be one value for all layers, missing
    training genes take ``TRAINING_DEFAULTS``. Raises EvonasError naming every gene that is wrong."""
    genes = dict(genes)
    if "n_heads" in genes:
        genes.setdefault("n_kv_heads", genes["n_heads"])
    for name in ("window", "kv_rank"):
        genes.setdefault(name, None)
    genes = {**TRAINING_DEFAULTS, **genes}
    problems = _scalar_problems(genes)
    if not problems:
        depth = int(genes["n_layers"])
        for name in LAYER_GENES:
            if not isinstance(genes[name], (list, tuple)):
                genes[name] = (genes[name],) * depth
        problems = _shape_problems(genes)
    if problems:
        raise EvonasError(
            "not a transformer genome: " + listed(problems), "'evonas genome show nanogpt-cpu' prints a valid one."
        )
    return Genome(genes)


def check_transformer(genome: Genome) -> list[str]:
    """Every reason why ``genome`` can't be built, in words; empty when it can."""
    return _scalar_problems(genome) or _shape_problems(genome)


def _scalar_problems(genes: Mapping[str, Any]) -> list[str]:
    known = ARCHITECTURE_GENES + TRAINING_GENES
    problems = [f"unknown gene {shown(name)} ({did_you_mean(name, known)})" for name in genes if name not in known]
    problems += [f"gene {name!r} is missing" for name in known if name not in genes and name not in UNWRITTEN]
    for name in known:
        if name not in genes:
            continue
        value = genes[name]
        if isinstance(value, (list, tuple)):
            if name not in LAYER_GENES:
                problems.append(f"{name} takes one value, not a list")
                continue
            if len(value) > LIMITS["n_layers"][2]:
                problems.append(f"{name} lists {len(value)} layers; at most {LIMITS['n_layers'][2]:.0f} are allowed")
                continue
            values = value
        else:
            values = (value,)
        problems += [p for v in dict.fromkeys(map(_hashable, values)) if (p := _value_problem(name, v))]
    return problems


def value_problem(name: str, value: Any) -> str | None:
    """Why a transformer's gene ``name`` can't take ``value``, in words; None when it can."""
    return _value_problem(name, (type(value), value))


def _hashable(value: Any) -> Any:
    # True == 1 == 1.0 would merge in a dict: keep the type beside the value.
    return (type(value), value if value is None or isinstance(value, (str, bool, int, float)) else shown(value))


def _value_problem(name: str, typed: tuple[type, Any]) -> str | None:
    kind, value = typed
    if name in CHOICES:
        return None if value in CHOICES[name] else f"{name} is {shown(value)}; allowed: {', '.join(CHOICES[name])}"
    if name == "tied_embeddings":
        return None if kind is bool else f"tied_embeddings is {shown(value)}; allowed: true, false"
    if value is None and name in OPTIONAL:
        return None
    want, low, high = LIMITS[name]
    whole = kind is int or (kind is float and value == value and abs(value) < 2**53 and value.is_integer())
    if kind not in (int, float) or (want is int and not whole):
        return f"{name} is {shown(value)}; it takes {'a whole number' if want is int else 'a number'}"
    return None if low <= value <= high else f"{name} is {shown(value)}; allowed: {low:g} to {high:g}"


def _shape_problems(genes: Mapping[str, Any]) -> list[str]:
    depth, d_model, head_dim = genes["n_layers"], genes["d_model"], genes.get("head_dim")
    problems = []
    for name in LAYER_GENES:
        if not isinstance(genes[name], (list, tuple)):
            problems.append(f"{name} is {shown(genes[name])}; a genome holds one value per layer")
        elif len(genes[name]) != depth:
            problems.append(f"{name} lists {len(genes[name])} layers, n_layers is {depth}")
    if problems:
        return problems
    for i, (heads, kv_heads, rank) in enumerate(zip(*(genes[n] for n in ("n_heads", "n_kv_heads", "kv_rank")))):
        if head_dim is None and d_model % heads:
            problems.append(f"layer {i}: d_model {d_model} is not a multiple of n_heads {heads}")
        elif genes["position"] == "rope" and (head_dim or d_model // heads) % 2:
            problems.append(f"layer {i}: rope needs an even head width, got {head_dim or d_model // heads}")
        if rank is None and heads % kv_heads:  # a latent is expanded to every head
            problems.append(f"layer {i}: n_heads {heads} is not a multiple of n_kv_heads {kv_heads}")
    return problems


def bounded_windows(genome: Genome, context: int) -> Genome:
    """``genome`` with windows of ``context`` tokens or more written as full attention, which they are."""
    return genome.replace(window=tuple(None if w is None or w >= context else w for w in genome["window"]))
