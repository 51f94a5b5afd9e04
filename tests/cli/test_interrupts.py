"""An interrupt that Python swallows is raised again, and not reported as a fault."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from evonas.cli.running import interrupts


class Finalised:
    def __init__(self, then) -> None:
        self._then = then

    def __del__(self) -> None:
        self._then()


def fail() -> None:
    raise ValueError("in a finaliser")


def test_what_comes_in_a_finaliser_is_raised_again_and_not_reported(capsys):
    hook = sys.unraisablehook
    with interrupts() as check:
        check()
        Finalised(lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert capsys.readouterr().err == ""
        with pytest.raises(KeyboardInterrupt):
            check()
    assert sys.unraisablehook is hook


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_faults_in_a_finaliser_are_reported_as_ever(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    with interrupts():
        Finalised(fail)
    assert [type(r.exc_value) for r in reported] == [ValueError]
