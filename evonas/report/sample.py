"""Whom a calibration trains longer: a sample of a run's genomes, from all that has become of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import EvonasError
from ..evolution.rungs import Ladder, described, traits_in
from ..genome import Genome, space_from_dict
from ..genome.graph import cost
from ..record import Record
from ..store import Store, told_records
from .compare import compare

FRONT, DOMINATED = "front", "dominated"


class Chosen(NamedTuple):
    """A genome to train longer. ``losses`` at the rungs it reached, ``expected`` at the run's last one from what was
    told; None where no genome is there. ``latency`` is None where the run does not trade it off: who goes on is then
    chosen by something else."""

    genome: Genome
    stratum: str
    losses: list[float]
    expected: float | None
    latency: float | None
    params: int


def choose(store: Store, n: int, rungs: int, vocab_size: int, context: int) -> list[Chosen]:
    """``n`` genomes of the run, or all it has: evenly from the front, the dominated at the highest rung reached and
    those that stopped at each rung below, within each from the fewest parameters to the most; of the front first of
    all those that the stopped ones have to beat. ``rungs``: how many the run has. Raises EvonasError where none has a
    loss.
    """
    told = losses_told(store)
    names = {o["name"] for o in store.header["objectives"]}
    if not told:
        wanted = "loss" in names
        raise EvonasError(
            f"run {store.name!r} has no genome with a loss",
            f"Go on with it first: evonas resume {store.reference}"
            if wanted
            else "Calibrate a run that trades off the loss.",
        )
    highest = max(map(len, told.values()))
    params = {i: cost(store.genomes[i].genome, vocab_size, context).params for i in told}
    front = {r.genome_id for r in compare(store).front_records()}
    strata: dict[str, list[str]] = {FRONT: [], DOMINATED: []}
    for genome_id in sorted(told, key=lambda i: (params[i], i)):
        top = FRONT if genome_id in front else DOMINATED
        reached = len(told[genome_id])
        strata.setdefault(top if reached == highest else f"stopped at rung {reached - 1}", []).append(genome_id)
    expected = _expected(store, told, rungs) if highest >= rungs else {}
    shares = _shares(strata, n)
    stopped = [i for stratum, ids in shares.items() if stratum not in (FRONT, DOMINATED) for i in ids]
    latency = {i: records[-1].value("latency") if "latency" in names else None for i, records in told.items()}
    last = {i: (latency[i], told[i][-1].value("loss")) for i in (*strata[FRONT], *stopped)}
    shares[FRONT] = _facing(shares[FRONT], strata[FRONT], stopped, last)
    out = []
    for stratum, ids in shares.items():
        for genome_id in ids:
            losses = [r.measures["loss"].value for r in told[genome_id]]
            about = expected.get(genome_id), latency[genome_id], params[genome_id]
            out.append(Chosen(store.genomes[genome_id].genome, stratum, losses, *about))
    return out


def choose_again(chosen: Sequence[Chosen], rungs: int, n: int) -> list[Chosen]:
    """Up to ``n`` of a sample's genomes at the last of ``rungs``, evenly from the fewest parameters to the most: those
    to train with another seed."""
    there = sorted((c for c in chosen if len(c.losses) == rungs), key=lambda c: (c.params, c.genome.id))
    places = np.linspace(0, len(there) - 1, min(n, len(there)))
    return [there[k] for k in places.round().astype(int)]


def losses_told(store: Store) -> dict[str, list[Record]]:
    """Records with a loss of every genome that never failed, rung by rung; of several at one rung the last. What broke
    a constraint in the end has a loss too: without it losses would be told of a sample that they themselves cut off."""
    out: dict[str, dict[str | None, Record]] = {}
    for *_, record in told_records(store):
        loss = record.measures.get("loss")
        rung = loss.fidelity if loss is not None and record.status in ("ok", "infeasible") else None
        out.setdefault(record.genome_id, {})[rung] = record
    return {i: list(records.values()) for i, records in out.items() if None not in records}


def seconds_per_token(store: Store) -> dict[str, float]:
    """Genome id -> what a token of its training took, of every genome with a loss; the mean where it was not paid."""
    # Of all records: one that was measured or trained before repeats no cost.
    spent = {i: np.sum([(r.cost.get("seconds", 0.0), r.cost.get("tokens", 0.0)) for r in store.records_of(i)], axis=0)
             for i in losses_told(store)}  # fmt: skip
    if not spent:
        return {}
    seconds, tokens = np.sum(list(spent.values()), axis=0)
    return {i: float(s / t if t else seconds / max(tokens, 1.0)) for i, (s, t) in spent.items()}


def _shares(strata: Mapping[str, list[str]], n: int) -> dict[str, list[str]]:
    """Of each stratum about as many, spread over its order; what a small one lacks goes to the others."""
    out: dict[str, list[str]] = {}
    left = n
    for k, (stratum, ids) in enumerate(ordered := sorted(strata.items(), key=lambda s: len(s[1]))):
        take = min(len(ids), round(left / (len(ordered) - k)))
        # One alone is the middle one: the smallest would speak for nobody else.
        places = np.linspace(0, len(ids) - 1, take) if take > 1 else np.full(take, (len(ids) - 1) // 2)
        out[stratum] = [ids[i] for i in places.round().astype(int)]
        left -= take
    return out


def _facing(
    spread: Sequence[str], front: Sequence[str], stopped: Sequence[str], last: Mapping[str, tuple[float | None, float]]
) -> list[str]:
    """As many of the front as ``spread``: of those no slower than each of the stopped the most accurate, which it would
    have to beat; then of ``spread`` what is left. ``last``: (latency, loss), as told last.

    Among eight of twenty members a stopped one would seem best wherever the member that dominates it is not there.
    """
    rivals: Counter[str] = Counter()
    for i in stopped:
        faster = [m for m in front if None not in (last[i][0], last[m][0]) and last[m][0] <= last[i][0]]
        if faster:
            rivals[min(faster, key=lambda m: (last[m][1], m))] += 1
    first = [m for m, _ in rivals.most_common()]  # those that face the most
    return sorted(list(dict.fromkeys((*first, *spread)))[: len(spread)], key=front.index)


def _expected(store: Store, told: Mapping[str, list[Record]], rungs: int) -> dict[str, float]:
    names = [o["name"] for o in store.header["objectives"]]
    space = space_from_dict(store.header["space"], stored=True)
    rows = {i: [tuple(r.measures[n].value for n in names) for r in records] for i, records in told.items()}
    genomes = {i: described(space, store.genomes[i].genome) for i in rows}
    ladder = Ladder([(rows[i], genomes[i]) for i in rows if len(rows[i]) > 1], rungs, len(names), traits_in(space))
    loss = names.index("loss") if "loss" in names else None
    if loss is None:
        return {i: records[-1].measures["loss"].value for i, records in told.items()}
    expected = ladder.expected(list(rows.values()), list(genomes.values()))
    return {i: values[loss] for i, values in zip(rows, expected)}
