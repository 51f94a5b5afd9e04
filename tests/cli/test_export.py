"""``evonas export``: the trained network as a folder of its own."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from evonas.convert.weights import save_weights
from evonas.genome import Genome, genome_to_dict, read_genome, write_genome
from evonas.model import build
from evonas.record import Measure, Record
from evonas.store import Store

from .conftest import SEED, files
from .test_evolve import HF_GPT2

FILES = {"model.py", "weights.safetensors", "genome.json"}


@pytest.fixture
def trained(cli, in_tmp_path, text_file, seed_file) -> Path:
    """The folder of a short training of the seed genome, by its default name."""
    cli("train", seed_file, "--data", text_file, "--tokens", 256, "--device", "cpu")
    return in_tmp_path / "runs" / "train-hand-tuned"


def run(folder: Path) -> str:
    """What ``python model.py`` prints, with neither evonas nor this folder to import from."""
    code = "import runpy, sys; sys.modules['evonas'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-I", "-c", code, str(folder / "model.py")]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_trained_genome_is_exported_with_its_weights(cli, trained, seed_file, in_tmp_path):
    done = cli("export", seed_file, "--to", "torch", "-o", "out")
    folder = in_tmp_path / "out"
    assert {p.name for p in folder.iterdir()} == FILES
    assert SEED.id in done.out and "runs/train-hand-tuned/weights.safetensors" in done.out and "context 16" in done.out
    mine, theirs = load_file(trained / "weights.safetensors"), load_file(folder / "weights.safetensors")
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert read_genome(folder / "genome.json").genome == SEED
    printed = run(folder)
    assert re.search(r"latency +[\d.]+ ms \+- [\d.]+", printed) and f"genome      {SEED.id}" in printed
    assert re.search(r"parameters +[\d,]+\n", printed) and re.search(r"text +\S", printed), "its tokens are bytes"


def test_an_export_says_how_far_its_weights_were_trained(cli, seed_file, text_file, in_tmp_path, monkeypatch):
    from evonas.fitness.train import train as whole

    def five_evaluations(*args, on_evaluation, **options):
        def stops(*about):
            seen.append(about)
            on_evaluation(*about)
            if len(seen) == 5:
                raise KeyboardInterrupt

        seen = []
        return whole(*args, on_evaluation=stops, **options)

    monkeypatch.setattr("evonas.fitness.train.train", five_evaluations)
    cli("train", seed_file, "--data", text_file, "--tokens", 2048, "--device", "cpu", code=130)
    rows = [line.split(",") for line in Path("runs/train-hand-tuned/curve.csv").read_text().splitlines()[1:]]
    seen, loss = min(((int(tokens), float(loss)) for tokens, loss in rows), key=lambda row: row[1])
    said = f"held-out loss {loss:.4f} after {seen:,} of 2,048 tokens"
    assert 0 < seen < 2048 and f"({said})" in cli("export", seed_file, "-o", "out").out
    run(in_tmp_path / "out")
    assert f", trained:\n{said}." in (in_tmp_path / "out/model.py").read_text()
    again = cli("export", "out/genome.json", "--weights", "out/weights.safetensors", "-o", "again").out
    assert said in again, "an export's own weights say so too"


def test_torch_is_the_default_and_so_is_a_folder_in_runs(cli, trained, seed_file):
    cli("export", seed_file)
    assert {p.name for p in trained.with_name("export-hand-tuned").iterdir()} == FILES


def test_a_genome_of_a_run(cli, in_copy):
    best = Store.open("runs/first").front_ids()[0]
    missing = cli("export", f"first:{best[:8]}", code=2).sentence
    assert f"no trained weights of first:{best}" in missing and f"evonas train first:{best[:8]}" in missing
    assert "--untrained" in missing and "--weights" in missing
    cli("train", f"first:{best[:8]}", "--tokens", 256, "--device", "cpu")
    cli("export", f"first:{best[:8]}", "-o", "out")
    assert read_genome("out/genome.json").genome.id == best and "context 16" in run(in_copy / "out")


def test_weights_trained_at_a_rate_that_was_taken_over_are_those_of_the_genome(cli, in_tmp_path, text_file):
    """As ``evonas train`` does for Muon."""
    genome = SEED.replace(optimizer="muon", learning_rate=4e-3)
    write_genome("mine.json", genome, name="mine", context=16, tokens=256)
    cli("train", "mine.json", "--data", text_file, "--tokens", 1024, "--device", "cpu")
    done = cli("export", "mine.json", "-o", "out")
    assert "runs/train-mine/weights.safetensors" in done.out
    assert read_genome("out/genome.json").genome == genome.replace(learning_rate=2e-3)
    cli("train", "mine.json", "--data", text_file, "--tokens", 1024, "--device", "cpu", "--rate-as-found", "-o", "own")
    Path("own").rename("runs/train-as-found")
    assert "runs/train-as-found/" in cli("export", "mine.json", "-o", "again").out, "this very genome comes first"


def test_weights_of_another_rate_or_another_network_are_taken_where_they_are_named_alone(cli, in_copy):
    store = Store.open("runs/first")
    best = store.front_ids()[0]
    genome, context = store.genomes[best].genome, 16
    for name, other in (("deeper", genome.replace(beta2=0.5)), ("rate", genome.replace(learning_rate=1.5e-3))):
        folder = in_copy / "runs" / f"train-{name}"
        folder.mkdir()
        write_genome(folder / "genome.json", other, name=name, context=context, tokens=4096)
        save_weights(build(other, 256, context), folder / "weights.safetensors")
        cli("export", f"first:{best[:8]}", "-o", f"out-{name}", code=2)
    done = cli("export", f"first:{best}", "--weights", "runs/train-rate/weights.safetensors", "-o", "again")
    assert "context 16" in done.out and read_genome("again/genome.json").genome.learning_rate == 1.5e-3
    cli("export", f"first:{best}", "--weights", "runs/train-deeper/weights.safetensors", "-o", "no", code=2)


def test_of_a_sweep_of_rates_each_finds_its_own_weights(cli, in_tmp_path, text_file):
    for name, rate in (("slow", 1e-3), ("fast", 2e-3), ("untrained", 3e-3)):
        write_genome(f"{name}.json", SEED.replace(learning_rate=rate), name=name, context=16)
        if name != "untrained":
            cli("train", f"{name}.json", "--data", text_file, "--tokens", 256, "--device", "cpu")
    assert "weights from runs/train-slow/" in cli("export", "slow.json", "-o", "out").out
    assert read_genome("out/genome.json").genome.learning_rate == 1e-3
    assert "no trained weights of untrained" in cli("export", "untrained.json", "-o", "no", code=2).sentence


def test_the_genome_file_beside_the_weights_finds_them(cli, trained, in_tmp_path):
    moved = trained.rename(in_tmp_path / "elsewhere")
    done = cli("export", moved / "genome.json", "-o", "out")
    assert "elsewhere/weights.safetensors" in done.out


def test_the_newest_weights_of_this_very_genome_are_taken(cli, trained, seed_file, text_file):
    write_genome("other.json", SEED.replace(n_layers=1), name="other", context=16)
    for reference, name in ((seed_file, "train-again"), ("other.json", "train-other")):
        cli("train", reference, "--data", text_file, "--tokens", 256, "--device", "cpu", "-o", f"runs/{name}")
    (trained.parent / "train-broken").mkdir()
    (trained.parent / "train-broken" / "weights.safetensors").write_bytes(b"nothing")
    done = cli("export", seed_file, "-o", "out")
    assert "weights from runs/train-again/" in done.out
    assert "Note: passed over runs/train-broken/weights.safetensors" in " ".join(done.err.split()), "newer"


def test_weights_that_cannot_be_read_are_named(cli, trained, seed_file):
    path = trained / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    missing = cli("export", seed_file, "-o", "out", code=2).sentence
    assert (
        "no trained weights of hand-tuned" in missing
        and "--weights runs/train-hand-tuned/weights.safetensors says why" in missing
    )
    assert "weights.safetensors" in cli("export", seed_file, "--weights", path, "-o", "out", code=2).sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocabulary": "zz"}, "damaged: model.py will show tokens as numbers"),
        ({"seen": "many"}, "damaged: how far these weights were trained is not known"),
        ({}, ""),
    ],
)
def test_damaged_metadata_are_told(cli, trained, seed_file, change, words):
    path = trained / "weights.safetensors"
    with safe_open(path, "pt") as file:
        about = file.metadata()
    save_file(load_file(path), path, metadata={**about, **change})
    done = cli("export", seed_file, "-o", "out")
    assert words in " ".join(done.err.split()) and ("damaged" in done.err) == bool(change)
    assert "latency" in run(Path("out").absolute())


def test_weights_can_be_named(cli, trained, seed_file, in_tmp_path):
    path = trained.rename(in_tmp_path / "elsewhere") / "weights.safetensors"
    assert "no trained weights" in cli("export", seed_file, "-o", "out", code=2).sentence
    cli("export", seed_file, "--weights", path, "-o", "out")
    bare = in_tmp_path / "bare.safetensors"
    save_file(load_file(path), bare)
    cli("export", seed_file, "--weights", bare, "-o", "from-bare")
    made, without = ((in_tmp_path / name / "model.py").read_text() for name in ("out", "from-bare"))
    assert made.partition("# -- ")[2] == without.partition("# -- ")[2], "the same network"
    assert "VOCABULARY = bytes.fromhex" in made and "VOCABULARY = None" in without, "a bare file does not say"
    assert re.search(r"tokens +(\d+ ){16}\d+\n", run(in_tmp_path / "from-bare"))


def test_untrained_weights_are_fresh_seeded_and_said_to_be(cli, in_tmp_path):
    for name in ("a", "b"):
        done = cli("export", "nanogpt-cpu", "--untrained", "--context", 24, "--vocab", 30, "-o", name)
        assert "untrained" in done.out
    genome = read_genome("nanogpt-cpu").genome
    expected = build(genome, 30, 24, generator=torch.Generator().manual_seed(0)).state_dict()
    for name in ("a", "b"):
        assert all(torch.equal(w, expected[n]) for n, w in load_file(f"{name}/weights.safetensors").items())
    assert "untrained" in Path("a/model.py").read_text() and "untrained" in Path("a/genome.json").read_text()
    assert read_genome("a/genome.json").context == 24 and "context 24" in run(in_tmp_path / "a")


def test_untrained_takes_vocabulary_and_context_from_the_run(cli, in_copy, text_file):
    best = Store.open("runs/first").front_ids()[0]
    done = cli("export", f"first:{best}", "--untrained")
    letters = len(set(text_file.read_text()))
    assert f"vocabulary {letters}, context 16" in done.out
    assert (in_copy / "runs" / f"export-first-{best}").is_dir() and "run first" in cli("report").out


def test_untrained_takes_vocabulary_and_context_from_a_config(cli, in_tmp_path):
    Path("config.json").write_text(json.dumps(HF_GPT2))
    assert "vocabulary 100, context 16" in cli("export", "config.json", "--untrained", "-o", "out").out


def test_a_hostile_name_stays_out_of_the_code(cli, in_tmp_path):
    name = 'x"""\nimport os; os._exit(7)\n"""'
    Path("given.json").write_text(json.dumps(genome_to_dict(SEED, name=name, context=16)))
    cli("export", "given.json", "--untrained", "-o", "out")
    assert "os._exit(7)" not in Path("out/model.py").read_text() and run(in_tmp_path / "out")


WRONG = {
    "an unknown target": ("nanogpt-cpu --to tflite", ["'tflite'", "torch"]),
    "Hugging Face": ("nanogpt-cpu --to hf --untrained", ["Hugging Face model is not built yet", "--to torch"]),
    "ONNX": ("nanogpt-cpu --to onnx --untrained", ["ONNX is not built yet", "--to torch"]),
    "no genome": ("", ["Missing argument"]),
    "an unknown genome": ("nanogpt-cppu", ["'nanogpt-cppu'", "Did you mean 'nanogpt-cpu'?"]),
    "an unknown run": ("night:3f", ["'night'", "names no run"]),
    "nothing trained": ("gpt2", ["no trained weights of gpt2", "evonas train gpt2", "--untrained", "--weights"]),
    "both": ("nanogpt-cpu --untrained --weights w", ["exclude each other"]),
    "a context of trained weights": ("nanogpt-cpu --context 8", ["--context goes with --untrained only"]),
    "a vocabulary of trained weights": ("nanogpt-cpu --vocab 8", ["--vocab goes with --untrained only"]),
    "no context": ("nanogpt-cpu --untrained --context 0", ["--context", "1<=x"]),
    "missing weights": ("nanogpt-cpu --weights nowhere", ["nowhere can't be read", "No such file"]),
    "a folder as weights": ("nanogpt-cpu --weights given-folder", ["given-folder", "not a plain file"]),
    "a text as weights": ("nanogpt-cpu --weights given.txt", ["given.txt is no safetensors file"]),
    "an empty file as weights": ("nanogpt-cpu --weights given-empty", ["given-empty is no safetensors file"]),
    "weights of another genome": ("nanogpt-cpu --weights given-other", ["holds weights of genome", "genome.json"]),
    "weights of another kind": ("nanogpt-cpu --weights given-kind", ["token_embedding.weight"]),
    "weights of another shape": ("nanogpt-cpu --weights given-shape", ["does not fit the genome", "blocks.0."]),
    "a file as output": ("nanogpt-cpu --untrained -o given.txt", ["given.txt exists"]),
    "output inside a file": ("nanogpt-cpu --untrained -o given.txt/x", ["given.txt/x"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(cli, untouched, case):
    arguments, words = WRONG[case]
    (untouched / "given-folder").mkdir()
    (untouched / "given.txt").write_text("to be or not to be")
    (untouched / "given-empty").touch()
    save_file({"w": torch.ones(2)}, untouched / "given-kind")
    small = {"token_embedding.weight": torch.ones(9, 128)}
    save_file(small, untouched / "given-shape", metadata={"context": "64"})
    save_file(small, untouched / "given-other", metadata={"context": "64", "genome": "0123456789ab"})
    done = cli("export", *arguments.split(), code=2)
    assert all(word in done.sentence for word in words), done.sentence
    assert not done.out


def test_a_folder_with_something_in_it_is_refused_and_left_alone(cli, in_tmp_path):
    (in_tmp_path / "out").mkdir()
    (in_tmp_path / "out" / "mine").write_text("mine")
    assert "out exists and is not empty" in cli("export", "gpt2", "--untrained", "-o", "out", code=2).sentence
    assert files(in_tmp_path) == {"out": None, "out/mine": b"mine"}


@pytest.mark.parametrize("kind", [OSError, SafetensorError])  # the library's own, of a disk that is full
def test_a_failure_leaves_nothing(cli, in_tmp_path, monkeypatch, kind):
    def fail(weights, path, metadata):
        Path(path).write_bytes(b"a part")
        raise kind("No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    done = cli("export", "nanogpt-cpu", "--untrained", "-o", "out", code=1)
    assert "No space left on device" in done.sentence and not files(in_tmp_path)


def test_untrained_it_asks_the_data_for_nothing_but_its_alphabet(cli, in_copy):
    """No text need be long enough for the context, and that of a run is known."""
    assert "context 30000" in cli("export", "nanogpt-cpu", "--untrained", "--context", 30000, "-o", "long").out
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], "data": "gone.txt"})
    size = store.header["notes"]["vocab_size"]
    done = cli("export", f"first:{store.front_ids()[0]}", "--untrained", "-o", "out")
    assert f"vocabulary {size}, " in done.out


def test_the_name_in_a_file_leads_to_no_other_folder(cli, in_tmp_path, seed_file):
    data = json.loads(Path(seed_file).read_text())
    Path("f.json").write_text(json.dumps({**data, "name": "org/../../elsewhere"}))
    cli("export", "f.json", "--untrained")
    assert [path.name for path in (in_tmp_path / "runs").iterdir()] == ["export-org-..-..-elsewhere"]
    assert (in_tmp_path / "runs/export-org-..-..-elsewhere/model.py").is_file()


def test_the_folder_one_is_in_is_a_reference_too(cli, in_tmp_path, monkeypatch):
    config = {"model_type": "gpt2", "n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 16}
    (in_tmp_path / "mine").mkdir()
    (in_tmp_path / "mine/config.json").write_text(json.dumps(config))
    monkeypatch.chdir(in_tmp_path / "mine")
    assert "there are no trained weights of mine" in cli("export", ".", code=2).sentence
    cli("export", ".", "--untrained", "-o", "out")
    shutil.copy("out/weights.safetensors", "weights.safetensors")
    assert "weights from weights.safetensors" in cli("export", ".", "-o", "again").out


def test_a_genome_of_a_space_of_ones_own_is_shown_and_nothing_else(cli, in_tmp_path):
    genome = Genome({"x": 1, "y": "b"})
    header = {
        "objectives": [{"name": "loss", "unit": "", "direction": "min"}], "seed": 0, "device": "cpu", "command": "test",
        "settings": {"task": "text"}, "space": {}, "seed_genomes": [],
    }  # fmt: skip
    with Store.create("runs/own", header) as store:
        store.append(genome, Record(genome.id, 0, 0, "ok", {"loss": Measure(1.0, 0.1, "", "cpu")}))
    assert "y b" in cli("genome", "show", f"own:{genome.id}").out
    for command in (("train",), ("export", "--untrained", "--vocab", 9), ("export",)):
        said = cli(command[0], f"own:{genome.id}", *command[1:], code=2).sentence
        assert "is no network that can be built" in said and "evonas genome show" in said
    said = cli("evolve", "--seed-genome", f"own:{genome.id}", "--run", "new", code=2).sentence
    assert "is no network that can be built" in said and not Path("runs/new").exists()
    diff = cli("genome", "diff", f"own:{genome.id}", "nanogpt-cpu").out
    assert "n_layers" in diff and "parameters" not in diff


def test_a_folder_is_no_file_of_weights(cli, in_tmp_path, seed_file):
    for named in (".", "/", ""):
        assert "bug" not in cli("export", seed_file, "--weights", named, "-o", "out", code=(1, 2)).err


def test_commands_to_copy_hold_a_path_with_a_space(cli, in_copy):
    def copied(text: str, begin: str) -> list[str]:
        return shlex.split(" ".join(text.split()).partition(begin)[2])

    to_my = ("export", "nanogpt-cpu", "--untrained", "-o", "my x")
    assert copied(cli(*to_my).out, "Try it: python ") == ["my x/model.py"]
    assert copied(cli(*to_my, code=2).err, "-o DIR: -o ")[0] == "my x-2,"
    assert copied(cli("report", "first", "--html", "my y/x.html", code=2).err, "mkdir -p ") == ["my y"]
    write_genome("my x.json", SEED.replace(d_model=64))
    assert copied(cli("export", "my x.json", code=2).err, "evonas train ")[0] == "my x.json."
