"""Table, CSV, Markdown, HTML and pictures."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from evonas.errors import EvonasError
from evonas.genome import ARCHITECTURE_GENES, TRAINING_GENES, Genome
from evonas.record import Measure, Record
from evonas.report import build_report, plot, png, render_table, to_csv, to_html, to_json, to_markdown
from evonas.report.cells import nothing_yet, summary_lines, table_of
from evonas.report.compare import Comparison
from evonas.report.figure import _progress, draw
from evonas.report.table import SHORT_ID
from evonas.store import MOVED, Store, note_revised

from .conftest import SEED, header, write_run

EVIL = "<script>alert(1)</script>|[red]`*$x_{$\x1b[2J"
LOST = SEED.replace(beta2=0.5)
FAST = SEED.replace(n_layers=2, window=(32, None), n_kv_heads=(4, 1), learning_rate=6.65e-4)


NOTATION = (
    "To read it: size is layers x width; heads NxL are N in each of L layers; heads N/K are N on K of keys and "
    "values; ffn is the hidden width over the width."
)
SIGNS = (
    "Percentages: change against seed nanogpt-cpu. ±: standard error; of a time measured once, half the interquartile "
    "range of its repeats."
)
UNCALIBRATED = (
    "Not calibrated: short trainings favour what learns fast; 'evonas calibrate' says how far long ones and other "
    "seeds agree."
)


def small(tmp_path, label="nanogpt-cpu") -> dict:
    """Seed, one better genome, one failure."""
    changes = {"seed_genomes": [{"id": SEED.id, "label": label}], "settings": {"generations": 3, "task": "text"}}
    with Store.create(tmp_path / "small", header(**changes)) as store:
        for genome, loss, latency, parents in ((SEED, 2.0, 1.0, ()), (FAST, 1.9, 0.5, (SEED.id,))):
            measures = {
                "loss": Measure(loss, 0.01, "1000 tokens", "cpu"),
                "latency": Measure(latency, 0.02, "measured", "cpu"),
            }
            store.append(genome, Record(genome.id, 0, 0, "ok", measures), parents, label=label)
        store.append(LOST, Record(LOST.id, 0, 2, "crash", reason="x"))
        store.commit({"generation": 0, "hypervolume": 0.5}, [FAST.id])
        report = build_report(store)
    return {**report, "seconds": 90.0, "created": "2026-01-01T00:00:00+00:00", "versions": {"evonas": "0"}}


def rendered(report, width=110) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    render_table(report, console)
    return console.file.getvalue()


def test_table(tmp_path):
    lines = [line.rstrip() for line in rendered(small(tmp_path)).splitlines()]
    assert lines[0] == (
        "run small: task text on cpu, seed 7, generations 1 of 3, 3 evaluations in 90 s, 1 on the front"
    )
    assert lines[1].split() == "id loss [nats] latency [ms] size genes".split()
    front_line = next(line for line in lines if line.startswith(FAST.id[:SHORT_ID]))
    for part in ("2x128", "4-4/1", "32-full", "4x2", "ln gelu", "1.900 ±0.010", "0.50 ±0.02"):
        assert part in front_line
    assert "-5.0%" in lines[lines.index(front_line) + 1] and "-50%" in lines[lines.index(front_line) + 1]
    assert any(line.startswith("* nanogpt-cpu") for line in lines)
    assert " ".join(lines).endswith(UNCALIBRATED)
    assert (
        " ".join(lines)
        .removesuffix(f" {UNCALIBRATED}")
        .endswith(
            "All of them: cosine, warmup 0.05, decay 0.1, dropout 0, beta2 0.99, clip 1. "
            f"{NOTATION} {SIGNS} "
            f"Failed: 1 crash (of 3 evaluations). The last crash: {LOST.id[:SHORT_ID]}, x. "
            f"nanogpt-cpu ({SEED.id}), all trained to 1,000 tokens: at its loss 50% less latency ({FAST.id}); "
            f"at its latency 0.1 nats less loss ({FAST.id})."
        )
    )


def test_a_seed_on_the_front_says_how_likely_it_stays_there(tmp_path):
    report = small(tmp_path)
    seed = {**report["seeds"][0], "probability": 0.42}
    text = rendered({**report, "front": [*report["front"], seed]})
    assert "p 0.42" in text and "without, it is above 0.95" in " ".join(text.split())


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_large_table_fits_and_loses_nothing(run, width):
    report = build_report(run)
    text = rendered(report, width)
    table = text[: text.index("All of them")].splitlines()[1:]
    assert max(map(len, table)) <= width
    assert all(member["id"][:SHORT_ID] in text for member in report["front"])
    assert "…" not in text


def test_the_last_failure_of_each_kind_is_named_with_its_reason(tmp_path):
    report = small(tmp_path)
    failed = {"error": {"id": "0123456789ab", "reason": "ValueError: bad \x1b[31mmood"}}
    text = " ".join(rendered({**report, "failures": {"error": 2}, "failed_last": failed}).split())
    assert "Failed: 2 error (of 3 evaluations). The last error: 012345" in text and "ValueError: bad" in text
    assert "\x1b" not in text


def test_csv(tmp_path):
    report = small(tmp_path)
    text = to_csv(report)
    assert text.splitlines()[0] == (
        "id,generation,parents,loss,loss_spread,loss_fidelity,latency,latency_spread,latency_fidelity,probability,"
        + ",".join([*ARCHITECTURE_GENES, *TRAINING_GENES])
    )
    assert text.splitlines()[1] == (
        f"{FAST.id},0,{SEED.id},1.9,0.01,1000 tokens,0.5,0.02,measured,1.0,"
        "2,128,,layernorm,gelu,learned,true,,,4 4,4 1,32 none,none none,4 4,0.000665,12,0.1,0.05,0,cosine,adamw,0.99,1,"
    )
    assert len(text.splitlines()) == 2
    # The columns do not depend on what is on the front.
    assert to_csv({**report, "front": []}) == text.splitlines()[0] + "\n"


def test_csv_of_other_genomes_holds_no_formula(tmp_path):
    genome = Genome({"kind": "=HYPERLINK(1)", "width": -3, "none": None, "names": ["a,b", 'c"']})
    with Store.create(tmp_path / "r", header()) as store:
        measures = {"loss": Measure(-1.0, float("nan")), "latency": Measure(1.0)}
        store.append(genome, Record(genome.id, 0, 0, "ok", measures))
        report = build_report(store)
    row = next(csv.DictReader(io.StringIO(to_csv(report))))
    assert (row["kind"], row["width"], row["none"], row["names"]) == ("'=HYPERLINK(1)", "-3", "none", 'a,b c"')
    assert (row["loss"], row["loss_spread"]) == ("-1.0", "")
    assert "n_layers" not in row
    assert "kind =HYPERLINK(1)" in rendered(report) and "kind =HYPERLINK(1)" in to_markdown(report)


def test_markdown(tmp_path):
    assert to_markdown(small(tmp_path)) == (
        "# small\n\n"
        "run small: task text on cpu, seed 7, generations 1 of 3, 3 evaluations in 90 s, 1 on the front.\n\n"
        "| id | size | heads | window | ffn | block | training | loss \\[nats\\] | latency \\[ms\\] |\n"
        "| --- | --- | --- | --- | --- | --- | --- | ---: | ---: |\n"
        f"| {FAST.id} | 2x128 | 4-4/1 | 32-full | 4x2 | ln gelu learned | lr 6.65e-4 batch 12 adamw "
        "| 1.900 ±0.010 (-5.0%) | 0.50 ±0.02 (-50%) |\n"
        f"| {SEED.id} (seed nanogpt-cpu) | 4x128 | 4x4 | full | 4x4 | ln gelu learned | lr 1e-3 batch 12 adamw "
        "| 2.000 ±0.010 | 1.00 ±0.02 |\n\n"
        "- All of them: cosine, warmup 0.05, decay 0.1, dropout 0, beta2 0.99, clip 1.\n"
        f"- {NOTATION}\n"
        f"- {SIGNS}\n"
        "- Failed: 1 crash (of 3 evaluations).\n"
        f"- The last crash: {LOST.id[:SHORT_ID]}, x.\n"
        f"- nanogpt-cpu ({SEED.id}), all trained to 1,000 tokens: at its loss 50% less latency ({FAST.id}); "
        f"at its latency 0.1 nats less loss ({FAST.id}).\n"
        f"- {UNCALIBRATED}\n"
    )


class Tags(HTMLParser):
    """Counts tags and checks that they close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.seen, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, tag):
        return sum(t == tag for t, _ in self.seen)


def test_html_is_one_page_that_needs_nothing_else(tmp_path):
    picture = b"\x89PNG fake"
    page = to_html(small(tmp_path), picture)
    tags = Tags(page)
    assert (tags.count("html"), tags.count("table"), tags.count("tr"), tags.count("th")) == (1, 1, 3, 9)
    assert (tags.count("script"), tags.count("link"), tags.count("img")) == (0, 0, 1)
    source = next(attrs["src"] for tag, attrs in tags.seen if tag == "img")
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == picture
    assert not re.search(r"https?://", page)
    assert FAST.id in tags.text and "seed nanogpt-cpu" in tags.text
    assert "50% less latency" in tags.text and "1.900 ±0.010" in tags.text
    assert Tags(to_html(small(tmp_path / "again"))).count("img") == 0


def test_hostile_text_is_inert_everywhere(tmp_path):
    changes = {**dict.fromkeys(("run", "task", "data", "device"), EVIL), "versions": {EVIL: EVIL}}
    report = small(tmp_path, EVIL) | changes
    page = to_html(report)
    assert "<script" not in page and Tags(page).count("script") == 0
    assert "&lt;script&gt;" in page
    markdown = to_markdown(report)
    assert "<script" not in markdown.replace("\\<", "")
    assert all(line.replace("\\|", "").count("|") == 10 for line in markdown.splitlines() if line.startswith("| "))
    text = rendered(report)
    assert "\x1b" not in text and "[red]" in text


def test_nothing_finished_yet(tmp_path):
    with Store.create(tmp_path / "none", header()) as store:
        report = build_report(store)
        assert "Nothing is on the front yet." in rendered(report)
        assert "Nothing is on the front yet." in to_markdown(report)
        assert "Nothing is on the front yet." in Tags(to_html(report, png(store))).text
        plot(store, tmp_path / "none.png")
        store.append(SEED, Record(SEED.id, 0, 0, "crash"))
        assert "Failed: 1 crash (of 1 evaluations)." in rendered(build_report(store))
        plot(store, tmp_path / "none.png")


def test_seeds_without_a_front_do_not_hide_that_there_is_none(tmp_path):
    report = {**small(tmp_path), "front": [], "constraints": [{"text": "loss<=0.1", "name": "loss", "unit": "nats"}]}
    report["status_of_run"] = {"generations_asked": 1, "generations_done": 1}
    assert report["seeds"]
    with Store.open(tmp_path / "small") as store:
        page = Tags(to_html(report, png(store))).text
    for text in (rendered(report), to_markdown(report), page):
        assert "Nothing is on the front: nothing meets the constraints." in text and "nanogpt-cpu" in text


def test_a_run_that_is_over_without_a_front_has_none_for_good():
    state = {"generations_asked": 3, "generations_done": 2}
    report = {"status_of_run": state, "constraints": [], "evaluations": 5, "failures": {"crash": 2, "timeout": 2}}
    assert nothing_yet(report) == "Nothing is on the front yet."
    state["generations_done"] = 3
    assert nothing_yet(report) == "Nothing is on the front."
    assert nothing_yet({**report, "constraints": ["x"]}).endswith("nothing meets the constraints.")
    broken = {**report, "constraints": ["x"], "failures": {"infeasible": 5}}
    assert nothing_yet(broken).endswith("nothing meets the constraints.")
    state["generations_asked"] = None  # on a budget, or told to stop by itself
    assert nothing_yet({**report, "status_of_run": {**state, "ended": True}}) == "Nothing is on the front."
    report["failures"]["crash"] = 3
    assert nothing_yet(report) == "Nothing is on the front: none of the evaluations has succeeded."


def test_the_notation_is_explained_as_far_as_it_occurs(tmp_path):
    report = {**small(tmp_path), "seeds": []}

    def told(**genes):
        front = [{**m, "genome": {**m["genome"], **genes} if len(genes) > 1 else genes} for m in report["front"]]
        changed = {**report, "front": front}
        return [line for line in summary_lines(changed, table_of(changed)) if "To read it" in line]

    (line,) = told(n_layers=2, n_heads=[4, 4], n_kv_heads=[4, 4], conv_width=3, tied_embeddings=False)
    assert "convN is" in line and "untied has" in line and "NxL" in line and "N/K" not in line
    assert "bconvN" not in line
    (line,) = told(n_layers=2, n_heads=[4, 4], n_kv_heads=[4, 4], block_conv_width=3)
    assert "bconvN are two" in line and " convN is" not in line
    assert told(width=3) == []


def test_ties_are_told_in_groups_and_goals_by_name(tmp_path):
    report = small(tmp_path)
    report["ties"] = [["aaaaaaaa", "bbbbbbbb"], ["cccccccc", "dddddddd"], ["bbbbbbbb", "eeeeeeee"]]
    report["goals"] = ["latency<=2ms"]
    text = to_markdown(report)
    assert "Too close to call: cccccc, dddddd; aaaaaa, bbbbbb, eeeeee." in text
    assert "Good enough: latency\\<=2ms." in text


@pytest.mark.parametrize("ending, magic", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot_formats(run, tmp_path, ending, magic):
    path = tmp_path / f"front.{ending}"
    plot(run, path)
    assert path.read_bytes().startswith(magic)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_the_picture_holds(run):
    report = build_report(run)
    figure = draw(run)
    trade, grown = figure.axes[0], figure.axes[1]
    assert (trade.get_xlabel(), trade.get_ylabel()) == ("latency [ms]", "loss [nats]")
    assert (trade.get_xscale(), trade.get_yscale()) == ("log", "linear")
    staircase = trade.lines[0].get_xydata()
    front = [(m["objectives"]["latency"]["value"], m["objectives"]["loss"]["value"]) for m in report["front"]]
    assert [tuple(p) for p in staircase] == sorted(front)
    dominated = trade.collections[0].get_offsets()
    assert len(dominated) + len(front) == 192 - 8
    assert any("nanogpt-cpu" == text.get_text() for text in trade.texts)
    stars = [line for line in trade.lines if line.get_marker() == "*"]
    assert len(stars) == 1 and stars[0].get_xdata()[0] == report["seeds"][0]["objectives"]["latency"]["value"]
    low, high = trade.get_xlim()
    assert all(low < x < high for x, _ in front)
    assert list(grown.lines[0].get_ydata()) == report["hypervolume"] and len(grown.lines) == 1
    assert list(grown.lines[0].get_xdata()) == list(range(1, 9)), "generations as progress counts them"


def test_hypervolumes_of_two_devices_are_two_lines(tmp_path):
    with write_run(tmp_path / "moved", generations=5, population=10) as store:
        store.set_header(notes={MOVED: 2})
        values, grown = build_report(store)["hypervolume"], draw(store).axes[1]
        assert [(list(line.get_xdata()), list(line.get_ydata())) for line in grown.lines] == [
            ([1, 2], values[:2]),
            ([3, 4, 5], values[2:]),
        ]
        assert [line.get_linestyle() for line in grown.lines] == ["None", "-"], "elsewhere may be several devices"
        assert [text.get_text() for text in grown.get_legend().get_texts()] == ["elsewhere", "on this device"]
        store.set_header(notes={MOVED: 5})
        assert len(draw(store).axes[1].lines) == 1, "nothing was done here yet"


def test_hypervolumes_of_before_and_after_settling_are_two_lines(tmp_path):
    with write_run(tmp_path / "settled", generations=3, population=10) as store:
        note_revised(store)
        values = build_report(store)["hypervolume"]
        assert [list(line.get_ydata()) for line in draw(store).axes[1].lines] == [values], "nothing has come after it"
        members = store.population(2)
        store.commit({"generation": 3, "hypervolume": 0.5}, members)
        store.commit({"generation": 4, "hypervolume": 0.6}, members)
        assert [list(line.get_ydata()) for line in draw(store).axes[1].lines] == [values, [0.5, 0.6]]


def test_one_panel_per_further_objective(tmp_path):
    names = ("loss", "latency", "memory")
    with write_run(tmp_path / "three", names, generations=2, population=10) as store:
        labels = [ax.get_xlabel() for ax in draw(store).axes]
        assert [label for label in labels if label] == ["latency [ms]", "memory [MB]", "generation"]
        png(store)
    with write_run(tmp_path / "single", ("loss",), generations=2, population=10) as store:
        assert draw(store).axes[0].get_xlabel() == "evaluation"


def test_a_front_of_one_point_and_hostile_labels_are_drawn(tmp_path):
    seeds = [{"id": SEED.id, "label": EVIL}]
    objectives = [
        {"name": "a$_{", "unit": "$", "direction": "max"},
        {"name": "latency", "unit": "", "direction": "min"},
    ]
    with Store.create(tmp_path / "r", header(seed_genomes=seeds)) as store:
        measures = {"loss": Measure(0.0, 0.0), "latency": Measure(0.0, float("nan"))}
        store.append(SEED, Record(SEED.id, 0, 0, "ok", measures))
        assert png(store).startswith(b"\x89PNG")
    with Store.create(tmp_path / "s", header(objectives=objectives)) as store:
        assert png(store).startswith(b"\x89PNG")


def test_a_picture_before_anything_meets_a_constraint_that_counts_later(tmp_path):
    """On the loss: it is judged at the last rung."""
    with Store.create(tmp_path / "run", header(constraints=["loss<=1.5"], seed_genomes=[])) as store:
        for k in range(3):
            genome = SEED.replace(beta2=0.9 + 0.01 * k)
            measures = {
                "loss": Measure(2.0 + k, 0.1, "9 tokens", "cpu"),
                "latency": Measure(1.0 + k, 0, "measured", "cpu"),
            }
            store.append(genome, Record(genome.id, 0, k, "ok", measures))
        plot(store, tmp_path / "front.png")
        assert not build_report(store)["front"] and (tmp_path / "front.png").stat().st_size > 5000


@pytest.mark.parametrize("values", [(-1.7e308, 0.0, 1.7e308), (1e-300, 1.0, 1e300), (1e-300, 1e-299, 1e-298)])
@pytest.mark.parametrize("spread", [1e308, 1e90, 0.0])
def test_values_of_any_size_are_drawn(tmp_path, spread, values):
    with Store.create(tmp_path / "huge", header()) as store:
        store.commit({"generation": 0, "hypervolume": 1.7e308}, [])
        for k, value in enumerate(values):
            genome = SEED.replace(beta2=0.9 + 0.01 * k)
            measures = {
                "loss": Measure(value, spread, "10 tokens", "cpu"),
                "latency": Measure(values[-1 - k], spread, "measured", "cpu"),
            }
            store.append(genome, Record(genome.id, 0, k, "ok", measures))
        assert png(store).startswith(b"\x89PNG")


def test_plot_errors(run, tmp_path):
    with pytest.raises(EvonasError, match=r"its ending is '\.bmp'") as error:
        plot(run, tmp_path / "x.bmp")
    assert error.value.hint == "Allowed endings: .png, .svg, .pdf."
    with pytest.raises(EvonasError, match="its ending is 'missing'"):
        plot(run, tmp_path / "x")
    for bad in (tmp_path / "no" / "x.png", tmp_path / "folder.png"):
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        with pytest.raises(EvonasError, match="can't write"):
            plot(run, bad)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]


def test_no_seed_hides_under_the_legend(run):
    figure = draw(run)
    figure.canvas.draw()
    ax = figure.axes[0]
    box, axes_box = ax.get_legend().get_window_extent(), ax.get_window_extent()
    stars = [line for line in ax.lines if line.get_marker() == "*"]
    assert stars and all(not box.contains(*ax.transData.transform(star.get_xydata()[0])) for star in stars)
    assert box.y0 >= axes_box.y1 - 1, "no point of the front either"


@pytest.fixture
def constrained(tmp_path):
    """A run whose memory is constrained and no objective."""
    with Store.create(tmp_path / "constrained", header(constraints=["memory<=2MB", "latency<=9ms"])) as store:
        for k in range(3):
            genome = SEED.replace(learning_rate=1e-3 * (k + 1))
            measures = {
                "loss": Measure(2.0 - k, 0.1, "64 tokens"), "latency": Measure(1.0 + k, 0.1, "measured", "x"),
                "memory": Measure(1.25 + k / 4, 0.0, "measured", "x"),
            }  # fmt: skip
            store.append(genome, Record(genome.id, 0, k, "ok", measures))
        yield store


def test_what_is_only_constrained_is_shown_with_its_values(constrained):
    report = build_report(constrained)
    assert report["constraints"] == [
        {"text": "memory<=2MB", "name": "memory", "unit": "MB"},
        {"text": "latency<=9ms", "name": "latency", "unit": "ms"},
    ]  # fmt: skip
    assert [m["constraints"]["memory"]["value"] for m in report["front"]] == [1.75, 1.5, 1.25]
    assert all(set(m["objectives"]) == {"loss", "latency"} and set(m["constraints"]) == {"memory"}
               for m in report["front"])  # fmt: skip
    for text in (rendered(report), to_markdown(report), to_html(report, b"")):
        assert "memory" in text and "1.75" in text and "Constraints: memory" in text
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert [row["memory"] for row in rows] == ["1.75", "1.5", "1.25"] and rows[0]["memory_fidelity"] == "measured"
    json.loads(to_json(report))


def test_a_constraint_nobody_knows_is_shown_as_it_is(tmp_path):
    with Store.create(tmp_path / "odd", header(constraints=["beauty>=\x1b[31m3", 7])) as store:
        report = build_report(store)
    assert [c["name"] for c in report["constraints"]] == ["", ""]
    assert "Constraints: beauty>= [31m3, 7." in " ".join(rendered(report).split())


def test_half_characters_of_a_run_come_out_as_text(tmp_path):
    evil = "a\ud800\x1b[2J"
    changes = {**dict.fromkeys(("run", "task", "data", "device"), evil), "versions": {evil: evil}}
    report = small(tmp_path, evil) | changes
    report["front"][0]["objectives"]["loss"]["fidelity"] = evil
    terminal = Console(file=io.StringIO(), width=100)
    render_table(report, terminal)
    for text in (to_json(report), to_csv(report), to_markdown(report), to_html(report), terminal.file.getvalue()):
        text.encode("utf-8")
        assert "\x1b" not in text
    assert json.loads(to_json(report))["run"].startswith("a")


def test_the_best_so_far_of_one_objective_breaks_no_constraint():
    records = tuple(Record(f"{k}", 0, k, "ok") for k in range(4))
    values = np.array([[1.0], [3.0], [2.0], [2.5]])
    for feasible, drawn in (([0, 1, 1, 1], ([2, 3, 4], [3.0, 2.0, 2.0])), ([0, 0, 0, 0], None)):
        those = np.array(feasible, dtype=bool)
        ax = Figure().add_subplot()
        found = Comparison(("params",), ("min",), records, values, those, those, {}, 0)
        _progress(ax, found, [{"name": "params", "unit": "", "direction": "min"}])
        dots, *best = ax.lines
        assert dots.get_ydata().tolist() == values[:, 0].tolist(), "all that was evaluated"
        assert [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in best] == ([drawn] if drawn else [])
