"""Whether screening by a surrogate still gains more than variation alone."""

from __future__ import annotations

import numpy as np

from .selection import hypervolume_gain, non_dominated

ENOUGH = 250  # individuals told, from which on it is put to the test
_FORGET = 0.99  # of what is known, with each further child
_LEAST = 0.1  # share of the children that either way has at least


class Trust:
    """Shares of a generation for screening and for variation alone, by what their children have lately added to the
    hypervolume.

    While little was told, a surrogate sees all of it, and how well it ranks says how far to follow it. Later the front
    moves by steps smaller than its error: it may rank well and gain nothing. From ``ENOUGH`` on each way so has some
    children at least, and the rest goes by the squares of their gains a child, which favours the better one clearly
    and still listens to the other. Gains are shares of what a generation's children have added: in hypervolume the
    first steps are so much larger than all later ones that they alone would decide for hundreds of children.

    m objectives, minimised
    """

    def __init__(self, m: int) -> None:
        self._front = np.zeros((0, m))
        self._gains, self._tries = np.zeros(2), np.zeros(2)  # of variation alone and of screening

    def note(self, points: np.ndarray, ways: np.ndarray, box: tuple[np.ndarray, np.ndarray] | None) -> None:
        """A generation was told.

        Args:
            points: (k, m) objectives of its children, in order of birth; NaN for one that has none or broke a
                constraint.
            ways: (k,) whether they came from screening, 1, from variation alone, 0, or from neither, -1.
            box: of the hypervolume.
        """
        good = np.isfinite(points).all(axis=1)
        if box is not None:
            gains = [
                (way, hypervolume_gain(self._front, point, *box) if fits else 0.0)
                for point, way, fits in zip(points, ways.tolist(), good)
                if way >= 0
            ]
            together = sum(gain for _, gain in gains) or 1.0
            for way, gain in gains:
                self._gains, self._tries = self._gains * _FORGET, self._tries * _FORGET
                self._tries[way] += 1
                self._gains[way] += gain / together
        front = np.vstack([self._front, points[good]])
        self._front = front[non_dominated(front)]

    def share(self, told: int) -> float:
        """Of a generation for screening, after so many individuals."""
        if told < ENOUGH:
            return 1.0
        alone, screened = (self._gains / np.maximum(self._tries, 1)) ** 2
        share = screened / (alone + screened) if alone + screened > 0 else 0.5
        return float(min(max(share, _LEAST), 1 - _LEAST))
