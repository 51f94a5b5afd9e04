"""Hostile inputs out of good ones: what ``tools/fuzz.py`` feeds to the readers.

Bytes are flipped, cut, doubled and spliced; what has structure (JSON, TOML, HDF5, the header of a safetensors file) is
also taken apart, changed in a few places and put together again, so that the damage gets past the parser.
Every choice is drawn from the ``random.Random`` that is passed in.
"""

from __future__ import annotations

import copy
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

from evonas.genome import Genome

WORDS = (
    "",
    "none",
    "loss",
    "latency",
    "measured",
    "exact",
    "49152 tokens",
    "ok",
    "../../x",
    "0" * 12,
    "<b>&\"'",
    "$a$",
)
# Written as text, since no Python value becomes this JSON (or becomes it soon enough).
RAW = {
    "@@deep@@": "[" * 50_000 + "]" * 50_000,
    "@@digits@@": "9" * 5_000,
    "@@inf@@": "1e999",
    "@@objects@@": '{"a":' * 5_000 + "1" + "}" * 5_000,
}
NUMBERS = (
    0, 1, -1, 2, 3, 1024, 1025, 4097, 2**24 + 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**9, 10**400, -(10**400), 0.0,
    -0.0, 0.5, 1e-320, 1e18, 1e300, 1e308, -1e308, math.nan, math.inf, -math.inf,
)  # fmt: skip
_CANT = (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError)
UINTS = (0, 1, 7, 8, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)


class Again(str):
    """A key that a dict holds beside an equal one: JSON may name a key twice."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


def nasty(rng: Random) -> Any:
    """A value that no reader asked for."""
    kind = rng.randrange(10)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind == 3:
        return rng.choice(list(RAW)) if rng.random() < 0.3 else rng.choice(WORDS)
    if kind == 4:
        return rng.choice(("\ud800", "\0", "\u202e\x1b[2J", "é" * 300, "x" * rng.choice((100, 5_000, 200_000)), "=1+1"))
    if kind == 5:
        return rng.choice((None, True, False))
    if kind == 6:
        return [nasty(rng) for _ in range(rng.randrange(4))] if rng.random() < 0.9 else [[]] * 2_000
    if kind == 7:
        return {rng.choice(WORDS): nasty(rng) for _ in range(rng.randrange(3))}
    return rng.choice((rng.randrange(-5, 300), rng.uniform(-2, 2), 10.0 ** rng.randrange(-30, 30), str(rng.random())))


# -- bytes ------------------------------------------------------------------------------------------------------------


def edited_bytes(rng: Random, data: bytes, other: bytes, places: Any = None) -> bytes:
    """One to four edits of ``data``; ``places`` are positions worth changing, all of them for None."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = (places[rng.randrange(len(places))] if places is not None else rng.randrange(len(out) + 1)) if out else 0
        size = rng.choice((1, 1, 2, 4, 8, 16, 64, 300))
        kind = rng.randrange(12)
        if kind < 4 and at < len(out):
            out[at] ^= 1 << rng.randrange(8) if kind < 2 else rng.randrange(1, 256)
        elif kind == 4:
            out[at : at + size] = (b"\0" if rng.random() < 0.5 else b"\xff") * len(out[at : at + size])
        elif kind == 5:
            width = rng.choice((1, 2, 4, 8))
            out[at : at + width] = (rng.choice(UINTS) % 256**width).to_bytes(width, "little")
        elif kind == 6:
            out[at:at] = rng.randbytes(size)
        elif kind == 7:
            del out[at : at + size]
        elif kind == 8:
            out[at:at] = out[at : at + size] * rng.choice((1, 2, 20))
        elif kind == 9:
            start = rng.randrange(len(other) + 1)
            out[at : at + size] = other[start : start + size]
        elif kind == 10 and rng.random() < 0.3:
            del out[at:]
        elif kind == 11 and rng.random() < 0.3:
            out = bytearray(data[:at] + other[rng.randrange(len(other) + 1) :])
    return bytes(out)


# -- trees: JSON and TOML ---------------------------------------------------------------------------------------------


def edited_tree(rng: Random, tree: Any) -> Any:
    """A copy of a JSON value with one to three of its parts replaced, dropped, doubled, renamed or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return nasty(rng)
        _edit(rng, *rng.choice(places), places)
    return tree


def _places(tree: Any) -> Any:
    """(container, key) of every part."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def _edit(rng: Random, box: Any, key: Any, places: list) -> None:
    kind, value = rng.randrange(8), box[key]
    if kind < 4:
        box[key] = nasty(rng)
    elif kind == 4:
        del box[key]
    elif kind == 5 and isinstance(box, dict):
        name = rng.choice((*WORDS, Again(key), key + "x", key[:-1], "\ud800"))
        box[name] = nasty(rng) if rng.random() < 0.5 else value
    elif kind == 5:
        box[key:key] = [copy.deepcopy(value)] * rng.choice((1, 3, 3 if isinstance(value, (dict, list)) else 2_000))
    elif kind == 6:  # a part of the same tree where another was
        there, name = rng.choice(places)
        try:
            box[key] = copy.deepcopy(there[name])
        except (KeyError, IndexError):  # an edit before this one took it away
            box[key] = None
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
        box[key] = rng.choice((-value, value * 10, value / 3, value + 1, float(value), str(value), [value]))
    else:
        box[key] = [value] if rng.random() < 0.5 else {"a": value}


def edited_genes(rng: Random, genes: dict) -> tuple[dict, str]:
    """Hostile genes and the id that they have, so that a run may hold them."""
    for _ in range(5):
        edited = edited_tree(rng, genes)
        try:
            return edited, Genome(edited).id
        except Exception:  # no genome at all
            continue
    return genes, Genome(genes).id


def json_text(tree: Any) -> str:
    return _raw(json.dumps(tree))


def toml_text(table: Any) -> str:
    """A document whose top level is ``table``; what TOML has no word for becomes a text."""
    if not isinstance(table, dict):
        return f"genes = {_toml(table)}\n"
    return _raw("".join(f"{_key(key)} = {_toml(value)}\n" for key, value in table.items()))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(v)}" for key, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps("none" if value is None else value).replace("NaN", "nan").replace("Infinity", "inf")


def _key(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else json.dumps(key)


def _raw(text: str) -> str:
    if "@@" in text:
        for name, instead in RAW.items():
            text = text.replace(f'"{name}"', instead)
    return text


# -- the journal ------------------------------------------------------------------------------------------------------


def journal_line(body: bytes) -> bytes:
    """A line of the journal around a row, its checksum right."""
    return b'{"crc32":"%08x","row":' % zlib.crc32(body) + body + b"}\n"


def edited_journal(rng: Random, data: bytes, other: bytes) -> bytes:
    """Half of the time rows that are hostile behind a checksum that fits, else damaged bytes or lines moved about."""
    lines = data.splitlines(keepends=True)
    k = rng.randrange(len(lines))
    if rng.random() < 0.5:
        row = json.loads(lines[k])["row"]
        if "entry" in row and rng.random() < 0.3:
            genes, genome_id = edited_genes(rng, row["entry"]["genome"])
            row["entry"]["genome"], row["record"]["genome_id"] = genes, genome_id
            lines[k] = journal_line(json.dumps(row).encode())
        else:
            lines[k] = journal_line(json_text(edited_tree(rng, row)).encode())
    elif rng.random() < 0.5:
        return edited_bytes(rng, data, other)
    else:
        lines[k : k + 1] = rng.choice(([], [lines[k]] * 2, [rng.choice(lines), lines[k]], [lines[k][:-9]], [b"\n"]))
    return b"".join(lines)


# -- safetensors ------------------------------------------------------------------------------------------------------


def edited_safetensors(rng: Random, data: bytes, other: bytes) -> bytes:
    """The header's JSON changed, its length, or the bytes behind it."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(6)
    if kind < 3:
        header = json_text(_edited_header(rng, json.loads(header))).encode()
        return struct.pack("<Q", len(header)) + header + body
    if kind == 3:
        return struct.pack("<Q", rng.choice((*UINTS, length + 1, length - 1))) + data[8:]
    if kind == 4 and body:
        number = rng.choice((math.nan, math.inf, 1e38, 0.0))
        at = rng.randrange(len(body)) // 4 * 4
        return data[: 8 + length] + body[:at] + struct.pack("<f", number) + body[at + 4 :]
    return edited_bytes(rng, data, other)


def _edited_header(rng: Random, header: dict) -> dict:
    about = header.get("__metadata__", {})
    for key in ("progress",):  # JSON within JSON
        if key in about and rng.random() < 0.4:
            about[key] = json_text(edited_tree(rng, json.loads(about[key])))
            return header
    names = [name for name in header if name != "__metadata__"]
    if rng.random() < 0.05:  # a tensor of no bytes behind the others
        end = max(header[name]["data_offsets"][1] for name in names)
        shape = rng.choice(([0], [0, 2**62, 2**62], [0, 2**64], [0] * 70, [0, *[2**31] * 3]))
        header["zero"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end]}
        return header
    if names and rng.random() < 0.4:
        entry = header[rng.choice(names)]
        what = rng.choice(("dtype", "shape", "data_offsets", "name"))
        if what == "dtype":
            entry[what] = rng.choice(("F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64", "", "F128"))
        elif what == "shape":
            entry[what] = rng.choice(
                ([], [0], [10**9] * 3, [2**63, 2], [1] * 70, entry[what][::-1], [1, *entry[what]], [-1, -1])
            )
        elif what == "data_offsets":
            entry[what] = [rng.choice((*UINTS, *entry[what])), rng.choice((*UINTS, *entry[what]))]
        else:
            header[rng.choice(("model.", "../x", rng.choice(names) + ".x"))] = entry
        return header
    return edited_tree(rng, header)


# -- HDF5 -------------------------------------------------------------------------------------------------------------


def edit_hdf5(rng: Random, path: Path) -> None:
    """One to three changes of a run's file through h5py itself: contents, types, shapes, links, storage."""
    with h5py.File(path, "r+", locking=False) as file:
        for _ in range(rng.choice((1, 1, 2, 3))):
            name = rng.choice(("genomes", "evaluations", "generations", "population"))
            try:
                table = file.get(name)
                edit = rng.choice(_HDF5) if isinstance(table, h5py.Group) and len(table) else _attribute
                edit(rng, file, table, rng.choice(list(table or "-")))
            except _CANT:  # what an edit before this one left can't take it
                pass


def _attribute(rng: Random, file: h5py.File, table: Any, name: str) -> None:
    names = list(file.attrs)
    if not names:
        return
    key = rng.choice(names)
    value = file.attrs[key]
    if rng.random() < 0.15:
        del file.attrs[key]
    elif rng.random() < 0.2:
        file.attrs[key] = rng.choice(
            (1, 2.5, np.zeros(3), np.array(["a", "b"], dtype="S1"), b"\xff\xfe", "", "{", 2**63)
        )
    elif isinstance(value, str) and value[:1] in ("{", "["):
        _set_text(file.attrs, key, json_text(edited_tree(rng, json.loads(value))))
    else:
        _set_text(file.attrs, key, rng.choice((str(value) + "x", "[" * 9_000, "[]", "{}", "null", "1", "\x1b[2J<b>")))


def _set_text(where: Any, key: Any, text: str) -> None:
    # An attribute of 64 kB or more is refused by this format; a NUL can't be stored.
    where[key] = text.replace("\0", "").encode("utf-8", "replace").decode()[:60_000]


def _cell(rng: Random, file: h5py.File, table: h5py.Group, name: str) -> None:
    column = table[name]
    if not isinstance(column, h5py.Dataset) or column.ndim != 1 or not len(column):
        return
    k = rng.randrange(len(column))
    if h5py.check_string_dtype(column.dtype) is None:
        numbers = [n for n in NUMBERS if abs(n) < 2**63 or column.dtype.kind == "f"]
        value = rng.choice(
            [n for n in numbers if math.isfinite(n) and n == int(n)] if column.dtype.kind == "i" else numbers
        )
        with np.errstate(all="ignore"):  # an edit before this one may have made it a column of small numbers
            column[k] = (
                value if column.dtype.kind == "i" else min(max(value, -(10**308)), 10**308) if value == value else value
            )
        return
    text = column.asstr(errors="replace")[k]
    if text[:1] in ("{", "["):
        try:
            text = json_text(edited_tree(rng, json.loads(text)))
        except ValueError:
            text = "{"
    else:
        text = rng.choice(
            (*WORDS, text + "0", text[:-1], "x" * 100_000, "[" * 60_000, "\x1b[2J<script>", "16384 tokens")
        )
    _set_text(column, k, text)


def _genome(rng: Random, file: h5py.File, table: h5py.Group, name: str) -> None:
    """A genome of the run becomes a hostile one, wherever it is named."""
    columns = file["genomes/id"], file["evaluations/genome_id"], file["population/genome_id"]
    if any(len(column) > 100 for column in columns):  # an edit before this one left millions of rows, or of letters
        return
    ids = columns[0].asstr()[:]
    k = rng.randrange(len(ids))
    genes, new = edited_genes(rng, json.loads(file["genomes/genes"].asstr()[k]))
    file["genomes/genes"][k] = json.dumps(genes)
    for column in columns:
        named = column.asstr()[:]
        for row in np.flatnonzero(named == ids[k]):
            column[row] = new


def _retyped(rng: Random, file: h5py.File, table: h5py.Group, name: str) -> None:
    rows = min(len(table[name]), 10**6) if isinstance(table[name], h5py.Dataset) and table[name].ndim else 1
    del table[name]
    kind = rng.choice(
        ("f4", "f8", "i8", "i1", "u8", "S8", ">i8", "c16", "V8", "text", "vlen", "enum", "scalar", "matrix")
    )
    if kind == "text":
        table.create_dataset(name, (rows,), maxshape=(None,), dtype=h5py.string_dtype(), chunks=(4,))
    elif kind == "vlen":
        table.create_dataset(name, (rows,), dtype=h5py.vlen_dtype(np.dtype("i4")))
    elif kind == "enum":
        table.create_dataset(name, (rows,), dtype=h5py.enum_dtype({"A": 1}, basetype="i8"))
    elif kind in ("scalar", "matrix"):
        table[name] = np.zeros(() if kind == "scalar" else (rows, 2))
    else:
        table.create_dataset(name, (rows,), maxshape=(None,), dtype=kind, chunks=(8,))


def _reshaped(rng: Random, file: h5py.File, table: h5py.Group, name: str) -> None:
    """Rows that were never written, of one column or, so that the lengths agree, of all of them."""
    rows = rng.choice((0, 1, 5, 1_000, 10**5, 4_999_999, 5 * 10**6, 10**9, 2**40, 2**62))
    for column in [table[name]] if rng.random() < 0.3 else list(table.values()):
        _resize(column, rows)


def _resize(column: Any, rows: int) -> None:
    # To make very many rows few again, HDF5 goes over all of them.
    if isinstance(column, h5py.Dataset) and column.maxshape == (None,) and len(column) < 10**7:
        column.resize((rows,))


def _moved(rng: Random, file: h5py.File, table: h5py.Group, name: str) -> None:
    """A link, or storage outside the file."""
    rows = len(table[name]) if isinstance(table[name], h5py.Dataset) and table[name].ndim else 1
    kind = rng.randrange(6)
    del table[name]
    if kind == 0:
        table[name] = h5py.SoftLink(rng.choice(("/evaluations/generation", f"{table.name}/{name}", "/nowhere")))
    elif kind == 1:
        table[name] = h5py.ExternalLink(rng.choice(("population.h5", "../x.h5", "/dev/zero")), "/evaluations/index")
    elif kind == 2:
        table.create_dataset(name, (rows,), dtype="i8", external=[("input", 0, 8 * rows)])
    elif kind == 3:
        layout = h5py.VirtualLayout(shape=(rows,), dtype="f8")
        layout[:] = h5py.VirtualSource("population.h5", "/evaluations/finished", shape=(rows,))
        table.create_virtual_dataset(name, layout)
    elif kind == 4:
        table[name] = table.parent  # a group for a column, and a cycle
    else:
        table.create_group(name)


def _linked(rng: Random, file: h5py.File, table: h5py.Group, name: str) -> None:
    """A link for a whole table."""
    path = table.name
    del file[path]
    links = h5py.SoftLink("/genomes"), h5py.SoftLink(path), h5py.ExternalLink("population.h5", path)
    file[path] = rng.choice((*links, h5py.ExternalLink("../x.h5", path), h5py.ExternalLink("/dev/zero", path)))


def _packed(rng: Random, file: h5py.File, table: h5py.Group, name: str) -> None:
    """Compressed rows, few bytes for many."""
    rows = rng.choice((3, 10**5, 4 * 10**6))
    del table[name]
    kind = rng.choice(("i8", "f8", h5py.string_dtype()))
    chunk = min(rows, 10**5)
    table.create_dataset(name, (rows,), dtype=kind, chunks=(chunk,), compression="gzip", fletcher32=True)


def _shared_text(rng: Random, file: h5py.File, table: h5py.Group, name: str) -> None:
    """One long text that very many rows point to: the 16 bytes of a reference, copied."""
    size, rows = rng.choice((10_000, 1_000_000)), rng.choice((100, 4_000))
    del table[name]
    column = table.create_dataset(name, (rows,), maxshape=(None,), dtype=h5py.string_dtype(), chunks=(rows,))
    column[0] = "x" * size
    file.flush()
    _, chunk = column.id.read_direct_chunk((0,))
    column.id.write_direct_chunk((0,), chunk[:16] * rows)
    for other in list(table.values()):
        _resize(other, rows)


def _dropped(rng: Random, file: h5py.File, table: h5py.Group, name: str) -> None:
    if rng.random() < 0.3:
        del file[table.name]
    else:
        del table[name]


def _added(rng: Random, file: h5py.File, table: h5py.Group, name: str) -> None:
    """A copy of a column under another name, or a whole objective nobody asked for."""
    new = rng.choice(("cost_", "cost_x", "loss", "energy", "\x1b[2J", "a" * 300, "finished_spread", "index_device"))
    for suffix in ("", "_spread", "_fidelity", "_device") if rng.random() < 0.5 else ("",):
        if new + suffix not in table and isinstance(table[name], h5py.Dataset):
            table.copy(table[name], new + suffix)


_HDF5: tuple[Callable, ...] = (
    _attribute, _attribute, _attribute, _cell, _cell, _cell, _cell, _genome, _retyped, _reshaped, _moved, _packed,
    _shared_text, _dropped, _added, _linked,
)  # fmt: skip
