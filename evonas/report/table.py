"""The report in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from .cells import SHORT_ID, Row, Table, nothing_yet, summary_lines, table_of, title_line

_NAMED = ("heads", "window", "kv rank", "ffn")  # cells that need their column's name beside them in a line
_NOTHING = {"window": "full", "kv rank": "·"}  # not worth a word


def render_table(report: Mapping[str, Any], console: Console) -> None:
    """Print the front, best in the first objective first, the seeds below it, failures, and the gain over each seed.

    Two lines per genome: its values and architecture, then their change against the first seed and the training genes;
    once calibrated a third, its loss after a long training.
    Longer genes wrap; reads well from 80 columns on.
    """
    table = table_of(report)
    console.print(Text(title_line(report), style="bold"), soft_wrap=True)
    if not table.front:
        console.print(Text(nothing_yet(report)))
    if table.front or table.seeds:
        console.print(_rich_table(table))
    for line in summary_lines(report, table):
        console.print(Text(line), soft_wrap=True)


def _rich_table(table: Table) -> RichTable:
    out = RichTable(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    out.add_column("id", no_wrap=True)
    for name in table.objectives:
        out.add_column(Text(name), justify="right", no_wrap=True)
    sized = "size" in table.columns
    if sized:
        out.add_column("size", no_wrap=True)  # layers x width
    out.add_column("genes", overflow="fold")
    for rows, end in ((table.front, True), (table.seeds, False)):
        for row in rows:
            out.add_row(*_cells(row, table, sized), style="cyan" if row.is_seed else "")
        if end and table.seeds:
            out.add_section()
    return out


def _cells(row: Row, table: Table, sized: bool) -> list[Text]:
    below = [text for text in (row.is_seed and f"* {row.label}", row.probability) if text]
    cells = [Text("\n".join([row.id[:SHORT_ID], *below]))]
    cells += [Text(f"{value}\n{change}" if change else value) for value, change in row.objectives]
    if sized:
        cells.append(Text(row.cells.get("size", "")))
    columns = (n for n in table.columns if n not in ("size", "training"))
    shown = [n for n in columns if row.cells.get(n) not in (None, "", _NOTHING.get(n))]
    genes = ", ".join(f"{n} {row.cells[n]}" if n in _NAMED else row.cells[n] for n in shown)
    lines = Text(genes)
    if row.cells.get("training"):
        lines.append("\n" + row.cells["training"], style="dim")
    for name, (value, change) in zip(table.ahead, row.ahead):
        lines.append(f"\n{name}: {value} {change}".rstrip())
    return [*cells, lines]
