"""In words, what was measured and how: see ``fitness.latency``."""

from __future__ import annotations

_WHAT = {
    "latency": "one forward pass of {:,} tokens",
    "decode_latency": "one token with the KV cache filled to {:,}",
    "memory": "peak of one forward pass of {:,} tokens, KV cache included",
}


def conditions_of(name: str, context: int, device: str, model: str) -> str:
    """How the measured objective ``name`` was got on a device ("cpu" or "cuda") of that ``model``: ``one forward pass
    of 64 tokens, batch 1, float32, one thread of ...``"""
    how = "on" if name == "memory" else "one thread of" if device == "cpu" else "a CUDA graph, where it can be, on"
    return f"{_WHAT[name].format(context)}, batch 1, float32, {how} {model}"
