"""The shipped genomes: readable, valid, written in one form, with a source, and with the published numbers."""

from __future__ import annotations

import json
import math

import pytest

from evonas.genome import REFERENCE_BATCH, TRAINING_DEFAULTS, check_transformer
from evonas.genome.graph import cost
from evonas.genome.io import read_genome, shipped_file, shipped_names, write_genome

NAMES = shipped_names(".json")

# name: (published peak learning rate, batch in sequences, beta2, weight decay)
PUBLISHED_TRAINING = {
    "nanogpt-cpu": (1e-3, 12, 0.99, 0.1),
    "nanogpt-gpu": (1e-3, 64, 0.99, 0.1),
    "gpt2": (6e-4, 480, 0.95, 0.1),
    "smollm-135m": (3e-3, 512, 0.95, 0.01),
    "tinyllama-1.1b": (4e-4, 1024, 0.95, 0.1),
    "deepseek-v2-lite": (4.2e-4, 4608, 0.95, 0.1),
}


def test_the_promised_genomes_are_there():
    promised = {
        "nanogpt-cpu", "nanogpt-gpu", "gpt2", "gpt2-medium", "smollm-135m", "llama-3.2-1b", "tinyllama-1.1b",
        "mistral-7b-v0.1", "qwen3-0.6b", "deepseek-v2-lite",
    }  # fmt: skip
    assert promised <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_reads_and_is_valid(name):
    file = read_genome(name)
    assert check_transformer(file.genome) == []
    assert file.name == name
    assert "https://" in file.source
    assert file.context is not None and file.context >= 1
    assert file.notes and all(note.strip() == note and note for note in file.notes)
    assert cost(file.genome, 256, 64).params > 0


@pytest.mark.parametrize("name", NAMES)
def test_round_trips_losslessly(name, tmp_path):
    file = read_genome(name)
    path = tmp_path / "again.json"
    write_genome(path, file.genome, name=file.name, source=file.source, context=file.context, notes=file.notes)
    assert path.read_text(encoding="utf-8") == shipped_file(name, ".json").read_text(encoding="utf-8")
    again = read_genome(path)
    assert again == file
    assert again.genome.id == file.genome.id and dict(again.genome) == dict(file.genome)


@pytest.mark.parametrize("name", NAMES)
def test_file_states_every_gene(name):
    genes = json.loads(shipped_file(name, ".json").read_text(encoding="utf-8"))["genes"]
    assert set(genes) == set(read_genome(name).genome)


@pytest.mark.parametrize("name", PUBLISHED_TRAINING)
def test_published_training(name):
    genome = read_genome(name).genome
    rate, batch, beta2, weight_decay = PUBLISHED_TRAINING[name]
    assert genome.batch_size == batch
    assert genome.learning_rate == pytest.approx(rate * math.sqrt(REFERENCE_BATCH / batch), rel=1e-12)
    assert genome.learning_rate_at(batch) == pytest.approx(rate, rel=1e-12)
    assert (genome.beta2, genome.weight_decay, genome.grad_clip) == (beta2, weight_decay, 1)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in PUBLISHED_TRAINING])
def test_unpublished_training_is_the_default_and_said_so(name):
    file = read_genome(name)
    changed = {g for g, value in TRAINING_DEFAULTS.items() if file.genome[g] != value}
    assert changed <= {"dropout"}
    assert any("evonas's defaults" in note for note in file.notes)


def test_nanogpt_cpu_is_the_readmes_command():
    file = read_genome("nanogpt-cpu")
    genome = file.genome
    assert (genome.n_layers, genome.d_model, genome.n_heads, file.context) == (4, 128, (4,) * 4, 64)
    assert (genome.norm, genome.activation, genome.position) == ("layernorm", "gelu", "learned")
    assert genome.tied_embeddings is True and genome.ffn_ratio == (4,) * 4
    assert {g: genome[g] for g in TRAINING_DEFAULTS} == TRAINING_DEFAULTS
    # nanoGPT prints "number of parameters: 0.80M" for 65 characters, position embeddings not counted.
    assert cost(genome, 65, 64).params - 64 * 128 == pytest.approx(0.80e6, abs=0.005e6)


def test_nanogpt_gpu_is_the_baby_gpt():
    file = read_genome("nanogpt-gpu")
    genome = file.genome
    assert (genome.n_layers, genome.d_model, genome.n_heads, file.context) == (6, 384, (6,) * 6, 256)
    assert (genome.dropout, genome.warmup) == (0.2, 0.02)
    # nanoGPT prints "number of parameters: 10.65M".
    assert cost(genome, 65, 256).params - 256 * 384 == pytest.approx(10.65e6, abs=0.005e6)
