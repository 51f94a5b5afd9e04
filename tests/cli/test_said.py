"""What the commands say to who has not read the README."""

from __future__ import annotations

import re
import shlex

import pytest

from evonas.cli.options import Tokens
from evonas.config import DEVICE_DEFAULTS, GROWTH
from evonas.executors.serial import SerialExecutor
from evonas.fitness import ProxyEvaluator, device_text
from evonas.fitness.schedule import steps_of
from evonas.genome import read_space
from evonas.store import Store


def test_a_seed_that_breaks_a_constraint_is_told_of_with_the_cure(cli, in_tmp_path, small, seed_file):
    options = ("--objective", "loss", "--objective", "flops", "--constraint", "flops<=1e5", "--generations", 1)
    done = cli("evolve", *small, "--seed-genome", seed_file, "--widen", *options, "--executor", "serial", code=(0, 1))
    said = " ".join(done.err.split())
    assert "nothing with it. To be compared with it, loosen the constraint until" in said and "--goal." in said


def test_the_latency_of_a_training_says_what_it_is(cli, in_tmp_path, text_file, seed_file):
    done = cli("train", seed_file, "--data", text_file, "--tokens", 256, "--device", "cpu")
    how = f"one forward pass of 16 tokens, batch 1, float32, one thread of {device_text('cpu')}\n"
    assert re.search(r"^latency  [\d.]+ ms \+- [\d.]+, ", done.out, re.MULTILINE) and how in done.out


def test_the_front_ends_with_whom_to_train(finished):
    assert re.search(r"evonas train first:[0-9a-f]{6} +train in full: (the most|as) accurate", finished[1].out)


def test_who_has_trained_elsewhere_is_told_how_to_export_that(cli, in_tmp_path):
    said = cli("export", "nanogpt-cpu", code=2).sentence
    assert "Trained with -o DIR? Add --weights DIR/weights.safetensors." in said and "add --untrained" in said


def test_what_is_to_be_left_out_is_named(cli, in_tmp_path):
    assert "Leave out --vocab." in cli("export", "nanogpt-cpu", "--vocab", 8, code=2).sentence
    assert "Leave out --context." in cli("export", "nanogpt-cpu", "--context", 8, code=2).sentence


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1536000", 1536000),
        ("500k", 500_000),
        ("10M", 10**7),
        ("1.536m", 1536000),
        ("2G", 2 * 10**9),
        ("10_000", 10**4),
    ],
)
def test_tokens_may_be_counted_in_thousands_and_millions(text, tokens):
    assert Tokens().convert(text, None, None) == Tokens(10**11).convert(text, None, None) == tokens


@pytest.mark.parametrize("text", ["", "M", "1.0005k", "0.5", "1,5M", "ten", "1e6", "nan", "9" * 5000])
def test_what_is_no_number_of_tokens_is_told_what_is(cli, in_tmp_path, text):
    for command in (("evolve",), ("train", "nanogpt-cpu")):
        said = " ".join(cli(*command, "--device", "cpu", f"--tokens={text}", code=2).err.split())
        assert "is not a number of tokens, such as 1536000, 500k, 1.5M or 2G." in said


@pytest.mark.parametrize("text", ["0", "-1", "101G"])
def test_a_training_is_of_so_many_tokens(cli, in_tmp_path, text):
    said = " ".join(cli("train", "nanogpt-cpu", "--device", "cpu", f"--tokens={text}", code=2).err.split())
    assert "is not in the range from 1 to 100,000,000,000" in said


def test_a_search_and_a_training_take_them(cli, in_tmp_path, small, text_file, seed_file):
    options = ("--objective", "loss", "--objective", "flops", "--generations", 1, "--tokens", "1k", "--run", "run")
    cli("evolve", *small, *options, "--executor", "serial")
    assert Store.open("runs/run").header["settings"]["tokens"] == 1000
    done = cli("train", seed_file, "--data", text_file, "--tokens", "0.256k", "--device", "cpu")
    assert ": 256 tokens of text" in done.out


def test_helps_name_what_they_mean(cli):
    said = {
        name: " ".join(cli(name, "-h").out.split()) for name in ("evolve", "train", "calibrate", "report", "export")
    }
    for words in (
        "--seed-genome GENOME", "Default: 131,072; 8,388,608 on a GPU.", "batch 1, float32", "last tenth is held out",
    ):  # fmt: skip
        assert words in said["evolve"]
    assert "Default: rescale Muon's to this training's length (x sqrt(old tokens / new tokens))." in said["train"]
    assert "0: none" in said["calibrate"] and ".png, .svg or .pdf" in said["report"]
    for name in ("train", "export"):
        assert "ID is any unambiguous start of an id that 'evonas report RUN' shows" in said[name]


def test_the_spaces_offer_no_batch_that_the_first_rung_sees_for_a_few_steps_only():
    for device, fewest in (("cpu", 32), ("cuda", 32)):
        defaults = DEVICE_DEFAULTS[device]
        first = defaults["tokens"] // GROWTH ** (defaults["rungs"] - 1)
        largest = max(read_space(defaults["space"]).genes["batch_size"].options)
        assert steps_of(largest, defaults["context"], first) >= fewest, device


@pytest.mark.parametrize(("trained", "kept"), [(0, "no trainings are"), (1, "1 training is"), (2, "2 trainings are")])
def test_an_interrupted_calibration_says_what_is_kept_and_how_to_go_on(cli, in_copy, monkeypatch, trained, kept):
    train, done = ProxyEvaluator.train, []

    def interrupted(evaluator, genome, rung=0):
        if len(done) == trained:
            raise KeyboardInterrupt
        done.append(genome)
        return train(evaluator, genome, rung)

    monkeypatch.setattr("evonas.executors.make_executor", lambda name, target, *rest: SerialExecutor(target))
    monkeypatch.setattr(ProxyEvaluator, "train", interrupted)
    said = cli("calibrate", "--genomes", 4, "--factor", "1.5", "--workers", 1, code=130).err
    again = "evonas calibrate first --genomes 4 --factor 1.5 --workers 1"
    assert said.endswith(f"\nInterrupted; {kept} kept. Go on with: {again}\n")
    monkeypatch.undo()
    monkeypatch.chdir(in_copy)
    more = cli(*again.split()[1:]).err.splitlines()
    assert sum(line.startswith("calibrating: ") for line in more) == 4 - trained


def test_the_command_that_goes_on_names_a_run_as_it_is_typed():
    from evonas.cli.calibrate import _again, calibrate

    with calibrate.make_context("calibrate", ["/data/my runs/a", "--data", "my text", "--factor", "2"]):
        words = shlex.split(_again(shlex.quote("/data/my runs/a")))
    assert words == ["evonas", "calibrate", "/data/my runs/a", "--factor", "2.0", "--data", "my text"]


def test_commands_to_copy_are_whole_however_narrow_the_terminal_is(cli, in_tmp_path, small, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    name = "a-name-that-is-longer-than-most"
    options = ("--objective", "loss", "--objective", "flops", "--executor", "serial", "--run", name)
    said = cli("evolve", *small, *options, "--generations", 1)
    assert f"  evonas report {name} --html {name}.html  " in said.out and "…" not in said.out.partition("Next:")[2]
