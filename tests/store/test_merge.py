"""Commits that wait in the journal until there is enough for a copy of population.h5."""

from __future__ import annotations

import os
import shutil

import h5py
import pytest

from evonas.errors import EvonasError
from evonas.record import MEASURED_AGAIN
from evonas.store import Store
from evonas.store import store as module

from .conftest import HEADER, fill, genome, record
from .test_kill import FailingCall


@pytest.fixture(autouse=True)
def seldom(monkeypatch):
    """Merge from ten evaluations on, and from then on whenever half as many wait as were merged."""
    monkeypatch.setattr(module, "MERGE_ALWAYS", 0)
    monkeypatch.setattr(module, "MERGE_FROM", 10)
    monkeypatch.setattr(module, "MERGE_SHARE", 0.5)


def generation(store: Store, number: int, size: int = 2, **row) -> None:
    fill(store, size * number, size * (number + 1), number)
    store.commit({"generation": number, "hypervolume": 0.1 * number, **row}, [genome(size * number).id])


def contents(store: Store) -> tuple:
    return (
        store.records, store.finished, store.genomes, store.generations, store.header,
        [store.population(g["generation"]) for g in store.generations],
    )  # fmt: skip


def merged(folder) -> int:
    with h5py.File(folder / "population.h5") as file:
        return len(file["generations/generation"])


def test_a_reader_sees_every_commit_and_the_file_some(store, folder):
    seen = []
    for number in range(30):
        generation(store, number, mine=number)
        assert contents(Store.open(folder)) == contents(store)
        seen.append(merged(folder))
    assert seen[3:6] == [0, 5, 5] and sorted(set(seen)) == [0, 5, 10, 15, 23]
    assert Store.open(folder).generations[-1]["mine"] == 29
    store.close()
    assert merged(folder) == 30 and (folder / "journal.jsonl").read_bytes() == b""


def test_a_killed_writer_is_followed_by_one_that_knows_everything(folder, tmp_path):
    store = Store.create(folder, HEADER)
    for number in range(8):
        generation(store, number)
    store.set_header(reference={"ideal": [1.0], "reference": [2.0]})
    fill(store, 16, 17, 8)
    expected = contents(store)
    shutil.copytree(folder, tmp_path / "killed")  # as the disk is now
    store.close()
    with Store.open(tmp_path / "killed", write=True) as after:
        assert contents(after)[1:] == expected[1:] and after.header["reference"] == {"ideal": [1.0], "reference": [2.0]}
        with pytest.raises(EvonasError, match="generation 7 of run 'killed' is committed already"):
            after.commit({"generation": 7}, [])
        fill(after, 17, 18, 8)
        after.commit({"generation": 8}, [genome(17).id])
        expected = contents(after)
    assert merged(tmp_path / "killed") == 9
    assert contents(Store.open(tmp_path / "killed")) == expected


def test_a_kill_between_replace_and_emptying_duplicates_no_generation(store, folder, tmp_path):
    for number in range(4):
        generation(store, number)
    store.set_header(settings={"generations": 9})
    shutil.copy(folder / "journal.jsonl", tmp_path / "before")
    generation(store, 4)
    assert merged(folder) == 5
    os.replace(tmp_path / "before", folder / "journal.jsonl")
    assert contents(Store.open(folder)) == contents(store)
    store.close()
    with Store.open(folder, write=True) as store:
        generation(store, 5)
    assert [g["generation"] for g in Store.open(folder).generations] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", [1, 4], ids=["a line", "a merge"])
def test_a_commit_that_fails_may_be_tried_again(store, folder, monkeypatch, number):
    for done in range(number):
        generation(store, done)
    fill(store, 2 * number, 2 * number + 2, number)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FailingCall("fsync", 1))
        with pytest.raises(EvonasError, match=f"can't commit generation {number}: No space left"):
            store.commit({"generation": number}, [])
    assert contents(Store.open(folder)) == contents(store) and len(store.generations) == number
    store.commit({"generation": number}, [genome(0).id])
    generation(store, number + 1)
    store.close()
    assert [g["generation"] for g in Store.open(folder).generations] == list(range(number + 2))


def test_a_disk_that_is_full_at_the_end_leaves_it_all_in_the_journal(store, folder, monkeypatch):
    generation(store, 0)
    before = contents(store)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", FailingCall("replace", 1))
        store.close()
    assert contents(Store.open(folder)) == before and merged(folder) == 0


def test_what_is_measured_again_after_the_last_generation_is_in_the_file(store, folder):
    generation(store, 0)
    store.close()
    with Store.open(folder, write=True) as store:
        store.append(genome(0), record(0, reason=MEASURED_AGAIN))
    with h5py.File(folder / "population.h5") as file:
        assert file["evaluations/reason"].asstr()[-1] == MEASURED_AGAIN


@pytest.mark.parametrize(
    "row",
    [
        {"generation": {}, "members": []},
        {"generation": "no row", "members": []},
        {"generation": None, "members": 3},
        {"header": {"seed": "x"}},
        {"header": {"colour": 1}},
        {"header": None},
        {},
    ],
)
def test_a_line_that_is_none_of_ours_is_damage(store, folder, row):
    from evonas.store.journal import encode_line

    fill(store, 0, 1)
    store.close()
    with open(folder / "journal.jsonl", "ab") as file:
        file.write(encode_line(row))
    with pytest.raises(EvonasError, match=r"journal.jsonl is damaged"):
        Store.open(folder)


def test_members_of_a_generation_are_genomes_of_the_run(store, folder):
    from evonas.store.journal import JournalReader, encode_line

    generation(store, 0)
    with JournalReader(folder / "journal.jsonl") as reader:
        rows = list(reader)
    rows[-1]["members"][0]["genome_id"] = "0" * 12
    (folder / "journal.jsonl").write_bytes(b"".join(map(encode_line, rows)))
    with pytest.raises(EvonasError, match="the genes of 000000000000 are missing"):
        Store.open(folder)


def test_a_header_too_long_for_a_line_outlives_older_ones(store, folder):
    store.set_header(notes={"text": "old"})
    generation(store, 0)
    long = {"text": "x" * (module.MAX_LINE + 1)}
    store.set_header(notes=long)
    assert merged(folder) == 1
    store.set_header(settings={"generations": 5})
    assert Store.open(folder).header == store.header and store.header["notes"] == long


def test_a_header_that_was_merged_is_not_merged_again(store, folder):
    store.set_header(notes={"text": "new"})
    for number in range(5):
        generation(store, number)
    assert merged(folder) == 5
    before = (folder / "population.h5").stat().st_ino
    store.close()
    assert (folder / "population.h5").stat().st_ino == before
