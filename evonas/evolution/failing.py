"""Where candidates fail: out of memory, divergence, a crash; or break a constraint before they have been trained.

k genomes, d inputs
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..genome import Genome
from .gp import GaussianProcess, Inputs
from .surrogate import Features

_FEWEST = 4  # failures, below which they are taken for accidents
_LATEST = 120  # of the failures and of the others that it learns from
_SKILL = 0.7  # share of pairs of a failure and another that it tells apart, each left out, below which it says nothing


class Soundness:
    """How likely a genome is not to fail, by a Gaussian process on what has failed and what has not.

    Of both the last ones are learned from, and count as often as there are ``of`` them in all (sound, failed). It says
    1 of everything until there are some failures, and as long as it does not tell them from the rest.
    """

    def __init__(
        self, features: Features, sound: Sequence[Genome], failed: Sequence[Genome], of: tuple[int, int] | None = None
    ) -> None:
        self._features, self._model = features, None
        # By id: the order of arrival must not change the last digits.
        groups = [sorted(list(genomes)[-_LATEST:], key=lambda g: g.id) for genomes in (sound, failed)]
        if len(groups[1]) < _FEWEST or not groups[0]:
            return
        x = features.of([genome for group in groups for genome in group])
        y = np.repeat([1.0, 0.0], [len(group) for group in groups])
        model = GaussianProcess(Inputs(x, features.groups, shared=True), y)
        expected = model.each_left_out()
        told_apart = (expected[y == 1][:, None] > expected[y == 0][None]).mean()
        if told_apart >= _SKILL:
            self._model = model
        all_sound, all_failed = of or (len(sound), len(failed))
        self._odds = all_sound / len(groups[0]) * len(groups[1]) / all_failed

    def of(self, genomes: Sequence[Genome]) -> np.ndarray:
        """Probability (k,) that each does not fail."""
        if self._model is None or not len(genomes):
            return np.ones(len(genomes))
        mean, _ = self._model.predict(self._model.inputs.across(self._features.of(genomes)))
        there = np.clip(mean, 0.0, 1.0)
        return self._odds * there / (self._odds * there + 1 - there)  # as often as in all, not as in what was learned
