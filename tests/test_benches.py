"""The fast benchmarks of ``tools/`` in their ``--quick`` form: they run, and their last line is one JSON object."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def last_line(tool: str, *options: str) -> dict:
    command = [sys.executable, str(TOOLS / tool), "--quick", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    *table, last = done.stdout.splitlines()
    assert len(table) > 2 and not any(line.startswith("{") for line in table)
    return json.loads(last)


def test_bench_store(tmp_path):
    found = last_line("bench_store.py", "--folder", str(tmp_path))
    assert (found["benchmark"], found["quick"]) == ("store", True)
    assert [row["evaluations"] for row in found["rows"]] == [200, 1000]
    assert all(row["commit_mean_ms"] > 0 and row["open_s"] > 0 and row["timed"] > 0 for row in found["rows"])
    assert all(row["sqlite_rows"] >= row["evaluations"] for row in found["rows"])
    assert not list(tmp_path.iterdir()), "it cleans up"


def test_bench_search():
    """Without Optuna's arms, as Optuna need not be installed."""
    ours = ("evonas", "evonas without surrogate", "random")
    found = last_line("bench_search.py", *(word for name in ours for word in ("--algorithm", name)))
    assert (found["benchmark"], found["budgets"]) == ("search", [50])
    for rows in found["problems"].values():
        assert set(rows) == set(ours) and all(0 <= row["deficits"][0][0] <= 1 for row in rows.values())
    # Scripts that import it get the same problem, with its front where it can be reached.
    asked = "import bench_search as b, json; print(json.dumps(b.deficits('misleading', 'random', 50, 0)[0]))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=600, cwd=TOOLS)
    assert json.loads(done.stdout) == found["problems"]["misleading"]["random"]["deficits"][0]


def test_what_a_generation_costs():
    found = last_line("bench_search.py", "--population", "10000")
    assert found["population"] == 100 and all(seconds > 0 for of in found["seconds"].values() for seconds in of)
