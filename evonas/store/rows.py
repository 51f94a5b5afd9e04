"""Between a Record or genome entry and the rows of the journal and of the HDF5 tables."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import EvonasError
from ..genome import Genome
from ..record import Measure, Record
from .layout import FLOAT, MAX_COLUMNS, TABLES, TEXT, clean_text, damage, dumps, number, plain, text, whole

MAX_REASON = 4000  # characters kept of a failure's reason
_ID = re.compile(r"[0-9a-f]{12}")
_NAME = re.compile(r"[A-Za-z_]\w{0,63}")
_SUFFIXES = ("_spread", "_fidelity", "_device")
_SKETCH = "_sketch"  # a column that only some objectives have


class Entry(NamedTuple):
    """A genome and where it came from."""

    genome: Genome
    parents: tuple[str, ...] = ()
    operator: str = ""
    generation: int = 0
    label: str = ""


class Entries(Mapping[str, Entry]):
    """Entries by genome id, in the order they came.

    Those of a file are checked and built when they are first asked for: a genome costs a hash, and a long run holds
    many that nobody looks at. Asking for one whose genes have another id raises EvonasError.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[str, Entry | Mapping[str, Any]] = {}

    def __getitem__(self, genome_id: str) -> Entry:
        found = self._found[genome_id]
        if not isinstance(found, Entry):
            with damage(self._file), as_value_error():
                found = self._found[genome_id] = _read_entry(genome_id, found)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, genome_id: object) -> bool:
        return genome_id in self._found

    def add(self, entry: Entry) -> None:
        self._found[entry.genome.id] = entry

    def read(self, genome_id: Any, row: Mapping[str, Any]) -> None:
        """Add what a file holds: a row of the genomes table, or what ``from_journal`` gives. The first one counts;
        raises ValueError where the id is none."""
        self._found.setdefault(check_id(genome_id), row)

    def since(self, n: int) -> list[Entry]:
        """All but the first ``n``."""
        return [self[genome_id] for genome_id in itertools.islice(self._found, n, None)]


class Evaluation(NamedTuple):
    """A record, its place in the run and when it finished (seconds since the run began)."""

    sequence: int
    record: Record
    finished: float


def check_id(value: Any) -> str:
    """``value`` if it is a genome id; raises ValueError."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(f"{value!r:.40} is not a genome id")
    return value


def storable(record: Record) -> Record:
    """``record`` with plain numbers and text that fits the layout; raises EvonasError for an unusable name."""
    for name in record.measures:
        taken = name in TABLES["evaluations"] or name.startswith("cost_") or name.endswith((*_SUFFIXES, _SKETCH))
        if not _NAME.fullmatch(name) or taken:
            raise EvonasError(f"objective name {name!r} can't be a column", "Use a short word such as 'energy'.")
    for name in record.cost:
        if not _NAME.fullmatch(name):
            raise EvonasError(f"cost name {name!r} can't be a column", "Use a short word such as 'seconds'.")
    return Record(
        genome_id=check_id(record.genome_id),
        generation=int(record.generation),
        index=int(record.index),
        status=record.status,
        measures={
            name: Measure(
                float(m.value), float(m.spread), clean_text(m.fidelity), clean_text(m.device), clean_text(m.sketch)
            )
            for name, m in record.measures.items()
        },
        reason=clean_text(record.reason)[:MAX_REASON],
        cost={name: float(value) for name, value in record.cost.items() if not math.isnan(value)},
        provenance=_flat(plain(record.provenance)),
    )


def journal_row(evaluation: Evaluation, entry: Entry | None) -> dict[str, Any]:
    """One evaluation, and the genome's entry where this is its first."""
    row = {"sequence": evaluation.sequence, "finished": evaluation.finished, "record": evaluation.record.to_dict()}
    if entry is not None:
        row["entry"] = {**entry._asdict(), "genome": plain(dict(entry.genome))}
    return row


def from_journal(row: Mapping[str, Any]) -> tuple[Evaluation, Mapping[str, Any] | None]:
    """An evaluation of ``journal_row``, and its entry as ``Entries.read`` takes it. Raises ValueError, KeyError,
    TypeError or EvonasError where it is not one."""
    entry = row.get("entry")
    if entry is not None:
        # As a table has it. What is nested takes many times the memory of its text.
        entry = {
            **{column: json.dumps(entry[name]) for column, name in (("genes", "genome"), ("parents", "parents"))},
            **{name: entry[name] for name in ("operator", "generation", "label")},
        }
    return Evaluation(whole(row["sequence"]), _read_record(row["record"]), _seconds(row["finished"])), entry


def _read_record(data: Any) -> Record:
    """The record of ``Record.to_dict``, every value of its type: JSON says nothing of that."""
    objects = ("measures", "cost", "provenance")
    if not isinstance(data, Mapping) or not all(isinstance(data[name], Mapping) for name in objects):
        raise TypeError("a record is a JSON object with measures, cost and provenance")
    if sum(len(data[name]) for name in objects) > MAX_COLUMNS:
        raise ValueError(f"a record of more than {MAX_COLUMNS} values")
    measures = {
        name: Measure(
            number(m["value"]), number(m["spread"]), text(m["fidelity"]), text(m["device"]), text(m.get("sketch", ""))
        )
        for name, m in data["measures"].items()
    }
    return Record(
        check_id(data["genome_id"]),
        whole(data["generation"]),
        whole(data["index"]),
        text(data["status"]),
        measures,
        text(data["reason"]),
        {name: number(value) for name, value in data["cost"].items()},
        _flat(data["provenance"]),
    )


def _flat(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance with anything nested as its JSON text."""
    return {name: dumps(value) if isinstance(value, (list, dict)) else value for name, value in provenance.items()}


def genome_row(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.genome.id,
        "genes": dumps(dict(entry.genome)),
        "parents": dumps(entry.parents),
        "operator": entry.operator,
        "generation": entry.generation,
        "label": entry.label,
    }


def _read_entry(genome_id: str, row: Mapping[str, Any]) -> Entry:
    """Raises ValueError where the genes or ids are not what they claim to be."""
    genes, parents = _loads(row["genes"]), _loads(row["parents"])
    if not isinstance(genes, dict) or not isinstance(parents, list):
        raise ValueError(f"genome {genome_id} is not of the layout")
    if not all(map(_is_gene, genes.values())):
        raise ValueError(f"a gene of {genome_id} is neither a number, a text, true, false, null nor a list of these")
    genome = Genome(genes)
    if genome.id != genome_id:
        raise ValueError(f"the genes of {genome_id} have another id")
    about = text(row["operator"]), whole(row["generation"]), text(row["label"])
    return Entry(genome, tuple(map(check_id, parents)), *about)


def evaluation_row(evaluation: Evaluation) -> dict[str, Any]:
    record = evaluation.record
    row = {
        "sequence": evaluation.sequence,
        "genome_id": record.genome_id,
        "generation": record.generation,
        "index": record.index,
        "status": record.status,
        "reason": record.reason,
        "finished": evaluation.finished,
        "provenance": dumps(record.provenance),
    }
    row |= {f"cost_{name}": value for name, value in record.cost.items()}
    for name, m in record.measures.items():
        row |= {name: m.value, f"{name}_spread": m.spread, f"{name}_fidelity": m.fidelity, f"{name}_device": m.device}
        if m.sketch:
            row[name + _SKETCH] = m.sketch
    return row


def evaluation_columns(records: Sequence[Record]) -> dict[str, str]:
    """Kinds of the columns these records need beyond the fixed ones."""
    columns: dict[str, str] = {}
    for record in records:
        columns |= {f"cost_{name}": FLOAT for name in record.cost}
        for name, m in record.measures.items():
            columns |= {name: FLOAT, f"{name}_spread": FLOAT, f"{name}_fidelity": TEXT, f"{name}_device": TEXT}
            if m.sketch:
                columns[name + _SKETCH] = TEXT
    return columns


def measured_names(columns: Sequence[str]) -> list[str]:
    """The objectives among the columns of the evaluations table."""
    fixed, present = TABLES["evaluations"], set(columns)
    return [c for c in columns if c not in fixed and all(c + suffix in present for suffix in _SUFFIXES)]


def read_evaluations(columns: Mapping[str, list]) -> list[Evaluation]:
    """The rows of the evaluations table. Raises ValueError or EvonasError where one is no evaluation."""
    # By columns: a long run has hundreds of thousands of rows.
    provenances = {text: _loads(text) for text in set(columns["provenance"])}
    if not all(isinstance(provenance, dict) for provenance in provenances.values()):
        raise ValueError("provenance is not a JSON object")
    if not all(map(math.isfinite, columns["finished"])):
        raise ValueError("an evaluation finished at no number of seconds")
    nothing = [""] * len(columns["sequence"])
    measured = [
        (name, *(columns[name + suffix] for suffix in ("", *_SUFFIXES)), columns.get(name + _SKETCH, nothing))
        for name in measured_names(list(columns))
    ]
    costs = [(name.removeprefix("cost_"), column) for name, column in columns.items() if name.startswith("cost_")]
    for name, *found in measured:
        _check_kinds(name, zip(found, (float, float, str, str, str)))
    _check_kinds("cost", ((column, float) for _, column in costs))
    fixed = ("sequence", "genome_id", "generation", "index", "status", "reason", "finished", "provenance")
    out = []
    rows = zip(*(columns[name] for name in fixed))
    for k, (sequence, genome_id, generation, index, status, reason, finished, provenance) in enumerate(rows):
        measures = {
            name: Measure(values[k], spreads[k], fidelities[k], devices[k], sketches[k])
            for name, values, spreads, fidelities, devices, sketches in measured
            if values[k] == values[k]
        }
        cost = {name: column[k] for name, column in costs if column[k] == column[k]}
        about = provenances[provenance]
        record = Record(check_id(genome_id), generation, index, status, measures, reason, cost, about)
        out.append(Evaluation(sequence, record, finished))
    return out


def _check_kinds(name: str, columns: Iterable[tuple[list, type]]) -> None:
    """The columns that a run need not have, each with what it holds; one holds values of one type."""
    if not all(isinstance(column[0], kind) for column, kind in columns if column):
        raise ValueError(f"the columns of {name} are not of their kinds")


@contextmanager
def as_value_error() -> Iterator[None]:
    """Errors of Record and Genome speak to whoever builds one; here they only say that the file is damaged."""
    try:
        yield
    except EvonasError as error:
        raise ValueError(error.message) from error


def _seconds(value: Any) -> float:
    if not math.isfinite(value := number(value)):
        raise ValueError(f"{value} is no number of seconds")
    return value


def _is_gene(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(v is None or isinstance(v, (bool, int, float, str)) for v in values)


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
