"""What the commands say about themselves."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from evonas import __version__
from evonas.cli import cli as group


def commands(command: click.Command, path: tuple[str, ...] = ()):
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


ALL = dict(commands(group))
HEAVY = ("torch", "numpy", "h5py", "rich", "deap", "moocore", "matplotlib", "networkx", "sklearn")


def test_these_are_the_commands():
    assert {" ".join(path) for path in ALL} == {
        "", "evolve", "resume", "report", "train", "genome", "genome show", "genome check", "genome cost",
        "genome diff", "genome import", "export", "calibrate",
    }  # fmt: skip


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_is_everywhere_and_describes_every_option(cli, path, flag):
    done = cli(*path, flag)
    assert done.out.startswith("Usage: ") and not done.err
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert all(name in done.out for name in parameter.opts), parameter.name


def test_version(cli):
    assert cli("--version").out.strip() == f"evonas, version {__version__}"


def test_no_command_shows_the_commands(cli):
    done = cli(code=2)
    assert "evolve" in done.out + done.err


@pytest.mark.parametrize("args", [["--help"], ["evolve", "--help"], ["train", "-h"], ["--version"], ["evolv"]])
def test_help_imports_nothing_heavy(args):
    code = (
        "import sys\nfrom evonas.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stdout


def test_genomes_are_looked_at_without_torch(tmp_path):
    code = (
        "import sys\nfrom evonas.cli import main\n"
        "for args in (['show'], ['show', 'gpt2'], ['cost', 'gpt2'], ['diff', 'gpt2', 'gpt2-medium']):\n"
        "    sys.argv[1:] = ['genome', *args]\n"
        "    try:\n        main()\n    except SystemExit as ended:\n        assert not ended.code, ended\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
