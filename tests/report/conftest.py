"""A realistic finished run, written through the store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evonas.evolution.selection import hypervolume, hypervolume_box, non_dominated
from evonas.genome import Genome, read_space, space_to_dict, transformer_genome
from evonas.record import Measure, Record, objective
from evonas.store import Store

SEED = transformer_genome(
    {
        "n_layers": 4, "d_model": 128, "n_heads": 4, "ffn_ratio": 4, "norm": "layernorm", "activation": "gelu",
        "position": "learned", "tied_embeddings": True,
    }
)  # fmt: skip
OBJECTIVES = ("loss", "latency")


def header(names=OBJECTIVES, **changes) -> dict:
    return {
        "objectives": [objective(name) for name in names],
        "seed": 7,
        "device": "cpu",
        "command": "evonas evolve",
        "settings": {"generations": 9, "task": "text"},
        "seed_genomes": [{"id": SEED.id, "label": "nanogpt-cpu"}],
        **changes,
    }


def sample(rng: np.random.Generator) -> Genome:
    depth = int(rng.integers(1, 7))
    heads = [int(rng.choice([1, 2, 4, 8])) for _ in range(depth)]
    return transformer_genome(
        {
            "n_layers": depth,
            "d_model": int(rng.choice([64, 96, 128, 192])) // 8 * 8,
            "head_dim": 16,
            "n_heads": heads,
            "n_kv_heads": [int(rng.choice([k for k in (1, 2, 4, 8) if h % k == 0])) for h in heads],
            "window": [[16, 32, 64, None][rng.integers(4)] for _ in heads],
            "kv_rank": [[None, None, None, 16][rng.integers(4)] for _ in heads],
            "ffn_ratio": [float(rng.choice([1, 2, 2.667, 4])) for _ in heads],
            "norm": str(rng.choice(["layernorm", "rmsnorm"])),
            "activation": str(rng.choice(["gelu", "swiglu", "relu2"])),
            "position": str(rng.choice(["rope", "learned"])),
            "tied_embeddings": True,
            "learning_rate": float(f"{10 ** rng.uniform(-3.5, -2):.3g}"),
            "batch_size": int(rng.choice([8, 12, 16, 32])),
            "optimizer": str(rng.choice(["adamw", "muon"])),
        }
    )


def record_for(genome: Genome, generation: int, index: int, rng: np.random.Generator, names=OBJECTIVES) -> Record:
    size = genome.n_layers * genome.d_model**2
    luck = rng.gamma(2.0, 0.12) * 0.85**generation
    loss = 1.5 + 14 / (size / 100) ** 0.45 + luck + (1.5 if rng.random() < 0.04 else 0.0)
    latency = 0.2 + size / 5e4 * (1 + 0.4 * rng.random())
    every = {
        "loss": Measure(loss, 0.012, "49152 tokens", "cpu"),
        "latency": Measure(latency, 0.03 * latency, "measured", "cpu"),
        "memory": Measure(0.5 + size / 2e4, 0.0, "exact", "cpu"),
    }
    return Record(genome.id, generation, index, "ok", {n: every[n] for n in names}, cost={"seconds": 3.0})


def write_run(folder, names=OBJECTIVES, generations: int = 8, population: int = 24) -> Store:
    """A run with failures, of random genomes whose loss gets better with every generation; open for writing."""
    rng = np.random.default_rng(5)
    store = Store.create(folder, header(names))
    box = None
    for generation in range(generations):
        for index in range(population):
            genome = SEED if generation == index == 0 else sample(rng)
            record = record_for(genome, generation, index, rng, names)
            if genome == SEED:
                record = replace(record, measures={**record.measures, "loss": Measure(2.6, 0.012, "49152 tokens")})
            if index == 5:
                record = Record(genome.id, generation, index, "non_finite", reason="loss is not finite")
            parents = tuple(list(store.genomes)[-2:]) if generation else ()
            store.append(genome, record, parents, "crossover" if generation else "sample")
        points = np.array([[r.value(n) for n in names] for r in store.records if r.ok])
        box = box or hypervolume_box(points)
        row = {
            "generation": generation,
            "hypervolume": hypervolume(points, *box),
            "front_size": int(non_dominated(points).sum()),
            "seconds": 60.0 * (generation + 1),
        }
        store.commit(row, [r.genome_id for r in store.records if r.ok][-population:])
    return store


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    with write_run(tmp_path_factory.mktemp("runs") / "demo") as store:
        yield store


TOKENS = (256, 1024, 4096)


@pytest.fixture(scope="module")
def climbed(tmp_path_factory, space_file):
    """60 genomes at rung 0, 20 at rung 1, 8 at the last; the long loss is the size's alone."""
    space = read_space(space_file).bounded(16)
    rng = np.random.default_rng(0)
    genomes = {}
    while len(genomes) < 60:
        genome = space.sample(rng)
        genomes[genome.id] = genome
    with Store.create(tmp_path_factory.mktemp("c") / "run", header(space=space_to_dict(space))) as store:
        for rung, count in enumerate((60, 20, 8)):
            for k, genome in enumerate(list(genomes.values())[:count]):
                loss = 4 - 0.5 * rung - genome.d_model / 32 + rng.normal(0, 0.3 / (1 + rung))
                measures = {
                    "loss": Measure(loss, 0.01, f"{TOKENS[rung]} tokens", "cpu"),
                    "latency": Measure(genome.n_layers * genome.d_model / 10 + k / 1000, 0.0, "measured", "cpu"),
                }
                store.append(genome, Record(genome.id, rung, k, "ok", measures))
            store.commit({"generation": rung}, list(genomes)[:16])
        yield store
