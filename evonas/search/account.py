"""What a run's trainings take, in seconds and in tokens, and what is left of the budgets that the run is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..evolution import Engine, Individual
from ..executors import Executor
from ..record import Record
from ..store import Store, moved_at
from .closing import Left, Pace
from .contract import Evaluator

MIN_TIMEOUT, FIRST_TIMEOUT, TIMEOUT_FACTOR = 60.0, 900.0, 50.0  # seconds, seconds, times the median of its peers
MIN_PEERS = 5  # that a median is of
_CLOSING_MARGIN = 1.3  # of the time that the closing trainings should take


class Account:
    """Of one run; arguments as of ``Search``.

    Attributes: ``paid``, tokens of trainings that have ended or, without a barrier, begun; ``pace``, what trainings
    took here, and ``elsewhere``, on another machine; ``warm``, how many generations were done, and when, once the first
    was done in this sitting.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        executor: Executor,
        evaluator: Evaluator,
        timeout: float | None,
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._store, self._executor, self._evaluator = engine, store, executor, evaluator
        self._timeout, self._clock = timeout, clock
        self.pace, self.elsewhere = Pace(evaluator.rungs), Pace(evaluator.rungs)
        self.paid = 0.0
        self.warm: tuple[int, float] | None = None

    def note(self, rung: int, record: Record) -> None:
        """How long a training took: for what others will take, and for the engine, which chooses by price."""
        # One that diverged soon says nothing of how long others take.
        seconds = record.cost.get("seconds", 0.0) if record.status != "non_finite" else 0.0
        # Nor does one that was only looked at again, or, but for want of better, trained on another machine.
        if seconds > 0 and record.cost.get("tokens", 1.0) > 0:
            here = record.generation >= moved_at(self._store)
            (self.pace if here else self.elsewhere).note(record.genome_id, rung, seconds)
            if here and rung == 0:
                self._engine.prices[record.genome_id] = seconds

    def begin(self, rung: int) -> None:
        """Count the tokens of a training that begins: a budget is to hold for what is under way, too."""
        self.paid += self.pace.step(rung)

    def pay(self, rung: int, record: Record) -> None:
        """Count the tokens of a training that has ended; what failed has cost as much as what did not, what was ruled
        out before it nothing."""
        if record.status != "infeasible" or any(name in record.measures for name in self._evaluator.trained_names):
            self.begin(rung)

    def timeout(self, rung: int = 0) -> float:
        """Seconds that a training up to that rung may take."""
        if self._timeout is not None:
            return self._timeout
        here = self.pace.typical(MIN_PEERS)
        medians = here or self.elsewhere.typical(MIN_PEERS)  # the first after a move may take as long as before
        if not medians:
            return FIRST_TIMEOUT
        step = self.pace.step
        expected = max(seconds * max(1.0, step(rung) / step(r)) for r, seconds in medians.items())
        return max(MIN_TIMEOUT if here else FIRST_TIMEOUT, TIMEOUT_FACTOR * expected)

    def too_little(self, tokens: float | None, wanted: bool) -> bool:
        """Whether the tokens left do not pay for another generation, or, where nobody ``wanted`` is to be trained to
        the end, for anything new of it to get there."""
        if tokens is None or not self._engine.generation:
            return False
        rungs = self._evaluator.rungs
        to_the_end = 0 if wanted else rungs[-1] - rungs[0]
        return self.paid + self._next_generation() + to_the_end > tokens

    def budgets(
        self,
        unfinished: Sequence[Individual],
        started: float,
        deadline: float | None,
        tokens: float | None,
        under_way: float = 0.0,
    ) -> list[Left]:
        """What the run is held to, as soon as enough is known of what its trainings take. ``under_way``: seconds until
        the workers are free, about."""
        rungs, done = self._evaluator.rungs, self._engine.generation
        if done < 1:
            return []
        budgets = []
        if tokens is not None:
            costs = [rungs[-1] - rungs[i.rung] for i in unfinished]
            budgets.append(Left(tokens - self.paid, tokens, self._next_generation(), costs))
        # With one rung all are done when time is over.
        if deadline is not None and len(rungs) > 1 and done >= len(rungs):
            # Right after a move nothing is known of this device: better another's times than none.
            paces = self.pace, self.elsewhere
            costs = [next(filter(None, (p.to_the_end(i.genome.id, i.rung) for p in paces)), 0.0) for i in unfinished]
            now, margin = self._clock(), _CLOSING_MARGIN
            since, at = self.warm or (done, now)
            # Workers had to start in the first generation here, so it counts only until there is another.
            # Those stored are timed to the last one's end: a calibration may have followed it.
            stored = self._store.generations[-1]["seconds"] or 0.0
            generation = (now - at) / (done - since) if done > since else stored / done
            lanes, alone = self._executor.workers, not getattr(self._evaluator, "one_device", False)
            left, whole = (deadline - now) / margin - under_way, (deadline - started) / margin
            budgets.append(Left(left, whole, generation, costs, lanes, alone))
        return budgets

    def _next_generation(self) -> float:
        """Tokens that the next generation takes, unless the front is closed in it."""
        promoted = sum(self.pace.step(candidate.rung) for candidate in self._engine.promoted())
        return self._engine.offspring_size * self._evaluator.rungs[0] + promoted


def affordable(individuals: Sequence[Individual], budgets: Sequence[Left]) -> list[str]:
    """Genome ids of those that every budget has something left for."""
    chosen = set.intersection(*(budget.affordable for budget in budgets))
    return [individuals[k].genome.id for k in sorted(chosen)]
