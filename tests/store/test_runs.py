"""Finding runs, and genomes in them."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
from pathlib import Path

import pytest

from evonas.errors import EvonasError
from evonas.store import Store, find_run, load_genome_ref, newest_run, runs_folder

from .conftest import BASE, HEADER, fill, genome, record


@pytest.fixture
def two(folder):
    for name in ("one", "two"):
        with Store.create(runs_folder() / name, HEADER) as store:
            store.append(BASE, record(0, genome_id=BASE.id), label="hand-tuned")
            fill(store, 1, 4)
    return folder.parent


def test_the_newest_run_is_the_one_written_last(two):
    for path in two.rglob("*"):
        os.utime(path, (1, 1))
    os.utime(two / "one" / "journal.jsonl", (5, 5))
    assert newest_run() == find_run() == Path("runs/one")
    os.utime(two / "two" / "population.h5", (9, 9))
    assert newest_run() == find_run(None) == Path("runs/two")


def test_find_run_takes_names_folders_and_files(two, tmp_path):
    assert find_run("one") == Path("runs/one")
    assert find_run(two / "one") == two / "one"
    assert find_run("runs/one/population.h5") == Path("runs/one")
    copy = tmp_path / "copy.h5"
    copy.write_bytes((two / "one" / "population.h5").read_bytes())
    assert Store.open(copy).records == [] and Store.open(copy).name == "copy"
    with pytest.raises(EvonasError, match="only be read"):
        Store.open(copy, write=True)


def test_a_command_finds_a_run_by_what_names_it(two, tmp_path, monkeypatch):
    """Its name where it lies in runs/, its path elsewhere; from its own folder too, where it was opened as "."."""
    assert Store.open(runs_folder() / "one").reference == "one"
    assert Store.open((runs_folder() / "one").resolve()).reference == "one"
    elsewhere = tmp_path / "old runs" / "one"
    shutil.copytree(runs_folder() / "one", elsewhere)
    named = Store.open(elsewhere).reference
    assert shlex.split(named) == [str(elsewhere)] and find_run(shlex.split(named)[0]) == elsewhere
    monkeypatch.chdir(elsewhere)
    assert Store.open(".").reference == named


def test_no_such_run_names_the_nearest(two):
    with pytest.raises(EvonasError, match="'tow' names no run") as error:
        find_run("tow")
    assert error.value.hint == "Did you mean 'two'?"
    (two / "empty").mkdir()
    with pytest.raises(EvonasError, match="'empty' holds no run"):
        Store.open("empty")


def test_no_run_at_all(folder):
    for call in (newest_run, find_run):
        with pytest.raises(EvonasError, match="no run") as error:
            call()
        assert error.value.hint == "Start one with: evonas evolve"
    with pytest.raises(EvonasError, match="names no run"):
        find_run("x")


def test_load_genome_ref(two):
    wanted = genome(2)
    assert load_genome_ref(f"one:{wanted.id}") == (wanted, f"one:{wanted.id}")
    assert load_genome_ref(f"{two / 'one'}:{wanted.id[:8]}")[0] == wanted
    assert load_genome_ref("one:hand-tuned")[0] == BASE
    assert load_genome_ref(f":{wanted.id}")[0] == wanted


def test_a_label_comes_before_the_beginning_of_an_id(two):
    label = genome(1).id[:2]
    with Store.open("one", write=True) as store:
        store.append(genome(40), record(40, 1), (), "seed", label)
    assert load_genome_ref(f"one:{label}")[0] == genome(40)


def test_load_genome_ref_says_what_there_is(two):
    with pytest.raises(EvonasError, match="run 'one' has no genome 'zzz'") as error:
        load_genome_ref("one:zzz")
    assert all(i in error.value.hint for i in (BASE.id, genome(1).id, genome(3).id))
    for bad in ("one", "one:", ""):
        with pytest.raises(EvonasError, match="not of the form RUN:ID"):
            load_genome_ref(bad)
    with Store.open("one", write=True) as store:
        fill(store, 4, 40, 1)
        ids = sorted(store.genomes)
    shared = next(a[0] for a, b in itertools.pairwise(ids) if a[0] == b[0])
    with pytest.raises(EvonasError, match=f"'{shared}' is the beginning of"):
        load_genome_ref(f"one:{shared}")
