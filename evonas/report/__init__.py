"""What a run found, for people and for scripts: tables, JSON, CSV, Markdown, pictures, one HTML page.

Reads the store only, also that of a run that is still going. ``build_report`` gathers everything once; the
renderers take what it returns.
"""

from __future__ import annotations

from .build import build_report
from .figure import picture_format, plot, png
from .page import to_html
from .table import render_table
from .text import to_csv, to_json, to_markdown

__all__ = [
    "build_report",
    "picture_format",
    "plot",
    "png",
    "render_table",
    "to_csv",
    "to_html",
    "to_json",
    "to_markdown",
]
