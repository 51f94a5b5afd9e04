"""``evonas export``: a genome as a network for use elsewhere."""

from __future__ import annotations

import contextlib
import math
import shlex
from pathlib import Path

import click

from ..errors import EvonasError

TARGETS = ("torch", "hf", "onnx")
_LACKS = {
    "vocabulary": "model.py will show tokens as numbers, not as text",
    "training": "how far these weights were trained is not known",
}
_TO_COME = {"hf": "a Hugging Face model", "onnx": "ONNX"}


@click.command()
@click.argument("reference", metavar="FILE|RUN:ID")
@click.option(
    "--to", "target", type=click.Choice(TARGETS), default="torch", show_default=True, help="hf and onnx are to come."
)
@click.option(
    "-o", "--output", type=click.Path(), metavar="DIR", help="New or empty folder. Default: runs/export-NAME."
)
@click.option(
    "--weights",
    type=click.Path(),
    metavar="FILE.safetensors",
    help="Default: those beside FILE, or the newest of this genome in runs/train-*.",
)
@click.option("--untrained", is_flag=True, help="Fresh weights: for timing only.")
@click.option(
    "--context",
    type=click.IntRange(1, 2**24),
    metavar="T",
    help="With --untrained. Default: the run's or the genome file's, or 64.",
)
@click.option(
    "--vocab",
    type=click.IntRange(1, 2**24),
    metavar="V",
    help="With --untrained: vocabulary size. Default: that of the run's text or the config, or of the embedded corpus.",
)
def export(reference, target, output, weights, untrained, context, vocab) -> None:
    """Export a genome with trained weights: a folder that needs torch alone.

    FILE is a shipped name ('evonas genome show'), a genome file, or a config.json of Hugging Face; ID is any
    unambiguous start of an id that 'evonas report RUN' shows.

    Writes model.py (the whole network in one file, with generation), weights.safetensors and genome.json;
    'python model.py' there prints parameters, latency and some tokens.

    \b
    evonas train my-run:3f2a && evonas export my-run:3f2a -o mine
    evonas export genome.json --weights weights.safetensors
    evonas export nanogpt-cpu --untrained --context 256
    """
    if target in _TO_COME:
        raise EvonasError(f"export to {_TO_COME[target]} is not built yet", "--to torch is there: one model.py.")
    if untrained and weights is not None:
        raise EvonasError("--untrained and --weights exclude each other", "Leave out one of them.")
    if not untrained and (context or vocab):
        option = "--context" if context else "--vocab"
        what = f"{option} goes with --untrained only: trained weights have theirs"
        raise EvonasError(what, f"Leave out {option}.")
    from ..convert.torch_export import FILES, export_torch
    from ..store import runs_folder
    from .reference import read_reference

    found = read_reference(reference)
    found.check_buildable()
    if untrained:
        model, origin = _fresh(found, context, vocab), "untrained weights, for timing only"
        text, training, tokens = None, None, found.tokens
    else:
        from ..convert.weights import load_trained, training_of, unsound, vocabulary_of

        path = Path(weights) if weights is not None else _find_weights(reference, found)
        genome, tokens = _as_trained(found, path)
        model, origin = load_trained(genome, path, found.context), f"weights from {path}"
        text, training = vocabulary_of(path), training_of(path)
        origin += f" ({training})" if training else ""
        for what in unsound(path):
            click.echo(f"Note: the metadata of {path} are damaged: {_LACKS[what]}", err=True)
    folder = Path(output) if output is not None else runs_folder() / f"export-{found.file_name}"
    _write(folder, FILES, lambda: export_torch(
        model, folder, trained=not untrained, name=found.name, source=found.source, tokens=tokens, vocabulary=text,
        training=training,
    ))  # fmt: skip
    click.echo(f"{found.name} ({model.genome.id}): vocabulary {model.vocab_size}, context {model.context}, {origin}")
    click.echo(f"Wrote {folder / FILES[0]}, {', '.join(FILES[1:])}")
    click.echo(f"Try it: python {shlex.quote(str(folder / FILES[0]))}")


def _fresh(found, context: int | None, vocab: int | None):
    import torch

    from ..config import DEVICE_DEFAULTS
    from ..genome import bounded_windows
    from ..model import build
    from ..tasks import TASKS, load_task

    context = context or found.context or DEVICE_DEFAULTS["cpu"]["context"]
    vocab = vocab or found.vocabulary
    if vocab is None:  # that of its task, whatever the context: a short text may be too short for a long one
        name, data = found.task_and_data()
        vocab = load_task(name, data, min(context, 64) if name in TASKS else context).vocab_size
    genome = bounded_windows(found.genome, context)
    return build(genome, vocab, context, generator=torch.Generator().manual_seed(0)).eval()


def _find_weights(reference: str, found) -> Path:
    """Weights of this genome, or of it with the rate that ``evonas train`` rescales to another length: beside its
    file, or in the folder written last by ``evonas train``."""
    from ..convert.weights import are_of
    from ..genome.io import exists
    from ..store import runs_folder

    name, place = "weights.safetensors", Path(reference)
    path = (place if place.is_dir() else place.parent) / name
    beside = [path] if exists(place) and exists(path) else []
    trained = sorted(runs_folder().glob(f"train-*/{name}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    damaged = ""
    for path in (*beside, *trained):
        fits = are_of(path, found.genome) or are_of(path, _taken_over(found, path))
        if fits:
            if damaged:
                click.echo(f"Note: passed over{damaged}", err=True)
            return path
        if fits is None and not damaged:
            damaged = f" {path}, of which can't be told what it holds: --weights {path} says why"
    raise EvonasError(
        f"there are no trained weights of {found.name} ({found.genome.id}) in {runs_folder()}/train-*"
        + (damaged and f"; there is{damaged}"),
        f"Train it first: evonas train {shlex.quote(reference)}. Trained with -o DIR? Add --weights "
        "DIR/weights.safetensors. To time it only, add --untrained.",
    )


def _as_trained(found, path: Path):
    """The genome with the learning rate that the genome file beside the weights names, and the length of training that
    this is meant for: ``evonas train`` rescales a rate to the length of the training. As it is where that file tells
    of another genome."""
    from ..config import MAX_CONTEXT
    from ..genome import bounded_windows, read_genome
    from ..genome.io import exists

    beside = path.parent / "genome.json"
    if "learning_rate" in found.genome and exists(beside):
        with contextlib.suppress(EvonasError):
            trained = read_genome(beside)
            same = found.genome.replace(learning_rate=trained.genome.get("learning_rate"))
            if trained.genome == bounded_windows(same, trained.context or MAX_CONTEXT):
                return trained.genome, trained.tokens
    return found.genome, found.tokens


def _taken_over(found, path: Path):
    """The genome as trained there, if its rate is the one rescaled to that length; else as it is."""
    from ..fitness.schedule import rate_share

    genome, length = _as_trained(found, path)
    if found.tokens is None or length is None or genome is found.genome:
        return found.genome
    rate = found.genome.learning_rate * rate_share(found.genome.optimizer, length, found.tokens)
    return genome if math.isclose(genome.learning_rate, rate, rel_tol=1e-6) else found.genome


def _write(folder: Path, names, write) -> None:
    """Make ``folder`` and have ``write`` fill it; what fails leaves nothing."""
    from .folder import make_folder

    make_folder(folder)
    try:
        write()
    except BaseException:
        with contextlib.suppress(OSError):
            for name in (*names, "weights.partial"):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()
        raise
