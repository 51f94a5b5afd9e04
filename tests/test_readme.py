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
from click.testing import CliRunner

import evonas.store
from evonas.cli import cli
from evonas.cli.options import share_of
from evonas.config import parse_duration
from evonas.genome import read_genome, read_space
from evonas.record import Constraint, Measure, Record, objective
from evonas.store import Store

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
README = PAGES[ROOT / "README.md"]


def blocks() -> list[str]:
    """The indented blocks."""
    found = re.findall(r"(?:^ {4}.*\n(?:^\n(?= {4}))*)+", README, flags=re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def inline(text: str = README) -> list[str]:
    """What stands between backticks and begins as a command does, on one line wherever the text wraps."""
    return [" ".join(found.split()) for found in re.findall(r"`(evonas\s[^`]+)`", text)]


def commands() -> list[str]:
    """Whole ones: a name alone in the text is a mention."""
    lines = [line for block in blocks() for line in block.splitlines()]
    lines += [text for page in PAGES.values() for text in inline(page) if len(text.split()) > 2]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if part.startswith("evonas ")]


def runnable() -> list[str]:
    """Those of ``evonas genome`` that name no file of a reader's, nor anything in capitals for him to fill in."""
    return [c for c in commands() if c.startswith("evonas genome ") and not re.search(r"path/to|\b[A-Z]{2,}\b", c)]


def block_with(text: str) -> str:
    return next(block for block in blocks() if text in block)


def test_the_two_set_up_commands_are_there():
    assert "pip install -e . && evonas evolve --generations 50\n" in README
    assert "pip install -e '.[test]' && pytest\n" in README


def resolved(words: list[str]) -> tuple[click.Command, click.Context, list[str]]:
    """(command, a context with its name, its arguments); raises on an unknown one."""
    group, context = cli, click.Context(cli, info_name="evonas", **cli.context_settings)
    while isinstance(group, click.Group) and words:
        name, group, words = group.resolve_command(context, words)
        context = click.Context(group, info_name=name, parent=context)
    return group, context, words


# What click takes as any text, and a command reads when it runs.
VALUES = {
    "constraints": Constraint.parse,
    "goals": Constraint.parse_goal,
    "objectives": objective,
    "budget": parse_duration,
    "timeout": parse_duration,
    "calibrate": share_of,
}


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command):
    group, context, words = resolved(shlex.split(command)[1:])
    assert not isinstance(group, click.Group)
    # raises on an unknown option or a missing argument
    params = group.make_context(context.info_name, words, parent=context.parent).params
    for name, read in VALUES.items():
        values = params.get(name) or ()
        for text in (values,) if isinstance(values, str) else values:
            if not (text.isalpha() and text.isupper()):  # TIME, say: for the reader to fill in
                read(text)


@pytest.mark.parametrize("mention", sorted({text for text in inline() if len(text.split()) == 2}))
def test_every_command_that_is_mentioned_exists(mention):
    *_, left = resolved(mention.split()[1:])
    assert left == []


def test_a_command_that_wraps_is_one():
    assert inline("the text `evonas\ncalibrate mine` and\n`evonas train x --seed\n  1`, evonas\n`no` `evonas`") == [
        "evonas calibrate mine",
        "evonas train x --seed 1",
    ]


@pytest.mark.parametrize("command", runnable())
def test_commands_on_shipped_genomes_run(command, in_tmp_path):
    done = CliRunner().invoke(cli, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    assert len(done.output) > 20


def test_there_are_genomes_to_look_at():
    assert len(runnable()) > 2


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
    blocks = block_with("from evonas.evolution import Engine"), block_with("from evonas.evolution import ArrayEngine")
    script = "\n".join([*blocks, "import sys", "assert 'torch' not in sys.modules"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "'shape': 'round'" in done.stdout
    assert int(done.stdout.splitlines()[-1]) > 100


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


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_linked_file_and_heading_exists(page):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), target
        headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8") if heading else "", flags=re.MULTILINE)
        assert not heading or heading in {h.lower().replace(" ", "-") for h in headings}, target
    for path in re.findall(r"`((?:tools|tests|genomes|evonas)/[\w./-]+)`", PAGES[page]):
        assert (ROOT / path).exists(), path
