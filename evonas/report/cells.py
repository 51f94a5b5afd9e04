"""The rows that the terminal table, Markdown and HTML share: plain text, cell by cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..genome import Genome
from .against import sentence
from .calibration import lines as calibrated
from .calibration import noise_of
from .short import (
    architecture_cells,
    architecture_line,
    axis_label,
    clean,
    duration,
    is_transformer,
    number,
    percent,
    thousands,
    training_parts,
    with_spread,
)

SHORT_ID = 8  # digits of an id in a table
_DECIMALS = {"loss": 3}  # at least
_SURE = 0.95  # above it a place on the front is not in doubt
_UNCALIBRATED = (
    "Not calibrated: short trainings favour what learns fast; 'evonas calibrate' says how far long ones and other "
    "seeds agree."
)
_SINGLE_TIMES = "; of a time measured once, half the interquartile range of its repeats"
# (column, what its cells hold where that is to be explained, the explanation)
_NOTATION = (
    ("size", "x", "size is layers x width"),
    ("heads", "x", "heads NxL are N in each of L layers"),
    ("heads", "/", "heads N/K are N on K of keys and values"),
    ("ffn", "", "ffn is the hidden width over the width"),
    ("block", " conv", "convN is a convolution over the last N embeddings"),
    ("block", " bconv", "bconvN are two over the last N tokens in every block"),
    ("block", "untied", "untied has output weights of its own"),
)
ALWAYS_SHOWN = ("learning_rate", "batch_size", "optimizer")


@dataclass(frozen=True)
class Row:
    """One genome. ``cells`` is by column; ``objectives`` holds (value with spread, change against the first seed or,
    where it is not the front's, its fidelity), of what is only constrained too; ``ahead`` the same of the loss after a
    calibration's long training, ``~`` where that is extrapolated; ``probability`` that it stays on the front, where
    that is in doubt."""

    id: str
    label: str
    is_seed: bool
    probability: str
    cells: dict[str, str]
    objectives: list[tuple[str, str]]
    ahead: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """``shared`` are the training genes in which all rows agree: said once instead of in every row. ``ahead`` names
    the loss after a calibration's long training; empty, as that of each row, where there is none."""

    columns: list[str]
    objectives: list[str]
    ahead: list[str]
    front: list[Row]
    seeds: list[Row]
    shared: list[str]


def table_of(report: Mapping[str, Any]) -> Table:
    """The front, then the seeds. Columns that say nothing (no layer has a window, none a KV rank) are left out."""
    objectives = [*report["objectives"], *only_constrained(report)]
    named = {entry["id"]: _label(entry) for entry in report["against_seed"]}
    reference = _measured(report["seeds"][0]) if report["seeds"] else {}
    members = [*report["front"], *report["seeds"]]
    genomes = [Genome(member["genome"]) for member in members]
    parts = [training_parts(g) for g in genomes if is_transformer(g)]
    shared = [gene for gene in parts[0] if len({p.get(gene) for p in parts}) == 1] if len(parts) > 1 else []
    shared = [gene for gene in shared if gene not in ALWAYS_SHOWN]
    rows = [_row(m, g, shared, objectives, named, reference, report["fidelity"]) for m, g in zip(members, genomes)]
    ahead = [found["tokens"] for m in members if (found := m.get("extrapolated"))]
    if ahead:
        rows = [replace(row, ahead=[_ahead(m, report["seeds"])]) for row, m in zip(rows, members)]
    columns = list(dict.fromkeys(name for row in rows for name in row.cells))
    for name, nothing in (("window", "full"), ("kv rank", "·")):
        if name in columns and all(row.cells.get(name, nothing) == nothing for row in rows):
            columns.remove(name)
    count = len(report["front"])
    texts = [parts[0][gene] for gene in shared]
    labels = [axis_label(o) for o in objectives]
    return Table(columns, labels, [f"loss at {number(n)}" for n in ahead[:1]], rows[:count], rows[count:], texts)


def _ahead(member: Mapping, seeds: list[Mapping]) -> tuple[str, str]:
    """The loss after a calibration's long training and its change against the first seed's."""
    found, other = member.get("extrapolated"), seeds[0].get("extrapolated") if seeds else None
    if not found:
        return "-", ""
    text = f"~{with_spread(found)}" if found["spread"] else number(found["value"])
    return text, percent(found["value"], other["value"]) if other else ""


def only_constrained(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """{name, unit} of everything that is constrained and no objective, once each."""
    goals = {o["name"] for o in report["objectives"]}
    found = {c["name"]: {"name": c["name"], "unit": c["unit"]} for c in report["constraints"] if c["name"]}
    return [c for name, c in found.items() if name not in goals]


def _measured(member: Mapping) -> dict[str, Any]:
    return {**member["objectives"], **member["constraints"]}


def _label(entry: Mapping) -> str:
    failed = f", {entry['status']}" if entry["status"] != "ok" else ""
    return (clean(entry["label"]) or "seed") + failed


def _row(
    member: Mapping, genome: Genome, shared: list[str], objectives: list, labels: Mapping, seed: Mapping,
    front: Mapping[str, str],
) -> Row:  # fmt: skip
    if is_transformer(genome):
        training = " ".join(text for gene, text in training_parts(genome).items() if gene not in shared)
        cells = {**architecture_cells(genome), "training": training}
    else:
        cells = {"genes": architecture_line(genome)}
    values = []
    for objective in objectives:
        measure = _measured(member).get(objective["name"])
        if measure is None:
            values.append(("-", ""))
            continue
        text = with_spread(measure, _DECIMALS.get(objective["name"], 0))
        other, fidelity = seed.get(objective["name"]), measure["fidelity"]
        if fidelity != front.get(objective["name"], fidelity):
            values.append((text, thousands(clean(fidelity))))
            continue
        # Numbers of different fidelity have no percentage between them.
        same = other is not None and other["fidelity"] == fidelity
        values.append((text, percent(measure["value"], other["value"]) if same else ""))
    label = labels.get(member["id"], "")
    return Row(member["id"], label, member["id"] in labels, _doubtful(member.get("probability")), cells, values)


def _doubtful(probability: float | None) -> str:
    return "" if probability is None or probability > _SURE else f"p {probability:.2f}"


def summary_lines(report: Mapping[str, Any], table: Table) -> list[str]:
    """What surrounds the table, in sentences: shared genes, failures, what was left out, the gain over each seed."""
    lines = []
    if report["constraints"]:
        lines.append(f"Constraints: {', '.join(clean(c['text']) for c in report['constraints'])}.")
    if report["goals"]:
        lines.append(f"Good enough: {', '.join(clean(goal) for goal in report['goals'])}.")
    if table.shared:
        lines.append(f"All of them: {', '.join(table.shared)}.")
    lines += _notation_lines(table)
    lines += _reading_lines(report, table)
    lines += _doubt_lines(report, table)
    if report["ties"]:
        groups = _groups(report["ties"])
        lines.append(f"Too close to call: {groups}.")
    lines += _failure_lines(report)
    lines += _rung_lines(report)
    lines += _surrogate_lines(report)
    elsewhere = report["other_device"]
    if report["left_out"] > elsewhere and not report["rungs"]:
        lines.append(f"{report['left_out'] - elsewhere:,} evaluations of another fidelity are not compared.")
    if elsewhere:
        them = "genome of the same fidelity is" if elsewhere == 1 else "genomes of the same fidelity are"
        lines.append(f"{elsewhere:,} {them} not compared: timed on another device.")
    if report["calibration"]:
        lines += [clean(line) for line in calibrated(report["calibration"])]
    lines += [sentence(entry, report["objectives"]) + "." for entry in report["against_seed"]]
    if report["front"] and not report["calibration"] and any(o["name"] == "loss" for o in report["objectives"]):
        lines.append(_UNCALIBRATED)
    return lines


def _reading_lines(report: Mapping[str, Any], table: Table) -> list[str]:
    """What the numbers of the table are: how they were measured, and their signs as far as they occur."""
    lines = [f"{_sentence_case(name)}: {clean(how)}." for name, how in report["conditions"].items()]
    numbers = [n for row in (*table.front, *table.seeds) for n in (*row.objectives, *row.ahead)]
    signs = []
    if any(change.endswith("%") for _, change in numbers):
        signs.append(f"Percentages: change against seed {_seed_name(report)}.")
    if any("±" in value for value, _ in numbers):
        timed = "measured" in report["fidelity"].values()
        signs.append("±: standard error" + (_SINGLE_TIMES if timed else "") + ".")
    if any(value.startswith("~") for value, _ in numbers):
        signs.append("~: extrapolated.")
    return lines + [" ".join(signs)] * bool(signs)


def _seed_name(report: Mapping[str, Any]) -> str:
    """Of the one that percentages are of."""
    label = next((e["label"] for e in report["against_seed"] if e["id"] == report["seeds"][0]["id"]), "")
    return clean(label) or report["seeds"][0]["id"][:SHORT_ID]


def _sentence_case(name: str) -> str:
    return clean(name).replace("_", " ").capitalize()


def _failure_lines(report: Mapping[str, Any]) -> list[str]:
    """How many broke a constraint, which is no failure, how many failed, and the last of each kind."""
    outside = report["failures"].get("infeasible", 0)
    failed = ", ".join(f"{n:,} {status}" for status, n in report["failures"].items() if status != "infeasible")
    parts = [f"Outside the constraints: {outside:,}"] * bool(outside) + [f"Failed: {failed}"] * bool(failed)
    lines = [f"{'. '.join(parts)} (of {report['evaluations']:,} evaluations)."] if parts else []
    return lines + [
        f"The last {status}: {last['id'][:SHORT_ID]}, {clean(last['reason']) or 'no reason given'}."
        for status, last in report["failed_last"].items()
    ]


def _groups(pairs: Sequence[Sequence[str]]) -> str:
    """``a, b, c; d, e`` of pairs of ids, short: who is tied to whom, directly or through others."""
    groups: list[list[str]] = []
    for pair in pairs:
        met = [g for g in groups if not set(g).isdisjoint(pair)]
        groups = [g for g in groups if g not in met] + [list(dict.fromkeys([*(i for g in met for i in g), *pair]))]
    return "; ".join(", ".join(i[:6] for i in group) for group in groups)


def nothing_yet(report: Mapping[str, Any]) -> str:
    """What to say in place of an empty front."""
    failed = sum(count for status, count in report["failures"].items() if status != "infeasible")
    if failed and failed == report["evaluations"]:
        return "Nothing is on the front: none of the evaluations has succeeded."
    state = report["status_of_run"]
    done = state["generations_asked"] is not None and state["generations_done"] >= state["generations_asked"]
    if not (done or state.get("ended")):
        return "Nothing is on the front yet."
    return "Nothing is on the front" + (": nothing meets the constraints." if report["constraints"] else ".")


def _notation_lines(table: Table) -> list[str]:
    """How cells are to be read, as far as they hold what is not plain."""
    rows = [*table.front, *table.seeds]
    said = [text for name, mark, text in _NOTATION if any(name in r.cells and mark in r.cells[name] for r in rows)]
    return [f"To read it: {'; '.join(said)}."] if said else []


def _doubt_lines(report: Mapping[str, Any], table: Table) -> list[str]:
    """What ``p`` is."""
    if not any(row.probability for row in table.front):
        return []
    about = "p: probability that it stays on the front when all values are drawn again within their errors"
    if any(o["name"] == "loss" for o in report["objectives"]):
        known = noise_of(report["calibration"]) is not None
        about += " and what another seed changes" if known else " but not what another seed would change"
    return [f"{about}; without, it is above {_SURE}."]


def _rung_lines(report: Mapping[str, Any]) -> list[str]:
    """How many genomes were trained how long, and how well the short trainings tell the long one."""
    rungs = report["rungs"]
    if not rungs:
        return []
    at = [_tokens(rung["fidelity"]) for rung in rungs]
    counts = [f"{rung['genomes']:,}" for rung in rungs]
    were = "genome was" if rungs[0]["genomes"] == 1 else "genomes were"
    text = f"{counts[0]} {were} trained to {thousands(clean(rungs[0]['fidelity']))}"
    further = [
        f"{count} {'of them ' * (k == 0)}to {tokens}" for k, (count, tokens) in enumerate(zip(counts[1:], at[1:]))
    ]
    held = next((k for k, rung in enumerate(rungs) if rung["fidelity"] in report["fidelity"].values()), None)
    front = "" if held is None else f"those at {at[held]} so far" if held < len(rungs) - 1 else "the last"
    lines = [", ".join([text, *further]) + (f"; the front holds only {front}." if front and report["front"] else ".")]
    for name in dict.fromkeys(name for rung in rungs[:-1] for name in rung["error"] or ()):
        if report["fidelity"].get(name) == "measured":  # once more, perhaps, but not by rungs
            continue
        told = [(tokens, error) for tokens, rung in zip(at, rungs[:-1]) if (error := (rung["error"] or {}).get(name))]
        if told:
            (first, error), *others = told
            errors = [f"off by ±{number(error, 2)}", *(f"from {tokens}: ±{number(e, 2)}" for tokens, e in others)]
            head = f"{_sentence_case(name)} at {at[-1]} tokens, predicted from {first}"
            lines.append(f"{head}: {'; '.join(errors)}.")
    return lines


def _surrogate_lines(report: Mapping[str, Any]) -> list[str]:
    """How far what proposed the genomes could be trusted."""
    found = report["surrogate"]
    if found is None:
        return []
    text = f"Of the latest results, unseen, the surrogate told the order at tau {number(found['tau'], 2)}"
    if found["coverage"] is not None:
        text += f", and {found['coverage']:.0%} within its standard deviation (68% would be right)"
    return [f"{text}."]


def _tokens(fidelity: str) -> str:
    return thousands(clean(fidelity)).removesuffix(" tokens")


def title_line(report: Mapping[str, Any]) -> str:
    """``run demo: task text (input.txt) on cpu, seed 7, generations 12 of 20, 312 evaluations in 41.0 min, 14 on the
    front``"""
    done, asked = report["generations"], report["status_of_run"]["generations_asked"]
    generations = f"{done} of {asked}" if asked is not None else str(done)
    data = f"({clean(report['data'])}) " if report["data"] else ""
    task = f"task {clean(report['task'])} {data}" if report["task"] else ""
    on = f"on {clean(report['device'])}, " if report["device"] else ""
    return (
        f"run {clean(report['run'])}: {task}{on}seed {report['seed']}, generations {generations}, "
        f"{report['evaluations']:,} evaluations in {duration(report['seconds'])}, {len(report['front'])} on the front"
    )
