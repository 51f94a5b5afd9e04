"""What an evaluation says: objectives with unit, direction, device, fidelity and spread; a status; its cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from .errors import EvonasError, did_you_mean

# Why a candidate has no place on a front; only "ok" records do.
STATUSES = {
    "ok": "trained and measured",
    "infeasible": "breaks a constraint; not trained",
    "non_finite": "loss or gradient became NaN or infinite",
    "out_of_memory": "the device or the host ran out of memory",
    "timeout": "took longer than allowed",
    "crash": "the worker process died, or could not use its device any more",
    "error": "the task or the model raised an exception",
}


@dataclass(frozen=True)
class Objective:
    """One number the search trades off. ``direction`` is "min" or "max"; ``unit`` may be empty."""

    name: str
    unit: str = ""
    direction: str = "min"
    description: str = ""

    def __post_init__(self) -> None:
        if self.direction not in ("min", "max"):
            raise EvonasError(f"objective {self.name!r}: direction {self.direction!r} is neither 'min' nor 'max'")


OBJECTIVES = {
    "loss": Objective("loss", "nats", "min", "cross-entropy per token on held-out data"),
    "latency": Objective("latency", "ms", "min", "one forward pass of the deployment context at batch 1"),
    "decode_latency": Objective("decode_latency", "ms", "min", "one token with the KV cache at that context"),
    "memory": Objective("memory", "MB", "min", "peak memory of that forward pass, weights and KV cache included"),
    "params": Objective("params", "", "min", "trainable parameters"),
    "flops": Objective("flops", "", "min", "floating-point operations of one forward pass of the context"),
}


def objective(name: str) -> Objective:
    """The built-in objective of that name; raises EvonasError naming the nearest one."""
    if name not in OBJECTIVES:
        raise EvonasError(f"unknown objective {name!r:.80}", did_you_mean(name, OBJECTIVES))
    return OBJECTIVES[name]


@dataclass(frozen=True, slots=True)
class Measure:
    """The value of one objective.

    ``spread`` is in the value's unit: the standard error for a loss, half the interquartile range over repeats for a
    time (of one that was measured again the standard error of the median), 0 for exact counts. ``fidelity`` says how
    the value was obtained ("exact", "measured", "49152 tokens"): values of different fidelity are never compared as if
    equal. ``sketch`` is what the errors of means over the same examples have in common (see ``evonas.sketch``), empty
    where nothing is known of it.
    """

    value: float
    spread: float = 0.0
    fidelity: str = "exact"
    device: str = ""
    sketch: str = ""


# Measured objectives, in words.
CONDITIONS = {
    "latency": "one forward pass of {:,} tokens",
    "decode_latency": "one token with the KV cache filled to {:,}",
    "memory": "peak of one forward pass of {:,} tokens, KV cache included",
}


def conditions_of(name: str, context: int, device: str, model: str) -> str:
    """How the measured objective ``name`` (one of CONDITIONS) was got on a device ("cpu" or "cuda") of that ``model``:
    ``one forward pass of 64 tokens, batch 1, float32, one thread of ...``"""
    how = "on" if name == "memory" else "one thread of" if device == "cpu" else "a CUDA graph, where it can be, on"
    return f"{CONDITIONS[name].format(context)}, batch 1, float32, {how} {model}"


@dataclass(frozen=True)
class Outcome:
    """What one step of an evaluation (measuring, training) gave: the fields it adds to the Record."""

    status: str = "ok"
    measures: Mapping[str, Measure] = field(default_factory=dict)
    reason: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str | int | float] = field(default_factory=dict)


MEASURED_AGAIN = "measured again"  # the reason of a record that revises another
_TIMES, _SINGLES = "times_measured", "singles "  # in a record's provenance; the latter before an objective's name


@dataclass(frozen=True, slots=True)
class Record:
    """The outcome of one evaluation of one genome.

    ``index`` is the candidate's place within its generation. ``cost`` holds what was paid (seconds,
    tokens), ``provenance`` what it ran on (device, threads, versions).
    """

    genome_id: str
    generation: int
    index: int
    status: str
    measures: Mapping[str, Measure] = field(default_factory=dict)
    reason: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise EvonasError(f"unknown status {self.status!r}", did_you_mean(self.status, STATUSES))
        bad = [name for name, m in self.measures.items() if not math.isfinite(m.value)]
        if bad and self.status == "ok":
            # Law 3: a non-finite value must never reach a fitness.
            object.__setattr__(self, "status", "non_finite")
            object.__setattr__(self, "reason", self.reason or f"{', '.join(bad)} is not finite")
        if bad:
            kept = {name: m for name, m in self.measures.items() if name not in bad}
            object.__setattr__(self, "measures", kept)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def revised(self) -> bool:
        """Whether it takes the place of an earlier record of the same evaluation."""
        return self.ok and self.reason == MEASURED_AGAIN

    @property
    def times_measured(self) -> int:
        """How many measurements its measured values are medians of (means, in runs of earlier versions)."""
        times = self.provenance.get(_TIMES)
        return times if isinstance(times, int) and times > 0 else 1

    def singles(self, name: str) -> list[float]:
        """What these measurements of an objective gave, empty where the record does not say or says nonsense."""
        text = self.provenance.get(_SINGLES + name)
        try:
            found = [float(part) for part in text.split()] if isinstance(text, str) else []
        except ValueError:
            return []
        return found if all(map(math.isfinite, found)) else []

    def value(self, name: str) -> float | None:
        """The value of an objective, or None where it was not measured."""
        found = self.measures.get(name)
        return None if found is None else found.value

    def to_dict(self) -> dict:
        out = asdict(self)
        out["measures"] = {name: asdict(m) for name, m in self.measures.items()}
        return out

    @classmethod
    def from_dict(cls, data: Mapping) -> Record:
        data = dict(data)
        data["measures"] = {name: Measure(**m) for name, m in data.get("measures", {}).items()}
        return cls(**data)


_CONSTRAINT = re.compile(r"^\s*([A-Za-z_]\w*)\s*(<=|>=)\s*([-+]?[0-9.]+(?:[eE][-+]?\d+)?)\s*([A-Za-zµ]*)\s*$")
_SCALES = {
    "latency": {"": 1.0, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3},
    "decode_latency": {"": 1.0, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3},
    "memory": {"": 1.0, "b": 1e-6, "kb": 1e-3, "mb": 1.0, "gb": 1e3},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9},
    "flops": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12},
    "loss": {"": 1.0, "nats": 1.0},
}


@dataclass(frozen=True)
class Constraint:
    """``name op bound`` in the objective's own unit; ``op`` is "<=" or ">="."""

    name: str
    op: str
    bound: float

    @classmethod
    def parse(cls, text: str, what: str = "constraint") -> Constraint:
        """Read ``latency<=5ms``, ``params<=1.5M``, ``memory<=2GB``; raises EvonasError saying what is allowed of
        ``what`` it is."""
        match = _CONSTRAINT.match(text)
        if not match:
            raise EvonasError(
                f"{what} {text!r:.80} is not of the form NAME<=NUMBER[UNIT]",
                f"For example: --{what} 'latency<=5ms'",
            )
        name, op, number, unit = match.groups()
        objective(name)
        scales = _SCALES[name]
        if unit.lower() not in scales:
            units = ", ".join(u for u in scales if u) or "none"
            raise EvonasError(f"{what} {text!r:.80}: unit {unit!r:.80} does not fit {name}", f"Allowed units: {units}.")
        try:
            bound = float(number) * scales[unit.lower()]
        except ValueError:
            bound = math.nan
        if not math.isfinite(bound):
            raise EvonasError(f"{what} {text!r:.80}: {number!r:.80} is not a finite number")
        return cls(name, op, bound)

    @classmethod
    def parse_goal(cls, text: str) -> Constraint:
        """Read ``latency<=2ms`` as a goal: what is better than that counts as no better. Raises EvonasError as
        ``parse``, and where the bound is on the wrong side."""
        goal = cls.parse(text, "goal")
        if goal.op != ("<=" if objective(goal.name).direction == "min" else ">="):
            raise EvonasError(
                f"goal {text!r:.80} is on the wrong side: less {goal.name} is better",
                f"Write {goal.name}<=VALUE; what must not be is a --constraint.",
            )
        return goal

    def violation(self, value: float) -> float:
        """How far ``value`` is outside, relative to the bound; 0 where the constraint is met."""
        excess = value - self.bound if self.op == "<=" else self.bound - value
        return max(0.0, excess) / max(abs(self.bound), 1e-12)

    def __str__(self) -> str:
        unit = OBJECTIVES[self.name].unit
        bound = repr(self.bound).removesuffix(".0")  # every digit: runs store constraints as text
        return f"{self.name}{self.op}{bound}{unit if self.name != 'loss' else ''}"


def of_measurements(singles: Mapping[str, Sequence[float]]) -> dict[str, str | int]:
    """What a record's provenance says of the measurements so far (at least one) of each objective."""
    texts = {_SINGLES + name: " ".join(map(repr, values)) for name, values in singles.items()}
    return {_TIMES: max(map(len, singles.values())), **texts}


def besides_measurements(provenance: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    """What it says of anything else."""
    return {k: v for k, v in provenance.items() if k != _TIMES and not k.startswith(_SINGLES)}


def total_violation(constraints: tuple[Constraint, ...], record: Record) -> float:
    """Sum of the relative violations of all constraints whose value the record holds."""
    values = ((c, record.value(c.name)) for c in constraints)
    return sum(c.violation(v) for c, v in values if v is not None)
