"""The command line as a user has it: the whole boundary in this process, or a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from evonas.cli import main
from evonas.genome import genome_to_dict, transformer_genome
from evonas.search import Search

PYTHON_M = (sys.executable, "-m", "evonas")
SEED = transformer_genome(
    {
        "n_layers": 2, "d_model": 32, "n_heads": 2, "ffn_ratio": 2, "norm": "layernorm", "activation": "gelu",
        "position": "learned", "tied_embeddings": True, "batch_size": 8, "learning_rate": 3e-3,
    }
)  # fmt: skip


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one error message, without line breaks."""
        starts = [k for k, line in enumerate(self.err.splitlines()) if line.startswith("Error: ")]
        assert len(starts) == 1, self.err
        return " ".join(" ".join(self.err.splitlines()[starts[0] :]).split())


def evaluations(store) -> list:
    """Records without those that revise another: near-ties are measured again once a search ends."""
    return [r for r in store.records if not r.revised]


@pytest.fixture
def cli(monkeypatch, capfd):
    """cli(*args, code=0) -> Done: run a command in this process, as ``evonas ARGS`` would; ``code`` may be several."""

    def call(*args, code: int | tuple[int, ...] = 0) -> Done:
        monkeypatch.setattr(sys, "argv", ["evonas", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        done = Done(ended.value.code, *capfd.readouterr())
        assert done.code in (code if isinstance(code, tuple) else (code,)), done.err
        assert "Traceback" not in done.err and "bug in evonas" not in done.err, done.err
        return done

    return call


@pytest.fixture
def an_hour(monkeypatch):
    """an_hour(generations): a search's --budget of 1h is spent once so many are done, however fast the machine is."""

    def passes(generations: int) -> None:
        class Clocked(Search):
            def __init__(self, *args, **options) -> None:
                super().__init__(*args, clock=self._time, **options)

            def _time(self) -> float:
                return time.monotonic() + (3598.0 if self.engine.generation >= generations else 0.0)

        monkeypatch.setattr("evonas.search.Search", Clocked)

    return passes


@pytest.fixture(scope="session")
def seed_file(tmp_path_factory) -> Path:
    """A genome inside the small space, for contexts of 16 tokens."""
    path = tmp_path_factory.mktemp("seed") / "hand-tuned.json"
    path.write_text(json.dumps(genome_to_dict(SEED, name="hand-tuned", context=16)))
    return path


@pytest.fixture(scope="session")
def small(text_file, space_file) -> list[str]:
    """Options of a search that ends within seconds."""
    options = f"--data {text_file} --space {space_file} --context 16 --tokens 1024 --rungs 1 --population 4"
    return [*options.split(), "--device", "cpu", "--generations", "2"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory, small, seed_file):
    """A finished run named ``first``, made in a process of its own: (its working folder, how it ended)."""
    folder = tmp_path_factory.mktemp("finished")
    command = [*PYTHON_M, "evolve", *small, "--run", "first", "--seed-genome", str(seed_file), "--workers", "2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return folder, Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def in_finished(finished, monkeypatch) -> Path:
    """The working folder of the finished run, to read from."""
    monkeypatch.chdir(finished[0])
    return finished[0]


@pytest.fixture
def in_copy(finished, tmp_path, monkeypatch) -> Path:
    """A working folder with a copy of the finished run, to go on with."""
    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder with its content, None for folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def untouched(request):
    """Fails the test when it changed anything in its working folder."""
    folder = request.getfixturevalue("in_tmp_path")
    (folder / "mine.txt").write_text("mine")
    yield folder
    after = files(folder)
    assert after.pop("mine.txt") == b"mine"
    made = [name for name in after if not name.startswith("given")]
    assert not made, made
