"""The picture of a run: its front, what the front left behind, the seeds, and how the hypervolume grew."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EXIT_FAILED, EvonasError
from ..record import Measure
from ..store import Store, compared_from, moved_at
from .compare import Comparison, compare
from .short import axis_label, clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
LOG_FROM = 5.0  # an axis whose values span more than this factor is logarithmic
SHOWN_IDS = 4
_LARGEST = 1e100  # beyond it, or as near to 0, numbers are lost on their way to pixels
_FRONT, _SEED, _GREY = "#0b5cad", "#d1495b", "#57606a"


def plot(store: Store, path: str | Path) -> None:
    """Write the picture to a .png, .svg or .pdf. Raises EvonasError for another ending or an unwritable place."""
    path = Path(path)
    data = _render(store, picture_format(path))
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_bytes(data)
        os.replace(fresh, path)
    except OSError as error:
        fresh.unlink(missing_ok=True) if path.parent.is_dir() else None
        raise EvonasError(
            f"can't write {path}: {error.strerror or error}", "Choose another place.", exit_code=EXIT_FAILED
        ) from error


def picture_format(path: Path) -> str:
    """The format that a file's ending names. Raises EvonasError for another ending."""
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise EvonasError(
            f"can't plot to {str(path)!r}: its ending is {path.suffix or 'missing'!r}",
            f"Allowed endings: {', '.join('.' + f for f in FORMATS)}.",
        )
    return form


def png(store: Store) -> bytes:
    """The picture as PNG bytes, for ``to_html``."""
    return _render(store, "png")


def draw(store: Store) -> Figure:
    """The picture: one panel per further objective against the first, then the hypervolume."""
    from matplotlib.figure import Figure

    comparison, objectives = _drawable(compare(store)), store.header["objectives"]
    panels = max(1, len(objectives) - 1)
    figure = Figure(figsize=(6.4 * panels + 4.8, 4.9), dpi=130, layout="constrained")
    axes = figure.subplots(1, panels + 1, squeeze=False, width_ratios=[1.5] * panels + [1.0])[0]
    for j, ax in enumerate(axes[:-1]):
        if len(objectives) > 1:
            _tradeoff(ax, store, comparison, j + 1, legend=j == 0)
        else:
            _progress(ax, comparison, objectives)
    _hypervolume(axes[-1], store)
    figure.suptitle(_plain(f"{store.name}: {store.evaluated} evaluations"), fontsize=11, x=0.01, ha="left")
    return figure


def _drawable(comparison: Comparison) -> Comparison:
    """What a damaged run may hold is drawn where drawing ends."""

    def bounded(value: float) -> float:
        return 0.0 if abs(value) < 1 / _LARGEST else min(max(value, -_LARGEST), _LARGEST)

    def sound(m: Measure) -> bool:
        return bounded(m.value) == m.value and m.spread <= _LARGEST

    def within(m: Measure) -> Measure:
        return m if sound(m) else replace(m, value=bounded(m.value), spread=0.0)

    if all(sound(m) for r in comparison.records for m in r.measures.values()):
        return comparison
    records = [replace(r, measures={n: within(m) for n, m in r.measures.items()}) for r in comparison.records]
    values = np.array([[r.measures[n].value for n in comparison.names] for r in records])
    return replace(comparison, records=tuple(records), values=values)


def _render(store: Store, form: str) -> bytes:
    out = io.BytesIO()
    draw(store).savefig(out, format=form)
    return out.getvalue()


def _tradeoff(ax: Axes, store: Store, comparison: Comparison, column: int, legend: bool) -> None:
    """First objective (y) over objective ``column`` (x)."""
    objectives = store.header["objectives"]
    _frame(ax, axis_label(objectives[column]), axis_label(objectives[0]))
    if not comparison.records:
        return _say(ax, "no evaluation has succeeded")
    x, y = comparison.values[:, column], comparison.values[:, 0]
    beaten = ~comparison.front
    generations = np.array([r.generation + 1 for r in comparison.records])  # as progress counts them
    if beaten.any():
        dots = ax.scatter(
            x[beaten], y[beaten], c=generations[beaten], cmap="viridis_r", s=16, alpha=0.65, linewidths=0, zorder=2,
            vmin=1, vmax=max(2, generations.max()),
        )  # fmt: skip
        if legend and generations[beaten].max() > generations[beaten].min():
            bar = ax.figure.colorbar(dots, ax=ax, pad=0.015, aspect=40, label="generation (dominated)")
            bar.outline.set_visible(False)
            bar.locator = _whole_ticks()
            bar.update_ticks()
    _front_line(ax, comparison, column)
    seeds = [s for s in store.header["seed_genomes"] if comparison.record_of(s["id"]) is not None]
    points = [comparison.record_of(s["id"]) for s in seeds]
    for k, (seed, record) in enumerate(zip(seeds, points)):
        sx, sy = (record.measures[comparison.names[i]].value for i in (column, 0))
        label = ("seed" if len(seeds) == 1 else "seeds") if k == 0 else None
        ax.plot(sx, sy, "*", ms=15, color=_SEED, mec="white", mew=0.9, zorder=5, label=label)
        _annotate(ax, clean(seed["label"]), sx, sy, _SEED, (8, 8))
    _view(ax, comparison, column, [r.genome_id for r in points])
    if legend:
        # Above the axes, where it hides no point.
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, fontsize=9, borderaxespad=0.2)


def _front_line(ax: Axes, comparison: Comparison, column: int) -> None:
    """The front with error bars; for two objectives also the staircase of what it dominates."""
    front = comparison.front_records()
    name_x, name_y = comparison.names[column], comparison.names[0]
    worst_first = -1 if comparison.directions[column] == "max" else 1
    front = sorted(front, key=lambda r: worst_first * r.measures[name_x].value)
    mx, my = [r.measures[name_x] for r in front], [r.measures[name_y] for r in front]
    x, y = [m.value for m in mx], [m.value for m in my]
    if len(comparison.names) == 2:
        ax.plot(x, y, drawstyle="steps-post", color=_FRONT, lw=1.3, alpha=0.7, zorder=3)
    ax.errorbar(
        x, y, xerr=_bars(mx), yerr=_bars(my), fmt="o", ms=5.5, color=_FRONT, mec="white", mew=0.7, elinewidth=0.9,
        capsize=2, ecolor="#7fa8d1", zorder=4, label=f"front ({len(front)})",
    )  # fmt: skip
    for k in np.unique(np.linspace(0, len(front) - 1, min(SHOWN_IDS, len(front))).round().astype(int)):
        _annotate(ax, front[k].genome_id[:6], x[k], y[k], _FRONT, (-5, -5) if k else (6, -9))


def _bars(measures: Sequence[Any]) -> list[float]:
    return [m.spread if np.isfinite(m.spread) and m.spread > 0 else 0.0 for m in measures]


def _view(ax: Axes, comparison: Comparison, column: int, seed_ids: Sequence[str]) -> None:
    """Show the front and the seeds in full and the dominated points up to their 95th percentile from it: a few
    networks that learned nothing must not press the front flat."""
    kept = comparison.front | np.array([r.genome_id in seed_ids for r in comparison.records])
    kept = kept if kept.any() else ~kept  # so far all break a constraint that is judged at the last rung
    outside = np.zeros(len(kept), dtype=bool)
    for axis, j in (("x", column), ("y", 0)):
        values = comparison.values[:, j]
        low, high = np.percentile(values, [2, 95]) if len(values) >= 20 else (values.min(), values.max())
        bars = np.array(_bars([r.measures[comparison.names[j]] for r in comparison.records]))[kept]
        shown = values[kept]
        bars = np.where(bars < np.abs(shown), bars, 0.0)  # one that reaches zero would press the rest flat
        low, high = min(low, (shown - bars).min()), max(high, (shown + bars).max())
        outside |= (values < low) | (values > high)
        if low > 0 and high > LOG_FROM * low:
            _log_axis(ax, axis, low, high)
            margin = high**0.07 / low**0.07
            getattr(ax, f"set_{axis}lim")(low / margin, high * margin)
        else:
            margin = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
            getattr(ax, f"set_{axis}lim")(low - margin, high + margin)
    if outside.any():
        note = f"{outside.sum()} worse point{'s' if outside.sum() > 1 else ''} outside the view"
        ax.set_title(note, loc="right", fontsize=8, color=_GREY, pad=3)


def _log_axis(ax: Axes, axis: str, low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(ax, f"set_{axis}scale")("log")
    subs = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    which = getattr(ax, f"{axis}axis")
    which.set_major_locator(LogLocator(base=10, subs=subs))
    which.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if 1e-3 <= v < 1e5 else f"{v:.0e}"))
    which.set_minor_formatter(NullFormatter())


def _progress(ax: Axes, comparison: Comparison, objectives: Sequence[dict]) -> None:
    """With a single objective: each evaluation, and the best so far."""
    _frame(ax, "evaluation", axis_label(objectives[0]) if objectives else "")
    if not comparison.records:
        return _say(ax, "no evaluation has succeeded")
    y, most = comparison.values[:, 0], comparison.directions[0] == "max"
    ax.plot(np.arange(1, len(y) + 1), y, "o", ms=4, color=_GREY, alpha=0.5, mec="none")
    counted = np.where(comparison.feasible, y, -np.inf if most else np.inf)
    best = np.maximum.accumulate(counted) if most else np.minimum.accumulate(counted)
    there = np.isfinite(best)  # from the first that breaks no constraint
    if there.any():
        at = np.arange(1, len(y) + 1)[there]
        ax.plot(at, best[there], drawstyle="steps-post", color=_FRONT, lw=1.6, label="best so far")
        ax.legend(frameon=False, fontsize=9)


def _hypervolume(ax: Axes, store: Store) -> None:
    """Hypervolume by generation; the upper axis counts evaluations. With times of another device it is another one."""
    _frame(ax, "generation", "hypervolume")
    rows = [g for g in store.generations if g["hypervolume"] is not None and g["hypervolume"] <= _LARGEST]
    # With rungs it is 0 until the first genomes have reached the last one.
    rows = rows[next((k for k, g in enumerate(rows) if g["hypervolume"] > 0), len(rows)) :]
    if not rows:
        return _say(ax, "no front")
    x, y = [g["generation"] + 1 for g in rows], [g["hypervolume"] for g in rows]
    here = next((k for k, g in enumerate(rows) if g["generation"] >= moved_at(store)), len(rows))
    if here:  # on one other device or several: not joined
        ax.plot(x[:here], y[:here], "o", color=_GREY, ms=4.5, mec="white", mew=0.7, label="elsewhere")
    # Settling has made the front's times others: what comes after it does not go on from there.
    cut = next((k for k, g in enumerate(rows) if g["generation"] >= compared_from(store)), len(rows))
    label = "on this device"
    for piece in (slice(here, cut), slice(cut, None)):
        if x[piece]:
            ax.plot(x[piece], y[piece], "-o", color=_FRONT, lw=1.5, ms=4.5, mec="white", mew=0.7, label=label)
            ax.fill_between(x[piece], min(y), y[piece], color=_FRONT, alpha=0.08, lw=0)
            label = None
    if here:
        ax.legend(frameon=False, fontsize=9, title="timed", title_fontsize=9)
    ax.xaxis.set_major_locator(_whole_ticks())
    if len(rows) > 1:
        upper = ax.secondary_xaxis("top")
        shown = range(0, len(rows), -(-len(rows) // 5))
        upper.set_xticks([x[k] for k in shown], [str(rows[k]["evaluations"]) for k in shown], fontsize=8, color=_GREY)
        upper.set_xlabel("evaluations", fontsize=9, color=_GREY)
        upper.spines["top"].set_visible(False)
        upper.tick_params(length=2, color=_GREY)


def _frame(ax: Axes, x_label: str, y_label: str) -> None:
    ax.set_xlabel(_plain(x_label))
    ax.set_ylabel(_plain(y_label))
    ax.grid(color="#e6e9ec", lw=0.7)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#9aa3ab")


def _annotate(ax: Axes, text: str, x: float, y: float, color: str, offset: tuple[int, int]) -> None:
    from matplotlib.patheffects import withStroke

    ax.annotate(
        _plain(text), (x, y), xytext=offset, textcoords="offset points", fontsize=8, color=color, zorder=6,
        ha="left" if offset[0] > 0 else "right", va="bottom" if offset[1] > 0 else "top",
        annotation_clip=True, path_effects=[withStroke(linewidth=2.2, foreground="white")],
    )  # fmt: skip


def _say(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=_GREY)
    ax.set_xticks([])
    ax.set_yticks([])


def _whole_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=6, integer=True)


def _plain(text: str) -> str:
    """Text matplotlib must not read as mathematics."""
    return text.replace("$", r"\$")
