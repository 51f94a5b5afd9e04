"""Which records of a run may be compared, and which of them form the front."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import EvonasError
from ..evolution.selection import minimised, non_dominated
from ..record import Constraint, Measure, Record, total_violation
from ..store import Store

_COUNT = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Comparison:
    """The records of the highest fidelity, one per genome, in the order they finished.

    ``values`` (n, m) holds their objectives as measured, ``front`` (n,) marks the non-dominated ones (equal rows
    all), ``feasible`` (n,) those that break no constraint, ``fidelity`` names how each objective, and what else is
    constrained, was obtained,
    ``left_out`` counts ok records of other fidelity, ``constraints`` are those of the run.
    """

    names: tuple[str, ...]
    directions: tuple[str, ...]
    records: tuple[Record, ...]
    values: np.ndarray
    front: np.ndarray
    feasible: np.ndarray
    fidelity: dict[str, str]
    left_out: int
    constraints: tuple[Constraint, ...] = ()

    def record_of(self, genome_id: str) -> Record | None:
        return next((r for r in self.records if r.genome_id == genome_id), None)

    def front_records(self) -> list[Record]:
        """The front, best in the first objective first."""
        if not self.front.any():  # nothing measured yet, or a run without objectives
            return []
        signed = minimised(self.values, self.directions)
        order = sorted(np.flatnonzero(self.front), key=lambda k: (*signed[k], self.records[k].genome_id))
        return [self.records[k] for k in order]


def compare(store: Store) -> Comparison:
    """Group the ok records that hold every objective by fidelity, and take the dearest group.

    Numbers of different fidelity, or clocked on different devices, are never ranked against each other; what is only
    constrained counts for that as well. What breaks a constraint is not on the front. Of several records of one genome
    the last counts.
    """
    objectives = store.header["objectives"]
    names = tuple(o["name"] for o in objectives)
    directions = tuple(o["direction"] for o in objectives)
    constraints = _constraints(store)
    measured = tuple(dict.fromkeys((*names, *(c.name for c in constraints))))
    groups: dict[tuple, dict[str, Record]] = {}
    latest: dict[tuple, Record] = {}  # of a genome, at one fidelity: what was measured again elsewhere is there alone
    for record in store.records:
        if names and _has(record, names):
            of = (record.genome_id, *(fidelity for fidelity, _ in _fidelity_key(record, measured)))
            latest.pop(of, None)
            latest[of] = record
    for record in latest.values():
        groups.setdefault(_fidelity_key(record, measured), {})[record.genome_id] = record
    if not groups:
        none = np.zeros(0, dtype=bool)
        return Comparison(names, directions, (), np.zeros((0, len(names))), none, none, {}, 0)
    key = max(groups, key=lambda k: (tuple(map(_fidelity_rank, k)), len(groups[k])))
    records = tuple(groups[key].values())
    values = np.array([[r.measures[name].value for name in names] for r in records])
    left_out = len(latest) - len(records)
    fidelity = {name: fidelity for name, (fidelity, _) in zip(measured, key) if name in records[0].measures}
    feasible = np.array([total_violation(constraints, r) == 0 for r in records])
    front = feasible.copy()
    front[feasible] = non_dominated(minimised(values[feasible], directions))
    return Comparison(names, directions, records, values, front, feasible, fidelity, left_out, constraints)


def measurement(measure: Measure) -> tuple[float, float] | None:
    """What tells one measurement from another, which all genomes of an architecture share; None of what is none."""
    return (measure.value, measure.spread) if measure.fidelity == "measured" else None


def _has(record: Record, names: Sequence[str]) -> bool:
    return record.ok and all(record.value(name) is not None for name in names)


def _fidelity_key(record: Record, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(fidelity, device) of each objective; the device only where a clock or a meter was read."""
    measures = [record.measures.get(name) or Measure(0.0) for name in names]
    return tuple((m.fidelity, m.device if m.fidelity == "measured" else "") for m in measures)


def _constraints(store: Store) -> tuple[Constraint, ...]:
    out = []
    for text in store.header["constraints"]:
        with contextlib.suppress(EvonasError):  # of some other tool: shown, but nothing is known of it
            out.append(Constraint.parse(str(text)))
    return tuple(out)


def _fidelity_rank(fidelity_device: tuple[str, str]) -> tuple[int, float]:
    """Order of fidelities: exact, measured, then by the number of tokens (or whatever is counted)."""
    fidelity = fidelity_device[0]
    if fidelity in ("exact", "measured"):
        return (2, 0.0) if fidelity == "exact" else (1, 0.0)
    count = _COUNT.search(fidelity)
    return (0, float(count.group()) if count else 0.0)


def gain(objective: dict[str, Any], value: float, reference: float) -> float:
    """How much better ``value`` is than ``reference``, in the objective's unit; negative where it is worse."""
    return value - reference if objective["direction"] == "max" else reference - value
