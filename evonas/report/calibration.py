"""How far the proxy can be trusted: short losses against a much longer training of the same genomes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EXIT_FAILED, EvonasError
from ..evolution.selection import hypervolume, hypervolume_box, non_dominated
from ..store import Store
from .extrapolation import FEWEST as TO_EXTRAPOLATE
from .extrapolation import Extrapolation, extrapolate
from .sample import Chosen, losses_told
from .short import clean, number

FILE = "calibration.json"  # in the run's folder; of a file that lies elsewhere, NAME.calibration.json beside it
EARLIER = -1  # evaluations at a calibration's end, in a file that does not say
MAX_BYTES = 8 * 2**20  # a training takes some 150; parsed, brackets alone take thirty times as much memory
_RESAMPLES = 1000
FEWEST = 4  # genomes from which a rank correlation says anything
BOUNDED_FROM = 12  # genomes from which resampling says how much: of fewer its intervals hold the truth far too seldom
AS_LONG = 1.0  # the factor of trainings with another seed, as long as the last rung; the others are longer
LASTING = ("ok", "non_finite")  # how a training ends that would end so again
_SANE = 1e18  # no number of a calibration comes near it
_LONGEST = 200  # characters of a text in the file


# -- what it says -----------------------------------------------------------------------------------------------------


def summary_of(store: Store, calibration: Mapping[str, Any]) -> dict[str, Any]:
    """``summarise``, with what all trainings of the run ever finished tell of the others and of seeds."""
    rungs, told = len(calibration["rungs"]), losses_told(store)
    last = {i: records[-1].measures["loss"].value for i, records in told.items() if len(records) == rungs}
    long, again = (
        trained_long(calibration["trained"], factor, calibration["data"]) for factor in (calibration["factor"], AS_LONG)
    )
    return summarise(calibration, extrapolate(store, told, rungs, long), seed_noise(last, again))


def summarise(
    calibration: Mapping[str, Any], extrapolation: Extrapolation | None = None, noise: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the trainings done so far say: {factor, genomes, diverged, kept, kept_of, kept_volume, predictors,
    extrapolation, seed_noise}.

    ``diverged`` counts those of the sample that came to no loss; nothing else here knows of them.
    ``kept``: of the ``kept_of`` genomes that are non-dominated in (long loss, latency) among those trained longer, the
    share that had reached the last rung (see ``choose``: a sample favours these); ``kept_volume``: of the hypervolume
    of that front, in the box around it, the share that those at the last rung have without the others. None where none
    of them had, and of a run with one rung, which stops nothing. ``predictors`` has one entry for the loss at each
    rung, where any genome of the run is there one for what is expected at the last, and one for what is extrapolated
    from there, each genome left out: {what, genomes, tau, low, high, regret, regions}. ``tau`` is Kendall's tau-b
    (Kendall 1945) with the long loss, ``low`` and ``high`` its 95% bootstrap interval over genomes (None for fewer than
    ``BOUNDED_FROM``); ``regret`` how many nats worse than the best of these the one is that the predictor would choose;
    ``regions`` {name: tau} for halves by size and learning rate. None where there are fewer than four genomes.
    ``extrapolation`` is {tokens, genomes (at the last rung and trained longer), error (of the long loss, nats, a genome
    left out; None where they are too few)}, ``seed_noise`` the ``noise`` that is given.
    """
    done = [e for e in calibration["sample"] if e["long"] is not None]
    rungs, predictors = calibration["rungs"], []
    for rung, tokens in enumerate(rungs):
        there = [e for e in done if len(e["losses"]) > rung]
        if not rung or any(len(e["losses"]) > rung for e in calibration["sample"]):  # a rung nobody reached has no name
            predictors.append(_summary(f"loss at {tokens:,} tokens", there, [e["losses"][rung] for e in there]))
    told = [e for e in done if e["expected"] is not None]
    if len(rungs) > 1 and told:
        what = f"expected at {rungs[-1]:,} tokens"
        predictors.append(_summary(what, told, [e["expected"] for e in told]))
    tokens = round(rungs[-1] * calibration["factor"])
    if extrapolation is not None:
        there = [e for e in done if e["id"] in extrapolation.left_out.ranked]
        guesses = [extrapolation.left_out.ranked[e["id"]] for e in there]
        predictors.append(_summary(f"extrapolated to {tokens:,} tokens", there, guesses))
        ahead = {"genomes": len(extrapolation.left_out.ranked), "error": extrapolation.error}
    else:
        ahead = {"genomes": sum(len(e["losses"]) == len(rungs) for e in done), "error": None}
    return {
        "factor": calibration["factor"],
        "genomes": len(done),
        "diverged": sum(e["status"] == "non_finite" for e in calibration["sample"]),
        **_kept(done, len(rungs)),
        "predictors": predictors,
        "extrapolation": {"tokens": tokens, **ahead},
        "seed_noise": noise,
    }


def seed_noise(losses: Mapping[str, float], again: Mapping[str, float]) -> dict[str, Any] | None:
    """{genomes, loss}: by how much a genome's loss at the last rung varies with the seed (initial weights, order of the
    data): the standard deviation, nats, less what a seed changes for all alike, which ranks none of them otherwise.

    ``losses`` by genome id, and ``again`` with another seed. ``loss`` is None for fewer than four genomes; all is None
    for none.
    """
    apart = [again[i] - losses[i] for i in again if i in losses]
    if not apart:
        return None
    deviation = float(np.std(apart, ddof=1) / math.sqrt(2)) if len(apart) >= FEWEST else None
    return {"genomes": len(apart), "loss": deviation}


def noise_of(summary: Mapping[str, Any] | None) -> float | None:
    """By how much a loss varies with the seed, nats, as a calibration's summary has it; None where that is unknown."""
    found = (summary or {}).get("seed_noise")
    return None if found is None else found["loss"]


def _kept(done: Sequence[Mapping], rungs: int) -> dict[str, float | None]:
    done = [e for e in done if e["latency"] is not None]
    there = np.array([len(e["losses"]) == rungs for e in done])
    if rungs < 2 or len(done) < FEWEST or not there.any():
        return {"kept": None, "kept_of": None, "kept_volume": None}
    points = np.array([[e["long"], e["latency"]] for e in done])
    best = non_dominated(points)
    box = hypervolume_box(points[best])
    volume = hypervolume(points[there], *box) / hypervolume(points, *box)
    return {"kept": float(there[best].mean()), "kept_of": int(best.sum()), "kept_volume": volume}


def _summary(what: str, entries: Sequence[Mapping], values: Sequence[float]) -> dict[str, Any]:
    out: dict[str, Any] = {"what": what, "genomes": len(entries), "tau": None, "low": None, "high": None}
    out |= {"regret": None, "regions": {}}
    if len(entries) < FEWEST:
        return out
    x, y = np.array(values), np.array([e["long"] for e in entries])
    out["tau"], out["regret"] = tau(x, y), float(y[x.argmin()] - y.min())
    if out["tau"] is not None and len(x) >= BOUNDED_FROM:
        draws = np.random.default_rng(0).integers(len(x), size=(_RESAMPLES, len(x)))
        taus = np.array([t for d in draws if (t := tau(x[d], y[d])) is not None])
        out["low"], out["high"] = np.percentile(taus, [2.5, 97.5]).tolist()
    for name, by in (("size", "params"), ("learning rate", "learning_rate")):
        scale = np.array([e[by] if e[by] is not None else math.nan for e in entries], dtype=float)
        middle = np.median(scale)
        for half, mask in ((f"smaller {name}", scale <= middle), (f"larger {name}", scale > middle)):
            if FEWEST <= mask.sum() < len(scale):
                out["regions"][half] = tau(x[mask], y[mask])
    return out


def tau(x: np.ndarray, y: np.ndarray) -> float | None:
    """Kendall's tau-b of two samples (n,); None where one of them is constant."""
    from scipy.stats import kendalltau

    value = float(kendalltau(x, y).statistic)
    return value if math.isfinite(value) else None


def lines(summary: Mapping[str, Any]) -> list[str]:
    """A summary in sentences, for a report."""
    out = [f"Calibrated on {summary['genomes']} genomes trained {summary['factor']:g} times longer. Kendall's tau of"]
    for row in summary["predictors"]:
        if row["tau"] is None:
            out.append(f"  {row['what']}: too few genomes to say ({row['genomes']}).")
            continue
        regions = ", ".join(f"{name} {value:.2f}" for name, value in row["regions"].items() if value is not None)
        between = f" [{row['low']:.2f}, {row['high']:.2f}]" if row["low"] is not None else ""
        out.append(
            f"  {row['what']}: {row['tau']:.2f}{between} over {row['genomes']} genomes"
            f"{f' (halves: {regions})' if regions else ''}; "
            f"the best by it is {row['regret']:.3f} nats from the best of these."
        )
    if count := summary["diverged"]:
        tell = "none of these numbers tell of " + ("it" if count == 1 else "them")
        out.append(f"{count:.0f} more diverged in so long a training: {tell}.")
    return [*out, *_kept_lines(summary), *_ahead_lines(summary["extrapolation"]), *_noise_lines(summary["seed_noise"])]


def _kept_lines(summary: Mapping[str, Any]) -> list[str]:
    if summary["kept"] is None:
        return []
    between = ""
    if summary["kept_of"]:
        low, high = wilson(summary["kept"], summary["kept_of"])
        between = f" [{low:.0%}, {high:.0%}] of {summary['kept_of']:.0f}"
    of_volume = f", {summary['kept_volume']:.1%} of its hypervolume" if summary["kept_volume"] is not None else ""
    return [
        f"Of the truly best front among them the rungs had kept {summary['kept']:.0%}{between}{of_volume}; "
        "of all genomes it may be less, as among these are more of those that went on."
    ]


def wilson(share: float, n: float) -> tuple[float, float]:
    """95% interval of a share of ``n`` (Wilson 1927)."""
    z, share, n = 1.96, min(max(share, 0.0), 1.0), max(n, 1.0)
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def _ahead_lines(ahead: Mapping[str, Any] | None) -> list[str]:
    if ahead is None:  # of an earlier version
        return []
    if ahead["error"] is None:
        return [
            f"Nothing is extrapolated: of those at the last rung {ahead['genomes']:.0f} were trained longer, it takes "
            f"{TO_EXTRAPOLATE}."
        ]
    error = f"standard error {number(ahead['error'], 2)} nats, each genome told by others"
    return [f"Extrapolated to {ahead['tokens']:,.0f} tokens from the last rung and the genes: {error}."]


def _noise_lines(noise: Mapping[str, Any] | None) -> list[str]:
    if noise is None:
        return []
    were = f"{noise['genomes']:.0f} genomes trained with two"
    if noise["loss"] is None:
        return [f"How much a loss varies with the seed is not known: {were}, it takes {FEWEST}."]
    from scipy.stats import chi2

    freedom = max(noise["genomes"] - 1, 1)
    low, high = (noise["loss"] * math.sqrt(freedom / chi2.ppf(q, freedom)) for q in (0.975, 0.025))
    between = f"95% interval {number(low, 2)} to {number(high, 2)}"
    return [
        f"A loss at the last rung varies by ±{number(noise['loss'], 2)} nats from seed to seed ({were}, {between})."
    ]


# -- its file -------------------------------------------------------------------------------------------------------


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
