"""What the errors of two means over the same examples have in common.

Losses of two networks on the same held-out text are each uncertain by the text that happens to be held out, and mostly
in the same way: what is hard for one is hard for the other. How far they differ is known much better than either. The
error of a mean comes from how far the means of some blocks of its examples lie from it (``block_means``); the pattern
of these differences is a few numbers, kept with every loss, and from two of them follows the error of the difference.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import numpy as np

WIDTH = 16  # blocks
FEWEST = 6  # blocks of a sketch: errors of two with less go together by chance
# 97.5% quantiles of Student's t with 1 to 14 degrees of freedom, and of a normal distribution.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
_NORMAL = 1.960
_CHARACTERS = 4 * math.ceil(2 * WIDTH / 3)  # of a sketch


def block_means(values: np.ndarray) -> np.ndarray:
    """Means (b,) of up to ``WIDTH`` contiguous parts of ``values`` (n,). Neighbouring windows of a text are alike: in
    one of a few authors their losses go together over tens of windows, and the error of a mean, taken from n as if they
    did not, is two to four times too small (batch means; Law and Kelton 2000, "Simulation modeling and analysis")."""
    return np.array([part.mean() for part in np.array_split(values, min(WIDTH, len(values)))])


def error_of_mean(blocks: np.ndarray) -> float:
    """Standard error of the mean of these ``block_means`` (b,); 0 of one alone, as nothing is known of it. Of fewer
    than ``WIDTH``, whose own deviation is often far too small, as much larger as Student's t asks for, so that twice
    the error covers what it should (19 of 20)."""
    if len(blocks) < 2:
        return 0.0
    larger = _STUDENT[len(blocks) - 2] / _NORMAL if len(blocks) < WIDTH else 1.0
    return larger * float(blocks.std(ddof=1)) / math.sqrt(len(blocks))


def sketch(values: np.ndarray) -> str:
    """How far the block means of ``values`` (n,) lie from their mean, in a common scale, as text. Sketches of means
    over the same n examples, in the same order, may be compared; empty where nothing varies, is not finite, or is of
    fewer than ``FEWEST`` blocks."""
    largest = float(np.abs(values).max(initial=0.0))
    if len(values) < FEWEST or not (largest > 0 and math.isfinite(largest)):
        return ""
    apart = block_means(values / largest)
    apart -= apart.mean()
    length = float(np.linalg.norm(apart))
    if not length > 0:
        return ""
    found = np.zeros(WIDTH)
    found[: len(apart)] = apart / length
    return base64.b64encode(found.astype("<f2").tobytes()).decode("ascii")


def directions(sketches: Sequence[str]) -> np.ndarray:
    """(n, WIDTH) of length 1, up to rounding, from what ``sketch`` gave; NaN where a text is not one, as the
    longer ones of earlier versions are not: their errors count as independent."""
    return np.array([_direction(text) for text in sketches]).reshape(len(sketches), WIDTH)


def _direction(text: str) -> np.ndarray:
    try:
        if len(text) != _CHARACTERS:
            raise ValueError
        found = np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(float)
        if not 0.9 < np.linalg.norm(found) < 1.1:
            raise ValueError
        return found
    except ValueError:
        return np.full(WIDTH, math.nan)


def error_of_difference(spreads: tuple[float, float], sketches: tuple[str, str]) -> float:
    """Standard error of the difference of two means with these standard errors; as of independent ones where one of
    the two has no sketch."""
    a, b = directions(sketches)
    apart = float(np.linalg.norm(spreads[0] * a - spreads[1] * b))
    return apart if math.isfinite(apart) else math.hypot(*spreads)
