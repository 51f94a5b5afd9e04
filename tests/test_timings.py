"""What several measurements say: the machine's state taken out, disturbances survived, errors that hold."""

from __future__ import annotations

import numpy as np
import pytest

from evonas.record import MEASURED_AGAIN, Measure, Record, besides_measurements
from evonas.search.timings import Timings


def record(name: str, value: float, spread: float = 0.001, **provenance) -> Record:
    measures = {"loss": Measure(2.0, 0.1, "9 tokens"), "latency": Measure(value, spread, "measured", "cpu")}
    return Record(name, 0, 0, "ok", measures, cost={"seconds": 1.0}, provenance=provenance)


def measured(values: dict[str, float]) -> dict[str, dict[str, Measure]]:
    return {name: {"latency": Measure(value, 0.001, "measured", "cpu")} for name, value in values.items()}


def drawn(seed: int, n: int = 10, rounds: int = 4, drift: float = 0.05, noise: float = 0.01):
    """(true times, records after ``rounds``): single ones are off by ``noise``, those of a round by ``drift`` too."""
    rng = np.random.default_rng(seed)
    truth = {f"a{k}": 0.1 * 1.3**k for k in range(n)}
    records = {a: record(a, t * (1 + noise * rng.standard_normal())) for a, t in truth.items()}
    timings = Timings(list(records.items()), ["latency"])
    for _ in range(rounds):
        state = 1 + drift * rng.standard_normal()
        timings.add(measured({a: t * state * (1 + noise * rng.standard_normal()) for a, t in truth.items()}))
    return truth, {a: timings.revised(a, r) for a, r in records.items()}


def test_what_a_round_has_in_common_is_the_machines_and_errors_are_what_they_say():
    off = []
    for seed in range(40):
        truth, records = drawn(seed)
        latencies = {a: r.measures["latency"] for a, r in records.items()}
        scale = np.median([m.value / truth[a] for a, m in latencies.items()])
        assert scale == pytest.approx(1, abs=0.02)  # that of the first ones, as if nothing had drifted
        off += [(m.value / scale - truth[a]) / m.spread for a, m in latencies.items()]
        assert all(0.002 < m.spread / m.value < 0.015 for m in latencies.values())
    assert np.mean(np.abs(off) > 1) < 0.45 and np.mean(np.abs(off) > 2) < 0.12


def test_a_few_alone_do_not_say_how_fast_the_machine_is():
    records = {"a": record("a", 1.0), "b": record("b", 1.0)}
    timings = Timings(list(records.items()), ["latency"])
    timings.add(measured({"a": 1.5, "b": 1.5}))
    assert timings.revised("a", records["a"]).measures["latency"].value == pytest.approx(1.25)


def test_what_was_chosen_for_its_times_does_not_say_how_fast_the_machine_is():
    """Five of ten are on a front as they seemed 10% faster than they are; the machine is 20% slower now."""
    truth = {f"a{k}": 1.0 + k for k in range(10)}
    lucky = {f"a{k}" for k in range(0, 10, 2)}
    records = {a: record(a, t * (0.9 if a in lucky else 1.0)) for a, t in truth.items()}
    timings = Timings(list(records.items()), ["latency"])
    timings.add(measured({a: 1.2 * t for a, t in truth.items()}), lucky)
    for a, t in truth.items():
        value = timings.revised(a, records[a]).measures["latency"].value
        assert value == pytest.approx(0.95 * t if a in lucky else t)  # between what it seemed and what it is


def test_a_single_measurement_is_weighed_by_how_far_single_ones_lie_apart():
    """Of ten six are measured again, 5% off now and then: the others are known no better than by one of these."""
    records = {f"a{k}": record(f"a{k}", 1.0 + k) for k in range(10)}
    timings = Timings(list(records.items()), ["latency"])
    assert timings.weighed("a9", records["a9"]) is records["a9"]
    for off in (1, -1, 1):
        timings.add(measured({f"a{k}": (1.0 + k) * (1 + 0.05 * off * (-1) ** k) for k in range(6)}))
    single, many = (timings.weighed(a, records[a]).measures["latency"] for a in ("a9", "a4"))
    assert single.value == 10.0 and single.spread > 0.03 * 10.0
    assert many == timings.revised("a4", records["a4"]).measures["latency"] and many.spread / 5.0 < single.spread / 10.0
    assert timings.revised("a9", records["a9"]) is records["a9"], "it is not stored so"


def test_a_mean_of_several_weighs_as_many():
    """As runs of earlier versions have it, without what each of them gave; how far they lay apart, nobody knows."""
    old = record("a", 1.0, times_measured=4)
    others = {f"a{k}": record(f"a{k}", 1.0) for k in range(4)}
    timings = Timings([("a", old), *others.items()], ["latency"])
    timings.add(measured({"a": 1.5, "a0": 1.1, "a1": 1.1, "a2": 0.9, "a3": 0.9}), {"a"})
    new = timings.revised("a", old)
    assert new.times_measured == 5 and new.measures["latency"].value == 1.0
    assert new.measures["latency"].spread == pytest.approx(1.4826 * 0.1 / 0.95 / 2**0.5 * 1.2533 / 5**0.5, rel=0.01)
    # What is stored of it is taken for measurements no more than it was.
    again = Timings([("a", new), *others.items()], ["latency"])
    again.add(measured({"a": 1.1, "a0": 1.1, "a1": 1.1, "a2": 0.9, "a3": 0.9}), {"a"})
    assert again.revised("a", new).measures["latency"].spread > 0.9 * 0.1 / 6**0.5
    huge = record("a", 1.0, times_measured=10**12)
    assert Timings([("a", huge)], ["latency"]).revised("a", huge) is huge


def test_one_disturbed_measurement_poisons_nothing():
    records = {f"a{k}": record(f"a{k}", 1.0 + k, 0.5 if k == 3 else 0.001) for k in range(8)}
    timings = Timings(list(records.items()), ["latency"])
    for turn in range(3):
        timings.add(
            measured({f"a{k}": (1 + k) * (1.002 - 0.001 * turn) * (2 if (k, turn) == (2, 1) else 1) for k in range(8)})
        )
    for k in (2, 3):
        latency = timings.revised(f"a{k}", records[f"a{k}"]).measures["latency"]
        assert latency.value == pytest.approx(1 + k, rel=0.01) and latency.spread < 0.01 * latency.value


def test_a_record_takes_what_is_new_and_goes_on_from_it():
    old = record("a", 1.0, versions="x")
    timings = Timings([("a", old)], ["latency"])
    assert timings.revised("a", old) is old
    timings.add(measured({"a": 1.2, "never seen": 5.0}))
    new = timings.revised("a", old)
    assert (new.reason, new.cost, new.times_measured) == (MEASURED_AGAIN, {}, 2)
    assert new.singles("latency") == [1.0, 1.2] and new.measures["loss"] == old.measures["loss"]
    assert besides_measurements(new.provenance) == {"versions": "x"}
    timings = Timings([("a", new)], ["latency"])
    timings.add(measured({"a": 1.1}))
    again = timings.revised("a", new)
    assert again.singles("latency") == [1.0, 1.2, 1.1] and again.measures["latency"].value == 1.1


@pytest.mark.parametrize("text", ["1.0 x", 5, "nan 1", "1e999"])
def test_singles_that_are_nonsense_are_none(text):
    damaged = record("a", 3.0, **{"singles latency": text})
    assert damaged.singles("latency") == []
    timings = Timings([("a", damaged)], ["latency"])
    timings.add(measured({"a": 3.2}))
    assert timings.revised("a", damaged).singles("latency") == [3.0, 3.2]


def test_what_is_no_number_spoils_nothing():
    records = {f"a{k}": record(f"a{k}", 1.0 + k) for k in range(5)}
    timings = Timings(list(records.items()), ["latency"])
    timings.add(measured({**{a: r.measures["latency"].value * 1.5 for a, r in records.items()}, "a0": float("nan")}))
    assert timings.revised("a0", records["a0"]) is records["a0"]
    assert timings.revised("a1", records["a1"]).measures["latency"].value == pytest.approx(2.0)


def test_exact_values_stay_exact():
    old = record("a", 12.345678, 0.0)
    timings = Timings([("a", old)], ["latency"])
    timings.add(measured({"a": 12.345678}))
    timings = Timings([("a", new := timings.revised("a", old))], ["latency"])
    timings.add(measured({"a": 12.345678}))
    again = timings.revised("a", new).measures["latency"]
    assert (again.value, again.spread) == (12.345678, 0.0)


def test_zeros_and_architectures_without_a_value_are_left_alone():
    nothing = Record("b", 0, 1, "ok", {"loss": Measure(1.0)})
    records = {f"a{k}": record(f"a{k}", 0.0, 0.0) for k in range(5)}
    timings = Timings([*records.items(), ("b", nothing)], ["latency"])
    timings.add(measured({**dict.fromkeys(records, 0.0), "b": 1.0}))
    found = timings.revised("a0", records["a0"]).measures["latency"]
    assert (found.value, found.spread) == (0.0, 0.0) and timings.revised("b", nothing) is nothing
