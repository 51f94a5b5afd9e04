"""Hugging Face names in plain sight: for every model family, which config key is which gene.

An entry is a gene name, a handler for what needs more than a name, or None for a key that another entry reads.
Defaults are those of the family's configuration class in transformers.
Keys in no map are IGNORED bookkeeping, ELSEWHERE known, or unknown; the last two are named in a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import handlers as h


@dataclass(frozen=True)
class Family:
    """``genes`` are what the family fixes, ``implied`` the notes on what it does without saying so in a key."""

    keys: Mapping[str, str | h.Handler | None]
    defaults: Mapping[str, Any]
    genes: Mapping[str, Any]
    implied: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


ATTENTION_BIAS = h.switch("biases on the query, key, value and output projections; the genome has none")
MLP_BIAS = h.switch("biases in the feed-forward; the genome has none")

COMMON = {
    "model_type": None,
    "vocab_size": h.of_the_task,
    "architectures": h.architectures,
    "tie_word_embeddings": "tied_embeddings",
}

GPT2 = {
    **COMMON,
    "n_layer": "n_layers",
    "n_embd": "d_model",
    "n_head": "n_heads",
    "n_inner": h.plain_ffn,
    "activation_function": h.plain_activation,
    "layer_norm_epsilon": h.norm_epsilon,
    "n_positions": h.context,
    "n_ctx": h.same_context,
    "resid_pdrop": h.dropouts,
    "embd_pdrop": None,
    "attn_pdrop": h.attention_dropout,
    "scale_attn_weights": h.switch("attention scores are not scaled; the genome's are, by 1/sqrt(head width)", True),
    "scale_attn_by_inverse_layer_idx": h.switch("scores are also divided by the layer's number; the genome's are not"),
    "reorder_and_upcast_attn": h.switch("attention scores in 32 bits; the run decides that here"),
    "add_cross_attention": h.switch("attention to an encoder; the genome is a decoder alone"),
}

LLAMA = {
    **COMMON,
    "num_hidden_layers": "n_layers",
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": h.kv_heads,
    "head_dim": "head_dim",
    "intermediate_size": h.dense_ffn,
    "hidden_act": h.gated_activation,
    "rms_norm_eps": h.norm_epsilon,
    "max_position_embeddings": h.context,
    "rope_theta": h.rope,
    "rope_scaling": None,
    "rope_parameters": None,
    "attention_dropout": h.attention_dropout,
    "attention_bias": ATTENTION_BIAS,
    "mlp_bias": MLP_BIAS,
}

MISTRAL = {
    **{key: entry for key, entry in LLAMA.items() if key not in ("attention_bias", "mlp_bias")},
    "sliding_window": h.window_everywhere,
    "layer_types": h.expected(None, "transformers ignores it for mistral: every layer has the same window"),
}

QWEN2 = {
    **{key: entry for key, entry in LLAMA.items() if key not in ("attention_bias", "mlp_bias")},
    "sliding_window": h.window_by_layer,
    "use_sliding_window": None,
    "max_window_layers": None,
    "layer_types": None,
}

QWEN3 = {**QWEN2, "attention_bias": ATTENTION_BIAS}

DEEPSEEK = {
    **LLAMA,
    "num_key_value_heads": h.latent_kv_heads,
    "head_dim": None,  # transformers writes the rope part's width here
    "kv_lora_rank": h.latent,
    "q_lora_rank": None,
    "qk_head_dim": None,  # the sum of the two below
    "qk_nope_head_dim": None,
    "qk_rope_head_dim": None,
    "v_head_dim": None,
    "intermediate_size": h.experts,
    "moe_intermediate_size": None,
    "n_routed_experts": None,
    "n_shared_experts": None,
    "num_experts_per_tok": None,
    "first_k_dense_replace": None,
    "moe_layer_freq": None,
    **dict.fromkeys(h.ROUTING),
}

LLAMA_DEFAULTS = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 10000.0,
    "attention_dropout": 0.0,
}  # fmt: skip

QWEN_DEFAULTS = {
    **LLAMA_DEFAULTS, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
    "max_position_embeddings": 32768, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
    "layer_types": None,
}  # fmt: skip

MLA_DEFAULTS = {
    **LLAMA_DEFAULTS, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "moe_layer_freq": 1,
}  # fmt: skip

ROPE_RMS_GATED = {"norm": "rmsnorm", "position": "rope"}

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        keys=GPT2,
        defaults={
            "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
            "activation_function": "gelu_new", "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
            "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
        },
        genes={"norm": "layernorm", "position": "learned"},
        implied=("GPT-2 has biases in its linear layers and LayerNorms; the genome has none",),
        aliases={
            "hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
        },
    ),
    "llama": Family(keys=LLAMA, defaults=LLAMA_DEFAULTS, genes=ROPE_RMS_GATED),
    "mistral": Family(
        keys=MISTRAL,
        defaults={
            **LLAMA_DEFAULTS, "intermediate_size": 14336, "num_key_value_heads": 8,
            "max_position_embeddings": 131072, "sliding_window": 4096,
        },
        genes=ROPE_RMS_GATED,
    ),
    "qwen2": Family(
        keys=QWEN2,
        defaults=QWEN_DEFAULTS,
        genes=ROPE_RMS_GATED,
        implied=("Qwen2 has biases on the query, key and value projections; the genome has none",),
    ),
    "qwen3": Family(
        keys=QWEN3,
        defaults={**QWEN_DEFAULTS, "head_dim": 128},
        genes=ROPE_RMS_GATED,
        implied=("Qwen3 normalises the queries and keys of every head with RMSNorm; the genome does not",),
    ),
    "deepseek_v2": Family(
        keys=DEEPSEEK,
        defaults={
            **MLA_DEFAULTS, "first_k_dense_replace": 0, "n_routed_experts": 64, "n_shared_experts": 2,
            "num_experts_per_tok": None, "moe_intermediate_size": 1407, "topk_method": "greedy",
            "norm_topk_prob": False, "routed_scaling_factor": 1.0,
        },
        genes=ROPE_RMS_GATED,
        aliases={"num_experts": "n_routed_experts"},
    ),
    "deepseek_v3": Family(
        keys=DEEPSEEK,
        defaults={
            **MLA_DEFAULTS, "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432,
            "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
            "max_position_embeddings": 4096, "moe_intermediate_size": 2048, "n_routed_experts": 256,
            "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4,
            "norm_topk_prob": True, "routed_scaling_factor": 2.5,
        },
        genes=ROPE_RMS_GATED,
        aliases={"num_local_experts": "n_routed_experts"},
    ),
}  # fmt: skip

# Keys that say nothing about the trained network's shape: file bookkeeping, tokens, generation,
# labels of classification heads, layout of stored weights.
IGNORED = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path _num_labels attn_implementation
    auto_map bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size
    eos_token_id ep_size exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label is_decoder is_llama_config
    keys_to_ignore_at_inference label2id length_penalty max_length min_length n_special name_or_path
    no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences output_attentions
    output_hidden_states output_past output_scores pad_token_id predict_special_tokens prefix pretraining_tp
    problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate rope_interleave
    rope_interleaved sep_token_id summary_activation summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
    tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config transformers_version typical_p
    unk_token_id unsloth_fixed unsloth_version use_bfloat16 use_cache
    """.split()
)

# Architecture that these families don't read but configs carry: value without effect, and what another value means.
ELSEWHERE: dict[str, h.Handler] = {
    "attention_sinks": h.expected(False, "attention sinks; the genome has none"),
    "use_attention_sinks": h.expected(False, "attention sinks; the genome has none"),
    "attn_logit_softcapping": h.expected(None, "a soft cap on attention scores; the genome has none"),
    "final_logit_softcapping": h.expected(None, "a soft cap on the logits; the genome has none"),
    "logit_softcap": h.expected(None, "a soft cap on the logits; the genome has none"),
    "attention_multiplier": h.expected(None, "scaled attention scores; the genome's scale is 1/sqrt(head width)"),
    "query_pre_attn_scalar": h.expected(None, "scaled queries; the genome's scale is 1/sqrt(head width)"),
    "embedding_multiplier": h.expected(1.0, "scaled embeddings; the genome's are not"),
    "residual_multiplier": h.expected(1.0, "scaled residual branches; the genome's are not"),
    "logits_scaling": h.expected(1.0, "scaled logits; the genome's are not"),
    "logit_scale": h.expected(1.0, "scaled logits; the genome's are not"),
    "partial_rotary_factor": h.expected(1.0, "rope on a part of each head; the genome's covers all of it"),
    "rotary_pct": h.expected(1.0, "rope on a part of each head; the genome's covers all of it"),
    "no_rope_layers": h.expected(None, "layers without rope; the genome has one position gene for all"),
    "alibi": h.expected(False, "ALiBi positions; the genome knows learned and rope"),
    "clip_qkv": h.expected(None, "clipped queries, keys and values; the genome's are not"),
    "use_qk_norm": h.expected(False, "normalised queries and keys; the genome's are not"),
    "qk_norm": h.expected(False, "normalised queries and keys; the genome's are not"),
    "qkv_bias": h.expected(False, "biases on query, key and value; the genome has none"),
    "use_parallel_residual": h.expected(
        False, "attention and feed-forward side by side; the genome's follow each other"
    ),
    "parallel_attn": h.expected(False, "attention and feed-forward side by side; the genome's follow each other"),
    "num_nextn_predict_layers": h.expected(0, "extra layers that predict further tokens; left out"),
    "num_local_experts": h.expected(None, "not a key of this family; ignored"),
    "num_experts": h.expected(None, "not a key of this family; ignored"),
    "num_experts_per_tok": h.expected(None, "not a key of this family; ignored"),
    "sliding_window": h.expected(None, "this family has no windows; ignored"),
    "layer_types": h.expected(None, "this family has one kind of layer; ignored"),
    "attention_bias": h.expected(False, "this family has no such switch; ignored"),
    "mlp_bias": h.expected(False, "this family has no such switch; ignored"),
    "quantization_config": h.expected(None, "how stored weights are quantised; the genome is about the network"),
    "initializer_range": h.expected(0.02, "the spread of initial weights; the genome's is 0.02"),
    "is_encoder_decoder": h.expected(False, "an encoder and a decoder; the genome is a decoder alone"),
    "cross_attention_hidden_size": h.expected(None, "attention to an encoder; the genome is a decoder alone"),
    "pruned_heads": h.expected({}, "heads removed after training; the genome keeps all"),
}
