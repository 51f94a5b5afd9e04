"""Evaluators and runs for the search tests: workers, and another Python, import this file by name."""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from evonas.evolution import AsynchronousEngine, Engine
from evonas.executors import make_executor
from evonas.fitness import ProxyEvaluator
from evonas.genome import read_space, space_from_dict, space_to_dict
from evonas.record import Measure, Objective, Outcome, objective
from evonas.search import AsynchronousSearch, Listener, Search
from evonas.store import Store

MOODS = ("fine", "crash", "raise", "nan", "hang", "memory", "measure_raise", "measure_crash", "exact_nan")
# What a person finds in the record of a genome in that mood.
STATUS_OF = {
    "fine": "ok", "crash": "crash", "raise": "error", "nan": "non_finite", "hang": "timeout",
    "memory": "out_of_memory", "measure_raise": "error", "measure_crash": "crash", "exact_nan": "non_finite",
}  # fmt: skip


def own_space(moods=("fine",), widths=(1, 40)):
    """A user's own space. ``width`` shapes the architecture, ``learning_rate`` is a training gene."""
    genes = {
        "width": {"low": widths[0], "high": widths[1]},
        "mood": list(moods),
        "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    }
    return space_from_dict({"kind": "custom", "name": "own", "genes": genes})


class Curve:
    """Wide is slow and good, at the right rate: a loss, a latency and FLOPs, exact functions of the genome.

    Writes every call into ``folder/log``. While ``folder/broken`` exists every training raises, and while
    ``folder/stuck`` exists the genome it names hangs.
    """

    def __init__(self, folder: Path, needs=("loss", "latency"), rungs=(1,)) -> None:
        self.folder, self.rungs = folder, rungs
        self.exact_names = tuple(n for n in ("flops",) if n in needs)
        self.measured_names = tuple(n for n in ("latency",) if n in needs)
        self.trained_names = tuple(n for n in ("loss", "skill") if n in needs)

    def exact(self, genome):
        return {"flops": Measure(math.nan if genome.mood == "exact_nan" else 1e3 * genome.width)}

    def measure(self, genome):
        self._log("begin measure", genome.architecture_id)
        if genome.mood == "measure_crash":
            os._exit(3)
        if genome.mood == "measure_raise":
            raise ValueError("no such kernel")
        self._log("end measure", genome.architecture_id)
        return Outcome(measures={"latency": Measure(0.1 * genome.width, 0.01, "measured", "cpu")})

    def train(self, genome, rung):
        self._log("begin train", genome.id)
        stuck = self.folder / "stuck"
        if genome.mood == "hang" or (stuck.exists() and stuck.read_text() == genome.id):
            time.sleep(600)
        if genome.mood == "crash":
            os._exit(3)
        if genome.mood == "memory" or (self.folder / "full").exists():
            raise MemoryError
        if (self.folder / "broken").exists():
            raise ValueError(f"bad mood in {genome.id}")
        if genome.mood == "raise":  # not the same three times in a row: that would be a bug of the task
            raise (ValueError, KeyError, RuntimeError)[int(genome.id, 16) % 3](f"bad mood in {genome.id}")
        loss = math.nan
        if genome.mood != "nan":
            longer = 1 / self.rungs[rung] - 1 / self.rungs[-1]
            loss = 1 / genome.width + (math.log10(genome.learning_rate) + 2.5) ** 2 + longer
        self._log("end train", genome.id)
        measures = {"loss": Measure(loss, 0.1, f"{self.rungs[rung]} tokens", "cpu"), "skill": Measure(1 / (1 + loss))}
        return Outcome(measures={n: measures[n] for n in self.trained_names}, cost={"seconds": 0.5})

    def retain(self, genome_ids):
        with open(self.folder / "retained", "a") as file:
            file.write(",".join(sorted(genome_ids)) + "\n")

    def _log(self, what: str, key: str) -> None:
        with open(self.folder / "log", "a") as file:  # one short write in append mode: whole lines, in order
            file.write(f"{what} {key}\n")


class Elsewhere(Curve):
    """The same on a machine that takes twice as long."""

    def measure(self, genome):
        found = super().measure(genome)
        return (
            Outcome(measures={"latency": Measure(0.2 * genome.width, 0.01, "measured", "elsewhere")})
            if found
            else found
        )


class Slower(Curve):
    """The first machine on another day: a tenth slower."""

    def __init__(self, curve) -> None:
        super().__init__(curve.folder, rungs=curve.rungs)

    def measure(self, genome):
        return Outcome(measures={"latency": Measure(0.11 * genome.width, 0.01, "measured", "cpu")})


class Unmeasurable(Curve):
    def measure(self, genome):
        raise ValueError("no such kernel")


class Narrow(Curve):
    """Its trainings have a bug that shows for some genomes alone."""

    def train(self, genome, rung):
        if genome.width < 25:
            raise ValueError("too narrow")
        return super().train(genome, rung)


class Priced(Curve):
    """It says what measuring took."""

    def measure(self, genome):
        return replace(super().measure(genome), cost={"measure_seconds": 1.0})


class Diverging(Curve):
    """Most trainings diverge at once."""

    def train(self, genome, rung):
        found = super().train(genome, rung)
        if genome.width % 3:
            return Outcome("non_finite", reason="the loss is nan", cost={"seconds": 0.01})
        return replace(found, cost={"seconds": 100.0})


def restored(folder, evaluator, rungs=2, **options) -> Engine:
    """The engine of a finished run as a resume begins with it."""
    engine = Engine(own_space(), [objective(n) for n in ("loss", "latency")], population_size=6, seed=1, rungs=rungs)
    with make_executor("serial", evaluator, 1) as pool, Store.open(folder, write=True) as store:
        return Search(engine, store, pool, evaluator, **options).engine


def header(engine: Engine) -> dict:
    objectives = [{"name": o.name, "unit": o.unit, "direction": o.direction} for o in engine.objectives]
    return {
        "settings": {"task": "own"}, "space": space_to_dict(engine.space), "objectives": objectives,
        "seed": engine.seed, "device": "cpu", "command": "test",
        "seed_genomes": [{"id": g.id, "label": f"seed{k}"} for k, g in enumerate(engine.seed_genomes)],
    }  # fmt: skip


class Stop(Listener):
    """Interrupts, as Ctrl-C does, when ``event`` (a method's name) has happened ``after`` times."""

    def __init__(self, event: str, after: int) -> None:
        self.after = after
        setattr(self, event, self._count)

    def _count(self, *_) -> None:
        self.after -= 1
        if self.after == 0:
            raise KeyboardInterrupt


class Patient(Search):
    """Gives trainings a second once all that are left of a generation hang, or wait to be tried again alone: on a busy
    machine any other may take longer."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self._account.timeout = self._seconds

    def _seconds(self, rung: int = 0) -> float:
        done = {(r.generation, r.index) for r in self.store.records}
        left = {c.genome.mood for c in self._begun if (c.generation, c.index) not in done}
        return 1.0 if "hang" in left <= {"hang", "memory"} else 600.0


def run(
    folder, evaluator, generations, *, space=None, objectives=("loss", "latency"), population=6, seed=1, seeds=(),
    executor="serial", workers=1, deadline=None, tokens=None, patience=None, screen=None, offspring=None,
    initial=None, surrogate=False, known=None, asynchronous=False, **options,
) -> str:  # fmt: skip
    """Start the run in ``folder``, or go on with it."""
    goals = [o if isinstance(o, Objective) else objective(o) for o in objectives]
    others = [c for c in options.get("constraints", ()) if c.name not in evaluator.exact_names]
    engine = (AsynchronousEngine if asynchronous else Engine)(
        space or own_space(),
        goals,
        population_size=population,
        offspring_size=offspring,
        initial_size=initial,
        seed=seed,
        seed_genomes=seeds,
        screen=screen,
        rungs=len(evaluator.rungs),
        surrogate=surrogate,
        known=known,
        watched=[c.name for c in others if c.name not in [g.name for g in goals]],
        broken=lambda values: sum(c.violation(values[c.name]) for c in others if c.name in values),
    )
    exists = (Path(folder) / "population.h5").exists()
    with (
        make_executor(executor, evaluator, workers, {"OMP_NUM_THREADS": "1"}, spare=asynchronous) as pool,
        Store.open(folder, write=True) if exists else Store.create(folder, header(engine)) as store,
    ):
        kind = AsynchronousSearch if asynchronous else Search
        return kind(engine, store, pool, evaluator, **options).run(generations, deadline, tokens, patience)


def run_on_text(folder, data, space_file, executor, workers, **options) -> str:
    """A small search over transformers on a text, rung by rung, by what is deterministic: loss and FLOPs."""
    evaluator = ProxyEvaluator(
        "text", str(data), 16, needs=("loss", "flops"), tokens=1024, rungs=2, validation_tokens=160,
        checkpoints=str(Path(folder) / "weights"),
    )  # fmt: skip
    space, goals = read_space(space_file).bounded(16), ("loss", "flops")
    return run(
        folder, evaluator, 4, space=space, objectives=goals, population=5, executor=executor, workers=workers,
        **options,
    )  # fmt: skip


if __name__ == "__main__":
    print(run_on_text(*sys.argv[1:5], int(sys.argv[5])))
