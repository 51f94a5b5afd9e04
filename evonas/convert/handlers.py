"""How config keys that are not simply one gene become genes and notes. Each takes the draft and its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..genome.graph import rope_dim
from .draft import CONTEXTS, Draft, shown, wrong

Handler = Callable[[Draft, str], None]

# Names of transformers' ACT2FN table.
ACTIVATIONS = frozenset(
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh laplace leaky_relu "
    "linear mish prelu quick_gelu relu relu2 relu6 sigmoid silu swish tanh xielu".split()
)
GELU_TANH = frozenset(("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh"))
ROUTING = (
    "n_group", "topk_group", "topk_method", "scoring_func", "norm_topk_prob", "routed_scaling_factor",
    "aux_loss_alpha", "seq_aux",
)  # fmt: skip


def expected(neutral: Any, words: str) -> Handler:
    """Nothing to say where the value is ``neutral`` or null; else a note of key, value and what it means here."""

    def handler(draft: Draft, key: str) -> None:
        value = draft.value(key)
        if value is not None and not (value == neutral and isinstance(value, bool) == isinstance(neutral, bool)):
            draft.note(f"{key} {shown(value)}: {words}")

    return handler


def switch(words: str, usual: bool = False) -> Handler:
    """A flag that should be ``usual``; a note where it is not."""

    def handler(draft: Draft, key: str) -> None:
        if draft.value(key) is not None and draft.flag(key) != usual:
            draft.note(f"{key} {shown(not usual)}: {words}")

    return handler


def norm_epsilon(draft: Draft, key: str) -> None:
    epsilon = draft.number(key, 0.0, 1.0)
    if epsilon != 1e-5:
        draft.note(f"{key} {epsilon:g}: the genome's norms use 1e-05")


def kv_heads(draft: Draft, key: str) -> None:
    """Null means one key-value head per query head."""
    draft.genes["n_kv_heads"] = draft.whole(key, optional=True) or draft.genes["n_heads"]


def plain_activation(draft: Draft, key: str) -> None:
    name = draft.text(key, ACTIVATIONS)
    draft.genes["activation"] = "relu2" if name == "relu2" else "gelu"
    if name in GELU_TANH:
        draft.note(f"{key} {name}: the tanh approximation of GELU; the genome's gelu is exact")
    elif name not in ("gelu", "gelu_python", "relu2"):
        draft.note(f"{key} {name}: not among the genome's activations; gelu stands in")


def gated_activation(draft: Draft, key: str) -> None:
    name = draft.text(key, ACTIVATIONS)
    draft.genes["activation"] = "swiglu"
    if name not in ("silu", "swish"):
        draft.note(f"{key} {name}: the feed-forward is gated with {name}; swiglu, gated with silu, stands in")


def plain_ffn(draft: Draft, key: str) -> None:
    """GPT-2: null means four times the model's width."""
    width = draft.whole(key, optional=True) or 4 * draft.genes["d_model"]
    draft.set_ffn([width] * draft.genes["n_layers"], key)


def dense_ffn(draft: Draft, key: str) -> None:
    draft.set_ffn([draft.whole(key)] * draft.genes["n_layers"], key)


def dropouts(draft: Draft, key: str) -> None:
    """GPT-2 has two rates where the genome has one: of the branches' outputs, and of the embeddings."""
    names = ("resid_pdrop", "embd_pdrop")
    rates = [draft.number(name, 0.0, 1.0) for name in names]
    if len(set(rates)) == 1:
        draft.genes["dropout"] = rates[0]
    else:
        said = ", ".join(f"{name} {rate:g}" for name, rate in zip(names, rates))
        draft.note(f"{said}: the genome has one dropout rate for both; it has its default")


def attention_dropout(draft: Draft, key: str) -> None:
    if draft.value(key) is not None and draft.number(key, 0.0, 1.0) > 0:
        draft.note(f"{key} {draft.values[key]:g}: dropout on attention weights alone; not taken over")


def context(draft: Draft, key: str) -> None:
    draft.context = draft.whole(key, *CONTEXTS)


def same_context(draft: Draft, key: str) -> None:
    """GPT-2's ``n_ctx``, a second name of ``n_positions`` that transformers no longer reads."""
    if draft.whole(key, *CONTEXTS, optional=True) not in (None, draft.values["n_positions"]):
        draft.note(f"{key} {draft.values[key]} differs from n_positions, which transformers uses; ignored")


def of_the_task(draft: Draft, key: str) -> None:
    draft.vocabulary = draft.whole(key)
    draft.note(f"{key} {draft.vocabulary}: the task brings its own vocabulary")


def architectures(draft: Draft, key: str) -> None:
    names = draft.value(key)
    if names is None:
        return
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names[:8]):
        raise wrong(key, names, "a list of texts")
    ours = "ForCausalLM", "LMHeadModel", "Model"
    heads = [n for n in names[:8] if not n.endswith(ours) or n.endswith("DoubleHeadsModel")]
    if heads:
        draft.note(f"{key} {shown(heads)}: the genome is a language model; another head is not taken over")


def rope(draft: Draft, key: str) -> None:
    """``rope_theta`` with ``rope_scaling`` (transformers 4) or all of it in ``rope_parameters`` (transformers 5)."""
    parameters, scaling = draft.mapping("rope_parameters"), draft.mapping("rope_scaling")
    for settings in (scaling, parameters):  # transformers 5 takes either for all of it
        if settings and settings.get("rope_theta") is not None:
            draft.values[key] = settings["rope_theta"]
    theta = draft.number(key, 1e-3, 1e15)
    if theta != 10000:
        draft.note(f"{key} {theta:g}: the genome's rope has base 10000")
    for name, settings in (("rope_parameters", parameters), ("rope_scaling", scaling)):
        if settings:
            _rope_settings(draft, name, settings)


def _rope_settings(draft: Draft, name: str, settings: Mapping[str, Any]) -> None:
    kind = settings.get("rope_type", settings.get("type", "default"))
    if not isinstance(kind, str):
        raise wrong(f"{name}: rope_type", kind, "a text such as 'default', 'linear', 'yarn' or 'llama3'")
    plain = {"rope_type", "type", "rope_theta"}
    rest = {k: v for k, v in settings.items() if k not in plain and not (k == "partial_rotary_factor" and v == 1)}
    if kind == "default" and not rest:
        return
    draft.note(
        f"{name} {shown({'rope_type': kind, **rest})}: rescaled or partial positions; the genome's rope has neither"
    )
    original = settings.get("original_max_position_embeddings")
    if original is not None and kind != "default":
        low, high = CONTEXTS
        if isinstance(original, bool) or not isinstance(original, int) or not low <= original <= high:
            raise wrong(f"{name}: original_max_position_embeddings", original, f"a whole number from {low} to {high}")
        draft.rope_context = original


def window_everywhere(draft: Draft, key: str) -> None:
    """Mistral: the same window in every layer; null is full attention. Transformers ignores ``layer_types`` here."""
    draft.genes["window"] = draft.whole(key, optional=True)


def window_by_layer(draft: Draft, key: str) -> None:
    """Qwen: off unless ``use_sliding_window``; then the layers that ``layer_types`` names, or else those from
    ``max_window_layers`` on."""
    depth = draft.genes["n_layers"]
    kinds = draft.texts("layer_types", ("full_attention", "sliding_attention"), depth)
    window = draft.whole(key, optional=True) if draft.flag("use_sliding_window") else None
    if window is None:
        draft.genes["window"] = None
        if kinds and "sliding_attention" in kinds:
            draft.note(
                "layer_types names sliding layers, but use_sliding_window is false: every layer is full attention"
            )
        return
    if kinds is None:
        first = draft.whole("max_window_layers", 0)
        kinds = ["full_attention" if i < first else "sliding_attention" for i in range(depth)]
    draft.genes["window"] = [window if kind == "sliding_attention" else None for kind in kinds]


def latent(draft: Draft, key: str) -> None:
    """Multi-head latent attention (DeepSeek-V2, 2024, sec. 2.1): here keys have a decoupled rope part of half the
    head width, and values are as wide as the heads."""
    draft.genes["kv_rank"] = draft.whole(key, 1, 65536)
    head = draft.genes["head_dim"] = draft.whole("qk_nope_head_dim", 1, 4096)
    rope_width, value_width = draft.whole("qk_rope_head_dim", 1, 4096), draft.whole("v_head_dim", 1, 4096)
    if rope_width != rope_dim(head):
        draft.note(f"qk_rope_head_dim {rope_width}: the genome's decoupled rope part is {rope_dim(head)} wide")
    if value_width != head:
        draft.note(f"v_head_dim {value_width}: the genome's values are as wide as its heads, {head}")
    q_rank = draft.whole("q_lora_rank", optional=True)
    if q_rank:
        draft.note(
            f"q_lora_rank {q_rank}: queries come from a normalised latent of that rank; here from one full matrix"
        )


def latent_kv_heads(draft: Draft, key: str) -> None:
    count = draft.whole(key, optional=True)
    if count not in (None, draft.genes["n_heads"]):
        draft.note(f"{key} {count}: without effect, a latent is expanded to every head")


def experts(draft: Draft, key: str) -> None:
    """The dense feed-forward that one token passes through: ``intermediate_size`` in the first
    ``first_k_dense_replace`` layers, chosen and shared experts side by side in the others."""
    depth, dense = draft.genes["n_layers"], draft.whole(key)
    routed = draft.whole("n_routed_experts", 0, optional=True) or 0
    chosen = draft.whole("num_experts_per_tok", 0, optional=True) or 0
    first, every = draft.whole("first_k_dense_replace", 0, optional=True) or 0, draft.whole("moe_layer_freq")
    sparse = [i for i in range(depth) if routed and chosen and i >= first and i % every == 0]
    widths = [dense] * depth
    if routed and not chosen:
        draft.note(f"n_routed_experts {routed}, but num_experts_per_tok is missing or 0: read as a dense model")
    if sparse:
        if chosen > routed:
            raise wrong("num_experts_per_tok", chosen, f"at most n_routed_experts, {routed}")
        shared = draft.whole("n_shared_experts", 0, optional=True) or 0
        one = draft.whole("moe_intermediate_size")
        active = (chosen + shared) * one
        widths = [active if i in set(sparse) else dense for i in range(depth)]
        draft.note(
            f"{len(sparse)} of {depth} layers are mixtures of experts (first_k_dense_replace {first}, n_routed_experts "
            f"{routed}, num_experts_per_tok {chosen}, n_shared_experts {shared}, moe_intermediate_size {one}): the "
            f"genome has the dense feed-forward active per token, ({chosen} + {shared}) x {one} = {active} wide; the "
            f"router and {routed - chosen} more experts per layer are left out"
        )
        given = [f"{name} {shown(draft.values[name])}" for name in ROUTING if draft.values.get(name) is not None]
        if given:
            draft.note(f"{', '.join(given)}: how tokens are routed and balanced; the genome has no router")
    draft.set_ffn(widths, "intermediate_size" if not sparse else "moe_intermediate_size")
