"""A public ask/tell engine for multi-objective evolution over any ``SearchSpace``, without torch."""

from .arrays import ArrayEngine
from .asynchronous import AsynchronousEngine
from .engine import Candidate, Engine
from .fitness import Individual, ParetoFitness
from .sampling import stratified
from .selection import hypervolume, hypervolume_box, minimised, non_dominated, pareto_rank
from .variation import mate, mutate

__all__ = [
    "ArrayEngine",
    "AsynchronousEngine",
    "Candidate",
    "Engine",
    "Individual",
    "ParetoFitness",
    "hypervolume",
    "hypervolume_box",
    "mate",
    "minimised",
    "mutate",
    "non_dominated",
    "pareto_rank",
    "stratified",
]
