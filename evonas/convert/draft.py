"""A genome in the making: typed, bounded reads of a foreign config, and the notes on what it can't say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import EvonasError, did_you_mean
from ..genome.genome import ffn_hidden

LARGEST = 2**24  # of a width, a count or a context: keeps arithmetic on hostile files small
CONTEXTS = (1, 2**24)


class Draft:
    """Collects genes and notes while the entries of a family's map read the config.

    ``values`` are the config's over the family's defaults. Every typed read raises EvonasError that names the
    key, its value and what is allowed; ``read`` remembers the keys asked for.
    """

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.values: dict[str, Any] = {**defaults, **config}
        self.genes: dict[str, Any] = {}
        self.notes: list[str] = []
        self.context: int | None = None
        self.vocabulary: int | None = None
        self.rope_context: int | None = None  # of pretraining, before positions were rescaled
        self.read: set[str] = set()

    def value(self, key: str) -> Any:
        self.read.add(key)
        return self.values.get(key)

    def whole(self, key: str, low: int = 1, high: int = LARGEST, *, optional: bool = False) -> int | None:
        """A whole number in low..high; None only where ``optional``."""
        value = self.value(key)
        if value is None and optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            allowed = f"a whole number from {low} to {high}" + (", or null" if optional else "")
            raise wrong(key, value, allowed)
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise wrong(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.value(key)
        if not isinstance(value, bool):
            raise wrong(key, value, "true or false")
        return value

    def text(self, key: str, allowed: Iterable[str]) -> str:
        value = self.value(key)
        if not isinstance(value, str) or value not in allowed:
            raise wrong(key, value, "one of " + ", ".join(sorted(allowed)), value, allowed)
        return value

    def mapping(self, key: str) -> Mapping[str, Any] | None:
        value = self.value(key)
        if value is not None and not isinstance(value, Mapping):
            raise wrong(key, value, "an object, or null")
        return value

    def texts(self, key: str, allowed: Iterable[str], length: int) -> list[str] | None:
        """A list of ``length`` texts out of ``allowed``, or None."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) != length:
            raise wrong(key, value, f"a list of {length} texts, one per layer")
        for item in value:
            if not isinstance(item, str) or item not in allowed:
                raise wrong(key, item, "a list of " + " and ".join(f"{a!r}" for a in allowed), item, allowed)
        return list(value)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def set_ffn(self, widths: list[int], key: str) -> None:
        """``ffn_ratio`` from the hidden width of every layer's feed-forward."""
        d_model = self.genes["d_model"]
        self.genes["ffn_ratio"] = [width / d_model for width in widths]
        for width in dict.fromkeys(widths):
            built = ffn_hidden(d_model, width / d_model)
            if built != width:
                self.note(f"{key}: a feed-forward {width} wide becomes {built}, the nearest multiple of 8")


def wrong(key: str, value: Any, allowed: str, name: Any = None, names: Iterable[str] | None = None) -> EvonasError:
    """The error for a value that a config can't have; with ``names``, the hint gives the nearest one."""
    hint = did_you_mean(name[:64], names) if isinstance(name, str) and names is not None else ""
    return EvonasError(f"{key} is {shown(value)}; it takes {allowed}", hint)


def shown(value: Any, depth: int = 2) -> str:
    """A value as short JSON, safe for any size and nesting: at most 8 items a level, ``depth`` levels, 80 letters."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else f"a number of {value.bit_length()} bits"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 80 else value[:77] + "...")
    if isinstance(value, (list, tuple)):
        return _sequence("[", (shown(v, depth - 1) for v in value[:8]), "]", len(value), depth)
    if isinstance(value, Mapping):
        some = [k for _, k in zip(range(8), value)]
        items = (f"{shown(k, 0)}: {shown(value[k], depth - 1)}" for k in some)
        return _sequence("{", items, "}", len(value), depth)
    return f"a {type(value).__name__}"


def _sequence(opening: str, items: Iterable[str], closing: str, length: int, depth: int) -> str:
    if depth <= 0 and length:
        return f"{opening}{length} items{closing}"
    more = f", ... {length} in all" if length > 8 else ""
    return opening + ", ".join(items) + more + closing
