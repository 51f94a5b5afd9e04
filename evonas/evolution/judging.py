"""What a generation tells of the ways that have made it: of mutations, and of the surrogate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .candidate import Candidate
from .selection import dominates, minimised

if TYPE_CHECKING:
    from .engine import Engine

SCREENED = "screened+"  # before the operator of a candidate that a surrogate has chosen


def judge(engine: Engine, children: Iterable[Candidate]) -> None:
    """Note in the engine's credit and trust what a generation's candidates, all of them told, have shown."""
    children = sorted(children, key=lambda c: c.index)
    _give_credit(engine, children)
    if engine.screening is not None and engine.rungs == 1:
        _give_trust(engine, children)


def _give_credit(engine: Engine, children: Sequence[Candidate]) -> None:
    """A mutation has won where neither parent dominates its child, at the first rung."""
    for child in children:
        if child.rung or not child.parents:
            continue
        born = engine.archive.get(child.genome.id)
        parents = [engine.archive[i] for i in child.parents if i in engine.archive]
        m = len(engine.objectives)
        rows = minimised(np.array([i.told[0][:m] for i in (born, *parents) if i is not None]), engine.directions)
        won = born is not None and born.feasible and not dominates(rows[1:], rows[0]).any()
        engine.credit.note(child.operator, won)


def _give_trust(engine: Engine, children: Sequence[Candidate]) -> None:
    """What screening and variation alone have added."""
    points, ways = [], []
    for child in children:
        told = engine.archive.get(child.genome.id)
        fits = told is not None and told.feasible
        points.append(engine.points([told])[0] if fits else np.full(len(engine.objectives), np.nan))
        ways.append(-1 if not child.parents else int(child.operator.startswith(SCREENED)))
    engine.trust.note(np.array(points).reshape(-1, len(engine.objectives)), np.array(ways, dtype=int), engine.box)
