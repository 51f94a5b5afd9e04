"""The house: no room imports a room above it, heavy libraries stay where they belong, the package is whole."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]
PACKAGE = HERE / "evonas"

GROUND = {"errors", "plain_files", "config", "record", "sketch", "safepoint", "genome"}
# Room -> the rooms it may import, besides itself and the version. DESIGN's table; a new room needs a line here.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "plain_files": set(),
    "config": {"errors"},
    "record": {"errors"},
    "sketch": set(),
    "safepoint": set(),
    "genome": GROUND,
    "model": {"genome", "errors"},
    "tasks": {"errors"},
    "fitness": {"model", "tasks", *GROUND},
    "evolution": GROUND,
    "store": GROUND,
    "executors": {"errors", "safepoint"},
    "search": {"evolution", "store", "executors", *GROUND},
    "report": {
        "store",
        "evolution.selection",
        "evolution.rungs",
        "evolution.ties",
        "genome",
        "record",
        "sketch",
        "config",
        "errors",
    },
    "convert": {"model", "genome", "plain_files", "errors"},
    "refine": {"fitness", "store", "genome", "record", "errors"},
}
MAY_IMPORT["cli"] = {*MAY_IMPORT, "cli"}
MAY_IMPORT["__main__"] = {"cli"}
NO_TORCH = (
    "errors",
    "plain_files",
    "config",
    "record",
    "sketch",
    "safepoint",
    "genome",
    "evolution",
    "store",
    "executors",
    "search",
    "report",
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """Dotted names that a module of ``package`` imports, anywhere in it; ``from x import y`` gives both x and x.y."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> set[str]:
    package = ("evonas", *path.relative_to(PACKAGE).parts[:-1])
    return set(imports(path.read_text(encoding="utf-8"), package))


def upward(room: str, names: set[str]) -> set[str]:
    """Those of ``names`` that ``room`` may not import."""
    allowed = MAY_IMPORT[room] | {room}
    bad = set()
    for name in names:
        parts = name.split(".")
        if parts[0] != "evonas" or len(parts) == 1 or parts[1] == "__version__":
            continue
        fits = parts[1] in allowed or ".".join(parts[1:3]) in allowed
        # `from ..evolution.selection import x` also yields the bare package on the way; only what is used counts.
        on_the_way = any(other.startswith(name + ".") for other in names) and len(parts) == 2
        if not fits and not on_the_way:
            bad.add(name)
    return bad


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_no_room_imports_upward(path):
    if path == PACKAGE / "__init__.py":
        assert imports_of(path) == set()
        return
    assert upward(room_of(path), imports_of(path)) == set()


@pytest.mark.parametrize(
    "room, package, source, found",
    [
        ("evolution", ("evonas", "evolution"), "from ..search import Search", "evonas.search.Search"),
        ("evolution", ("evonas", "evolution"), "from .. import search", "evonas.search"),
        ("evolution", ("evonas", "evolution"), "def f():\n    import evonas.fitness.train", "evonas.fitness.train"),
        ("genome", ("evonas", "genome"), "class A:\n    def f(self):\n        from ..record import x\n"
         "        from ..store.rows import y", "evonas.store.rows.y"),
        ("search", ("evonas",), "from .fitness import ProxyEvaluator", "evonas.fitness.ProxyEvaluator"),
        ("search", ("evonas",), "if TYPE_CHECKING:\n    from evonas.model import build", "evonas.model.build"),
        ("report", ("evonas", "report"), "from ..evolution import Engine", "evonas.evolution.Engine"),
        ("report", ("evonas", "report"), "from ..evolution.engine import Engine", "evonas.evolution.engine.Engine"),
        ("record", ("evonas",), "from .genome import Genome", "evonas.genome.Genome"),
        ("executors", ("evonas", "executors"), "from ..genome import Genome", "evonas.genome.Genome"),
        ("tasks", ("evonas", "tasks", "deep"), "from ...cli import main", "evonas.cli.main"),
    ],
)  # fmt: skip
def test_the_check_finds_what_is_wrong(room, package, source, found):
    assert found in upward(room, set(imports(source, package)))


@pytest.mark.parametrize(
    "room, package, source",
    [
        ("evolution", ("evonas", "evolution"), "from .fitness import Individual\nfrom ..genome.gene import Gene"),
        ("report", ("evonas", "report"), "from ..evolution.selection import hypervolume"),
        ("store", ("evonas", "store"), "from .. import __version__"),
        ("model", ("evonas", "model"), "import torch\nfrom . import norm\nfrom .norm import NORMS"),
        ("cli", ("evonas", "cli"), "from ..search import Search\nfrom ..fitness.train import train"),
    ],
)
def test_the_check_lets_pass_what_is_right(room, package, source):
    assert upward(room, set(imports(source, package))) == set()


def test_every_room_is_in_the_table():
    assert {room_of(path) for path in modules()} - {"__init__"} <= set(MAY_IMPORT)


# -- heavy libraries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [p for p in modules() if room_of(p) in NO_TORCH], ids=lambda p: p.stem)
def test_rooms_that_never_import_torch(path):
    heavy = {name for name in imports_of(path) if name.split(".")[0] in ("torch", "transformers", "safetensors")}
    assert heavy == set()


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_nothing_uses_deaps_creator_or_a_global_generator(path):
    names = imports_of(path)
    assert not {n for n in names if n.startswith("deap.creator")}
    assert "random" not in {n.split(".")[0] for n in names}
    source = path.read_text(encoding="utf-8")
    if path != PACKAGE / "evolution" / "environment.py":  # lends DEAP's NSGA-III a state and takes it back
        assert not re.search(r"np\.random\.(?!default_rng|Generator|SeedSequence|PCG64)\w", source)
    # Dropout takes no generator: whoever seeds torch's own does so in a copy that is thrown away.
    assert not re.search(r"torch\.(manual_seed|seed)\(", source) or "fork_rng(" in source


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "module, absent",
    [
        ("evonas", {"torch", "numpy", "click", "deap"}),
        ("evonas.record", {"torch", "numpy", "deap"}),
        ("evonas.genome", {"torch", "deap", "h5py", "matplotlib"}),
        ("evonas.evolution", {"torch", "h5py", "matplotlib"}),
        ("evonas.store", {"torch"}),
        ("evonas.executors", {"torch", "ray"}),
        ("evonas.search", {"torch", "ray", "matplotlib"}),
        ("evonas.report", {"torch"}),
    ],
)
def test_importing_a_room_leaves_heavy_libraries_alone(module, absent):
    loaded = set(python(f"import sys, {module}; print(*sys.modules)").split())
    assert module in loaded and not absent & loaded


def test_the_engine_runs_without_torch():
    python(
        "import sys; sys.modules['torch'] = None\n"
        "from evonas.evolution import Engine\n"
        "from evonas.genome import read_space\n"
        "from evonas.record import Objective\n"
        "engine = Engine(read_space('text-cpu'), [Objective('width'), Objective('depth')], population_size=4)\n"
        "for _ in range(2):\n"
        "    for c in engine.ask():\n"
        "        engine.tell(c, {'width': c.genome.d_model, 'depth': c.genome.n_layers})\n"
        "assert engine.generation == 2 and engine.front()\n"
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["--version"], ["evolve", "-h"], ["report", "--help"]])
def test_help_imports_neither_torch_nor_numpy(arguments):
    output = python(
        f"import sys; sys.argv = ['evonas', *{arguments!r}]\n"
        "from evonas.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    code = end.code\n"
        "print('LOADED', code, *sys.modules)\n"
    )
    text, loaded = output.split("LOADED")
    assert "evonas" in text or not arguments  # without arguments the help is an error message
    assert loaded.split()[0] == ("0" if arguments else "2")
    assert not {"torch", "numpy", "h5py", "matplotlib", "deap"} & set(loaded.split())


# -- the installed package -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(HERE / "setup.cfg", encoding="utf-8")
    return parser


def test_setup_lists_the_packages_on_disk(setup):
    listed = setup["options"]["packages"].split()
    on_disk = {".".join(("evonas", *p.parent.relative_to(PACKAGE).parts)) for p in PACKAGE.rglob("__init__.py")}
    assert sorted(listed) == sorted({*on_disk, "evonas.genomes"})
    folders = {p.parent for p in modules()}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_the_command_is_the_one_that_makes_messages_of_errors(setup):
    assert setup["options.entry_points"]["console_scripts"].split() == ["evonas", "=", "evonas.cli:main"]


def test_genomes_are_installed_as_data(setup):
    patterns = setup["options.package_data"]["evonas.genomes"].split()
    assert sorted(patterns) == ["*.json", "*.toml"]
    assert "evonas.genomes = genomes" in setup["options"]["package_dir"]
    files = [p for p in (HERE / "genomes").rglob("*") if p.is_file()]
    assert files and all(p.parent == HERE / "genomes" and p.suffix in (".json", ".toml") for p in files)


def requirements(text: str) -> set[str]:
    return {re.match(r"[A-Za-z0-9_.-]+", line.strip()).group() for line in text.splitlines() if line.strip()}


def test_everything_that_is_imported_is_asked_for(setup):
    needed = requirements(setup["options"]["install_requires"])
    extras = {name for key in setup["options.extras_require"].values() for name in requirements(key)}
    found = {name.split(".")[0] for path in modules() for name in imports_of(path)}
    outside = found - set(sys.stdlib_module_names) - {"evonas", "tomllib"}
    spelled = {name.replace("-", "_") for name in needed | extras}
    assert outside <= spelled
    assert {n.replace("-", "_") for n in needed} <= outside  # and nothing is asked for in vain
