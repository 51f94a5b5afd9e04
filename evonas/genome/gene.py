"""One gene of a search space: the values it can take, and how to draw, step and place them on a unit scale."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import EvonasError
from .genome import plain

MAX_OPTIONS = 10_000
MAX_NUMBER = 1e300
_MOST_DIGITS = 15  # that a double holds in any case
SIGNIFICANT_DIGITS = 3  # of continuous values: enough to tune by, short enough to read


@dataclass(frozen=True)
class Gene:
    """A gene is either a tuple of ``choices`` or a range ``low..high``: numbers on a ``step``, or a continuous range.

    Numeric choices are ordered, None among them last ("full" and "none" of a window or rank are the largest);
    other choices are categorical. ``log`` spaces a range by ratio instead of difference; with two ints as its ends
    it holds whole numbers only. Raises EvonasError for choices or ends that make no gene.
    """

    name: str
    per_layer: bool = False
    choices: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if self.choices is not None:
            good = all(c is None or isinstance(c, (str, bool)) or is_number(c) for c in self.choices)
            if not self.choices or not good or len(set(self.choices)) != len(self.choices):
                raise EvonasError(f"gene {self.name!r} needs choices: numbers, texts, true, false or none, each once")
            if words := [c for c in self.choices if reads_as_none(self.name, c)]:
                raise EvonasError(f"gene {self.name!r}: the text {words[0]!r} is None in a file", "Take None itself.")
            if self.is_ordered:
                in_order = sorted(self.choices, key=lambda c: math.inf if c is None else c)
                object.__setattr__(self, "choices", tuple(in_order))
            return
        fits = is_number(self.low) and is_number(self.high) and self.low <= self.high
        if not fits or (self.step is not None and not (is_number(self.step) and self.step > 0)):
            raise EvonasError(f"gene {self.name!r} needs finite low <= high and a step above 0 or none")
        if self.log and (self.low <= 0 or self.step is not None):
            raise EvonasError(f"gene {self.name!r}: a log scale needs low above 0 and no step")

    @cached_property
    def is_ordered(self) -> bool:
        if self.choices is None:
            return True
        return all(c is None or (isinstance(c, (int, float)) and not isinstance(c, bool)) for c in self.choices)

    @property
    def is_whole(self) -> bool:
        """Whether this is a range of whole numbers on a log scale."""
        return self.log and isinstance(self.low, int) and isinstance(self.high, int)

    @cached_property
    def options(self) -> tuple[Any, ...] | None:
        """All values in order, or None for a continuous range."""
        if self.choices is not None:
            return self.choices
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(_tidy(self.low + k * self.step) for k in range(count))

    @cached_property
    def digits(self) -> int:
        """Significant digits of the values of a continuous range: more where it is narrow beside its ends."""
        width = float(self.high) - float(self.low)
        narrow = max(abs(self.low), abs(self.high)) / width if width > 0 else 1.0
        return min(SIGNIFICANT_DIGITS + math.floor(math.log10(max(narrow, 1.0))), _MOST_DIGITS)

    def contains(self, value: Any) -> bool:
        """Whether the gene can take ``value``; ``True`` is not 1."""
        if self.options is not None:
            return self._place(value) is not None
        whole = not self.is_whole or (is_number(value) and value == int(value))
        return is_number(value) and self.low <= value <= self.high and whole

    @cached_property
    def _places(self) -> dict[tuple[type, Any], int]:
        return {(type(option), option): k for k, option in enumerate(self.options)}

    def _place(self, value: Any) -> int | None:
        """Which of the options ``value`` is."""
        try:
            place = self._places.get((type(value), value))
        except TypeError:  # a list has no hash
            place = None
        if place is not None:
            return place
        return next((k for k, option in enumerate(self.options) if _same(value, option)), None)

    def canonical(self, value: Any) -> Any:
        """``value``, which the gene can take, as a genome has it: 2 for 2.0."""
        return plain(value) if self.options is None else self.options[self._place(value)]

    def nearest(self, value: Any) -> Any:
        """The allowed value closest to ``value`` (the first choice for an unknown category)."""
        if self.contains(value):
            return value
        options = self.options
        if options is None:
            if not is_number(value):
                return self.from_unit(0.5)
            value = min(max(value, self.low), self.high)
            return round(value) if self.is_whole else plain(value)
        if not self.is_ordered:
            return options[0]
        if value is None:
            return options[-1]
        if not is_number(value):
            return options[len(options) // 2]
        numbers = [o for o in options if o is not None]
        if not numbers:
            return None
        if options[-1] is None and value > numbers[-1]:
            return None
        return min(numbers, key=lambda o: abs(o - value))

    def from_unit(self, u: float) -> Any:
        """The value at position ``u`` in [0, 1) of the gene's own scale."""
        options = self.options
        if options is not None:
            return options[min(int(u * len(options)), len(options) - 1)]
        if self.log:
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + u * (self.high - self.low)
        rounded = float(f"{value:.{self.digits}g}")
        rounded = min(max(round(rounded) if self.is_whole else rounded, self.low), self.high)
        return plain(rounded)

    def to_unit(self, value: Any) -> float:
        """Position of ``value`` in [0, 1]; option k of n sits at the middle of its share, (k + 0.5) / n."""
        options = self.options
        if options is not None:
            return (self._place(self.nearest(value)) + 0.5) / len(options)
        scale = math.log if self.log else float
        low, high = scale(self.low), scale(self.high)
        return (scale(min(max(float(value), self.low), self.high)) - low) / (high - low) if high > low else 0.5

    def sample(self, rng: np.random.Generator) -> Any:
        return self.from_unit(rng.random())

    def shifted(self, value: Any, direction: int) -> Any:
        """The next larger (+1) or smaller (-1) value of an ordered gene, itself at the end of its range."""
        options = self.options
        if options is None:
            there = self.from_unit(min(max(self.to_unit(value) + 0.1 * direction, 0.0), 1.0))
            return self.nearest(value + direction) if self.is_whole and there == value else there
        k = options.index(self.nearest(value)) + direction
        return options[min(max(k, 0), len(options) - 1)]

    def widened(self, value: Any) -> Gene:
        """This gene, able to take ``value`` as well; a log scale that must hold 0 or less becomes a linear one."""
        if self.contains(value):
            return self
        wider = self._with_ends_at(value) if self.choices is None and is_number(value) else None
        if wider is not None:
            return wider
        options = [*self.options, value] if self.options is not None else None
        if options is None:
            return self
        if all(o is None or is_number(o) for o in options):
            options.sort(key=lambda o: math.inf if o is None else o)
        return Gene(self.name, self.per_layer, tuple(options))

    def _with_ends_at(self, value: float) -> Gene | None:
        """This range reaching to ``value``; None where value is off its grid, or the grid would be too long."""
        ints = all(isinstance(v, int) for v in (self.low, self.high, value))
        low, high = (v if ints else float(v) for v in (min(self.low, value), max(self.high, value)))
        log = self.log and low > 0
        step = 1 if self.is_whole and ints and not log else self.step
        if step is not None and (high - low) / step > MAX_OPTIONS:
            return None
        wider = dataclasses.replace(self, low=low, high=high, step=step, log=log)
        held = (value,) if self.options is None else (value, *self.options)
        return wider if all(wider.contains(v) for v in held) else None

    def describe(self) -> str:
        """The allowed values in words, for messages."""
        if self.choices is not None:
            return ", ".join(
                "none" if c is None else str(c).lower() if isinstance(c, bool) else str(c) for c in self.choices
            )
        step = f" in steps of {self.step:g}" if self.step is not None else ""
        whole = "whole numbers " if self.is_whole else ""
        return f"{whole}{self.low:g} to {self.high:g}{step}{' (log scale)' if self.log else ''}"


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number to calculate with: finite, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def reads_as_none(name: str, value: Any) -> bool:
    """Whether ``value`` is a text that a file has in place of None for the gene ``name``."""
    words = ("none", "full") if name in ("window", "kv_rank", "head_dim") else ("none",)
    return isinstance(value, str) and value in words


def shown(value: Any) -> str:
    """``value`` for a message: at most 60 characters, whatever it is."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an int of more than 4,300 digits
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= 60 else text[:57] + "..."


def listed(problems: Sequence[str], most: int = 10) -> str:
    """Problems in one line: a genome of a thousand layers may have as many."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool) and (a is None) == (b is None)


def _tidy(value: float) -> float | int:
    """``value`` without the noise of its last digits: 0.1 * 3 is 0.3."""
    return plain(float(f"{value:.12g}"))
