"""Worker processes seen from outside: scripts of every kind, signals, and what is left when the parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import evonas

HERE = Path(__file__).parent
ROOT = Path(evonas.__file__).parents[1]
PATIENCE = 60.0

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

TARGET_IN_MODULE = """
from executor_targets import Target
"""

TARGET_IN_SCRIPT = """
class Target:
    def __init__(self, folder):
        pass

    def square(self, x):
        print("printed by a worker")
        return x * x
"""

RUN = """
with make_executor("processes", Target("."), 2) as executor:
    print(sorted(executor.map([Call("square", (i,), i) for i in range(3)])))
"""

GUARDED = 'if __name__ == "__main__":' + RUN.replace("\n", "\n    ")

HEAD = "from evonas.executors import Call, make_executor\n"

HANG = """
import sys, threading
from pathlib import Path
from executor_targets import Target
from evonas.executors import Call, make_executor

def search():
    executor = make_executor("processes", Target(Path(sys.argv[1])), 1)
    for _ in executor.map([Call("hang_with_child", ("hang",))]):
        pass

def in_thread():
    thread = threading.Thread(target=search)
    thread.start()
    thread.join()

{start}()
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}


def run_script(text: str, tmp_path: Path, stdin: bool = False, **more: str) -> subprocess.CompletedProcess:
    path = tmp_path / "script.py"
    path.write_text(text)
    command = [sys.executable, *([] if stdin else [str(path)])]
    options = {"capture_output": True, "text": True, "env": environment() | more, "timeout": PATIENCE, "cwd": tmp_path}
    return subprocess.run(command, input=text if stdin else None, **options)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def hanging(tmp_path):
    """hanging(start) -> (parent, worker id, id of a process that the worker started)."""
    started = []

    def _start(start: str):
        script = tmp_path / "hang.py"
        script.write_text(HANG.format(start=start))
        parent = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path)],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(parent.pid)
        assert eventually((tmp_path / "hang").exists)
        ids = [int(word) for word in (tmp_path / "hang").read_text().split()]
        started.extend(ids)
        return parent, *ids

    yield _start
    for pid in started:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("body", [RUN, GUARDED], ids=["unguarded", "guarded"])
def test_a_script_whose_target_is_in_a_module_needs_no_guard(tmp_path, body):
    done = run_script(HEAD + TARGET_IN_MODULE + body, tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("[(0, 0), (1, 1), (2, 4)]\n", "", 0)


def test_a_script_from_stdin(tmp_path):
    done = run_script(HEAD + TARGET_IN_MODULE + RUN, tmp_path, stdin=True)
    assert (done.stdout, done.stderr, done.returncode) == ("[(0, 0), (1, 1), (2, 4)]\n", "", 0)


def test_a_target_defined_in_a_guarded_script(tmp_path):
    done = run_script(HEAD + TARGET_IN_SCRIPT + GUARDED, tmp_path)
    assert (done.stdout, done.returncode) == ("[(0, 0), (1, 1), (2, 4)]\n", 0)
    assert done.stderr == 3 * "printed by a worker\n"


def test_a_target_defined_in_an_unguarded_script_is_told_to_add_a_guard(tmp_path):
    done = run_script(HEAD + TARGET_IN_SCRIPT + RUN, tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "script.py defines the target and starts the search when it is imported" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr
    assert done.stderr.count("Traceback") == 1  # the parent's only


def test_what_a_target_and_its_children_print_goes_to_stderr(tmp_path):
    done = run_script(HEAD + TARGET_IN_MODULE + RUN.replace('"square", (i,)', '"say", (f"said {i}",)'), tmp_path)
    assert done.stdout == "[(0, 'said 0'), (1, 'said 1'), (2, 'said 2')]\n"
    assert sorted(done.stderr.splitlines()) == ["said 0", "said 0", "said 1", "said 1", "said 2", "said 2"]


def test_what_several_workers_print_comes_in_whole_lines(tmp_path):
    chatter = RUN.replace('"square", (i,)', '"chatter", (f"said {i}", 20000)')
    done = run_script(HEAD + TARGET_IN_MODULE + chatter, tmp_path, PYTHONUNBUFFERED="1")
    lines = done.stderr.splitlines()
    assert sorted(set(lines)) == ["said 0", "said 1", "said 2"]
    assert len(lines) == 60000


def test_what_a_target_prints_goes_to_stderr_in_process_too(tmp_path):
    done = run_script(HEAD + TARGET_IN_SCRIPT + RUN.replace("processes", "serial"), tmp_path)
    assert (done.stdout, done.stderr) == ("[(0, 0), (1, 1), (2, 4)]\n", 3 * "printed by a worker\n")


@pytest.mark.parametrize("start", ["search", "in_thread"])
def test_workers_die_with_a_killed_parent(hanging, start):
    parent, worker, _ = hanging(start)
    parent.kill()
    parent.wait(PATIENCE)
    assert eventually(lambda: not is_running(worker))


def test_ctrl_c_is_for_the_parent(hanging):
    parent, worker, child = hanging("search")
    os.killpg(parent.pid, signal.SIGINT)  # what a terminal does
    _, stderr = parent.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in stderr
    assert stderr.count("Traceback") == 1
    assert eventually(lambda: not is_running(worker) and not is_running(child))


def test_an_executor_that_is_never_closed_does_not_hang_the_exit(tmp_path):
    text = HEAD + TARGET_IN_MODULE + RUN.replace("with make", "executor = make").replace(" as executor:", "\nif True:")
    done = run_script(text + "\nprint(*executor.map([Call('pid', ())]))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    pid = int(done.stdout.splitlines()[1].split()[-1].rstrip(")"))
    assert not is_running(pid)


HELD = """
import sys
from pathlib import Path
from executor_targets import Target
from evonas.executors import Call, make_executor, processes

processes.LEAVING = 1.0
with make_executor("processes", Target(Path("{folder}")), 1) as executor:
    for method, name in (("can_not_be_ended", "tracer"), ("pid", None)):
        for _, result in executor.map([Call(method, (name,) if name else ())], timeout=10):
            print(getattr(result, "status", result is not False), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs ptrace")
def test_a_worker_that_can_not_be_ended_is_left_behind(tmp_path):
    """As one that waits in the kernel, for a file server or a driver that does not answer."""
    try:
        done = run_script(HELD.format(folder=tmp_path), tmp_path)
    finally:
        if (tmp_path / "tracer").exists():
            os.kill(int((tmp_path / "tracer").read_text()), signal.SIGKILL)
    if done.stdout.startswith("False"):
        pytest.skip("tracing is not allowed here")
    assert (done.stdout, done.returncode) == ("timeout\nTrue\n", 0), done.stderr
    assert done.stderr.count("can't be ended") == 1
