"""Files that HDF5 itself does not survive."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import time

import pytest

from evonas.errors import EvonasError
from evonas.store import Store, probe
from evonas.store.layout import damage

from .conftest import HEADER, fill, genome


@pytest.fixture
def run(folder):
    with Store.create(folder, HEADER) as store:
        fill(store, 0, 3)
        store.commit({"generation": 0}, [genome(0).id])
    return folder


def test_a_file_on_which_hdf5_loops_for_ever_is_refused_in_time(run, monkeypatch):
    data = bytearray((run / "population.h5").read_bytes())
    at = data.find(b"GCOL")
    while at >= 0:  # the first block of every heap of texts is free and of length 0
        struct.pack_into("<HHIQ", data, at + 16, 0, 0, 0, 0)
        at = data.find(b"GCOL", at + 4)
    (run / "population.h5").write_bytes(data)
    monkeypatch.setattr(probe, "SECONDS", 5.0)
    started = time.monotonic()
    with pytest.raises(EvonasError, match="is damaged or no evonas run: HDF5 does not come to the end of it"):
        Store.open(run)
    assert time.monotonic() - started < 30


def test_a_file_on_which_hdf5_crashes_is_refused(run, monkeypatch):
    (run / "population.h5").write_bytes((run / "population.h5").read_bytes() + b"\0")
    monkeypatch.setattr(probe.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], -11))
    with pytest.raises(EvonasError, match="HDF5 crashes on it"):
        Store.open(run)


def test_a_file_for_which_hdf5_wants_too_much_memory_is_refused(run, monkeypatch):
    (run / "population.h5").touch()
    monkeypatch.setattr(probe.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 3))
    with pytest.raises(EvonasError, match=r"HDF5 asks for more than \d+ MB to read it"):
        Store.open(run)
    assert probe.out_of_memory(MemoryError()) and probe.out_of_memory(OSError("x (memory allocation failed for chunk)"))
    assert not probe.out_of_memory(OSError("address of object past end of allocation"))


def test_what_this_process_wrote_or_looked_at_is_read_at_once(run, monkeypatch):
    looked = []
    real = subprocess.run
    monkeypatch.setattr(probe.subprocess, "run", lambda *a, **k: looked.append(a) or real(*a, **k))
    Store.open(run)
    assert not looked
    (run / "population.h5").touch()
    for _ in range(2):
        assert len(Store.open(run).records) == 3
    assert len(looked) == 1


def test_modules_in_the_working_folder_are_not_imported(run, tmp_path):
    for name in ("h5py", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w')")
    (run / "population.h5").touch()
    assert len(Store.open(run).records) == 3
    assert not (tmp_path / "imported").exists()


def test_where_no_process_can_be_started_the_file_is_read_as_it_is(run, monkeypatch):
    def fail(*_, **__):
        raise PermissionError("no process")

    (run / "population.h5").touch()
    monkeypatch.setattr(probe.subprocess, "run", fail)
    assert len(Store.open(run).records) == 3


def test_a_start_that_is_slow_says_nothing_of_the_file(run, tmp_path, monkeypatch):
    """As on a file server under load, or where memory is short."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import time\ntime.sleep(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setattr(probe, "SECONDS", 1.0)
    (run / "population.h5").touch()
    assert len(Store.open(run).records) == 3


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="has no signals")
def test_who_was_killed_while_reading_says_nothing_of_the_file(run, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    (run / "population.h5").touch()
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "site"))
        with pytest.raises(EvonasError, match="can't be read now: who reads it was stopped by SIGKILL") as error:
            Store.open(run)
    assert "try again" in error.value.hint and "start over" not in error.value.hint
    assert len(Store.open(run).records) == 3


def test_a_file_that_a_server_has_moved_is_not_damaged(run):
    with pytest.raises(EvonasError, match="can't be read now") as error:
        with damage(run / "population.h5"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    assert "try again" in error.value.hint
