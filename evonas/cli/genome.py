"""``evonas genome``: show, check, cost, diff, import."""

from __future__ import annotations

import click

from ..errors import EXIT_FAILED, EvonasError

_DEFAULT_VOCABULARY, _DEFAULT_CONTEXT = 256, 1024


@click.group()
def genome() -> None:
    """Look at genomes: shipped ones by name, files, a Hugging Face config.json, or RUN:ID."""


@genome.command()
@click.argument("reference", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the genome file instead.")
def show(reference, as_json) -> None:
    """Print a genome; without REFERENCE, list the shipped ones.

    \b
    evonas genome show nanogpt-cpu
    evonas genome show my-run:3f2a --json > genome.json
    """
    from rich.table import Table

    from .terminal import output, plain

    console = output()
    if reference is None:
        _list_shipped(console)
        return
    from ..report.short import architecture_line, is_transformer, training_line
    from .reference import read_reference

    found = read_reference(reference)
    if as_json:
        click.echo(_as_json(found))
        return
    g = found.genome
    console.print(plain(found.name, "bold") + plain(f"  id {g.id}  {found.source}"), highlight=False)
    console.print(architecture_line(g), highlight=False, markup=False)
    console.print(training_line(g), highlight=False, markup=False)
    if not is_transformer(g):  # of a space of one's own: it has no layers to show
        return
    table = Table(
        "layer", "heads", "KV heads", "head width", "window", "KV rank", "feed-forward", box=None, header_style="bold"
    )
    for first, last, layer in _runs(g.layers):
        place = str(first) if first == last else f"{first}-{last}"
        kv = "-" if layer.kv_rank is not None else str(layer.n_kv_heads)
        hidden = f"{g.ffn_hidden_of(layer)} ({layer.ffn_ratio:.3g}x)"
        window, rank = str(layer.window or "full"), str(layer.kv_rank or "-")
        table.add_row(place, str(layer.n_heads), kv, str(g.head_dim_of(layer)), window, rank, hidden)
    console.print(table)
    rate = g.learning_rate_at(g.batch_size)
    console.print(f"learning rate at its batch of {g.batch_size}: {rate:.3g}", highlight=False)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, markup=False)


@genome.command()
@click.argument("reference")
@click.option("--space", metavar="FILE.toml", help="Also check that it lies in this search space.")
def check(reference, space) -> None:
    """Check that a genome can be built, and lies in a search space.

    \b
    evonas genome check my-genome.json --space text-cpu
    """
    from ..genome import bounded_windows, check_transformer, read_space
    from .reference import read_and_tell

    found = read_and_tell(reference)
    genome = found.genome
    problems = check_transformer(genome)
    wanted = read_space(space) if space and not problems else None
    if wanted is not None:
        if found.context and wanted.kind == "transformer":  # as a search at that context sees them
            wanted, genome = wanted.bounded(found.context), bounded_windows(genome, found.context)
        problems = wanted.check(genome)
    for problem in problems:
        click.echo(f"{found.name}: {problem}", err=True)
    if problems:
        widens = wanted is not None and _widens(wanted, genome)
        raise EvonasError(
            f"{found.name} has {len(problems)} problem{'s' * (len(problems) > 1)}",
            "evonas evolve --widen takes it all the same." if widens else "",
            exit_code=EXIT_FAILED,
        )
    click.echo(f"{found.name}: fine ({genome.id}){f', inside {space}' if space else ''}")


@genome.command()
@click.argument("references", nargs=-1, required=True)
@click.option(
    "--context", type=click.IntRange(1, 2**24), metavar="T", help="Tokens. Default: the genome's own, or 1024."
)
@click.option(
    "--vocab",
    type=click.IntRange(2, 2**24),
    metavar="V",
    help=f"Vocabulary size. Default: that of the run's data or the config, or {_DEFAULT_VOCABULARY}.",
)
def cost(references, context, vocab) -> None:
    """Parameters, FLOPs and KV-cache bytes, by formula.

    \b
    evonas genome cost gpt2 --vocab 50257 --context 1024
    evonas genome cost qwen3-0.6b deepseek-v2-lite --context 4096
    """
    from rich.table import Table

    from ..genome.graph import cost as analytic_cost
    from .reference import read_and_tell
    from .terminal import output, plain

    heads = ("genome", "vocabulary", "context", "parameters", "FLOPs forward", "KV cache (fp32)")
    table = Table(*heads, box=None, header_style="bold")
    for reference in references:
        found = read_and_tell(reference)
        size, length = vocab or found.vocabulary or _DEFAULT_VOCABULARY, context or found.context or _DEFAULT_CONTEXT
        c = analytic_cost(found.genome, size, length)
        table.add_row(
            plain(found.name),
            f"{size:,}",
            f"{length:,}",
            f"{c.params:,}",
            _scaled(c.flops, "FLOP", 1000),
            _scaled(c.kv_cache_bytes, "B", 1000),
        )
    output().print(table)


@genome.command()
@click.argument("first")
@click.argument("second")
def diff(first, second) -> None:
    """The genes in which two genomes differ.

    \b
    evonas genome diff nanogpt-cpu my-run:3f2a
    """
    from rich.table import Table

    from ..genome import check_transformer
    from ..genome.genome import UNWRITTEN
    from ..report.short import gene_text
    from .reference import read_and_tell
    from .terminal import output, plain

    a, b = read_and_tell(first), read_and_tell(second)
    if a.genome == b.genome:
        click.echo(f"{a.name} and {b.name} are the same genome ({a.genome.id})")
        return
    table = Table("gene", box=None, header_style="bold")
    for reference in (a, b):
        table.add_column(plain(reference.name))
    for name in dict.fromkeys((*a.genome, *b.genome)):
        values = [r.genome.get(name, UNWRITTEN.get(name)) for r in (a, b)]
        if values[0] != values[1]:
            table.add_row(plain(name), *(plain(gene_text(name, v)) for v in values))
    output().print(table)
    if not any(check_transformer(r.genome) for r in (a, b)):  # a space of one's own has no such costs
        click.echo(_cost_line(a, b))


def _cost_line(a, b) -> str:
    """What the difference costs, both at one vocabulary and context."""
    from ..genome.graph import cost as analytic_cost
    from ..report.short import percent

    vocab = a.vocabulary or b.vocabulary or _DEFAULT_VOCABULARY
    context = a.context or b.context or _DEFAULT_CONTEXT
    one, two = (analytic_cost(r.genome, vocab, context) for r in (a, b))
    flops = [_scaled(c.flops, "FLOP", 1000) for c in (one, two)]
    return (
        f"parameters {one.params:,} -> {two.params:,} ({percent(two.params, one.params)}), forward {flops[0]} -> "
        f"{flops[1]} ({percent(two.flops, one.flops)}), at vocabulary {vocab:,} and context {context:,}"
    )


@genome.command(name="import")
@click.argument("reference")
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE.json", help="Write the genome there. Default: print it."
)
def import_(reference, output) -> None:
    """Make a genome file from a Hugging Face config.json (or its folder), or from RUN:ID.

    What a genome can't say about that model is printed, and kept in the file's notes.

    \b
    evonas genome import ./Llama-3.2-1B/config.json -o llama.json
    """
    from ..genome import write_genome
    from .reference import read_reference

    found = read_reference(reference)
    for note in found.notes:
        click.echo(f"Note: {note}", err=True)
    if output is None:
        click.echo(_as_json(found))
        return
    write_genome(output, found.genome, **_about(found))
    click.echo(f"Wrote {output} ({found.genome.id})", err=True)


def _widens(space, genome) -> bool:
    try:
        space.widened(genome)
    except EvonasError:
        return False
    return True


def _as_json(found) -> str:
    import json

    from ..genome import genome_to_dict

    return json.dumps(genome_to_dict(found.genome, **_about(found)), indent=2, ensure_ascii=False)


def _about(found) -> dict:
    """What a genome file says beside the genes."""
    return {key: getattr(found, key) for key in ("name", "source", "context", "tokens", "notes")}


def _runs(layers):
    """(first, last, layer) of every run of equal layers."""
    start = 0
    for i, layer in enumerate(layers):
        if i + 1 == len(layers) or layers[i + 1] != layer:
            yield start, i, layer
            start = i + 1


def _list_shipped(console) -> None:
    from rich.table import Table

    from ..genome import read_genome
    from ..genome.io import shipped_names
    from ..report.short import architecture_line

    table = Table("genome", "architecture", box=None, header_style="bold")
    for name in shipped_names(".json"):
        table.add_row(name, architecture_line(read_genome(name).genome))
    console.print(table)
    console.print(f"search spaces: {', '.join(shipped_names('.toml'))}", highlight=False)


def _scaled(value: float, unit: str, base: int) -> str:
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < base or prefix == "P":
            return f"{value:.3g} {prefix}{unit}"
        value /= base
    raise AssertionError("unreachable")
