"""One gene of a search space: the values it can take, and how to draw, step and place them on a unit scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

SIGNIFICANT_DIGITS = 3  # of continuous values: enough to tune by, short enough to read


@dataclass(frozen=True)
class Gene:
    """A gene is either a tuple of ``choices`` or a range ``low..high`` (whole numbers on a ``step``, or floats).

    Numeric choices are ordered, None among them last ("full" and "none" of a window or rank are the largest);
    other choices are categorical. ``log`` spaces a range by ratio instead of difference.
    """

    name: str
    per_layer: bool = False
    choices: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False

    @property
    def is_ordered(self) -> bool:
        if self.choices is None:
            return True
        return all(c is None or (isinstance(c, (int, float)) and not isinstance(c, bool)) for c in self.choices)

    @property
    def options(self) -> tuple[Any, ...] | None:
        """All values in order, or None for a continuous range."""
        if self.choices is not None:
            return self.choices
        if self.step is None:
            return None
        count = int(math.floor((self.high - self.low) / self.step + 1e-9)) + 1
        return tuple(_tidy(self.low + k * self.step) for k in range(count))

    def contains(self, value: Any) -> bool:
        """Whether the gene can take ``value``; ``True`` is not 1."""
        options = self.options
        if options is not None:
            return any(_same(value, option) for option in options)
        return _is_number(value) and self.low <= value <= self.high

    def nearest(self, value: Any) -> Any:
        """The allowed value closest to ``value`` (the first choice for an unknown category)."""
        if self.contains(value):
            return value
        options = self.options
        if options is None:
            return _tidy(min(max(float(value), self.low), self.high)) if _is_number(value) else self.from_unit(0.5)
        if not self.is_ordered:
            return options[0]
        if value is None:
            return options[-1]
        if not _is_number(value):
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
        rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
        return _tidy(min(max(rounded, self.low), self.high))

    def to_unit(self, value: Any) -> float:
        """Position of ``value`` in [0, 1]; option k of n sits at the middle of its share, (k + 0.5) / n."""
        options = self.options
        if options is not None:
            value = self.nearest(value)
            k = next(i for i, option in enumerate(options) if _same(value, option))
            return (k + 0.5) / len(options)
        if self.high == self.low:
            return 0.5
        value = min(max(float(value), self.low), self.high)
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def sample(self, rng: np.random.Generator) -> Any:
        return self.from_unit(rng.random())

    def moved(self, value: Any, rng: np.random.Generator, scale: float = 0.15) -> Any:
        """A different value near ``value``: a Gaussian step of ``scale`` of the range on the gene's own scale,
        at least one option; another category, drawn evenly, for a categorical gene."""
        options = self.options
        if options is not None and len(options) == 1:
            return options[0]
        if not self.is_ordered:
            others = [o for o in options if not _same(o, value)]
            return others[rng.integers(len(others))]
        step = scale * rng.standard_normal()
        if options is not None:
            floor = 1.0 / len(options)
            step = math.copysign(max(abs(step), floor), step)
        u = self.to_unit(value) + step
        u = abs(u) if u < 0 else u
        u = 2 - u if u >= 1 else u
        moved = self.from_unit(min(max(u, 0.0), 1 - 1e-12))
        if options is not None and _same(moved, value):
            k = options.index(moved)
            return options[k + 1] if k == 0 else options[k - 1]
        return moved

    def shifted(self, value: Any, direction: int) -> Any:
        """The next larger (+1) or smaller (-1) value of an ordered gene, itself at the end of its range."""
        options = self.options
        if options is None:
            return self.from_unit(min(max(self.to_unit(value) + 0.1 * direction, 0.0), 1.0))
        k = options.index(self.nearest(value)) + direction
        return options[min(max(k, 0), len(options) - 1)]

    def widened(self, value: Any) -> Gene:
        """This gene, able to take ``value`` as well."""
        if self.contains(value):
            return self
        fields = dict(self.__dict__)
        if self.choices is None and _is_number(value):
            off_grid = self.step is not None and abs((value - self.low) / self.step % 1) > 1e-9
            if not off_grid:
                return Gene(**{**fields, "low": min(self.low, value), "high": max(self.high, value)})
        options = [*self.options, value] if self.options is not None else None
        if options is None:
            return self
        if all(o is None or _is_number(o) for o in options):
            options.sort(key=lambda o: math.inf if o is None else o)
        return Gene(self.name, self.per_layer, tuple(options))

    def describe(self) -> str:
        """The allowed values in words, for messages."""
        if self.choices is not None:
            return ", ".join(
                "none" if c is None else str(c).lower() if isinstance(c, bool) else str(c) for c in self.choices
            )
        step = f" in steps of {self.step:g}" if self.step is not None else ""
        return f"{self.low:g} to {self.high:g}{step}{' (log scale)' if self.log else ''}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool) and (a is None) == (b is None)


def _tidy(value: float) -> float | int:
    value = float(f"{value:.12g}")
    return int(value) if value.is_integer() else value
