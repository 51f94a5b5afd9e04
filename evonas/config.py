"""The settings of a run: frozen, stored with it, and read back strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import EvonasError, did_you_mean

# What fits ten minutes on two CPU cores, or on one GPU.
DEVICE_DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {
        "space": "text-cpu",
        "context": 64,
        "population": 16,
        "offspring": 8,
        "tokens": 131_072,
        "rungs": 2,
        "validation_tokens": 8_192,
    },
    "cuda": {
        "space": "text-gpu",
        "context": 256,
        "population": 24,
        "offspring": 16,
        "tokens": 8_388_608,
        "rungs": 3,
        "validation_tokens": 65_536,
    },
}
GROWTH = 4  # times the tokens of the rung before
REDUCTION = 4  # one in so many goes on to the next rung: about as much is spent on each
MAX_RUNGS = 8
_LONGEST = 1e10  # seconds: three centuries
MAX_POPULATION, MAX_GENERATIONS, MAX_CONTEXT, MAX_WORKERS = 100_000, 1_000_000, 2**20, 1024


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes.

    ``population`` members are kept and make up the first generation, or ``initial`` of them do (0: all) and the
    rest follow; every later one has ``offspring`` candidates (0: as many as members). ``tokens`` train a proxy to
    the last of ``rungs`` rungs, each of which sees ``GROWTH`` times as many as the one before and is for one in
    ``reduction`` of those below (6 in runs that don't say), and ``validation_tokens`` of held-out data give its
    loss; ``seeds`` are the seed genomes as {"label", "genes"}; ``timeout`` is in seconds per training, None for one
    from its peers; ``reuse`` names runs whose results are taken instead of paying again; ``surrogate`` says whether
    a model of the objectives screens offspring (runs from before there was one go on without); ``precision`` is
    that of a training's matrix products; ``scaled_rates`` says that learning rates are meant for trainings of
    ``tokens`` and rescaled to other lengths by ``fitness.schedule.rate_share``, ``sparing_muon`` that Muon moves
    every second step where batches are small, on a CPU, ``whole_memory`` that ``memory`` counts tables (runs from
    before any of these go on without);
    ``goals`` are values of objectives that are good enough, written as constraints are. Where a run ends is told by
    ``generations``, ``budget`` (seconds of all its sittings together, None for no limit) and ``patience`` (see
    ``Search.run``); ``calibrate`` is the share of its time that goes to a calibration; ``asynchronous`` says whether
    workers go on without waiting for each other, None where nobody said.
    """

    task: str
    data: str | None
    context: int
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    population: int
    generations: int
    seed: int
    device: str
    tokens: int
    validation_tokens: int
    offspring: int = 0
    initial: int = 0
    rungs: int = 1
    reduction: int = 6
    seeds: tuple[Mapping[str, Any], ...] = ()
    reuse: tuple[str, ...] = ()
    timeout: float | None = None
    surrogate: bool = False
    precision: str = "float32"
    goals: tuple[str, ...] = ()
    scaled_rates: bool = False
    sparing_muon: bool = False
    whole_memory: bool = False
    budget: float | None = None
    patience: int | None = None
    calibrate: float = 0.0
    asynchronous: bool | None = None

    def __post_init__(self) -> None:
        self._check_types()
        _within("population", self.population, 2, MAX_POPULATION)
        _within("offspring", self.offspring, 0, MAX_POPULATION)
        _within("initial", self.initial, 0, MAX_POPULATION)
        _within("rungs", self.rungs, 1, MAX_RUNGS)
        _within("reduction", self.reduction, 2, 10**6)
        _within("generations", self.generations, 1, MAX_GENERATIONS)
        _within("context", self.context, 2, MAX_CONTEXT)
        longer = f"Training takes whole sequences of --context {self.context}: more --tokens, or a smaller --context."
        _within("tokens", self.tokens, self.context, 10**15, longer)
        _within("validation tokens", self.validation_tokens, self.context, 10**12, longer)
        _within("seed", self.seed, 0, 2**63 - 1)
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise EvonasError(f"objectives {', '.join(self.objectives)!r}: name at least one, each once")
        if len(self.seeds) > self.population:
            raise EvonasError(
                f"{len(self.seeds)} seed genomes do not fit a population of {self.population}",
                f"Write --population {2 * len(self.seeds)}.",
            )
        for name in ("timeout", "budget"):
            if (value := getattr(self, name)) is not None and not 0 < value <= _LONGEST:
                raise EvonasError(f"{name} {str(value)[:40]}; it takes seconds above 0, up to {_LONGEST:g}")
        if self.patience is not None:
            _within("patience", self.patience, 1, MAX_GENERATIONS)
        if not 0 <= self.calibrate < 1:
            raise EvonasError(f"calibrate {str(self.calibrate)[:40]}; it takes a share from 0 to below 1")

    def _check_types(self) -> None:
        """They may come from a run that someone else wrote."""
        for name in ("task", "device", "precision"):
            _expect(name, isinstance(getattr(self, name), str), "a text")
        _expect("data", self.data is None or isinstance(self.data, str), "a text")
        for name in ("objectives", "constraints", "reuse", "goals"):
            value = getattr(self, name)
            _expect(name, isinstance(value, tuple) and all(isinstance(v, str) for v in value), "a list of texts")
        for name in ("surrogate", "scaled_rates", "sparing_muon", "whole_memory"):
            _expect(name, isinstance(getattr(self, name), bool), "true or false")
        _expect("asynchronous", self.asynchronous is None or isinstance(self.asynchronous, bool), "true or false")
        for name in ("timeout", "budget"):
            value = getattr(self, name)
            _expect(name, value is None or _is_number(value), "a number of seconds")
        _expect("calibrate", _is_number(self.calibrate), "a number")
        seeds = isinstance(self.seeds, tuple) and all(isinstance(s, Mapping) for s in self.seeds)
        kinds = (("label", str), ("genes", Mapping))
        named = seeds and all(isinstance(s.get(key), kind) for s in self.seeds for key, kind in kinds)
        _expect("seeds", named, "a list of labels with genes")

    @property
    def horizon(self) -> int | None:
        """Tokens of the trainings that learning rates are meant for; None: of any."""
        return self.tokens if self.scaled_rates else None

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """Raises EvonasError for an unknown key, naming the nearest one, and for a missing one."""
        known = {f.name for f in fields(cls)}
        for key in data:
            if key not in known:
                raise EvonasError(f"unknown setting {key!r}", did_you_mean(key, known))
        # Runs from before there was a choice.
        data = {"precision": "float32" if data.get("device") == "cpu" else "bfloat16", **data}
        try:
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
        except TypeError as error:
            raise EvonasError(f"the settings are incomplete: {error}") from None


def _expect(name: str, fits: bool, kind: str) -> None:
    if not fits:
        raise EvonasError(f"the setting {name!r} is not {kind}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _within(name: str, value: int, low: int, high: int, hint: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise EvonasError(f"{name} is {value!r}; it takes a whole number from {low} to {high}", hint)


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``1.5h``, ``2d``; raises EvonasError saying what is allowed."""
    number, unit = text.strip()[:-1], text.strip()[-1:].lower()
    try:
        seconds = float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        raise EvonasError(
            f"duration {text!r} is not a number with a unit", "For example: 90s, 30m, 1.5h, 2d."
        ) from None
    if not 0 < seconds < 10 * 365 * 86400:
        raise EvonasError(f"duration {text!r}: it takes more than 0 and less than ten years")
    return seconds
