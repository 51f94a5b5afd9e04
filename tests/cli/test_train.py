"""``evonas train``: weights that load back to the loss it printed."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from evonas.cli.reference import Reference
from evonas.cli.train import _tokens_for
from evonas.errors import EvonasError
from evonas.fitness.train import DivergenceError
from evonas.fitness.train import train as trained_in_full
from evonas.genome import read_genome, write_genome
from evonas.model import build
from evonas.record import Measure, Record
from evonas.store import Store
from evonas.store.lock import WriterLock
from evonas.tasks import load_task

from .conftest import PYTHON_M, SEED, files


@pytest.fixture
def train(cli, in_tmp_path, text_file, seed_file):
    def call(*args, code=0, tokens=16 * 8 * 40):
        return cli("train", seed_file, "--data", text_file, "--tokens", tokens, "--device", "cpu", *args, code=code)

    return call


def held_out_loss(folder, text_file) -> float:
    """By hand: every held-out sequence through the saved network."""
    found = read_genome(folder / "genome.json")
    task = load_task("text", str(text_file), found.context)
    model = build(found.genome, task.vocab_size, found.context).eval()
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    x, y = (torch.from_numpy(np.concatenate(part)) for part in zip(*task.validation(None, 64)))
    with torch.no_grad():
        return cross_entropy(model(x).transpose(1, 2), y).item()


def results(folder) -> dict:
    """All that is in a training's folder, down to the last bit; safetensors orders its metadata by chance."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    content = found.pop("weights.safetensors")
    with safe_open(folder / "weights.safetensors", "pt") as file:
        return {**found, "metadata": file.metadata(), "weights": content[8 + int.from_bytes(content[:8], "little") :]}


def curve(folder) -> list[tuple[int, float]]:
    with open(folder / "curve.csv") as file:
        return [(int(row["tokens"]), float(row["loss"])) for row in csv.DictReader(file)]


def printed(done) -> tuple[float, float]:
    """(lowest held-out loss, loss at the end)"""
    found = re.search(r"loss +([\d.]+) nats \+- [\d.]+ \(lowest held-out\), ([\d.]+) at the end", done.out)
    return float(found[1]), float(found[2])


def test_the_weights_load_back_to_the_printed_loss(train, text_file, in_tmp_path):
    done = train("-o", "out")
    folder = in_tmp_path / "out"
    assert {p.name for p in folder.iterdir()} == {"weights.safetensors", "genome.json", "curve.csv"}
    points = curve(folder)
    assert len(points) == 20 and points[-1][0] == 16 * 8 * 40 and [t for t, _ in points] == sorted(t for t, _ in points)
    lowest, last = printed(done)
    assert lowest == pytest.approx(min(loss for _, loss in points), abs=1e-4)
    assert last == pytest.approx(points[-1][1], abs=1e-4)
    assert held_out_loss(folder, text_file) == pytest.approx(lowest, abs=2e-4)
    assert points[0][1] > lowest + 0.1, "it has learned"
    assert re.search(r"latency +[\d.]+ ms", done.out) and "hand-tuned" in done.out and "weights.safetensors" in done.out


def test_tokens_are_those_that_were_seen(train, in_tmp_path):
    """The last batch of 8 sequences is of what is left."""
    done = train("-o", "out", tokens=16 * 21 + 5)
    assert curve(in_tmp_path / "out")[-1][0] == 16 * 21 and "336 tokens" in done.out


@pytest.mark.parametrize(("of_run", "tokens"), [(131_072, 1_536_000), (8_388_608, 4 * 8_388_608), ("x", 1_536_000)])
def test_by_default_it_trains_longer_than_the_run_has(of_run, tokens):
    assert _tokens_for(Reference(SEED, "run:1", settings={"tokens": of_run})) == tokens
    assert _tokens_for(Reference(SEED, "file")) == 1_536_000


@pytest.mark.parametrize(("tokens", "held_out"), [(1024, 131_072), (20_000_000, 1_000_000)])
def test_what_is_held_out_takes_no_longer_than_the_training(train, monkeypatch, tokens, held_out):
    """Of a long text, all of it twenty times."""
    asked = []

    def instead(*args, validation_tokens, **options):
        asked.append(validation_tokens)
        raise DivergenceError("enough")

    monkeypatch.setattr("evonas.fitness.train.train", instead)
    train("-o", "out", tokens=tokens, code=1)
    assert asked == [held_out]


def interrupted_after(monkeypatch, evaluations: int, error: BaseException) -> None:
    """The next training meets ``error`` at the evaluation after so many."""

    def instead(*args, on_evaluation, **options):
        def stops(step, *about):
            if len(seen) == evaluations:
                raise error
            seen.append(step)
            on_evaluation(step, *about)

        seen = []
        monkeypatch.setattr("evonas.fitness.train.train", trained_in_full)
        return trained_in_full(*args, on_evaluation=stops, **options)

    monkeypatch.setattr("evonas.fitness.train.train", instead)
    monkeypatch.setattr("evonas.fitness.checkpoint._SPARED", 0)  # these trainings take no longer than writing them


@pytest.mark.parametrize("after", [0, 1])
def test_one_that_is_interrupted_says_what_is_kept(train, in_tmp_path, monkeypatch, after):
    before = files(in_tmp_path)
    interrupted_after(monkeypatch, after, KeyboardInterrupt())
    done = train("-o", "out", code=130)
    assert "interrupted before the training's end" in done.err
    assert (in_tmp_path / "out" / "weights.safetensors").exists() is bool(after)
    assert ("kept in out" in done.err and "The same command goes on with it" in done.err) is bool(after)
    assert after or files(in_tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EvonasError("the disk is full", exit_code=1)], ids=repr)
def test_the_same_command_goes_on(train, in_tmp_path, monkeypatch, error):
    whole = train("-o", "whole", "--seed", 5)
    for after in (3, 0, 9):
        interrupted_after(monkeypatch, after, error)
        train("-o", "out", "--seed", 5, code=130 if isinstance(error, KeyboardInterrupt) else 1)
    done = train("-o", "out", "--seed", 5)
    assert "Going on after step 24 of 40, from out" in done.err, "after 12 of 20 evaluations"
    assert printed(done) == printed(whole)
    whole_results, found = (results(in_tmp_path / name) for name in ("whole", "out"))
    assert found == whole_results, "the same weights, curve and genome, and nothing else"
    assert "out exists and is not empty" in train("-o", "out", "--seed", 5, code=2).sentence


def test_killed_at_any_time_it_goes_on(in_tmp_path, text_file, seed_file):
    """Three times, some time after some evaluations; the same files as of one that was never killed."""
    command = [*PYTHON_M, "train", str(seed_file), "--data", str(text_file)]
    command += ["--tokens", str(16 * 8 * 1000), "--device", "cpu", "--threads", "1", "-o"]
    subprocess.run([*command, "whole"], check=True, capture_output=True)
    rng, said = np.random.default_rng(0), ""
    kills = [int(lines) for lines in rng.integers(2, 7, 3)]  # after one it is written down; there are twenty
    while (in_tmp_path / "out" / "training.json").exists() or not (in_tmp_path / "out").exists():
        with subprocess.Popen([*command, "out"], stderr=subprocess.PIPE, text=True) as process:
            if kills:
                said += "".join(process.stderr.readline() for _ in range(kills.pop()))
                time.sleep(rng.uniform(0.0, 0.05))
                process.kill()
            said += process.stderr.read()
        assert process.returncode in (0, -signal.SIGKILL), said
    assert not kills and said.count("Going on after step") == 3
    assert results(in_tmp_path / "out") == results(in_tmp_path / "whole")


def leave_unfinished(train, monkeypatch) -> None:
    interrupted_after(monkeypatch, 5, KeyboardInterrupt())
    train("-o", "out", code=130)


@pytest.mark.parametrize(
    ("option", "value", "changed"),
    [
        ("--tokens", 4096, "tokens 5120 then, 4096 now"),
        ("--seed", 1, "seed 0 then, 1 now"),
        ("--context", 32, "context 16 then, 32 now"),
        ("--precision", "bfloat16", "precision float32 then, bfloat16 now"),
        ("--data", "another.txt", "data "),
    ],
)
def test_what_was_told_otherwise_does_not_go_on(train, in_tmp_path, monkeypatch, option, value, changed):
    (in_tmp_path / "another.txt").write_text("another text " * 2000)
    options = [] if option == "--precision" else ["--precision", "float32"]
    interrupted_after(monkeypatch, 5, KeyboardInterrupt())
    train("-o", "out", "--precision", "float32", code=130)
    before = files(in_tmp_path / "out")
    done = train("-o", "out", *options, option, value, code=2)
    assert "holds a training that was interrupted and was told otherwise" in done.sentence and changed in done.sentence
    assert "Tell it the same to go on" in done.sentence
    after = files(in_tmp_path / "out")
    assert {n: c for n, c in after.items() if n != "training.lock"} == {
        n: c for n, c in before.items() if n != "training.lock"
    }


def test_a_configuration_of_that_name_is_no_training(train, in_tmp_path):
    (in_tmp_path / "out").mkdir()
    (in_tmp_path / "out" / "training.json").write_text('{"epochs": 3}')
    before = files(in_tmp_path)
    assert "out exists and is not empty" in train("-o", "out", code=2).sentence
    assert files(in_tmp_path) == before


def test_two_do_not_train_in_one_folder(train, in_tmp_path, monkeypatch):
    leave_unfinished(train, monkeypatch)
    lock = WriterLock(in_tmp_path / "out" / "training.lock", "training")
    try:
        done = train("-o", "out", code=1)
    finally:
        lock.close()
    assert "training 'out' is being written by process" in done.sentence and "report" not in done.sentence
    assert "Going on after step 10" in train("-o", "out").err


@pytest.mark.parametrize("damage", ["cut", "removed", "of another seed"])
def test_what_can_not_be_gone_on_with_begins_anew(train, in_tmp_path, monkeypatch, damage):
    train("-o", "whole")
    leave_unfinished(train, monkeypatch)
    kept = in_tmp_path / "out" / "training.safetensors"
    content = kept.read_bytes()
    kept.unlink()
    if damage == "cut":
        kept.write_bytes(content[: len(content) // 2])
    elif damage == "of another seed":
        kept.write_bytes(content.replace(b'"seed":"0"', b'"seed":"1"'))
        assert kept.read_bytes() != content
    done = train("-o", "out")
    assert "Going on" not in done.err
    assert results(in_tmp_path / "out") == results(in_tmp_path / "whole")


def test_data_that_its_task_does_not_tell_apart_is_told_by_its_path(train, in_tmp_path, monkeypatch, text_file):
    monkeypatch.setattr("evonas.tasks.fingerprint", lambda task: None)
    leave_unfinished(train, monkeypatch)
    (in_tmp_path / "copy.txt").write_bytes(text_file.read_bytes())
    assert (
        f"data {text_file} then, {in_tmp_path / 'copy.txt'} now"
        in train("-o", "out", "--data", "copy.txt", code=2).sentence
    )
    assert "Going on" in train("-o", "out").err


def test_a_folder_that_was_removed_is_not_written_to(train, in_tmp_path, monkeypatch):
    """By what still trains for it, after another has begun there."""

    def instead(*args, on_step, **options):
        def taken(step):
            if step == 5:
                shutil.rmtree(in_tmp_path / "out")
                (in_tmp_path / "out").mkdir()
                (in_tmp_path / "out" / "training.json").write_text("another's")
            on_step(step)

        return trained_in_full(*args, on_step=taken, **options)

    monkeypatch.setattr("evonas.fitness.train.train", instead)
    assert "out is no longer this training's" in train("-o", "out", code=1).sentence
    assert files(in_tmp_path / "out") == {"training.json": b"another's"}


@pytest.mark.parametrize("name", ["training.lock", "training.partial", "curve.csv"])
def test_links_are_not_written_through(train, in_tmp_path, name):
    (in_tmp_path / "notes").write_text("mine")
    (in_tmp_path / "out").mkdir()
    (in_tmp_path / "out" / "training.lock").touch()
    (in_tmp_path / "out" / name).unlink(missing_ok=True)
    (in_tmp_path / "out" / name).symlink_to(in_tmp_path / "notes")
    assert "out exists and is not empty" in train("-o", "out", code=2).sentence
    assert (in_tmp_path / "notes").read_text() == "mine"


def test_what_a_kill_left_half_written_goes_with_the_next_start(train, in_tmp_path, monkeypatch):
    leave_unfinished(train, monkeypatch)
    (in_tmp_path / "out" / "training.77.partial").touch()
    interrupted_after(monkeypatch, 0, KeyboardInterrupt())
    train("-o", "out", code=130)
    assert not list((in_tmp_path / "out").glob("*.partial"))


def test_interrupted_as_it_ends_it_has_ended(train, in_tmp_path, monkeypatch):
    """After its last evaluation, when weights were taken away: it still has some to keep."""
    monkeypatch.setattr(
        "evonas.fitness.latency.forward_latency", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    monkeypatch.setattr("evonas.fitness.checkpoint._SPARED", 0)
    train("-o", "out", code=130)
    (in_tmp_path / "out" / "weights.safetensors").unlink()
    monkeypatch.undo()
    monkeypatch.chdir(in_tmp_path)
    lowest, last = printed(train("-o", "out"))
    assert lowest == last and (in_tmp_path / "out" / "weights.safetensors").is_file()


def test_weights_that_were_taken_away_are_not_said_to_be_kept(train, in_tmp_path, monkeypatch, text_file):
    """The best of what comes after is."""
    leave_unfinished(train, monkeypatch)
    (in_tmp_path / "out" / "weights.safetensors").unlink()
    lowest, _ = printed(train("-o", "out"))
    assert held_out_loss(in_tmp_path / "out", text_file) == pytest.approx(lowest, abs=2e-4)


@pytest.mark.parametrize("left", [("training.lock",), ("training.lock", "training.partial")])
def test_one_that_was_killed_at_once_is_in_nobodys_way(train, in_tmp_path, left):
    (in_tmp_path / "out").mkdir()
    for name in left:
        (in_tmp_path / "out" / name).touch()
    train("-o", "out", tokens=512)
    assert {p.name for p in (in_tmp_path / "out").iterdir()} == {"weights.safetensors", "genome.json", "curve.csv"}


@pytest.mark.parametrize("told", ["", "[]", "{", "[" * 70_000])
def test_a_folder_that_does_not_say_what_it_was_told_is_left_alone(train, in_tmp_path, monkeypatch, told):
    leave_unfinished(train, monkeypatch)
    (in_tmp_path / "out" / "training.json").write_text(told)
    before = files(in_tmp_path / "out")
    assert "out exists and is not empty" in train("-o", "out", code=2).sentence
    assert files(in_tmp_path / "out") | {"training.lock": b""} == before


def test_the_best_weights_are_kept_not_the_last(cli, in_tmp_path, seed_file):
    """What is learned of the text is wrong of its held-out end."""
    noise = np.random.default_rng(0).choice(list("abcdefgh"), 1000)
    (in_tmp_path / "turn.txt").write_text("abcdefgh" * 1000 + "".join(noise))
    done = cli("train", seed_file, "--data", "turn.txt", "--tokens", 16 * 8 * 60, "--device", "cpu", "-o", "out")
    points, (lowest, last) = curve(in_tmp_path / "out"), printed(done)
    assert points[-1][1] > min(loss for _, loss in points) + 0.5, "this training must not end at its best"
    assert last > lowest
    assert held_out_loss(in_tmp_path / "out", "turn.txt") == pytest.approx(lowest, abs=2e-4)


def test_the_file_says_what_it_is_of(train, in_tmp_path, text_file):
    train("-o", "out")
    with safe_open(in_tmp_path / "out" / "weights.safetensors", "pt") as file:
        about = file.metadata()
    assert about["genome"] == SEED.id and about["context"] == "16" and int(about["vocab_size"]) > 10
    text = load_task("text", str(text_file), 16)
    assert bytes.fromhex(about["vocabulary"]) == text.vocabulary and len(text.vocabulary) == text.vocab_size
    mode = (in_tmp_path / "out" / "weights.safetensors").stat().st_mode
    assert mode == (in_tmp_path / "out" / "genome.json").stat().st_mode, "as any file"


OWN_TASK = """
import numpy as np
from torch.nn.functional import cross_entropy

class Counting:
    name, vocab_size, vocabulary = "counting", 5, None
    def __init__(self, data, context):
        self.context = context
    def _rows(self, starts):
        tokens = (np.asarray(starts)[:, None] + np.arange(self.context + 1)) % 5
        return tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)
    def batch(self, rng, batch_size):
        return self._rows(rng.integers(0, 5, size=batch_size))
    def validation(self, tokens, batch_size):
        yield self._rows(range(5))
    def loss(self, logits, targets):
        return cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=1)
"""


def test_a_task_of_ones_own_from_the_working_folder(cli, in_tmp_path, seed_file):
    (in_tmp_path / "counting_task.py").write_text(OWN_TASK)
    options = ("--task", "counting_task:Counting", "--tokens", 16 * 8 * 100, "--device", "cpu", "-o", "out")
    done = cli("train", seed_file, *options)
    assert "12,800 tokens of counting_task:Counting, context 16" in done.out
    assert printed(done)[0] < 0.4, "a quarter of ln 5: it has learned to count"
    with safe_open(in_tmp_path / "out" / "weights.safetensors", "pt") as file:
        about, rows = file.metadata(), {file.get_tensor(name).shape[0] for name in file.keys() if "token" in name}
    assert about["vocab_size"] == "5" and "vocabulary" not in about, "its tokens stand for no bytes"
    assert rows == {5}


def test_a_genome_of_a_run_on_another_task(cli, in_copy):
    """What --task says counts, not the run's; nor is its data that task's."""
    (in_copy / "counting_task_of_a_run.py").write_text(OWN_TASK)
    best = Store.open("runs/first").front_ids()[0]
    options = ("--task", "counting_task_of_a_run:Counting", "--tokens", 512, "--device", "cpu", "-o", "out")
    assert "tokens of counting_task_of_a_run:Counting" in cli("train", f"first:{best[:8]}", *options).out
    with safe_open(in_copy / "out" / "weights.safetensors", "pt") as file:
        assert file.metadata()["vocab_size"] == "5"


def test_the_seed_decides(train, in_tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        train("-o", name, "--seed", seed, tokens=1024)
    train("-o", "default", tokens=1024)
    a, b, default = (curve(in_tmp_path / name) for name in ("a", "b", "default"))
    assert a != b and default not in (a, b)


def test_a_genome_of_a_run_brings_its_data_and_context(cli, in_copy, text_file):
    best = Store.open("runs/first").front_ids()[0]
    done = cli("train", f"first:{best[:8]}", "--tokens", 512, "--device", "cpu")
    (folder,) = (p for p in (in_copy / "runs").iterdir() if p.name != "first")
    assert folder.name == f"train-first-{best}" and f"first:{best}" in done.out and "context 16" in done.out
    assert read_genome(folder / "genome.json").genome.id == best
    assert held_out_loss(folder, text_file) == pytest.approx(printed(done)[0], abs=2e-4)
    assert "run first" in cli("report").out, "a training is no run"


def test_what_it_was_trained_on_is_said_and_where_that_is_not_the_runs(cli, in_copy, text_file, seed_file):
    """Losses on two texts do not compare."""
    how = ("--tokens", 256, "--context", 16, "--device", "cpu", "-o")
    (in_copy / "other.txt").write_bytes(text_file.read_bytes()[:-1])
    genome = f"first:{Store.open('runs/first').front_ids()[0]}"
    done = cli("train", seed_file, *how, "corpus")
    assert "256 tokens of text from embedded corpus (pydoc_data.topics), context 16" in done.out
    done = cli("train", genome, *how, "same", "--data", text_file)
    assert f"256 tokens of text from {text_file.name}, context 16" in done.out
    assert "the data is not what" not in done.err
    done = cli("train", genome, *how, "other", "--data", "other.txt")
    assert f"Note: the data is not what {genome} was found on" in done.err and "text from other.txt" in done.out


def test_muons_rate_is_taken_over_from_the_length_of_the_run(cli, in_copy):
    with Store.open("runs/first", write=True) as store:
        genome = SEED.replace(optimizer="muon", learning_rate=0.008)
        store.append(genome, Record(genome.id, 9, 0, "ok", {"loss": Measure(2.0)}))
    reference = ("train", f"first:{genome.id[:8]}", "--tokens", 4096, "--device", "cpu")
    note = "): learning rate 0.004 in place of 0.008, which was found for trainings of 1,024 tokens"
    assert note in " ".join(cli(*reference, "-o", "out").err.split())
    assert read_genome("out/genome.json").genome == genome.replace(learning_rate=0.004)
    assert "in place of" not in cli(*reference, "-o", "kept", "--rate-as-found").err
    assert read_genome("kept/genome.json").genome == genome
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], "tokens": "many"})
    assert "in place of" not in cli(*reference, "-o", "damaged").err


@pytest.mark.parametrize(
    ("optimizer", "tokens", "rate"),
    [("muon", 4096, 0.004), ("muon", 32, 0.032), ("adamw", 4096, 0.008)],
)
def test_a_genome_file_of_a_run_says_what_length_its_rate_is_for(cli, in_copy, text_file, optimizer, tokens, rate):
    with Store.open("runs/first", write=True) as store:
        genome = SEED.replace(optimizer=optimizer, learning_rate=0.008)
        store.append(genome, Record(genome.id, 9, 0, "ok", {"loss": Measure(2.0)}))
    cli("genome", "import", f"first:{genome.id[:8]}", "-o", "mine.json")
    printed = json.loads(cli("genome", "show", f"first:{genome.id[:8]}", "--json").out)
    length = 1024 if optimizer == "muon" else None  # of the run's trainings
    assert read_genome("mine.json").tokens == printed.get("tokens") == length
    cli("train", "mine.json", "--data", text_file, "--tokens", tokens, "--device", "cpu", "-o", "out")
    trained = read_genome("out/genome.json")
    assert trained.genome.learning_rate == pytest.approx(rate)
    assert trained.tokens == (length and max(tokens, 64)), "a sixteenth at least"
    cli("export", "out/genome.json", "-o", "exported")
    assert read_genome("exported/genome.json") == replace(trained, source=read_genome("exported/genome.json").source)


@pytest.mark.parametrize(
    ("rungs", "tokens", "rate"), [(1, 512, 0.011314), (1, 32, 0.016), (2, 32, 0.016), (3, 32, 0.032)]
)
def test_muons_rate_rises_no_higher_than_at_the_first_rung(cli, in_copy, rungs, tokens, rate):
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], "rungs": rungs})
        genome = SEED.replace(optimizer="muon", learning_rate=0.008)
        store.append(genome, Record(genome.id, 9, 0, "ok", {"loss": Measure(2.0)}))
    cli("train", f"first:{genome.id[:8]}", "--tokens", tokens, "--device", "cpu", "-o", "out")
    assert read_genome("out/genome.json").genome.learning_rate == pytest.approx(rate, rel=1e-3)


def test_a_folder_with_something_in_it_is_refused_and_left_alone(train, in_tmp_path):
    (in_tmp_path / "out").mkdir()
    (in_tmp_path / "out" / "mine").write_text("mine")
    assert "out exists and is not empty" in train("-o", "out", code=2).sentence
    assert files(in_tmp_path) == {"out": None, "out/mine": b"mine"}


def test_an_empty_folder_will_do(train, in_tmp_path):
    (in_tmp_path / "out").mkdir()
    train("-o", "out", tokens=256)
    assert (in_tmp_path / "out" / "weights.safetensors").is_file()


@pytest.mark.parametrize("context", [0, 1])
def test_a_context_too_short(train, in_tmp_path, context):
    assert "--context" in train("--context", context, "-o", "out", code=2).sentence
    assert not files(in_tmp_path)


def test_a_context_too_long_for_the_text(train, in_tmp_path):
    assert "too few" in train("--context", 5000, "-o", "out", code=2).sentence
    assert not files(in_tmp_path)


def test_a_divergence_fails_and_leaves_nothing(cli, in_tmp_path, text_file, seed_file):
    write_genome("hot.json", SEED.replace(learning_rate=10.0, schedule="constant", warmup=0), name="hot", context=16)
    before = files(in_tmp_path)
    done = cli("train", "hot.json", "--data", text_file, "--tokens", 10**6, "--device", "cpu", "-o", "out", code=1)
    assert "the training diverged" in done.sentence and "Lower learning_rate" in done.sentence
    assert files(in_tmp_path) == before


@pytest.mark.parametrize(("loss", "kept"), [(0.5, True), (50.0, False)])
def test_a_late_divergence_keeps_weights_only_where_they_are_worth_it(train, in_tmp_path, monkeypatch, loss, kept):
    def diverge(genome, task, tokens, *, on_evaluation, **_):
        on_evaluation(1, 20, loss, 0.1, build(genome, task.vocab_size, task.context))
        raise DivergenceError("loss rose from 3 to 9 at step 2")

    monkeypatch.setattr("evonas.fitness.train.train", diverge)
    done = train("-o", "out", code=1)
    assert "the training diverged" in done.sentence and ("are kept in out" in done.sentence) == kept
    assert (in_tmp_path / "out").exists() == kept
    monkeypatch.undo()


def test_it_trains_on_the_threads_asked_for(train, monkeypatch):
    seen = []

    def instead(*args, **options):
        seen.append(torch.get_num_threads())
        return trained_in_full(*args, **options)

    monkeypatch.setattr("evonas.fitness.train.train", instead)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        train("-o", "default", tokens=256)
        train("--threads", 3, "-o", "three", tokens=256)
        assert seen == [1, 3] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_threads_may_be_set_and_waiting_for_cores_is_said_once(train, monkeypatch):
    module = importlib.import_module("evonas.cli.train")

    before = torch.get_num_threads()
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", lambda n: seen.append(n))
    train("--threads", 1)
    assert 1 in seen and torch.get_num_threads() == before

    class Clock:
        wall = own = 0.0

        def perf_counter(self):
            return self.wall

        def process_time(self):
            return self.own

    monkeypatch.setattr(module, "time", clock := Clock())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    said = []
    monkeypatch.setattr(module.click, "echo", lambda text, err=False: said.append(text))
    waiting = module._Waiting("cpu")
    for wall, own in ((4.0, 4.0), (6.0, 7.0), (9.0, 8.0)):
        clock.wall, clock.own = wall, own
        waiting.look()
    assert len(said) == 1 and "--threads 1" in said[0]
    clock.wall = clock.own = 0.0
    busy, gpu = module._Waiting("cpu"), module._Waiting("cuda")
    clock.wall, clock.own = 6.0, 20.0
    busy.look()
    clock.own = 1.0
    busy.look(), gpu.look()
    assert len(said) == 1
