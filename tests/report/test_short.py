"""Short forms of genomes and numbers."""

from __future__ import annotations

import pytest

from evonas.genome import Genome
from evonas.report.short import (
    architecture_line,
    axis_label,
    clean,
    duration,
    gene_text,
    number,
    per_layer,
    percent,
    training_line,
    with_spread,
)

from .conftest import SEED


@pytest.mark.parametrize(
    "values, text",
    [
        ((4, 4, 4, 4), "4x4"), ((4,), "4"), ((4, 4), "4x2"), ((2, 4, 4), "2-4-4"), ((32, 32, 32, None), "32x3-none"),
        ((2.6667, 4), "2.67-4"), (("4", "4/1"), "4-4/1"), ((), ""),
    ],
)  # fmt: skip
def test_per_layer(values, text):
    assert per_layer(values) == text


def test_architecture_line():
    assert architecture_line(SEED) == "4 layers x 128, heads 4x4, ffn 4x4, ln gelu learned"
    mixed = SEED.replace(
        n_layers=3, head_dim=16, n_heads=(2, 4, 4), n_kv_heads=(2, 4, 1), window=(32, 32, None),
        kv_rank=(None, 16, None), ffn_ratio=(4, 2.667, 2.667), norm="rmsnorm", tied_embeddings=False,
    )  # fmt: skip
    assert architecture_line(mixed) == (
        "3 layers x 128, head width 16, heads 2-4-4/1, window 32-32-full, kv rank ·-16-·, ffn 4-2.67-2.67, "
        "rms gelu learned untied"
    )


def test_training_line():
    line = "lr 1e-3, batch 12, adamw, cosine, warmup 0.05, decay 0.1, dropout 0, beta2 0.99, clip 1"
    assert training_line(SEED) == line
    assert training_line(SEED.replace(learning_rate=6.654e-4)).startswith("lr 6.65e-4,")
    assert training_line(SEED.replace(learning_rate=0.02)).startswith("lr 0.02,")


def test_a_genome_that_is_no_transformer_is_listed_gene_by_gene():
    genome = Genome({"width": 3, "kinds": ["a", "a\x1b[2J", None]})
    assert architecture_line(genome) == "kinds a-a [2J-none, width 3"
    assert training_line(genome) == ""


@pytest.mark.parametrize(
    "value, text",
    [(1.88345, "1.883"), (0, "0"), (9999, "9999"), (12345, "12.3k"), (1_234_567, "1.23M"), (-2.5e9, "-2.5G")],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    "value, spread, text",
    [
        (1.88345, 0.0123, "1.883 ±0.012"), (2.8841, 0.087, "2.88 ±0.09"), (0.2903, 0.0087, "0.290 ±0.009"),
        (120.4, 3.2, "120 ±3"), (2.0, 0.0, "2"), (2.0, None, "2"), (1.5e6, 200.0, "1.5M ±200"),
        (1.0, 1e-9, "1 ±1e-09"),
    ],
)  # fmt: skip
def test_with_spread(value, spread, text):
    assert with_spread({"value": value, "spread": spread}) == text


@pytest.mark.parametrize(
    "spread, text", [(0.13, "1.743 ±0.13"), (0.0123, "1.743 ±0.012"), (0.00123, "1.7432 ±0.0012"), (0.0, "1.743")]
)
def test_a_loss_has_three_decimals_however_little_is_known(spread, text):
    assert with_spread({"value": 1.74321, "spread": spread}, 3) == text


def test_percent_duration_label_clean():
    assert [percent(59, 100), percent(102.1, 100), percent(100.01, 100), percent(1, 0), percent(-1, -2)] == [
        "-41%", "+2.1%", "=", "", "+50%",
    ]  # fmt: skip
    assert [duration(42), duration(210), duration(7560)] == ["42 s", "3.5 min", "2.1 h"]
    assert axis_label({"name": "latency", "unit": "ms"}) == "latency [ms]"
    assert axis_label({"name": "params", "unit": ""}) == "params"
    assert clean("a\x1b[31m\nb\u202e") == "a [31m b "


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("window", (None, None), "full"), ("window", (8, None), "8-full"), ("kv_rank", (None,) * 12, "none"),
        ("head_dim", None, "none"), ("ffn_ratio", (2.6666666666666665,) * 3, "2.67x3"),
        ("tied_embeddings", True, "true"),
        ("learning_rate", 0.0006666666, "0.000667"), ("n_layers", 12, "12"), ("norm", "rmsnorm", "rmsnorm"),
    ],
)  # fmt: skip
def test_a_gene_in_a_word(name, value, text):
    assert gene_text(name, value) == text
