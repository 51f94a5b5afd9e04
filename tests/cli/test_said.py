"""What the commands say to who has not read the README."""

from __future__ import annotations


def test_a_seed_that_breaks_a_constraint_is_told_of_with_the_cure(cli, in_tmp_path, small, seed_file):
    options = ("--objective", "loss", "--objective", "flops", "--constraint", "flops<=1e5", "--generations", 1)
    done = cli("evolve", *small, "--seed-genome", seed_file, "--widen", *options, "--executor", "serial", code=(0, 1))
    said = " ".join(done.err.split())
    assert "nothing with it. To be compared with it, set the constraint no lower than" in said and "--goal." in said
