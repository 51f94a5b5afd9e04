"""The settings of a run: frozen, and read back strictly."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.config import DEVICE_DEFAULTS, Settings, parse_duration
from evonas.errors import EvonasError
from evonas.genome import read_space

VALUES = {
    "task": "text", "data": None, "context": 64, "objectives": ("loss", "latency"), "constraints": ("latency<=5ms",),
    "population": 12, "offspring": 4, "generations": 5, "seed": 0, "device": "cpu", "tokens": 4096,
    "validation_tokens": 2048, "seeds": ({"label": "a", "genes": {"n_layers": 2}},), "timeout": 30.0,
}  # fmt: skip


def test_round_trip_through_json_is_lossless():
    made = Settings(**VALUES)
    assert Settings.from_dict(made.to_dict()) == made
    assert Settings.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings(**VALUES).seed = 1


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"population": 1}, "population is 1; it takes a whole number from 2"),
        ({"population": 10**6}, "population is 1000000"),
        ({"population": 12.0}, "population is 12.0"),
        ({"population": True}, "population is True"),
        ({"population": "12"}, "population is '12'"),
        ({"population": None}, "population is None"),
        ({"offspring": -1}, "offspring is -1"),
        ({"initial": -1}, "initial is -1"),
        ({"reduction": 1}, "reduction is 1"),
        ({"generations": 0}, "generations is 0"),
        ({"context": 1}, "context is 1"),
        ({"context": 2**30}, "context is"),
        ({"tokens": 63}, "tokens is 63; it takes a whole number from 64"),
        ({"validation_tokens": 63}, "validation tokens is 63"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
        ({"objectives": ()}, "at least one"),
        ({"objectives": ("loss", "loss")}, "each once"),
        ({"task": 5}, "the setting 'task' is not a text"),
        ({"data": 5}, "the setting 'data' is not a text"),
        ({"constraints": (5,)}, "the setting 'constraints' is not a list of texts"),
        ({"reuse": 5}, "the setting 'reuse' is not a list of texts"),
        ({"seeds": (5,)}, "the setting 'seeds' is not a list of labels with genes"),
        ({"seeds": ({"label": "a"},)}, "the setting 'seeds' is not a list of labels with genes"),
        ({"timeout": "5"}, "the setting 'timeout' is not a number of seconds"),
        ({"scaled_rates": 1}, "the setting 'scaled_rates' is not true or false"),
        ({"sparing_muon": None}, "the setting 'sparing_muon' is not true or false"),
        ({"seeds": ({"label": "", "genes": {}},) * 13}, "13 seed genomes do not fit a population of 12"),
        ({"timeout": 0}, "timeout 0"),
        ({"timeout": -1.0}, "timeout -1"),
        ({"timeout": float("nan")}, "timeout nan"),
        ({"timeout": float("inf")}, "timeout inf"),
        ({"budget": "5"}, "the setting 'budget' is not a number of seconds"),
        ({"budget": 0}, "budget 0"),
        ({"budget": float("nan")}, "budget nan"),
        ({"budget": 10**400}, "budget 1000"),
        ({"calibrate": -(10**400)}, "calibrate -1000"),
        ({"patience": 0}, "patience is 0"),
        ({"patience": 2.5}, "patience is 2.5"),
        ({"calibrate": "5%"}, "the setting 'calibrate' is not a number"),
        ({"calibrate": 1.0}, "calibrate 1"),
        ({"calibrate": float("nan")}, "calibrate nan"),
    ],
)
def test_values_out_of_range_are_refused(changes, words):
    with pytest.raises(EvonasError) as caught:
        Settings(**{**VALUES, **changes})
    assert words in caught.value.message


def test_the_cure_for_too_many_seeds_works():
    with pytest.raises(EvonasError) as caught:
        Settings(**{**VALUES, "seeds": ({"label": "", "genes": {}},) * 13})
    assert caught.value.hint == "Write --population 26."
    assert Settings(**{**VALUES, "seeds": ({"label": "", "genes": {}},) * 13, "population": 26}).population == 26


def test_unknown_and_missing_keys_are_named():
    data = Settings(**VALUES).to_dict()
    with pytest.raises(EvonasError, match="unknown setting 'popluation'") as caught:
        Settings.from_dict({**data, "popluation": 12})
    assert "'population'" in caught.value.hint
    del data["tokens"]
    with pytest.raises(EvonasError, match="'tokens'"):
        Settings.from_dict(data)


@pytest.mark.parametrize("device", sorted(DEVICE_DEFAULTS))
def test_the_defaults_of_a_device_are_settings(device):
    defaults = dict(DEVICE_DEFAULTS[device])
    space = read_space(defaults.pop("space")).bounded(defaults["context"])
    assert space.kind == "transformer"
    made = Settings(**{**VALUES, **defaults, "device": device})
    assert made.tokens >= made.context * 12


# -- durations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, seconds",
    [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172800), (" 10M ", 600), ("1e2s", 100), (".5m", 30)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "10", "ten minutes", "10w", "1h30m", "-5m", "0s", "nanm", "infh", "1e400d", "11000d", "5 5m"],
)
def test_wrong_durations_are_refused_with_what_was_given(text):
    with pytest.raises(EvonasError) as caught:
        parse_duration(text)
    assert repr(text) in caught.value.message


@settings(deadline=None, derandomize=True)
@given(st.text(max_size=8))
def test_any_text_is_a_duration_or_refused(text):
    try:
        assert 0 < parse_duration(text) < 10 * 365 * 86400
    except EvonasError as error:
        assert error.message
