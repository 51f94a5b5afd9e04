"""The one exception a user sees."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import pytest

from evonas.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, EvonasError, did_you_mean
from evonas.genome import read_genome, write_genome


def test_exit_codes_are_the_contract():
    assert (EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED) == (0, 1, 2, 130)


def test_message_and_hint():
    error = EvonasError("d_model is 3; allowed: 8 to 65536", "Write d_model = 8.")
    assert str(error) == "d_model is 3; allowed: 8 to 65536\nWrite d_model = 8."
    assert (error.message, error.hint, error.exit_code) == (*str(error).split("\n"), EXIT_USAGE)
    assert str(EvonasError("bare")) == "bare" and EvonasError("bare").hint == ""
    with pytest.raises(TypeError):
        EvonasError("a", "b", 1)  # the exit code is named


def test_an_error_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(EvonasError("m", "h", exit_code=EXIT_FAILED)))
    assert type(error) is EvonasError
    assert (error.message, error.hint, error.exit_code, str(error)) == ("m", "h", EXIT_FAILED, "m\nh")


@pytest.mark.parametrize(
    "name, hint",
    [
        ("latancy", "Did you mean 'latency'?"),
        ("latency", "Did you mean 'latency'?"),
        ("zzz", "Allowed: latency, loss."),
        ("", "Allowed: latency, loss."),
        (5, "Allowed: latency, loss."),
        (None, "Allowed: latency, loss."),
    ],
)
def test_hints_name_the_nearest_or_all(name, hint):
    assert did_you_mean(name, iter(["loss", "latency"])) == hint


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "full"), 1),
        (OSError(errno.ENOENT, "no folder"), 2),
        (OSError(errno.EACCES, "not ours"), 2),
    ],
)
def test_a_full_disk_is_no_wrong_usage(tmp_path, monkeypatch, error, code):
    def fail(*_):
        raise error

    monkeypatch.setattr(Path, "write_bytes", fail)
    genome = read_genome("nanogpt-cpu").genome
    with pytest.raises(EvonasError, match="can't be written") as caught:
        write_genome(tmp_path / "g.json", genome)
    assert caught.value.exit_code == code
