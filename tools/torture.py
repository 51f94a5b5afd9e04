"""Kill it anywhere, fill its disk, harm its candidates: does a run lose anything?

    python tools/torture.py
    python tools/torture.py --quick
    python tools/torture.py --part kills --kills 1000

Every part plays real searches (transformers of 20 ms of training each, two rungs, by loss and FLOPs, which are
deterministic), and compares all that they found with the same search left alone.

kills    SIGKILL at random moments: of a search in one process; of the main process of one with two workers, of a
         worker, of all together. A run is killed again and again, also while it resumes. What it had acknowledged must
         be there after every kill, and the end must be the same to the last digit
flow     the same of a search whose workers do not wait for each other; what it finds depends on who was faster, so that
         instead of the end it is compared who counts: every result, each in one place, none trained twice
writes   SIGKILL at every call in turn through which the store writes: before it, after it, half through
disk     no file may grow beyond so many bytes, for many sizes: a clear error, and then the same end. It is the
         operating system that refuses, so HDF5's own writes are refused as well
faults   one genome in ten raises, returns NaN, asks for a petabyte, kills its worker or hangs: the counts must be those
         of the injected faults and the run must go as if the records had only said so
signals  the command line: Ctrl-C once, twice, to the whole group, SIGTERM; a second writer; a run folder that is
         removed or renamed underneath

Linux only (it reads /proc). Ends in JSON; exit status 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
from torture_runs import (
    BROKEN,
    CONTEXT,
    DONE,
    FAULTS,
    REFUSED,
    TOKENS,
    Faulty,
    KillAt,
    Run,
    digest,
    gone,
    lost,
    misplaced,
    no_file_beyond,
    write_inputs,
)  # fmt: skip

from evonas.errors import EvonasError
from evonas.store import Store

GENERATIONS = 8
KILLS_PER_RUN = 14  # then it may end
IN_ONE_PROCESS = 0.7  # share of the runs that are killed


def alone(inputs: Path, folder: Path, generations: int = GENERATIONS, **how) -> tuple[tuple, float]:
    """(digest, seconds) of a run that nothing happens to."""
    started = time.monotonic()
    run = Run(inputs, folder, generations, **how)
    code = run.wait()
    assert code == DONE, f"the undisturbed run ended with {code}: {run.said()}"
    return digest(folder), time.monotonic() - started


def kills(inputs: Path, folder: Path, options) -> dict:
    return _killed(inputs, folder, options, asynchronous=False)


def flow(inputs: Path, folder: Path, options) -> dict:
    return _killed(inputs, folder, options, asynchronous=True)


def _killed(inputs: Path, folder: Path, options, asynchronous: bool) -> dict:
    draw = random.Random(options.seed)
    expected, seconds = alone(inputs, folder / "alone", asynchronous=asynchronous)
    none = dict.fromkeys(("one process", "main", "worker", "all"), 0)
    counts = {"kills": none, "runs": 0, "lost": 0, "unreadable": 0, "different": 0, "orphans": 0}
    while sum(counts["kills"].values()) < options.kills:
        target, killed = folder / f"run{counts['runs']}", 0
        # Most runs in one process; a worker takes seconds to import torch.
        single = options.quick or draw.random() < options.alone
        kinds = ["one process"] if single else ["main", "worker", "all"]
        seldom = draw.random() < 0.5
        while True:
            mode = draw.choice(kinds)
            how = {"workers": 0 if mode == "one process" else 2, "seldom": seldom, "asynchronous": asynchronous}
            run = Run(inputs, target, GENERATIONS, **how)
            if killed < (min(KILLS_PER_RUN, options.kills) if mode == "one process" else 3):
                killed += _kill(run, mode, seconds, draw, counts)
            code = run.wait()
            try:
                counts["lost"] += lost(target, run.said())
            except EvonasError as error:
                print(f"  unreadable: {error.message}", flush=True)
                counts["unreadable"] += 1
                break
            if code == DONE:
                counts["different"] += misplaced(target) if asynchronous else digest(target) != expected
                break
            assert code == -signal.SIGKILL, f"a run ended with {code}"
        counts["runs"] += 1
        shutil.rmtree(target)
        _say(f"{'flow' if asynchronous else 'kills'}: {sum(counts['kills'].values())} of {options.kills}, {counts}")
    return counts


def _kill(run: Run, mode: str, seconds: float, draw: random.Random, counts: dict) -> int:
    """Kill it after a while, if it has not ended before; returns 1 if so."""
    time.sleep(draw.uniform(0, 0.3 * seconds if mode == "one process" else 8.0))
    workers = run.workers()
    if not run.alive():
        return 0
    counts["kills"][mode] += 1
    if mode == "worker" and workers:  # once: what kills two workers is taken for the candidate's fault
        with contextlib.suppress(ProcessLookupError):
            os.kill(draw.choice(workers), signal.SIGKILL)
        return 1
    run.kill()
    if mode == "all":
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    counts["orphans"] += gone(workers)
    return 1


def _resume(
    run: Run, inputs: Path, target: Path, generations: int, seldom: bool, expected: tuple, counts: dict
) -> None:
    """Count what a run that has ended lost, and whether it ends as expected when it goes on; then remove it."""
    try:
        counts["lost"] += lost(target, run.said())
        done = Run(inputs, target, generations, seldom=seldom).wait() == DONE
        counts["different"] += not done or digest(target) != expected
    except EvonasError as error:
        print(f"  unreadable: {error.message}", flush=True)
        counts["unreadable"] += 1
    shutil.rmtree(target, ignore_errors=True)


def writes(inputs: Path, folder: Path, options) -> dict:
    counts = {"calls": 0, "kills": 0, "lost": 0, "unreadable": 0, "different": 0}
    for seldom in (False, True):
        generations = 4
        expected, _ = alone(inputs, folder / f"alone{seldom}", generations, seldom=seldom)
        count = folder / "count"
        alone(inputs, folder / f"counted{seldom}", generations, seldom=seldom, before=KillAt(0, "", count))
        calls = int(count.read_text())
        counts["calls"] += calls
        for n in range(1, calls + 1, options.every):
            for when in ("before", "half", "after"):
                target = folder / "run"
                run = Run(inputs, target, generations, seldom=seldom, before=KillAt(n, when))
                code = run.wait()
                assert code == -signal.SIGKILL, f"call {n} of {calls}: the run ended with {code}"
                counts["kills"] += 1
                _resume(run, inputs, target, generations, seldom, expected, counts)
            _say(f"writes: call {n} of {calls}, {counts}")
    return counts


def disk(inputs: Path, folder: Path, options) -> dict:
    counts = {"sizes": 0, "refused": 0, "broken": 0, "lost": 0, "unreadable": 0, "different": 0}
    for seldom in (False, True):
        expected, _ = alone(inputs, folder / f"alone{seldom}", seldom=seldom)
        largest = max(p.stat().st_size for p in (folder / f"alone{seldom}").glob("*") if p.is_file())
        sizes = range(500, largest, max(1, largest // options.sizes))
        for size in sizes:
            target = folder / "run"
            run = Run(inputs, target, GENERATIONS, seldom=seldom, before=no_file_beyond(size))
            code = run.wait()
            counts["sizes"] += 1
            counts["refused"] += code == REFUSED
            counts["broken"] += code == BROKEN
            _resume(run, inputs, target, GENERATIONS, seldom, expected, counts)
            _say(f"disk: {size} of {largest} bytes, {counts}")
    return counts


def faults(inputs: Path, folder: Path, options) -> dict:
    pretended, _ = alone(inputs, folder / "as-if", options.generations, wrap=lambda e: Faulty(e, True))
    how = {
        "wrap": lambda e: Faulty(e, False),
        "workers": 2,
        "timeout": 30.0,
    }  # a fresh worker imports torch in its first call
    found, seconds = alone(inputs, folder / "real", options.generations, **how)
    statuses = [[row[0]["status"] for row in records] for records, *_ in (pretended, found)]
    injected = {status: statuses[0].count(status) for status in FAULTS}
    counted = {status: statuses[1].count(status) for status in FAULTS}
    _say(f"faults: {counted} in {options.generations} generations, {seconds:.0f} s")
    return {
        "generations": len(found[1]), "evaluations": len(statuses[1]), "injected": injected, "counted": counted,
        "different": int(found != pretended),
    }  # fmt: skip


def signals(inputs: Path, folder: Path, options) -> dict:
    counts = {"tried": 0, "wrong_exit": 0, "no_hint": 0, "tracebacks": 0, "orphans": 0, "unreadable": 0, "lost": 0}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    shared = set(os.listdir("/dev/shm"))
    interrupts = {
        "once": [signal.SIGINT], "twice": [signal.SIGINT, signal.SIGINT], "term": [signal.SIGTERM],
        "group": [signal.SIGINT], "removed": [], "renamed": [],
    }  # fmt: skip
    for repeat in range(options.repeats):
        for name, sent in interrupts.items():
            run = f"{name}{repeat}"
            command = [
                sys.executable, "-m", "evonas", "evolve", "--data", str(inputs / "words.txt"), "--space",
                str(inputs / "tiny.toml"), "--context", str(CONTEXT), "--tokens", str(TOKENS), "--rungs", "2",
                "--objective", "loss", "--objective", "flops", "--generations", "5000", "--run", run, "--workers", "2",
            ]  # fmt: skip
            process = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
            path = folder / "runs" / run
            before = _wait_for(path, 8 + 5 * repeat)
            workers = [
                int(p) for f in Path(f"/proc/{process.pid}/task").glob("*/children") for p in f.read_text().split()
            ]
            if name == "once":
                counts["wrong_exit"] += _second_writer_is_let_in(folder, run, process.pid)
            for number in sent:
                os.killpg(process.pid, number) if name == "group" else process.send_signal(number)
                time.sleep(0.05)
            while name == "removed" and path.exists():  # the run may write into it between two of our steps
                shutil.rmtree(path, ignore_errors=True)
            if name == "renamed":
                path.rename(path.with_name(run + "-moved"))
            _, errors = process.communicate(timeout=120)
            counts["tried"] += 1
            counts["wrong_exit"] += process.returncode != (130 if sent else 1)
            counts["no_hint"] += bool(sent) and f"evonas resume {run}" not in errors
            counts["tracebacks"] += "Traceback" in errors
            counts["orphans"] += gone(workers)
            if name != "removed":
                try:
                    held = len(Store.open(path if name != "renamed" else path.with_name(run + "-moved")).records)
                    counts["lost"] += max(0, before - held)
                except EvonasError:
                    counts["unreadable"] += 1
            _say(f"signals: {name}, exit {process.returncode}, {counts}")
    counts["shared_memory_left"] = len(set(os.listdir("/dev/shm")) - shared)
    return counts


def _wait_for(run: Path, evaluations: int) -> int:
    """Wait until the run holds so many; returns how many it held then."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(EvonasError, OSError):
            if (run / "population.h5").exists() and (held := len(Store.open(run).records)) >= evaluations:
                return held
        time.sleep(0.1)
    raise SystemExit(f"{run.name} did not start")


def _second_writer_is_let_in(folder: Path, run: str, pid: int) -> bool:
    command = [sys.executable, "-m", "evonas", "resume", run, "--generations", "9000"]
    second = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return second.returncode == 0 or str(pid) not in second.stderr or "Traceback" in second.stderr


PARTS = {"kills": kills, "flow": flow, "writes": writes, "disk": disk, "faults": faults, "signals": signals}
BAD = (
    "lost",
    "unreadable",
    "different",
    "orphans",
    "broken",
    "wrong_exit",
    "no_hint",
    "tracebacks",
    "shared_memory_left",
)
_last_said = 0.0


def _say(text: str) -> None:
    """Progress, not more often than every five seconds."""
    global _last_said
    if time.monotonic() - _last_said > 5:
        _last_said = time.monotonic()
        print(f"  {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="repeatable; all of them without")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--alone", type=float, default=IN_ONE_PROCESS, help="share of killed runs in one process")
    parser.add_argument("--every", type=int, default=1, help="of the write calls, only every so many")
    parser.add_argument("--sizes", type=int, default=40, help="of the full disk")
    parser.add_argument("--generations", type=int, default=20, help="of the run with faults")
    parser.add_argument("--repeats", type=int, default=2, help="of every signal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few of everything: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.kills, options.every, options.sizes, options.repeats = 6, 60, 2, 1
    import torch

    torch.set_num_threads(1)  # a fork must not inherit a thread pool
    results, bad = {}, 0
    with tempfile.TemporaryDirectory() as temporary:
        write_inputs(Path(temporary))
        for part in options.part or PARTS:
            folder = Path(temporary) / part
            folder.mkdir()
            started = time.monotonic()
            results[part] = PARTS[part](Path(temporary), folder, options)
            results[part]["seconds"] = round(time.monotonic() - started, 1)
            found = sum(results[part].get(name, 0) for name in BAD)
            found += results[part].get("injected") != results[part].get("counted")
            bad += found
            print(f"{part:8} {'ok' if not found else 'FAILED'}  {results[part]}", flush=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "h5py": h5py.__version__}
    print(
        json.dumps(
            {"benchmark": "torture", "quick": options.quick, "seed": options.seed, "versions": versions, **results}
        )
    )
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
