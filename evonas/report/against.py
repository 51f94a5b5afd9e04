"""What the search gained over each seed genome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..evolution.ties import CLEAR, weighed
from ..record import Record
from ..sketch import error_of_difference
from ..store import Store
from .compare import Comparison, gain, measurement
from .short import clean, number, thousands

Ahead = Mapping[str, Mapping[str, Any]]
TO_COMPARE = (  # with a seed that a constraint rules out
    "To be compared with it, loosen the constraint until this seed meets it; to ask for more of an objective than "
    "that, use --goal"
)


def against_seeds(
    store: Store, comparison: Comparison, noise: Mapping[str, float] | None = None, ahead: Ahead | None = None
) -> list[dict[str, Any]]:
    """One entry per seed genome that has a record: {id, label, status, at_seed_<first>, at_seed_<second>, trained,
    ahead}.

    ``at_seed_<first>`` is the member of the front that is best in the second objective among those that are no worse
    than the seed in the first, by ``CLEAR`` standard errors: whoever is the best of those that just seem no worse often
    is. {id, objective, value, seed_value, gain (absolute, positive is better), ratio (gain over the seed's value),
    within_spread (the gain is no larger than ``CLEAR`` standard errors; ``noise`` is what an objective varies by beside
    its spread, see ``front_probabilities``), unclear (nothing is gained, but what seems better may be no worse)}.
    ``at_seed_<second>`` is the reverse. Either is None where no member qualifies, the seed has no record of the front's
    fidelity, or its last one, whose ``status`` this is, is a failure. A run with one objective has ``best`` instead.
    ``trained`` says how long the compared losses were trained, None where the seed is not compared; ``ahead`` holds the
    same (``trained`` and what is at the seed's) of the losses after long trainings, trained or extrapolated, None where
    these of the seed or of all others are not known.
    """
    objectives = store.header["objectives"]
    comparison = replace(comparison, records=tuple(weighed(comparison.records)))
    out = []
    for seed in store.header["seed_genomes"]:
        record = last_record(store, seed["id"])
        if record is None:
            continue
        comparable = comparison.record_of(seed["id"]) if record.ok else None
        entry = {"id": seed["id"], "label": seed["label"], "status": record.status}
        front = comparison.front_records() if comparable is not None else []
        entry |= _found(objectives, front, comparable, noise or {})
        entry["ahead"] = None
        if comparable is not None and "loss" in comparison.names:
            of_seed = _later(comparable, ahead or {})
            others = [later for r in front if r.genome_id != seed["id"] and (later := _later(r, ahead or {}))]
            if of_seed and others:
                entry["ahead"] = _found(objectives, [of_seed, *others], of_seed, noise or {})
        out.append(entry)
    return out


def _found(
    objectives: Sequence[dict], front: Sequence[Record], seed: Record | None, noise: Mapping[str, float]
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if len(objectives) == 1:
        out["best"] = _best(objectives[0], front, seed, noise)
    elif objectives:
        first, second = objectives[:2]
        out[f"at_seed_{first['name']}"] = _best_at(first, second, front, seed, noise)
        out[f"at_seed_{second['name']}"] = _best_at(second, first, front, seed, noise)
    out["trained"] = None
    if seed is not None:
        out["trained"] = seed.measures["loss"].fidelity if "loss" in seed.measures else ""
    return out


def _later(record: Record, ahead: Ahead) -> Record | None:
    """The record with its loss after a long training; None where that is not known. What was trained so long has an
    error by the text held out too, that is not kept: about that of its last rung."""
    found = ahead.get(record.genome_id)
    if found is None:
        return None
    loss = replace(record.measures["loss"], value=found["value"], fidelity=f"{found['tokens']} tokens")
    if found["spread"] is not None:
        loss = replace(loss, spread=found["spread"], sketch="")
    return replace(record, measures={**record.measures, "loss": loss})


def last_record(store: Store, genome_id: str) -> Record | None:
    """The record of the highest rung the genome came to, failed or not."""
    return max(reversed(store.records_of(genome_id)), key=lambda r: (r.generation, r.index), default=None)


def _best_at(
    held: dict, wanted: dict, front: Sequence[Record], seed: Record | None, noise: Mapping[str, float]
) -> dict[str, Any] | None:
    if seed is None:
        return None
    fitting = [r for r in front if r.genome_id == seed.genome_id or _is_no_worse(held, r, seed, noise)]
    found = _best(wanted, fitting, seed, noise)
    if found is not None and found["gain"] <= 0:
        better = (r for r in front if _gain(wanted, r, seed) > 0)
        found["unclear"] = any(_gain(held, r, seed) >= -CLEAR * _error(held["name"], r, seed, noise) for r in better)
    return found


def _gain(objective: dict, record: Record, seed: Record) -> float:
    return gain(objective, record.measures[objective["name"]].value, seed.measures[objective["name"]].value)


def _is_no_worse(held: dict, record: Record, seed: Record, noise: Mapping[str, float]) -> bool:
    ours, theirs = record.measures[held["name"]], seed.measures[held["name"]]
    if measurement(ours) is not None and measurement(ours) == measurement(theirs):
        return True
    return _gain(held, record, seed) >= CLEAR * _error(held["name"], record, seed, noise)


def _error(name: str, record: Record, seed: Record, noise: Mapping[str, float]) -> float:
    """Standard error of the difference of two genomes; 0 where no spread is known."""
    ours, theirs = record.measures[name], seed.measures[name]
    apart = error_of_difference((ours.spread, theirs.spread), (ours.sketch, theirs.sketch))
    error = math.hypot(apart, math.sqrt(2) * noise.get(name, 0.0))
    return error if math.isfinite(error) else 0.0


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
    return {
        "id": best.genome_id,
        "objective": name,
        "value": theirs.value,
        "seed_value": ours.value,
        "gain": difference,
        "ratio": difference / abs(ours.value) if ours.value else None,
        "within_spread": 0 < difference <= CLEAR * _error(name, best, seed, noise),
        "unclear": False,
    }


def sentence(entry: dict[str, Any], objectives: Sequence[dict[str, Any]]) -> str:
    """``nanogpt-cpu (3f...), all trained to 131,072 tokens: at its loss 41% less latency (9a...); at its latency 0.12
    nats less loss (77...)``"""
    label = clean(entry["label"]) or "seed"
    head = f"{label} ({entry['id']})"
    if entry["status"] != "ok":
        cure = f". {TO_COMPARE}" if entry["status"] == "infeasible" else ""
        return f"{head}: {entry['status']}, nothing to compare with{cure}"
    if entry["trained"] is None:
        return f"{head}: not measured like the front, nothing to compare with"
    said = f"{head}{_trained(entry)}: {_gains(entry, objectives)}"
    later = entry["ahead"]
    return said if later is None else f"{said}. Expected{_trained(later)}: {_gains(later, objectives)}"


def as_accurate(report: Mapping[str, Any]) -> tuple[str, str] | None:
    """(id, ``as accurate as nanogpt-cpu, 41% less latency``) of the member of the front to train in full in place of a
    seed: by what is expected of long trainings, where that is known. None where none clearly gains anything."""
    for entry in report["against_seed"]:
        found = (entry["ahead"] or entry).get("at_seed_loss")
        if found and found["gain"] > 0 and found["ratio"] and not found["within_spread"]:
            direction = next(o["direction"] for o in report["objectives"] if o["name"] == found["objective"])
            return found["id"], f"as accurate as {clean(entry['label']) or 'the seed'}, {_share(found, direction)}"
    return None


def _trained(found: Mapping[str, Any]) -> str:
    return f", all trained to {thousands(clean(found['trained']))}" if found["trained"] else ""


def _gains(found: Mapping[str, Any], objectives: Sequence[dict[str, Any]]) -> str:
    if len(objectives) < 2:
        return _absolute(found["best"], objectives[0])
    first, second = objectives[:2]
    at_first, at_second = (found[f"at_seed_{o['name']}"] for o in (first, second))
    return (
        f"at its {clean(first['name'])} {_relative(at_first, second)}; "
        f"at its {clean(second['name'])} {_absolute(at_second, first)}"
    )


def _relative(found: dict[str, Any] | None, objective: dict[str, Any]) -> str:
    if found is None or found["gain"] <= 0 or found["ratio"] is None:
        return _absolute(found, objective)
    return f"{_share(found, objective['direction'])} ({found['id']}{_doubt(found)})"


def _share(found: Mapping[str, Any], direction: str) -> str:
    return f"{number(100 * found['ratio'], 2)}% {'more' if direction == 'max' else 'less'} {clean(found['objective'])}"


def _absolute(found: dict[str, Any] | None, objective: dict[str, Any]) -> str:
    more = "more" if objective["direction"] == "max" else "less"
    name = clean(objective["name"])
    if found is None or found["gain"] <= 0:
        return f"nothing{' clearly' if found is None or found['unclear'] else ''} with {more} {name}"
    unit = f" {clean(objective['unit'])}" if objective["unit"] else ""
    return f"{number(found['gain'], 2)}{unit} {more} {name} ({found['id']}{_doubt(found)})"


def _doubt(found: dict[str, Any]) -> str:
    return ", within the error" if found["within_spread"] else ""
