"""evonas' engine on search problems that answer at once, beside random search and Optuna's NSGA-II and TPE.

    python tools/bench_search.py                           # its own problems, whose fronts are known
    python tools/bench_search.py --problem deceptive --budget 500 --seeds 5
    python tools/bench_search.py --population 10000        # what one generation costs, beside DEAP's
    python tools/bench_search.py --quick

Optuna's arms need optuna, which ``.[bench]`` installs.
The figure is the deficit: one less the share of the known front's hypervolume, after 50, 100, 200, ... evaluations. All
problems trade f1 = x against f2 = g (1 - sqrt(x / g)), as ZDT1 does (Zitzler et al. 2000), or three objectives as DTLZ2
(Deb et al. 2002); g is 1 where a penalty over all other genes is 0, and the penalty is what makes a problem hard.

From tools/, with a benchmark harness that calls ``module:function``:

    python ../../shared/hwgpt/run.py --algo bench_search:optimise --pair flops --budget 200 --seeds 10
    python ../../shared/hwgpt/run.py --algo bench_search:without_surrogate --pair flops --budget 200 --seeds 10
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

from evonas.evolution import ArrayEngine, Engine, hypervolume
from evonas.genome import Genome, SearchSpace, space_from_dict
from evonas.genome.gene import Gene
from evonas.record import Objective

POPULATION, OFFSPRING = 32, 5
BUDGETS = (50, 100, 200, 500, 1000, 2000)


# -- problems with known fronts ---------------------------------------------------------------------------------------


def _flat(extra: dict | None = None, reals: int = 10) -> dict:
    genes = {"x": {"low": 0.0, "high": 1.0}, **{f"r{k}": {"low": 0.0, "high": 1.0} for k in range(reals)}}
    return {"kind": "custom", "genes": {**genes, **(extra or {})}}


MIXED = {
    **{f"n{k}": {"low": 0, "high": 9} for k in range(6)},
    **{f"c{k}": ["a", "b", "c", "d"] for k in range(4)},
    "rate": {"low": 1e-4, "high": 1e-1, "log": True},
}
LAYERED = {
    "kind": "custom",
    "length": "depth",
    "genes": {"x": {"low": 0.0, "high": 1.0}, "depth": {"low": 1, "high": 12}, "kind": ["a", "b", "c"]},
    "layers": {"size": {"low": 1, "high": 8}, "heads": [1, 2, 4, 8], "shape": ["p", "q", "r"]},
}
BITS = _flat({f"b{k}": {"low": 0, "high": 1} for k in range(24)}, reals=0)


def _reals(genome: Genome) -> np.ndarray:
    return np.array([genome[name] for name in genome if name[0] == "r" and name[1:].isdigit()])


def smooth(genome: Genome) -> float:
    """Distances to a target, in every kind of gene."""
    whole = np.mean([(genome[f"n{k}"] / 9 - 2 / 3) ** 2 for k in range(6)])
    words = np.mean([genome[f"c{k}"] != "abcd"[k] for k in range(4)])
    rate = (math.log10(genome["rate"]) + 3) ** 2 / 4
    return float(np.mean((_reals(genome) - 0.4) ** 2) + whole + 0.3 * words + 0.5 * rate)


def rugged(genome: Genome) -> float:
    """Rastrigin's waves on the distances."""
    z = _reals(genome) - 0.4
    return float(np.mean(2 * z**2 + 0.1 * (1 - np.cos(10 * math.pi * z))))


def deceptive(genome: Genome) -> float:
    """Traps of four bits (Goldberg 1987): all ones is best, and every step towards it but the last looks worse."""
    bits = [genome[f"b{k}"] for k in range(24)]
    ones = [sum(bits[k : k + 4]) for k in range(0, 24, 4)]
    return float(np.mean([0.0 if n == 4 else (1 + n) / 4 for n in ones]))


def inactive(genome: Genome) -> float:
    """A layered network of at most 12 layers, of which 4 are right: most genes have no effect most of the time."""
    first = genome["size"][0]
    layers = zip(genome["size"], genome["heads"], genome["shape"])
    wrong = np.mean([(abs(s - first) / 7 + abs(math.log2(h) - 2) / 3 + (w != "q")) / 3 for s, h, w in layers])
    return float(0.5 * abs(genome["depth"] - 4) / 8 + wrong + 0.2 * (genome["kind"] != "b") + abs(first - 6) / 14)


def misleading(genome: Genome) -> float:
    """An NK landscape (Kauffman 1993): every bit counts by a table of it and five others, so that what was seen says
    little of what was not. Its least value is found by trying all 2^24, once: see ``_nk_least``."""
    bits = [genome[f"b{k}"] for k in range(24)]
    return float(_nk(np.array([bits]))[0] - _nk_least())


def _nk_tables() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(24)
    others = np.array([[k, *rng.choice([j for j in range(24) if j != k], 5, replace=False)] for k in range(24)])
    return others, rng.random((24, 64))


_OTHERS, _TABLE = _nk_tables()


def _nk(bits: np.ndarray) -> np.ndarray:
    places = bits[:, _OTHERS] @ (1 << np.arange(6))
    return _TABLE[np.arange(24), places].mean(axis=1)


@functools.cache
def _nk_least() -> float:
    """All 2^24 rows in blocks: some seconds."""
    low = ((np.arange(2**16)[:, None] >> np.arange(16)) & 1).astype(np.int8)
    least = math.inf
    for high in range(2**8):
        top = np.broadcast_to(((high >> np.arange(8)) & 1).astype(np.int8), (len(low), 8))
        least = min(least, float(_nk(np.hstack([low, top])).min()))
    return least


# name: (space, penalty, objectives)
PROBLEMS: dict[str, tuple[dict, Callable[[Genome], float], int]] = {
    "smooth": (_flat(MIXED), smooth, 2),
    "rugged": (_flat(), rugged, 2),
    "deceptive": (BITS, deceptive, 2),
    "inactive": (LAYERED, inactive, 2),
    "misleading": (BITS, misleading, 2),
    "three objectives": (_flat(MIXED | {"y": {"low": 0.0, "high": 1.0}}), smooth, 3),
}


def objectives_of(genome: Genome, penalty: float, m: int) -> list[float]:
    x = genome["x"]
    if m == 2:
        g = 1 + 9 * penalty
        return [x, g * (1 - math.sqrt(x / g))]
    radius, a, b = 1 + 3 * penalty, 0.5 * math.pi * x, 0.5 * math.pi * genome["y"]
    return [radius * math.cos(a) * math.cos(b), radius * math.cos(a) * math.sin(b), radius * math.sin(a)]


def best_volume(m: int) -> tuple[np.ndarray, float]:
    """Reference point, and the hypervolume of the known front up to it."""
    if m == 2:
        return np.array([1.1, 4.0]), 4.0 * 1.1 - (1 - 2 / 3)  # below the front lies 1/3, right of x = 1 nothing
    return np.full(3, 1.5), 1.5**3 - math.pi / 6


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


def run_evonas(space: SearchSpace, evaluate, m: int, budget: int, seed: int, surrogate: bool = True) -> None:
    engine = Engine(
        space,
        [Objective(f"f{j}") for j in range(m)],
        population_size=POPULATION,
        offspring_size=OFFSPRING,
        seed=seed,
        surrogate=surrogate,
    )
    while evaluate.left > 0 and (candidates := engine.ask()):
        for candidate in candidates[: evaluate.left]:
            engine.tell(candidate, dict(zip((f"f{j}" for j in range(m)), evaluate(candidate.genome))))


def run_random(space: SearchSpace, evaluate, m: int, budget: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    while evaluate.left > 0:
        evaluate(space.sample(rng))


def run_optuna(space: SearchSpace, evaluate, m: int, budget: int, seed: int, tpe: bool = False) -> None:
    import optuna
    from bench_evolve import _suggest

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers = optuna.samplers
    sampler = (
        samplers.TPESampler(multivariate=True, seed=seed)
        if tpe
        else samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    )
    study = optuna.create_study(directions=["minimize"] * m, sampler=sampler)
    while evaluate.left > 0:
        trial = study.ask()
        study.tell(trial, evaluate(space.repair(_suggest(space, trial))))


ALGORITHMS: dict[str, Callable] = {
    "evonas": run_evonas,
    "evonas without surrogate": lambda *a: run_evonas(*a, surrogate=False),
    "random": run_random,
    "optuna NSGA-II": run_optuna,
    "optuna TPE": lambda *a: run_optuna(*a, tpe=True),
}


class Counted:
    """Evaluates and remembers; ``left`` evaluations may still be made."""

    def __init__(self, penalty, m: int, budget: int) -> None:
        self._penalty, self._m, self.left, self.points, self.seconds = penalty, m, budget, [], 0.0

    def __call__(self, genome: Genome) -> list[float]:
        start = time.perf_counter()
        self.left -= 1
        values = objectives_of(genome, self._penalty(genome), self._m)
        self.points.append(values)
        self.seconds += time.perf_counter() - start
        return values


def deficits(problem: str, algorithm: str, budget: int, seed: int) -> tuple[list[float], float]:
    """Deficit at each of BUDGETS up to ``budget``, and milliseconds per evaluation besides evaluating."""
    declared, penalty, m = PROBLEMS[problem]
    evaluate = Counted(penalty, m, budget)
    start = time.perf_counter()
    ALGORITHMS[algorithm](space_from_dict(declared), evaluate, m, budget, seed)
    spent = time.perf_counter() - start - evaluate.seconds
    reference, best = best_volume(m)
    points, zero = np.array(evaluate.points), np.zeros(m)
    share = [hypervolume(points[:b], zero, reference) * reference.prod() / best for b in BUDGETS if b <= budget]
    return [1 - s for s in share], 1000 * spent / len(points)


# -- what a generation costs -------------------------------------------------------------------------------------------


def generation_evonas(n: int, generations: int, seed: int) -> list[float]:
    """Seconds of each of some generations of ``n`` without surrogate: selection, variation, duplicates and bookkeeping,
    on the problem "smooth" with objectives drawn at random."""
    space, rng = space_from_dict(PROBLEMS["smooth"][0]), np.random.default_rng(seed)
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
    space, rng = space_from_dict(PROBLEMS["smooth"][0]), np.random.default_rng(seed)
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
    genes, rng, spent = len(space_from_dict(PROBLEMS["smooth"][0]).genes), np.random.default_rng(seed), []

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
    if any(name.startswith("optuna") for name in algorithms) and importlib.util.find_spec("optuna") is None:
        sys.exit("bench_search: Optuna is not installed: pip install -e '.[bench]', or name other --algorithm")
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
