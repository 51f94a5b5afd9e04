"""Ctrl-C between any two steps of a write, and runs that lie in each other's place."""

from __future__ import annotations

import os

import pytest

from evonas.errors import EvonasError
from evonas.store import Store
from evonas.store import store as module

from .conftest import HEADER, fill, genome

CALLS = ("write", "fsync", "replace", "ftruncate", "close", "stat")


class Interrupting:
    """Raises KeyboardInterrupt after the n-th of the calls by which the store writes, once."""

    def __init__(self, monkeypatch, n: int | None) -> None:
        self.n, self.count = n, 0
        for name in CALLS:
            monkeypatch.setattr(os, name, self.calling(getattr(os, name)))

    def calling(self, real):
        def call(*args, **options):
            out = real(*args, **options)
            self.count += 1
            if self.count == self.n:
                raise KeyboardInterrupt
            return out

        return call


def search(folder, said: list) -> None:
    """A few generations; ``said`` are the evaluations and generations that were acknowledged."""
    with Store.create(folder, HEADER) as store:
        for number in range(3):
            for k in range(2 * number, 2 * number + 2):
                fill(store, k, k + 1, number)
                said.append(genome(k).id)
            store.set_header(reference={"ideal": [1.0, float(number)], "reference": [2.0, 2.0]})
            store.commit({"generation": number}, [genome(2 * number).id])
            said.append(number)


@pytest.mark.parametrize("merges", ["always", "seldom", "at the end"])
def test_an_interrupt_after_any_call_loses_and_doubles_nothing(tmp_path, monkeypatch, merges):
    monkeypatch.setattr(module, "MERGE_ALWAYS", 100 if merges == "always" else 0)
    monkeypatch.setattr(module, "MERGE_FROM", 3 if merges == "seldom" else 100)
    with monkeypatch.context() as patch:
        counted = Interrupting(patch, None)
        search(tmp_path / "whole", [])
    assert counted.count > 20
    for n in range(1, counted.count + 1):
        said: list = []
        folder = tmp_path / f"at-{n}"
        with monkeypatch.context() as patch:
            calls = Interrupting(patch, n)
            with pytest.raises(KeyboardInterrupt):
                search(folder, said)
                raise KeyboardInterrupt
        if calls.count < n:  # not every run asks for as much
            break
        if not (folder / "population.h5").exists():
            assert not said
            continue
        for write in (False, True):
            with Store.open(folder, write=write) as store:
                ids = [r.genome_id for r in store.records]
                numbers = [g["generation"] for g in store.generations]
                assert len(set(ids)) == len(ids) and len(set(numbers)) == len(numbers)
                assert set(said) <= {*ids, *numbers}
        with Store.open(folder, write=True) as store:  # and goes on
            fill(store, 50, 51, 9)
            store.commit({"generation": 9}, [genome(50).id])
        assert Store.open(folder).records[-1].genome_id == genome(50).id


def test_a_run_that_was_moved_leaves_the_one_in_its_place_alone(folder):
    moved = Store.create(folder, HEADER)
    fill(moved, 0, 2)
    moved.commit({"generation": 0}, [genome(0).id])
    moved.set_header(device="another")
    folder.rename(folder.with_name("moved"))
    with Store.create(folder, HEADER) as other:
        fill(other, 5, 6)
        with pytest.raises(EvonasError, match="moved, removed or written by someone else"):
            fill(moved, 2, 3)
        with pytest.raises(EvonasError, match="moved, removed or written by someone else"):
            moved.commit({"generation": 1}, [])
        moved.close()
        fill(other, 6, 7)
        other.commit({"generation": 0}, [genome(5).id])
    assert [r.index for r in Store.open(folder).records] == [5, 6]
    moved = Store.open(folder.with_name("moved"))
    assert [r.index for r in moved.records] == [0, 1] and moved.header["device"] == "another"
