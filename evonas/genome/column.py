"""The values of one gene as an array of codes: what ``Gene`` does for one value, for many at a time.

A code is the place of an option, or the value itself where the gene has a continuous range; codes are floats.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .gene import Gene
from .genome import plain

_BELOW_1 = 1 - 1e-12
_LENGTHENED = 20  # times a step is doubled that rounding has undone


class Column:
    """Codes of one gene. All methods are elementwise on arrays of any shape, and pure."""

    def __init__(self, gene: Gene) -> None:
        self.gene = gene
        self.size = None if gene.options is None else len(gene.options)
        self._options = None if gene.options is None else np.array([plain(o) for o in gene.options], dtype=object)
        if self.size is None:
            ends = (math.log(gene.low), math.log(gene.high)) if gene.log else (gene.low, gene.high)
            self._low, self._extent = ends[0], ends[1] - ends[0]

    @property
    def has_neighbours(self) -> bool:
        """Whether values have larger and smaller ones beside them."""
        return self.gene.is_ordered and self.size != 1

    def code(self, value: Any) -> float:
        """The code of the allowed value that is nearest to ``value``."""
        near = self.gene.nearest(value)
        return float(near if self.size is None else self.gene._place(near))

    def values(self, codes: np.ndarray) -> np.ndarray:
        """The values, as a genome holds them, in an array of objects."""
        if self.size is not None:
            return self._options[codes.astype(int)]
        values, whole = codes.astype(object), codes == np.rint(codes)
        values[whole] = np.array([int(code) for code in codes[whole].tolist()], dtype=object)  # of any size
        return values

    def units(self, codes: np.ndarray) -> np.ndarray:
        """Positions on the gene's own scale; see ``Gene.to_unit``."""
        if self.size is not None:
            return (codes + 0.5) / self.size
        if self._extent <= 0:
            return np.full(np.shape(codes), 0.5)
        codes = np.clip(codes, self.gene.low, self.gene.high)
        return ((np.log(codes) if self.gene.log else codes) - self._low) / self._extent

    def at(self, units: np.ndarray) -> np.ndarray:
        """The codes at these positions from 0 to 1; see ``Gene.from_unit``."""
        if self.size is not None:
            return np.minimum(np.floor(units * self.size), self.size - 1)
        values = self._low + units * self._extent
        values = _rounded(np.exp(values) if self.gene.log else values, self.gene.digits)
        if self.gene.is_whole:
            values = np.rint(values)
        return np.clip(values, self.gene.low, self.gene.high)

    def drawn(self, rng: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
        return self.at(rng.random(shape))

    def moved(self, codes: np.ndarray, rng: np.random.Generator, scale: float = 0.15) -> np.ndarray:
        """Different values nearby: a Gaussian step of ``scale`` of the range, at least one option; of a categorical
        gene any other one."""
        if self.size == 1:
            return codes.copy()
        if not self.gene.is_ordered:
            others = rng.integers(self.size - 1, size=codes.shape)
            return np.where(others < codes, others, others + 1).astype(float)
        steps = scale * rng.standard_normal(codes.shape)
        if self.size is None:
            return self._moved_in_range(codes, steps)
        steps = np.copysign(np.maximum(np.abs(steps), 1 / self.size), steps)
        moved = self.at(_reflected(self.units(codes) + steps))
        return np.where(moved != codes, moved, np.where(codes == 0, 1.0, codes - 1))

    def _moved_in_range(self, codes: np.ndarray, steps: np.ndarray) -> np.ndarray:
        units = self.units(codes)
        moved = self.at(_reflected(units + steps))
        for _ in range(_LENGTHENED):
            same = moved == codes
            if not same.any():
                return moved
            steps = np.where(steps == 0, 0.01, 2 * steps)
            moved = np.where(same, self.at(_reflected(units + steps)), moved)
        end = np.where(codes == self.gene.low, self.gene.high, self.gene.low)
        return np.where(moved == codes, end, moved).astype(float)

    def shifted(self, codes: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """The next larger (+1) or smaller (-1) values of an ordered gene, the same ones at the ends of its range."""
        if self.size is not None:
            return np.clip(codes + directions, 0, self.size - 1)
        there = self.at(np.clip(self.units(codes) + 0.1 * directions, 0.0, 1.0))
        if self.gene.is_whole:
            there = np.where(there == codes, np.clip(codes + directions, self.gene.low, self.gene.high), there)
        return there


def _rounded(values: np.ndarray, digits: int) -> np.ndarray:
    """To so many significant digits. A whole number times or over a power of ten is the double next to the decimal."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        places = digits - 1 - np.floor(np.log10(np.abs(values)))
        up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
        rounded = np.rint(values * up / down) * down / up
    return np.where(np.isfinite(rounded), rounded, values)  # 0, and what lies at the edge of what doubles hold


def _reflected(units: np.ndarray) -> np.ndarray:
    units = units % 2.0
    return np.minimum(np.where(units > 1.0, 2.0 - units, units), _BELOW_1)
