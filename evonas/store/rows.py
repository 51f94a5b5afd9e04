"""Between a Record or genome entry and the rows of the journal and of the HDF5 tables."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import EvonasError
from ..genome import Genome
from ..record import Measure, Record
from .layout import FLOAT, TABLES, TEXT, clean_text, dumps, plain

MAX_REASON = 4000  # characters kept of a failure's reason
_ID = re.compile(r"[0-9a-f]{12}")
_NAME = re.compile(r"[A-Za-z_]\w{0,63}")
_SUFFIXES = ("_spread", "_fidelity", "_device")


class Entry(NamedTuple):
    """A genome and where it came from."""

    genome: Genome
    parents: tuple[str, ...] = ()
    operator: str = ""
    generation: int = 0
    label: str = ""


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
        taken = name in TABLES["evaluations"] or name.startswith("cost_") or name.endswith(_SUFFIXES)
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
            name: Measure(float(m.value), float(m.spread), clean_text(m.fidelity), clean_text(m.device))
            for name, m in record.measures.items()
        },
        reason=clean_text(record.reason)[:MAX_REASON],
        cost={name: float(value) for name, value in record.cost.items() if not math.isnan(value)},
        provenance=plain(record.provenance),
    )


def journal_row(evaluation: Evaluation, entry: Entry | None) -> dict[str, Any]:
    """One evaluation, and the genome's entry where this is its first."""
    row = {"sequence": evaluation.sequence, "finished": evaluation.finished, "record": evaluation.record.to_dict()}
    if entry is not None:
        row["entry"] = {**entry._asdict(), "genome": plain(dict(entry.genome))}
    return row


def from_journal(row: Mapping[str, Any]) -> tuple[Evaluation, Entry | None]:
    """The reverse of ``journal_row``; raises ValueError, KeyError, TypeError or EvonasError where it is not one."""
    record = Record.from_dict(row["record"])
    check_id(record.genome_id)
    entry = None
    if "entry" in row:
        fields = dict(row["entry"])
        entry = Entry(**{**fields, "genome": Genome(fields["genome"]), "parents": tuple(fields["parents"])})
        if entry.genome.id != record.genome_id:
            raise ValueError(f"the genes of {record.genome_id} have another id")
    return Evaluation(int(row["sequence"]), record, float(row["finished"])), entry


def genome_row(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.genome.id,
        "genes": dumps(dict(entry.genome)),
        "parents": dumps(entry.parents),
        "operator": entry.operator,
        "generation": entry.generation,
        "label": entry.label,
    }


def read_entry(row: Mapping[str, Any]) -> Entry:
    """Raises ValueError where the genes or ids are not what they claim to be."""
    genes, parents = _loads(row["genes"]), _loads(row["parents"])
    if not isinstance(genes, dict) or not isinstance(parents, list):
        raise ValueError(f"genome {row['id']!r:.40} is not of the layout")
    genome = Genome(genes)
    if genome.id != check_id(row["id"]):
        raise ValueError(f"the genes of {row['id']} have another id")
    return Entry(genome, tuple(map(check_id, parents)), row["operator"], row["generation"], row["label"])


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
    return row


def evaluation_columns(records: Sequence[Record]) -> dict[str, str]:
    """Kinds of the columns these records need beyond the fixed ones."""
    columns: dict[str, str] = {}
    for record in records:
        columns |= {f"cost_{name}": FLOAT for name in record.cost}
        for name in record.measures:
            columns |= {name: FLOAT, f"{name}_spread": FLOAT, f"{name}_fidelity": TEXT, f"{name}_device": TEXT}
    return columns


def measured_names(columns: Sequence[str]) -> list[str]:
    """The objectives among the columns of the evaluations table."""
    fixed, present = TABLES["evaluations"], set(columns)
    return [c for c in columns if c not in fixed and all(c + suffix in present for suffix in _SUFFIXES)]


def read_evaluation(row: Mapping[str, Any], names: Sequence[str]) -> Evaluation:
    """``names`` are the objectives of the table. Raises ValueError or EvonasError where the row is not one."""
    measures = {
        name: Measure(row[name], row[f"{name}_spread"], row[f"{name}_fidelity"], row[f"{name}_device"])
        for name in names
        if not math.isnan(row[name])
    }
    cost = {k.removeprefix("cost_"): v for k, v in row.items() if k.startswith("cost_") and not math.isnan(v)}
    provenance = _loads(row["provenance"])
    if not isinstance(provenance, dict):
        raise ValueError("provenance is not a JSON object")
    record = Record(
        check_id(row["genome_id"]), row["generation"], row["index"], row["status"], measures, row["reason"], cost,
        provenance,
    )  # fmt: skip
    return Evaluation(row["sequence"], record, row["finished"])


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
