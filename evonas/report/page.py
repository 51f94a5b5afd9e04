"""One HTML page that needs nothing else: table, figure, sentences."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from .cells import Row, Table, nothing_yet, summary_lines, table_of, title_line
from .short import clean

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 2rem auto; max-width: 76rem;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
p.run { color: #57606a; margin-top: 0; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid #d8dee4; vertical-align: top; }
th { border-bottom: 2px solid #57606a; white-space: nowrap; }
td.value { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.id { font-family: ui-monospace, monospace; white-space: nowrap; }
small { color: #57606a; display: block; }
tr { break-inside: avoid; }
li.of { margin-left: 1.5rem; }
tr.seed td { background: #fff4e0; }
@page { size: landscape; margin: 1cm; }
"""


def to_html(report: Mapping[str, Any], png_bytes: bytes | None = None) -> str:
    """The report as one page; ``png_bytes`` is the figure of ``png(store)``, embedded. All text is escaped."""
    table = table_of(report)
    title = escape(clean(f"evonas: {report['run']}"))
    picture = ""
    if png_bytes:
        data = base64.b64encode(png_bytes).decode("ascii")
        picture = f'<figure><img alt="Pareto front and hypervolume" src="data:image/png;base64,{data}"></figure>\n'
    items = "".join(_item(line) for line in summary_lines(report, table))
    sentences = f"<ul>\n{items}</ul>\n" if items else ""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    made = escape(clean(f"Created {report['created']}. {versions}"))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(clean(report["run"]))}</h1>
<p class="run">{escape(title_line(report))}</p>
{picture}{sentences}<h2>Pareto front</h2>
{_table(table, nothing_yet(report))}<p class="run">{made}</p>
</body>
</html>
"""


def _item(line: str) -> str:
    """A sentence of the summary; one that belongs to the sentence before it is set in."""
    kind = ' class="of"' if line.startswith("  ") else ""
    return f"<li{kind}>{escape(line.strip())}</li>\n"


def _table(table: Table, nothing: str) -> str:
    said = "" if table.front else f"<p>{nothing}</p>\n"
    if not (table.front or table.seeds):
        return said
    heads = "".join(f"<th>{escape(name)}</th>" for name in ("id", *table.columns, *table.objectives, *table.ahead))
    on_front = {row.id for row in table.front}
    rows = table.front + [row for row in table.seeds if row.id not in on_front]
    body = "\n".join(_row(row, table) for row in rows)
    return (
        f"{said}"
        f'<div class="scroll"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n'
        "<p><small>Under each value: its change against the first seed; its fidelity where that is not the front's."
        "</small></p>\n"
    )


def _row(row: Row, table: Table) -> str:
    label = f"<small>seed {escape(row.label)}</small>" if row.is_seed else ""
    doubt = f"<small>{escape(row.probability)}</small>" if row.probability else ""
    cells = [f'<td class="id">{escape(row.id)}{label}{doubt}</td>']
    cells += [f"<td>{escape(row.cells.get(column, ''))}</td>" for column in table.columns]
    cells += [
        f'<td class="value">{escape(value)}<small>{escape(change)}</small></td>'
        for value, change in (*row.objectives, *row.ahead)
    ]
    kind = ' class="seed"' if row.is_seed else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"
