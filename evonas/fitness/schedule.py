"""Learning-rate schedules over a known number of steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..genome import SearchSpace

FINAL_SHARE = 0.1  # of the peak rate, as nanoGPT's min_lr
RESTARTS = (1 / 7, 3 / 7, 1.0)  # ends of cycles of length 1, 2, 4


def rate_share(optimizer: str, tokens: int, horizon: int | None) -> float:
    """What a learning rate meant for trainings of ``horizon`` tokens is multiplied by in one of ``tokens``; 1 without a
    horizon.

    Muon's best rate falls with the square root of the length, as theory has it (Schaipp et al. 2025, "The surprising
    agreement between convex optimization theory and learning-rate scheduling") and as measured from 65,536 to 1,536,000
    tokens. AdamW's did not fall there: what bounds it in the shortest trainings is that they become unstable.
    """
    return 1.0 if horizon is None or optimizer != "muon" else math.sqrt(horizon / tokens)


def steps_of(batch_size: int, context: int, tokens: int) -> int:
    """Optimiser steps that see ``tokens`` tokens, in whole sequences; at least one."""
    return -(-max(1, tokens // context) // batch_size)


def prior_for(space: SearchSpace, tokens: int) -> SearchSpace:
    """A transformer space with the learning rate of its prior rescaled to trainings of ``tokens``, where it says what
    length that is meant for and the optimiser is Muon; else the space as it is."""
    if space.prior_tokens in (None, tokens):
        return space
    optimizers = (space.prior["optimizer"],) if "optimizer" in space.prior else space.genes["optimizer"].options
    if set(optimizers) != {"muon"}:
        return space
    share = rate_share("muon", tokens, space.prior_tokens)
    return space.with_prior_rate(share * space.prior["learning_rate"], tokens)


def learning_rates(schedule: str, peak: float, warmup: float, steps: int) -> list[float]:
    """The learning rate of each of ``steps`` steps.

    ``warmup`` is the share of steps over which the rate rises linearly to ``peak``. After it: "cosine" falls to a tenth
    of the peak; "cosine_restarts" does so in three cycles, each twice as long as the last (Loshchilov and Hutter 2017,
    "SGDR", T_mult = 2); "linear" falls in a straight line towards zero (Bergsma et al. 2025, "Straight to zero");
    "constant" stays.
    """
    rising = min(round(warmup * steps), steps - 1)
    rates = [peak * (k + 1) / (rising + 1) for k in range(rising)]
    span = steps - rising
    for k in range(span):
        done = k / max(span - 1, 1)
        if schedule == "linear":
            rates.append(peak * (1 - k / span))
            continue
        if schedule == "constant":
            rates.append(peak)
            continue
        if schedule == "cosine_restarts":
            end = next(e for e in RESTARTS if done <= e)
            start = max((e for e in RESTARTS if e < end), default=0.0)
            done = (done - start) / (end - start)
        fall = 0.5 * (1 + math.cos(math.pi * done))
        rates.append(peak * (FINAL_SHARE + (1 - FINAL_SHARE) * fall))
    return rates
