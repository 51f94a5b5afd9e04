"""Genome files: lossless, strict, and safe against whatever lies on the disk."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evonas.errors import EvonasError
from evonas.genome import (
    Genome,
    GenomeFile,
    check_transformer,
    genome_from_dict,
    genome_to_dict,
    read_genome,
    read_space,
    space_from_dict,
    space_to_dict,
    write_genome,
)
from evonas.genome.io import shipped_file, shipped_folder, shipped_names

quick = settings(deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**32 - 1)

GENES = {
    "n_layers": 2, "d_model": 64, "norm": "layernorm", "activation": "gelu", "position": "learned",
    "tied_embeddings": True, "n_heads": [4, 2], "n_kv_heads": [2, 2], "window": [16, None], "kv_rank": None,
    "ffn_ratio": [4, 2.5],
}  # fmt: skip
FILE = {"schema": 1, "name": "x", "source": "y", "context": 64, "notes": ["a", "b"], "genes": GENES}


@pytest.fixture(scope="module")
def odd_space():
    """The shipped space with head widths of their own, so that every gene of a genome file occurs."""
    data = space_to_dict(read_space("text-cpu"))
    data["genes"]["head_dim"] = [8, 16, 32, "none"]
    return space_from_dict(data)


# -- lossless ------------------------------------------------------------------------------------------------------


@quick
@given(
    seeds,
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.none() | st.integers(1, 2**24),
    st.none() | st.integers(1, 10**15),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=9), max_size=3),
)
def test_json_out_and_in_is_lossless(odd_space, tmp_path_factory, seed, name, source, context, tokens, notes):
    genome = odd_space.sample(np.random.default_rng(seed))
    about = {"name": name, "source": source, "context": context, "tokens": tokens, "notes": tuple(notes)}
    file = genome_from_dict(json.loads(json.dumps(genome_to_dict(genome, **about))))
    assert file == GenomeFile(genome, **about)
    assert dict(file.genome) == dict(genome) and file.genome.id == genome.id
    path = tmp_path_factory.mktemp("io") / "g.json"
    write_genome(path, genome, **about)
    again = read_genome(path)
    assert again == file and dict(again.genome) == dict(genome)
    first = path.read_bytes()
    write_genome(path, again.genome, **about)
    assert path.read_bytes() == first


def test_floats_survive_to_the_last_bit():
    exact = {**GENES, "learning_rate": 0.1 + 0.2, "weight_decay": 1e-7 / 3, "ffn_ratio": [8 / 3, 1 / 3]}
    genome = genome_from_dict({"schema": 1, "genes": exact}).genome
    again = genome_from_dict(json.loads(json.dumps(genome_to_dict(genome)))).genome
    assert again.learning_rate == 0.1 + 0.2 and again.weight_decay == 1e-7 / 3 and again.ffn_ratio == (8 / 3, 1 / 3)


def test_what_is_the_same_in_every_layer_is_written_once():
    genome = genome_from_dict(FILE).genome
    data = genome_to_dict(genome, name="x")
    assert data["genes"]["n_kv_heads"] == 2 and data["genes"]["kv_rank"] is None
    assert data["genes"]["n_heads"] == [4, 2] and data["genes"]["window"] == [16, None]
    assert set(data) == {"schema", "name", "genes"}


def test_one_form_means_one_genome():
    spread = {**GENES, "kv_rank": [None, None], "n_kv_heads": 2, "learning_rate": 1e-3, "n_layers": 2.0}
    assert genome_from_dict({"schema": 1, "genes": spread}).genome == genome_from_dict(FILE).genome


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"shcema": 1}, ["'shcema'", "'schema'"]),
        ({"schema": 2}, ["schema 2", "Upgrade"]),
        ({"schema": "1"}, ["schema '1'", '"schema": 1']),
        ({"schema": None}, ["schema None", '"schema": 1']),
        ({"schema": True}, ["schema True"]),
        ({"schema": [1]}, ["schema [1]"]),
        ({"schema": 10**5000}, ["schema", "Upgrade"]),
        ({"name": 3}, ["name"]),
        ({"name": None}, ["name"]),
        ({"source": ["x"]}, ["source"]),
        ({"notes": "text"}, ["notes", "list"]),
        ({"notes": [1]}, ["notes", "list"]),
        ({"notes": None}, ["notes", "list"]),
        ({"context": 0}, ["context is 0", "1 to"]),
        ({"context": -5}, ["context is -5"]),
        ({"context": 1.5}, ["context is 1.5"]),
        ({"context": True}, ["context is True"]),
        ({"context": "64"}, ["context is '64'"]),
        ({"context": 2**40}, ["context is"]),
        ({"tokens": 0}, ["tokens is 0", "1 to"]),
        ({"tokens": 1.5}, ["tokens is 1.5"]),
        ({"tokens": True}, ["tokens is True"]),
        ({"tokens": "64"}, ["tokens is '64'"]),
        ({"genes": None}, ["'genes'", "genome import"]),
        ({"genes": []}, ["'genes'"]),
        ({"genes": "x"}, ["'genes'"]),
        ({"genes": {}}, ["gene 'n_layers' is missing"]),
    ],
)
def test_wrong_files_are_told_what_is_wrong(changes, words):
    with pytest.raises(EvonasError) as caught:
        genome_from_dict({**FILE, **changes})
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("data", [None, [], 3, "x", True, {}, {"architectures": ["LlamaForCausalLM"]}])
def test_what_is_no_genome_file_is_pointed_to_the_import(data):
    with pytest.raises(EvonasError, match="no object 'genes'") as caught:
        genome_from_dict(data)
    assert "genome import" in caught.value.hint


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "not JSON, line 1"),
        ('{"genes": ', "not JSON, line 1 column 11"),
        ('{"genes": {}, }', "not JSON"),
        ('{"schema": 1, "genes": {"d_model": NaN}}', "d_model is nan"),
        ('{"schema": 1, "genes": {"d_model": 1e999}}', "d_model is inf"),
        ("[" * 100_000 + "]" * 100_000, "not acceptable JSON"),
        ('{"schema": ' + "9" * 5000 + "}", "not acceptable JSON"),
        ("[1, 2]", "no object 'genes'"),
        (" " * (4 * 2**20 + 1), "larger than 4096 kB"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_path(text, words, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(EvonasError) as caught:
        read_genome(path)
    assert words in caught.value.message and str(path) in caught.value.message


def test_files_that_are_none(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{"name": "\xff"}')
    for path, words in [
        (tmp_path, "is a folder"),
        (tmp_path / "missing.json", "no genome file"),
        (tmp_path / "latin.json", "not UTF-8"),
        ("x" * 5000, "no genome file"),
        ("a\0b", "no genome file"),
        ("../genomes/gpt2", "no genome file"),
    ]:
        with pytest.raises(EvonasError, match=words):
            read_genome(path)
    with pytest.raises(EvonasError) as caught:
        read_genome("nanogtp-cpu")
    assert "'nanogpt-cpu'" in caught.value.hint


def test_what_can_not_be_written_says_so(tmp_path):
    genome = genome_from_dict(FILE).genome
    with pytest.raises(EvonasError, match="can't be written"):
        write_genome(tmp_path / "no" / "folder.json", genome)
    with pytest.raises(EvonasError, match="can't be written"):
        write_genome(tmp_path, genome)
    path = tmp_path / "kept.json"
    write_genome(path, genome)
    before = path.read_bytes()
    with pytest.raises(EvonasError, match="not Unicode"):
        write_genome(path, genome, name="\ud800")
    assert path.read_bytes() == before


def test_shipped_files_are_found_by_name():
    assert shipped_folder().is_dir() and {"text-cpu", "text-gpu"} <= set(shipped_names(".toml"))
    assert shipped_file("gpt2", ".json") == shipped_file("gpt2.json", ".json")
    assert shipped_file("gpt3", ".json") is None and shipped_file("../setup", ".cfg") is None
    assert read_genome("gpt2").genome == read_genome(shipped_file("gpt2", ".json")).genome


# -- fuzz ----------------------------------------------------------------------------------------------------------

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 130),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["gelu", "rope", "learned", "muon", "full", "none"]),
)
anything = st.recursive(
    leaves,
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.sampled_from([*FILE, *GENES]) | st.text(max_size=4), x),
    max_leaves=10,
)


def check_genome(data) -> None:
    """Read ``data``; where it is accepted, it is a genome that can be built and written."""
    try:
        file = genome_from_dict(data)
    except EvonasError as error:
        assert error.message and len(str(error)) < 5000
        return
    assert isinstance(file.genome, Genome) and check_transformer(file.genome) == []
    again = genome_from_dict(json.loads(json.dumps(genome_to_dict(file.genome, name=file.name, context=file.context))))
    assert again.genome == file.genome and again.context == file.context


@settings(quick, max_examples=300)
@given(anything)
def test_any_data_is_a_genome_or_refused(data):
    check_genome(data)
    check_genome({"schema": 1, "genes": data})


@settings(quick, max_examples=400)
@given(st.sampled_from([*FILE, *(f"genes.{name}" for name in (*GENES, "head_dim", "dropout", "beta2"))]), anything)
def test_a_genome_with_one_place_spoilt_is_read_or_refused(place, value):
    data = copy.deepcopy(FILE)
    top, _, gene = place.partition(".")
    if gene:
        data["genes"][gene] = value
    else:
        data[top] = value
    check_genome(data)


SHIPPED = shipped_file("nanogpt-cpu", ".json").read_bytes()


@quick
@given(st.lists(st.tuples(st.integers(0, len(SHIPPED) - 1), st.integers(0, 2), st.binary(max_size=2)), min_size=1))
def test_a_shipped_file_with_damaged_bytes_is_read_or_refused(tmp_path_factory, edits):
    text = bytearray(SHIPPED)
    for at, cut, put in edits:
        text[at : at + cut] = put
    path = tmp_path_factory.mktemp("fuzz") / "genome.json"
    path.write_bytes(bytes(text))
    try:
        assert check_transformer(read_genome(path).genome) == []
    except EvonasError as error:
        assert str(path) in error.message


def test_a_gene_of_a_space_of_ones_own_is_written_whatever_its_name():
    genes = {"n_heads": 4, "window": None, "kv_rank": "x", "n_kv_heads": (2, 2), "ffn_ratio": (1, 2)}
    assert genome_to_dict(Genome(genes))["genes"] == {**genes, "n_kv_heads": 2, "ffn_ratio": [1, 2]}
