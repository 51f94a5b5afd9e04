"""What the commands say to who has not read the README."""

from __future__ import annotations

import re

from evonas.fitness import device_text


def test_a_seed_that_breaks_a_constraint_is_told_of_with_the_cure(cli, in_tmp_path, small, seed_file):
    options = ("--objective", "loss", "--objective", "flops", "--constraint", "flops<=1e5", "--generations", 1)
    done = cli("evolve", *small, "--seed-genome", seed_file, "--widen", *options, "--executor", "serial", code=(0, 1))
    said = " ".join(done.err.split())
    assert "nothing with it. To be compared with it, set the constraint no lower than" in said and "--goal." in said


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
