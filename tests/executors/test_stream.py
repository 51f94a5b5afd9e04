"""Calls taken one by one, and what is done alone beside them: one contract, every backend."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import threading
import time

import pytest

from evonas.errors import EvonasError
from evonas.executors import Call, Failure

from .conftest import PATIENCE, eventually, never_ready

NO_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
OF_PROCESSES = ["stopped", "asked"]  # how what pauses is held up
ASKED = ["asked", pytest.param("ray asked", marks=NO_RAY)]
PAUSING = ["stopped", *ASKED]
WITH_SPARE = {"stopped", "asked", "ray asked"}
BACKENDS = ["serial", "processes", pytest.param("ray", marks=NO_RAY), *PAUSING]
ISOLATED = BACKENDS[1:]


@pytest.fixture
def start(make, targets, tmp_path):
    """start(backend, workers=2) -> Executor; of processes with a spare one (see PAUSING) or without."""

    def _start(backend: str, workers: int = 2):
        target = (targets.OneDevice if backend == "asked" else targets.Target)(tmp_path)
        kind = "processes" if backend in OF_PROCESSES else backend.partition(" ")[0]
        return make(kind, workers, target, spare=backend in WITH_SPARE)

    return _start


def squares(count: int):
    """A source of so many calls, and the keys in the order in which they were asked for."""
    asked: list[int] = []

    def more() -> Call | None:
        if len(asked) == count:
            return None
        asked.append(len(asked))
        return Call("square", (asked[-1],), asked[-1])

    return more, asked


def overlapping(lines: list[str]) -> set[frozenset]:
    """Pairs of logged spans that were open at once."""
    found, running = set(), []
    for line in lines:
        event, name = line.split()
        if event == "begin":
            found |= {frozenset((name, other)) for other in running}
            running.append(name)
        else:
            running.remove(name)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_call_comes_back_once(start, backend, count):
    executor = start(backend)
    more, asked = squares(count)
    assert dict(executor.stream(more, timeout=PATIENCE)) == {k: k * k for k in range(count)}
    assert asked == list(range(count))
    assert list(executor.stream(lambda: None)) == [], "and again"
    assert dict(executor.map([Call("square", (3,), "after")])) == {"after": 9}


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_has_come_in_is_handed_out_before_more_is_asked_for(start, backend):
    executor, events = start(backend, 2), []
    more, _ = squares(9)

    def noting() -> Call | None:
        events.append("ask")
        return more()

    for _ in executor.stream(noting, timeout=PATIENCE):
        events.append("result")
    # One asked for ahead per worker, at most: whoever asks knows all the others.
    ahead = list(itertools.accumulate(1 if event == "ask" else -1 for event in events[: events.index("result") + 12]))
    assert max(ahead) <= executor.workers


@pytest.mark.parametrize("backend", ISOLATED)
@pytest.mark.parametrize("how", ["map", "stream"])
def test_a_worker_that_is_free_gets_the_next_call_while_others_are_busy(start, backend, how):
    """The first waits for the last, which another worker has to come to."""
    executor = start(backend)
    calls = [Call("meet", ("a", "b"), 0), *(Call("square", (k,), k) for k in range(1, 5)), Call("meet", ("b", "a"), 5)]
    source = iter(calls)
    flow = executor.map(calls, PATIENCE) if how == "map" else executor.stream(lambda: next(source, None), PATIENCE)
    assert dict(flow) == {0: "met", **{k: k * k for k in range(1, 5)}, 5: "met"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_there_is_nothing_for_now_it_is_asked_again_after_a_result(start, backend):
    executor, told = start(backend), []
    pairs = {0: [1, 2], 1: [3], 2: [], 3: [4], 4: []}
    ready = [0]

    def more() -> Call | None:
        return Call("square", (k,), k) if ready and (k := ready.pop()) is not None else None

    for key, _ in executor.stream(more, timeout=PATIENCE):
        told.append(key)
        ready.extend(pairs[key])
    assert sorted(told) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_done_alone_beside_it_meets_nothing(start, backend, tmp_path):
    executor = start(backend, 3)
    names = iter(f"train{k}" for k in range(9))

    def more() -> Call | None:
        if (name := next(names, None)) is None:
            return None
        alone = Call("log_span", (f"alone-{name}", 0.02), name)
        assert len(list(executor.map_alone([alone], timeout=PATIENCE))) == 1
        return Call("log_span", (name, 0.05), name)

    found = dict(executor.stream(more, timeout=PATIENCE))
    assert len(found) == 9 and executor.restarts == 0
    lines = (tmp_path / "spans").read_text().splitlines()
    if executor.pauses:  # what pauses is open, but does nothing: neither does it begin nor end
        inside = ""
        for line in lines:
            event, name = line.split()
            assert not inside or name == inside, line
            inside = name if event == "begin" and name.startswith("alone") else ""
    else:
        assert not any("alone" in name for pair in overlapping(lines) for name in pair)
    assert executor.pauses == (backend in WITH_SPARE)


def both_up(executor):
    """The executor once both workers have started, and a spare one, so that the first call has not come back when more
    is asked for, and nothing waits for a start."""
    calls = [Call("meet", ("a", "b"), 0), Call("meet", ("b", "a"), 1)]
    assert len(list(executor.map(calls, timeout=PATIENCE))) == 2
    assert list(executor.map_alone([Call("square", (2,), 0)], timeout=PATIENCE)) == [(0, 4)]
    return executor


def then(call: Call, do):
    """A source of that call, which does something when it is asked for more."""
    steps = iter((lambda: call, do))
    return lambda: next(steps, lambda: None)()


def beside(executor, folder, alone, timeout=PATIENCE):
    """A stream with one call that ticks, and beside it, once it does, what ``alone`` does; results of the stream."""

    def more() -> Call | None:
        if not (folder / "asked").exists():
            (folder / "asked").touch()
            return Call("tick_until", ("stop",), "ticking")
        if not (folder / "stop").exists():
            assert eventually((folder / "ticks").exists)
            alone()
            (folder / "stop").touch()
        return None

    return list(executor.stream(more, timeout))


@pytest.mark.parametrize("backend", PAUSING)
def test_calls_pause_meanwhile_and_say_for_how_long(start, tmp_path, backend):
    executor, seen = start(backend), []

    def alone() -> None:
        lane = next(lane for lane in executor._lanes if lane.task)
        since = lane.since
        seen.extend(executor.map_alone([Call("watch_ticks", (0.3,), "watch")], timeout=PATIENCE))
        assert lane.since >= since + 0.3, "no timeout counts it"

    ((key, ticks),) = beside(executor, tmp_path, alone)
    ((_, (before, after)),) = seen
    assert before == after and key == "ticking" and ticks > 0
    assert executor.paused >= 0.3 and executor.restarts == 0
    assert (tmp_path / "settled").exists() == ("asked" in backend), "a device has done what was queued"
    assert list(executor.map([Call("square", (2,), 0)])) == [(0, 4)] and executor.paused == 0.0


@pytest.mark.parametrize("backend", OF_PROCESSES)
def test_one_that_is_killed_while_it_pauses_is_tried_again(start, tmp_path, backend):
    executor = start(backend)

    def alone() -> None:
        lane = next(lane for lane in executor._lanes if lane.task)
        calls = [Call("square", (k,), k) for k in range(3)]
        for key, _ in executor.map_alone(calls, timeout=PATIENCE):
            if key == 0:
                os.kill(lane.worker.process.pid, signal.SIGKILL)

    assert [key for key, _ in beside(executor, tmp_path, alone)] == ["ticking"]
    assert executor.restarts == 1


@pytest.mark.parametrize("backend", PAUSING)
def test_what_fails_alone_lets_the_others_go_on(start, tmp_path, backend):
    executor, seen = start(backend), []

    def alone() -> None:
        calls = [Call("fail", ("no such kernel",), 0), Call("die", ("dead", "exit", 9), 1)]
        seen.extend(result.status for _, result in executor.map_alone(calls, timeout=PATIENCE))

    ((key, ticks),) = beside(executor, tmp_path, alone)
    assert key == "ticking" and ticks > 0 and seen == ["error", "crash"]


@pytest.mark.parametrize("backend", ASKED)
def test_a_pause_counts_for_no_timeout(start, tmp_path, backend):
    executor = both_up(start(backend))

    def alone() -> None:
        assert list(executor.map_alone([Call("watch_ticks", (3.0,), "watch")], timeout=PATIENCE))

    ((key, ticks),) = beside(executor, tmp_path, alone, timeout=2.5)
    assert key == "ticking" and not isinstance(ticks, Failure)


@pytest.mark.parametrize("backend", ASKED)
def test_only_the_rest_itself_is_a_pause(start, tmp_path, backend):
    """One that comes to its safepoint late has worked until then."""
    executor = both_up(start(backend))

    def alone() -> None:
        assert eventually((tmp_path / "begun").exists)
        assert list(executor.map_alone([Call("square_later", (3, 0.3), "alone")])) == [("alone", 9)]

    flow = executor.stream(then(Call("rest_late", ("begun", 1.5), "late"), alone), timeout=PATIENCE)
    assert list(flow) == [("late", "begun")]
    assert 0.3 <= executor.paused < 1.3


@pytest.mark.parametrize("backend", ASKED)
def test_one_that_comes_to_no_safepoint_is_waited_for_while_the_others_go_on(start, tmp_path, monkeypatch, backend):
    monkeypatch.setattr("evonas.executors.run.RELUCTANT", 0.2)
    executor, asked, ticks = start(backend, 3), [], tmp_path / "ticks"

    def more() -> Call | None:
        asked.append(len(asked))
        if len(asked) == 1:
            return Call("tick_until", ("stop",), "ticking")
        if len(asked) == 2:
            return Call("meet", ("deaf", "hear"), "deaf")
        if len(asked) == 3:
            assert eventually(ticks.exists) and eventually((tmp_path / "deaf").exists)
            found = executor.map_alone([Call("watch_ticks", (0.3,), "watch")], timeout=PATIENCE)
            threading.Thread(target=hear, daemon=True).start()
            ((_, (before, after)),) = found
            assert before == after >= seen["later"]
            (tmp_path / "stop").touch()
        return None

    seen: dict[str, int] = {}

    def hear() -> None:
        time.sleep(2.5)  # all are asked to rest, and those that do let go again
        seen["once"] = ticks.stat().st_size
        seen["goes on"] = eventually(lambda: ticks.stat().st_size > seen["once"])
        seen["later"] = ticks.stat().st_size
        (tmp_path / "hear").touch()

    assert dict(executor.stream(more, timeout=PATIENCE)).keys() == {"ticking", "deaf"}
    assert seen["goes on"]


@pytest.mark.parametrize("backend", ASKED)
def test_one_that_comes_to_no_safepoint_is_timed(start, tmp_path, backend):
    executor = both_up(start(backend))

    def alone() -> None:
        assert eventually((tmp_path / "hangs").exists)
        assert list(executor.map_alone([Call("square", (3,), "alone")], timeout=PATIENCE)) == [("alone", 9)]

    found = dict(executor.stream(then(Call("meet", ("hangs", "never"), "hangs"), alone), timeout=3.0))
    assert found == {"hangs": Failure("timeout", "took longer than 3 s", 1)}


@pytest.mark.parametrize("backend", PAUSING)
def test_the_deadline_ends_what_pauses(start, tmp_path, when, backend):
    executor, seen = start(backend), []
    deadline = when((tmp_path / "measuring").exists)

    def more() -> Call | None:
        seen.append("asked")
        if len(seen) == 1:
            return Call("tick_until", ("stop",), "ticking")
        assert eventually((tmp_path / "ticks").exists)
        alone = Call("meet", ("measuring", "never"), "alone")
        seen.extend(result.status for _, result in executor.map_alone([alone], deadline=deadline))
        return None

    flow = dict(executor.stream(more, timeout=PATIENCE, deadline=deadline))
    assert flow == {"ticking": Failure("deadline", "stopped at the deadline", 1)}
    assert seen == ["asked", "asked", "deadline"]
    assert dict(executor.map([Call("square", (k,), k) for k in range(4)])) == {k: k * k for k in range(4)}


@pytest.mark.parametrize("backend", OF_PROCESSES)
@pytest.mark.parametrize("how", ["raise", "close"])
def test_what_is_interrupted_beside_a_pause_leaves_nothing_held_up(start, tmp_path, backend, how):
    executor = start(backend)

    def alone() -> None:
        for _ in executor.map_alone([Call("square", (k,), k) for k in range(2)], timeout=PATIENCE):
            if how == "close":
                executor.close()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        beside(executor, tmp_path, alone)
    if how == "raise":
        assert not any(lane.resting for lane in executor._lanes)
        assert dict(executor.map([Call("square", (k,), k) for k in range(4)])) == {k: k * k for k in range(4)}


def test_a_rest_that_was_over_before_it_was_heard_of_is_none(start, tmp_path):
    """Nor does what was asked of a call that has ended hold up the next."""
    executor, heard = start("asked"), []

    def hear(lane) -> None:
        heard.extend(event.kind for each, event in executor._events(0.2) if each is lane)

    def alone() -> None:
        lane = next(lane for lane in executor._lanes if lane.task)
        for _ in range(3):
            lane.worker.pause()
            lane.worker.go_on()
        time.sleep(0.1)
        hear(lane)
        assert heard == [], "it has gone on"
        lane.worker.pause()
        assert eventually(lambda: hear(lane) or heard)
        size = (tmp_path / "ticks").stat().st_size
        time.sleep(0.2)
        assert heard == ["rests"] and (tmp_path / "ticks").stat().st_size == size
        lane.worker.go_on()

    ((key, ticks),) = beside(executor, tmp_path, alone)
    assert key == "ticking" and ticks > 0
    for lane in executor._lanes:
        lane.worker.pause()
        lane.worker.go_on()
        lane.worker.pause()  # what has ended
    both = [Call("square", (k,), k) for k in range(4)]
    assert dict(executor.map(both, timeout=PATIENCE)) == {k: k * k for k in range(4)}


def test_a_long_reply_is_read_though_its_worker_pauses(start, tmp_path):
    """It blocks in the middle of writing it; nothing may be waited for that a stopped process has to do."""
    executor, calls = both_up(start("stopped")), []

    def more() -> Call | None:
        calls.append(len(calls))
        if len(calls) == 1:
            return Call("long", (3_000_000, "begun"), "long")
        if len(calls) == 2:
            assert eventually((tmp_path / "begun").exists)
            time.sleep(0.2)  # it writes until the pipe is full
            next(lane for lane in executor._lanes if lane.task).worker.pause()
        return None

    ((key, text),) = executor.stream(more, timeout=PATIENCE)
    assert key == "long" and len(text) == 3_000_000


@pytest.mark.parametrize("backend", OF_PROCESSES)
def test_no_worker_starts_beside_what_is_measured(start, tmp_path, backend):
    """Also where one has died that nobody had looked at."""
    executor, started = start(backend), []

    def alone() -> None:
        lane = next(lane for lane in executor._lanes if lane.task)
        os.kill(lane.worker.process.pid, signal.SIGKILL)
        lane.worker.process.join(PATIENCE)
        for _ in executor.map_alone([Call("square", (k,), k) for k in range(3)], timeout=PATIENCE):
            started.append(any(other.starting for other in executor._lanes))

    assert [key for key, _ in beside(executor, tmp_path, alone)] == ["ticking"]
    assert started == [False] * 3 and executor.restarts == 1


@pytest.mark.parametrize("backend", PAUSING)
def test_a_users_error_leaves_where_its_result_would(start, tmp_path, backend):
    executor, seen = both_up(start(backend)), []

    def more() -> Call | None:
        if not seen:
            seen.append("asked")
            return Call("user_error", (), "error")
        time.sleep(0.2)
        seen.extend(executor.map_alone([Call("square", (2,), "alone")], timeout=PATIENCE))
        return None

    with pytest.raises(EvonasError, match="the data is missing"):
        list(executor.stream(more, timeout=PATIENCE))
    assert seen == ["asked", ("alone", 4)]
    assert list(executor.map([Call("square", (3,), 0)], timeout=PATIENCE)) == [(0, 9)]


@pytest.mark.parametrize("backend", ISOLATED)
def test_what_ran_out_of_memory_alone_is_tried_again_with_nothing_in_memory(start, tmp_path, backend):
    executor, asked = start(backend), []

    def more() -> Call | None:
        asked.append(len(asked))
        if len(asked) == 1:
            return Call("log_span", ("training", 0.5), "training")
        if len(asked) == 2:
            found = executor.map_alone([Call("run_out_of_memory", ("greedy", "host", 1), 0)], timeout=PATIENCE)
            assert list(found) == [(0, "greedy")]
        return None

    assert [key for key, _ in executor.stream(more, timeout=PATIENCE)] == ["training"]
    lines = (tmp_path / "spans").read_text().splitlines()
    again = len(lines) - 1 - lines[::-1].index("begin greedy")
    assert lines.count("begin greedy") == 2 and "end training" in lines[:again]


@pytest.mark.parametrize("backend", ["processes", pytest.param("ray", marks=NO_RAY)])
def test_what_crashed_comes_back_though_what_is_done_alone_takes_its_place(start, tmp_path, backend):
    """Without a spare worker what is done alone has the first one, which the call had."""
    executor, asked = start(backend), []

    def more() -> Call | None:
        asked.append(len(asked))
        if len(asked) == 1:
            return Call("die", ("once", "exit", 1), "once")
        if len(asked) == 2:
            (result,) = dict(executor.map_alone([Call("log_span", ("slow", 600), 0)], timeout=1.0)).values()
            assert result.status == "timeout"
        return None

    assert list(executor.stream(more, timeout=PATIENCE)) == [("once", 2)]


@pytest.mark.parametrize("backend", OF_PROCESSES)
def test_where_only_the_spare_worker_starts_it_is_said(start, monkeypatch, backend):
    executor = start(backend, 1)
    both = [Call("square", (1,))]
    assert list(executor.map(both)) and list(executor.map_alone(both))
    never_ready(executor, 0, monkeypatch)
    with pytest.raises(EvonasError, match="not ready after"):
        list(executor.stream(squares(1)[0]))


@pytest.mark.parametrize("backend", PAUSING)
def test_what_is_done_alone_is_finished_before_the_stream_goes_on(start, backend):
    executor = start(backend)
    flow = executor.stream(squares(5)[0], timeout=PATIENCE)
    next(flow)
    alone = executor.map_alone([Call("square", (k,), k) for k in range(2)], timeout=PATIENCE)
    next(alone)
    with pytest.raises(RuntimeError, match="one active iterator"):
        next(flow)


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_of_memory_is_retried_once_alone(start, tmp_path, backend):
    executor = start(backend, 3)
    calls = iter([Call("run_out_of_memory", ("greedy", "host", 1), 0), *(Call("log_span", (f"s{k}", 0.05), k) for k in
                  range(1, 7))])  # fmt: skip
    found = dict(executor.stream(lambda: next(calls, None), timeout=PATIENCE))
    assert found[0] == "greedy" and len(found) == 7
    lines = (tmp_path / "spans").read_text().splitlines()
    assert lines.count("begin greedy") == 2
    again = len(lines) - 1 - lines[::-1].index("begin greedy")
    assert lines[again + 1] == "end greedy"
    assert all(lines[:again].count(f"begin s{k}") == lines[:again].count(f"end s{k}") for k in range(1, 7))


@pytest.mark.parametrize("backend", ISOLATED)
def test_a_crash_is_retried_once_and_the_others_go_on(start, backend):
    executor = start(backend)
    calls = iter([Call("die", ("once", "exit", 1), 0), Call("die", ("always", "exit", 9), 1), Call("square", (2,), 2)])
    found = dict(executor.stream(lambda: next(calls, None), timeout=PATIENCE))
    assert found[0] == 2 and found[1].status == "crash" and found[2] == 4 and executor.restarts == 3


@pytest.mark.parametrize("backend", ISOLATED)
def test_a_call_that_takes_too_long_is_stopped(start, backend):
    executor, limit = start(backend), [600.0]
    calls = iter([Call("log_span", ("slow", 600), "slow"), Call("square", (2,), "quick")])
    found = {}
    for key, result in executor.stream(lambda: next(calls, None), timeout=lambda: limit[0]):
        found[key] = result
        limit[0] = 1.0
    assert found == {"quick": 4, "slow": Failure("timeout", "took longer than 1 s", 1)}


@pytest.mark.parametrize("backend", ISOLATED)
def test_the_deadline_stops_what_runs_and_asks_for_no_more(start, tmp_path, when, backend):
    executor, asked = start(backend), []

    def more() -> Call:
        asked.append(len(asked))
        return Call("log_span", (f"slow{asked[-1]}", 600), asked[-1])

    spans = tmp_path / "spans"
    deadline = when(lambda: spans.exists() and spans.read_text().count("begin slow") == 2)
    found = dict(executor.stream(more, timeout=PATIENCE * 10, deadline=deadline))
    assert found == {k: Failure("deadline", "stopped at the deadline", 1) for k in (0, 1)} and asked == [0, 1]
    assert executor.restarts == 0, "nobody needs them yet"
    assert list(executor.stream(lambda: Call("square", (2,)), deadline=time.monotonic() - 1)) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_what_is_done_alone_may_run_beside_it(start, backend):
    executor = start(backend)
    flow = executor.stream(squares(5)[0], timeout=PATIENCE)
    next(flow)
    for other in (executor.map([Call("square", (1,))]), executor.stream(lambda: None)):
        with pytest.raises(RuntimeError, match="one active iterator"):
            next(other)
    alone = executor.map_alone([Call("square", (k,), k) for k in range(2)], timeout=PATIENCE)
    assert next(alone) == (0, 0)
    with pytest.raises(RuntimeError, match="one active iterator"):
        next(executor.map_alone([Call("square", (1,))]))
    assert list(alone) == [(1, 1)] and len(list(flow)) == 4


@pytest.mark.parametrize("backend", ISOLATED)
def test_an_error_of_the_source_or_of_the_consumer_stops_what_runs(start, backend):
    executor, asked = start(backend), []

    def broken() -> Call:
        asked.append(len(asked))
        if len(asked) == 3:
            raise ValueError("no more")
        return Call("log_span", ("slow", 600), 0) if len(asked) == 1 else Call("square", (1,), 1)

    with pytest.raises(ValueError, match="no more"):
        list(executor.stream(broken, timeout=PATIENCE * 10))
    flow = executor.stream(squares(9)[0], timeout=PATIENCE)
    next(flow)
    flow.close()
    assert dict(executor.stream(squares(3)[0], timeout=PATIENCE)) == {0: 0, 1: 1, 2: 4}
