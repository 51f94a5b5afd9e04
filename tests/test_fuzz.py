"""The fuzzer of tools/fuzz.py in short: every reader on a few hundred hostile inputs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = str(Path(__file__).resolve().parents[1] / "tools")
SLOW = ("population", "journal", "space")
READERS = (
    "genome", "space", "config", "text", "population", "journal", "calibration", "weights", "checkpoint", "training",
    "constraint",
)  # fmt: skip


@pytest.fixture
def tools(monkeypatch):
    """(fuzz, fuzz_readers), modules beside the package."""
    from evonas.report import membership
    from evonas.store import files

    # The fuzzer replaces them: put them back.
    monkeypatch.setattr(files, "check_readable", files.check_readable)
    monkeypatch.setattr(membership, "_DRAWS", membership._DRAWS)
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import fuzz
    import fuzz_readers

    # Bytes of HDF5's own tables can crash it, and pytest with it.
    monkeypatch.setattr(fuzz_readers.Populations, "structured", 1.0)
    yield fuzz, fuzz_readers
    for name in ("fuzz", "fuzz_inputs", "fuzz_reader", "fuzz_readers", "fuzz_weights"):
        del sys.modules[name]


def test_every_reader_is_tried(tools):
    assert tuple(tools[1].READERS) == READERS


@pytest.mark.parametrize("name", READERS)
def test_only_evonas_errors_come_out(tools, tmp_path, monkeypatch, name):
    fuzz, readers = tools
    reader = readers.READERS[name](tmp_path)
    monkeypatch.chdir(tmp_path)  # some inputs have HDF5 make files of its own
    reader.patience = 60.0  # the machine may be busy
    found = dict.fromkeys(fuzz.KINDS, 0)
    for k in range(1, 100 if name in SLOW else 300):
        reader.write(k, fuzz.draw(1, name, k))
        kind, error = fuzz.attempt(reader, k)
        found[kind] += 1
        if kind not in ("accepted", "refused"):
            raise error
    assert found["accepted"] > 0 and found["refused"] > 0
