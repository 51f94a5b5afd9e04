"""Genomes, records and runs the store's tests share."""

from __future__ import annotations

import pytest

from evonas.genome import Genome, transformer_genome
from evonas.record import Measure, Record, objective
from evonas.store import Store

BASE = transformer_genome(
    {
        "n_layers": 4, "d_model": 128, "n_heads": 4, "ffn_ratio": 4, "norm": "layernorm", "activation": "gelu",
        "position": "learned", "tied_embeddings": True, "window": [32, None, 64, None],
    }
)  # fmt: skip
HEADER = {
    "objectives": [objective("loss"), objective("latency")],
    "seed": 7,
    "device": "cpu",
    "command": "evonas evolve",
    "settings": {"generations": 3, "task": "text"},
    "space": {"n_layers": [1, 2]},
    "seed_genomes": [{"id": BASE.id, "label": "hand-tuned"}],
    "notes": {"free": [1, None]},
}


def genome(k: int) -> Genome:
    return BASE.replace(learning_rate=round(1e-3 * (k + 1), 6))


def record(k: int, generation: int = 0, **changes) -> Record:
    fields = {
        "genome_id": genome(k).id,
        "generation": generation,
        "index": k,
        "status": "ok",
        "measures": {
            "loss": Measure(2.0 - 0.1 * k, 0.01, "1000 tokens", "cpu"),
            "latency": Measure(1.0 + 0.1 * k, 0.02, "measured", "cpu"),
        },
        "cost": {"seconds": 1.5 + k, "tokens": 1000.0},
        "provenance": {"threads": 1, "host": "h", "load": 0.5},
    }
    return Record(**{**fields, **changes})


def fill(store: Store, first: int, last: int, generation: int = 0) -> None:
    for k in range(first, last):
        store.append(genome(k), record(k, generation), (genome(k - 1).id,) if k else (), "mutate", f"g{k}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder of a run to be, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "one"


@pytest.fixture
def store(folder):
    with Store.create(folder, HEADER) as store:
        yield store
