"""Where text for people goes."""

from __future__ import annotations

import os

from rich.console import Console
from rich.text import Text

from ..report.short import clean

PIPE_WIDTH = 120  # columns of a table that is not printed to a terminal


def output() -> Console:
    """stdout, as wide as the terminal; in a pipe or a file wide enough for a table."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def plain(text: object, style: str = "") -> Text:
    """Text of a file or a run: no markup, no control characters."""
    return Text(clean(text), style=style)
