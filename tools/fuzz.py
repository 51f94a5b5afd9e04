"""Every reader of outside input against hostile input: only an EvonasError may come out, soon, in bounded memory.

    python tools/fuzz.py
    python tools/fuzz.py --reader population --inputs 1000 --seed 7
    python tools/fuzz.py --quick

Good inputs (the shipped genomes and spaces, configs of every family, small runs and weights made here) are damaged in
their bytes and in their structure (``tools/fuzz_inputs.py``), written to a file and read as the command line reads them
(``tools/fuzz_readers.py``). Input k of a reader depends on the seed, the reader and k alone.

accepted    inputs that were still good; refused: an EvonasError, or the word of a reader that returns one for "no"
tracebacks  any other exception, or an error message of more than 10,000 characters
hangs       more than 5 s for one input, 2 s for a run
memory      more than 1 GiB of address space on top of what the reader needs by itself, whether the attempt fails
            openly or a reader takes its MemoryError for a damaged file
crashes     the process died: a fault in C code
isolated    no finding: HDF5 itself crashed, stuck or ran out of memory while a run's file was read. ``Store.open`` has
            an unknown file read by a child first (``evonas/store/probe.py``), and refuses it where the child does not
            survive; here the worker is that child
peak MB     most memory that was resident while an input was read, Python and libraries included

Each reader runs in a process that forks a worker, so that a crash or a hang in C code costs one input: the parent notes
it and forks again at the next one. The first input of every kind of finding is kept in the folder named at the end.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked worker has no other threads

import h5py
import numpy as np
from fuzz_readers import READERS, Reader

from evonas.errors import EvonasError

INPUTS, QUICK = 100_000, 300
GRACE = 0.5  # s after a reader's patience until a worker that does not answer is killed: it is stuck in C code
MEMORY = 2**30  # bytes of address space a worker may add
LONGEST = 10_000  # characters of an error message
KINDS = ("accepted", "refused", "isolated", "traceback", "hang", "memory", "crash", "unmade")
NEXT, STARTED, MAKING, PEAK = range(len(KINDS), len(KINDS) + 4)  # places in the shared counters after KINDS
_NO_MEMORY = "memory allocation failed"  # in HDF5's words


class TimeUp(BaseException):
    """Not an Exception: no reader may take it for a damaged file."""


class Findings:
    """One line per kind of finding in ``findings.jsonl``, its first input beside it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.path = folder, name, folder / "findings.jsonl"
        self.seen: set[tuple[str, str, str]] = set()
        self.refresh()

    def refresh(self) -> None:
        """Take in what another process has added."""
        self.seen = {(f["reader"], f["kind"], f["what"]) for f in self.all()}

    def all(self) -> list[dict]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def add(self, k: int, kind: str, what: str, detail: str, source: Path) -> None:
        if (self.name, kind, what) in self.seen:
            return
        self.seen.add((self.name, kind, what))
        kept = f"{self.name}-{k}{source.suffix}"
        shutil.copyfile(source, self.folder / kept)
        row = {"reader": self.name, "kind": kind, "what": what, "input": kept, "detail": detail}
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")


def draw(seed: int, name: str, k: int) -> Random:
    return Random(f"{seed}/{name}/{k}")


def attempt(reader: Reader, k: int) -> tuple[str, BaseException | None]:
    """What became of input k, which lies in its file."""
    try:
        with time_limit(reader.patience):
            return ("accepted" if reader.read(k) else "refused"), None
    except EvonasError as error:
        if out_of_memory(error):
            inside = any(f.name == reader.isolated for f in traceback.extract_tb(error.__traceback__))
            return ("isolated", None) if inside else ("memory", error)
        return ("refused", None) if len(str(error)) <= LONGEST else ("traceback", error)
    except TimeUp as error:
        return "hang", error
    except MemoryError as error:
        return "memory", error
    except Exception as error:
        return "traceback", error


def out_of_memory(error: BaseException) -> bool:
    """Whether what lies below an error is that there was no memory left: without a limit it would have been taken."""
    while (error := error.__cause__ or error.__context__) is not None:
        if isinstance(error, MemoryError) or _NO_MEMORY in str(error):
            return True
    return False


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_) -> None:
        raise TimeUp(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def where(error: BaseException) -> str:
    """``ValueError at build.py:95 rungs``: the innermost line of evonas and what it raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "evonas" in f.filename and "fuzz" not in f.filename] or frames
    return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"


# -- the worker -------------------------------------------------------------------------------------------------------


def work(reader: Reader, name: str, seed: int, last: int, until: float, counts, findings: Findings) -> None:
    """Inputs from counts[NEXT] on, in this process."""
    limit_memory()
    warnings.simplefilter("error", RuntimeWarning)  # numpy's: lines on the screen that tell a user nothing
    while counts[NEXT] < last and time.monotonic() < until:
        k = counts[NEXT]
        counts[STARTED], counts[MAKING] = time.monotonic_ns(), 1
        reader.write(k, draw(seed, name, k))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: making an input takes memory too
        counts[STARTED], counts[MAKING] = time.monotonic_ns(), 0
        kind, error = attempt(reader, k)
        counts[STARTED] = 0
        counts[KINDS.index(kind)] += 1
        if error is not None:
            detail = "".join(traceback.format_exception(error))[-4_000:]
            findings.add(k, kind, where(error), detail, reader.path)
        counts[PEAK] = max(counts[PEAK], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        counts[NEXT] = k + 1


def limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


# -- its parent -------------------------------------------------------------------------------------------------------


def supervise(name: str, options: argparse.Namespace, kept: str, answer) -> None:
    """All inputs of one reader; runs in a process of its own and sends back a row of the table."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=options.scratch)).resolve()
    try:
        reader, findings = READERS[name](folder), Findings(Path(kept), name)
        os.chdir(folder)  # some inputs have HDF5 make files of its own beside it
        counts = multiprocessing.RawArray("q", PEAK + 1)
        counts[PEAK] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun, until = time.monotonic(), time.monotonic() + options.seconds
        while counts[NEXT] < options.inputs and time.monotonic() < until:
            fork_worker(reader, name, options, until, counts, findings)
        row = {"reader": name, **dict(zip(KINDS, counts))}
        row["inputs"] = counts[NEXT] - row["unmade"]
        row |= {"seconds": time.monotonic() - begun, "peak_mb": counts[PEAK] * 1024 / 1e6}
        answer.send(row)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fork_worker(reader, name, options, until, counts, findings) -> None:
    """One worker until it is done or dies; what it died of is counted and the next input is the one after it."""
    trace = reader.folder / "trace"
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with open(trace, "w") as file:
                faulthandler.enable(file)
                faulthandler.register(signal.SIGUSR1, file)
                work(reader, name, options.seed, options.inputs, until, counts, findings)
            status = 0
        except BaseException:  # the fuzzer itself is wrong
            traceback.print_exc()
        finally:
            os._exit(status)
    stuck = watch(pid, counts, reader.patience + GRACE)
    _, status = os.waitpid(pid, 0)
    findings.refresh()
    if os.WIFEXITED(status):
        if os.WEXITSTATUS(status):
            raise SystemExit(f"the fuzzer failed at input {counts[NEXT]} of {name}")
        return
    k, kind, detail = counts[NEXT], "hang" if stuck else "crash", trace.read_text()
    if counts[MAKING] or (reader.isolated and f" in {reader.isolated}\n" in detail):
        counts[KINDS.index("unmade" if counts[MAKING] else "isolated")] += 1
        counts[STARTED], counts[NEXT] = 0, k + 1
        return
    places = [line.split('"')[1::2] + line.split(" in ")[1:] for line in detail.splitlines() if "/evonas/" in line]
    at = " ".join((Path(places[0][0]).name, places[0][-1])) if places else "nowhere known"
    findings.add(k, kind, f"signal {os.WTERMSIG(status)} at {at}", detail[:4_000], reader.path)
    counts[KINDS.index(kind)] += 1
    counts[STARTED], counts[NEXT] = 0, k + 1


def watch(pid: int, counts, patience: float) -> bool:
    """Wait for the worker to end; kills one that is stuck where no signal handler runs, and then returns True."""
    while True:
        # Left to be waited for: its status is read by the caller.
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        started = counts[STARTED]
        if started and time.monotonic_ns() - started > 1e9 * patience:
            os.kill(pid, signal.SIGUSR1)  # it writes where it is
            time.sleep(0.1)
            os.kill(pid, signal.SIGKILL)
            return True
        time.sleep(0.05)


def fuzz(name: str, options: argparse.Namespace, kept: str) -> dict:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=supervise, args=(name, options, kept, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit(f"fuzzing {name} ended without an answer") from None
    finally:
        process.join()


def show(row: dict) -> None:
    print(
        f"{row['reader']:<12}{row['inputs']:>9,}{row['accepted']:>10,}{row['refused']:>9,}{row['isolated']:>10,}"
        f"{row['traceback']:>12,}{row['hang']:>7,}{row['memory']:>8,}{row['crash']:>9,}{row['seconds']:>9.0f}"
        f"{row['peak_mb']:>9.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--reader", choices=list(READERS), action="append", help="may be given several times; default: all"
    )
    parser.add_argument("--inputs", type=int, default=INPUTS, help="per reader")
    parser.add_argument("--seconds", type=float, default=3600.0, help="per reader, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", help="folder for the inputs; best one in memory")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} inputs per reader: does it run?")
    options = parser.parse_args()
    if options.scratch:
        Path(options.scratch).mkdir(parents=True, exist_ok=True)
    if options.quick:
        options.inputs = min(options.inputs, QUICK)
    kept = tempfile.mkdtemp(prefix="evonas-fuzz-")
    print("reader         inputs  accepted  refused  isolated  tracebacks  hangs  memory  crashes  seconds  peak MB")
    rows = []
    for name in options.reader or READERS:
        rows.append(fuzz(name, options, kept))
        show(rows[-1])
        made, unmade = rows[-1]["inputs"], rows[-1]["unmade"]
        if unmade:
            print(f"  {name}: {unmade:,} more could not be made, since HDF5 died or stuck while it changed a file")
        if made + unmade < options.inputs:
            print(f"  {name}: only {made:,} of {options.inputs:,} inputs in {options.seconds:g} s")
    findings = Findings(Path(kept), "").all()
    for f in findings:
        print(f"{f['reader']}: {f['kind']}, {f['what']} ({kept}/{f['input']})")
    if not findings:
        shutil.rmtree(kept)
    versions = {"python": platform.python_version(), "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version}
    versions["numpy"] = np.__version__
    result = {"check": "fuzz", "quick": options.quick, "seed": options.seed, "memory_bound_mb": MEMORY / 1e6}
    print(json.dumps({**result, "versions": versions, "rows": rows, "findings": findings}))
    raise SystemExit(1 if findings else 0)


if __name__ == "__main__":
    main()
