"""Files that are not what they should be."""

from __future__ import annotations

import json
import os
import random

import h5py
import numpy as np
import pytest

from evonas.errors import EvonasError
from evonas.store import Store, files
from evonas.store.files import read_generation
from evonas.store.journal import encode_line

from .conftest import HEADER, fill, genome


@pytest.fixture
def run(folder):
    with Store.create(folder, HEADER) as store:
        fill(store, 0, 3)
        store.commit({"generation": 0}, [genome(0).id])
        fill(store, 3, 4, 1)
    return folder


def test_a_newer_schema_names_the_cure(run):
    with h5py.File(run / "population.h5", "r+") as file:
        file.attrs["schema"] = 3
    with pytest.raises(EvonasError, match="schema 3") as error:
        Store.open(run)
    assert error.value.hint == "Upgrade your clone of evonas: git pull && pip install -e ."


def test_a_run_of_the_first_schema_opens_and_goes_on(run):
    with h5py.File(run / "population.h5", "r+") as file:
        file.attrs["schema"] = 1
    assert len(Store.open(run).records) == 4
    with Store.open(run, write=True) as store:
        store.commit({"generation": 1}, [genome(3).id])
    with h5py.File(run / "population.h5") as file:
        assert file.attrs["schema"] == 2
    assert len(Store.open(run).generations) == 2


def test_a_sketch_is_a_text(run):
    with h5py.File(run / "population.h5", "r+") as file:
        group = file["evaluations"]
        group.create_dataset("loss_sketch", data=np.zeros(len(group["sequence"])), maxshape=(None,), chunks=(512,))
    with pytest.raises(EvonasError, match="not of their kinds"):
        Store.open(run)


@pytest.mark.parametrize("content", [b"", b"not hdf5", b"\x89HDF\r\n\x1a\n" + b"\0" * 100])
def test_not_an_hdf5_file(run, content):
    (run / "population.h5").write_bytes(content)
    with pytest.raises(EvonasError, match="is damaged or no evonas run"):
        Store.open(run)


def test_a_truncated_file(run):
    data = (run / "population.h5").read_bytes()
    for size in (100, len(data) // 2, len(data) - 1):
        (run / "population.h5").write_bytes(data[:size])
        with pytest.raises(EvonasError, match="is damaged"):
            Store.open(run)


def _column(file, table, name, data=None, **how):
    del file[table][name]
    file[table].create_dataset(name, data=data, **how)


DAMAGE = {
    "no schema": lambda f: f.attrs.__delitem__("schema"),
    "schema is text": lambda f: f.attrs.__setitem__("schema", "1"),
    "settings not JSON": lambda f: f.attrs.__setitem__("settings", "{"),
    "settings a list": lambda f: f.attrs.__setitem__("settings", "[]"),
    "header missing": lambda f: f.attrs.__delitem__("device"),
    "objective without direction": lambda f: f.attrs.__setitem__("objectives", '[{"name":"loss"}]'),
    "objectives of text": lambda f: f.attrs.__setitem__("objectives", '["loss"]'),
    "seed genome a number": lambda f: f.attrs.__setitem__("seed_genomes", "[1]"),
    "group missing": lambda f: f.__delitem__("genomes"),
    "column missing": lambda f: f["evaluations"].__delitem__("status"),
    "unequal columns": lambda f: f["evaluations/status"].resize((2,)),
    "text for numbers": lambda f: _column(f, "evaluations", "generation", ["a", "b", "c"]),
    "a matrix": lambda f: _column(f, "evaluations", "generation", np.zeros((3, 2), "i8")),
    "a group for a column": lambda f: (f["evaluations"].__delitem__("index"), f["evaluations"].create_group("index")),
    "a soft link": lambda f: (
        f["evaluations"].__delitem__("index"),
        f["evaluations"].__setitem__("index", h5py.SoftLink("/evaluations/generation")),
    ),
    "an external link": lambda f: (
        f["evaluations"].__delitem__("index"),
        f["evaluations"].__setitem__("index", h5py.ExternalLink("population.h5", "/evaluations/generation")),
    ),
    "an external link for a table": lambda f: (
        f.__delitem__("evaluations"),
        f.__setitem__("evaluations", h5py.ExternalLink("../other.h5", "/evaluations")),
    ),
    "a circle of links": lambda f: (
        f.__delitem__("genomes"),
        f.__setitem__("genomes", h5py.SoftLink("/genomes")),
    ),
    "rows without end": lambda f: [d.resize((10**12,)) for d in f["population"].values()],
    "unknown status": lambda f: f["evaluations/status"].__setitem__(0, "fine"),
    "id not hexadecimal": lambda f: f["population/genome_id"].__setitem__(0, "../../etc/pas"),
    "an unknown member": lambda f: f["population/genome_id"].__setitem__(0, "0" * 12),
    "an unknown genome": lambda f: f["evaluations/genome_id"].__setitem__(0, "0" * 12),
    "genes changed": lambda f: f["genomes/genes"].__setitem__(0, '{"n_layers": 1}'),
    "genes not JSON": lambda f: f["genomes/genes"].__setitem__(0, "{"),
    "genes nested": lambda f: f["genomes/genes"].__setitem__(0, "[" * 100_000),
    "genes infinite": lambda f: f["genomes/genes"].__setitem__(0, '{"d_model": 1e999}'),
    "a parent that is a number": lambda f: f["genomes/parents"].__setitem__(0, "[1]"),
    "sequence twice": lambda f: f["evaluations/sequence"].__setitem__(1, 0),
    "provenance a list": lambda f: f["evaluations/provenance"].__setitem__(0, "[]"),
    "an attribute of many values": lambda f: f.attrs.__setitem__("device", np.zeros(1000)),
    "a constraint that is a list": lambda f: f.attrs.__setitem__("constraints", "[[1]]"),
    "rows that were never written": lambda f: [d.resize((4_000_000,)) for d in f["genomes"].values()],
    "one text for many rows": lambda f: _one_text_for_many_rows(f["genomes"]),
    "compressed rows": lambda f: _column(f, "population", "rank", np.zeros(1, "i8"), chunks=(1,), compression="gzip"),
    "a chunk of everything": lambda f: _column(
        f, "population", "rank", np.zeros(1, "i8"), maxshape=(None,), chunks=(10**6,)
    ),
    "text of fixed length": lambda f: _column(f, "genomes", "label", np.zeros(3, "S9"), chunks=(3,)),
    "a fidelity that is a number": lambda f: _column(
        f, "evaluations", "loss_fidelity", np.zeros(3), maxshape=(None,), chunks=(512,)
    ),
    "a cost that is a text": lambda f: _column(
        f, "evaluations", "cost_seconds", ["a"] * 3, maxshape=(None,), chunks=(512,), dtype=h5py.string_dtype()
    ),
    "a value that is a whole number": lambda f: _column(
        f, "evaluations", "loss", np.zeros(3, "i8"), maxshape=(None,), chunks=(512,)
    ),
    "an endless time": lambda f: f["evaluations/finished"].__setitem__(0, np.inf),
    "rungs of texts": lambda f: f["generations/extra"].__setitem__(0, '{"rungs":["a"]}'),
    "expectations that are numbers": lambda f: f["generations/extra"].__setitem__(0, '{"expected":[1]}'),
    "an expectation without an error": lambda f: f["generations/extra"].__setitem__(
        0, '{"expected":[{"rung":0,"of":1,"pairs":1}]}'
    ),
    "an error that is a text": lambda f: f["generations/extra"].__setitem__(
        0, '{"expected":[{"rung":0,"of":1,"pairs":1,"error":{"loss":"x"}}]}'
    ),
    "an error that is a text and without end": lambda f: f["generations/extra"].__setitem__(
        0, '{"expected":[{"rung":0,"of":1,"pairs":1,"error":{"loss":-1e999}}]}'
    ),
    "text that is not UTF-8": lambda f: f["evaluations/reason"].__setitem__(0, b"\xff\xfe"),
}


def _one_text_for_many_rows(table):
    label = table["label"]
    label[0] = "x" * 100_000
    table.file.flush()
    for column in table.values():
        column.resize((512,))
    _, chunk = label.id.read_direct_chunk((0,))
    label.id.write_direct_chunk((0,), chunk[:16] * 512)


@pytest.mark.parametrize("damage", DAMAGE)
def test_hostile_contents_are_one_clear_error(run, damage):
    with h5py.File(run / "population.h5", "r+") as file:
        DAMAGE[damage](file)
    with pytest.raises(EvonasError, match="is damaged or no evonas run"):
        dict(Store.open(run).genomes)  # genomes are read when they are asked for


MEASURE = {"value": 1.0, "spread": 0.0, "fidelity": "exact", "device": ""}
GOOD = {
    "sequence": 4, "finished": 0.0,
    "record": {
        "genome_id": genome(0).id, "generation": 1, "index": 0, "status": "ok", "measures": {"loss": MEASURE},
        "reason": "", "cost": {}, "provenance": {},
    },
}  # fmt: skip


def test_a_journal_line_written_by_hand_is_read(run):
    with open(run / "journal.jsonl", "ab") as file:
        file.write(encode_line(GOOD))
    assert Store.open(run).records[-1].value("loss") == 1.0


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"sequence": 4},
        {
            "sequence": 9,
            "finished": 0.0,
            "record": {"genome_id": "0" * 12, "generation": 0, "index": 0, "status": "ok"},
        },
        {
            "sequence": 4,
            "finished": 0.0,
            "record": {"genome_id": "0" * 12, "generation": 0, "index": 0, "status": "ok"},
        },
        {"sequence": 4, "finished": 0.0, "record": {"genome_id": "x", "generation": 0, "index": 0, "status": "ok"}},
        {"sequence": 4, "finished": 0.0, "record": {"genome_id": "0" * 12, "generation": 0, "index": 0, "status": "?"}},
        {"sequence": 4, "finished": 0.0, "record": []},
        {"header": {"settings": []}},
        {"header": {"constraints": [[1]]}},
        *(
            {**GOOD, "record": {**GOOD["record"], **changes}}
            for changes in (
                {"measures": []},
                {"measures": {"loss": {**MEASURE, "value": "1"}}},
                {"measures": {"loss": {**MEASURE, "spread": None}}},
                {"measures": {"loss": {**MEASURE, "fidelity": 3}}},
                {"generation": "0"},
                {"index": 2**63},
                {"reason": None},
                {"cost": {"seconds": "1"}},
                {"provenance": []},
            )
        ),
        {**GOOD, "finished": float("inf")},
        {**GOOD, "sequence": "4"},
        {**GOOD, "sequence": 4.0},
    ],
)
def test_a_journal_line_with_a_right_checksum_and_wrong_content(run, row):
    with open(run / "journal.jsonl", "ab") as file:
        file.write(encode_line(row))
    with pytest.raises(EvonasError, match=r"journal\.jsonl is damaged"):
        Store.open(run)


def test_an_overlong_line_is_refused(run, monkeypatch):
    from evonas.store import journal

    monkeypatch.setattr(journal, "MAX_LINE", 5000)
    with open(run / "journal.jsonl", "ab") as file:
        file.write(b"x" * 6000)
    with pytest.raises(EvonasError, match="line 2 is damaged"):
        Store.open(run)


def test_a_line_that_is_written_while_a_reader_is_at_it_is_no_damage(tmp_path):
    from evonas.store.journal import JournalReader

    path, line = tmp_path / "journal.jsonl", encode_line({"k": 1})
    path.write_bytes(line + line[:10])
    with JournalReader(path) as reader:
        with open(path, "ab") as writer:
            writer.write(line[10:] + line)
        assert list(reader) == [{"k": 1}] and reader.good == len(line)


def test_a_journal_without_end_is_refused_before_it_is_read(run):
    os.truncate(run / "journal.jsonl", 2**31)  # a hole: it takes no disk
    with pytest.raises(EvonasError, match=r"journal\.jsonl has 2147483648 bytes; at most 268435456 are read"):
        Store.open(run)


def test_random_bytes_never_raise_anything_else(run, monkeypatch):
    monkeypatch.setattr(files, "check_readable", lambda data: None)  # a process each time
    data = (run / "population.h5").read_bytes()
    rng = random.Random(3)
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(20):
            # Text and tables, not HDF5's own heap pointers: its C code is not ours to test.
            position = rng.choice([i for i in (broken.find(b"1000 tokens"), broken.find(b'"d_model"'))])
            broken[position + rng.randrange(-4, 8)] = rng.randrange(256)
        (run / "population.h5").write_bytes(broken)
        try:
            Store.open(run)
        except EvonasError as error:
            assert "population.h5" in error.message


def test_the_journal_is_json_lines(run):
    line = json.loads((run / "journal.jsonl").read_text())
    assert line["row"]["sequence"] == 3 and len(line["crc32"]) == 8


def test_what_a_search_noted_takes_no_columns_place():
    row = {"generation": 3, "hypervolume": 0.5, "failures": "{}", "rng": "null", "best": "null"}
    found = read_generation({**row, "extra": '{"generation": [1], "hypervolume": "x", "mine": 7}'})
    assert (found["generation"], found["hypervolume"], found["mine"]) == (3, 0.5, 7)
