"""``evonas genome show|check|cost|diff|import``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from evonas.convert import from_config
from evonas.genome import genome_from_dict, genome_to_dict, read_genome, write_genome
from evonas.genome.graph import cost
from evonas.genome.io import shipped_names
from evonas.store import Store

from .conftest import SEED
from .test_evolve import HF_GPT2


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def test_without_a_name_the_shipped_ones_are_listed(cli):
    out = cli("genome", "show").out
    assert all(name in out for name in (*shipped_names(".json"), *shipped_names(".toml")))


@pytest.mark.parametrize("name", shipped_names(".json"))
def test_every_shipped_genome_can_be_shown_checked_and_counted(cli, name):
    found = read_genome(name)
    shown = cli("genome", "show", name).out
    assert found.genome.id in shown and found.name in shown
    assert f"fine ({found.genome.id})" in cli("genome", "check", name).out
    expected = cost(found.genome, 1000, 32)
    assert f"{expected.params:,}" in cli("genome", "cost", name, "--vocab", 1000, "--context", 32).out


def test_show_covers_every_layer_once(cli):
    """Neighbours that are alike may share a line."""
    lines = cli("genome", "show", "deepseek-v2-lite").out.splitlines()
    start = next(k for k, line in enumerate(lines) if line.split()[:1] == ["layer"])
    rows = [found for line in lines[start + 1 :] if (found := re.match(r"\s*(\d+)(?:-(\d+))?\s", line))]
    layers = [k for row in rows for k in range(int(row[1]), int(row[2] or row[1]) + 1)]
    assert layers == list(range(27))
    assert all(" 512 " in row.string for row in rows), "the KV rank"


def test_show_json_is_a_genome_file(cli, in_finished, tmp_path):
    for reference in ("gpt2", f"first:{SEED.id[:6]}", "first:hand-tuned"):
        text = cli("genome", "show", reference, "--json").out
        path = tmp_path / "again.json"
        path.write_text(text)
        again = json.loads(cli("genome", "show", path, "--json").out)
        assert genome_from_dict(json.loads(text)) == genome_from_dict(again)
    assert genome_from_dict(again).genome == SEED and again["context"] == 16


def test_check_tells_what_lies_outside_a_space(cli, seed_file, space_file):
    inside = cli("genome", "check", seed_file, "--space", space_file)
    assert "fine" in inside.out and f"inside {space_file}" in inside.out
    outside = cli("genome", "check", "gpt2", "--space", space_file, code=1)
    for words in ("n_layers", "d_model", "n_heads", "problems", "--widen"):
        assert words in outside.err
    assert not outside.out


def test_check_does_not_promise_what_widening_refuses(cli, in_tmp_path, space_file):
    """``--widen`` widens genes, it drops no rule."""
    (in_tmp_path / "ruled.toml").write_text('rules = ["n_layers * d_model <= 64"]\n' + space_file.read_text())
    done = cli("genome", "check", "gpt2", "--space", "ruled.toml", code=1)
    assert "problems" in done.err and "--widen" not in done.err


@pytest.mark.parametrize("window, choices", [(128, '[8, "full"]'), (None, "[8, 16, 64]")])
def test_check_sees_a_window_as_a_search_at_that_context_does(cli, in_tmp_path, space_file, window, choices):
    """One of the context or longer is full attention."""
    (in_tmp_path / "own.toml").write_text(space_file.read_text().replace('[8, "full"]', choices))
    write_genome("wide.json", SEED.replace(window=(window,) * 2), context=64)
    done = cli("genome", "check", "wide.json", "--space", "own.toml")
    assert f"fine ({SEED.id}), inside own.toml" in done.out


def test_check_against_a_space_of_ones_own_with_a_gene_of_that_name(cli, in_tmp_path):
    (in_tmp_path / "own.toml").write_text('kind = "custom"\n[genes]\nwindow = ["hann", "hamming"]\n')
    write_genome("wide.json", SEED, context=64)
    done = cli("genome", "check", "wide.json", "--space", "own.toml", code=1)
    assert "not a gene of this space" in done.err and "bug" not in done.err


HOSTILE = "x[/y] [bold]\x1b[31mred\x1b]0;title\x07"


@pytest.fixture
def hostile_file(in_tmp_path):
    about = {"name": HOSTILE, "source": HOSTILE, "notes": [HOSTILE]}
    (in_tmp_path / "hostile.json").write_text(json.dumps(genome_to_dict(SEED, **about)))
    return "hostile.json"


def test_a_files_texts_are_printed_as_they_are_without_steering_the_terminal(cli, hostile_file):
    (Path(hostile_file).parent / "hostile[red].json").write_text(Path(hostile_file).read_text())
    for command in (
        "genome show hostile.json", "genome show hostile[red].json", "genome check hostile.json",
        "genome cost hostile.json", "genome diff hostile.json gpt2", "genome diff gpt2 hostile.json",
        "genome import hostile.json", "genome import hostile.json -o again.json", "genome show hostile.json --json",
    ):  # fmt: skip
        done = cli(*command.split())
        assert "\x1b" not in done.out + done.err and "\x07" not in done.out + done.err, command
        assert "x[/y] [bold]" in done.out + done.err or "again" in command, command


def test_an_error_that_quotes_a_file_does_not_either(cli, in_tmp_path):
    genes = {**genome_to_dict(SEED)["genes"], "\x1b[31m[/y]": 1}
    (in_tmp_path / "wrong.json").write_text(json.dumps({"schema": 1, "genes": genes}))
    done = cli("genome", "show", "wrong.json", code=2)
    assert "unknown gene" in done.sentence and "\x1b" not in done.err


@pytest.mark.parametrize("command", ["cost", "check", "show"])
def test_what_a_genome_can_not_say_of_a_model_is_told_once(cli, in_tmp_path, command):
    (in_tmp_path / "config.json").write_text(json.dumps({**HF_GPT2, "initializer_range": 0.3}))
    done = cli("genome", command, "config.json")
    assert (done.out + done.err).count("initializer_range 0.3: ") == 1
    assert (done.out + done.err).count("vocab_size 100: ") == 1


def test_cost_compares_several_at_their_own_context(cli):
    out = cli("genome", "cost", "nanogpt-cpu", "gpt2", "--vocab", 65).out
    small, large = (cost(read_genome(n).genome, 65, c) for n, c in (("nanogpt-cpu", 64), ("gpt2", 1024)))
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert f"{small.params:,}" in lines["nanogpt-cpu"] and " 64 " in lines["nanogpt-cpu"]
    assert f"{large.params:,}" in lines["gpt2"] and "1,024" in lines["gpt2"]
    assert f"{large.flops / 1e9:.3g} GFLOP" in lines["gpt2"] and f"{large.kv_cache_bytes / 1e6:.3g} MB" in lines["gpt2"]


def test_diff_names_the_genes_that_differ_and_no_other(cli):
    out = cli("genome", "diff", "gpt2", "gpt2-medium").out
    genes = [line.split()[0] for line in out.splitlines()[1:] if line.strip()]
    a, b = read_genome("gpt2").genome, read_genome("gpt2-medium").genome
    assert {"d_model", "n_layers"} <= {g for g in genes if g in a} == {g for g in a if a[g] != b.get(g)}
    assert "768" in out and "1024" in out


def test_diff_says_what_a_gene_is_that_a_genome_leaves_out(cli, in_tmp_path, seed_file):
    data = json.loads(Path(seed_file).read_text())
    Path("other.json").write_text(json.dumps({**data, "genes": {**data["genes"], "init": "fan_in", "conv_width": 4}}))
    out = cli("genome", "diff", seed_file, "other.json").out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["init"] == ["normal", "fan_in"] and rows["conv_width"] == ["1", "4"]


def test_diff_is_short_and_says_what_it_costs(cli):
    done = cli("genome", "diff", "gpt2", "llama-3.2-1b")
    assert "nonex" not in done.out and "True" not in done.out and "gelu" in done.out
    one, two = (cost(read_genome(n).genome, 256, 1024) for n in ("gpt2", "llama-3.2-1b"))
    assert f"parameters {one.params:,} -> {two.params:,}" in done.out
    assert f"{one.flops / 1e9:.3g} GFLOP" in done.out and "at vocabulary 256 and context 1,024" in done.out


def test_cost_of_a_runs_genome_is_that_of_its_task(cli, in_finished, text_file):
    vocabulary = len(set(text_file.read_bytes()))
    expected = cost(SEED, vocabulary, 16)
    line = cli("genome", "cost", "first:hand-tuned").out.splitlines()[1].split()
    assert line[1:4] == [str(vocabulary), "16", f"{expected.params:,}"]
    line = cli("genome", "cost", "first:hand-tuned", "--vocab", 1000).out.splitlines()[1].split()
    assert line[1:4] == ["1,000", "16", f"{cost(SEED, 1000, 16).params:,}"]
    for wrong in ("1", "-3"):
        assert "--vocab" in cli("genome", "cost", "gpt2", "--vocab", wrong, code=2).sentence


def test_cost_of_a_config_is_at_its_own_vocabulary(cli, in_tmp_path):
    (in_tmp_path / "config.json").write_text(json.dumps(HF_GPT2))
    genome = from_config(HF_GPT2).genome
    line = cli("genome", "cost", "config.json").out.splitlines()[1].split()
    assert line[1:4] == ["100", "16", f"{cost(genome, 100, 16).params:,}"]
    line = cli("genome", "cost", "config.json", "--vocab", 50).out.splitlines()[1].split()
    assert line[1:4] == ["50", "16", f"{cost(genome, 50, 16).params:,}"]
    for pair in (("config.json", "gpt2"), ("gpt2", "config.json")):
        assert "at vocabulary 100 and" in cli("genome", "diff", *pair).out


def test_diff_of_the_same(cli, seed_file, in_finished):
    assert "are the same genome" in cli("genome", "diff", seed_file, "first:hand-tuned").out


def test_import_prints_or_writes_a_genome_and_what_it_can_not_say(cli, in_tmp_path):
    (in_tmp_path / "config.json").write_text(json.dumps({**HF_GPT2, "scale_attn_by_inverse_layer_idx": True}))
    printed = cli("genome", "import", "config.json")
    written = cli("genome", "import", in_tmp_path, "-o", "imported.json")
    assert written.out == "" and "Wrote imported.json" in written.err
    found = read_genome(in_tmp_path / "imported.json")
    assert genome_from_dict(json.loads(printed.out)).genome == found.genome
    assert (found.genome.n_layers, found.genome.d_model, found.context) == (2, 32, 16)
    notes = [line.removeprefix("Note: ") for line in printed.err.splitlines()]
    assert notes and list(found.notes) == notes
    assert any("scale_attn_by_inverse_layer_idx" in note for note in notes)


def test_import_takes_a_genome_out_of_a_run(cli, in_copy):
    best = Store.open("runs/first").front_ids()[0]
    cli("genome", "import", f"first:{best}", "-o", "best.json")
    assert read_genome("best.json").genome.id == best


@pytest.mark.parametrize("command", [("genome", "import"), ("evolve", "--seed-genome")])
@pytest.mark.parametrize("config", [{"hidden_size": 64, "num_hidden_layers": 2}, {"dim": 64, "n_layers": 2}])
def test_a_config_without_its_model_type_is_told_so(cli, in_tmp_path, command, config):
    (in_tmp_path / "config.json").write_text(json.dumps(config))
    said = cli(*command, "config.json", code=2).sentence
    assert "has no model_type; supported: gpt2" in said and "genome import" not in said


def test_a_run_where_a_genome_belongs_is_told_so(cli, in_copy):
    for command in (("genome", "show"), ("train",), ("export",), ("evolve", "--seed-genome")):
        said = cli(*command, "first", code=2).sentence
        assert "'first' is a run" in said and "first:ID" in said and "evonas report first" in said
    Path("runs/gpt2").symlink_to("first")
    assert read_genome("gpt2").genome.id in cli("genome", "show", "gpt2").out, "a shipped name is that"


@pytest.mark.parametrize("wrong", ["EleutherAI/pythia-70m", "first/3f2a"])
def test_what_else_names_a_genome_is_said(cli, in_finished, wrong):
    said = cli("genome", "show", wrong, code=2).sentence
    assert "config.json of Hugging Face" in said and "RUN:ID" in said
