"""One mapping that holds all a report says: the contract of ``evonas report --format json``."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..config import MAX_CONTEXT, MAX_GENERATIONS
from ..errors import EvonasError
from ..evolution.ties import tied_records
from ..record import CONDITIONS, OBJECTIVES, Constraint, Measure, Record, conditions_of
from ..store import ENDED, Store
from .against import against_seeds, last_record
from .calibration import noise_of
from .calibration_file import calibration_of, ended_long, trained_long
from .compare import Comparison, compare
from .extrapolation import extrapolate
from .membership import front_probabilities
from .sample import losses_told

_LONGEST = 200  # characters of a text that is shown as it is


@np.errstate(over="ignore", invalid="ignore")  # the values of a run from elsewhere may be of any size
def build_report(store: Store) -> dict[str, Any]:
    """Everything a report shows, as JSON holds it.

    Returns:
        ``run``, ``task``, ``data`` (the name of its file, "" where the task has its own), ``device`` ("cpu" or
        "cuda"), ``device_name`` (its model, "" where nothing was measured),
        ``context`` (tokens, or null), ``conditions`` {measured objective: how, in words}, ``seed``,
        ``objectives`` [{name, unit, direction}], ``generations`` (committed),
        ``evaluations``, ``failures`` {status: count}, ``failed_last`` (see ``_failed_last``), ``hypervolume`` [one per
        generation], ``front`` [{id, generation (from 0), parents, objectives {name: {value, spread, fidelity}},
        genome}] over all ok records of the highest fidelity, each with the ``probability`` that it stays there given
        the spreads (and, once calibrated, what another seed changes) and, once calibrated, its loss ``extrapolated``
        to the long trainings {tokens, value, spread (null where it was trained so long)}, else null, ``seeds`` [the
        same for seed genomes, with what was last measured of them], ``ties`` [[id, id]] (pairs on the front, see
        ``near_ties``), ``against_seed`` (see ``against_seeds``),
        ``fidelity`` {name: text} of the front, of what is constrained too, ``left_out`` (ok records of another fidelity
        or device), ``other_device`` (genomes of the front's fidelity among them), ``constraints`` [{text, name, unit}]
        (those that are no objectives have their values in a member's ``constraints``, as in ``objectives``), ``goals``
        [text],
        ``created``, ``seconds``, ``versions``, ``status_of_run`` {generations_asked, generations_done, ended},
        ``rungs`` (see ``_rungs``), ``surrogate`` (see ``_surrogate``), ``calibration`` (the last one, see
        ``summarise``, or null).
    """
    header = store.header
    comparison = compare(store)
    calibration = calibration_of(store) or {"trained": [], "data": None, "summary": None}
    of_seeds = noise_of(calibration["summary"])
    noise = {} if of_seeds is None else {"loss": of_seeds}
    probabilities = front_probabilities(comparison, noise)
    ahead = _extrapolated(store, calibration)
    records, generations = store.records, store.generations
    asked = header["settings"].get("generations")
    return {
        "run": store.name,
        "task": _text(header["settings"].get("task", "")),
        "data": _data(header["settings"]),
        "device": header["device"],
        **_conditions(store, comparison),
        "seed": header["seed"],
        "objectives": [{key: o[key] for key in ("name", "unit", "direction")} for o in header["objectives"]],
        "generations": len(generations),
        "evaluations": store.evaluated,
        "failures": dict(Counter(r.status for r in records if not r.ok).most_common()),
        "failed_last": _failed_last(records),
        "hypervolume": [g["hypervolume"] for g in generations],
        "front": [
            {**_member(store, record, comparison.names, ahead), "probability": probabilities[record.genome_id]}
            for record in comparison.front_records()
        ],
        "ties": _ties(comparison),
        "seeds": _seeds(store, comparison, ahead),
        "against_seed": against_seeds(store, comparison, noise, ahead),
        "fidelity": comparison.fidelity,
        "left_out": comparison.left_out,
        "other_device": _other_device(store, comparison),
        "constraints": _constraints(header["constraints"]),
        "goals": _goals(header["settings"].get("goals")),
        "created": header["created"],
        "seconds": store.seconds,
        "versions": {name: _text(version) for name, version in header["versions"].items()},
        "status_of_run": {
            # A run on a time budget has no goal of generations.
            "generations_asked": asked if isinstance(asked, int) and asked < MAX_GENERATIONS else None,
            "generations_done": len(generations),
            "ended": ENDED in header["notes"],
        },
        "rungs": _rungs(store, generations[-1]) if generations else [],
        "surrogate": _surrogate(generations),
        "calibration": calibration["summary"],
    }


def _conditions(store: Store, comparison: Comparison) -> dict[str, Any]:
    """``device_name``, ``context`` and ``conditions`` of what the front was measured by."""
    device, context = store.header["device"], store.header["settings"].get("context")
    context = context if type(context) is int and 1 <= context <= MAX_CONTEXT else None
    of = comparison.records[0].measures if comparison.records else {}
    models = {n: _text(m.device) for n, m in of.items() if n in comparison.fidelity and m.fidelity == "measured"}
    known = context is not None and device in ("cpu", "cuda")
    how = {n: conditions_of(n, context, device, models[n]) for n in CONDITIONS if n in models} if known else {}
    return {"device_name": next(iter(models.values()), ""), "context": context, "conditions": how}


def _failed_last(records: Sequence[Record]) -> dict[str, dict[str, str]]:
    """Of each kind of failure the last: {status: {id, reason (its first line)}}."""
    return {
        r.status: {"id": r.genome_id, "reason": _text(next(iter(r.reason.splitlines()), ""))}
        for r in records
        if not r.ok and r.status != "infeasible"
    }


def _extrapolated(store: Store, calibration: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Genome id -> {tokens, value, spread} of its loss after a training as long as those of the last calibration: what
    is expected, or what came of it, which has no spread; of what diverged none, empty where nothing is known."""
    ahead = (calibration["summary"] or {}).get("extrapolation")
    if ahead is None or not store.generations:
        return {}
    rungs = len(store.generations[-1].get("rungs") or (0,))
    about = calibration["trained"], calibration["summary"]["factor"], calibration["data"]
    found = extrapolate(store, losses_told(store), rungs, trained_long(*about))
    values = {i: (value, found.error) for i, value in found.losses.items()} if found else {}
    values |= {i: (loss, None) for i, loss in ended_long(*about).items()}
    return {
        i: {"tokens": ahead["tokens"], "value": value, "spread": spread}
        for i, (value, spread) in values.items()
        if value is not None
    }


def _text(value: Any) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""


def _data(settings: Mapping[str, Any]) -> str:
    """By its name: losses on two texts do not compare."""
    data = settings.get("data", "")
    if settings.get("task") == "text" and data is None:
        return "embedded corpus"
    return _text(os.path.basename(data)) if isinstance(data, str) else ""


def _rungs(store: Store, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry per rung of a run with several: {fidelity, genomes (that got there and did not fail), pairs (genomes
    that have been there and at the next rung), error {objective: standard error with which it tells the last rung, null
    where unknown}}; the last one has no pairs and no error."""
    expected = {e["rung"]: e for e in row.get("expected") or ()}
    of = {rung: f"{e['of']} tokens" for rung, e in expected.items()}
    last = store.header["settings"].get("tokens")
    return [
        {
            "fidelity": of.get(rung, f"{last} tokens"),
            "genomes": genomes,
            "pairs": expected[rung]["pairs"] if rung in expected else None,
            "error": expected[rung]["error"] if rung in expected else None,
        }
        for rung, genomes in enumerate(row.get("rungs") or ())
    ]


def _surrogate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None] | None:
    """How well the surrogate of the search had told right when it was last asked, {tau, coverage, share} as the
    generations table has them; None where it never was."""
    found = next((row["surrogate"] for row in reversed(rows) if isinstance(row.get("surrogate"), Mapping)), {})
    numbers = {n: float(v) for n, v in found.items() if type(v) in (int, float) and -1 <= v <= 1}
    if not {"tau", "share"} <= set(numbers):
        return None
    return {"tau": numbers["tau"], "coverage": numbers.get("coverage"), "share": numbers["share"]}


def _seeds(store: Store, comparison: Comparison, ahead: Mapping[str, Any]) -> list[dict[str, Any]]:
    out = []
    for seed in store.header["seed_genomes"]:
        record = last_record(store, seed["id"])
        if record is None:
            continue
        if record.ok:
            record = comparison.record_of(seed["id"]) or _elsewhere(record, comparison)
        else:  # what it failed to get is told of the rungs below
            before = store.record_of(seed["id"])
            record = _elsewhere(replace(record, measures={**before.measures, **record.measures}), comparison)
        out.append(_member(store, record, comparison.names, ahead))
    return out


def _elsewhere(record: Record, comparison: Comparison) -> Record:
    """With what another device has measured than the front's named so: there is no percentage between two machines."""
    front = comparison.records[0].measures if comparison.records else {}
    return replace(
        record,
        measures={
            name: replace(m, fidelity=f"measured on {m.device}")
            if m.fidelity == "measured" and name in front and front[name].device != m.device
            else m
            for name, m in record.measures.items()
        },
    )


def _ties(comparison: Comparison) -> list[list[str]]:
    """Pairs of ids on the front that what was measured does not tell apart, in the order of the front."""
    front = comparison.front_records()
    if not front:
        return []
    measured = [n for n in comparison.names if comparison.fidelity.get(n) == "measured"]
    pairs = tied_records(front, comparison.names, comparison.directions, measured)
    return [[front[a].genome_id, front[b].genome_id] for a, b in pairs]


def _other_device(store: Store, comparison: Comparison) -> int:
    """How many genomes the front can't hold because they were timed elsewhere."""
    here = {r.genome_id for r in comparison.records}
    names = (*comparison.names, *(c["name"] for c in _constraints(store.header["constraints"])))
    of = comparison.records[0].measures if comparison.records else {}
    wanted = {n: of[n].fidelity for n in names if n in of}
    return len(
        {
            r.genome_id
            for r in store.records
            if r.genome_id not in here
            and wanted
            and r.ok
            and {n: m.fidelity for n, m in r.measures.items() if n in wanted} == wanted
        }
    )


def _constraints(texts: list[Any]) -> list[dict[str, str]]:
    out = []
    for text in texts:
        try:
            name = Constraint.parse(str(text)).name
        except EvonasError:  # of some other tool: shown, but nothing is known of it
            name = ""
        out.append({"text": str(text), "name": name, "unit": OBJECTIVES[name].unit if name else ""})
    return out


def _goals(texts: Any) -> list[str]:
    return [_text(text) for text in texts if isinstance(text, str)] if isinstance(texts, (list, tuple)) else []


def _member(store: Store, record: Record, names: tuple[str, ...], ahead: Mapping[str, Any]) -> dict[str, Any]:
    entry = store.genomes[record.genome_id]
    others = dict.fromkeys(c["name"] for c in _constraints(store.header["constraints"]) if c["name"] not in names)
    return {
        "id": record.genome_id,
        "generation": entry.generation,
        "parents": list(entry.parents),
        "objectives": {name: _measure(record.measures[name]) for name in names if name in record.measures},
        "constraints": {name: _measure(record.measures[name]) for name in others if name in record.measures},
        "extrapolated": ahead.get(record.genome_id),
        "genome": {k: list(v) if isinstance(v, tuple) else v for k, v in entry.genome.items()},
    }


def _measure(measure: Measure) -> dict[str, Any]:
    spread = measure.spread if math.isfinite(measure.spread) else None
    return {"value": measure.value, "spread": spread, "fidelity": measure.fidelity}
