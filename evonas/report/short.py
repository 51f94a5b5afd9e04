"""Short forms: a genome in a line, a number in a few characters, text that is safe to print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from ..genome import Genome, check_transformer

_LONG = re.compile(r"(?<![\w.])\d{4,18}(?![\w.])", re.ASCII)
_NORMS = {"layernorm": "ln", "rmsnorm": "rms"}
_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"))


def per_layer(values: Iterable[Any], none: str = "none") -> str:
    """One value per layer, short: ``4x4`` (four layers of 4), ``2-4-4``, ``32x3-full``; runs of three or more fold.

    ``none`` is what None is called.
    """
    runs = [(_scalar(value, none), len(list(group))) for value, group in groupby(values)]
    if len(runs) == 1:
        text, count = runs[0]
        return text if count == 1 else f"{text}x{count}"
    return "-".join(f"{text}x{count}" if count >= 3 else "-".join([text] * count) for text, count in runs)


def gene_text(name: str, value: Any) -> str:
    """The value of one gene: ``full`` for a window on everything, ``true``, ``0.00667``, ``2-4-4``."""
    none = "full" if name == "window" else "none"
    return _folded(value, none) if isinstance(value, tuple) else _scalar(value, none)


def is_transformer(genome: Genome) -> bool:
    """Whether the short forms of a transformer apply."""
    return not check_transformer(genome)


def architecture_cells(genome: Genome) -> dict[str, str]:
    """The architecture of a transformer genome by column: size, heads, window, kv rank, ffn, block."""
    heads = per_layer(f"{h}/{kv}" if kv != h else str(h) for h, kv in zip(genome.n_heads, genome.n_kv_heads))
    size = f"{genome.n_layers}x{genome.d_model}" + (f" h{genome.head_dim}" if genome.head_dim else "")
    rest = "" if genome.tied_embeddings else " untied"
    rest += f" conv{genome.conv_width}" if genome.conv_width > 1 else ""
    rest += f" bconv{genome.block_conv_width}" if genome.block_conv_width > 1 else ""
    return {
        "size": size,
        "heads": heads,
        "window": _folded(genome.window, "full"),
        "kv rank": _folded(genome.kv_rank, "·"),
        "ffn": per_layer(genome.ffn_ratio),
        "block": f"{_NORMS.get(genome.norm, genome.norm)} {genome.activation} {genome.position}{rest}",
    }


def architecture_line(genome: Genome) -> str:
    """``4 layers x 128, heads 4x4, ffn 4x4, ln gelu learned``; window and KV rank where a layer has one."""
    if not is_transformer(genome):
        return _genes(genome)
    cells = architecture_cells(genome)
    parts = [f"{genome.n_layers} layers x {genome.d_model}"]
    if genome.head_dim:
        parts.append(f"head width {genome.head_dim}")
    parts.append(f"heads {cells['heads']}")
    if cells["window"] != "full":
        parts.append(f"window {cells['window']}")
    if cells["kv rank"] != "·":
        parts.append(f"kv rank {cells['kv rank']}")
    return ", ".join([*parts, f"ffn {cells['ffn']}", cells["block"]])


def training_line(genome: Genome) -> str:
    """``lr 1e-3, batch 12, adamw, cosine, warmup 0.05, decay 0.1, dropout 0, beta2 0.99, clip 1``"""
    return ", ".join(training_parts(genome).values()) if is_transformer(genome) else ""


def training_parts(genome: Genome) -> dict[str, str]:
    """The training genes of a transformer genome, each in a word or two, by gene."""
    g = genome
    unusual = {} if g.init == "normal" else {"init": f"init {g.init}"}
    return {
        "learning_rate": f"lr {_rate(g.learning_rate)}",
        "batch_size": f"batch {g.batch_size}",
        "optimizer": g.optimizer,
        "schedule": g.schedule,
        "warmup": f"warmup {g.warmup:.3g}",
        "weight_decay": f"decay {g.weight_decay:.3g}",
        "dropout": f"dropout {g.dropout:.3g}",
        "beta2": f"beta2 {g.beta2:.5g}",
        "grad_clip": f"clip {g.grad_clip:.3g}",
        **unusual,
    }


def number(value: float, digits: int = 4) -> str:
    """``value`` with that many significant digits; from 10,000 on with k, M, G, T."""
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    for scale, suffix in _SUFFIXES:
        if abs(value) >= scale:
            return _digits(value / (1e3 if suffix == "k" else scale), max(digits - 1, 2)) + suffix
    return _digits(value, digits)


def _digits(value: float, digits: int) -> str:
    text = f"{value:.{digits}g}"
    return f"{float(text):g}" if "e+" in text else text  # 200, not 2e+02


def with_spread(measure: Mapping[str, Any], decimals: int = 0) -> str:
    """``1.883 ±0.012``, ``2.88 ±0.09``: the spread to one digit, two where the first is 1, and the value as far, or to
    as many ``decimals``: two losses may differ by far less than either is known to."""
    value, spread = measure["value"], measure["spread"]
    if not spread:
        return number(value)
    digits, _, exponent = f"{spread:e}".partition("e")
    known = max(0, -int(exponent) + (digits[0] == "1"))
    if abs(value) >= 1e4 or known > 5:
        return f"{number(value)} ±{number(spread, 2)}"
    return f"{value:.{max(known, decimals)}f} ±{spread:.{known}f}"


def percent(value: float, reference: float) -> str:
    """The change from ``reference`` to ``value``: ``-41%``, ``+2.1%``; empty where the reference is 0."""
    if not reference:
        return ""
    change = 100 * (value - reference) / abs(reference)
    return "=" if abs(change) < 0.05 else f"{change:+.1f}%" if abs(change) < 10 else f"{change:+.0f}%"


def axis_label(objective: Mapping[str, str]) -> str:
    """``latency [ms]``"""
    unit = clean(objective["unit"])
    return clean(objective["name"]) + (f" [{unit}]" if unit else "")


def thousands(text: str) -> str:
    """``16384 tokens`` -> ``16,384 tokens``"""
    return _LONG.sub(lambda found: f"{int(found.group()):,}", text)


def duration(seconds: float) -> str:
    """``42 s``, ``3.5 min``, ``2.1 h``"""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def clean(text: Any) -> str:
    """Text of a store without the control characters that could steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def writable(text: str) -> str:
    """Text that UTF-8 can hold: JSON may name half a character (a lone surrogate)."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _scalar(value: Any, none: str) -> str:
    if value is None:
        return none
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _rate(value: float) -> str:
    """``6.65e-4``, ``1e-3``, ``0.02``"""
    if value >= 0.01:
        return f"{value:.3g}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def _folded(values: Iterable[Any], none: str) -> str:
    values = tuple(values)
    return none if all(v is None for v in values) else per_layer(values, none)


def _genes(genome: Genome) -> str:
    return clean(", ".join(f"{k} {per_layer(v) if isinstance(v, tuple) else v}" for k, v in genome.items()))
