"""The loop that joins engine, executor and store. The evaluator comes as an argument."""

from .account import FIRST_TIMEOUT
from .contract import Evaluator, Listener
from .flow import AsynchronousSearch
from .loop import ENDS, Search
from .measuring import bring_here, measured_elsewhere
from .settling import Settled
from .verdict import failures

__all__ = [
    "ENDS",
    "FIRST_TIMEOUT",
    "AsynchronousSearch",
    "Evaluator",
    "Listener",
    "Search",
    "Settled",
    "bring_here",
    "failures",
    "measured_elsewhere",
]
