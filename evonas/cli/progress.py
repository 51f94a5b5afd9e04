"""What a person sees while a search runs, and when it has ended."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..config import MAX_GENERATIONS, Settings
from ..record import OBJECTIVES, Record
from ..search import Evaluator, Listener, Search, Settled, failures
from ..search.settling import ROUNDS
from .terminal import output, plain

if TYPE_CHECKING:
    from ..store import Store

_RECENT = 5  # generations over which speed is estimated


class Progress(Listener):
    """Progress of one search on stderr: a live panel on a terminal, one line per generation elsewhere."""

    def __init__(self, settings: Settings, deadline: float | None, folder: Path) -> None:
        self.settings, self.deadline, self.folder = settings, deadline, folder
        self.goal = settings.generations
        self.console = Console(stderr=True)
        self.started = time.monotonic()
        self.evaluations = self.generations = 0  # in this session
        self.failures: dict[str, int] = {}  # of the run
        self.generation, self.done, self.of = 0, 0, 0
        self.row: Mapping = {}
        self.ends: list[tuple[float, int]] = [
            (self.started, 0)
        ]  # moment and evaluations, at the last generations' ends
        self.live: Live | None = None
        self.seeds: Mapping[str, str] = {}  # genome id -> name
        self.check = lambda: None  # raises KeyboardInterrupt where one was missed
        self.ties, self.again = Settled(0, 0, 0), ""

    @contextlib.contextmanager
    def showing(self, search: Search) -> Iterator[None]:
        """Show progress within the block."""
        s = self.settings
        source = search.evaluator.task.source if hasattr(search.evaluator.task, "source") else s.task
        self.failures = failures(search.store.records)
        if search.store.generations:
            self.row = search.store.generations[-1]
        about = (
            f": {s.task}, {source}; {s.device}, {_workers(search.executor.workers)}; "
            f"context {s.context}{_lengths(search.evaluator)}; objectives {', '.join(s.objectives)}"
        )
        self.console.print(plain(self.folder.name, "bold") + plain(about), highlight=False)
        if not self.console.is_terminal:
            yield
            return
        with Live(get_renderable=self._panel, console=self.console, refresh_per_second=4, transient=True) as self.live:
            yield
        self.live = None

    def generation_started(self, generation: int, candidates: int) -> None:
        self.check()
        self.generation, self.done, self.of = generation, 0, candidates

    def evaluated(self, record: Record) -> None:
        self.check()
        self.done += 1
        self.evaluations += 1
        if not record.ok:
            self.failures[record.status] = self.failures.get(record.status, 0) + 1
        if record.status == "infeasible" and record.genome_id in self.seeds:
            from ..report.against import TO_COMPARE

            text = f"Note: seed {self.seeds[record.genome_id]} is infeasible ({record.reason}): "
            text += f"the report will compare nothing with it. {TO_COMPARE}."
            self.console.print(plain(text), highlight=False, soft_wrap=True)

    def generation_finished(self, row: Mapping) -> None:
        self.row = row
        self.generations += 1
        self.ends = [*self.ends[-_RECENT:], (time.monotonic(), self.generations)]
        if self.live is None:
            print(self._line(), file=sys.stderr, flush=True)

    def settling(self, turn: int, architectures: int) -> None:
        self.check()
        self.again = f"{architectures} architectures, round {turn + 1} of {ROUNDS} at most"
        if self.live is None:
            print(f"near-ties are measured again: {self.again}", file=sys.stderr, flush=True)

    def settled(self, ties: Settled) -> None:
        """What could not be told apart on the front has been measured again."""
        self.ties = ties

    # -- rendering ----------------------------------------------------------------------------------------------

    def _figures(self) -> dict[str, str]:
        row, out = self.row, {}
        out["front"] = f"{row['front_size']}" if row else "-"
        hypervolume = row.get("hypervolume")
        # With rungs there is none before the first genomes are at the last.
        known = hypervolume is not None and (hypervolume > 0 or not row.get("rungs"))
        out["hypervolume"] = f"{hypervolume:.4f}" if known else "-"
        for name, value in (row.get("best") or {}).items():
            out[f"best {name}"] = f"{value:.4g} {OBJECTIVES[name].unit}".strip()
        elapsed = max(time.monotonic() - self.started, 1e-9)
        if row.get("rungs"):
            first, *between, last = (f"{count:,}" for count in row["rungs"])
            further = [f"further {', '.join(between)}"] if between else []
            out["trained"] = ", ".join([first, *further, f"to the end {last}"])
        out["evaluations"] = f"{self.evaluations} ({self.evaluations / elapsed:.1f}/s)"
        failed = sorted((kind, n) for kind, n in self.failures.items() if kind != "infeasible")
        out["failures"] = ", ".join(f"{n} {kind}" for kind, n in failed) or "none"
        if self.settings.constraints:
            out["outside the constraints"] = f"{self.failures.get('infeasible', 0)}"
        out["time left"] = self._time_left()
        return out

    def _time_left(self) -> str:
        limits = []
        if self.deadline is not None:
            limits.append(max(0.0, self.deadline - time.monotonic()))
        (first, before), (last, after) = self.ends[0], self.ends[-1]
        if self.goal < MAX_GENERATIONS and after > before:
            left = self.goal - self.row["generation"] - 1
            limits.append(max(0.0, left * (last - first) / (after - before) - (time.monotonic() - last)))
        return _clock(min(limits)) if limits else "..."

    def _goal(self) -> str:
        return str(self.goal) if self.goal < MAX_GENERATIONS else "..."

    def _line(self) -> str:
        figures = ", ".join(f"{k} {v}" for k, v in self._figures().items())
        return f"generation {self.row['generation'] + 1}/{self._goal()}: {figures}"

    def _panel(self) -> Group:
        share = (self.generation + (self.done / self.of if self.of else 0.0)) / self.goal
        if self.deadline is not None:
            elapsed = time.monotonic() - self.started
            share = max(
                share if self.goal < MAX_GENERATIONS else 0.0, elapsed / max(self.deadline - self.started, 1e-9)
            )
        table = Table.grid(padding=(0, 2))
        table.add_row("generation", f"{self.generation + 1}/{self._goal()}, candidate {self.done}/{self.of}")
        if self.again:
            table.add_row("measured again", self.again)
        for name, value in self._figures().items():
            table.add_row(name, plain(value))
        return Group(ProgressBar(total=1.0, completed=min(share, 1.0), width=60), table)

    # -- the end ------------------------------------------------------------------------------------------------

    def summary(self, store: Store, ended: str) -> None:
        """The front as a table, a plot file, and what to type next, on stdout."""
        from ..report import build_report, plot, render_table

        console = output()
        report = build_report(store)
        render_table(report, console)
        picture = self.folder / "front.png"
        plot(store, picture)
        run = store.reference
        done = self.row["generation"] + 1 if self.row else 0
        why = {
            "generations": "",
            "budget": " The time budget is spent.",
            "patience": " The hypervolume has ceased to grow.",
            "exhausted": " Every genome of the space has been seen.",
        }
        spent = _clock(time.monotonic() - self.started)
        if self.ties.again:
            were, are = self.ties.before, self.ties.after
            pairs = f"pair{'s' if were != 1 else ''} on the front or close behind"
            more = "" if are <= were else ": times vary more from one measurement to the next than within one"
            text = f"{were} {pairs} could not be told apart by what was measured; after {self.ties.again} more "
            left = f"{are} can't{more}" if are else "all are"
            console.print(f"\n{text}measurements {left}.", highlight=False, soft_wrap=True)
        sitting = " of this sitting" if store.evaluated > self.evaluations else ""
        evaluations = f"{self.evaluations} evaluations{sitting} in {spent}"
        console.print(f"\n{done} generations, {evaluations}.{why[ended]}", highlight=False)
        where = plain(f"Plot: {picture}   Data: {self.folder / 'population.h5'}")
        console.print(where, highlight=False, soft_wrap=True)
        if report["front"]:
            nexts = [(f"evonas report {run} --html {shlex.quote(store.name)}.html", "a page to keep")]
            nexts += [(f"evonas train {run}:{i[:6]}", f"train in full: {which}") for i, which in _to_train(report)]
            if ended != "exhausted":
                nexts.append((f"evonas resume {run} --generations {done + 30}", "search on"))
            console.print("Next:")
            wide = max(len(command) for command, _ in nexts)
            for command, meaning in nexts:  # to be copied: neither cut nor wrapped
                line = Text.assemble((f"  {command:{wide}}", "bold"), "   ", plain(meaning))
                console.print(line, soft_wrap=True, highlight=False)


def _to_train(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(id, which one that is) of the members of a front that are worth a training in full, most so first."""
    from ..report.against import as_accurate

    if not any(o["name"] == "loss" for o in report["objectives"]):
        return [(report["front"][0]["id"], "the first")]
    best = min(report["front"], key=_loss)["id"], "the most accurate"
    like_seed = as_accurate(report)
    return [best] if like_seed is None else [like_seed] if like_seed[0] == best[0] else [like_seed, best]


def _loss(member: Mapping[str, Any]) -> float:
    return member["objectives"]["loss"]["value"]


def _lengths(evaluator: Evaluator) -> str:
    """``, trained on 16,384, 65,536, 262,144 tokens, rung by rung``; empty where nothing is trained."""
    if not evaluator.trained_names:
        return ""
    tokens = ", ".join(f"{count:,}" for count in evaluator.rungs)
    return f", trained on {tokens} tokens" + (", rung by rung" if len(evaluator.rungs) > 1 else "")


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count != 1 else ''}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
