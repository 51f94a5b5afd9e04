"""What ``tools/torture.py`` does to runs: a small real search in a process of its own, and what to compare of it."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from evonas.errors import EvonasError
from evonas.evolution import AsynchronousEngine, Engine
from evonas.executors import make_executor
from evonas.fitness import ProxyEvaluator
from evonas.genome import read_space, space_to_dict
from evonas.record import Measure, Outcome, objective
from evonas.search import AsynchronousSearch, Listener, Search
from evonas.store import Store
from evonas.store import store as store_module

GOALS = ("loss", "flops")  # deterministic: a run that was killed must end as one that was not
CONTEXT, TOKENS, RUNGS = 16, 1024, 2
SPACE = """\
schema = 1
name = "tiny"
[genes]
n_layers = { low = 1, high = 2 }
d_model = [16, 32]
norm = ["layernorm", "rmsnorm"]
activation = ["gelu", "swiglu"]
position = ["learned", "rope"]
tied_embeddings = [true, false]
learning_rate = { low = 1e-3, high = 3e-2, log = true }
batch_size = [4, 8]
dropout = [0.0, 0.1]
optimizer = ["adamw", "muon"]
[layers]
n_heads = [1, 2]
n_kv_heads = [1, 2]
window = [8, "full"]
kv_rank = [4, "none"]
ffn_ratio = [1.0, 2.0]
"""
WORDS = "the cat sat on a mat and saw how the rain ran down over some old roof until it was dark".split()
FAULTS = ("error", "non_finite", "out_of_memory", "crash", "timeout")
DONE, REFUSED, BROKEN = 0, 3, 4  # how the process of a run ends: done, with an EvonasError, with anything else


def write_inputs(folder: Path) -> None:
    """The space, and some 12 kB of words: enough for a real training of 20 ms."""
    (folder / "tiny.toml").write_text(SPACE)
    draw = random.Random(0)
    (folder / "words.txt").write_text(" ".join(draw.choice(WORDS) for _ in range(3000)))


class Faulty:
    """``evaluator``, but that one genome in ten comes to harm in training, by its id: for real, or (``pretend``) as a
    record that only says so."""

    def __init__(self, evaluator: ProxyEvaluator, pretend: bool) -> None:
        self.evaluator, self.pretend = evaluator, pretend
        self.rungs, self.exact_names = evaluator.rungs, evaluator.exact_names
        self.measured_names, self.trained_names = evaluator.measured_names, evaluator.trained_names
        self.exact, self.measure, self.retain = evaluator.exact, evaluator.measure, evaluator.retain

    def train(self, genome, rung: int) -> Outcome:
        number = int(genome.id, 16) % (10 * len(FAULTS))
        if number >= len(FAULTS):
            return self.evaluator.train(genome, rung)
        status = FAULTS[number]
        if self.pretend:
            return Outcome(status, reason="as if")
        if status == "error":
            raise ValueError("a bug in the user's task")
        if status == "out_of_memory":
            return [bytearray(2**50)]  # more than any machine has
        if status == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if status == "timeout":
            time.sleep(3600)
        return Outcome(measures={"loss": Measure(float("nan"), 0.0, f"{self.rungs[rung]} tokens", "cpu")})


class Acknowledge(Listener):
    """Says through a pipe what is on the disk by the store's word."""

    def __init__(self, fd: int) -> None:
        self.fd, self._write = fd, os.write  # the real one, whatever is put in its place later

    def evaluated(self, record) -> None:
        self._write(self.fd, f"{record.genome_id} {record.generation} {record.index}\n".encode())


def play(
    inputs: Path, folder: Path, generations: int, *, listener: Listener | None = None, workers: int = 0,
    wrap: Callable = lambda evaluator: evaluator, timeout: float | None = None, seldom: bool = False,
    asynchronous: bool = False,
) -> None:  # fmt: skip
    """Start the run in ``folder`` or go on with it, in this process or in ``workers``. ``seldom`` has commits wait in
    the journal as they do in a long run; ``asynchronous`` workers do not wait for each other."""
    if seldom:
        store_module.MERGE_ALWAYS, store_module.MERGE_FROM, store_module.MERGE_SHARE = 0, 12, 0.5
    evaluator = ProxyEvaluator(
        "text", str(inputs / "words.txt"), CONTEXT, needs=GOALS, tokens=TOKENS, rungs=RUNGS, validation_tokens=160,
        checkpoints=str(folder / "weights"),
    )  # fmt: skip
    target = wrap(evaluator)
    space = read_space(str(inputs / "tiny.toml")).bounded(CONTEXT)
    engine = (AsynchronousEngine if asynchronous else Engine)(
        space, [objective(n) for n in GOALS], population_size=6, offspring_size=4, seed=1, rungs=RUNGS,
        known=evaluator.known, surrogate=True,
    )  # fmt: skip
    header = {"objectives": [vars(o) for o in engine.objectives], "space": space_to_dict(space), "seed": 1}
    exists = (folder / "population.h5").exists()
    with (
        make_executor("processes" if workers else "serial", target, workers or 1, {"OMP_NUM_THREADS": "1"}) as executor,
        Store.open(folder, write=True) if exists else Store.create(folder, header) as store,
    ):
        kind = AsynchronousSearch if asynchronous else Search
        kind(engine, store, executor, target, listener=listener, timeout=timeout).run(generations)


class Run:
    """``play`` in a forked process; this one has torch imported already, so that it starts in milliseconds."""

    def __init__(self, inputs: Path, folder: Path, generations: int, before: Callable = lambda: None, **how) -> None:
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writer)
            self.status: int | None = None
            return
        os.close(self._reader)
        code = BROKEN
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            listener = Acknowledge(writer)
            before()
            play(inputs, folder, generations, listener=listener, **how)
            code = DONE
        except EvonasError as error:
            complaint = f"{error.message} {error.hint}".replace("\n", " ")
            os.write(writer, f"error {complaint}\n".encode())
            code = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def alive(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """How it ended: DONE, REFUSED, BROKEN, or minus the signal."""
        if self.status is None:
            _, self.status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(self.status)

    def said(self) -> list[tuple[str, ...]]:
        """All it has acknowledged: (genome id, generation, index); of an EvonasError its message. After its end."""
        with open(self._reader, "rb") as file:
            lines = file.read().decode().splitlines(keepends=True)
        return [tuple(line.split()) for line in lines if line.endswith("\n")]

    def workers(self) -> list[int]:
        """Process ids of its children."""
        found = []
        for path in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, path.read_text().split())
        return found


def gone(pids: list[int], seconds: float = 10.0) -> int:
    """How many of these processes are still there after that time."""
    end = time.monotonic() + seconds
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists() and _state(pid) != "Z"]:
        if time.monotonic() > end:
            return len(left)
        time.sleep(0.02)
    return 0


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return "Z"


def lost(folder: Path, said: list[tuple[str, ...]]) -> int:
    """How many acknowledged evaluations the run does not hold. Raises EvonasError where it can't be read."""
    if all(line[0] == "error" for line in said):
        return 0
    held = {(r.genome_id, str(r.generation), str(r.index)) for r in Store.open(folder).records}
    return len({line for line in said if line[0] != "error"} - held)


def digest(folder: Path) -> tuple:
    """All that a run found, but for what it cost and when, in an order that does not depend on who finished first."""
    store = Store.open(folder)
    records = []
    for record in sorted(store.records, key=lambda r: (r.generation, r.index)):
        entry = store.genomes[record.genome_id]
        data = {k: v for k, v in record.to_dict().items() if k not in ("cost", "reason")}
        records.append((data, dict(entry.genome), entry.parents, entry.operator))
    noted = ("generation", "front_size", "hypervolume", "best", "credit", "surrogate")
    rows = [{k: g.get(k) for k in noted} for g in store.generations]
    return records, rows, [store.population(g["generation"]) for g in store.generations], store.front_ids()


def misplaced(folder: Path) -> int:
    """How many results of an asynchronous run do not count, or were paid for twice: every one of a finished generation
    has a place in it, and a genome is trained once at each rung."""
    store = Store.open(folder)
    asked = {(row["generation"], *place) for row in store.generations for place in map(tuple, row["asked"])}
    found = Counter(
        (r.generation, r.index, r.genome_id) for r in store.records if r.generation < len(store.generations)
    )
    rungs = Counter((r.genome_id, r.measures["loss"].fidelity) for r in store.records if r.ok)
    return len(set(found) ^ asked) + sum(n - 1 for counts in (found, rungs) for n in counts.values())


class KillAt:
    """Stands in for the calls through which the store writes; at the n-th the process dies: before the call, after it,
    or, of a write, after half of the bytes. With ``n`` 0 they are only counted, in ``count``."""

    CALLS = ((os, "write"), (os, "fsync"), (os, "replace"), (os, "ftruncate"), (shutil, "copyfile"))

    def __init__(self, n: int, when: str, count: Path | None = None) -> None:
        self.n, self.when, self.count, self.calls = n, when, count, 0

    def __call__(self) -> None:
        for module, name in self.CALLS:
            setattr(module, name, self._stand_in(getattr(module, name), name))

    def _stand_in(self, real: Callable, name: str) -> Callable:
        def call(*args, **named):
            self.calls += 1
            if self.count is not None:
                self.count.write_text(str(self.calls))
            if self.calls == self.n:
                if self.when == "after":
                    real(*args, **named)
                elif self.when == "half" and name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **named)

        return call


def no_file_beyond(size: int) -> Callable:
    """A disk that takes no file of more bytes than that, also from HDF5's own C code."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
