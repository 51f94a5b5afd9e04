"""The README keeps its word: its commands parse, its Python runs, its search space reads, its files are there."""

import importlib.util
import re
import shlex
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import click
import pytest

import evonas.store
from evonas.cli import cli
from evonas.genome import read_genome, read_space
from evonas.record import Measure, Record
from evonas.store import Store

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks() -> list[str]:
    """The indented blocks."""
    found = re.findall(r"(?:^ {4}.*\n(?:^\n(?= {4}))*)+", README, flags=re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def commands() -> list[str]:
    lines = [line for block in blocks() for line in block.splitlines()]
    lines += re.findall(r"`(evonas [^`\s]+ [^`]+)`", README)
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if part.startswith("evonas ")]


def block_with(text: str) -> str:
    return next(block for block in blocks() if text in block)


def test_the_two_set_up_commands_are_there():
    assert "pip install -e . && evonas evolve --generations 50\n" in README
    assert "pip install -e '.[test]' && pytest\n" in README


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command):
    words = shlex.split(command)[1:]
    group, context = cli, click.Context(cli, info_name="evonas", **cli.context_settings)
    while isinstance(group, click.Group):
        name, group, words = group.resolve_command(context, words)
        context = click.Context(group, info_name=name, parent=context)
    group.make_context(
        context.info_name, words, parent=context.parent
    )  # raises on an unknown option or a missing argument


def test_there_are_commands_to_check():
    assert len(commands()) > 15


def test_shipped_names_exist():
    for name in ("nanogpt-cpu", "gpt2", "llama-3.2-1b", "qwen3-0.6b", "deepseek-v2-lite"):
        assert read_genome(name).genome.n_layers
    for name in ("text-cpu", "text-gpu"):
        assert read_space(name).kind == "transformer"


def test_the_space_reads(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(block_with("schema = 1"), encoding="utf-8")
    space = read_space(path)
    assert space.name == "mine" and space.genes["window"].options == (32, None)


def test_the_engine_example_runs_without_torch():
    script = block_with("from evonas.evolution import Engine") + "\nimport sys\nassert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "'shape': 'round'" in done.stdout


def test_the_pandas_example_reads_a_run(tmp_path, monkeypatch):
    """Without pandas a mapping stands in: the columns are what matters."""
    monkeypatch.chdir(tmp_path)
    if importlib.util.find_spec("pandas") is None:
        monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=dict))
    genome = read_genome("nanogpt-cpu").genome
    with Store.create(tmp_path / "runs" / "mine", {}) as store:
        store.append(genome, Record(genome.id, 0, 0, "ok", {"loss": Measure(2.5, 0.1, "64 tokens", "cpu")}))
        store.commit({"generation": 0}, [genome.id])
    for script, name in (
        (block_with("import h5py"), "evaluations"),
        ("import h5py, pandas as pd\n" + _store_example().replace("NAME", "mine"), "table"),
    ):
        found: dict = {}
        exec(script, found)
        table = found[name]
        assert list(table["genome_id"]) == [genome.id] and list(table["status"]) == ["ok"]
        assert list(table["loss"]) == [2.5] and list(table["loss_fidelity"]) == ["64 tokens"]


def _store_example() -> str:
    lines = evonas.store.__doc__.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("    with h5py"))
    return textwrap.dedent("\n".join(lines[start : start + 3]))


def test_every_linked_file_exists():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("http") or (ROOT / target).is_file(), target
    for path in re.findall(r"`((?:tools|tests|genomes|evonas)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path
