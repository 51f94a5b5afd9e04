"""What of a transformer tells most about how its loss falls with training."""

from __future__ import annotations

import math

import numpy as np

from .genome import Genome
from .transformer import TRAINING_DEFAULTS

TRAITS = 4


def traits(genome: Genome) -> np.ndarray:
    """(TRAITS,): logarithm of the size (the width times the square root of the depth), whether AdamW trains all of it,
    and how far the optimiser may go per token, one number for AdamW and one for Muon: the logarithm of the batch's rate
    over its size; for the other 0, which no such rate comes near.

    A short loss ranks badly where some networks have gone further than others: a few dozen trainings tell so much of
    these numbers, and little of some twenty genes.
    """
    optimizer, batch = (genome.get(name, TRAINING_DEFAULTS[name]) for name in ("optimizer", "batch_size"))
    path = math.log(genome.learning_rate_at(batch) / batch)
    adamw = optimizer == "adamw"
    size = math.log(genome["d_model"] * math.sqrt(genome["n_layers"]))
    return np.array([size, adamw, path if adamw else 0.0, 0.0 if adamw else path])
