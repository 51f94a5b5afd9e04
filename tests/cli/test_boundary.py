"""What nobody foresaw: one sentence on stderr and exit code 1, and a traceback for who asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .conftest import PYTHON_M


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no full device")
@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize("args", [("report", "first", "--format", "json"), ("genome", "show"), ("--help",)])
def test_output_that_can_not_be_written_is_told(in_finished, monkeypatch, args, debug):
    """On a full disk, say. Python would end with 120 where its own last flush failed."""
    monkeypatch.setenv("EVONAS_DEBUG", debug)
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PYTHON_M, *args], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.endswith("Error: No space left on device\n")
    assert ("Traceback" in done.stderr) is bool(debug)


RAISES = """\
import evonas.cli

def cli(**how):
    raise {error}

evonas.cli.cli = cli
evonas.cli.main()
"""


@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("OSError(13, 'Permission denied', 'a.txt')", "Error: a.txt: Permission denied\n"),
        ("OSError('of no number')", "Error: of no number\n"),
        (
            "KeyError('width')",
            "Error: unexpected KeyError: 'width'\n  This is a bug in evonas; EVONAS_DEBUG=1 shows where.\n",
        ),
    ],
)
def test_an_error_that_no_command_has_caught(tmp_path, monkeypatch, error, said, debug):
    monkeypatch.setenv("EVONAS_DEBUG", debug)
    (tmp_path / "raises.py").write_text(RAISES.format(error=error))
    done = subprocess.run([sys.executable, "-m", "raises"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.endswith(said), done.stderr
    assert done.stderr == said or (debug and "in cli\n    raise" in done.stderr), "where it was raised"
