"""Timing and memory: what is measured, what it is compared with, and that it leaves no trace."""

from __future__ import annotations

import gc
import math

import pytest
import torch

from evonas.fitness import device_text, latency
from evonas.fitness.latency import LiveTensors, decode_latency, forward_latency, forward_memory
from evonas.fitness.latency import _timed as timed
from evonas.fitness.train import Training
from evonas.model import build

BRIEF = 0.001  # seconds of repeats; at least 20 are made


@pytest.fixture
def model(genome):
    """model(vocab=20, context=32, **changes) of the small genome."""

    def make(vocab=20, context=32, **changes):
        return build(genome(**changes), vocab, context, generator=torch.Generator().manual_seed(0)).eval()

    return make


VARIANTS = [
    {"position": "learned", "norm": "layernorm"},
    {"window": 8},
    {"window": [8, None], "n_kv_heads": 1},
    {"kv_rank": 4},
    {"conv_width": 4},
    {"block_conv_width": 3, "window": 8},
    {"kv_rank": [4, None], "window": [None, 16], "position": "learned"},
]


# -- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [forward_latency, decode_latency])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_time_is_positive_and_finite_with_its_spread(model, measure, changes):
    found = measure(model(**changes), "cpu", BRIEF)
    assert 0 < found.value < math.inf and 0 <= found.spread < math.inf
    assert (found.fidelity, found.device) == ("measured", device_text("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("measure", [forward_latency, decode_latency])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_pass_is_captured_on_a_gpu_and_trainings_work_after_it(model, genome, task, measure, changes, monkeypatch):
    replays, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replays.append(1) or replay(graph))
    found = measure(model(**changes).cuda(), "cuda", BRIEF)
    assert 0 < found.value < math.inf and len(replays) > 20
    training = Training(genome(dropout=0.1, **changes), task, seed=0, device="cuda")
    training.run(16 * 8 * 12)
    assert training.step.graphed is True and training.validate(160)[0] < 10


@pytest.mark.parametrize("measure", [forward_latency, decode_latency])
def test_a_context_of_one_token_can_be_timed(model, measure):
    assert measure(model(context=1), "cpu", BRIEF).value > 0


class Clock:
    """Stands for the module ``time``: only what runs on it takes time."""

    def __init__(self) -> None:
        self.now = 0
        self.elsewhere = 0  # nanoseconds in which another process had the CPU

    def perf_counter(self) -> float:
        return self.now / 1e9

    def perf_counter_ns(self) -> int:
        return self.now

    def thread_time_ns(self) -> int:
        return self.now - self.elsewhere


def test_the_median_and_half_the_interquartile_range_are_of_the_repeats(monkeypatch):
    clock, warm_up, repeats = Clock(), [30], list(range(20, 0, -1))
    monkeypatch.setattr(latency, "time", clock)

    def call():
        clock.now += 1_000_000 * (warm_up or repeats).pop()

    found = timed(call, "cpu", 0.0)
    assert not repeats, "twenty repeats of 1 to 20 ms"
    assert found.value == pytest.approx(10.5) and found.spread == pytest.approx((15.25 - 5.75) / 2)


def disturbed(monkeypatch, every: int, seconds: float):
    """A millisecond of work per call, and 9 more elsewhere in one call of ``every``: (what was measured, calls)."""
    clock, calls = Clock(), []
    monkeypatch.setattr(latency, "time", clock)

    def call():
        calls.append(None)
        wait = 9_000_000 if len(calls) % every == 0 else 0
        clock.elsewhere += wait
        clock.now += 1_000_000 + wait

    return timed(call, "cpu", seconds), len(calls)


def test_repeats_in_which_others_had_the_cpu_are_left_out_and_made_up_for(monkeypatch):
    for every in (2, 3, 7):
        found, _ = disturbed(monkeypatch, every, 0.1)
        assert found.value == 1.0 and found.spread == 0.0


@pytest.mark.parametrize("every", [2, 8])
def test_so_are_those_of_a_slow_network_and_a_few_undisturbed_say_more_than_all(monkeypatch, every):
    """Passes of 30 ms: the fewest repeats take all the seconds that there is patience for. All repeats but one in
    ``every`` take as long again for what others do."""
    clock, calls = Clock(), []
    monkeypatch.setattr(latency, "time", clock)

    def call():
        calls.append(None)
        wait = 30_000_000 if len(calls) % every else 0
        clock.elsewhere += wait
        clock.now += 30_000_000 + wait

    found = timed(call, "cpu", 0.05)
    assert found.value == 30.0 and found.spread == 0.0
    assert clock.now / 1e9 <= latency.PATIENCE * 20 * 0.03 + 0.2


def test_a_very_slow_network_is_not_waited_for_until_its_measurement_is_killed(monkeypatch):
    """Passes of 10 s that always take as long again for what others do: the first 20 take 400 s of 900."""
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)

    def call():
        clock.elsewhere += 10_000_000_000
        clock.now += 20_000_000_000

    assert timed(call, "cpu", 0.05).value == 20_000.0
    assert clock.now / 1e9 <= 20 * 20 + 60


def test_where_others_always_have_the_cpu_all_repeats_count(monkeypatch):
    found, calls = disturbed(monkeypatch, 1, 0.5)
    assert found.value == 10.0 and 20 <= calls <= 5 + 0.5 * latency.PATIENCE * 100


@pytest.mark.parametrize(("captured", "warm_up"), [(0.1, 0.02), (1.0, 0.2)])
def test_a_gpu_that_was_idle_while_a_pass_was_captured_is_warmed_up_anew(monkeypatch, captured, warm_up):
    """Calls of 15 ms, on a clock and a device that stand for a GPU's, right behind another timing."""
    clock, calls = Clock(), []
    monkeypatch.setattr(latency, "time", clock)
    monkeypatch.setattr(latency, "_gpu_busy_at", 0.0)
    monkeypatch.setattr(latency, "device_text", lambda device: device)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def take(seconds):
        clock.now += round(seconds * 1e9)

    monkeypatch.setattr(latency, "_captured", lambda call: take(captured) or call)
    timed(lambda: calls.append(take(0.015)), "cuda", 0.0)
    assert len(calls) == math.ceil(warm_up / 0.015) + latency.MIN_REPEATS


@pytest.mark.parametrize("seconds", [0.0, BRIEF])
def test_however_little_time_there_is_twenty_repeats_are_made(seconds):
    calls = []
    timed(lambda: calls.append(None), "cpu", seconds)
    assert len(calls) >= 20


def test_a_token_is_decoded_at_the_end_of_a_full_cache(model, monkeypatch):
    made = model(context=24)
    positions, decode = [], made.decode
    monkeypatch.setattr(made, "decode", lambda tokens, cache: positions.append(cache.length) or decode(tokens, cache))
    decode_latency(made, "cpu", BRIEF)
    assert set(positions) == {23}


@pytest.mark.parametrize("collecting", [True, False])
@pytest.mark.parametrize("measure", [forward_latency, decode_latency])
def test_threads_and_garbage_collection_are_as_before(model, measure, collecting):
    (gc.enable if collecting else gc.disable)()
    try:
        torch.set_num_threads(2)
        measure(model(), "cpu", BRIEF)
        assert torch.get_num_threads() == 2 and gc.isenabled() == collecting
    finally:
        gc.enable()


def test_they_are_as_before_when_the_model_fails():
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        timed(lambda: 1 / 0, "cpu", BRIEF)
    assert torch.get_num_threads() == 2 and gc.isenabled()


def test_nothing_else_is_collected_and_one_thread_runs_meanwhile():
    seen = set()
    torch.set_num_threads(2)
    timed(lambda: seen.add((gc.isenabled(), torch.get_num_threads(), torch.is_inference_mode_enabled())), "cpu", BRIEF)
    assert seen == {(False, 1, True)}


# -- memory ---------------------------------------------------------------------------------------------------------


def megabytes(model) -> float:
    found = forward_memory(model, "cpu")
    assert (found.fidelity, found.device, found.spread) == ("measured", device_text("cpu"), 0.0)
    return found.value


def weights_and_cache(model) -> float:
    return (sum(p.numel() for p in model.parameters()) * 4 + model.new_cache(1).bytes) / 1e6


def test_memory_where_the_logits_are_the_peak(model):
    """T x V logits of four bytes; the T x D stream beside them is small."""
    made = model(vocab=5000, context=64, n_layers=1)
    logits = 64 * 5000 * 4 / 1e6
    extra = megabytes(made) - weights_and_cache(made)
    assert logits <= extra <= 1.1 * logits


@pytest.mark.parametrize(("activation", "hidden_copies"), [("gelu", 2), ("relu2", 3), ("swiglu", 4)])
def test_memory_where_the_feed_forward_is_the_peak(model, activation, hidden_copies):
    """The hidden layer before and after its activation; twice as wide before it where there is a gate."""
    made = model(context=64, ffn_ratio=64, activation=activation)
    hidden = 64 * (64 * 32) * 4 / 1e6
    extra = megabytes(made) - weights_and_cache(made)
    assert 1.9 * hidden <= extra <= (hidden_copies + 0.1) * hidden


def test_memory_grows_with_every_layers_cache_and_weights(model):
    small, large = model(n_layers=1, context=64), model(n_layers=3, context=64)
    grown = weights_and_cache(large) - weights_and_cache(small)
    assert megabytes(large) - megabytes(small) == pytest.approx(grown, rel=1e-3)


def test_windows_shared_keys_and_latents_save_memory(model):
    full = megabytes(model(context=512))
    for saving in ({"window": 16}, {"n_kv_heads": 1}, {"kv_rank": 2}):
        assert megabytes(model(context=512, **saving)) < full, saving


def test_memory_is_the_same_each_time(model):
    made = model(window=8, kv_rank=[4, None])
    assert megabytes(made) == megabytes(made)


# -- accounting -----------------------------------------------------------------------------------------------------

KB = 250  # floats


def test_live_tensors_are_counted_until_they_are_gone():
    with LiveTensors() as live:
        a = torch.zeros(KB)
        b = a + 1
        assert (live.bytes, live.peak) == (2000, 2000)
        del a
        assert (live.bytes, live.peak) == (1000, 2000)
        c = torch.cat([b, b, b])
        assert (live.bytes, live.peak) == (4000, 4000)
        del b, c
    assert (live.bytes, live.peak) == (0, 4000)


def test_a_value_used_inside_one_expression_counts_at_the_peak():
    with LiveTensors() as live:
        kept = (torch.ones(KB) * 2).sum()
        assert live.peak == 2000 and live.bytes == kept.element_size()


def test_views_and_changes_in_place_take_no_memory():
    with LiveTensors() as live:
        a = torch.zeros(KB)
        view = a.view(10, 25).t()[3:]
        a.add_(1)
        view.mul_(2)
        assert (live.bytes, live.peak) == (1000, 1000)
        del a
        assert live.bytes == 1000, "the view keeps its storage alive"
        del view
        assert live.bytes == 0


def test_what_came_from_outside_is_not_counted():
    outside = torch.zeros(KB)
    with LiveTensors() as live:
        outside.add_(1)
        half = outside[:100]
        made = outside + half.sum()
        assert live.bytes == 1000
        del made, half
    assert live.bytes == 0


def test_several_results_of_one_operation_each_count():
    with LiveTensors() as live:
        values, indices = torch.zeros(KB).sort()
        assert live.bytes == values.nbytes + indices.nbytes


def test_memory_holds_the_tables_of_a_network(model):
    """The mask of a window and the rotations are there in every pass."""
    made = model()
    before = megabytes(made)
    made.register_buffer("table", torch.zeros(10**6), persistent=False)
    assert megabytes(made) - before == pytest.approx(4.0)
