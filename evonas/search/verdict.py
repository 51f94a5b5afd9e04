"""When a search can't go on, and what to say then."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..errors import EXIT_FAILED, EvonasError
from ..evolution import Engine
from ..record import Constraint, Record, total_violation
from ..store import Store

_FEW, _MANY = 4, 8  # candidates of a generation, failures in a row
TRIES = 3  # times that a generation, or a candidate whose error has stopped the run, is done again
_HOPELESS_GENERATIONS = 5  # in a row without a candidate that meets the constraints
_SHOWN = 8  # lines of a traceback
_BUGS = 3  # the same error in so many records in a row
_PLACE = re.compile(r'File "([^"]+)", line (\d+)')
# Failures that may have a cause outside the genome (a full disk, too little time, a bug of the task).
MENDABLE = ("error", "crash", "timeout", "out_of_memory")


class Verdict:
    """Raises EvonasError where a run should end; it can be resumed."""

    def __init__(self, engine: Engine, store: Store, constraints: Sequence[Constraint]) -> None:
        self.engine, self.store, self.constraints = engine, store, constraints
        last = store.generations[-1] if store.generations else {}
        before = last.get("hopeless")
        self._hopeless = before if type(before) is int and before > 0 else 0
        failures = last.get("failures")
        judged = failures.get("infeasible") if isinstance(failures, Mapping) else None
        if self._is_hopeless(judged if type(judged) is int else 0):  # stopped for that, and resumed all the same
            self._hopeless = 0
        self._bug: tuple[str, str] | None = None
        self._in_a_row = 0

    def after_training(self, record: Record, tries: int) -> None:
        """The same error has come up again and again: a bug of the task, not of a genome. ``tries`` is how often this
        candidate has been tried: what fails for the last time does not keep the others from being trained."""
        bug = bug_of(record) if tries < TRIES else None
        self._in_a_row = self._in_a_row + 1 if bug is not None and bug == self._bug else int(bug is not None)
        self._bug = bug
        if self._in_a_row >= _BUGS:
            first = next(iter(record.reason.splitlines()), "")
            raise EvonasError(
                f"{_BUGS} candidates in a row failed with the same error, {first} ({bug[1] or 'no traceback'})",
                f"{_at_its_end(record.reason)}Mend it, then do them again: evonas resume {self.store.reference}",
                exit_code=EXIT_FAILED,
            )

    def kept_untrained(self) -> None:
        """A record was kept without a training: errors on both sides of it are in no row, as ``bugs_at_the_end`` sees
        them."""
        self._bug, self._in_a_row = None, 0

    def before_commit(self, generation: int, records: list[Record], tries: int) -> None:
        """All have failed: before the commit, so that a resume does again what can be mended. ``tries`` is how often
        each of these has been tried, TRIES where there is nothing to mend."""
        if any(r.status in ("ok", "infeasible") for r in records) or not self._stuck(records):
            return
        if tries < TRIES:
            time_too = " --timeout 2h" if any(r.status == "timeout" for r in records) else ""
            hint = f"Mend the cause, then do them again: evonas resume {self.store.reference}{time_too}"
            raise self._all_failed(generation, records, hint)

    def count_generation(self) -> int:
        """After one was told: how many there are in a row, with it, after which no member meets the constraints."""
        self._hopeless = 0 if any(i.feasible for i in self.engine.population) else self._hopeless + 1
        return self._hopeless

    def _is_hopeless(self, judged: int) -> bool:
        # With rungs few come to where a loss is judged: a handful of generations says little then.
        return self._hopeless >= _HOPELESS_GENERATIONS and judged >= 2 * self.engine.population_size

    def after_commit(self, generation: int, records: list[Record]) -> None:
        """All have failed for good, or nothing has met the constraints for several generations."""
        if not any(r.status in ("ok", "infeasible") for r in records) and self._stuck(records):
            further = f"evonas resume {self.store.reference} --generations {self.engine.generation + 10}"
            hint = f"Give the space gentler values, or try the next generations: {further}"
            raise self._all_failed(generation, records, hint)
        if self._is_hopeless(self.store.failures.get("infeasible", 0)):
            self.empty()
            self._hopeless = 0  # something has met them on its way

    def _stuck(self, failed: list[Record]) -> bool:
        """Whether a generation in which all failed is reason to stop: a small one only where nothing has ever
        succeeded, or not for long."""
        records = [r for r in self.store.records if not r.revised]
        since = next((k for k, r in enumerate(reversed(records)) if r.status in ("ok", "infeasible")), len(records))
        return len(failed) >= _FEW or since == len(records) or since >= _MANY

    def _all_failed(self, generation: int, records: list[Record], hint: str) -> EvonasError:
        kinds = ", ".join(f"{n} {kind}" for kind, n in failures(records).items())
        first = next(iter(records[0].reason.splitlines()), "")  # below it comes a traceback
        return EvonasError(
            f"all {len(records)} candidates of generation {generation} failed ({kinds}); the first: {first}",
            hint,
            exit_code=EXIT_FAILED,
        )

    def empty(self) -> None:
        """Raise EvonasError where nothing has met the constraints so far, naming what came closest."""
        infeasible = [r for r in self.store.records if r.status == "infeasible"]
        ok = [r for r in self.store.records if r.ok]
        # A short training may be ok with a loss that the last rung would not pass.
        if any(total_violation(self.constraints, r) == 0 for r in ok) or not (infeasible or ok):
            return
        if not infeasible:
            raise EvonasError(
                f"nothing meets {' and '.join(map(str, self.constraints))} so far, and nothing has come to the last "
                "rung, where that is judged",
                f"Go on: evonas resume {self.store.reference} --generations {self.engine.generation + 10}",
                exit_code=EXIT_FAILED,
            )
        closest = min(infeasible, key=lambda r: total_violation(self.constraints, r))
        seen = ", ".join(
            f"{c.name} {closest.value(c.name):.4g}" for c in self.constraints if closest.value(c.name) is not None
        )
        broke = sum(self.store.failures.values()) - len(infeasible)
        without = f" without failing ({broke} failed, {len(infeasible)} broke a constraint)" if broke else ""
        raise EvonasError(
            f"no candidate has met {' and '.join(map(str, self.constraints))}{without} in "
            f"{len(self.store.records)} evaluations; the closest that broke it has {seen}",
            "Loosen the constraint or widen the space, then start anew.",
            exit_code=EXIT_FAILED,
        )


def _at_its_end(reason: str) -> str:
    """The last lines of a traceback, if there is one, and a line break."""
    lines = reason.splitlines()[1:]
    return "\n".join(["The end of its traceback:", *lines[-_SHOWN:], ""]) if lines else ""


def bug_of(record: Record) -> tuple[str, str] | None:
    """(exception, where it was raised) of an error, by which two are told to be the same; None for anything else."""
    if record.status != "error":
        return None
    places = _PLACE.findall(record.reason)
    return record.reason.partition(":")[0], ":".join(places[-1]) if places else ""


def bugs_at_the_end(records: Sequence[Record], measured: Sequence[str]) -> list[Record]:
    """The last records as far as they are one error of trainings, where they have stopped a run; ``measured`` names
    what is measured before one."""
    out: list[Record] = []
    for record in reversed(records):
        if record.revised:  # only measured again, since
            continue
        if bug_of(record) is None or (out and bug_of(record) != bug_of(out[0])):
            break
        if any(name not in record.measures for name in measured):  # never trained
            break
        out.append(record)
    return out if len(out) >= _BUGS else []


def failures(records: Sequence[Record]) -> dict[str, int]:
    """How many records have each status other than ok."""
    counts: dict[str, int] = {}
    for record in records:
        if not record.ok:
            counts[record.status] = counts.get(record.status, 0) + 1
    return counts
