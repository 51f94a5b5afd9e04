"""The file of a calibration: who is trained, what came of it, what it says in the end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import EXIT_FAILED, EvonasError
from ..store import Store
from .sample import Chosen
from .short import clean

FILE = "calibration.json"  # in the run's folder; of a file that lies elsewhere, NAME.calibration.json beside it
EARLIER = -1  # evaluations at a calibration's end, in a file that does not say
MAX_BYTES = 8 * 2**20  # a training takes some 150; parsed, brackets alone take thirty times as much memory
AS_LONG = 1.0  # the factor of trainings with another seed, as long as the last rung; the others are longer
LASTING = ("ok", "non_finite")  # how a training ends that would end so again
_SANE = 1e18  # no number of a calibration comes near it
_LONGEST = 200  # characters of a text in the file


def begin(
    chosen: Sequence[Chosen], factor: float, rungs: Sequence[int], data: str | None, before: Mapping[str, Any] | None,
    again: Sequence[Chosen] = (), run: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What the file holds before anything is trained: {run, factor, rungs, data, sample, again, trained, summary,
    done}.

    ``run`` says when the run was created, so that it's taken for no other's that comes to lie there; ``data`` is the
    fingerprint of what is learned; ``again`` are those to train with another seed, ``AS_LONG``.
    ``trained`` are all trainings ever finished, of other samples and factors too; of ``before``, the last calibration,
    it takes them and, until there is a new one, the summary. ``done`` is how many evaluations the run had when this
    calibration came to its end.
    """
    trained = list(before["trained"]) if before else []
    return {
        "run": run,
        "factor": factor,
        "rungs": list(rungs),
        "data": data,
        "sample": _recalled([entry(c) for c in chosen], trained, factor, data),
        "again": _recalled([entry(c) for c in again], trained, AS_LONG, data),
        "trained": trained,
        "summary": before["summary"] if before else None,
        "done": None,
    }


def _recalled(entries: list[dict[str, Any]], trained: Sequence[Mapping], factor: float, data: str | None) -> list[dict]:
    """``entries`` with what came of those that were trained so long on that data before."""
    known = {e["id"]: e for e in trained if (e["factor"], e["data"]) == (factor, data)}
    for e in entries:
        if e["id"] in known:
            e |= {key: known[e["id"]][key] for key in ("long", "status", "reason")}
    return entries


def entry(chosen: Chosen) -> dict[str, Any]:
    """What the file holds of a genome before it is trained."""
    return {
        "id": chosen.genome.id,
        "stratum": chosen.stratum,
        "losses": chosen.losses,
        "expected": chosen.expected,
        "latency": chosen.latency,
        "params": chosen.params,
        "learning_rate": chosen.genome.get("learning_rate"),
        "long": None,
        "status": "",
        "reason": "",
    }


def note(
    calibration: dict[str, Any], found: dict[str, Any], status: str, long: float | None, reason: str, factor: float
) -> None:
    """Enter how the training of ``found``, so many times as long as the last rung, ended. What another try may mend
    does not last beyond this calibration."""
    found |= {"long": long, "status": status, "reason": clean(next(iter(reason.splitlines()), ""))[:_LONGEST]}
    if status in LASTING:
        about = {key: found[key] for key in ("id", "long", "status", "reason")}
        calibration["trained"].append({**about, "factor": factor, "data": calibration["data"]})


def ended_long(trained: Sequence[Mapping[str, Any]], factor: float, data: str | None) -> dict[str, float | None]:
    """Genome id -> loss of so long a training on that data, None where it came to none; of those of ``trained``."""
    return {e["id"]: e["long"] for e in trained if (e["factor"], e["data"]) == (factor, data)}


def trained_long(trained: Sequence[Mapping[str, Any]], factor: float, data: str | None) -> dict[str, float]:
    """The same of those that came to a loss."""
    return {i: loss for i, loss in ended_long(trained, factor, data).items() if loss is not None}


def write_calibration(run: Path, calibration: Mapping[str, Any]) -> None:
    """Replace the calibration of the run with that ``Store.path``. Raises EvonasError where it can't be written."""
    path = _file(run)
    fresh = path.with_suffix(".tmp")
    try:
        fresh.write_text(json.dumps(calibration, indent=1, allow_nan=False), encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        raise EvonasError(f"{path} can't be written: {error.strerror}", exit_code=EXIT_FAILED) from None


def is_calibrated(store: Store) -> bool:
    """Whether a calibration of the run as it is now has come to its end; of an earlier version's that is not known."""
    found = calibration_of(store)
    return found is not None and found["summary"] is not None and found["done"] in (store.evaluated, EARLIER)


def begun(store: Store, factor: float) -> int:
    """How many genomes a calibration has that was begun with that factor and has not come to its end; 0 where there is
    none."""
    found = calibration_of(store)
    return found["genomes"] if found is not None and (found["done"], found["factor"]) == (None, factor) else 0


def calibration_of(store: Store) -> dict[str, Any] | None:
    """``read_calibration``; None also where another run lay there, and left it."""
    found = read_calibration(store.path) or {}
    # What earlier versions wrote does not say whose it is.
    return found if found and found.get("run") in (None, store.header["created"]) else None


def read_calibration(run: Path) -> dict[str, Any] | None:
    """{run, factor, genomes (of its sample, 0 as long as none was trained), trained, data, summary, done} of the last
    calibration; None where there is none or the file is not one."""
    path = _file(run)
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        text = path.read_text(encoding="utf-8")
        data = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
        summary = data.get("summary")
        return {
            "run": _read_mark(data.get("run")),
            "factor": _number(data.get("factor"), or_none=True),
            "genomes": _begun(data.get("sample", ())),
            "trained": [_read_training(e) for e in data.get("trained", ())],
            "data": _read_mark(data.get("data")),
            "summary": None if summary is None else _read_summary(summary),
            "done": _number(data.get("done", EARLIER), or_none=True),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def _file(run: Path) -> Path:
    return run.with_suffix(f".{FILE}") if run.is_file() else run / FILE


def _read_training(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["status"] not in LASTING or (row["long"] is None) == (row["status"] == "ok"):
        raise ValueError(row["status"])
    return {
        "id": _text(row["id"]),
        "long": _number(row["long"], or_none=True),
        "status": _text(row["status"]),
        "reason": _text(row["reason"]),
        "factor": _number(row["factor"]),
        "data": _read_mark(row["data"]),
    }


def _begun(sample: Sequence[Mapping[str, Any]]) -> int:
    return len(sample) if any(e["status"] for e in sample) else 0


def _read_mark(text: Any) -> str | None:
    """What is compared only."""
    return None if text is None else _text(text, MAX_BYTES)


def _read_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    out = {key: _number(summary[key]) for key in ("factor", "genomes")}
    out |= {"kept": _number(summary["kept"], or_none=True), "predictors": []}
    # What earlier versions wrote has none of the following.
    out |= {key: _number(summary.get(key), or_none=True) for key in ("kept_of", "kept_volume")}
    out["diverged"] = _number(summary.get("diverged", 0))
    for name, keys in (("extrapolation", ("tokens", "genomes", "error")), ("seed_noise", ("genomes", "loss"))):
        found = summary.get(name)
        if found is not None:
            found = {key: _number(found[key], or_none=key == keys[-1]) for key in keys}
        out[name] = found
    for row in summary["predictors"]:
        known = row["tau"] is not None
        bounds = {key: _number(row[key], or_none=not known or row["low"] is None) for key in ("low", "high")}
        out["predictors"].append(
            {
                "what": _text(row["what"]),
                "genomes": _number(row["genomes"]),
                "tau": _number(row["tau"], or_none=True),
                **bounds,
                "regret": _number(row["regret"], or_none=not known),
                "regions": {_text(name): _number(value, or_none=True) for name, value in row["regions"].items()},
            }
        )
    return out


def _finite(text: str) -> float:
    if not abs(value := float(text)) < _SANE:  # NaN too
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def _number(value: Any, or_none: bool = False) -> float | None:
    if not (isinstance(value, (int, float)) and not isinstance(value, bool)) and not (or_none and value is None):
        raise TypeError(value)
    return value


def _text(value: Any, longest: int = _LONGEST) -> str:
    value.encode("utf-8")  # raises for what can't be printed
    if len(value) > longest:
        raise ValueError(value)
    return value
