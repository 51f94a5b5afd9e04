"""Wrong usage: one clear sentence with the cure on stderr, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
import torch

from evonas.genome import genome_to_dict
from evonas.tasks.text import MAX_BYTES

from .conftest import PYTHON_M, SEED, files

SMALL_TEXT = "to be or not to be, that is the question " * 60
FILES = {
    "given.txt": SMALL_TEXT,
    "given-empty.txt": "",
    "given-tiny.txt": "to be",
    "given-same.txt": "a" * 5000,
    "given.toml": "schema = 1\n[genes\nn_layers = 2\n",
    "given-key.toml": "schema = 1\n[genes]\nn_layres = 2\n",
    "given-range.toml": "schema = 1\n[genes]\nn_layers = { low = 4, high = 2 }\n",
    "given-few.toml": "schema = 1\n[genes]\nn_layers = 2\n",
    "given-kind.toml": 'kind = "custom"\n[genes]\nx = { low = 0.0, high = 1.0 }\n',
    "given.json": '{"schema": 1, "genes": {',
    "given-schema.json": json.dumps({"schema": 99, "genes": {}}),
    "given-list.json": "[1, 2]",
    "given-gene.json": json.dumps({"schema": 1, "genes": {**genome_to_dict(SEED)["genes"], "norm": "batchnorm"}}),
    "given-large.json": json.dumps(genome_to_dict(SEED.replace(d_model=256, n_layers=1), name="large")),
    "given-config.json": json.dumps({"model_type": "mamba", "hidden_size": 64}),
}
EVOLVE = {
    "an unknown option": ("--generatons 3", ["--generatons", "--generations"]),
    "an option without value": ("--generations", ["--generations", "requires an argument"]),
    "words instead of a number": ("--population many", ["--population", "'many'", "integer"]),
    "a superfluous argument": ("now", ["now"]),
    "no population": ("--population 0", ["population is 0", "from 2 to"]),
    "a population of one": ("--population 1", ["population is 1", "from 2 to"]),
    "no offspring": ("--offspring 0", ["offspring is 0", "from 1"]),
    "fewer than no offspring": ("--offspring -4", ["offspring is -4", "from 1"]),
    "no rungs": ("--rungs 0", ["rungs is 0", "from 1 to 8"]),
    "a rung too many": ("--rungs 9", ["rungs is 9", "from 1 to 8"]),
    "no generations": ("--generations 0", ["generations is 0", "from 1 to"]),
    "fewer than no generations": ("--generations -3", ["generations is -3"]),
    "no workers": ("--workers 0", ["0 workers", "from 1"]),
    "fewer than no workers": ("--workers -2", ["-2 workers", "from 1"]),
    "more workers than any machine has": ("--workers 1025", ["1025 workers", "from 1 to 1024"]),
    "no context": ("--context 0", ["context is 0", "from 2 to"]),
    "a context of one": ("--context 1", ["context is 1", "from 2 to"]),
    "no tokens": ("--tokens 0", ["tokens is 0"]),
    "a context longer than the training": ("--context 1000000", ["--context 1000000", "--tokens", "smaller"]),
    "fewer tokens than the context": ("--tokens 15", ["tokens is 15", "from 16 to"]),
    "a negative seed": ("--seed -1", ["seed is -1", "from 0 to"]),
    "an unknown executor": ("--executor threads", ["unknown executor 'threads'", "serial"]),
    "an unknown device": ("--device gpu", ["no such device 'gpu'", "auto, cpu or cuda"]),
    "an unknown objective": ("--objective los", ["unknown objective 'los'", "Did you mean 'loss'?"]),
    "an objective twice": ("--objective loss --objective loss", ["each once"]),
    "a constraint of no known form": ("--constraint latency<5ms", ["'latency<5ms'", "NAME<=NUMBER[UNIT]"]),
    "a constraint on nothing known": ("--constraint latencies<=5", ["'latencies'", "Did you mean 'latency'?"]),
    "a constraint in a wrong unit": ("--constraint latency<=5MB", ["'MB' does not fit latency", "ms"]),
    "a goal on the wrong side": ("--goal latency>=5ms", ["wrong side", "latency<=VALUE"]),
    "a goal of no objective": ("--goal memory<=2MB", ["memory is no objective", "--objective memory"]),
    "two goals of one objective": ("--goal latency<=2ms --goal latency<=1ms", ["latency has one already"]),
    "a precision of no known name": ("--precision fp8", ["'fp8'", "auto, float32 or bfloat16"]),
    "an empty constraint": ("--constraint=", ["''", "NAME<=NUMBER[UNIT]"]),
    "an analytic constraint nothing meets": ("--constraint params<=100", ["no genome", "meets params<=100", "Loosen"]),
    "a budget without unit": ("--budget 10", ["'10'", "90s, 30m"]),
    "a budget of nothing": ("--budget 0s", ["'0s'", "more than 0"]),
    "a negative budget": ("--budget=-5m", ["'-5m'", "more than 0"]),
    "an empty budget": ("--budget=", ["''", "90s, 30m"]),
    "a budget too short": ("--budget 5s", ["--budget 5s is too little", "--budget 1m"]),
    "a share without unit": ("--calibrate 5", ["--calibrate '5'", "--calibrate 5%"]),
    "a share of nothing": ("--calibrate 0%", ["'0%'", "above 0%"]),
    "a share of all": ("--calibrate 100%", ["'100%'", "to 90%"]),
    "a share that is no number": ("--calibrate nan%", ["'nan%'", "--calibrate 5%"]),
    "a calibration of nothing": (
        "--calibrate 5% --objective params --objective latency", ["this search has none", "Leave it out"]
    ),
    "a timeout without unit": ("--timeout 5", ["'5'", "90s, 30m"]),
    "an unknown task": ("--task txt", ["unknown task 'txt'", "Did you mean 'text'?"]),
    "a task to come": ("--task images", ["'images' is not built yet", "--task text"]),
    "a task in a missing module": ("--task nowhere:Task", ["'nowhere:Task' can't be loaded", "package.module:Name"]),
    "a missing data file": ("--data nowhere.txt", ["no such file", "nowhere.txt"]),
    "a folder as data": ("--data given-folder", ["given-folder is a folder", "one text file"]),
    "an empty data file": ("--data given-empty.txt", ["given-empty.txt is empty"]),
    "a tiny data file": ("--data given-tiny.txt", ["5 bytes are too few", "longer text"]),
    "one byte repeated": ("--data given-same.txt", ["one byte repeated"]),
    "no name of a data file": ("--data=", ["is a folder"]),
    "an unknown space": ("--space text-cpuu", ["'text-cpuu'", "Did you mean 'text-cpu'?"]),
    "a folder as space": ("--space given-folder", ["given-folder is a folder"]),
    "malformed TOML": ("--space given.toml", ["given.toml: not TOML", "line"]),
    "an unknown gene": ("--space given-key.toml", ["genes.n_layres", "Did you mean 'n_layers'?"]),
    "a range upside down": ("--space given-range.toml", ["genes.n_layers", "low 4 is above high 2", "Swap"]),
    "a space of another kind": ("--space given-kind.toml", ["'given-kind' is of kind 'custom'", "evolution.Engine"]),
    "a space that lacks genes": ("--space given-few.toml", ["genes.d_model: missing", "[genes]"]),
    "an unknown genome": ("--seed-genome nanogpt-cppu", ["'nanogpt-cppu'", "Did you mean 'nanogpt-cpu'?"]),
    "malformed JSON": ("--seed-genome given.json", ["given.json: not JSON, line 1"]),
    "a genome of another schema": ("--seed-genome given-schema.json", ["schema 99", "reads schema 1", "Upgrade"]),
    "JSON that is no genome": ("--seed-genome given-list.json", ["not a genome file"]),
    "a genome with a wrong gene": ("--seed-genome given-gene.json", ["norm is 'batchnorm'", "layernorm, rmsnorm"]),
    "a folder without config.json": ("--seed-genome given-folder", ["without a config.json"]),
    "a model of an unknown family": ("--seed-genome given-config.json", ["mamba"]),
    "a genome of no run": ("--seed-genome gone:3f2a", ["'gone' names no run"]),
    "a genome outside the space": (
        "--seed-genome given-large.json", ["'large' (given-large.json) lies outside", "d_model", "--widen"],
    ),
    "a run name with a slash": ("--run a/b", ["'a/b' is not a plain folder name", "without /"]),
    "a run name that goes up": ("--run ..", ["'..' is not a plain folder name"]),
    "a run name like an option": ("--run=-x", ["'-x' is not a plain folder name", "beginning with -"]),
    "a hidden run": ("--run .x", ["'.x' is not a plain folder name"]),
    "a run name for markup": ("--run [red]", ["'[red]' is not a plain folder name"]),
    "a run name that steers a terminal": ("--run a\x1b[31mb", ["'a\\x1b[31mb' is not a plain folder name"]),
    "an empty run name": ("--run=", ["'' is not a plain folder name"]),
}  # fmt: skip
OTHERS = {
    "an unknown command": ("evolv", ["No such command 'evolv'"]),
    "an unknown option of the program": ("--verbos", ["--verbos"]),
    "a report of nothing": ("report", ["there is no run in runs/", "evonas evolve"]),
    "a report of an unknown run": ("report gone", ["'gone' names no run"]),
    "a report of a folder": ("report given-folder", ["'given-folder' holds no run"]),
    "an unknown format": ("report --format xml", ["'xml'", "json"]),
    "nothing to resume": ("resume", ["there is no run in runs/", "evonas evolve"]),
    "an unknown run to resume": ("resume gone", ["'gone' names no run"]),
    "no genome to train": ("train", ["Missing argument", "FILE|RUN:ID"]),
    "an unknown genome to train": ("train gone", ["'gone'", "no shipped genome"]),
    "a run without that genome": ("train gone:3f", ["'gone' names no run"]),
    "training on no tokens": ("train nanogpt-cpu --tokens 0", ["--tokens", "0"]),
    "training on no data": ("train nanogpt-cpu --data nowhere.txt", ["no such file", "nowhere.txt"]),
    "training with a seed below zero": ("train nanogpt-cpu --seed -1", ["--seed", "-1"]),
    "training into a full folder": ("train nanogpt-cpu -o given-full", ["given-full exists", "-o DIR"]),
    "training into a file": ("train nanogpt-cpu -o given.txt", ["given.txt exists", "-o DIR"]),
    "training below a file": ("train nanogpt-cpu -o given.txt/sub --device cpu", ["given.txt", "-o DIR"]),
    "an unknown genome to show": ("genome show gtp2", ["'gtp2'", "Did you mean 'gpt2'?"]),
    "a broken genome to check": ("genome check given-gene.json", ["norm is 'batchnorm'"]),
    "an unknown space to check with": ("genome check gpt2 --space text-cpuu", ["'text-cpuu'", "'text-cpu'"]),
    "costs of nothing": ("genome cost", ["Missing argument"]),
    "costs of no context": ("genome cost gpt2 --context 0", ["--context", "0"]),
    "a difference to nothing": ("genome diff gpt2", ["Missing argument"]),
    "an import of an unknown family": ("genome import given-config.json", ["mamba"]),
    "an import to nowhere": ("genome import gpt2 -o nowhere/gpt2.json", ["nowhere/gpt2.json can't be written"]),
}


@pytest.fixture
def given(untouched):
    """A working folder with files to be wrong about; the test must leave it as it is."""
    for name, text in FILES.items():
        (untouched / name).write_text(text)
    (untouched / "given-folder").mkdir()
    (untouched / "given-full").mkdir()
    (untouched / "given-full" / "file").touch()
    before = files(untouched)
    yield untouched
    assert files(untouched) == before


@pytest.mark.parametrize("case", EVOLVE)
def test_evolve_refuses(cli, given, space_file, case):
    wrong, says = EVOLVE[case]
    right = ["--data", "given.txt", "--space", space_file, "--context", 16, "--device", "cpu", "--executor", "serial"]
    code = 1 if "nothing meets" in case else 2
    done = cli("evolve", *right, *wrong.split(), code=code)
    assert not done.out
    for words in says:
        assert words in done.sentence, done.err


@pytest.mark.parametrize("case", OTHERS)
def test_the_other_commands_refuse(cli, given, case):
    wrong, says = OTHERS[case]
    done = cli(*wrong.split(), code=2)
    for words in says:
        assert words in done.sentence, done.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["evolve", "train nanogpt-cpu"])
def test_a_gpu_that_is_not_there(cli, given, command):
    assert "no CUDA device" in cli(*command.split(), "--device", "cuda", code=2).sentence


def test_more_seed_genomes_than_the_population_holds(cli, given):
    seeds = [word for name in ("nanogpt-cpu", "gpt2", "smollm-135m") for word in ("--seed-genome", name)]
    done = cli("evolve", "--population", 2, "--context", 16, "--widen", "--device", "cpu", *seeds, code=2)
    assert "3 seed genomes do not fit a population of 2" in done.sentence and "--population 6" in done.sentence


@pytest.mark.parametrize("command", [("evolve",), ("train", "nanogpt-cpu", "-o", "out")], ids=lambda c: c[0])
def test_data_above_the_size_limit(cli, in_tmp_path, command):
    with open("large.txt", "wb") as file:
        file.truncate(MAX_BYTES + 1)  # a hole, which takes no room
    done = cli(*command, "--data", "large.txt", "--device", "cpu", code=2)
    assert "large.txt is larger than 8 GB" in done.sentence and "head -c 1G" in done.sentence
    assert [path.name for path in in_tmp_path.iterdir()] == ["large.txt"]


def test_it_is_so_in_a_process_of_its_own_too(given):
    for args, words in (
        (["evolve", "--population", "0", "--device", "cpu"], "population is 0"),
        (["evolve", "--space", "given.toml", "--device", "cpu"], "not TOML"),
        (["report", "gone"], "'gone' names no run"),
    ):
        done = subprocess.run([*PYTHON_M, *args], capture_output=True, text=True)
        assert done.returncode == 2 and not done.stdout
        assert done.stderr.startswith("Error: ") and words in done.stderr and "Traceback" not in done.stderr


def test_the_traceback_is_there_for_who_asks(cli, given, monkeypatch):
    monkeypatch.setenv("EVONAS_DEBUG", "1")
    done = subprocess.run([*PYTHON_M, "report", "gone"], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" in done.stderr and "Error: 'gone' names no run" in done.stderr


# -- where a run lies -----------------------------------------------------------------------------------------------


def test_a_run_that_exists_is_left_alone(cli, in_copy, small):
    before = files(in_copy)
    done = cli("evolve", *small, "--run", "first", code=2)
    assert "run 'first' exists" in done.sentence and "evonas resume first" in done.sentence
    assert files(in_copy) == before


def test_a_file_where_the_runs_should_lie(cli, in_tmp_path, small):
    (in_tmp_path / "runs").write_text("mine")
    done = cli("evolve", *small, "--run", "x", "--executor", "serial", code=2)
    assert "can't create run 'x' in runs" in done.sentence and "Check" in done.sentence
    assert files(in_tmp_path) == {"runs": b"mine"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(cli, in_tmp_path, small):
    (in_tmp_path / "runs").mkdir(mode=0o500)
    done = cli("evolve", *small, "--run", "x", "--executor", "serial", code=2)
    assert "can't create run 'x'" in done.sentence and not list((in_tmp_path / "runs").iterdir())


def test_a_damaged_run(cli, in_copy):
    """The tool can't tell who damaged it, so either code will do."""
    (in_copy / "runs" / "first" / "population.h5").write_bytes(b"no HDF5 at all")
    for command in ("report", "resume"):
        assert "population.h5 is damaged or no evonas run" in cli(command, "first", code=(1, 2)).sentence


def test_a_report_of_some_other_file(cli, given):
    assert "given.txt is damaged or no evonas run" in cli("report", "given.txt", code=(1, 2)).sentence


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("--plot", "nowhere/front.png"), ("--plot", "front.gif"), ("--plot", "front"), ("--plot", "runs"),
        ("--html", "nowhere/page.html"), ("--html", "runs"), ("--html", "runs/first/population.h5/page.html"),
    ],
)  # fmt: skip
def test_a_picture_or_a_page_where_none_can_be(cli, in_copy, option, path):
    before = files(in_copy)
    done = cli("report", "first", option, path, code=2)
    assert path in done.sentence and not done.out, "it is found before anything is printed"
    assert files(in_copy) == before


def test_an_id_that_is_not_on_the_front(cli, in_finished):
    done = cli("genome", "show", "first:zzzz", code=2)
    assert "run 'first' has no genome 'zzzz'" in done.sentence and "On its front: " in done.sentence


def test_the_runs_folder_of_another_working_folder_is_not_found(cli, in_finished, in_tmp_path):
    shutil.rmtree(in_tmp_path / "runs", ignore_errors=True)
    assert "names no run" in cli("report", "first", code=2).sentence
