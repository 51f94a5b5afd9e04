"""evonas' engine on search problems that answer at once, beside random search, Optuna's NSGA-II and TPE, and the
NSGA-II of pymoo and of DEAP.

    python tools/bench_search.py                           # its own problems, whose fronts are known
    python tools/bench_search.py --problem deceptive --budget 500 --seeds 5
    python tools/bench_search.py --population 10000        # what one generation costs, beside DEAP's
    python tools/bench_search.py --quick

Optuna's and pymoo's arms need these, which ``.[bench]`` installs.
The figure is the deficit: one less the share of the known front's hypervolume, after 50, 100, 200, ... evaluations. The
problems are those of ``search_problems.py``.

From tools/, with a benchmark harness that calls ``module:function``:

    python ../../shared/hwgpt/run.py --algo bench_search:optimise --pair flops --budget 200 --seeds 10
    python ../../shared/hwgpt/run.py --algo bench_search:without_surrogate --pair flops --budget 200 --seeds 10
"""

from __future__ import annotations

import argparse
import heapq
import importlib.util
import json
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
from search_peers import PEERS, POPULATION
from search_problems import PROBLEMS

from evonas.evolution import ArrayEngine, Engine, hypervolume
from evonas.genome import Genome, SearchSpace, space_from_dict
from evonas.genome.gene import Gene
from evonas.record import Objective

OFFSPRING = 5
BUDGETS = (50, 100, 200, 500, 1000, 2000)


class Columns:
    """A flat problem of option indices as a SearchSpace: columns named NAME_0, NAME_1, ... are one per-layer field, and
    the column that switches the last of them on and off counts the layers."""

    def __init__(self, space) -> None:
        self.cards = [int(c) for c in space.cards]
        found = [re.fullmatch(r"(.*?)_?(\d+)", name) for name in space.names]
        sizes: dict[str, int] = {}
        for match in found:
            if match:
                sizes[match[1]] = sizes.get(match[1], 0) + 1
        self.fields = {  # name -> columns of its layers; a field of one is a scalar with a number in its name
            name: [k for k, match in enumerate(found) if match and match[1] == name]
            for name, size in sizes.items()
            if size > 1
        }
        layered = {k for columns in self.fields.values() for k in columns}
        self.scalars = {space.names[k]: k for k in range(space.d) if k not in layered}
        self.length, self.counts = self._length(space)
        genes = [Gene(name, choices=self._options(name, k)) for name, k in self.scalars.items()]
        genes += [
            Gene(name, per_layer=True, choices=tuple(range(self.cards[columns[0]])))
            for name, columns in self.fields.items()
        ]
        self.space = SearchSpace(genes, length=self.length)

    def _length(self, space) -> tuple[str | None, dict[int, int]]:
        if not self.fields:
            return None, {}
        first = next(iter(self.fields.values()))
        for name, k in self.scalars.items():
            rows = np.zeros((self.cards[k], space.d), dtype=int)
            rows[:, k] = np.arange(self.cards[k])
            active = np.asarray(space.active(rows))[:, first].sum(axis=1)
            if len(set(active.tolist())) == self.cards[k] > 1:
                return name, {option: int(n) for option, n in enumerate(active)}
        raise SystemExit("no column of this problem counts the layers")

    def _options(self, name: str, k: int) -> tuple[int, ...]:
        return tuple(self.counts.values()) if name == self.length else tuple(range(self.cards[k]))

    def row(self, genome: Genome) -> np.ndarray:
        out = np.zeros(len(self.cards), dtype=int)
        for name, k in self.scalars.items():
            value = genome[name]
            out[k] = next(o for o, n in self.counts.items() if n == value) if name == self.length else value
        for name, columns in self.fields.items():
            for k, value in zip(columns, genome[name]):
                out[k] = value
        return out


def optimise(evaluate, space, budget: int, seed: int, surrogate: bool = True) -> None:
    """Spend ``budget`` evaluations through the public ask/tell engine. What ``evaluate.analytic`` says is taken as
    known beforehand."""
    columns = Columns(space)

    def known(genome: Genome) -> dict[str, float]:
        row = np.asarray(evaluate.analytic(columns.row(genome)[None]))[0]
        return {f"objective {j}": float(v) for j, v in enumerate(row) if np.isfinite(v)}

    probe = columns.row(columns.space.sample(np.random.default_rng(0)))[None]
    m = np.asarray(evaluate.analytic(probe)).shape[1]
    engine = Engine(
        columns.space,
        [Objective(f"objective {j}") for j in range(m)],
        population_size=POPULATION,
        offspring_size=OFFSPRING,
        seed=seed,
        known=known,
        surrogate=surrogate,
    )
    spent = 0
    while spent < budget:
        candidates = engine.ask()[: budget - spent]
        if not candidates:
            return
        values = evaluate(np.array([columns.row(c.genome) for c in candidates]))
        spent += len(candidates)
        for candidate, row in zip(candidates, values):
            engine.tell(candidate, {f"objective {j}": float(v) for j, v in enumerate(row)})


def without_surrogate(evaluate, space, budget: int, seed: int) -> None:
    optimise(evaluate, space, budget, seed, surrogate=False)


# -- its own problems -------------------------------------------------------------------------------------------------


def run_evonas(
    space: SearchSpace, evaluate, m: int, budget: int, seed: int, surrogate: bool = True, workers: int = 0
) -> None:
    """With ``workers`` as many candidates are out at any time, each for a time of its own (log-normal, standard
    deviation of the logarithm 1); without, a generation at a time."""
    names = [f"f{j}" for j in range(m)]
    engine = Engine(
        space,
        [Objective(name) for name in names],
        population_size=POPULATION,
        offspring_size=OFFSPRING,
        seed=seed,
        surrogate=surrogate,
    )
    rng, busy, now, asked = np.random.default_rng(seed), [], 0.0, 0
    while evaluate.left > 0:
        for candidate in engine.ask(workers - len(busy) if workers else None):
            heapq.heappush(busy, (now + (rng.lognormal() if workers else 0.0), asked, candidate))
            asked += 1
        if not busy:
            return
        for _ in range(1 if workers else min(len(busy), evaluate.left)):
            now, _, candidate = heapq.heappop(busy)
            engine.tell(candidate, dict(zip(names, evaluate(candidate.genome))))


ALGORITHMS: dict[str, Callable] = {
    "evonas": run_evonas,
    "evonas, 16 workers": lambda *a: run_evonas(*a, workers=16),
    "evonas without surrogate": lambda *a: run_evonas(*a, surrogate=False),
    **PEERS,
}


class Counted:
    """Evaluates and remembers; ``left`` evaluations may still be made."""

    def __init__(self, objectives: Callable[[Genome], list[float]], budget: int) -> None:
        self._objectives, self.left, self.points, self.seconds = objectives, budget, [], 0.0

    def __call__(self, genome: Genome) -> list[float]:
        start = time.perf_counter()
        self.left -= 1
        values = self._objectives(genome)
        self.points.append(values)
        self.seconds += time.perf_counter() - start
        return values


def deficits(problem: str, algorithm: str, budget: int, seed: int) -> tuple[list[float], float]:
    """Deficit at each of BUDGETS up to ``budget``, and milliseconds per evaluation besides evaluating."""
    space, m, objectives, best = PROBLEMS[problem]
    evaluate = Counted(objectives, budget)
    start = time.perf_counter()
    ALGORITHMS[algorithm](space_from_dict(space), evaluate, m, budget, seed)
    spent = time.perf_counter() - start - evaluate.seconds
    reference, volume = best()
    points, zero = np.array(evaluate.points), np.zeros(m)
    share = [hypervolume(points[:b], zero, reference) * reference.prod() / volume for b in BUDGETS if b <= budget]
    return [1 - s for s in share], 1000 * spent / len(points)


# -- what a generation costs -------------------------------------------------------------------------------------------


def generation_evonas(n: int, generations: int, seed: int) -> list[float]:
    """Seconds of each of some generations of ``n`` without surrogate: selection, variation, duplicates and bookkeeping,
    on the problem "smooth" with objectives drawn at random."""
    space, rng = space_from_dict(PROBLEMS["smooth"].space), np.random.default_rng(seed)
    engine = Engine(space, [Objective("f0"), Objective("f1")], population_size=n, seed=seed)
    spent = []
    for _ in range(generations + 1):
        start = time.perf_counter()
        candidates = engine.ask()
        for candidate, (a, b) in zip(candidates, rng.random((n, 2)).tolist()):
            engine.tell(candidate, {"f0": a, "f1": b})
        spent.append(time.perf_counter() - start)
    return spent[1:]


def generation_arrays(n: int, generations: int, seed: int) -> list[float]:
    """The same by the engine whose populations are arrays, told all at once."""
    space, rng = space_from_dict(PROBLEMS["smooth"].space), np.random.default_rng(seed)
    engine = ArrayEngine(space, [Objective("f0"), Objective("f1")], population_size=n, seed=seed)
    spent = []
    for _ in range(generations + 1):
        values = rng.random((n, 2))
        start = time.perf_counter()
        engine.ask()
        engine.tell(values)
        spent.append(time.perf_counter() - start)
    return spent[1:]


def generation_deap(n: int, generations: int, seed: int) -> list[float]:
    """The same by DEAP as its documentation has it: lists of whole numbers, two-point crossover, twins kept."""
    import random

    from deap import base, tools

    class Fitness(base.Fitness):
        weights = (-1.0, -1.0)

    class Member(list):
        def __init__(self, genes) -> None:
            super().__init__(genes)
            self.fitness = Fitness()

    random.seed(seed)
    genes, rng, spent = len(space_from_dict(PROBLEMS["smooth"].space).genes), np.random.default_rng(seed), []

    def evaluated(members):
        for member, values in zip(members, rng.random((len(members), 2)).tolist()):
            member.fitness.values = values
        return members

    population = evaluated([Member(random.randrange(10) for _ in range(genes)) for _ in range(n)])
    population = tools.selNSGA2(population, n, nd="log")
    for _ in range(generations):
        start = time.perf_counter()
        children = [Member(member) for member in tools.selTournamentDCD(population, n - n % 4)]
        for one, other in zip(children[::2], children[1::2]):
            if random.random() <= 0.9:
                tools.cxTwoPoint(one, other)
            tools.mutUniformInt(one, 0, 9, 1 / genes)
            tools.mutUniformInt(other, 0, 9, 1 / genes)
        population = tools.selNSGA2(population + evaluated(children), n, nd="log")
        spent.append(time.perf_counter() - start)
    return spent


def show_generations(n: int, seeds: int) -> dict:
    print(f"one generation of {n:,}, seconds, median [least - most] over {seeds} seeds of 2 generations")
    out = {}
    ways = {
        "evonas, arrays": generation_arrays,
        "evonas, candidates told one by one": generation_evonas,
        "DEAP, nd='log'": generation_deap,
    }
    for name, timed in ways.items():
        spent = [t for seed in range(seeds) for t in timed(n, 2, seed)]
        print(f"  {name:34} {np.median(spent):8.3f} [{min(spent):.3f} - {max(spent):.3f}]", flush=True)
        out[name] = spent
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=PROBLEMS, action="append", help="repeatable; all of them without")
    parser.add_argument("--algorithm", choices=ALGORITHMS, action="append", help="repeatable; all of them without")
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--population", type=int, help="time generations of so many instead")
    parser.add_argument("--quick", action="store_true", help="one seed, 50 evaluations: does it run?")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.population:
        size = 100 if options.quick else options.population
        times = show_generations(size, 1 if options.quick else options.seeds)
        print(json.dumps({"benchmark": "search", "quick": options.quick, "population": size, "seconds": times}))
        return
    budget, seeds = (50, 1) if options.quick else (options.budget, options.seeds)
    problems, algorithms = options.problem or list(PROBLEMS), options.algorithm or list(ALGORITHMS)
    for package in ("optuna", "pymoo"):
        if any(name.startswith(package) for name in algorithms) and importlib.util.find_spec(package) is None:
            sys.exit(f"bench_search: {package} is not installed: pip install -e '.[bench]', or name other --algorithm")
    at = [b for b in BUDGETS if b <= budget]
    result: dict = {"benchmark": "search", "seeds": seeds, "budgets": at, "problems": {}}
    result["versions"] = {"python": platform.python_version(), "numpy": np.__version__}
    for problem in problems:
        print(f"\n{problem}: deficit, median [quartiles] of {seeds} seeds after {', '.join(map(str, at))} evaluations")
        rows = result["problems"][problem] = {}
        for algorithm in algorithms:
            runs = [deficits(problem, algorithm, budget, seed) for seed in range(seeds)]
            curves = np.array([curve for curve, _ in runs])
            took = float(np.median([ms for _, ms in runs]))
            quartiles = np.percentile(curves, [25, 50, 75], axis=0)
            rows[algorithm] = {"deficits": curves.tolist(), "ms_per_evaluation": took}
            cells = "  ".join(f"{q:.4f} [{a:.4f}, {b:.4f}]" for a, q, b in quartiles.T)
            print(f"  {algorithm:26} {cells}  {took:6.1f} ms", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
