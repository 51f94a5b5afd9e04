"""One contract, every backend."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import multiprocessing.connection
import os
import pickle
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from evonas.errors import EvonasError
from evonas.executors import Call, Failure, default_workers, make_executor
from evonas.executors.base import load_reply
from evonas.executors.ray import _share as share_of_gpus
from evonas.executors.worker import run_call

from .conftest import PATIENCE, eventually, never_ready

HERE = Path(__file__).parent
NO_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
BACKENDS = ["serial", "processes", pytest.param("ray", marks=NO_RAY)]
ISOLATED = BACKENDS[1:]


def results(executor, calls, **options):
    options = {"timeout": PATIENCE, **options}
    found = list(executor.map(calls, **options))
    assert len(found) == len(calls)
    return dict(found)


def both_up(executor) -> None:
    """Returns when both workers have started: neither meets the other alone."""
    results(executor, [Call("meet", ("w1", "w2"), 1), Call("meet", ("w2", "w1"), 2)])


def children_of(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task")
    return {int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(path: Path) -> list[int]:
    assert eventually(path.exists)
    return [int(word) for word in path.read_text().split()]


def overlapping(lines: list[str]) -> set[str]:
    """The names of logged spans during which another one was open."""
    found, running = set(), []
    for line in lines:
        event, name = line.split()
        if event == "begin":
            found |= {name, *running} if running else set()
            running.append(name)
        else:
            running.remove(name)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_carry_their_keys(make, backend):
    executor = make(backend)
    found = results(executor, [Call("square", (i,), ("key", i)) for i in range(20)])
    assert found == {("key", i): i * i for i in range(20)}
    assert executor.restarts == 0
    assert results(executor, []) == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_do_not_depend_on_workers(make, backend):
    calls = [Call("draw", (seed,), seed) for seed in range(8)]
    expected = results(make("serial", 1), calls)
    assert results(make(backend, 3), calls[::-1]) == expected


@pytest.mark.parametrize("backend", ISOLATED)
def test_results_come_in_the_order_of_finishing(make, tmp_path, backend):
    calls = [Call("wait_for", ("gate",), "slow"), *(Call("square", (i,), i) for i in range(4))]
    found = make(backend).map(calls, timeout=PATIENCE)
    assert list(itertools.islice(found, 4)) == [(i, i * i) for i in range(4)]
    (tmp_path / "gate").touch()
    assert list(found) == [("slow", "gate")]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_target_and_the_arguments_of_the_caller_do_not_change(make, targets, tmp_path, backend):
    target, values = targets.Target(tmp_path), []
    executor = make(backend, 1, target)
    assert results(executor, [Call("count", (), i) for i in range(3)]) == {0: 1, 1: 2, 2: 3}
    assert results(executor, [Call("change", (values,))]) == {None: ["changed"]}
    assert target.calls == 0
    assert values == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exception_is_a_failure_with_its_traceback(make, backend):
    executor = make(backend)
    calls = [
        Call("fail", ("the loss is a string",), "a"),
        Call("square", (3,), "b"),
        Call("missing", (), "c"),
        Call("unpicklable_result", (), "d"),
        Call("exit", (0,), "e"),
        Call("fail_awkwardly", (), "f"),
    ]
    found = results(executor, calls)
    assert found.pop("b") == 9
    assert {failure.status for failure in found.values()} == {"error"}
    assert {failure.attempts for failure in found.values()} == {1}
    reason = found["a"].reason
    assert reason.splitlines()[0] == "ValueError: the loss is a string"
    assert "executor_targets.py" in reason and "raise ValueError(message)" in reason
    assert "worker.py" not in reason
    assert "AttributeError" in found["c"].reason and "'missing'" in found["c"].reason
    assert "pickle" in found["d"].reason
    assert found["e"].reason.startswith("SystemExit")
    assert found["f"].reason.startswith("AwkwardError")
    assert executor.restarts == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_users_error_is_raised_in_the_parent(make, backend):
    executor = make(backend)
    with pytest.raises(EvonasError) as caught:
        list(executor.map([Call("user_error", ()), Call("square", (1,))], timeout=PATIENCE))
    assert (caught.value.message, caught.value.hint) == ("the data is missing", "Give --data PATH.")
    assert caught.value.exit_code == 1
    assert "executor_targets.py" in str(caught.value.__cause__)
    assert results(executor, [Call("square", (2,), "after")]) == {"after": 4}


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_of_memory_is_retried_once_alone(make, tmp_path, backend):
    executor = make(backend)
    kinds = ["host", "torch", "message", "system"]
    pairs = list(itertools.product(kinds, (1, 2)))
    calls = [Call("run_out_of_memory", (f"{kind}{times}", kind, times), (kind, times)) for kind, times in pairs]
    found = results(executor, [*calls, *(Call("log_span", (f"other{i}", 0.05), i) for i in range(4))])
    for kind in kinds:
        assert found[kind, 1] == f"{kind}1"
        assert (found[kind, 2].status, found[kind, 2].attempts) == ("out_of_memory", 2)
        assert not (tmp_path / f"{kind}2.3").exists()
    assert found["host", 2].reason.startswith("MemoryError")
    if backend != "serial":  # the retries come when the others are done, one after the other
        retries = (tmp_path / "spans").read_text().splitlines()[-16:]
        assert overlapping(retries) == set()
        assert {line.split()[1] for line in retries} == {f"{kind}{times}" for kind, times in pairs}
    assert executor.restarts == 0


@pytest.mark.parametrize("backend", ISOLATED)
def test_a_worker_that_can_not_use_its_device_any_more_is_replaced(make, backend):
    executor = make(backend)
    lost = [Call("lose_device", ("once", 1), "once"), Call("lose_device", ("always", 9), "always")]
    found = results(executor, [*lost, *(Call("square", (i,), i) for i in range(6))])
    assert found["once"] == 2
    assert (found["always"].status, found["always"].attempts) == ("crash", 2)
    assert "could not use its device any more: RuntimeError: CUDA error" in found["always"].reason
    assert {i: found[i] for i in range(6)} == {i: i * i for i in range(6)}
    assert executor.restarts == 3


def test_what_torch_keeps_of_a_gpus_memory_is_given_back_after_every_call(monkeypatch):
    given_back = []
    cuda = SimpleNamespace(
        is_initialized=lambda: True, synchronize=lambda: None, empty_cache=lambda: given_back.append(1)
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    target = SimpleNamespace(work=lambda: 1, fail=lambda: [][0], fill=lambda: (_ for _ in ()).throw(MemoryError()))
    replies = [load_reply(run_call(target, pickle.dumps((method, ())))) for method in ("work", "fail", "fill")]
    assert [kind for kind, _ in replies] == ["ok", "error", "out_of_memory"]
    assert len(given_back) >= 3
    monkeypatch.setattr(cuda, "is_initialized", lambda: False)
    given_back.clear()
    assert run_call(target, pickle.dumps(("work", ()))) and not given_back, "a GPU that is not used is not woken"


def test_as_many_workers_as_a_container_has_cpus(tmp_path):
    cpus = default_workers(tmp_path / "none")
    for text, most in [("max 100000\n", cpus), ("100000 100000\n", 1), ("150000 100000\n", 2), ("5000 100000", 1)]:
        (tmp_path / "cpu.max").write_text(text)
        assert default_workers(tmp_path / "cpu.max") == min(cpus, most)


@pytest.mark.parametrize(
    ("gpus", "workers", "share"),
    [(0, 4, 0), (1, 1, 1), (4, 2, 2), (3, 2, 1), (1, 4, 0.25), (2, 3, 0.5), (1, 6, 0.1666), (3, 8, 0.3333)],
)
def test_a_gpu_is_shared_so_that_all_workers_have_room(gpus, workers, share):
    each = share_of_gpus(float(gpus), workers)
    assert each == share
    assert not 0 < each < 1 or gpus * int(1 / each) >= workers


@pytest.mark.parametrize(("gpus", "workers"), [(1, 1), (4, 2), (4, 4), (8, 3), (3, 8), (2, 3), (1, 6), (1, 7)])
def test_a_spare_one_leaves_them_what_they_had(gpus, workers):
    each = share_of_gpus(float(gpus), workers, spare=True)
    together = -(-workers // gpus)  # on the fullest
    assert int(1 / each) == together and together * each + 0.01 <= 1
    assert share_of_gpus(0.0, workers, spare=True) == 0
    assert share_of_gpus(0.5, 3, spare=True) == 0.125


@pytest.mark.parametrize(
    ("backend", "how"), [("processes", "exit"), ("processes", "kill"), pytest.param("ray", "kill", marks=NO_RAY)]
)
def test_a_crash_is_retried_once_and_the_others_go_on(make, backend, how):
    executor = make(backend)
    crashing = [Call("die", ("once", how, 1), "once"), Call("die", ("always", how, 9), "always")]
    found = results(executor, [*crashing, *(Call("square", (i,), i) for i in range(6))])
    assert found["once"] == 2
    assert (found["always"].status, found["always"].attempts) == ("crash", 2)
    if backend == "processes":
        assert {"exit": "exit status 3", "kill": "signal SIGKILL"}[how] in found["always"].reason
    assert {i: found[i] for i in range(6)} == {i: i * i for i in range(6)}
    assert executor.restarts == 3
    assert results(executor, [Call("square", (7,), "after")]) == {"after": 49}


@pytest.mark.parametrize("backend", ISOLATED)
def test_a_call_that_takes_too_long_is_stopped(make, backend):
    executor = make(backend)
    calls = [Call("square_later", (1, 600), "slow"), *(Call("square", (i,), i) for i in range(4))]
    found = results(executor, calls, timeout=3.0)  # which no square takes on a busy machine either
    assert found.pop("slow") == Failure("timeout", "took longer than 3 s", 1)
    assert found == {i: i * i for i in range(4)}
    assert executor.restarts == 1


@pytest.mark.parametrize("backend", ISOLATED)
def test_what_is_learned_of_some_calls_bounds_the_others(make, backend):
    executor, limit, found = make(backend), [600.0], {}
    calls = [Call("square_later", (1, 600), "slow"), *(Call("square", (i,), i) for i in range(4))]
    for key, result in executor.map(calls, timeout=lambda: limit[0]):
        found[key] = result
        limit[0] = 1.0 if len(found) == 4 else 600.0
    assert found.pop("slow") == Failure("timeout", "took longer than 1 s", 1)
    assert found == {i: i * i for i in range(4)}


@pytest.mark.parametrize("backend", ISOLATED)
def test_the_deadline_stops_what_runs(make, tmp_path, when, backend):
    executor = make(backend)
    both_up(executor)
    calls = [Call("square", (3,), "quick"), *(Call("log_span", (f"slow {i}", 600), i) for i in range(4))]
    found = results(executor, calls, deadline=when(lambda: (tmp_path / "spans").read_text().count("begin slow") == 2))
    assert found.pop("quick") == 9
    assert {failure.status for failure in found.values()} == {"deadline"}
    assert sorted(failure.attempts for failure in found.values()) == [0, 0, 1, 1]
    assert results(executor, [Call("square", (2,), "after")]) == {"after": 4}
    assert executor.restarts == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_after_the_deadline_nothing_starts(make, tmp_path, backend):
    executor = make(backend)
    calls = [Call("die", (str(i), "exit", 0), i) for i in range(3)]
    for run in (executor.map, executor.map_alone):
        found = dict(run(calls, deadline=time.monotonic() - 1.0))
        assert found == {i: Failure("deadline", "not started before the deadline", 0) for i in range(3)}
    assert list(tmp_path.iterdir()) == []


def test_the_serial_executor_looks_at_the_deadline_between_calls(make, when):
    executor, over = make("serial"), []
    found = executor.map([Call("square", (i,), i) for i in range(3)], deadline=when(lambda: over))
    assert next(found) == (0, 0)
    over.append(True)
    assert [result.status for _, result in found] == ["deadline", "deadline"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_map_alone_runs_one_call_at_a_time_in_one_worker(make, tmp_path, backend):
    executor = make(backend, 3)
    spans = [Call("log_span", (f"s{i}", 0.03), i) for i in range(6)]
    found = list(executor.map_alone(spans, timeout=PATIENCE))
    assert [key for key, _ in found] == list(range(6))
    assert len({pid for _, pid in found}) == 1
    assert overlapping((tmp_path / "spans").read_text().splitlines()) == set()
    again = dict(executor.map_alone([Call("pid", (), "pid")], timeout=PATIENCE))
    assert again["pid"] == found[0][1]


@pytest.mark.parametrize("backend", ISOLATED)
def test_a_worker_prepares_its_target_before_the_first_call(make, targets, tmp_path, backend):
    executor = make(backend, 2, targets.Prepared(tmp_path))
    assert set(results(executor, [Call("is_prepared", (), i) for i in range(6)]).values()) == {True}


@pytest.mark.parametrize("backend", ISOLATED)
def test_what_can_t_be_prepared_is_told_by_the_calls_alone(make, targets, tmp_path, backend):
    assert results(make(backend, 1, targets.Unprepared(tmp_path)), [Call("square", (3,))]) == {None: 9}


def test_map_runs_calls_at_the_same_time(make, tmp_path):
    """Also shows that the log of spans in the test above can see an overlap."""
    calls = [Call("meet", ("one", "two")), Call("meet", ("two", "one"))]
    assert [result for _, result in make("processes", 2).map(calls, timeout=PATIENCE)] == ["met", "met"]
    assert overlapping((tmp_path / "spans").read_text().splitlines()) == {"one", "two"}


@pytest.mark.parametrize("backend", ISOLATED)
def test_map_alone_keeps_the_order_through_failures(make, tmp_path, backend):
    calls = [
        Call("run_out_of_memory", ("m", "host", 1), "memory"),
        Call("die", ("d", "exit", 1), "crash"),
        Call("log_span", ("slow", 600), "slow"),
        Call("fail", ("x",), "error"),
        Call("square", (5,), "fine"),
    ]
    found = []

    def limit() -> float:  # short while the slow one runs, so that no other is too slow on a busy machine
        return 0.5 if len(found) == 2 and "begin slow" in (tmp_path / "spans").read_text() else PATIENCE

    for pair in make(backend).map_alone(calls, timeout=limit):
        found.append(pair)
    assert [key for key, _ in found] == ["memory", "crash", "slow", "error", "fine"]
    results_only = [result for _, result in found]
    assert results_only[:2] == ["m", 2] and results_only[4] == 25
    assert [failure.status for failure in results_only[2:4]] == ["timeout", "error"]


@pytest.mark.parametrize("backend", ISOLATED)
def test_an_abandoned_iterator_stops_what_runs(make, tmp_path, backend):
    executor = make(backend)
    calls = [Call("hang_with_child", ("hang",), "hang"), *(Call("square", (i,), i) for i in range(3))]
    iterator = executor.map(calls, timeout=PATIENCE)
    assert next(iterator)[1] in (0, 1, 4)
    worker, child = wait_for(tmp_path / "hang")
    with pytest.raises(RuntimeError, match="one active iterator"):
        next(executor.map(calls))
    iterator.close()
    assert eventually(lambda: not is_running(worker))
    if backend == "processes":
        assert eventually(lambda: not is_running(child))
    else:
        os.kill(child, signal.SIGKILL)  # Ray does not follow what a worker starts
    assert results(executor, [Call("square", (2,), "after")]) == {"after": 4}
    assert 1 <= executor.restarts <= 2  # the other worker may have had a call, too


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_executor_says_so(make, backend):
    with make(backend) as executor:
        iterator = executor.map([Call("square", (i,), i) for i in range(3)], timeout=PATIENCE)
        next(iterator)
    with pytest.raises(RuntimeError, match="closed"):
        list(iterator)
    with pytest.raises(RuntimeError, match="closed"):
        executor.map([])
    executor.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_target_or_an_argument_that_cannot_be_pickled(make, targets, tmp_path, backend):
    target = targets.Target(tmp_path)
    executor = make(backend, 1)
    with pytest.raises(EvonasError, match=r"the arguments of call 'k' \(square\) cannot be sent"):
        list(executor.map([Call("square", (lambda: None,), "k")]))
    assert results(executor, [Call("square", (2,), "after")]) == {"after": 4}
    target.hook = lambda: None
    with pytest.raises(EvonasError, match="Target cannot be sent to a worker"):
        make(backend, 1, target)


@pytest.mark.parametrize("backend", ISOLATED)
def test_a_target_that_workers_cannot_load(make, targets, backend):
    executor = make(backend, 1, targets.Broken("raise"))
    with pytest.raises(EvonasError, match="could not load the target: ImportError: no module named 'missing_part'"):
        list(executor.map([Call("square", (1,))]))


def test_workers_that_die_while_they_start(make, targets):
    executor = make("processes", 2, targets.Broken("exit"))
    with pytest.raises(EvonasError, match="worker processes do not start: exit status 7"):
        list(executor.map([Call("square", (1,))]))
    executor.close()
    assert_no_workers()


@pytest.mark.parametrize("backend", ISOLATED)
def test_the_environment_is_set_in_the_workers_only(make, backend):
    executor = make(backend, 1, env={"EVONAS_TEST_THREADS": "1"})
    assert results(executor, [Call("environment", ("EVONAS_TEST_THREADS",))]) == {None: "1"}
    assert "EVONAS_TEST_THREADS" not in os.environ


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
@pytest.mark.parametrize("backend", ["auto", "serial", "processes", "ray"])
def test_a_wrong_number_of_workers(targets, tmp_path, backend, workers):
    with pytest.raises(EvonasError, match="whole number from 1"):
        make_executor(backend, targets.Target(tmp_path), workers)


def test_an_unknown_executor_names_the_nearest(targets, tmp_path):
    with pytest.raises(EvonasError, match="Did you mean 'processes'"):
        make_executor("proceses", targets.Target(tmp_path), 1)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_wrong_timeout(make, timeout):
    with pytest.raises(EvonasError, match="not positive"):
        make("serial").map([], timeout=timeout)


def test_ray_that_is_not_installed(targets, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EvonasError, match=r"pip install -e '\.\[ray\]'"):
        make_executor("ray", targets.Target(tmp_path), 1)


def test_auto_is_processes_and_none_is_one_worker_per_cpu(make):
    executor = make("auto", None)
    assert executor.workers == default_workers()
    assert os.getpid() not in results(executor, [Call("pid", (), i) for i in range(4)]).values()


# What only processes promise: no worker and nothing it has started is left behind.


def assert_no_workers() -> None:
    import multiprocessing

    assert [child for child in multiprocessing.active_children() if child.name == "evonas-worker"] == []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_close_leaves_no_processes(make, tmp_path):
    before = children_of(os.getpid())
    executor = make("processes", 2)
    both_up(executor)
    iterator = executor.map([Call("hang_with_child", (f"h{i}",), i) for i in range(2)], deadline=time.monotonic() + 2.0)
    assert {result.status for _, result in iterator} == {"deadline"}
    started = [pid for path in tmp_path.glob("h?") for pid in wait_for(path)]
    results(executor, [Call("square", (1,), i) for i in range(2)])
    workers = children_of(os.getpid()) - before
    executor.close()
    assert len(started) == 4
    assert not any(is_running(pid) for pid in workers - resource_tracker_ids())
    assert eventually(lambda: not any(is_running(pid) for pid in started))
    assert_no_workers()


def resource_tracker_ids() -> set[int]:
    from multiprocessing import resource_tracker

    return {resource_tracker._resource_tracker._pid}


def test_a_dead_worker_is_noticed_while_its_child_holds_the_pipe(make, tmp_path, monkeypatch):
    monkeypatch.setattr("evonas.executors.pool.HEARTBEAT", 0.1)
    found = results(make("processes", 1), [Call("die_leaving_child", ("left",), "k")])
    assert (found["k"].status, found["k"].attempts) == ("crash", 2)
    assert "exit status 3" in found["k"].reason
    left = wait_for(tmp_path / "left")
    assert len(left) == 2
    assert eventually(lambda: not any(is_running(pid) for pid in left))


def test_a_worker_killed_while_idle_costs_no_attempt(make):
    executor = make("processes", 1)
    pid = results(executor, [Call("pid", (), "pid")])["pid"]
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not is_running(pid))
    again = results(executor, [Call("pid", (), "pid")])["pid"]
    assert again != pid
    assert executor.restarts == 1


def test_a_worker_that_was_ready_before_anybody_looked_is_not_late(make):
    """As after a Ctrl-Z, or where the first call comes long after the executor was made."""
    executor = make("processes", 1)
    (lane,) = executor._lanes
    assert multiprocessing.connection.wait([lane.worker.connection], PATIENCE)
    lane.since -= 1e6
    assert results(executor, [Call("square", (3,), "k")]) == {"k": 9}


def test_a_worker_that_does_not_start_keeps_no_other_from_working(make, monkeypatch):
    executor = make("processes", 2)
    both_up(executor)
    never_ready(executor, 1, monkeypatch)
    assert dict(executor.map_alone([Call("square", (3,), "k")], timeout=PATIENCE)) == {"k": 9}


def test_without_it_what_ran_out_of_memory_is_still_tried_alone(make, monkeypatch, capsys):
    executor = make("processes", 2)
    both_up(executor)
    never_ready(executor, 0, monkeypatch)
    assert dict(executor.map_alone([Call("square", (3,), "k")], timeout=PATIENCE)) == {"k": 9}
    assert "it goes on without" in capsys.readouterr().err
    found = results(executor, [Call("run_out_of_memory", ("m", "host", 2), "m"), Call("square", (2,), "s")])
    assert found["s"] == 4 and (found["m"].status, found["m"].attempts) == ("out_of_memory", 2)
    assert dict(executor.map_alone([Call("square", (4,), "k")], timeout=PATIENCE)) == {"k": 16}


def test_what_a_worker_died_of_that_does_not_come_back_is_done_by_another(make, monkeypatch):
    executor = make("processes", 2)
    both_up(executor)
    start = executor._new_worker

    def stopped(spare):
        worker = start(spare)
        os.kill(worker.process.pid, signal.SIGSTOP)
        return worker

    monkeypatch.setattr(executor, "_new_worker", stopped)
    monkeypatch.setattr("evonas.executors.pool.START_LIMIT", 0.5)
    monkeypatch.setattr("evonas.executors.pool.HEARTBEAT", 0.1)
    os.kill(executor._lanes[0].worker.process.pid, signal.SIGKILL)
    assert dict(executor.map_alone([Call("square", (3,), "k")], timeout=PATIENCE)) == {"k": 9}
    assert results(executor, [Call("square", (i,), i) for i in range(3)]) == {0: 0, 1: 1, 2: 4}
    assert executor.workers == 1


def test_a_worker_that_becomes_ready_while_another_is_given_up_is_gone_on_with(make, capsys):
    executor = make("processes", 2)
    late, other = executor._lanes
    os.kill(late.worker.process.pid, signal.SIGSTOP)
    while not any(lane is other and event.kind == "hello" for lane, event in executor._events(PATIENCE)):
        pass
    assert multiprocessing.connection.wait([other.worker.connection], PATIENCE)  # its "ready", which nobody has read
    late.since -= 1e6
    assert results(executor, [Call("square", (3,), "k")]) == {"k": 9}
    assert "it goes on without" in capsys.readouterr().err


def test_where_no_worker_starts_it_is_said(make, monkeypatch):
    executor = make("processes", 1)
    os.kill(executor._lanes[0].worker.process.pid, signal.SIGSTOP)
    monkeypatch.setattr("evonas.executors.pool.START_LIMIT", 0.5)
    monkeypatch.setattr("evonas.executors.pool.HEARTBEAT", 0.1)
    with pytest.raises(EvonasError, match=r"a worker was not ready after 0\.5 s"):
        results(executor, [Call("square", (3,), "k")])


def test_what_sigterm_does_is_not_rays_to_say():
    from evonas.executors.ray import _own_sigterm

    def ours(*_): ...

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with _own_sigterm():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_results_larger_than_a_pipe_come_through(make):
    big = list(range(200_000))
    executor = make("processes", 2)
    assert results(executor, [Call("change", (big,), i) for i in range(3)])[2] == [*big, "changed"]


def test_closing_in_the_order_of_use_never_mixes_runs(make):
    """Replies of an abandoned run must not be taken for those of the next."""
    executor = make("processes", 2)
    for start in range(3):
        calls = [Call("square", (i,), i) for i in range(start, start + 50)]
        iterator = executor.map(calls, timeout=PATIENCE)
        taken = list(itertools.islice(iterator, 5))
        iterator.close()
        assert all(result == key * key for key, result in taken)
    assert results(executor, [Call("square", (9,), 9)]) == {9: 81}
