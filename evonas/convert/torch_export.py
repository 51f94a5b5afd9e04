"""A network as a folder that needs torch alone: ``model.py``, ``weights.safetensors``, ``genome.json``.

``model.py`` is put together from the source of ``evonas.model`` itself, so that it can't come to differ from it: the
definitions as they stand, without the imports between them, below one literal that holds the genome.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ..errors import EvonasError
from ..genome import Genome, graph, write_genome
from ..model import (
    attention,
    cache,
    dot_product,
    dropout,
    feed_forward,
    flash,
    latent_attention,
    narrow,
    norm,
    rotary,
    short_convolution,
    transformer,
    undrawn,
)
from ..model.transformer import Transformer
from . import plain, standalone
from .weights import Seen, save_weights

FILES = ("model.py", "genome.json", "weights.safetensors")

# What follows the genome, in this order: a module and the definitions taken from it, None for all but LEFT_OUT.
PARTS: tuple[tuple[ModuleType, tuple[str, ...] | None], ...] = (
    (graph, ("MIN_ATTENTION_BLOCK", "attention_block", "first_block", "rope_dim")),
    (narrow, None),
    (norm, None),
    (undrawn, None),
    (feed_forward, None),
    (rotary, None),
    (cache, None),
    (flash, None),
    (dot_product, None),
    (dropout, None),
    (short_convolution, None),
    (attention, None),
    (latent_attention, None),
    (transformer, None),
    (standalone, None),
)
LEFT_OUT = ("build",)  # evonas checks the genome there; an export was checked when it was made
TITLES = {graph: "Sizes that follow from others."}

HEAD = '''\
"""A decoder language model found by evonas: genome {id}, {weights}.

It needs torch alone. ``python model.py`` prints its parameters, its latency and some tokens.

    from model import generate, load
    model = load()
    logits = model(tokens)               # (B, T) token ids -> (B, T, {vocab_size})
    longer = generate(model, tokens, 20)
{text}
Parameters have the names they have in evonas.
"""

from __future__ import annotations

{imports}


class EvonasError(ValueError):
    """Tokens, a cache or a file that don't fit."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{{message}}\\n{{hint}}" if hint else message)


{classes}


{genome}
VOCAB_SIZE = {vocab_size}
CONTEXT = {context}  # tokens it is meant for
VOCABULARY = {vocabulary}
'''
_BEGIN = "The "

FOOT = '''\
# -- This model --------------------------------------------------------------------------------------------------------


def load(weights: str | os.PathLike | None = None) -> Transformer:
    """The network with its weights (those beside this file), for inference, on the CPU in float32."""
    model = Transformer(GENOME, VOCAB_SIZE, CONTEXT)
    path = Path(__file__).with_name("weights.safetensors") if weights is None else weights
    model.load_state_dict(read_safetensors(path)[0])
    return model.eval()


if __name__ == "__main__":
    report(load(), VOCABULARY)
'''


def export_torch(
    model: Transformer,
    folder: Path,
    *,
    trained: bool,
    name: str = "",
    source: str = "",
    tokens: int | None = None,
    vocabulary: bytes | None = None,
    training: Seen | None = None,
) -> None:
    """Write ``FILES`` into an existing ``folder``; raises EvonasError where one can't be written. ``tokens`` is as in a
    genome file, ``vocabulary`` and ``training`` are as ``save_weights`` takes them."""
    try:
        text = model_source(model, trained=trained, vocabulary=vocabulary, training=training)
        (folder / "model.py").write_text(text, encoding="utf-8")
    except OSError as error:
        raise EvonasError(f"{folder / 'model.py'} can't be written: {error.strerror}") from None
    notes = () if trained else ("the weights beside this file are untrained",)
    about = {"name": name, "source": source, "context": model.context, "tokens": tokens, "notes": notes}
    write_genome(folder / "genome.json", model.genome, **about)
    save_weights(model, folder / "weights.safetensors", vocabulary, training)


def model_source(
    model: Transformer, *, trained: bool, vocabulary: bytes | None = None, training: Seen | None = None
) -> str:
    """The text of ``model.py``."""
    state = f"trained:\n{training}" if training else "trained"
    sections = [_section(module, names) for module, names in PARTS]
    head = HEAD.format(
        id=model.genome.id,
        weights=state if trained else "its weights untrained: for timing only",
        imports="\n".join(_imports()),
        classes=_definitions(plain, None),
        genome=_genome_literal(plain_genome(model.genome)),
        vocab_size=model.vocab_size,
        context=model.context,
        vocabulary="None  # tokens are not bytes of a text" if vocabulary is None else _vocabulary_literal(vocabulary),
        text="" if vocabulary is None else _usage(vocabulary, model.context),
    )
    return "\n\n\n".join([head.rstrip(), *sections, FOOT])


def _usage(vocabulary: bytes, context: int) -> str:
    """How to have the model write, as far as its context and its alphabet allow."""
    if set(_BEGIN.encode()) <= set(vocabulary) and len(_BEGIN) < context:
        lines = ["from model import VOCABULARY, decoded, encoded", f'begin = encoded("{_BEGIN}", VOCABULARY)']
        most = min(50, context - len(_BEGIN))
    else:
        lines = ["import torch", "from model import VOCABULARY, decoded", "begin = torch.zeros(1, 1, dtype=torch.long)"]
        most = min(50, max(context - 1, 1))
    lines.append(f"print(decoded(generate(model, begin, {most}, 0.8), VOCABULARY))")
    return "\n" + "".join(f"    {line}\n" for line in lines)


def plain_genome(genome: Genome) -> plain.Genome:
    """``genome`` without its training genes and with the sizes it implies."""
    layers = tuple(
        plain.Layer(
            layer.n_heads, layer.n_kv_heads, genome.head_dim_of(layer), layer.window, layer.kv_rank,
            genome.ffn_hidden_of(layer),
        )
        for layer in genome.layers
    )  # fmt: skip
    return plain.Genome(
        genome.id, genome.d_model, genome.norm, genome.activation, genome.position, genome.tied_embeddings,
        genome.conv_width, genome.block_conv_width, float(genome.dropout), layers,
    )  # fmt: skip


def _genome_literal(genome: plain.Genome) -> str:
    fields = [(name, getattr(genome, name)) for name in genome.__dataclass_fields__ if name != "layers"]
    lines = [f"    {name}={json.dumps(value) if isinstance(value, str) else repr(value)}," for name, value in fields]
    lines += ["    layers=(", *(f"        {layer!r}," for layer in genome.layers), "    ),"]
    return "\n".join(["GENOME = Genome(", *lines, ")"])


def _vocabulary_literal(vocabulary: bytes) -> str:
    """In lines of 50 bytes."""
    text = vocabulary.hex()
    lines = [f'    "{text[k : k + 100]}"' for k in range(0, len(text), 100)]
    return "\n".join(["bytes.fromhex(  # the byte that each token stands for", *lines, ")"])


def _section(module: ModuleType, names: tuple[str, ...] | None) -> str:
    """A module under its docstring's first sentence as a title, the rest of the docstring below it."""
    title, *legend = [line for line in TITLES.get(module, inspect.getdoc(module)).splitlines() if line]
    heading = f"# -- {title.rstrip('.')} "
    return "\n".join([heading.ljust(120, "-"), *(f"# {line}" for line in legend), "", "", _definitions(module, names)])


def _definitions(module: ModuleType, names: tuple[str, ...] | None) -> str:
    """The source of the top-level definitions ``names``, with the comments right above them."""
    source = inspect.getsource(module)
    lines, text, before = source.splitlines(), "", None
    for node in ast.parse(source).body:
        name = _name(node)
        if name is None or name in LEFT_OUT or (names is not None and name not in names):
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
        while first > 1 and lines[first - 2].startswith("#"):
            first -= 1
        constants = isinstance(node, ast.Assign) and isinstance(before, ast.Assign)
        gap = "" if before is None else "\n" if constants else "\n\n\n"
        text += gap + "\n".join(lines[first - 1 : node.end_lineno])
        before = node
    return text


def _name(node: ast.stmt) -> str | None:
    """What a top-level statement defines; None for docstrings and imports, also those for type checkers only."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return node.name
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Expr, ast.If)):
        return None
    assert isinstance(node, (ast.Assign, ast.AnnAssign)), f"an export can't hold {ast.unparse(node)!r} at the top level"
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return ast.unparse(target)


def _imports() -> Iterator[str]:
    """What the parts import from outside evonas, once each, the standard library before torch."""
    plainly, from_modules = {"os"}, {"pathlib": {"Path"}}
    taken = [module for module, names in PARTS if names is None]
    for module in (plain, *taken):
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.Import):
                plainly |= {ast.unparse(alias) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
                from_modules.setdefault(node.module, set()).update(ast.unparse(alias) for alias in node.names)
    for heavy in (False, True):
        if heavy:
            yield ""
        yield from (f"import {name}" for name in sorted(plainly) if name.startswith("torch") == heavy)
        for name in sorted(from_modules):
            if name.startswith("torch") == heavy:
                yield f"from {name} import {', '.join(sorted(from_modules[name]))}"
