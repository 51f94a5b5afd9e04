"""Round trips, the documented layout, lineage, readers beside a writer, and wrong use."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import h5py
import numpy as np
import pytest

from evonas.errors import EvonasError
from evonas.record import Measure, Record
from evonas.store import Store

from .conftest import BASE, HEADER, fill, genome, record


def same(a: Store, b: Store) -> bool:
    names = ("records", "finished", "genomes", "generations", "header")
    return all(getattr(a, n) == getattr(b, n) for n in names) and a.population() == b.population()


def test_every_field_comes_back_from_the_journal_and_from_the_file(store, folder):
    fill(store, 0, 2)
    odd = Record(
        genome(2).id, 0, 2, "non_finite",
        {"energy": Measure(1e-300, 0.0, "é ✓", "cuda:0", "aB==")},
        'a\n"b"\0', {"joules": 3.25}, {"n": 2**40, "ok": "x"},
    )  # fmt: skip
    store.append(genome(2), odd, (genome(0).id, genome(1).id), "crossover", "")
    assert same(store, Store.open(folder))
    row = {
        "generation": 0, "evaluations": 3, "front_size": 2, "hypervolume": np.float64(0.5), "seconds": 9.0,
        "failures": {"non_finite": 1}, "rng": {"state": 2**127 + 1}, "best": {"loss": 1.9}, "surrogate": {"r2": [0.5]},
    }  # fmt: skip
    store.commit(row, [genome(1).id, genome(0).id])
    read = Store.open(folder)
    assert same(store, read)
    assert read.generations == [row]
    assert read.population() == [genome(1).id, genome(0).id]
    last = read.records[2]
    assert (last.status, last.reason, dict(last.cost)) == ("non_finite", 'a\n"b"\ufffd', {"joules": 3.25})
    assert last.measures == {"energy": Measure(1e-300, 0.0, "é ✓", "cuda:0", "aB==")}
    assert last.provenance == {"n": 2**40, "ok": "x"}
    assert read.records[0] == record(0)
    entry = read.genomes[genome(2).id]
    assert (entry.genome, entry.parents, entry.operator) == (genome(2), (genome(0).id, genome(1).id), "crossover")
    assert (read.genomes[genome(1).id].label, entry.generation) == ("g1", 0)


def test_header_round_trip_and_change(store, folder):
    read = Store.open(folder).header
    assert read["objectives"][1] == {"name": "latency", "unit": "ms", "direction": "min"}
    assert {k: read[k] for k in ("seed", "device", "command", "settings", "space", "seed_genomes", "notes")} == {
        k: HEADER[k] for k in ("seed", "device", "command", "settings", "space", "seed_genomes", "notes")
    }
    assert read["reference"] is None and read["created"].endswith("+00:00") and read["versions"]["torch"]
    big = {"text": "x" * 200_000}
    store.set_header(reference={"ideal": [1, 2], "reference": [3, 4]}, notes=big)
    assert Store.open(folder).header == store.header
    store.commit({"generation": 0}, [])
    with h5py.File(folder / "population.h5") as file:
        assert json.loads(file.attrs["notes"]) == big
    assert Store.open(folder).header["reference"] == {"ideal": [1, 2], "reference": [3, 4]}
    assert Store.open(folder).header["notes"] == big
    with pytest.raises(EvonasError, match="Did you mean 'settings'"):
        store.set_header(setings={})


def test_a_header_can_be_changed_at_once(store, folder, monkeypatch):
    fill(store, 0, 2)
    store.set_header(settings={"generations": 30})
    read = Store.open(folder)
    assert read.header["settings"] == {"generations": 30} and read.records == store.records
    assert not read.generations, "the journal waits for its generation"
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(EvonasError, match="can't change the settings of run 'one': No space left"):
            store.set_header(settings={"generations": 40})
    assert store.header["settings"] == Store.open(folder).header["settings"] == {"generations": 30}
    store.commit({"generation": 0}, [genome(0).id])
    assert Store.open(folder).records == store.records


def test_the_file_is_the_documented_one_for_plain_h5py(store, folder):
    fill(store, 0, 2)
    store.commit({"generation": 0}, [genome(0).id, genome(1).id])
    other = Record(genome(3).id, 1, 0, "ok", {"loss": Measure(1.0), "latency": Measure(9.0), "energy": Measure(5.0)})
    store.append(genome(3), other)
    fill(store, 2, 3, 1)
    store.commit({"generation": 1}, [genome(3).id, genome(0).id, genome(2).id])
    with h5py.File(folder / "population.h5") as file:
        table = {k: d[:] for k, d in file["evaluations"].items()}
        assert {len(column) for column in table.values()} == {4}
        assert list(table)[:3] == ["sequence", "genome_id", "generation"]
        np.testing.assert_array_equal(table["sequence"], [0, 1, 2, 3])
        np.testing.assert_allclose(table["loss"], [2.0, 1.9, 1.0, 1.8])
        np.testing.assert_array_equal(table["energy"], [math.nan, math.nan, 5.0, math.nan])
        assert table["energy_device"].tolist() == [b"", b"", b"", b""]
        assert table["loss_fidelity"].tolist() == [b"1000 tokens", b"1000 tokens", b"exact", b"1000 tokens"]
        np.testing.assert_array_equal(table["cost_seconds"], [1.5, 2.5, math.nan, 3.5])
        assert json.loads(table["provenance"][0]) == {"threads": 1, "host": "h", "load": 0.5}
        assert file["population/generation"][:].tolist() == [0, 0, 1, 1, 1]
        # Genome 0 (2.0, 1.0) and 2 (1.8, 1.2) trade off with 3 (1.0, 9.0).
        assert file["population/rank"][:].tolist() == [0, 0, 0, 0, 0]
        assert file.attrs["schema"] == 2
        assert json.loads(file.attrs["settings"]) == HEADER["settings"]
        assert json.loads(file["genomes/genes"].asstr()[0])["d_model"] == 128
    assert Store.open(folder).records[2] == other


def test_ranks_follow_direction_and_skip_failures(tmp_path):
    header = {
        **HEADER,
        "objectives": [
            {"name": "loss", "unit": "", "direction": "max"},
            {"name": "latency", "unit": "", "direction": "min"},
        ],
    }
    with Store.create(tmp_path / "r", header) as store:
        fill(store, 0, 3)  # with "max", genome 0 is best in both
        store.append(genome(3), record(3, status="crash", measures={}))
        store.commit({"generation": 0}, [genome(k).id for k in (3, 2, 1, 0)])
        with h5py.File(tmp_path / "r" / "population.h5") as file:
            assert file["population/rank"][:].tolist() == [-1, 2, 1, 0]
        assert store.front_ids() == [genome(0).id]


def test_numbers_json_can_not_hold_are_null(store, folder):
    fill(store, 0, 1)
    store.append(genome(1), record(1, measures={"loss": Measure(1.0, math.nan)}, provenance={"x": math.inf}))
    store.commit({"generation": 0, "hypervolume": None, "best": {"loss": math.nan}, "rng": np.arange(2)}, [])
    read = Store.open(folder)
    assert math.isnan(read.records[1].measures["loss"].spread)
    assert read.records[1].provenance == {"x": None}
    assert read.generations[0]["hypervolume"] is None
    assert (read.generations[0]["best"], read.generations[0]["rng"]) == ({"loss": None}, [0, 1])


def test_record_of_prefers_the_last_ok(store):
    assert store.record_of(genome(0).id) is None
    store.append(genome(0), record(0, status="timeout", measures={}))
    assert store.record_of(genome(0).id).status == "timeout"
    fill(store, 0, 1, 1)
    store.append(genome(0), record(0, 2, status="crash", measures={}))
    assert store.record_of(genome(0).id).generation == 1
    assert [r.status for r in store.records_of(genome(0).id)] == ["timeout", "ok", "crash"]


def test_population_by_generation(store):
    assert store.population() == []
    fill(store, 0, 2)
    store.commit({"generation": 0}, [genome(0).id])
    store.commit({"generation": 1}, [genome(1).id])
    assert store.population(0) == [genome(0).id]
    assert store.population() == store.population(1) == [genome(1).id]
    with pytest.raises(EvonasError, match="no generation 2; the last one is 1"):
        store.population(2)


def test_lineage(store):
    fill(store, 0, 3)
    store.append(BASE.replace(beta2=0.5), record(0, genome_id=BASE.replace(beta2=0.5).id), ("0" * 12,), "mutate")
    graph = store.lineage()
    assert set(graph.edges) == {
        (genome(0).id, genome(1).id), (genome(1).id, genome(2).id), ("0" * 12, BASE.replace(beta2=0.5).id),
    }  # fmt: skip
    assert graph.nodes[genome(1).id] == {"operator": "mutate", "generation": 0, "status": "ok"}
    assert graph.nodes["0" * 12]["status"] == ""


def test_a_reader_follows_a_live_writer(store, folder):
    seen = []
    for k in range(6):
        fill(store, k, k + 1, k // 2)
        seen.append(len(Store.open(folder).records))
        if k % 2:
            store.commit({"generation": k // 2}, [genome(k).id])
            seen.append(len(Store.open(folder).records))
    assert seen == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert Store.open(folder / "population.h5").records == store.records
    with pytest.raises(EvonasError, match="reading only"):
        Store.open(folder).append(genome(0), record(0))


def test_plain_h5py_may_have_it_open_while_the_search_commits(store, folder):
    held = "import h5py, sys; file = h5py.File(sys.argv[1]); print(len(file), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", held, str(folder / "population.h5")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout.readline()
        fill(store, 0, 2)
        store.commit({"generation": 0}, [genome(0).id])
        reader.stdin.close()
    assert reader.returncode == 0 and len(Store.open(folder).generations) == 1


def test_a_run_ends_before_it_holds_more_than_is_read_again(store, folder, monkeypatch):
    fill(store, 0, 3)
    store.commit({"generation": 0}, [genome(k).id for k in range(3)])
    monkeypatch.setattr("evonas.store.store.MAX_ROWS", 5)
    with pytest.raises(EvonasError, match="run 'one' has 5 members in its generations") as caught:
        store.commit({"generation": 1}, [genome(k).id for k in range(3)])
    assert "--population" in caught.value.hint
    store.commit({"generation": 1}, [genome(k).id for k in range(2)])
    assert len(Store.open(folder).generations) == 2


def test_a_commit_between_the_two_reads_loses_nothing(store, folder, monkeypatch):
    from evonas.store import files

    fill(store, 0, 3)
    real = files._read_data

    def commit_then_read(path):
        store.commit({"generation": 0}, [])
        fill(store, 3, 4)
        return real(path)

    monkeypatch.setattr(files, "_read_data", commit_then_read)
    assert Store.open(folder).records == store.records[:3]


def test_resume_goes_on_where_it_stopped(folder):
    with Store.create(folder, HEADER) as store:
        fill(store, 0, 2)
        store.commit({"generation": 0, "seconds": 100.0}, [genome(0).id])
        fill(store, 2, 3, 1)
    with Store.open(folder, write=True) as store:
        assert store.seconds >= 100.0
        fill(store, 3, 4, 1)
        assert store.finished[3] >= 100.0
        store.commit({"generation": 1}, [genome(3).id])
        with pytest.raises(EvonasError, match="generation 1 of run 'one' is committed already"):
            store.commit({"generation": 1}, [])
    read = Store.open(folder)
    assert [r.index for r in read.records] == [0, 1, 2, 3]
    assert (folder / "journal.jsonl").read_bytes() == b""


@pytest.mark.parametrize("name", ["sequence", "cost_x", "loss_spread", "a b", "x/y", ""])
def test_objective_names_that_can_not_be_columns(store, name):
    with pytest.raises(EvonasError, match="can't be a column"):
        store.append(genome(0), record(0, measures={name: Measure(1.0)}))
    assert store.records == []


def test_create_refuses_what_exists(store, folder, tmp_path):
    with pytest.raises(EvonasError, match=r"run 'one' exists") as error:
        Store.create(folder, HEADER)
    assert "evonas resume one" in error.value.hint
    (tmp_path / "file").write_text("x")
    with pytest.raises(EvonasError, match="can't create run"):
        Store.create(tmp_path / "file", HEADER)
    assert (tmp_path / "file").read_text() == "x"
    with pytest.raises(EvonasError, match="can't create run"):
        Store.create(tmp_path / "file" / "below", HEADER)
    with pytest.raises(EvonasError, match="no 'sed'"):
        Store.create(tmp_path / "other", {"sed": 1})
    assert not (tmp_path / "other").exists()


def test_create_in_a_folder_with_other_files_keeps_them(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "notes.txt").write_text("mine")
    Store.create(tmp_path / "r", HEADER).close()
    assert (tmp_path / "r" / "notes.txt").read_text() == "mine"
    assert Store.open(tmp_path / "r").records == []
