"""What evaluates the genomes of a run, from its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..config import GROWTH

if TYPE_CHECKING:
    from ..config import Settings
    from ..fitness import ProxyEvaluator


def needs_of(settings: Settings) -> tuple[str, ...]:
    """What has to be known of every genome."""
    from ..record import Constraint

    return (*settings.objectives, *(Constraint.parse(text).name for text in settings.constraints))


def evaluator_of(settings: Settings, needs: Sequence[str], **changes: Any) -> ProxyEvaluator:
    """What evaluates the run's genomes, but for ``changes`` of its keyword arguments."""
    from ..fitness import ProxyEvaluator

    how = {
        "tokens": settings.tokens,
        "rungs": settings.rungs,
        "growth": GROWTH,
        "validation_tokens": settings.validation_tokens,
        "seed": settings.seed,
        "device": settings.device,
        "precision": settings.precision,
        "horizon": settings.horizon,
        "sparing_muon": settings.sparing_muon,
        "whole_memory": settings.whole_memory,
    }
    return ProxyEvaluator(settings.task, settings.data, settings.context, needs=needs, **{**how, **changes})
