"""What the errors of two means over the same examples have in common.

Losses of two networks on the same held-out text are each uncertain by the text that happens to be held out, and mostly
in the same way: what is hard for one is hard for the other. How far they differ is known much better than either. The
differences from the mean of n examples, or of blocks of them (``block_means``), are a vector; a random projection of it
to 64 numbers keeps lengths and differences of lengths to some 9% (Johnson and Lindenstrauss 1984, with signs after
Achlioptas 2003), and is small enough to be kept with every loss.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import numpy as np

WIDTH = 64  # numbers of a sketch
BLOCKS = 16
_CHARACTERS = 4 * math.ceil(2 * WIDTH / 3)  # of its text
_ROWS = 2**14  # examples projected at once: a long text has many millions


def block_means(values: np.ndarray) -> np.ndarray:
    """Means (b,) of up to ``BLOCKS`` contiguous parts of ``values`` (n,). Neighbouring windows of a text are alike: in
    one of a few authors their losses go together over tens of windows, and the error of a mean, taken from n as if they
    did not, is two to four times too small (batch means; Law and Kelton 2000, "Simulation modeling and analysis")."""
    return np.array([part.mean() for part in np.array_split(values, min(BLOCKS, len(values)))])


def sketch(values: np.ndarray) -> str:
    """The direction of the error of the mean of ``values`` (n,), as text. Sketches of means over the same n examples,
    in the same order, may be compared; empty where nothing varies or is not finite."""
    largest = float(np.abs(values).max(initial=0.0))
    if not (largest > 0 and math.isfinite(largest)):
        return ""
    apart = values / largest
    apart -= apart.mean()
    length = float(np.linalg.norm(apart))
    if not length > 0:
        return ""
    bits, projected = np.random.PCG64(0), np.zeros(WIDTH)
    for k in range(0, len(apart), _ROWS):
        part = apart[k : k + _ROWS]
        projected += part @ _signs(bits, len(part))
    projected /= length * math.sqrt(WIDTH)
    return base64.b64encode(projected.astype("<f2").tobytes()).decode("ascii")


def _signs(bits: np.random.PCG64, n: int) -> np.ndarray:
    """(n, WIDTH) of -1 and 1, the same in every version of numpy: each row are the bits of one raw draw."""
    raw = bits.random_raw(n).astype("<u8")
    return np.unpackbits(raw.view(np.uint8).reshape(n, 8), axis=1).astype(np.float32) * 2 - 1


def directions(sketches: Sequence[str]) -> np.ndarray:
    """(n, WIDTH) of length 1, more or less, from what ``sketch`` gave; NaN where a text is not one."""
    return np.array([_direction(text) for text in sketches]).reshape(len(sketches), WIDTH)


def _direction(text: str) -> np.ndarray:
    try:
        if len(text) != _CHARACTERS:
            raise ValueError
        found = np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(float)
        if not 0.1 < np.linalg.norm(found) < 10:
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
