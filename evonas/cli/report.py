"""``evonas report``."""

from __future__ import annotations

import gc
import os
import shlex
from pathlib import Path

import click

from ..errors import EvonasError, exit_code_of


@click.command()
@click.argument("run", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "markdown"]),
    default="table",
    show_default=True,
    help="Form of what is printed.",
)
@click.option(
    "--plot",
    "plot_path",
    type=click.Path(),
    metavar="FILE",
    help="Write the front and the hypervolume as a picture: .png, .svg or .pdf.",
)
@click.option("--html", "html_path", type=click.Path(), metavar="FILE.html", help="Write one self-contained page.")
def report(run, form, plot_path, html_path) -> None:
    """The Pareto front of RUN, against its seed genomes. Default: the newest run. Works while it runs.

    \b
    evonas report
    evonas report my-run --format csv > front.csv
    evonas report my-run --plot front.png --html front.html
    """
    from ..report import build_report, picture_format, plot, png, render_table, to_csv, to_html, to_json, to_markdown
    from ..store import Store, find_run

    if plot_path:
        picture_format(Path(plot_path))
    for path in filter(None, (plot_path, html_path)):
        _check_place(Path(path))
    store = Store.open(find_run(run))
    gc.freeze()  # all of it stays until the end: not to be looked through for garbage
    built = build_report(store)
    # Before what is printed, which whoever reads it may not read to its end.
    if plot_path:
        plot(store, Path(plot_path))
    if html_path:
        _write(Path(html_path), to_html(built, png(store)))
    if form == "table":
        from .terminal import output

        render_table(built, output())
    else:
        click.echo({"json": to_json, "csv": to_csv, "markdown": to_markdown}[form](built).rstrip("\n"))
    for what, path in (("Plot", plot_path), ("Page", html_path)):
        if path:
            click.echo(f"{what}: {path}", err=True)


def _check_place(path: Path) -> None:
    """Before anything is printed: whether a file can be written there."""
    folder = path.parent
    if not folder.is_dir():
        cure = f"Make it: mkdir -p {shlex.quote(str(folder))}"
        raise EvonasError(f"{path} can't be written: there is no folder {folder}", cure)
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise EvonasError(f"{path} can't be written", "Choose another place.")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EvonasError(f"{path} can't be written: {error.strerror}", exit_code=exit_code_of(error)) from None
