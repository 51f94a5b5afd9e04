"""Hugging Face configs: genes, notes, and every way in which a config can be wrong."""

from __future__ import annotations

import copy
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.convert import Import, from_config, read_config
from evonas.convert.draft import shown
from evonas.convert.families import ELSEWHERE, FAMILIES, IGNORED
from evonas.errors import EvonasError
from evonas.genome.graph import cost
from evonas.genome.io import genome_from_dict, genome_to_dict
from evonas.genome.transformer import TRAINING_DEFAULTS, check_transformer

PUBLISHED = runpy.run_path(str(Path(__file__).with_name("configs.py")))
CONFIGS, PARAMETERS = PUBLISHED["CONFIGS"], PUBLISHED["PARAMETERS"]

# family, depth, width, heads, key-value heads, head width, feed-forward width, window, latent, context, tied
ARCHITECTURES = {
    "gpt2": (12, 768, 12, 12, 64, 3072, None, None, 1024, True),
    "gpt2-medium": (24, 1024, 16, 16, 64, 4096, None, None, 1024, True),
    "smollm-135m": (30, 576, 9, 3, 64, 1536, None, None, 2048, True),
    "llama-3.2-1b": (16, 2048, 32, 8, 64, 8192, None, None, 8192, True),
    "tinyllama-1.1b": (22, 2048, 32, 4, 64, 5632, None, None, 2048, False),
    "mistral-7b-v0.1": (32, 4096, 32, 8, 128, 14336, 4096, None, 32768, False),
    "qwen2-7b": (28, 3584, 28, 4, 128, 18944, None, None, 131072, False),
    "qwen3-0.6b": (28, 1024, 16, 8, 128, 3072, None, None, 40960, True),
    "deepseek-v2-lite": (27, 2048, 16, 16, 128, 11264, None, 512, 4096, False),
    "deepseek-v3": (61, 7168, 128, 128, 128, 18432, None, 512, 4096, False),
}

# Trainable values of what the notes say the genome leaves out.
LEFT_OUT = {
    "gpt2": 12 * (2 * 768 + 3 * 768 + 768 + 4 * 768 + 768) + 768,
    "gpt2-medium": 24 * (2 * 1024 + 3 * 1024 + 1024 + 4 * 1024 + 1024) + 1024,
    "qwen2-7b": 28 * (3584 + 2 * 512),
    "qwen3-0.6b": 28 * 2 * 128,
}


def notes_of(name: str, **changes) -> str:
    return "\n".join(from_config({**CONFIGS[name], **changes}).notes)


def tiny(model_type: str, **keys) -> dict:
    """A small config of that family with the fewest keys."""
    if model_type == "gpt2":
        return {"model_type": "gpt2", "n_layer": 4, "n_embd": 64, "n_head": 4, **keys}
    shape = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    return {"model_type": model_type, **shape, "intermediate_size": 128, **keys}


@pytest.mark.parametrize("name", CONFIGS)
def test_published_architecture(name):
    got = from_config(CONFIGS[name])
    genome, last = got.genome, got.genome.layers[-1]
    found = (
        genome.n_layers, genome.d_model, last.n_heads, last.n_kv_heads, genome.head_dim_of(last),
        genome.ffn_hidden_of(last), last.window, last.kv_rank, got.context, genome.tied_embeddings,
    )  # fmt: skip
    assert found == ARCHITECTURES[name]
    old = name.startswith("gpt2")
    expected = ("layernorm", "gelu", "learned") if old else ("rmsnorm", "swiglu", "rope")
    assert (genome.norm, genome.activation, genome.position) == expected
    assert check_transformer(genome) == []
    assert genome_from_dict(json.loads(json.dumps(genome_to_dict(genome)))).genome == genome


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones_less_what_the_notes_name(name):
    context = min(from_config(CONFIGS[name]).context, 1024)
    params = cost(from_config(CONFIGS[name]).genome, CONFIGS[name]["vocab_size"], context).params
    assert params + LEFT_OUT.get(name, 0) == PARAMETERS[name]
    assert params == pytest.approx(PARAMETERS[name], rel=0.01)


def test_deepseek_parameters_are_those_active_per_token():
    config = CONFIGS["deepseek-v2-lite"]
    params = cost(from_config(config).genome, config["vocab_size"], 4096).params
    # "2.4B are activated for each token" (arXiv:2405.04434, appendix B) leaves out the look-up of the embedding.
    assert (params - config["vocab_size"] * config["hidden_size"]) / 1e9 == pytest.approx(2.4, abs=0.05)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt2", ["gelu_new", "biases in its linear layers and LayerNorms", "tie_word_embeddings true"]),
        ("llama-3.2-1b", ["rope_theta 500000", "rope_scaling", '"llama3"', "context 8192"]),
        ("qwen2-7b", ["biases on the query, key and value", "rope_theta 1e+06", "rms_norm_eps 1e-06"]),
        ("qwen3-0.6b", ["queries and keys of every head with RMSNorm", "rms_norm_eps 1e-06"]),
        ("deepseek-v2-lite", ["26 of 27 layers", "(6 + 2) x 1408 = 11264", "n_routed_experts 64", "yarn", "greedy"]),
        (
            "deepseek-v3",
            ["58 of 61 layers", "q_lora_rank 1536", "num_nextn_predict_layers 1", "quantization_config", "noaux_tc"],
        ),
    ],
)
def test_notes_say_what_the_genome_cannot(name, words):
    notes = notes_of(name)
    for word in words:
        assert word in notes


@pytest.mark.parametrize("name", ["smollm-135m", "tinyllama-1.1b", "mistral-7b-v0.1"])
def test_a_model_the_genome_says_in_full_has_only_the_notes_on_vocabulary_and_training(name):
    vocabulary, training = from_config(CONFIGS[name]).notes
    assert vocabulary == f"vocab_size {CONFIGS[name]['vocab_size']}: the task brings its own vocabulary"
    assert "learning_rate" in training and "defaults" in training


@pytest.mark.parametrize(
    ("key", "usual", "other"),
    [("initializer_range", 0.02, 0.3), ("is_encoder_decoder", False, True), ("cross_attention_hidden_size", None, 64)],
)
def test_what_would_change_the_network_is_named(key, usual, other):
    assert key not in "\n".join(from_config({**CONFIGS["gpt2"], key: usual}).notes)
    assert f"{key} {str(other).lower()}: " in "\n".join(from_config({**CONFIGS["gpt2"], key: other}).notes)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_published_key_is_unknown(name):
    assert "unknown key" not in notes_of(name)


def test_maps_are_consistent():
    for family in FAMILIES.values():
        assert not IGNORED & family.keys.keys()
        assert set(family.defaults) <= set(family.keys)
        assert set(family.aliases.values()) <= set(family.keys)
    assert not IGNORED & ELSEWHERE.keys()


def test_training_genes_are_the_defaults_except_gpt2s_dropout():
    assert {g: from_config(CONFIGS["qwen3-0.6b"]).genome[g] for g in TRAINING_DEFAULTS} == TRAINING_DEFAULTS
    assert from_config(CONFIGS["gpt2"]).genome.dropout == 0.1
    mixed = from_config({**CONFIGS["gpt2"], "embd_pdrop": 0.0})
    assert mixed.genome.dropout == 0
    assert "resid_pdrop 0.1, embd_pdrop 0: " in "\n".join(mixed.notes)


def test_dropout_on_attention_weights_is_none_of_the_genomes():
    for rate, said in ((0.0, False), (0.1, True), (0.3, True)):
        got = from_config({**CONFIGS["gpt2"], "attn_pdrop": rate})
        assert got.genome.dropout == 0.1
        assert (f"attn_pdrop {rate:g}: dropout on attention weights alone; not taken over" in got.notes) == said


@pytest.mark.parametrize(
    ("model_type", "depth", "width", "kv_heads", "hidden"),
    [
        ("gpt2", 12, 768, 12, 3072),
        ("llama", 32, 4096, 32, 11008),
        ("mistral", 32, 4096, 8, 14336),
        ("qwen2", 32, 4096, 32, 22016),
        ("qwen3", 32, 4096, 32, 22016),
        ("deepseek_v2", 32, 4096, 32, 11008),
        ("deepseek_v3", 61, 7168, 128, 18432),
    ],
)
def test_missing_keys_take_the_familys_defaults_and_are_named(model_type, depth, width, kv_heads, hidden):
    got = from_config({"model_type": model_type})
    layer = got.genome.layers[0]
    assert (got.genome.n_layers, got.genome.d_model, layer.n_kv_heads) == (depth, width, kv_heads)
    assert got.genome.ffn_hidden_of(layer) == hidden
    (named,) = [n for n in got.notes if n.startswith("not in the config")]
    assert str(depth) in named and str(width) in named


@pytest.mark.parametrize(
    ("name", "key", "default"), [("gpt2", "n_positions", 1024), ("smollm-135m", "max_position_embeddings", 2048)]
)
def test_a_context_that_is_not_in_the_config_is_said_to_be_a_default(name, key, default):
    assert key not in notes_of(name)
    got = from_config({k: v for k, v in CONFIGS[name].items() if k not in (key, "n_ctx")})
    (named,) = [n for n in got.notes if n.startswith("not in the config")]
    assert got.context == default and f"{key} {default}" in named


@pytest.mark.parametrize("name", CONFIGS)
def test_the_vocabulary_is_kept_beside_the_genome(name):
    got = from_config(CONFIGS[name])
    assert got.vocabulary == CONFIGS[name]["vocab_size"]


def test_a_vocabulary_that_is_not_in_the_config_is_said_to_be_a_default():
    got = from_config({"model_type": "gpt2"})
    (named,) = [n for n in got.notes if n.startswith("not in the config")]
    assert got.vocabulary == 50257 and "vocab_size 50257" in named


def test_no_default_note_when_every_shaping_key_is_given():
    assert "not in the config" not in notes_of("qwen3-0.6b")


@pytest.mark.parametrize(
    ("model_type", "keys", "windows"),
    [
        ("mistral", {}, [4096] * 4),
        ("mistral", {"sliding_window": None}, [None] * 4),
        ("mistral", {"sliding_window": 16}, [16] * 4),
        ("qwen2", {"sliding_window": 16}, [None] * 4),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True}, [None] * 4),  # max_window_layers is 28
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 3}, [None] * 3 + [16]),
        ("qwen3", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0}, [16] * 4),
        ("qwen3", {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0}, [None] * 4),
        (
            "qwen3",
            {
                "sliding_window": 16,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
            [16, None, 16, None],
        ),
        (
            "qwen2",
            {"sliding_window": 16, "use_sliding_window": False, "layer_types": ["sliding_attention"] * 4},
            [None] * 4,
        ),
    ],
)
def test_windows_layer_by_layer(model_type, keys, windows):
    genome = from_config(tiny(model_type, **keys)).genome
    assert [layer.window for layer in genome.layers] == windows


def test_layer_types_without_effect_are_noted():
    mistral = from_config(tiny("mistral", layer_types=["full_attention"] * 4))
    assert any("layer_types" in n for n in mistral.notes)
    qwen = from_config(tiny("qwen2", layer_types=["sliding_attention"] * 4))
    assert any("use_sliding_window is false" in n for n in qwen.notes)


@pytest.mark.parametrize(
    ("changes", "hidden"),
    [
        ({"first_k_dense_replace": 2}, [64, 64, 96, 96]),
        ({"moe_layer_freq": 2}, [96, 64, 96, 64]),
        ({"n_shared_experts": None}, [64, 64, 64, 64]),
        ({"first_k_dense_replace": 9}, [64] * 4),
        ({"n_routed_experts": None}, [64] * 4),
        ({"num_experts_per_tok": None}, [64] * 4),
    ],
)
def test_expert_layers_become_the_active_feed_forward(changes, hidden):
    moe = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32}
    keys = {**moe, "intermediate_size": 64, "first_k_dense_replace": 0, "num_key_value_heads": None, **changes}
    genome = from_config(tiny("deepseek_v2", **keys)).genome
    assert [genome.ffn_hidden_of(layer) for layer in genome.layers] == hidden


def test_latent_widths_that_differ_are_noted():
    keys = {"qk_nope_head_dim": 32, "qk_rope_head_dim": 8, "v_head_dim": 48, "kv_lora_rank": 24, "q_lora_rank": None}
    got = from_config(tiny("deepseek_v2", **keys))
    notes = "\n".join(got.notes)
    assert got.genome.head_dim == 32 and got.genome.kv_rank == (24,) * 4
    assert "qk_rope_head_dim 8: the genome's decoupled rope part is 16" in notes
    assert "v_head_dim 48" in notes and "num_key_value_heads 2" in notes and "q_lora_rank" not in notes


@pytest.mark.parametrize(
    ("model_type", "keys", "words"),
    [
        ("llama", {"attention_bias": True}, "attention_bias true: biases"),
        ("llama", {"mlp_bias": True}, "mlp_bias true: biases"),
        ("llama", {"hidden_act": "gelu_pytorch_tanh"}, "hidden_act gelu_pytorch_tanh"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout 0.1"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30"),
        ("llama", {"attention_sinks": True}, "attention_sinks true"),
        ("llama", {"sliding_window": 64}, "sliding_window 64: this family has no windows"),
        ("llama", {"intermediate_size": 100}, "100 wide becomes 96"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, '"linear"'),
        ("llama", {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "rope_theta 500000"),
        ("llama", {"rope_scaling": {"rope_theta": 5e5, "rope_type": "default"}}, "rope_theta 500000"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ("gpt2", {"architectures": ["GPT2DoubleHeadsModel"]}, "GPT2DoubleHeadsModel"),
        ("gpt2", {"activation_function": "relu"}, "gelu stands in"),
        ("gpt2", {"scale_attn_weights": False}, "not scaled"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "layer's number"),
        ("gpt2", {"add_cross_attention": True}, "encoder"),
        ("gpt2", {"n_ctx": 512}, "n_ctx 512"),
        ("qwen3", {"attention_bias": True}, "attention_bias true: biases"),
        ("llama", {"hiden_size": 64}, 'unknown key "hiden_size" = 64 ignored (did you mean hidden_size?)'),
        ("llama", {"frobnicate": {"a": [1, 2]}}, 'unknown key "frobnicate" = {"a": [1, 2]} ignored'),
        ("llama", {"frobnicate": None}, 'unknown key "frobnicate" = null ignored'),
    ],
)
def test_what_the_genome_cannot_say_is_noted(model_type, keys, words):
    assert words in "\n".join(from_config(tiny(model_type, **keys)).notes)


def test_values_without_effect_are_not_noted():
    plain = from_config(tiny("llama")).notes
    quiet = {
        "rope_scaling": {"rope_type": "default"}, "partial_rotary_factor": 1.0, "attention_sinks": False,
        "final_logit_softcapping": None, "sliding_window": None, "torch_dtype": "float32",
    }  # fmt: skip
    assert from_config(tiny("llama", **quiet)).notes == plain


def test_squared_relu_and_null_inner_width():
    genome = from_config(tiny("gpt2", activation_function="relu2", n_inner=None)).genome
    assert genome.activation == "relu2" and genome.ffn_ratio == (4,) * 4


def test_gpt2_aliases():
    plain = from_config(tiny("gpt2"))
    config = {"model_type": "gpt2", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4}
    assert from_config(config).genome == plain.genome
    with pytest.raises(EvonasError, match="n_embd is 64 and hidden_size, the same thing, is 32"):
        from_config(tiny("gpt2", hidden_size=32))


def test_the_config_is_not_changed():
    config = copy.deepcopy(CONFIGS["llama-3.2-1b"])
    from_config(config)
    assert config == CONFIGS["llama-3.2-1b"]


@pytest.mark.parametrize(
    ("given_name", "name"),
    [("meta-llama/Llama-3.2-1B", "llama-3.2-1b"), ("./out/ckpt/", "ckpt"), ("/x/500000", "llama"), ("", "llama")],
)
def test_name(given_name, name):
    assert from_config(tiny("llama", _name_or_path=given_name)).name == name


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden_size": "64"}, 'hidden_size is "64"; it takes a whole number'),
        ({"hidden_size": True}, "hidden_size is true"),
        ({"hidden_size": 64.0}, "hidden_size is 64"),
        ({"hidden_size": -64}, "hidden_size is -64"),
        ({"hidden_size": 10**5000}, "hidden_size is a number of 16610 bits"),
        ({"hidden_size": None}, "hidden_size is null"),
        ({"hidden_size": 66}, "not a multiple of n_heads"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
        ({"num_hidden_layers": [4] * 10**6}, r"num_hidden_layers is \[4, 4, .*1000000 in all"),
        ({"num_key_value_heads": 3}, "n_kv_heads 3"),
        ({"intermediate_size": 2**23}, "ffn_ratio"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\]"),
        ({"rope_scaling": {"type": 3}}, "rope_type is 3"),
        ({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": -1}}, "original_max_position"),
        ({"tie_word_embeddings": "yes"}, 'tie_word_embeddings is "yes"; it takes true or false'),
        ({"attention_bias": 1}, "attention_bias is 1"),
        ({"hidden_act": "sillu"}, "Did you mean 'silu'"),
        ({"hidden_act": {"a": {"b": {"c": 1}}}}, "hidden_act is "),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"max_position_embeddings": 2**40}, "max_position_embeddings is 1099511627776"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is"),
    ],
)
def test_wrong_values_are_named(keys, message):
    with pytest.raises(EvonasError) as caught:
        from_config(tiny("llama", **keys))
    assert caught.match(message)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny("qwen3", layer_types=["full_attention"] * 3), "layer_types is .*a list of 4 texts"),
        (tiny("qwen3", layer_types=["full_attention"] * 3 + ["linear_attention"]), "linear_attention"),
        (tiny("qwen3", use_sliding_window=None), "use_sliding_window is null"),
        (tiny("deepseek_v2", kv_lora_rank=None), "kv_lora_rank is null"),
        (tiny("deepseek_v2", qk_nope_head_dim=0), "qk_nope_head_dim is 0"),
        (tiny("deepseek_v2", n_routed_experts=2, num_experts_per_tok=3), "num_experts_per_tok is 3; .* at most"),
        (tiny("deepseek_v2", moe_layer_freq=0), "moe_layer_freq is 0"),
        ({}, "the config has no model_type; supported: gpt2, llama"),
        ({"model_type": "bert"}, 'model_type "bert" is not supported; supported: gpt2'),
        ({"model_type": "lama"}, "Did you mean 'llama'"),
        ({"model_type": ["llama"]}, "is not supported"),
        ({"model_type": "x" * 10**6}, "is not supported"),
        ({"model_type": "llama", **{f"k{i}": 0 for i in range(600)}}, "the config has 601 keys"),
        ([], "is a JSON object, got"),
        ("llama", "is a JSON object"),
        (None, "is a JSON object, got null"),
    ],
)
def test_wrong_configs(config, message):
    with pytest.raises(EvonasError) as caught:
        from_config(config)
    assert caught.match(message)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.builds(pow, st.just(10), st.just(5000))
    | st.builds(list, st.just(range(10**6))) | st.integers(-2, 2**26) | st.sampled_from([1, 2, 4, 8, 64, 128]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_hostile_configs_give_an_import_or_an_evonas_error(data):
    name = data.draw(st.sampled_from(sorted(CONFIGS)))
    config = dict(CONFIGS[name])
    family = FAMILIES[config["model_type"]]
    known = sorted({*family.keys, *family.aliases, *ELSEWHERE, "rope_scaling", "_name_or_path"})
    for key in data.draw(st.lists(st.sampled_from(known) | st.text(max_size=30), max_size=4)):
        config[key] = data.draw(JUNK)
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), max_size=3)):
        config.pop(key, None)
    try:
        got = from_config(config)
    except EvonasError as error:
        assert len(error.message) < 4000
        return
    assert isinstance(got, Import) and check_transformer(got.genome) == []
    written = genome_to_dict(got.genome, name=got.name, context=got.context, notes=got.notes)
    again = genome_from_dict(json.loads(json.dumps(written)))
    assert again.genome == got.genome and again.notes == got.notes


@given(JUNK)
@settings(max_examples=100, deadline=None)
def test_any_json_value_as_config(value):
    with pytest.raises(EvonasError):
        from_config(value)


@given(JUNK)
@settings(max_examples=100, deadline=None)
def test_shown_is_short(value):
    assert len(shown(value)) < 6000


def test_read_config_from_file_and_folder(tmp_path):
    folder = tmp_path / "SmolLM-135M"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS["smollm-135m"]))
    from_folder, from_file = read_config(folder), read_config(folder / "config.json")
    assert from_folder == from_file
    assert from_folder.name == "smollm-135m" and from_folder.vocabulary == 49152
    assert from_folder.genome == from_config(CONFIGS["smollm-135m"]).genome
    other = tmp_path / "My Model.json"
    other.write_text(json.dumps({**CONFIGS["gpt2"], "_name_or_path": "gpt2"}))
    assert read_config(other).name == "gpt2"
    other.write_text(json.dumps(CONFIGS["gpt2"]))
    assert read_config(str(other)).name == "my-model"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{'a': 1}", "not JSON"),
        ('{"model_type": "gpt2"', "not JSON"),
        ("[" * 100_000, "not acceptable JSON|not JSON"),
        ("[1, 2]", "is a JSON object, got"),
        ('{"model_type": "bert"}', "not supported"),
        ('{"model_type": "gpt2", "n_embd": ' + "9" * 5000 + "}", "not acceptable JSON|n_embd is a number of"),
        ('{"model_type": "gpt2", "n_embd": 1e400}', "n_embd is inf"),
    ],
)
def test_unreadable_files(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(EvonasError) as caught:
        read_config(path)
    assert caught.match(message) and caught.match("config.json")


def test_missing_huge_and_binary_files(tmp_path):
    with pytest.raises(EvonasError, match="no such file"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(EvonasError, match=r"no such file.*config.json"):
        read_config(tmp_path)
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvonasError, match="UTF-8"):
        read_config(path)
    with path.open("wb") as file:
        file.truncate(2**26)
    with pytest.raises(EvonasError, match="too large"):
        read_config(path)


def test_needs_neither_torch_nor_transformers():
    code = "import sys, evonas.convert; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
