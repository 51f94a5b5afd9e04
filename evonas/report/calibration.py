"""How far the proxy can be trusted: short losses against a much longer training of the same genomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evolution.selection import hypervolume, hypervolume_box, non_dominated
from ..store import Store
from .calibration_file import AS_LONG, trained_long
from .extrapolation import FEWEST as TO_EXTRAPOLATE
from .extrapolation import Extrapolation, extrapolate
from .sample import losses_told
from .short import number

_RESAMPLES = 1000
FEWEST = 4  # genomes from which a rank correlation says anything
BOUNDED_FROM = 12  # genomes from which resampling says how much: of fewer its intervals hold the truth far too seldom


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
