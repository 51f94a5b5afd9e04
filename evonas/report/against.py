"""What the search gained over each seed genome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..record import Record
from ..sketch import error_of_difference
from ..store import Store
from .compare import Comparison, gain
from .short import clean, number


def against_seeds(
    store: Store, comparison: Comparison, noise: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """One entry per seed genome that has a record: {id, label, status, at_seed_<first>, at_seed_<second>}.

    ``at_seed_<first>`` is the member of the front that is best in the second objective among those no worse than
    the seed in the first: {id, objective, value, seed_value, gain (absolute, positive is better), ratio (gain over
    the seed's value), within_spread (the gain is no larger than its standard error; ``noise`` is what an objective
    varies by beside its spread, see ``front_probabilities``)}. ``at_seed_<second>`` is
    the reverse. Either is None where no member qualifies, the seed has no record of the front's fidelity, or its last
    one, whose ``status`` this is, is a failure. A run with one objective has ``best`` instead.
    """
    objectives = store.header["objectives"]
    out = []
    for seed in store.header["seed_genomes"]:
        record = last_record(store, seed["id"])
        if record is None:
            continue
        comparable = comparison.record_of(seed["id"]) if record.ok else None
        entry = {"id": seed["id"], "label": seed["label"], "status": record.status}
        front = comparison.front_records() if comparable is not None else []
        if len(objectives) == 1:
            entry["best"] = _best(objectives[0], front, comparable, noise or {})
        elif objectives:
            first, second = objectives[:2]
            entry[f"at_seed_{first['name']}"] = _best_at(first, second, front, comparable, noise or {})
            entry[f"at_seed_{second['name']}"] = _best_at(second, first, front, comparable, noise or {})
        out.append(entry)
    return out


def last_record(store: Store, genome_id: str) -> Record | None:
    """The record of the highest rung the genome came to, failed or not."""
    return max(reversed(store.records_of(genome_id)), key=lambda r: (r.generation, r.index), default=None)


def _best_at(
    held: dict, wanted: dict, front: Sequence[Record], seed: Record | None, noise: Mapping[str, float]
) -> dict[str, Any] | None:
    if seed is None:
        return None
    limit = seed.measures[held["name"]].value
    fitting = [r for r in front if gain(held, r.measures[held["name"]].value, limit) >= 0]
    return _best(wanted, fitting, seed, noise)


def _best(
    wanted: dict, candidates: Sequence[Record], seed: Record | None, noise: Mapping[str, float]
) -> dict[str, Any] | None:
    if seed is None or not candidates:
        return None
    name = wanted["name"]
    ours = seed.measures[name]
    best = max(candidates, key=lambda r: gain(wanted, r.measures[name].value, ours.value))
    theirs = best.measures[name]
    difference = gain(wanted, theirs.value, ours.value)
    apart = error_of_difference((theirs.spread, ours.spread), (theirs.sketch, ours.sketch))
    spread = math.hypot(apart, math.sqrt(2) * noise.get(name, 0.0))
    return {
        "id": best.genome_id,
        "objective": name,
        "value": theirs.value,
        "seed_value": ours.value,
        "gain": difference,
        "ratio": difference / abs(ours.value) if ours.value else None,
        "within_spread": math.isfinite(spread) and 0 < difference <= spread,
    }


def sentence(entry: dict[str, Any], objectives: Sequence[dict[str, Any]]) -> str:
    """``nanogpt-cpu (3f...): at its loss 41% less latency (9a...); at its latency 0.12 nats less loss (77...)``"""
    label = clean(entry["label"]) or "seed"
    head = f"{label} ({entry['id']})"
    if entry["status"] != "ok":
        return f"{head}: {entry['status']}, nothing to compare with"
    if len(objectives) < 2:
        found = entry.get("best")
        return f"{head}: {_absolute(found, objectives[0])}" if found else f"{head}: not measured like the front"
    first, second = objectives[:2]
    at_first, at_second = entry[f"at_seed_{first['name']}"], entry[f"at_seed_{second['name']}"]
    if at_first is None and at_second is None:
        return f"{head}: not measured like the front, nothing to compare with"
    return (
        f"{head}: at its {clean(first['name'])} {_relative(at_first, second)}; "
        f"at its {clean(second['name'])} {_absolute(at_second, first)}"
    )


def _relative(found: dict[str, Any] | None, objective: dict[str, Any]) -> str:
    if found is None or found["gain"] <= 0 or found["ratio"] is None:
        return _absolute(found, objective)
    more = "more" if objective["direction"] == "max" else "less"
    return f"{number(100 * found['ratio'], 2)}% {more} {clean(objective['name'])} ({found['id']}{_doubt(found)})"


def _absolute(found: dict[str, Any] | None, objective: dict[str, Any]) -> str:
    more = "more" if objective["direction"] == "max" else "less"
    name = clean(objective["name"])
    if found is None or found["gain"] <= 0:
        return f"nothing with {more} {name}"
    unit = f" {clean(objective['unit'])}" if objective["unit"] else ""
    return f"{number(found['gain'], 2)}{unit} {more} {name} ({found['id']}{_doubt(found)})"


def _doubt(found: dict[str, Any]) -> str:
    return ", within the spread" if found["within_spread"] else ""
