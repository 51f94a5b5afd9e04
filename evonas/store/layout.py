"""The HDF5 tables: fixed columns, appending rows, reading them back with limits."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import EXIT_FAILED, UPGRADE, EvonasError, did_you_mean

SCHEMA = 2  # 1: every generation lay in population.h5, none in the journal
MAX_ROWS = 5_000_000  # per table; a file that claims more is refused before anything is allocated
MAX_COLUMNS = 4096
MAX_TEXT = 16 * 2**20  # characters of one attribute or cell
MAX_CHUNK = 2**16  # rows that HDF5 reads at once; evonas writes 512
FEWEST_STORED = 1 / 16  # of the cells a table claims; what came late has none in earlier rows, but most is there
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])  # HDF5's, to one text

INT, FLOAT, TEXT = "int", "float", "text"
TABLES: dict[str, dict[str, str]] = {
    "genomes": {"id": TEXT, "genes": TEXT, "parents": TEXT, "operator": TEXT, "generation": INT, "label": TEXT},
    "evaluations": {
        "sequence": INT, "genome_id": TEXT, "generation": INT, "index": INT, "status": TEXT, "reason": TEXT,
        "cost_seconds": FLOAT, "cost_tokens": FLOAT, "finished": FLOAT, "provenance": TEXT,
    },
    "generations": {
        "generation": INT, "evaluations": INT, "front_size": INT, "hypervolume": FLOAT, "seconds": FLOAT,
        "failures": TEXT, "rng": TEXT, "best": TEXT, "extra": TEXT,
    },
    "population": {"generation": INT, "genome_id": TEXT, "rank": INT},
}  # fmt: skip

# Root attributes and their values where a run's creator names none; all but the plain ones are JSON.
HEADER: dict[str, Any] = {
    "created": "", "command": "", "device": "", "seed": 0,
    "settings": {}, "space": {}, "versions": {}, "objectives": [], "constraints": [], "reference": None,
    "seed_genomes": [], "notes": {},
}  # fmt: skip
PLAIN_HEADER = ("created", "command", "device", "seed")


def plain(value: Any) -> Any:
    """``value`` as JSON holds it: mappings, lists, text, finite numbers, booleans and None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def dumps(value: Any) -> str:
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False)


def clean_text(value: Any) -> str:
    """Text that HDF5 can hold: no NUL, no lone surrogate."""
    return str(value).replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def checked_header(changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` in the form they will be read back; raises EvonasError for an attribute the layout lacks."""
    out = {}
    for name, value in changes.items():
        if name not in HEADER:
            raise EvonasError(f"a run's header has no {name!r}", did_you_mean(name, HEADER))
        if name == "seed":
            out[name] = int(value)
        elif name in PLAIN_HEADER:
            out[name] = clean_text(value)
        else:
            if name == "objectives":
                value = [o if isinstance(o, Mapping) else vars(o) for o in value]
                value = [{key: o.get(key, "") for key in ("name", "unit", "direction")} for o in value]
            out[name] = json.loads(dumps(value))
        _check_type(name, out[name])
    _check_lists(out)
    return out


def write_header(file: h5py.File, header: Mapping[str, Any]) -> None:
    file.attrs["schema"] = SCHEMA
    for name, value in header.items():
        file.attrs[name] = value if name in PLAIN_HEADER else dumps(value)


def read_header(file: h5py.File) -> dict[str, Any]:
    """The root attributes; raises EvonasError for a newer schema, ValueError for anything damaged."""
    schema = file.attrs.get("schema")
    if schema is None or np.ndim(schema) or not isinstance(schema, (int, np.integer)) or schema < 1:
        raise ValueError("it has no schema number")
    if schema > SCHEMA:
        raise EvonasError(
            f"{file.filename} has schema {schema}, written by a newer evonas; this one reads up to {SCHEMA}",
            UPGRADE,
            exit_code=EXIT_FAILED,
        )
    out: dict[str, Any] = {}
    for name in HEADER:
        if name not in file.attrs:
            raise ValueError(f"attribute {name!r} is missing")
        if file.attrs.get_id(name).shape != ():  # before it is read: it may claim to be of any length
            raise ValueError(f"attribute {name!r} is not one value")
        value = file.attrs[name]
        if name == "seed":
            out[name] = int(value)
            continue
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise ValueError(f"attribute {name!r} is not a text of at most {MAX_TEXT} characters")
        out[name] = value if name in PLAIN_HEADER else json.loads(value)
        _check_type(name, out[name])
    _check_lists(out)
    return out


def _check_type(name: str, value: Any) -> None:
    kind = type(HEADER[name])
    if HEADER[name] is not None and not isinstance(value, kind):
        raise ValueError(f"attribute {name!r} is not a {kind.__name__}")


def _check_lists(header: Mapping[str, Any]) -> None:
    for o in header.get("objectives", ()):
        texts = isinstance(o, dict) and all(isinstance(o.get(key), str) for key in ("name", "unit", "direction"))
        if not texts or o["direction"] not in ("min", "max"):
            raise ValueError(f"objective {o!r:.80} is not a name, a unit and a direction")
    for seed in header.get("seed_genomes", ()):
        if not isinstance(seed, dict) or not isinstance(seed.get("id"), str) or not isinstance(seed.get("label"), str):
            raise ValueError(f"seed genome {seed!r:.80} is not an id and a label")
    if any(isinstance(text, (list, dict)) for text in header.get("constraints", ())):
        raise ValueError("a constraint is not a text")
    reference = header.get("reference")
    if reference is not None and not _is_reference(reference):
        raise ValueError("its reference is not two points")


def _is_reference(reference: Any) -> bool:
    points = [reference.get(key) for key in ("ideal", "reference")] if isinstance(reference, dict) else [None]
    if not all(isinstance(point, list) for point in points):
        return False
    numbers = all(type(x) in (int, float) and math.isfinite(x) for point in points for x in point)
    return numbers and len(points[0]) == len(points[-1])


def checked_row(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the fixed columns of a table, from JSON. Raises ValueError, KeyError or TypeError for anything else."""
    if not isinstance(row, Mapping):
        raise TypeError(f"a row of {table} is a JSON object")
    out: dict[str, Any] = {}
    for name, kind in TABLES[table].items():
        value = row[name]
        if kind == FLOAT and value is None:  # what JSON makes of a number that is not finite
            value = math.nan
        out[name] = {INT: whole, FLOAT: number, TEXT: text}[kind](value)
    return out


def number(value: Any) -> float:
    """``value`` of some JSON, which says nothing of types; so with the next two. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r:.40} is not a number")
    return float(value)


def whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError(f"{value!r:.40} is not a whole number")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is not a text")
    return value


def create_tables(file: h5py.File) -> None:
    for table, columns in TABLES.items():
        group = file.create_group(table, track_order=True)
        for name, kind in columns.items():
            _create_column(group, name, kind, 0)


def append_rows(group: h5py.Group, rows: Sequence[Mapping[str, Any]], extra: Mapping[str, str] | None = None) -> None:
    """Append ``rows`` to a table; ``extra`` names the kinds of columns that may be new."""
    if not rows:
        return
    kinds = {**TABLES[Path(group.name).name], **(extra or {})}
    old = len(next(iter(group.values())))
    for name, kind in kinds.items():
        if name not in group:
            _create_column(group, name, kind, old)
    for name, dataset in group.items():
        kind = _kind(dataset)
        empty = "" if kind == TEXT else math.nan if kind == FLOAT else 0
        values = [row.get(name, empty) for row in rows]
        dataset.resize((old + len(rows),))
        dataset[old:] = np.array(values, dtype=object if kind == TEXT else "f8" if kind == FLOAT else "i8")


def read_table(file: h5py.File, table: str) -> dict[str, list]:
    """The columns of one table as lists of equal length; raises ValueError where the file is not of the layout."""
    return {name: _read_column(column) for name, column in _columns(file, table).items()}


def touch_table(file: h5py.File, table: str) -> None:
    """Have HDF5 do all that ``read_table`` has it do; raises what that raises."""
    for column in _columns(file, table).values():
        column[:]


def _columns(file: h5py.File, table: str) -> dict[str, h5py.Dataset]:
    if not isinstance(file.get(table, getlink=True), h5py.HardLink) or not isinstance(file[table], h5py.Group):
        raise ValueError(f"group {table!r} is missing, or a link")
    group = file[table]
    if len(group) > MAX_COLUMNS:
        raise ValueError(f"group {table!r} has {len(group)} columns")
    missing = set(TABLES[table]) - set(group)
    if missing:
        raise ValueError(f"{table} lacks the column {min(missing)!r}")
    columns = {name: _column(group, name) for name in group}
    for name, kind in TABLES[table].items():
        if _kind(columns[name]) != kind:
            raise ValueError(f"column {table}/{name} is not of kind {kind}")
    _check_claims(group, list(columns.values()))
    return columns


def _check_claims(group: h5py.Group, columns: Sequence[h5py.Dataset]) -> None:
    """Raise ValueError where a table claims more than its file can hold: a few bytes may claim any number of rows, and
    any number of rows may name the same text. Nothing is read before."""
    size = group.file.id.get_filesize()
    rows = len(columns[0])
    if any(len(column) != rows for column in columns):
        raise ValueError(f"the columns of {group.name!r} differ in length")
    if rows > MAX_ROWS:
        raise ValueError(f"{group.name!r} claims {rows} rows; at most {MAX_ROWS} are read")
    stored = [column.id.get_storage_size() for column in columns]
    claimed = rows * sum(column.dtype.itemsize for column in columns)
    if sum(stored) > size or sum(stored) < claimed * FEWEST_STORED:
        raise ValueError(f"{group.name!r} claims {rows} rows, and its file holds {sum(stored)} bytes of them")
    texts = sum(_length_of_texts(column) for column in columns if _kind(column) == TEXT)
    if texts > size:
        raise ValueError(f"{group.name!r} claims {texts} bytes of text in a file of {size}")


def _length_of_texts(column: h5py.Dataset) -> int:
    """Bytes of all texts of a column, from the references to them that its chunks hold."""
    chunks: list[tuple[int, int]] = []
    column.id.chunk_iter(lambda found: chunks.append((found.chunk_offset[0], found.size)))
    total = 0
    for first, size in chunks:
        if size != column.chunks[0] * _REFERENCE.itemsize:
            raise ValueError(f"column {column.name} is not of the layout")
        _, raw = column.id.read_direct_chunk((first,))
        total += int(np.frombuffer(raw, _REFERENCE)["length"][: len(column) - first].sum(dtype="i8"))
    return total


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or foreign file makes h5py, numpy or json raise into one EvonasError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise EvonasError(f"{path} can't be read: {error.strerror}") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError, OverflowError, MemoryError) as error:
        what = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        if isinstance(error, OSError) and (error.errno == errno.ESTALE or os.strerror(errno.ESTALE) in str(error)):
            hint = "The file server has it elsewhere by now: try again."
            raise EvonasError(f"{path} can't be read now: {what}", hint, exit_code=EXIT_FAILED) from error
        raise EvonasError(
            f"{path} is damaged or no evonas run: {what}",
            "evonas never leaves it so: restore it from a copy, or start over with 'evonas evolve --run NAME'.",
            exit_code=EXIT_FAILED,
        ) from error


def rows_of(columns: Mapping[str, list]) -> Iterable[dict[str, Any]]:
    names = list(columns)
    return (dict(zip(names, values)) for values in zip(*columns.values()))


def _create_column(group: h5py.Group, name: str, kind: str, length: int) -> None:
    dtype = {INT: "i8", FLOAT: "f8", TEXT: h5py.string_dtype()}[kind]
    fill = math.nan if kind == FLOAT else None
    group.create_dataset(name, (length,), maxshape=(None,), dtype=dtype, chunks=(512,), fillvalue=fill)


def _kind(dataset: h5py.Dataset) -> str:
    found = h5py.check_string_dtype(dataset.dtype)
    if found is not None and found.length is None:
        return TEXT
    if dataset.dtype == np.dtype("f8"):
        return FLOAT
    if dataset.dtype == np.dtype("i8"):
        return INT
    raise ValueError(f"column {dataset.name} has type {dataset.dtype}")


def _column(group: h5py.Group, name: str) -> h5py.Dataset:
    """A column as evonas writes it: a chunked list without filters. Raises ValueError."""
    # Links and external storage would make a received file read other files of its reader.
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"column {group.name}/{name} is a link")
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 1 or dataset.external or dataset.is_virtual:
        raise ValueError(f"{group.name}/{name} is not a plain column")
    # Compressed rows would be a way to write very many in very few bytes.
    if not dataset.chunks or dataset.chunks[0] > MAX_CHUNK or dataset.id.get_create_plist().get_nfilters():
        raise ValueError(f"column {group.name}/{name} is not stored as evonas does")
    return dataset


def _read_column(dataset: h5py.Dataset) -> list:
    if _kind(dataset) != TEXT:
        return dataset[:].tolist()
    cells = dataset[:].tolist()
    texts = {cell: cell.decode() for cell in set(cells)}  # most columns say the same over and over
    if any(len(value) > MAX_TEXT for value in texts.values()):
        raise ValueError(f"column {dataset.name} holds a text of more than {MAX_TEXT} characters")
    return list(map(texts.__getitem__, cells))
