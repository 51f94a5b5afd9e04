"""How far the proxy can be trusted: short losses against a much longer training of the same genomes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import EXIT_FAILED, EvonasError
from ..evolution.rungs import Ladder
from ..evolution.selection import non_dominated
from ..genome import Genome, space_from_dict
from ..genome.graph import cost
from ..record import Record
from ..store import Store
from .compare import compare

FILE = "calibration.json"  # in the run's folder
MAX_BYTES = 64 * 2**20
FRONT, DOMINATED = "front", "dominated"
_RESAMPLES = 1000
_FEWEST = 4  # genomes from which a rank correlation says anything


class Chosen(NamedTuple):
    """A genome to train longer. ``losses`` at the rungs it reached, ``expected`` at the last one from what was told."""

    genome: Genome
    stratum: str
    losses: list[float]
    expected: float
    latency: float | None


def choose(store: Store, n: int) -> list[Chosen]:
    """``n`` genomes of the run, or all it has: evenly from the front, the dominated at the last rung and those that
    stopped at each rung below, within each from the smallest to the largest. Raises EvonasError where none has a loss.
    """
    told = _told(store)
    if not told:
        raise EvonasError(f"run {store.name!r} has no genome with a loss", "Calibrate a run that trades off the loss.")
    rungs = max(map(len, told.values()))
    front = {r.genome_id for r in compare(store).front_records()}
    strata: dict[str, list[str]] = {FRONT: [], DOMINATED: []}
    for genome_id, records in told.items():
        top = FRONT if genome_id in front else DOMINATED
        stratum = top if len(records) == rungs else f"stopped at rung {len(records) - 1}"
        strata.setdefault(stratum, []).append(genome_id)
    expected = _expected(store, told, rungs)
    out = []
    for stratum, ids in _shares(strata, n).items():
        for genome_id in ids:
            records = told[genome_id]
            losses = [r.measures["loss"].value for r in records]
            genome, latency = store.genomes[genome_id].genome, records[-1].value("latency")
            out.append(Chosen(genome, stratum, losses, expected[genome_id], latency))
    return out


def _told(store: Store) -> dict[str, list[Record]]:
    """Records with a loss of every genome that never failed, rung by rung."""
    out: dict[str, list[Record]] = {}
    for record in sorted(store.records, key=lambda r: (r.generation, r.index)):
        out.setdefault(record.genome_id, []).append(record)
    return {i: records for i, records in out.items() if all(r.ok and r.value("loss") is not None for r in records)}


def _shares(strata: Mapping[str, list[str]], n: int) -> dict[str, list[str]]:
    """Of each stratum about as many, spread over its order; what a small one lacks goes to the others."""
    out: dict[str, list[str]] = {}
    left = n
    for k, (stratum, ids) in enumerate(ordered := sorted(strata.items(), key=lambda s: len(s[1]))):
        take = min(len(ids), round(left / (len(ordered) - k)))
        out[stratum] = [ids[i] for i in np.linspace(0, len(ids) - 1, take).round().astype(int)] if take else []
        left -= take
    return out


def _expected(store: Store, told: Mapping[str, list[Record]], rungs: int) -> dict[str, float]:
    names = [o["name"] for o in store.header["objectives"]]
    space = space_from_dict(store.header["space"])
    rows = {i: [tuple(r.measures[n].value for n in names) for r in records] for i, records in told.items()}
    genes = {i: space.encode(store.genomes[i].genome, per_layer=False) for i in rows}
    ladder = Ladder([(rows[i], genes[i]) for i in rows if len(rows[i]) > 1], rungs, len(names))
    loss = names.index("loss") if "loss" in names else None
    if loss is None:
        return {i: records[-1].measures["loss"].value for i, records in told.items()}
    return {i: ladder.expected(rows[i], genes[i])[loss] for i in rows}


# -- what it says -----------------------------------------------------------------------------------------------------


def summarise(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """What the trainings done so far say: {factor, genomes, kept, predictors}.

    ``kept``: of the genomes that are non-dominated in (long loss, latency) among those trained longer, the share that
    had reached the last rung. ``predictors`` has one entry for the loss at each rung and one for what is expected at
    the last: {what, genomes, tau, low, high, regret, regions}. ``tau`` is Kendall's tau-b (Kendall 1945) with the long
    loss, ``low`` and ``high`` its 95% bootstrap interval over genomes; ``regret`` how many nats worse than the best
    the genome is, on average over resamples, that the predictor would choose; ``regions`` {name: tau} for halves by
    size and learning rate. None where there are fewer than four genomes.
    """
    done = [e for e in calibration["sample"] if e["long"] is not None]
    rungs, predictors = calibration["rungs"], []
    for rung, tokens in enumerate(rungs):
        there = [e for e in done if len(e["losses"]) > rung]
        predictors.append(_summary(f"loss at {tokens:,} tokens", there, [e["losses"][rung] for e in there]))
    if len(rungs) > 1:
        what = f"expected at {rungs[-1]:,} tokens"
        predictors.append(_summary(what, done, [e["expected"] for e in done]))
    return {
        "factor": calibration["factor"],
        "genomes": len(done),
        "kept": _kept_share(done, len(rungs)),
        "predictors": predictors,
    }


def _kept_share(done: Sequence[Mapping], rungs: int) -> float | None:
    done = [e for e in done if e["latency"] is not None]
    if len(done) < _FEWEST:
        return None
    best = non_dominated(np.array([[e["long"], e["latency"]] for e in done]))
    return float(np.mean([len(e["losses"]) == rungs for e, keep in zip(done, best) if keep]))


def _summary(what: str, entries: Sequence[Mapping], values: Sequence[float]) -> dict[str, Any]:
    out: dict[str, Any] = {"what": what, "genomes": len(entries), "tau": None, "low": None, "high": None}
    out |= {"regret": None, "regions": {}}
    if len(entries) < _FEWEST:
        return out
    x, y = np.array(values), np.array([e["long"] for e in entries])
    rng = np.random.default_rng(0)
    draws = rng.integers(len(x), size=(_RESAMPLES, len(x)))
    taus = np.array([t for d in draws if (t := tau(x[d], y[d])) is not None])
    out["tau"] = tau(x, y)
    if len(taus):
        out["low"], out["high"] = np.percentile(taus, [2.5, 97.5]).tolist()
    out["regret"] = float(np.mean([y[d][x[d].argmin()] - y[d].min() for d in draws]))
    for name, by in (("size", "params"), ("learning rate", "learning_rate")):
        scale = np.array([e[by] if e[by] is not None else math.nan for e in entries], dtype=float)
        middle = np.median(scale)
        for half, mask in ((f"smaller {name}", scale <= middle), (f"larger {name}", scale > middle)):
            if mask.sum() >= _FEWEST:
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
            f"{f' ({regions})' if regions else ''}; the best by it is {row['regret']:.3f} nats from the best."
        )
    if summary["kept"] is not None:
        out.append(f"Of the truly best front among them the rungs had kept {summary['kept']:.0%}.")
    return out


# -- its file -------------------------------------------------------------------------------------------------------


def entry(chosen: Chosen, vocab_size: int, context: int) -> dict[str, Any]:
    """What the file holds of a genome before it is trained."""
    return {
        "id": chosen.genome.id,
        "stratum": chosen.stratum,
        "losses": chosen.losses,
        "expected": chosen.expected,
        "latency": chosen.latency,
        "params": cost(chosen.genome, vocab_size, context).params,
        "learning_rate": chosen.genome.get("learning_rate"),
        "long": None,
        "status": "",
    }


def write_calibration(folder: Path, calibration: Mapping[str, Any]) -> None:
    """Replace the run's calibration. Raises EvonasError where it can't be written."""
    path = folder / FILE
    fresh = path.with_suffix(".tmp")
    try:
        fresh.write_text(json.dumps(calibration, indent=1, allow_nan=False), encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        raise EvonasError(f"{path} can't be written: {error.strerror}", exit_code=EXIT_FAILED) from None


def read_calibration(folder: Path) -> dict[str, Any] | None:
    """The run's last calibration; None where there is none or the file is not one."""
    path = folder / FILE
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        _check(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return data


def _check(data: Mapping[str, Any]) -> None:
    """Raise what a wrong type or a missing key raises."""
    f"{data['factor']:g}", sum(data["rungs"])
    for e in data["sample"]:
        f"{sum(e['losses']) + e['expected'] + e['params'] + (e['long'] or 0.0) + (e['latency'] or 0.0):g}"
        e["id"].encode(), e["status"].encode(), e["learning_rate"]
    if data.get("summary") is not None:
        [line.encode() for line in lines(data["summary"])]
