from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evonas.errors import EvonasError
from evonas.fitness.latency import LiveTensors
from evonas.genome import Genome, transformer_genome
from evonas.genome.graph import cost
from evonas.model import Transformer, build
from evonas.model.dot_product import CausalDotProduct

VOCAB = 23
SMALL = {
    "n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 4, "ffn_ratio": 2, "norm": "layernorm",
    "activation": "gelu", "position": "learned", "tied_embeddings": True,
}  # fmt: skip


def small(**changes) -> Genome:
    return transformer_genome({**SMALL, **changes})


@st.composite
def genomes(draw, max_layers: int = 3) -> Genome:
    """Small valid genomes: every scalar gene, and per layer any mix of heads, KV heads, windows, ranks and widths."""
    depth = draw(st.integers(1, max_layers))
    d_model = draw(st.sampled_from((16, 32, 48, 64)))
    position = draw(st.sampled_from(("learned", "rope")))
    # head_dim None makes every head d_model / n_heads wide: even for each count drawn here.
    head_dim = draw(st.sampled_from((None, 2, 6, 8, 12) + ((5,) if position == "learned" else ())))
    heads = draw(st.lists(st.sampled_from((1, 2, 4, 8)), min_size=depth, max_size=depth))
    shares = draw(st.lists(st.sampled_from((1, 2, 4)), min_size=depth, max_size=depth))
    genes = {
        "n_layers": depth,
        "d_model": d_model,
        "head_dim": head_dim,
        "position": position,
        "norm": draw(st.sampled_from(("layernorm", "rmsnorm"))),
        "activation": draw(st.sampled_from(("gelu", "swiglu", "relu2"))),
        "tied_embeddings": draw(st.booleans()),
        "conv_width": draw(st.sampled_from((1, 2, 4))),
        "block_conv_width": draw(st.sampled_from((1, 1, 2, 4))),
        "n_heads": heads,
        "n_kv_heads": [max(1, h // share) for h, share in zip(heads, shares)],
        "window": draw(st.lists(st.sampled_from((None, 1, 3, 8, 17, 32, 40)), min_size=depth, max_size=depth)),
        "kv_rank": draw(st.lists(st.sampled_from((None, None, 4, 7, 16)), min_size=depth, max_size=depth)),
        "ffn_ratio": draw(st.lists(st.sampled_from((0.5, 1.5, 4)), min_size=depth, max_size=depth)),
    }
    return transformer_genome(genes)


# Lengths below, at and above multiples of the windows and of the 32-token block.
LENGTHS = st.sampled_from((1, 2, 7, 17, 31, 32, 33, 40, 63, 64, 65, 79, 80, 97, 131))
few = settings(max_examples=25, deadline=None, derandomize=True)


def model_of(genome: Genome, context: int, seed: int = 0) -> Transformer:
    """In float64, with weights large enough that every token matters to every later one."""
    generator = torch.Generator().manual_seed(seed)
    model = build(genome, VOCAB, context, generator=generator).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("convolution.weight"):
                parameter.add_(torch.randn(parameter.shape, generator=generator))
            if parameter.dim() > 1 and not (name.startswith("blocks.") and "convolution" in name):
                parameter.mul_(10)  # but for what attention reads, or it would see single tokens
    return model


def tokens_of(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def flops_of(model: Transformer, tokens: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(tokens)
    return counter.get_total_flops()


@few
@given(genomes(), LENGTHS, st.integers(1, 2))
def test_decode_equals_forward(genome, length, batch):
    model, tokens = model_of(genome, length), tokens_of(batch, length)
    cache = model.new_cache(batch)
    with torch.inference_mode():
        expected = model(tokens)
        decoded = torch.stack([model.decode(tokens[:, t : t + 1], cache) for t in range(length)], 1)
    torch.testing.assert_close(decoded, expected, rtol=1e-9, atol=1e-9)


@few
@given(genomes(), LENGTHS, st.integers(1, 9))
def test_decode_continues_a_prefill(genome, length, more):
    model, tokens = model_of(genome, length + more), tokens_of(2, length + more)
    cache = model.new_cache(2)
    expected = model(tokens)
    logits = [*model.prefill(tokens[:, :length], cache).unbind(1)]
    logits += [model.decode(tokens[:, t : t + 1], cache) for t in range(length, length + more)]
    torch.testing.assert_close(torch.stack(logits, 1), expected, rtol=1e-9, atol=1e-9)


@few
@given(genomes(), LENGTHS, st.data())
def test_a_later_token_never_changes_earlier_logits(genome, length, data):
    changed = data.draw(st.integers(0, length - 1))
    model, tokens = model_of(genome, length), tokens_of(1, length)
    other = tokens.clone()
    other[0, changed] = (other[0, changed] + 1) % VOCAB
    before, after = model(tokens)[0], model(other)[0]
    torch.testing.assert_close(after[:changed], before[:changed], rtol=0, atol=1e-12)
    assert not torch.equal(after[changed], before[changed])


@few
@given(genomes(max_layers=1), LENGTHS, st.data())
def test_a_window_limits_sight_to_exactly_its_width(genome, length, data):
    window = (genome.layers[0].window or length) + genome.conv_width - 1  # which a token is told of its neighbours
    window += 2 * (genome.block_conv_width - 1)
    changed = data.draw(st.integers(0, length - 1))
    model, tokens = model_of(genome, length), tokens_of(1, length)
    other = tokens.clone()
    other[0, changed] = (other[0, changed] + 1) % VOCAB
    moved = (model(tokens) - model(other)).abs().amax((0, 2))
    seen = torch.zeros(length, dtype=torch.bool)
    seen[changed : changed + window] = True
    assert (moved[~seen] == 0).all() or moved[~seen].max() < 1e-12
    assert (moved[seen] > 0).all()


@few
@given(genomes(), LENGTHS, st.integers(1, 2), st.sampled_from((1, 8, 20, 32)))
def test_chunks_change_nothing(genome, length, batch, chunk):
    """Long sequences without gradients: logits, the cache, and what is decoded from it."""
    model, tokens = model_of(genome, length + 1), tokens_of(batch, length + 1)
    expected = model(tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evonas.model.transformer.CHUNK", chunk)
        cache = model.new_cache(batch)
        logits = model.prefill(tokens[:, :length], cache)
        with torch.no_grad():
            alone = model(tokens)
        assert torch.equal(model(tokens), expected), "with gradients there are no chunks"
    for given_, wanted in ((logits, expected[:, :length]), (alone, expected)):
        torch.testing.assert_close(given_, wanted, rtol=1e-9, atol=1e-9)
    last = model.decode(tokens[:, length:], cache)
    torch.testing.assert_close(last, expected[:, length], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("window", [1, 16, 32, 50, 300, None])
def test_chunks_cover_the_sequence_in_whole_blocks(window):
    core = CausalDotProduct(window, 2048)
    for length in (1, 300, 512, 513, 600, 1000, 1024, 2048):
        chunks = core.chunks(length, 256)
        assert sum(chunks) == length and (window is not None or len(chunks) == 1)
        assert all(chunk >= 256 and chunk % max(window, 32) == 0 for chunk in chunks[1:])
        assert len(chunks) == 1 or window <= chunks[0] < 600 + 256


def test_memory_beside_the_stream_is_bounded_by_the_window():
    """What one more token takes: its share of stream and logits, where every layer has a window."""

    def live(length, **genes):
        model = build(small(position="rope", **genes), VOCAB, length).eval()
        with torch.inference_mode(), LiveTensors() as tensors:
            model(tokens_of(1, length))
        return tensors.peak

    for genes in ({"window": 64}, {"window": [64, 100], "kv_rank": [None, 8]}):
        per_token = (live(4096, **genes) - live(2048, **genes)) / 2048
        assert per_token <= 4 * (2 * 32 + VOCAB)


@few
@given(genomes(), LENGTHS)
def test_params_and_cache_bytes_are_exact(genome, length):
    model = build(genome, VOCAB, length)
    expected = cost(genome, VOCAB, length)
    assert sum(p.numel() for p in model.parameters()) == expected.params
    assert model.new_cache().bytes == expected.kv_cache_bytes
    assert model.new_cache(3).bytes == 3 * expected.kv_cache_bytes
    assert model.double().new_cache().bytes == cost(genome, VOCAB, length, bytes_per_value=8).kv_cache_bytes


@few
@given(genomes(), LENGTHS)
def test_flops_agree_with_torch(genome, length):
    measured = flops_of(build(genome, VOCAB, length), tokens_of(1, length))
    assert measured == pytest.approx(cost(genome, VOCAB, length).flops, rel=0.02)


@few
@given(genomes(), st.sampled_from((5, 33, 80)), st.sampled_from((0.0, 0.1)))
def test_gradients_are_finite_and_reach_every_weight(genome, length, dropout):
    model = build(genome.replace(dropout=dropout), VOCAB, length)
    tokens = tokens_of(2, length + 1)
    logits = model(tokens[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kv_rank", [None, 8])
@pytest.mark.parametrize("window", [4, 64])
def test_windowed_flops_grow_linearly_and_full_ones_do_not(window, kv_rank):
    def attention_flops(width, length):
        genome = small(n_layers=1, window=width, kv_rank=kv_rank, position="rope")
        model = build(genome, VOCAB, 512)
        others = 2 * length * sum(p.numel() for p in model.parameters() if p.dim() > 1)
        return flops_of(model, tokens_of(1, length)) - others

    assert attention_flops(window, 512) <= 2.2 * attention_flops(window, 256)
    assert attention_flops(None, 512) == pytest.approx(4 * attention_flops(None, 256))
    assert attention_flops(window, 512) < 0.55 * attention_flops(None, 512)


def test_windowed_attention_holds_no_square_of_the_sequence():
    """The largest tensor any operation makes, of all that run in one forward pass."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            made = [x for x in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(x, torch.Tensor)]
            self.numel = max([self.numel, *(x.untyped_storage().nbytes() // x.element_size() for x in made)])
            return out

    genome = small(n_layers=1, window=32, n_heads=2, n_kv_heads=2)
    model = build(genome, VOCAB, 1024)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), Largest() as largest:
        model(tokens_of(1, 1024))
    assert 0 < largest.numel <= 2 * 1024 * 64  # heads * T * (C + W) scores


def test_the_cache_is_bounded_by_the_window_and_a_latent_is_smaller():
    bytes_of = {
        name: build(small(position="rope", **genes), VOCAB, 256).new_cache().bytes
        for name, genes in {
            "full": {}, "window": {"window": 16}, "latent": {"kv_rank": 8}, "both": {"window": 16, "kv_rank": 8},
            "shared": {"n_kv_heads": 1},
        }.items()
    }  # fmt: skip
    full = 2 * 256 * 2 * 32 * 4
    rope = 4  # half of a head of 8
    assert bytes_of["full"] == full
    assert bytes_of["window"] == full * 16 // 256
    assert bytes_of["latent"] == 2 * 256 * (8 + rope) * 4 < full
    assert bytes_of["both"] == 2 * 16 * (8 + rope) * 4
    assert bytes_of["shared"] == full // 4


def test_a_windowed_rope_model_decodes_past_its_context():
    genome = small(position="rope", window=[5, 8], kv_rank=[None, 8])
    model, tokens = model_of(genome, 16), tokens_of(1, 50)
    cache = model.new_cache()
    size = cache.bytes
    decoded = torch.stack([model.decode(tokens[:, t : t + 1], cache) for t in range(50)], 1)
    torch.testing.assert_close(decoded, model(tokens), rtol=1e-9, atol=1e-9)
    assert cache.bytes == size and cache.length == 50


def test_rope_sees_only_distances():
    model = model_of(small(position="rope", n_layers=1, window=6), 64)
    tokens = tokens_of(1, 40)
    # The last logits see 6 tokens: the same wherever those stand.
    torch.testing.assert_close(model(tokens)[0, -1], model(tokens[:, -6:])[0, -1], rtol=1e-4, atol=1e-4)
    learned = model_of(small(n_layers=1, window=6), 64)
    assert (learned(tokens)[0, -1] - learned(tokens[:, -6:])[0, -1]).abs().max() > 1e-3


def test_tied_embeddings_share_one_weight():
    tied, untied = build(small(), VOCAB, 8), build(small(tied_embeddings=False), VOCAB, 8)
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == VOCAB * 32
    assert "head.weight" in untied.state_dict() and "head.weight" not in tied.state_dict()


def test_initial_weights_are_gpt2s_and_follow_the_generator():
    genome = small(n_layers=8, d_model=64)
    first, again, other = (build(genome, 512, 64, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    weights = first.state_dict()
    assert all(torch.equal(w, again.state_dict()[name]) for name, w in weights.items())
    assert not torch.equal(weights["token_embedding.weight"], other.state_dict()["token_embedding.weight"])
    assert weights["token_embedding.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert weights["blocks.0.attention.qkv.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert weights["blocks.0.attention.out.weight"].std() == pytest.approx(0.02 / 4, rel=0.05)
    assert weights["blocks.7.ffn.down.weight"].std() == pytest.approx(0.02 / 4, rel=0.05)


@pytest.mark.parametrize("tied", [True, False])
def test_initial_weights_by_fan_in(tied):
    model = build(small(n_layers=2, d_model=64, ffn_ratio=2, tied_embeddings=tied, init="fan_in"), 512, 64)
    weights = model.state_dict()
    assert weights["token_embedding.weight"].std() == pytest.approx(64**-0.5 if tied else 1.0, rel=0.05)
    assert tied or weights["head.weight"].std() == pytest.approx(64**-0.5, rel=0.05)
    assert weights["blocks.1.attention.qkv.weight"].std() == pytest.approx(64**-0.5, rel=0.05)
    for name in ("attention.out.weight", "ffn.down.weight"):
        assert weights[f"blocks.0.{name}"].abs().max() == 0
    x = torch.randn(1, 5, 64)
    assert torch.equal(model.blocks[0](x), x), "a block begins as the identity"


def test_a_given_generator_leaves_the_global_one_alone():
    before = torch.random.get_rng_state()
    build(small(), VOCAB, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dropout_acts_in_training_only():
    model, tokens = build(small(dropout=0.5), VOCAB, 8), tokens_of(1, 8)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize("narrow", [False, True])  # a CPU as it is, and as if it were a GPU
@pytest.mark.parametrize("position", ["learned", "rope"])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.filterwarnings("error")
def test_runs_under_bfloat16_autocast(monkeypatch, norm, position, narrow):
    if narrow:
        monkeypatch.setattr("evonas.model.narrow.NARROW_ON", ("cpu",))
    genome = small(
        position=position,
        norm=norm,
        n_kv_heads=[2, 4],
        window=[None, 8],
        kv_rank=[None, 8],
        conv_width=3,
        block_conv_width=3,
    )
    model, tokens = model_of(genome, 40).float().train(), tokens_of(2, 40)
    streams = []
    model.blocks[0].register_forward_hook(lambda block, inputs, y: streams.append(y.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens)
        assert streams == [torch.bfloat16 if narrow else torch.float32]
        F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()
        decoded = model.decode(tokens[:, :1], model.new_cache(2))
    assert logits.dtype == torch.bfloat16
    exact = model(tokens)
    for found, wanted in ((logits, exact), (decoded, exact[:, 0])):  # without attention they differ by 0.05 to 0.12
        assert (found.float() - wanted).norm() < 0.01 * wanted.norm()


def test_a_cache_made_under_inference_mode_works_outside_it():
    model, tokens = build(small(block_conv_width=3), VOCAB, 8), tokens_of(1, 2)
    with torch.inference_mode():
        cache = model.new_cache()
        model.decode(tokens[:, :1], cache)
    assert not model.decode(tokens[:, 1:], cache).requires_grad


def test_copies_and_pickles_compute_the_same():
    model, tokens = build(small(position="rope", window=4), VOCAB, 16), tokens_of(1, 16)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(tokens), model(tokens))


def test_tokens_beyond_learned_positions_are_refused_and_rope_extrapolates():
    with pytest.raises(EvonasError, match=r"9 tokens exceed the context of 8 learned positions"):
        build(small(), VOCAB, 8)(tokens_of(1, 9))
    assert build(small(position="rope"), VOCAB, 8)(tokens_of(1, 20)).isfinite().all()


@pytest.mark.parametrize("shape", [(8,), (1, 0), (1, 2, 3)])
def test_tokens_of_another_shape_are_refused(shape):
    with pytest.raises(EvonasError, match="expected \\(batch, sequence\\)"):
        build(small(), VOCAB, 8)(torch.zeros(shape, dtype=torch.long))


def test_a_cache_refuses_what_does_not_fit():
    model = build(small(position="rope"), VOCAB, 4)
    cache = model.new_cache()
    with pytest.raises(EvonasError, match=r"shape \(2, 1\); this cache holds a batch of 1"):
        model.decode(tokens_of(2, 1), cache)
    with pytest.raises(EvonasError, match=r"\(B, 1\), got \(1, 2\)"):
        model.decode(tokens_of(1, 2), cache)
    with pytest.raises(EvonasError, match="0 of at most 4 tokens; 5 more do not fit"):
        model.prefill(tokens_of(1, 5), cache)
    first = model.prefill(tokens_of(1, 4), cache)
    with pytest.raises(EvonasError, match="4 of at most 4 tokens; 1 more do not fit"):
        model.decode(tokens_of(1, 1), cache)
    with pytest.raises(EvonasError, match="this one holds 4 tokens"):
        model.prefill(tokens_of(1, 1), cache)
    cache.reset()
    torch.testing.assert_close(model.prefill(tokens_of(1, 4), cache), first)


def test_what_was_broken_off_may_be_given_again():
    """A token that a cache has heard of but not taken is decoded once more, a sequence begins anew."""
    model, tokens = model_of(small(block_conv_width=3), 8), tokens_of(1, 8)
    cache, expected = model.new_cache(), model(tokens)
    later = model.blocks[-1].ffn.register_forward_hook(lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        model.prefill(tokens[:, :4], cache)
    later.remove()
    torch.testing.assert_close(model.prefill(tokens[:, :4], cache), expected[:, :4])
    for t in range(4, 8):
        for _ in range(2):
            cache.length = t
            torch.testing.assert_close(model.decode(tokens[:, t : t + 1], cache), expected[:, t])
    cache.length = 5
    with pytest.raises(EvonasError, match="up to position 7; 5 is neither"):
        model.decode(tokens[:, 5:6], cache)
    cache.reset()
    for t in range(8):
        torch.testing.assert_close(model.decode(tokens[:, t : t + 1], cache), expected[:, t])


def test_genomes_and_sizes_that_cannot_be_built_are_refused():
    broken = Genome({**small(), "n_heads": (3, 3)})
    with pytest.raises(EvonasError, match="d_model 32 is not a multiple of n_heads 3"):
        build(broken, VOCAB, 8)
    for vocab_size, context in ((0, 8), (VOCAB, 0), (VOCAB, 8.0), (True, 8)):
        with pytest.raises(EvonasError, match="whole number from 1"):
            build(small(), vocab_size, context)
