"""The loop that joins engine, executor and store. The evaluator comes as an argument."""

from .contract import Evaluator, Listener
from .loop import Search
from .settling import Settled
from .verdict import failures

__all__ = ["Evaluator", "Listener", "Search", "Settled", "failures"]
