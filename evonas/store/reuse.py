"""What one run may take over from another instead of paying for it again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from ..record import Measure, Outcome
from .store import Store


@dataclass(frozen=True)
class Known:
    """What earlier runs of the same task have paid for. ``measured`` is by architecture id, ``trained`` by (genome id,
    rung)."""

    measured: Mapping[str, Outcome] = field(default_factory=dict)
    trained: Mapping[tuple[str, int], Outcome] = field(default_factory=dict)


def known_from(stores: Iterable[Store], measured: Collection[str], trained: Collection[str], device: str) -> Known:
    """What runs of the same task, data, seed and rungs have to give, the later ones first.

    ``measured`` and ``trained`` name the objectives that are needed of each kind; what was measured counts only where
    that was on the same ``device`` (as a Measure says it). Failures are done again, but for divergence, which would
    come again.
    """
    known = Known({}, {})
    for store in stores:
        about = {"reused": store.name}
        rungs: dict[str, int] = {}
        for _, record in sorted({(r.generation, r.index): r for r in store.records}.items()):
            rung = rungs[record.genome_id] = rungs.get(record.genome_id, -1) + 1
            found = _all_of({n: m for n, m in record.measures.items() if m.device == device}, measured)
            if found:
                architecture = store.genomes[record.genome_id].genome.architecture_id
                known.measured[architecture] = Outcome(measures=found, provenance={**record.provenance, **about})
            found = _all_of(record.measures, trained)
            if found:
                known.trained[record.genome_id, rung] = Outcome(measures=found, provenance=about)
            elif record.status == "non_finite" and trained:
                known.trained[record.genome_id, rung] = Outcome("non_finite", {}, record.reason, {}, about)
    return known


def _all_of(measures: Mapping[str, Measure], names: Collection[str]) -> dict[str, Measure]:
    """Those of these names, or none where one is missing."""
    return {n: measures[n] for n in names} if names and all(n in measures for n in names) else {}
