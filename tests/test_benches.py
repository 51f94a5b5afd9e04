"""The tools: all of them can be imported, and the fast benchmarks run, with one JSON object on their last line."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evonas.evolution import hypervolume
from evonas.genome import read_space
from evonas.record import objective

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def run(tool: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOLS / tool), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | environment)


def last_line(tool: str, *options: str) -> dict:
    done = run(tool, "--quick", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    *table, last = done.stdout.splitlines()
    assert len(table) > 2 and not any(line.startswith("{") for line in table)
    return json.loads(last)


@pytest.mark.parametrize("tool", sorted(path.name for path in TOOLS.glob("*.py")))
def test_every_tool_says_how_it_is_called(tool):
    """A name that it imports and that is no more shows here, not in an hour of a benchmark."""
    done = run(tool, "--help")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.startswith("usage: ") or "__main__" not in (TOOLS / tool).read_text()
    assert "--quick" in done.stdout or not tool.startswith("bench_")


def test_the_check_of_a_gpu_says_where_there_is_none():
    done = run("gpu_check.py", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1 and done.stderr.startswith("gpu_check: no CUDA device is to be seen here")


def test_bench_inherit():
    found = last_line("bench_inherit.py")
    assert (found["benchmark"], found["quick"]) == ("inherit", True)
    assert found["rows"] and set(found["tau"]) == {"fresh", "fresh, longer", "inherited", "less parent"}


def test_bench_attention():
    """At one context: ``--quick`` takes half a minute of three."""
    asked = "import bench_attention as b, json; print(json.dumps(b.conclude(b.measure([512], 0.0), [512])))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=600, cwd=TOOLS)
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(done.stdout.splitlines()[-1])["goal"]["saved"] < 1


def test_bench_store(tmp_path):
    found = last_line("bench_store.py", "--folder", str(tmp_path))
    assert (found["benchmark"], found["quick"]) == ("store", True)
    assert [row["evaluations"] for row in found["rows"]] == [200, 1000]
    assert all(row["commit_mean_ms"] > 0 and row["open_s"] > 0 and row["timed"] > 0 for row in found["rows"])
    assert all(row["sqlite_rows"] >= row["evaluations"] for row in found["rows"])
    assert not list(tmp_path.iterdir()), "it cleans up"


def test_bench_search():
    """Without Optuna's and pymoo's arms, as these need not be installed."""
    ours = ("evonas", "evonas, 16 workers", "evonas without surrogate", "random", "DEAP NSGA-II")
    found = last_line("bench_search.py", *(word for name in ours for word in ("--algorithm", name)))
    assert (found["benchmark"], found["budgets"]) == ("search", [50])
    for rows in found["problems"].values():
        assert set(rows) == set(ours) and all(0 <= row["deficits"][0][0] <= 1 for row in rows.values())
    # Scripts that import it get the same problem, with its front where it can be reached.
    asked = "import bench_search as b, json; print(json.dumps(b.deficits('misleading', 'random', 50, 0)[0]))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=600, cwd=TOOLS)
    assert json.loads(done.stdout) == found["problems"]["misleading"]["random"]["deficits"][0]


def test_the_front_of_the_deep_problem_is_that_of_all_its_networks(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import search_problems as p

    monkeypatch.setattr(p, "_LEAST", 2)
    monkeypatch.setattr(p, "_MOST", 3)
    found = []
    for depth in (2, 3):
        layers = itertools.product(*[p.DEEP["layers"]["ratio"]] * depth, *[p.DEEP["layers"]["heads"]] * depth)
        for genes, width, bias in itertools.product(layers, p.DEEP["genes"]["width"], p.DEEP["genes"]["bias"]):
            layered = {"ratio": list(genes[:depth]), "heads": list(genes[depth:])}
            found.append(p.deep({"depth": depth, "width": width, "bias": bias} | layered))
    reference, volume = p._deep_volume.__wrapped__()
    assert (np.array(found) < reference).all()
    assert volume == pytest.approx(hypervolume(np.array(found), np.zeros(2), reference) * reference.prod(), rel=1e-12)


def test_what_a_generation_costs():
    found = last_line("bench_search.py", "--population", "10000")
    assert found["population"] == 100 and all(seconds > 0 for of in found["seconds"].values() for seconds in of)


@pytest.fixture
def optuna_arms(monkeypatch):
    """(bench_evolve, bench_nanogpt), modules beside the package."""
    pytest.importorskip("optuna")
    monkeypatch.syspath_prepend(str(TOOLS))
    import bench_evolve
    import bench_nanogpt

    return bench_evolve, bench_nanogpt


@pytest.mark.filterwarnings("ignore:`constraints_func` has been deprecated")
def test_optuna_is_told_of_results_as_soon_as_the_workers_are_free(optuna_arms):
    _, bench = optuna_arms
    space = read_space("text-cpu").bounded(bench.CONTEXT)
    for kind, first in ((bench.TPEOurStart, 16), (bench.SeededTPE, 2), (bench.NSGA2OurStart, 16)):
        sizes = bench.at_once(kind, 2, 1)
        engine = kind(space, [objective(n) for n in bench.OBJECTIVES], population_size=16, seed=0, **sizes)
        asked = []
        for k in range(3):
            candidates = engine.ask()
            asked.append(len(candidates))
            for candidate in candidates:
                engine.tell(candidate, {"loss": 2.0 + k, "latency": 1.0 - k / 9})
        assert asked == [first, 2, 2]
    assert bench.at_once(bench.Engine, 2, 2) == {"initial_size": 8, "offspring_size": 8}


def test_where_the_arm_of_the_box_trained_nothing_more_time_is_asked_for(optuna_arms):
    bench, _ = optuna_arms
    rows = np.array([[1.0, 8192.0, 2.0, 1.0], [2.0, 16384.0, 1.0, 2.0]])
    with pytest.raises(SystemExit, match=r"'optuna NSGA-II' trained nothing in full in 20 s.*--seconds"):
        bench._figures({"optuna NSGA-II": [rows[:0]], "evonas, surrogate": [rows]}, 20.0)
    found = bench._figures({"optuna NSGA-II": [rows], "evonas, surrogate": [rows[:0]]}, 20.0)
    assert found["arms"]["evonas, surrogate"]["to_optuna_final"] == [None]


def test_optuna_knows_the_order_of_genes_that_have_one(optuna_arms):
    """What is enqueued comes back as the same genome, and only what has no order is categorical."""
    import optuna

    bench, _ = optuna_arms
    space, rng = read_space("text-cpu").bounded(64), np.random.default_rng(0)
    study = optuna.create_study()
    for genome in (space.sample(rng) for _ in range(50)):
        study.enqueue_trial(bench._flat(space, genome))
        trial = study.ask()
        assert space.repair(bench._suggest(space, trial)) == genome
    unordered = {name for name, d in trial.distributions.items() if hasattr(d, "choices")}
    assert unordered == {gene.name for gene in space.genes.values() if not gene.is_ordered}
    assert {f"{name}_0" for name in ("ffn_ratio", "n_heads", "window")} <= trial.distributions.keys() - unordered


def test_steps_that_hang_or_have_no_memory_leave_the_other_figures(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import bench_targets
    import gpu_check

    options, space = argparse.Namespace(quick=True, first_seed=0), read_space("text-gpu")
    first, _, third = sorted(gpu_check.sample(options, space, 3), key=gpu_check._size)
    monkeypatch.setattr(gpu_check, "evaluator", lambda *_: bench_targets.Steps(first.id, third.id))
    monkeypatch.setattr(gpu_check, "TIMEOUT", 10.0)
    rows = gpu_check.step(options, space)["rows"]
    assert [row.get("failed", [""])[0].partition(":")[0] for row in rows] == ["timeout", "", "out_of_memory"]
    assert (rows[1]["graphed_ms"], rows[1]["eager_ms"], rows[1]["loss_difference"]) == (1.0, 3.0, 0.0)
    assert "median 3.00x; 1 of 3 captured" in capsys.readouterr().out
