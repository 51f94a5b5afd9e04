"""What a run costs its disk as it grows: appending an evaluation, committing a generation, opening, reporting.

    python tools/bench_store.py
    python tools/bench_store.py --quick

A run of real genomes of the space text-cpu (mutants of each other) with records as a search makes them: loss, latency,
cost, provenance; eight evaluations a generation, a population of sixteen. It grows to 1,000, 10,000 and 100,000
evaluations; at each size whole generations are written through the public ``Store`` and timed:

append   ms to make one evaluation durable, median
commit   ms of a commit, median; then the mean from one merge into population.h5 to a later one, and the longest
sqlite   ms in which the sqlite3 module makes the same evaluation durable (WAL, synchronous=FULL), and a generation:
         what a database in place of our files would take, of as many rows
open     s of Store.open for reading, half-way between two merges; report: s of ``build_report`` on it
files    MB of population.h5 and of the journal at that moment

What is between the sizes is written by the store's own reader and writer as well, in larger generations. The disk is
the one that the temporary folder lies on (--folder names another).
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from evonas.evolution import mutate
from evonas.genome import read_space, space_to_dict
from evonas.record import Measure, Record, objective
from evonas.report import build_report
from evonas.store import Store

OFFSPRING, POPULATION, BULK, SEED = 8, 16, 1000, 0
PROVENANCE = {"device": "cpu", "threads": 1, "torch": "2.13.0", "precision": "bfloat16", "times_measured": 1}


class Source:
    """Genomes and records without end."""

    def __init__(self, seed: int) -> None:
        self.space, self.rng = read_space("text-cpu"), np.random.default_rng(seed)
        self.genome, self.seen = self.space.sample(self.rng), set()

    def draw(self, generation: int, index: int):
        parent = self.genome
        while self.genome.id in self.seen:
            self.genome = mutate(self.genome, self.space, self.rng)[0]
        self.seen.add(self.genome.id)
        loss, latency = 1.5 + self.rng.random(), 0.2 + self.rng.random()
        measures = {
            "loss": Measure(loss, 0.01, "16384 tokens", "cpu"),
            "latency": Measure(latency, 0.02, "measured", "cpu"),
        }
        cost = {"seconds": float(self.rng.random()), "tokens": 16384.0}
        record = Record(self.genome.id, generation, index, "ok", measures, "", cost, PROVENANCE)
        return self.genome, record, () if parent is self.genome else (parent.id,)


def generation(store: Store, source: Source, number: int, size: int) -> tuple[list[float], float]:
    """(seconds of each append, seconds of the commit) of one more generation, whose members are the latest genomes."""
    drawn = [source.draw(number, k) for k in range(size)]
    appends, members = [], store.population() if store.generations else []
    for genome, record, parents in drawn:
        started = time.perf_counter()
        store.append(genome, record, parents, "scale")
        appends.append(time.perf_counter() - started)
    members += [genome.id for genome, *_ in drawn]
    row = {"generation": number, "hypervolume": 0.5, "front_size": 3, "rng": {"seed": 0, "next_generation": number + 1}}
    started = time.perf_counter()
    store.commit(row, members[-POPULATION:])
    return appends, time.perf_counter() - started


class Sqlite:
    """The same rows as text in two tables."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("pragma journal_mode=wal")
        self.connection.execute("pragma synchronous=full")
        self.connection.execute("create table evaluations (id text, genome text, record text)")
        self.connection.execute("create table generations (number integer, row text)")

    @property
    def rows(self) -> int:
        return self.connection.execute("select count(*) from evaluations").fetchone()[0]

    def fill(self, store: Store) -> None:
        """As many rows as the store has, at once."""
        self.connection.execute("begin")
        for record in store.records[self.rows :]:
            self.append(store.genomes[record.genome_id].genome, record)
        self.connection.execute("commit")

    def append(self, genome, record: Record) -> float:
        started = time.perf_counter()
        row = (genome.id, json.dumps(dict(genome)), json.dumps(record.to_dict()))
        self.connection.execute("insert into evaluations values (?, ?, ?)", row)
        return time.perf_counter() - started

    def commit(self, number: int, members: list[str]) -> float:
        started = time.perf_counter()
        self.connection.execute("insert into generations values (?, ?)", (number, json.dumps(members)))
        return time.perf_counter() - started


def grow(store: Store, source: Source, number: int, goal: int) -> int:
    while store.evaluated < goal:
        generation(store, source, number, min(BULK, goal - store.evaluated))
        number += 1
    return number


def measure(options) -> list[dict]:
    source, rows, number = Source(SEED), [], 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "run"
        header = {"objectives": [vars(objective(n)) for n in ("loss", "latency")], "space": space_to_dict(source.space)}
        header["settings"] = {"task": "text", "tokens": 16384}
        Store.create(path, header).close()
        sqlite = Sqlite(Path(folder) / "sqlite.db")
        for size in options.sizes:
            with Store.open(path, write=True) as store:
                number = grow(store, source, number, size)
                sqlite.fill(store)
                sqlite_rows = sqlite.rows
            with Store.open(path, write=True) as store:
                appends, commits, merges, started = [], [], -1, time.perf_counter()
                # From one merge to another, so that the mean holds its share of them.
                before, enough = None, False
                while not enough:
                    more, commit = generation(store, source, number, OFFSPRING)
                    number += 1
                    inode = (path / "population.h5").stat().st_ino
                    merged, before = inode != before and before is not None, inode
                    if merges >= 0:
                        appends += more
                        commits.append(commit)
                    merges += merged
                    enough = merged and merges > 0 and time.perf_counter() - started > options.seconds
                # As a reader finds it while the search goes on, half-way from one merge to the next.
                for _ in range(len(commits) // merges // 2):
                    generation(store, source, number, OFFSPRING)
                    number += 1
                started = time.perf_counter()
                reader = Store.open(path)
                opened = time.perf_counter()
                build_report(reader)
                reported = time.perf_counter()
                files = [(path / name).stat().st_size / 1e6 for name in ("population.h5", "journal.jsonl")]
            theirs = [[], []]
            for k in range(100):
                drawn = [source.draw(number, i) for i in range(OFFSPRING)]
                theirs[0] += [sqlite.append(genome, record) for genome, record, _ in drawn]
                theirs[1].append(sqlite.commit(k, [genome.id for genome, *_ in drawn]))
            row = {
                "evaluations": size,
                "timed": len(commits),
                "sqlite_rows": sqlite_rows,
                "merges": merges,
                "append_ms": 1e3 * float(np.median(appends)),
                "commit_ms": 1e3 * float(np.median(commits)),
                "commit_mean_ms": 1e3 * float(np.mean(commits)),
                "commit_longest_ms": 1e3 * float(np.max(commits)),
                "sqlite_append_ms": 1e3 * float(np.median(theirs[0])),
                "sqlite_commit_ms": 1e3 * float(np.median(theirs[1])),
                "open_s": opened - started,
                "report_s": reported - opened,
                "data_mb": files[0],
                "journal_mb": files[1],
            }
            rows.append(row)
            show(row)
    return rows


def show(row: dict) -> None:
    print(
        f"{row['evaluations']:>11,} {row['append_ms']:>8.2f} {row['commit_ms']:>8.2f} {row['commit_mean_ms']:>8.2f} "
        f"{row['commit_longest_ms']:>8.1f} {row['sqlite_append_ms']:>8.2f} {row['sqlite_commit_ms']:>8.2f} "
        f"{row['open_s']:>7.2f} {row['report_s']:>7.2f} {row['data_mb']:>8.1f} {row['journal_mb']:>8.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--seconds", type=float, default=20.0, help="of timed generations at each size")
    parser.add_argument("--folder", help="on the disk to measure; a temporary one inside it is used")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.seconds = [200, 1_000], 1.0
    free = shutil.disk_usage(options.folder or tempfile.gettempdir()).free / 1e9
    print(f"{free:.0f} GB free; {OFFSPRING} evaluations a generation")
    print("evaluations   append   commit     mean  longest   sqlite   commit    open  report     data  journal")
    rows = measure(options)
    ratio = rows[-1]["commit_mean_ms"] / rows[0]["commit_mean_ms"]
    print(f"commit, mean: the last {ratio:.2f} times the first (goal: at most 1.5); open and report together at the")
    print(f"last {rows[-1]['open_s'] + rows[-1]['report_s']:.2f} s (goal: under 3 s)")
    versions = {"python": platform.python_version(), "h5py": h5py.__version__, "sqlite": sqlite3.sqlite_version}
    print(json.dumps({"benchmark": "store", "quick": options.quick, "seed": SEED, "versions": versions, "rows": rows}))


if __name__ == "__main__":
    main()
