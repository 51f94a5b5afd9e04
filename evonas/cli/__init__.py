"""The command line. Only click is imported here; everything heavy waits inside its command."""

from __future__ import annotations

import os
import sys
import traceback

import click

from .. import __version__
from ..errors import EXIT_FAILED, EXIT_INTERRUPTED, EvonasError
from .calibrate import calibrate
from .evolve import evolve
from .export import export
from .genome import genome
from .report import report
from .resume import resume
from .train import train

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="evonas")
def cli() -> None:
    """Evolve transformers: more accurate at a given latency than tuned by hand.

    \b
    evonas evolve                              search on the embedded corpus, 50 generations
    evonas evolve --data my.txt --budget 30m   search on your text for half an hour
    evonas report                              the Pareto front of the newest run
    evonas resume                              go on with it
    evonas calibrate                           measure how far its short trainings can be trusted
    evonas train RUN:ID                        train one of its genomes in full
    evonas export RUN:ID                       take it along: one folder that needs torch alone

    RUN is a folder in runs/, ID any unambiguous start of an id in its report; 'evonas COMMAND -h' explains a command.
    """


for command in (evolve, calibrate, resume, report, genome, train, export):
    cli.add_command(command)


def main() -> None:
    """Run a command and exit with its code."""
    try:
        sys.exit(_exit_code())
    finally:
        # Python kills itself at its end where an interrupt has ever left an ``exec`` of a text, though it was caught:
        # one that comes while SciPy is imported. The next exec takes that back.
        exec("")


def _exit_code() -> int:
    """The one place where errors become messages and exit codes."""
    try:
        code = cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except EvonasError as error:
        if os.environ.get("EVONAS_DEBUG"):
            traceback.print_exc()
        click.echo(f"Error: {_printable(error.message)}", err=True)
        if error.hint:
            click.echo(f"  {_printable(error.hint)}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):  # what click makes of it
        click.echo("Interrupted.", err=True)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `evonas report | head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    except OSError as error:  # a full disk, a folder that may not be written or read
        if os.environ.get("EVONAS_DEBUG"):
            traceback.print_exc()
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {where}{error.strerror or error}", err=True)
        code = EXIT_FAILED
    except Exception as error:
        if os.environ.get("EVONAS_DEBUG"):
            traceback.print_exc()
        click.echo(f"Error: unexpected {type(error).__name__}: {error}", err=True)
        click.echo("  This is a bug in evonas; EVONAS_DEBUG=1 shows where.", err=True)
        code = EXIT_FAILED
    return code if isinstance(code, int) else 0


def _printable(text: str) -> str:
    """A message may quote a file: nothing in it may steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
