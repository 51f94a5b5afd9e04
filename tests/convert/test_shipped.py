"""The shipped genomes of Hugging Face models are what the importer makes of their published configs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from evonas.convert import from_config
from evonas.genome import bounded_windows, read_space
from evonas.genome.io import read_genome, shipped_names

CONFIGS = runpy.run_path(str(Path(__file__).with_name("configs.py")))["CONFIGS"]
SHIPPED = sorted(set(CONFIGS) & set(shipped_names(".json")))


def test_every_shipped_model_of_hugging_face_has_its_config_here():
    made = {name for name in shipped_names(".json") if "huggingface.co" in read_genome(name).source}
    assert made == set(SHIPPED)
    assert len(made) >= 8


@pytest.mark.parametrize("name", SHIPPED)
def test_file_and_importer_agree(name):
    file, imported = read_genome(name), from_config(CONFIGS[name])
    assert file.genome.architecture_id == imported.genome.architecture_id
    # A file may state the shorter context of pretraining where its notes say so.
    assert file.context == imported.context or any(f"context {file.context}" in note for note in file.notes)
    missing = [note for note in imported.notes if note not in file.notes]
    assert [note for note in missing if "evonas's defaults" not in note] == []


@pytest.mark.parametrize(
    ("name", "space", "context"),
    [("nanogpt-cpu", "text-cpu", 64), ("nanogpt-cpu", "text-gpu", 64), ("nanogpt-gpu", "text-gpu", 256)],
)
def test_nanogpts_models_lie_in_the_default_spaces(name, space, context):
    assert read_space(space).bounded(context).check(bounded_windows(read_genome(name).genome, context)) == []
