"""What a search needs of an evaluator, and whom it tells how it goes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from ..genome import Genome
from ..record import Measure, Outcome, Record


class Evaluator(Protocol):
    """What a search needs of an evaluator; picklable, as every worker gets a copy.

    ``exact`` is free and runs in this process; ``measure`` runs alone on the device, once per architecture; ``train``
    runs in any worker, rung by rung. The three tuples name what each gives; what is empty is not called. ``rungs`` are
    the tokens (or whatever is counted) that a training has seen at each rung. ``one_device`` (optional, False without)
    says that trainings side by side share one device, such as a GPU: fewer of them are each faster then, and a process
    that is stopped leaves it busy. So ``train`` is to call ``evonas.safepoint.safepoint`` after each step: there it
    rests while ``measure`` runs, which otherwise, without a barrier, waits for its end.
    """

    exact_names: tuple[str, ...]
    measured_names: tuple[str, ...]
    trained_names: tuple[str, ...]
    rungs: tuple[int, ...]

    def exact(self, genome: Genome) -> Mapping[str, Measure]: ...

    def measure(self, genome: Genome) -> Outcome: ...

    def train(self, genome: Genome, rung: int) -> Outcome: ...

    def retain(self, genome_ids: Collection[str]) -> None:
        """Only these may come back for a higher rung: what is kept of others may go."""


class Listener:
    """Told how a run goes; does nothing. Subclass it to show progress."""

    def generation_started(self, generation: int, candidates: int) -> None: ...

    def evaluated(self, record: Record) -> None: ...

    def generation_finished(self, row: Mapping) -> None: ...

    def settling(self, turn: int, architectures: int) -> None:
        """After the search so many are about to be measured again, in the first round (turn 0) or a later one."""
