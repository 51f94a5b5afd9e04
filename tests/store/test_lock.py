"""One writer per run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from evonas.errors import EvonasError
from evonas.store import Store
from evonas.store.lock import WriterLock, read_holder, writer

from .conftest import HEADER, fill


def test_a_second_writer_is_refused_by_name(store, folder):
    with pytest.raises(EvonasError, match=f"process {os.getpid()} on {socket.gethostname()}") as error:
        Store.open(folder, write=True)
    assert "reading it" in error.value.hint
    holder = json.loads((folder / "lock").read_text())
    assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname()) and "T" in holder["start"]
    fill(store, 0, 1)
    store.close()
    store.close()
    with Store.open(folder, write=True) as second:
        assert len(second.records) == 1


def test_another_process_is_refused(store, folder):
    code = "import sys; from evonas.store import Store; Store.open(sys.argv[1], write=True)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert f"is being written by process {os.getpid()}" in done.stderr


def test_a_dead_writers_file_is_no_lock(folder):
    Store.create(folder, HEADER).close()
    (folder / "lock").write_text('{"pid": 1, "host": "elsewhere", "start": ""}')
    Store.open(folder, write=True).close()
    (folder / "lock").write_bytes(b"\xff not json")
    Store.open(folder, write=True).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_lock_that_only_a_dead_holders_worker_keeps_is_taken_over(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from evonas.store.lock import WriterLock\n"
        "lock = WriterLock(Path(sys.argv[1]))\n"
        "if os.fork() == 0:\n"
        "    print(os.getpid(), flush=True)\n"
        "    sys.stdin.read()\n"
        "os._exit(0)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as holder:
        assert int(holder.stdout.readline()) > 0
        holder.wait(timeout=60)
        assert read_holder(path)["pid"] == holder.pid
        lock = WriterLock(path)  # the worker still runs and keeps the old file locked
        assert read_holder(path)["pid"] == os.getpid()
        with pytest.raises(EvonasError):
            WriterLock(path)
        lock.close()
        holder.stdin.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no flock here")
def test_what_is_locked_and_not_signed_yet_is_not_taken_for_a_dead_writers(tmp_path, monkeypatch):
    """Two that resume a killed run at once."""
    path = tmp_path / "lock"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path.write_text(json.dumps({"pid": gone.pid, "host": socket.gethostname(), "start": ""}))
    sign, found = WriterLock._sign, []

    def second() -> None:
        try:
            found.append(WriterLock(path))
        except EvonasError as error:
            found.append(error)

    other = threading.Thread(target=second)

    def slowly(lock: WriterLock) -> None:
        if not other.ident:
            other.start()
            other.join(0.5)
        sign(lock)

    monkeypatch.setattr(WriterLock, "_sign", slowly)
    lock = WriterLock(path)
    other.join(60)
    assert lock.held and isinstance(found[0], EvonasError)
    lock.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no flock here")
@pytest.mark.parametrize(("pids", "orphaned"), [("pid:[1]", False), (None, True)])
def test_a_free_pid_says_nothing_of_a_holder_in_another_container(tmp_path, pids, orphaned):
    """Two containers may share host name and folder, and number their processes each for itself."""
    import fcntl

    path = tmp_path / "lock"
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = {"pid": gone.pid, "host": socket.gethostname(), "start": ""} | ({"pids": pids} if pids else {})
    path.write_text(json.dumps(holder))
    try:
        if orphaned:
            WriterLock(path).close()
        else:
            with pytest.raises(EvonasError, match=f"is being written by process {gone.pid}"):
                WriterLock(path)
    finally:
        os.close(held)


@pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="reads /proc")
def test_two_hosts_of_one_name_differ_by_their_boot(tmp_path):
    """Clones share their host name and the number of their first container; a folder they share names a free pid."""
    import fcntl

    path = tmp_path / "lock"
    lock = WriterLock(path)
    here = read_holder(path)["pids"]
    lock.close()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot in here
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = {"pid": gone.pid, "host": socket.gethostname(), "start": "", "pids": here.replace(boot, "another")}
    path.write_text(json.dumps(holder))
    held = os.open(path, os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(EvonasError, match=f"is being written by process {gone.pid}"):
        WriterLock(path)
    os.close(held)  # as a boot leaves it
    assert writer(path) is None
    WriterLock(path).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no flock here")
def test_a_lock_that_nobody_holds_has_no_writer_whoever_it_names(tmp_path):
    """After a kill: another host wrote it, or its process number is in use again."""
    path = tmp_path / "lock"
    for holder in ({"pid": 1, "host": "elsewhere"}, {"pid": os.getpid(), "host": socket.gethostname()}):
        path.write_text(json.dumps({**holder, "start": ""}))
        assert writer(path) is None
    lock = WriterLock(path)
    assert writer(path)["pid"] == os.getpid()
    lock.close()
    assert writer(path) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no flock here")
def test_whoever_holds_the_folders_lock_for_long_is_not_waited_for(tmp_path, monkeypatch):
    """flock(1) around a command does, and waits for the command."""
    import fcntl

    monkeypatch.setattr("evonas.store.lock._PAUSE", 0.001)
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    lock = WriterLock(tmp_path / "lock")
    assert lock.held
    lock.close()
    os.close(held)


def test_a_lock_file_of_anything_names_nobody(tmp_path):
    for content in (b"[" * 5000, b"\xff", b"5", b""):
        (tmp_path / "lock").write_bytes(content)
        assert read_holder(tmp_path / "lock") == {}
