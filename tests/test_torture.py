"""A short form of ``tools/torture.py``: searches that are killed, and whose disk is full, lose nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "torture.py"


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_nothing_is_lost():
    parts = ("kills", "flow", "writes", "disk")
    command = [sys.executable, str(TOOL), "--quick", *(word for part in parts for word in ("--part", part))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for part in parts:
        assert (found[part]["lost"], found[part]["unreadable"], found[part]["different"]) == (0, 0, 0)
    assert min(sum(found[part]["kills"].values()) for part in ("kills", "flow")) >= 4
    assert found["writes"]["kills"] >= 12 and found["disk"]["refused"] >= 4
