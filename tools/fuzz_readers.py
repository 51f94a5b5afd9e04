"""The readers that ``tools/fuzz.py`` feeds, each with good inputs to start from and what its caller does next.

A reader is made once per process, in a folder of its own: ``READERS[name](folder)``. It then makes input number k
(``write``) and reads it (``read``), which returns whether the input was accepted; input k comes from the good input
k modulo their number. What is read is also used as the command line would use it: a genome is costed, a space sampled,
a run reported in every format. That may raise EvonasError and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from fuzz_inputs import edit_hdf5, edited_bytes, edited_journal, edited_tree, nasty, toml_text
from fuzz_reader import CONTEXT, JsonReader, Reader
from fuzz_weights import Checkpoints, Interrupted, Weights

GENOMES = Path(__file__).resolve().parents[1] / "genomes"
PICTURES = 500  # one accepted run in so many is also drawn, which takes 1,000 times longer than to read it


class GenomeFiles(JsonReader):
    def prepare(self) -> None:
        self.corpus = [path.read_bytes() for path in sorted(GENOMES.glob("*.json"))]

    def read(self, k: int) -> bool:
        from evonas.genome import genome_to_dict, read_genome
        from evonas.genome.graph import cost

        found = read_genome(self.path)
        cost(found.genome, 96, found.context or 64)
        json.dumps(genome_to_dict(found.genome, name=found.name, notes=found.notes), allow_nan=False)
        return True


class Spaces(Reader):
    def prepare(self) -> None:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        self.corpus = [path.read_bytes() for path in sorted(GENOMES.glob("*.toml"))]
        own = {
            "kind": "custom", "length": "depth", "rules": ["a < b or depth % 2 == 0", "max(a, c) > 0"],
            "genes": {"depth": [1, 2, 3], "a": {"low": 0, "high": 9}, "b": {"low": 0.1, "high": 9.0, "log": True}},
            "layers": {"c": ["x", "y"]}, "active": {"a": "b > 1"}, "prior": {"a": 1},
        }  # fmt: skip
        self.corpus.append(toml_text(own).encode())
        self.trees = [tomllib.loads(data.decode()) for data in self.corpus]

    def write(self, k: int, rng: Random) -> None:
        if rng.random() < self.structured:
            text = toml_text(edited_tree(rng, self.trees[k % len(self.trees)]))
            self.path.write_bytes(text.encode("utf-8", "surrogatepass"))
        else:
            super().write(k, rng)

    def read(self, k: int) -> bool:
        from evonas.evolution.sampling import around_prior, with_prior
        from evonas.genome import read_space, space_from_dict, space_to_dict

        space, rng = read_space(self.path), np.random.default_rng(k)
        for genome in (space.sample(rng), *around_prior(space, 2, rng)):
            assert space.contains(genome) and space.contains(with_prior(space, genome))
        space_from_dict(json.loads(json.dumps(space_to_dict(space))))
        return True


class Configs(JsonReader):
    def prepare(self) -> None:
        """Every family with all its keys, at their defaults or something else."""
        from evonas.convert.families import FAMILIES

        for name, family in FAMILIES.items():
            plain = {"model_type": name, **family.defaults, "architectures": ["XForCausalLM"], "use_cache": True}
            full = {**dict.fromkeys(family.keys, 1), **plain, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
            full |= {"rope_parameters": {"rope_theta": 1e6}, "torch_dtype": "bfloat16", "alibi": True}
            self.corpus += [json.dumps(plain).encode(), json.dumps(full).encode()]

    def read(self, k: int) -> bool:
        from evonas.convert.huggingface import read_config
        from evonas.genome.graph import cost

        found = read_config(self.path)
        cost(found.genome, 96, found.context or 64)
        "\n".join((found.name, *found.notes))
        return True


class Texts(Reader):
    def prepare(self) -> None:
        from pydoc_data.topics import topics

        texts = [topics[name].encode() for name in sorted(topics)]
        self.corpus = [
            min(texts, key=len),
            texts[0][:2_000],
            texts[1][:400],
            bytes(range(256)) * 2,
            b"ab" * 100,
            b"\0" * 300,
        ]

    def read(self, k: int) -> bool:
        from evonas.tasks import load_task

        task = load_task("text", str(self.path), (1, 4, CONTEXT, 30)[k % 4])
        x, y = task.batch(np.random.default_rng(k), 3)
        for inputs, targets in ((x, y), *task.validation(None, 16)):
            assert inputs.shape == targets.shape and 0 <= inputs.min() and inputs.max() < task.vocab_size
        assert task.fingerprint
        return True


class Constraints(Reader):
    def prepare(self) -> None:
        self.corpus = [
            b"latency<=5ms", b"params<=1.5M", b"memory<=2GB", b" loss >= 1e-3 nats ", b"flops<=.5T",
            "decode_latency<=3e2µs".encode(),
        ]  # fmt: skip

    def edit(self, rng: Random, data: bytes, other: bytes) -> bytes:
        if rng.random() < 0.2:
            parts = [rng.choice((b"latency", b"loss", str(nasty(rng))[:9_000].encode("utf-8", "replace")))]
            parts += [rng.choice((b"<=", b">=", b"<")), str(nasty(rng))[:9_000].encode("utf-8", "replace")]
            return b"".join(parts)
        return edited_bytes(rng, data, other)

    def read(self, k: int) -> bool:
        from evonas.record import Constraint

        text = self.path.read_bytes().decode("utf-8", "surrogateescape")
        constraint = (Constraint.parse_goal if k % 2 else Constraint.parse)(text)
        assert Constraint.parse(str(constraint)) == constraint
        constraint.violation(1.0)
        return True


class Calibrations(JsonReader):
    file = "calibration.json"

    def prepare(self) -> None:
        from evonas.report.calibration import summarise
        from evonas.report.extrapolation import Extrapolation, LeftOut

        rng = np.random.default_rng(0)
        sample = [
            {"id": f"{k:012x}", "losses": rng.random(1 + k % 2).tolist(), "expected": rng.random(), "params": 100 + k,
             "long": rng.random(), "latency": rng.random(), "learning_rate": 1e-3, "status": "ok", "reason": ""}
            for k in range(9)
        ]  # fmt: skip
        whole = {"factor": 10.0, "rungs": [1024, 4096], "data": "99 bytes", "sample": sample[:2]}
        whole["trained"] = [
            {**{key: e[key] for key in ("id", "long", "status", "reason")}, "factor": 10.0, "data": "99 bytes"}
            for e in sample[:3]
        ]
        ahead = Extrapolation({}, LeftOut({}, {}), 0.1)
        summary = summarise({**whole, "sample": sample}, ahead, {"genomes": 4, "loss": 0.05})
        self.corpus = [json.dumps({**whole, "summary": s}).encode() for s in (summary, summary, None)]

    def read(self, k: int) -> bool:
        from evonas.report.calibration import lines
        from evonas.report.calibration_file import read_calibration

        found = read_calibration(self.folder)
        if found is None:
            return False
        json.dumps(found, allow_nan=False).encode()
        if found["summary"] is not None:
            "\n".join(lines(found["summary"])).encode()
        return True


# -- runs -------------------------------------------------------------------------------------------------------------


def make_runs(folder: Path) -> list[Path]:
    """Small runs: one whole, one with rungs, failures, seeds and a journal full of generations."""
    from evonas.config import Settings
    from evonas.genome import read_space, space_to_dict
    from evonas.record import Measure, Record, objective
    from evonas.report import extrapolation, membership
    from evonas.sketch import sketch
    from evonas.store import Store
    from evonas.store import store as merging

    membership._DRAWS = 20  # of 500, which take most of the time of a report
    extrapolation.FEWEST = 2

    space, rng = read_space("text-cpu"), np.random.default_rng(0)
    genomes = [space.sample(rng) for _ in range(6)]
    names, made = ("loss", "latency"), []
    header = {"objectives": [objective(n) for n in names], "space": space_to_dict(space), "device": "cpu", "seed": 3}
    numbers = {"population": 4, "generations": 4, "seed": 3, "tokens": 4096, "validation_tokens": 1024, "rungs": 2}
    about = {"objectives": names, "constraints": (), "device": "cpu", "timeout": 5.0, "reuse": ("other",)}
    seeds = ({"label": "a", "genes": dict(genomes[0])},)
    settings = Settings(task="text", data=None, context=64, seeds=seeds, **about, **numbers)
    header |= {"settings": settings.to_dict(), "command": "evonas evolve"}
    header |= {
        "constraints": ["latency<=9ms", "params<=1000000"],
        "seed_genomes": [{"id": genomes[0].id, "label": "a"}],
    }
    always, merging.MERGE_ALWAYS = merging.MERGE_ALWAYS, 0  # so that commits stay in the journal
    try:
        for journaled in (False, True):
            with Store.create(folder / f"made-{journaled}", header) as store:
                for generation in range(3):
                    for k, genome in enumerate(genomes[generation : generation + 3]):
                        at = "4096 tokens" if k else "1024 tokens"
                        measures = {
                            "loss": Measure(2 - 0.1 * k, 0.02, at, "cpu", sketch(rng.random(9))),
                            "latency": Measure(1 + k, 0.1, "measured", "c"),
                        }
                        record = Record(genome.id, generation, k, "ok", measures, "", {"seconds": 1.0, "tokens": 64.0})
                        if k == 2:
                            record = Record(genome.id, generation, k, "timeout", {}, "too slow")
                        store.append(genome, record, () if k else (genomes[0].id,), "scale", "a")
                    row = {"generation": generation, "hypervolume": 0.5, "front_size": 1, "rng": {"seed": 0}}
                    row |= {"rungs": [4, 2], "expected": [{"rung": 0, "of": 1024, "pairs": 2, "error": {"loss": 0.1}}]}
                    store.commit(row, [genomes[generation].id, genomes[generation + 1].id])
                    if not journaled and generation == 1:
                        store._merge(store._state.pending, lambda: None)
                if journaled:
                    store.set_header(notes={"a": 1})
                    store.append(genomes[5], Record(genomes[5].id, 3, 0, "ok", {"loss": Measure(1.0)}))
                copy = folder / f"run-{journaled}"
                shutil.copytree(store.folder, copy, ignore=shutil.ignore_patterns("lock"))
                write_calibration(copy, genomes)
                made.append(copy)
    finally:
        merging.MERGE_ALWAYS = always
    return made


def write_calibration(run: Path, genomes) -> None:
    """One that lets a report extrapolate and draw with seeds' noise."""
    about = {"factor": 4.0, "data": None, "status": "ok", "reason": ""}
    trained = [{**about, "id": g.id, "long": 1.0 + k} for k, g in enumerate(genomes)]
    summary = {
        "factor": 4.0, "genomes": 6, "kept": None, "predictors": [],
        "extrapolation": {"tokens": 16384, "genomes": 6, "error": 0.1}, "seed_noise": {"genomes": 4, "loss": 0.05},
    }  # fmt: skip
    (run / Calibrations.file).write_text(json.dumps({"trained": trained, "summary": summary}))


def use_run(run: Path, k: int) -> None:
    """Open, read every genome and what a resume would, report in every format."""
    from rich.console import Console

    from evonas.config import Settings
    from evonas.errors import EvonasError
    from evonas.genome import space_from_dict
    from evonas.report import build_report, png, render_table, to_csv, to_html, to_json, to_markdown
    from evonas.store import Store

    store = Store.open(run)
    dict(store.genomes)
    store.population()
    for read, what in ((Settings.from_dict, "settings"), (space_from_dict, "space")):  # as a resume does
        with contextlib.suppress(EvonasError):
            read(store.header[what])
    report = build_report(store)
    for render in (to_json, to_csv, to_markdown, to_html):
        text = render(report)
        check_text(text)
        assert render is not to_html or not any(tag in text for tag in ("<script>", "<b>&")), "markup in a page"
    terminal = Console(file=io.StringIO(), width=120)
    render_table(report, terminal)
    check_text(terminal.file.getvalue())
    if k % PICTURES == 0:
        png(store)


def check_text(text: str) -> None:
    text.encode("utf-8")  # as it is when it is written
    assert "\x1b" not in text, "a text that steers the terminal"


class Populations(Reader):
    file = "population.h5"
    patience = 2.0
    isolated = "_read_data"

    def prepare(self) -> None:
        import h5py

        from evonas.store import files

        files.check_readable = lambda data: None  # the worker itself is the process in which the file is tried
        for run in make_runs(self.folder):
            use_run(run, 0)  # what is imported at the first picture takes time
            self.corpus.append((run / self.file).read_bytes())
            # Headers of the first version, which have no checksum that would catch the damage first.
            with h5py.File(run / self.file) as old, h5py.File(run / "plain.h5", "w", libver="earliest") as new:
                new.attrs.update(old.attrs)
                for name, table in old.items():
                    group = new.create_group(name)
                    for column, dataset in table.items():
                        old.copy(dataset, group, column)
            self.corpus.append((run / "plain.h5").read_bytes())
        # Most of a small file are empty chunks, where nothing is worth changing.
        self.places = [np.flatnonzero(np.frombuffer(data, np.uint8)).tolist() for data in self.corpus]
        self.run = self.path = self.folder / "run"
        self.run.mkdir()
        shutil.copy(self.folder / "run-False" / Calibrations.file, self.run)
        self.path = self.run / self.file

    def write(self, k: int, rng: Random) -> None:
        n = k % len(self.corpus)
        if rng.random() < self.structured:
            self.path.write_bytes(self.corpus[n])
            edit_hdf5(rng, self.path)
        else:
            self.path.write_bytes(edited_bytes(rng, self.corpus[n], rng.choice(self.corpus), self.places[n]))

    def read(self, k: int) -> bool:
        use_run(self.run, k)
        return True


class Journals(Reader):
    file = "journal.jsonl"

    def prepare(self) -> None:
        _, run = make_runs(self.folder)
        self.run = self.folder / "run"
        shutil.copytree(run, self.run)
        use_run(self.run, 0)  # what is imported at the first picture takes time
        self.path = self.run / self.file
        self.corpus = [self.path.read_bytes()]

    def edit(self, rng: Random, data: bytes, other: bytes) -> bytes:
        return edited_journal(rng, data, other)

    def read(self, k: int) -> bool:
        use_run(self.run, k)
        return True


# -- weights ----------------------------------------------------------------------------------------------------------


READERS: dict[str, Callable[[Path], Reader]] = {
    "genome": GenomeFiles,
    "space": Spaces,
    "config": Configs,
    "text": Texts,
    "population": Populations,
    "journal": Journals,
    "calibration": Calibrations,
    "weights": Weights,
    "checkpoint": Checkpoints,
    "training": Interrupted,
    "constraint": Constraints,
}
