"""The exported network computes what evonas' own does, from one file that needs torch alone."""

from __future__ import annotations

import ast
import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evonas.convert import standalone
from evonas.convert.torch_export import FILES, export_torch, model_source, plain_genome
from evonas.convert.weights import Seen, are_of, load_trained, save_weights, training_of, vocabulary_of
from evonas.errors import EvonasError
from evonas.fitness import latency
from evonas.genome import bounded_windows, read_genome, read_space, transformer_genome
from evonas.model import Transformer, build

VOCAB = 23
SPACE = read_space("text-cpu")
EVERY_GENE = {
    "n_layers": 4, "d_model": 32, "norm": "rmsnorm", "activation": "swiglu", "position": "rope",
    "tied_embeddings": False, "n_heads": [4, 4, 2, 4], "n_kv_heads": [4, 2, 1, 1], "window": [None, 8, 8, None],
    "kv_rank": [None, None, 8, 16], "ffn_ratio": [1, 2, 1.5, 2], "conv_width": 4, "block_conv_width": 3,
}  # fmt: skip
few = settings(max_examples=25, deadline=None, derandomize=True)


def network(genome, context: int = 48, scale: float = 5.0) -> Transformer:
    """With weights large enough that every token matters to every later one."""
    model = build(bounded_windows(genome, context), VOCAB, context, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not (name.startswith("blocks.") and "convolution" in name):
                parameter.mul_(scale)
            if name.endswith("convolution.weight"):
                parameter.add_(1.0)
    return model


def module(path: Path) -> ModuleType:
    """The exported model.py, imported under a name of its own (its dataclasses look themselves up there)."""
    spec = importlib.util.spec_from_file_location(f"exported_{path.parent.name}", path)
    made = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    finally:
        del sys.modules[spec.name]
    return made


def tokens_of(length: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("every_gene")
    export_torch(network(transformer_genome(EVERY_GENE)), path, trained=True, name="every gene")
    return path


# -- parity ---------------------------------------------------------------------------------------------------------


@few
@given(st.integers(0, 2**32), st.sampled_from((1, 2, 15, 16, 17, 33, 64, 80, 97, 130)))
def test_logits_equal_evonas_own_and_decoding_agrees(tmp_path_factory, seed, length):
    mine = network(SPACE.sample(np.random.default_rng(seed)), context=max(length, 2))
    path = tmp_path_factory.mktemp("export")
    export_torch(mine, path, trained=True)
    made = module(path / "model.py")
    theirs, tokens = made.load(), tokens_of(length)
    with torch.inference_mode():
        expected, logits = mine(tokens), theirs(tokens)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        cache = theirs.new_cache(2)
        decoded = torch.stack([theirs.decode(tokens[:, t : t + 1], cache) for t in range(length)], 1)
    torch.testing.assert_close(decoded, logits, rtol=1e-4, atol=1e-4)
    prompt = (length + 1) // 2
    longer = made.generate(theirs, tokens[:, :prompt], length - prompt, temperature=0)
    with torch.inference_mode():
        likeliest = theirs(longer)[:, prompt - 1 : -1]
    drawn = likeliest.gather(2, longer[:, prompt:, None]).squeeze(2)  # near ties may fall either way
    torch.testing.assert_close(drawn, likeliest.amax(2), rtol=1e-4, atol=1e-4)


def test_every_gene_at_once(folder):
    made, mine = module(folder / "model.py"), network(transformer_genome(EVERY_GENE))
    theirs, tokens = made.load(), tokens_of(48)
    torch.testing.assert_close(theirs(tokens), mine(tokens), rtol=1e-5, atol=1e-5)
    assert {n: tuple(p.shape) for n, p in theirs.named_parameters()} == {
        n: tuple(p.shape) for n, p in mine.named_parameters()
    }
    assert theirs.new_cache().bytes == mine.new_cache().bytes


def test_evonas_reads_the_folder_back(folder):
    found = read_genome(folder / "genome.json")
    assert (found.name, found.context) == ("every gene", 48) and are_of(folder / "weights.safetensors", found.genome)
    again = load_trained(found.genome, folder / "weights.safetensors")
    tokens = tokens_of(30)
    assert torch.equal(again(tokens), module(folder / "model.py").load()(tokens))


def test_generation_is_drawn_by_the_generator_and_ends_with_the_context(folder):
    made = module(folder / "model.py")
    model, prompt = made.load(), tokens_of(3, batch=1)
    first, again, other = (
        made.generate(model, prompt, 20, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (1, 23) and torch.equal(first[:, :3], prompt)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(made.generate(model, prompt, 0), prompt)
    assert made.generate(model, prompt, 46).shape == (1, 49), "the last token needs no room"
    computed = []
    model.token_embedding.register_forward_hook(lambda *_: computed.append(1))
    with pytest.raises(made.EvonasError, match="at most 48 tokens") as caught:
        made.generate(model, prompt, 47)
    assert not computed and "46" in str(caught.value)
    with pytest.raises(made.EvonasError, match="at most 48 tokens"):
        made.generate(model, tokens_of(49, batch=1), 1)


# -- the file -------------------------------------------------------------------------------------------------------


ALONE = (
    "import runpy, sys\n"
    "for name in ('evonas', 'numpy', 'safetensors', 'click'):\n    sys.modules[name] = None\n"
    "runpy.run_path(sys.argv[1], run_name='__main__')\n"
)


@pytest.mark.parametrize("arguments", [[], ["-c", ALONE]], ids=["as a script", "without evonas and numpy"])
def test_it_runs_alone(folder, tmp_path, arguments):
    command = [sys.executable, "-I", *arguments, str(folder / "model.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith(" "))
    assert lines["parameters"] == f"{sum(p.numel() for p in network(transformer_genome(EVERY_GENE)).parameters()):,}"
    assert "ms +- " in lines["latency"] and "48 tokens at batch 1" in lines["latency"]
    assert len(lines["tokens"].split()) == 17


def test_it_is_readable_and_says_what_it_is(folder):
    text = (folder / "model.py").read_text()
    assert {p.name for p in folder.iterdir()} - {"__pycache__"} == set(FILES)
    imports = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imports <= {"torch", *sys.stdlib_module_names}
    assert max(map(len, text.splitlines())) <= 120 and "    n_heads: int" in text
    made = module(folder / "model.py")
    assert made.GENOME.layers[2] == made.Layer(2, 2, 16, 8, 8, 48) and made.CONTEXT == 48 and made.VOCAB_SIZE == VOCAB
    assert "untrained" not in text.split('"""')[1]
    assert "untrained" in model_source(network(transformer_genome(EVERY_GENE)), trained=False).split('"""')[1]


def test_with_a_vocabulary_it_reads_and_writes_text(tmp_path):
    vocabulary = b"\n abcdefghijklmnopqrstu"
    assert len(vocabulary) == VOCAB
    export_torch(network(transformer_genome(EVERY_GENE)), tmp_path, trained=True, vocabulary=vocabulary)
    assert vocabulary_of(tmp_path / "weights.safetensors") == vocabulary
    made = module(tmp_path / "model.py")
    tokens = made.encoded("a bad cat\n", made.VOCABULARY)
    assert tokens.tolist()[0][:2] == [2, 1] and made.decoded(tokens, made.VOCABULARY) == "a bad cat\n"
    with pytest.raises(made.EvonasError, match="none of 'XY'"):
        made.encoded("aXbY", made.VOCABULARY)
    done = subprocess.run([sys.executable, "-I", str(tmp_path / "model.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = done.stdout[done.stdout.index("text  ") + 4 :]
    assert len(text.strip()) > 8 and set(text) <= set(vocabulary.decode())


@pytest.mark.parametrize("vocabulary", [b"The aboutw", bytes(range(200, 210))])
@pytest.mark.parametrize("context", [2, 4, 16, 64])
def test_what_it_says_of_its_use_works(tmp_path, vocabulary, context):
    """Whatever its context and its alphabet are."""
    genome = bounded_windows(transformer_genome({**EVERY_GENE, "position": "learned"}), context)
    model = build(genome, len(vocabulary), context)
    export_torch(model, tmp_path, trained=True, vocabulary=vocabulary)
    said = (tmp_path / "model.py").read_text().split('"""')[1]
    lines = [line.strip() for line in said.splitlines() if line.startswith("    ")]
    code = "\n".join(line for line in lines if "tokens" not in line)
    assert "load()" in code and "generate(model, begin, " in code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize("text", ["zz", "0", "0a0a", "0a", ""])
def test_a_vocabulary_that_is_none_of_these_weights_is_ignored(tmp_path, text):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"vocabulary": text, "vocab_size": "2"})
    assert vocabulary_of(path) is None


def test_no_definition_hides_another(folder):
    tree = ast.parse((folder / "model.py").read_text())
    names = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    names += [ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)]
    assert len(names) == len(set(names))


def test_the_plain_genome_holds_all_that_the_network_reads():
    genome = transformer_genome(EVERY_GENE)
    direct, plain = build(genome, VOCAB, 48), Transformer(plain_genome(genome), VOCAB, 48)
    assert [(n, p.shape) for n, p in direct.named_parameters()] == [(n, p.shape) for n, p in plain.named_parameters()]


# -- its clock ------------------------------------------------------------------------------------------------------


class Clock:
    """Stands for the module ``time``: only what runs on it takes time."""

    def __init__(self) -> None:
        self.now = self.elsewhere = 0

    def thread_time_ns(self) -> int:
        return self.now - self.elsewhere

    def perf_counter(self) -> float:
        return self.now / 1e9

    def perf_counter_ns(self) -> int:
        return self.now


@pytest.mark.parametrize(("busy", "slow"), [(0.4, 1), (0.9, 1), (0.9, 1000)])
@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_it_times_as_evonas_does(monkeypatch, seconds, busy, slow):
    def measured(module, timed):
        clock, rng = Clock(), np.random.default_rng(0)
        monkeypatch.setattr(module, "time", clock)

        def call():
            waits = 3_000_000 if rng.random() < busy else 0
            clock.elsewhere += slow * waits
            clock.now += slow * (int(rng.integers(1_000_000, 9_000_000)) + waits)

        return timed(call)

    theirs = measured(latency, lambda call: latency._timed(call, "cpu", seconds))
    median, spread, repeats = measured(standalone, lambda call: standalone.milliseconds(call, seconds))
    assert (median, spread) == pytest.approx((theirs.value, theirs.spread), rel=1e-9)
    assert repeats >= (20 if busy < 0.5 else 5)
    for name in ("WARM_UP_SECONDS", "MIN_REPEATS", "MAX_REPEATS", "FEW_REPEATS", "PATIENCE", "WAIT", "WAITED"):
        assert getattr(standalone, name) == getattr(latency, name)
    assert latency.CPU_THREADS == 1


# -- its weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", standalone.DTYPES.values(), ids=standalone.DTYPES)
def test_safetensors_are_read_as_the_library_reads_them(tmp_path, dtype):
    tensors = {"a.weight": torch.randn(3, 5), "b": torch.randn(7), "none": torch.empty(0, 2)}
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "x", metadata={"genome": "abc"})
    read, about = standalone.read_safetensors(tmp_path / "x")
    expected = load_file(tmp_path / "x")
    assert about == {"genome": "abc"} and read.keys() == expected.keys()
    assert all(torch.equal(read[name], expected[name]) and read[name].dtype == dtype for name in read)


def raw(header, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape=(2,), offsets=(0, 8), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


DAMAGED = {
    "empty": b"",
    "short": b"\x01\x02",
    "a header longer than the file": raw({}, length=10**6),
    "a header of exabytes": raw({}, length=2**63),
    "no JSON": raw(b"{]"),
    "no UTF-8": raw(b"\xff\xfe"),
    "nested without end": raw(b"[" * 100_000),
    "a list": raw([1]),
    "metadata that are a list": raw({"__metadata__": []}),
    "metadata that are numbers": raw({"__metadata__": {"context": 3}}),
    "a tensor that is a number": raw({"a": 3}),
    "no offsets": raw({"a": {"dtype": "F32", "shape": [2]}}),
    "a dtype of another kind": raw({"a": entry(dtype="I64")}, bytes(8)),
    "a dtype that is a list": raw({"a": entry(dtype=[])}, bytes(8)),
    "a negative size": raw({"a": entry(shape=(-2,))}, bytes(8)),
    "a size that is true": raw({"a": entry(shape=(True,), offsets=(0, 4))}, bytes(8)),
    "sizes that don't fit the bytes": raw({"a": entry(shape=(3,))}, bytes(8)),
    "a tensor past the end": raw({"a": entry(shape=(4,), offsets=(0, 16))}, bytes(8)),
    "two tensors in one place": raw({"a": entry(), "b": entry()}, bytes(8)),
    "a gap": raw({"a": entry(offsets=(8, 16))}, bytes(16)),
    "a pickle": b"\x80\x02}q\x00." + bytes(30),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path, name):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(EvonasError, match=r"weights\.safetensors"):
        standalone.read_safetensors(path)
    assert not are_of(path, transformer_genome(EVERY_GENE))


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_no_file_makes_the_reader_fail_in_another_way(tmp_path_factory, data, place, byte):
    path = tmp_path_factory.mktemp("fuzz") / "x"
    good = bytearray(raw({"a": entry(), "b": entry(offsets=(8, 16))}, bytes(16)))
    good[place % len(good)] = byte
    for content in (data, raw(data), bytes(good)):
        path.write_bytes(content)
        try:
            standalone.read_safetensors(path)
        except EvonasError:
            pass


# -- whose weights they are -----------------------------------------------------------------------------------------


def test_how_far_a_training_had_come_is_kept_with_the_weights(tmp_path):
    seen = Seen(1500, 3000, 1.25)
    save_weights(network(transformer_genome(EVERY_GENE)), tmp_path / "w", training=seen)
    assert training_of(tmp_path / "w") == seen
    assert str(seen) == "held-out loss 1.2500 after 1,500 of 3,000 tokens"


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"seen": "5", "tokens": "9"},
        {"seen": "x", "tokens": "9", "loss": "1.0"},
        {"seen": "10", "tokens": "9", "loss": "1.0"},
        {"seen": "0", "tokens": "9", "loss": "1.0"},
        {"seen": "5", "tokens": "9", "loss": "nan"},
        {"seen": "5", "tokens": "9", "loss": '"""'},
        {"seen": "5", "tokens": "9" * 5000, "loss": "1.0"},
    ],
)
def test_what_does_not_say_so_in_numbers_says_nothing(tmp_path, about):
    save_file({"a": torch.ones(1)}, tmp_path / "w", metadata=about)
    assert training_of(tmp_path / "w") is None and training_of(tmp_path / "nothing") is None


def test_weights_of_another_genome_are_refused(tmp_path):
    genome = transformer_genome(EVERY_GENE)
    save_weights(network(genome), tmp_path / "w")
    other = genome.replace(window=(None, 4, 8, None))  # the same shapes, another network
    assert are_of(tmp_path / "w", genome) and not are_of(tmp_path / "w", other)
    with pytest.raises(EvonasError, match=f"of genome {genome.id}, not of {other.id}"):
        load_trained(other, tmp_path / "w")


def test_windows_as_wide_as_the_context_are_full_attention(tmp_path):
    genome = transformer_genome({**EVERY_GENE, "window": 48})
    save_weights(network(genome), tmp_path / "w")
    assert are_of(tmp_path / "w", genome) and load_trained(genome, tmp_path / "w").genome.layers[0].window is None


def test_a_file_that_names_no_genome_is_taken_where_it_fits(tmp_path):
    mine = network(transformer_genome({**EVERY_GENE, "position": "learned"}))
    tensors = dict(mine.state_dict())
    save_file(tensors, tmp_path / "bare")
    again = load_trained(mine.genome, tmp_path / "bare")
    assert again.context == 48 and torch.equal(again(tokens_of(9)), mine(tokens_of(9)))
    rope = network(transformer_genome(EVERY_GENE))
    save_file(dict(rope.state_dict()), tmp_path / "rope")
    assert load_trained(rope.genome, tmp_path / "rope", 48).context == 48
    with pytest.raises(EvonasError, match="does not say for which context"):
        load_trained(rope.genome, tmp_path / "rope")
    for change, words in (
        ({"norm.weight": None}, "it lacks norm.weight"),
        ({"extra": torch.ones(1)}, "a superfluous extra"),
        ({"norm.weight": torch.ones(5)}, r"norm.weight is \[5\], the genome makes it \[32\]"),
        ({"norm.weight": torch.full((32,), torch.nan)}, "not finite"),
        ({"token_embedding.weight": None}, "no token_embedding.weight"),
        ({"token_embedding.weight": torch.ones(3)}, "no token_embedding.weight"),
    ):
        changed = {name: value for name, value in {**tensors, **change}.items() if value is not None}
        save_file(changed, tmp_path / "changed")
        with pytest.raises(EvonasError, match=words):
            load_trained(mine.genome, tmp_path / "changed")


@pytest.mark.parametrize("context", ["", "0", "-1", "many", "99999999", "9" * 5000, "٣"])
def test_a_context_that_is_no_number_is_refused(tmp_path, context):
    mine = network(transformer_genome(EVERY_GENE))
    save_file(dict(mine.state_dict()), tmp_path / "w", metadata={"genome": mine.genome.id, "context": context})
    assert not are_of(tmp_path / "w", mine.genome)
    with pytest.raises(EvonasError, match="whole number from 1"):
        load_trained(mine.genome, tmp_path / "w")


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [0, 2**64], [0] * 70, [0, 2**31, 2**31, 2**31]])
def test_a_tensor_of_no_bytes_may_not_claim_any_shape(tmp_path, shape):
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(EvonasError, match="'x' is not a tensor of"):
        standalone.read_safetensors(tmp_path / "w")


def test_messages_do_not_repeat_a_name_of_any_length(tmp_path):
    mine = network(transformer_genome(EVERY_GENE))
    for about, extra in (({"genome": "x" * 99_000, "context": "48"}, {}), ({}, {"y" * 99_000: torch.ones(1)})):
        save_file({**mine.state_dict(), **extra}, tmp_path / "w", metadata=about)
        with pytest.raises(EvonasError) as error:
            load_trained(mine.genome, tmp_path / "w", 48)
        assert len(str(error.value)) < 500
