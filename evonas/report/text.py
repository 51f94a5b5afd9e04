"""A report as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from ..genome import ARCHITECTURE_GENES, TRAINING_GENES
from .cells import Row, Table, nothing_yet, only_constrained, summary_lines, table_of, title_line
from .short import clean, writable

_MARKDOWN_SPECIAL = str.maketrans({c: "\\" + c for c in "\\`*_[]<>|#"})


def to_json(report: Mapping[str, Any]) -> str:
    """One JSON object, indented, every number finite."""
    return writable(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def to_csv(report: Mapping[str, Any]) -> str:
    """A header line and one line per member of the front, best in the first objective first.

    Columns: id, generation, parents (separated by spaces); for each objective, and for what is only constrained, its
    value, ``<name>_spread`` and ``<name>_fidelity``; ``probability`` that it belongs on the front; once calibrated
    ``extrapolated``, its loss after a long training, with ``_spread`` and ``_tokens``; then every gene, a transformer's
    in the order of ``ARCHITECTURE_GENES`` and ``TRAINING_GENES``, per-layer values separated by spaces. "none" is a
    gene set to none, an empty cell a gene the genome has not, or leaves at what goes without saying (``UNWRITTEN``).
    """
    names = [o["name"] for o in (*report["objectives"], *only_constrained(report))]
    known = [*ARCHITECTURE_GENES, *TRAINING_GENES]
    other = sorted({gene for member in report["front"] for gene in member["genome"]} - set(known))
    transformer = not report["front"] or any(gene in member["genome"] for member in report["front"] for gene in known)
    genes = (known if transformer else []) + other
    measured = [column for name in names for column in (name, f"{name}_spread", f"{name}_fidelity")]
    ahead = [m["extrapolated"] for m in report["front"] if m["extrapolated"]]
    measured += ["probability", *(("extrapolated", "extrapolated_spread", "extrapolated_tokens") if ahead else ())]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "generation", "parents", *map(clean, (*measured, *genes))])
    for member in report["front"]:
        row = [member["id"], member["generation"], " ".join(member["parents"])]
        for name in names:
            measure = {**member["objectives"], **member["constraints"]}.get(name)
            if measure is None:
                row += ["", "", ""]
                continue
            row += [measure["value"], "" if measure["spread"] is None else measure["spread"], measure["fidelity"]]
        row.append(member["probability"])
        if ahead:
            found = member["extrapolated"] or {}
            row += ["" if (value := found.get(key)) is None else value for key in ("value", "spread", "tokens")]
        row += [_csv_gene(member["genome"], gene) for gene in genes]
        writer.writerow([_no_formula(clean(value) if isinstance(value, str) else value) for value in row])
    return out.getvalue()


def to_markdown(report: Mapping[str, Any]) -> str:
    """A heading, a line on the run, the table of front and seeds, and what it gained over each seed."""
    table = table_of(report)
    lines = [f"# {_markdown(report['run'])}", "", _markdown(title_line(report)) + ".", ""]
    if not table.front:
        lines += [nothing_yet(report), ""]
    if table.front or table.seeds:
        headers = ["id", *table.columns, *table.objectives, *table.ahead]
        lines.append("| " + " | ".join(_markdown(h) for h in headers) + " |")
        texts = 1 + len(table.columns)
        lines.append("|" + "|".join([" --- "] * texts + [" ---: "] * (len(headers) - texts)) + "|")
        lines += [_markdown_row(row, table) for row in table.front + _seeds_off_front(table)]
        lines.append("")
    lines += [f"{'  ' * line.startswith('  ')}- {_markdown(line)}" for line in summary_lines(report, table)]
    return "\n".join(lines).rstrip() + "\n"


def _seeds_off_front(table: Table) -> list[Row]:
    on_front = {row.id for row in table.front}
    return [row for row in table.seeds if row.id not in on_front]


def _markdown_row(row: Row, table: Table) -> str:
    name = f"{row.id} (seed {row.label})" if row.is_seed else row.id
    name += f" ({row.probability})" if row.probability else ""
    numbers = (*row.objectives, *row.ahead)
    values = [f"{value} ({change})" if change not in ("", "=") else value for value, change in numbers]
    cells = [name, *(row.cells.get(column, "") for column in table.columns), *values]
    return "| " + " | ".join(_markdown(cell) for cell in cells) + " |"


def _markdown(text: str) -> str:
    return " ".join(clean(text).split()).translate(_MARKDOWN_SPECIAL)


def _csv_gene(genome: Mapping[str, Any], gene: str) -> Any:
    if gene not in genome:
        return ""
    value = genome[gene]
    if isinstance(value, list):
        return " ".join("none" if v is None else str(v) for v in value)
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else value


def _no_formula(value: Any) -> Any:
    """Text a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
