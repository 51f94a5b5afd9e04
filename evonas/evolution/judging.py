"""What a generation tells of the ways that have made it: of mutations, and of the surrogate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .candidate import Candidate
from .selection import dominates, minimised

if TYPE_CHECKING:
    from .engine import Engine

SCREENED = "screened+"  # before the operator of a candidate that a surrogate has chosen


def judge(engine: Engine, children: Sequence[Candidate]) -> None:
    """Note in the engine's credit and trust what a generation's candidates, all of them told, in order of index, have
    shown."""
    _give_credit(engine, children)
    if engine.screening is not None and engine.rungs == 1:
        _give_trust(engine, children)


def _give_credit(engine: Engine, children: Sequence[Candidate]) -> None:
    """A mutation has won where neither parent dominates its child, at the first rung."""
    children = [c for c in children if not c.rung and c.parents]
    born = [engine.archive.get(c.genome.id) for c in children]
    told = [k for k, child in enumerate(born) if child is not None]
    pairs = [(k, engine.archive[i]) for k in told for i in children[k].parents if i in engine.archive]
    m = len(engine.objectives)
    own, parents = (
        minimised(np.array([i.told[0][:m] for i in side]), engine.directions)
        for side in ([born[k] for k, _ in pairs], [parent for _, parent in pairs])
    )
    beaten = {k for (k, _), is_worse in zip(pairs, dominates(parents, own).tolist()) if is_worse}
    for k, child in enumerate(children):
        engine.credit.note(child.operator, born[k] is not None and not born[k].violation and k not in beaten)


def _give_trust(engine: Engine, children: Sequence[Candidate]) -> None:
    """What screening and variation alone have added."""
    points, ways = [], []
    for child in children:
        told = engine.archive.get(child.genome.id)
        fits = told is not None and told.feasible
        points.append(engine.points([told])[0] if fits else np.full(len(engine.objectives), np.nan))
        ways.append(-1 if not child.parents else int(child.operator.startswith(SCREENED)))
    engine.trust.note(np.array(points).reshape(-1, len(engine.objectives)), np.array(ways, dtype=int), engine.box)
