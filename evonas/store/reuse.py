"""What one run may take over from another instead of paying for it again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..record import Measure, Outcome
from .store import Store
from .told import told_records, trained_outcome


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
        times: dict[str, int] = {}  # architecture id -> how often what is taken over was measured
        for rung, _, record in told_records(store):
            found = _all_of({n: m for n, m in record.measures.items() if m.device == device}, measured)
            architecture = store.genomes[record.genome_id].genome.architecture_id
            if found and record.times_measured >= times.get(architecture, 0):
                times[architecture] = record.times_measured
                known.measured[architecture] = Outcome(measures=found, provenance={**record.provenance, **about})
            if (outcome := trained_outcome(record, trained)) is not None:
                known.trained[record.genome_id, rung] = replace(outcome, provenance=about)
    return known


def _all_of(measures: Mapping[str, Measure], names: Collection[str]) -> dict[str, Measure]:
    """Those of these names, or none where one is missing."""
    return {n: measures[n] for n in names} if names and all(n in measures for n in names) else {}
