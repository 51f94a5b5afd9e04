"""What a kill, a full disk or a torn write leaves behind."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from evonas.errors import EXIT_FAILED, EvonasError
from evonas.store import Store
from evonas.store.journal import Journal, JournalReader, encode_line

from .conftest import HEADER, fill, genome


def test_a_journal_cut_at_any_byte_keeps_every_whole_line(store, folder, tmp_path):
    fill(store, 0, 3)
    whole = (folder / "journal.jsonl").read_bytes()
    cut_file = tmp_path / "cut.jsonl"
    for size in range(len(whole) + 1):
        cut_file.write_bytes(whole[:size])
        with JournalReader(cut_file) as rows:
            assert len(list(rows)) == whole[:size].count(b"\n")
            assert rows.good == whole[:size].rfind(b"\n") + 1


@pytest.mark.parametrize("tail", [b"", b"{", b'{"crc32":"', b"\0" * 700, b"garbage\n"])
def test_a_writer_goes_on_after_a_torn_tail(folder, tail):
    with Store.create(folder, HEADER) as store:
        fill(store, 0, 2)
    with open(folder / "journal.jsonl", "ab") as file:
        file.write(tail)
    assert len(Store.open(folder).records) == 2
    with Store.open(folder, write=True) as store:
        fill(store, 2, 4)
        store.commit({"generation": 0}, [genome(3).id])
        fill(store, 4, 5)
    assert [r.index for r in Store.open(folder).records] == [0, 1, 2, 3, 4]


def test_a_bad_line_in_the_middle_is_an_error(folder):
    with Store.create(folder, HEADER) as store:
        fill(store, 0, 3)
    journal = folder / "journal.jsonl"
    data = bytearray(journal.read_bytes())
    data[data.index(b"\n") + 60] ^= 1
    journal.write_bytes(data)
    for write in (False, True):
        with pytest.raises(EvonasError, match="line 2 is damaged") as error:
            Store.open(folder, write=write)
        assert error.value.exit_code == EXIT_FAILED
    assert journal.read_bytes() == data


def test_a_kill_between_replace_and_emptying_duplicates_nothing(folder):
    with Store.create(folder, HEADER) as store:
        fill(store, 0, 3)
        shutil.copy(folder / "journal.jsonl", folder / "before")
        store.commit({"generation": 0}, [genome(0).id])
        expected = store.records
    os.replace(folder / "before", folder / "journal.jsonl")
    assert Store.open(folder).records == expected
    with Store.open(folder, write=True) as store:
        fill(store, 3, 5)
        assert len(Store.open(folder).records) == 5
        store.commit({"generation": 1}, [genome(4).id])
    read = Store.open(folder)
    assert [r.index for r in read.records] == [0, 1, 2, 3, 4]
    assert len(read.genomes) == 5


class FailingCall:
    """``os.replace`` or ``os.fsync`` that raises at its n-th call."""

    def __init__(self, name: str, at: int) -> None:
        self.name, self.at, self.calls, self.real = name, at, 0, getattr(os, name)

    def __call__(self, *args):
        self.calls += 1
        if self.calls == self.at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(*args)


COMMIT_CALLS = [("replace", 1), ("fsync", 1), ("fsync", 2), ("fsync", 3), ("replace", 2), ("fsync", 4)]


@pytest.mark.parametrize("name, at", COMMIT_CALLS)
def test_a_commit_that_fails_at_any_call_keeps_everything(folder, monkeypatch, name, at):
    with Store.create(folder, HEADER) as store:
        fill(store, 0, 2)
        store.commit({"generation": 0}, [genome(0).id])
        fill(store, 2, 4, 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, FailingCall(name, at))
            with pytest.raises(EvonasError, match="can't commit generation 1: No space left") as error:
                store.commit({"generation": 1}, [genome(3).id])
        assert "evonas resume one" in error.value.hint
        # What a kill here would leave is what a reader sees now.
        read = Store.open(folder)
        assert read.records == store.records
        assert len(read.generations) in (1, 2) and read.generations == store.generations
        if len(store.generations) == 1:
            store.commit({"generation": 1}, [genome(3).id])
        fill(store, 4, 5, 2)
        store.commit({"generation": 2}, [genome(4).id])
    read = Store.open(folder)
    assert [r.index for r in read.records] == [0, 1, 2, 3, 4]
    assert [g["generation"] for g in read.generations] == [0, 1, 2]
    assert not list(folder.glob("population.h5.tmp"))


def test_the_fault_injection_reaches_every_call_of_a_commit(store, monkeypatch):
    fill(store, 0, 1)
    counters = {name: FailingCall(name, -1) for name in ("replace", "fsync")}
    for name, counter in counters.items():
        monkeypatch.setattr(os, name, counter)
    store.commit({"generation": 0}, [])
    assert {name: c.calls for name, c in counters.items()} == {
        name: max(at for n, at in COMMIT_CALLS if n == name) for name in counters
    }


def test_an_append_that_fails_adds_nothing_and_the_next_one_works(store, folder, monkeypatch):
    fill(store, 0, 1)
    for failing in ("fsync", "write"):
        with monkeypatch.context() as patch:
            if failing == "fsync":
                patch.setattr(os, "fsync", FailingCall("fsync", 1))
            else:
                patch.setattr(os, "write", TornWrite())
            with pytest.raises(EvonasError, match="can't store the evaluation"):
                fill(store, 1, 2)
        assert len(store.records) == len(Store.open(folder).records) == 1
        assert genome(1).id not in store.genomes
    fill(store, 1, 3)
    assert Store.open(folder).records == store.records


class TornWrite:
    """``os.write`` that writes half, then finds the disk full."""

    def __init__(self) -> None:
        self.real, self.done = os.write, False

    def __call__(self, fd, data):
        if self.done:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.done = True
        return self.real(fd, bytes(data)[: len(data) // 2])


def test_a_journal_that_can_not_be_mended_refuses_more(store, folder, monkeypatch):
    fill(store, 0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", TornWrite())
        patch.setattr(os, "ftruncate", FailingCall("ftruncate", 1))
        with pytest.raises(EvonasError, match="can't store"):
            fill(store, 1, 2)
    with pytest.raises(EvonasError, match="could not be mended"):
        fill(store, 1, 2)
    assert len(Store.open(folder).records) == 1


@pytest.mark.parametrize("name, at", [("fsync", 1), ("replace", 1), ("fsync", 2)])
def test_a_create_that_fails_leaves_nothing(folder, monkeypatch, name, at):
    monkeypatch.setattr(os, name, FailingCall(name, at))
    with pytest.raises(EvonasError, match="can't create run 'one'"):
        Store.create(folder, HEADER)
    monkeypatch.undo()
    assert not folder.exists()
    assert not folder.parent.exists()


def test_sigkill_loses_no_acknowledged_evaluation(tmp_path):
    """A writer that prints each sequence number it got back is killed at its 25th line, in whatever it does then."""
    script = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, sys.argv[2])
        from conftest import HEADER, fill, genome
        from evonas.store import Store
        store = Store.create(sys.argv[1], HEADER)
        for k in range(10_000):
            fill(store, k, k + 1, k // 4)
            print(k, flush=True)
            if k % 4 == 3:
                store.commit({"generation": k // 4}, [genome(k).id])
        """
    )
    folder = tmp_path / "killed"
    here = os.path.dirname(__file__)
    root = os.path.dirname(os.path.dirname(here))
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(folder), here]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        for line in process.stdout:
            if int(line) >= 25:
                process.send_signal(signal.SIGKILL)
                break
        acknowledged = [int(line), *(int(rest) for rest in process.stdout if rest.endswith("\n"))][-1]
    assert process.returncode == -signal.SIGKILL
    read = Store.open(folder)
    assert len(read.records) >= acknowledged + 1 >= 26
    assert [r.index for r in read.records] == list(range(len(read.records)))
    with Store.open(folder, write=True) as store:  # the dead writer's lock is free
        n = len(store.records)
        fill(store, n, n + 1)
        store.commit({"generation": 9_999}, [genome(n).id])
    assert len(Store.open(folder).records) == n + 1


@pytest.mark.parametrize("what", ["removed", "renamed", "journal removed", "journal replaced"])
def test_a_run_that_is_moved_underneath_is_noticed_at_once(folder, what):
    store = Store.create(folder, HEADER)
    fill(store, 0, 2)
    moved = folder.with_name("moved")
    if what == "removed":
        shutil.rmtree(folder)
    elif what == "renamed":
        folder.rename(moved)
    else:
        (folder / "journal.jsonl").unlink()
        if what == "journal replaced":
            (folder / "journal.jsonl").write_bytes(b"")
    with pytest.raises(EvonasError, match=r"can't store the evaluation of .*: (No such file|the journal was replaced)"):
        fill(store, 2, 3)
    store.close()
    if what == "renamed":
        assert len(Store.open(moved).records) == 2


def test_a_second_writer_that_no_lock_has_kept_out_is_noticed(store, folder):
    """As on a file system that does not share its locks: neither may write over the other's lines."""
    fill(store, 0, 2)
    journal = folder / "journal.jsonl"
    state = Store.open(folder)
    other = Journal(journal, journal.stat().st_size)
    other.append(encode_line({"header": {"device": "elsewhere"}}))
    found = journal.read_bytes()
    for write in (lambda: fill(store, 2, 3), lambda: store.commit({"generation": 0}, [genome(0).id])):
        with pytest.raises(EvonasError, match="journal was written by another process") as error:
            write()
        assert "written by someone else" in error.value.hint
    store.close()
    assert journal.read_bytes() == found
    assert Store.open(folder).records == state.records
    other.close()
