"""Around the network: read its weights, generate, time it.

B batch, T sequence, V vocabulary
"""

# This file's source goes into every export as it stands: nothing but torch and the standard library.

from __future__ import annotations

import gc
import json
import math
import os
import struct
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

from ..errors import EvonasError
from ..model.transformer import Transformer

MAX_HEADER = 2**24  # bytes; 1,024 layers take some 1 MB
MAX_DIMS = 8
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

WARM_UP_SECONDS, SECONDS = 0.02, 1.0
MIN_REPEATS, MAX_REPEATS, FEW_REPEATS = 20, 2_000, 5  # the last: undisturbed ones that say more than all
PATIENCE, WAIT, WAITED = 5, 30.0, 0.05  # times the seconds on a busy machine; seconds more; share of a repeat waited


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata.

    The format: 8 bytes with the length of a JSON header, the header, then the tensors' bytes without gaps. Nothing in
    it is ever executed. Raises EvonasError for a file that is damaged or of another kind.
    """
    with open(path, "rb") as file:
        header, start = read_header(file, path)
        metadata = header.pop("__metadata__", {})
        tensors, end = {}, 0
        for name, (dtype, shape, begin, stop) in sorted(_entries(header, path).items(), key=lambda entry: entry[1][2:]):
            if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
                raise EvonasError(f"{path}: {name!r:.80} does not lie where its shape says")
            end = stop
            # Read one by one, so that each has memory of its own, aligned whatever the header's length.
            file.seek(start + begin)
            data = bytearray(file.read(stop - begin))
            if len(data) != stop - begin:
                raise EvonasError(f"{path} is cut short: {name!r:.80} is incomplete")
            tensors[name] = torch.frombuffer(data, dtype=dtype).view(shape) if data else torch.empty(shape, dtype=dtype)
    return tensors, metadata


def read_header(file: BinaryIO, path: str | os.PathLike) -> tuple[dict[str, Any], int]:
    """The JSON header of an open safetensors file, and the byte at which its tensors begin."""
    size = os.fstat(file.fileno()).st_size
    length = struct.unpack("<Q", prefix)[0] if len(prefix := file.read(8)) == 8 else size
    if length > min(MAX_HEADER, size - 8):
        raise EvonasError(f"{path} is no safetensors file")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        header = None
    about = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise EvonasError(f"{path} is no safetensors file: its header is not the JSON it should be")
    return header, 8 + length


def _entries(header: dict[str, Any], path: str | os.PathLike) -> dict[str, tuple[torch.dtype, list[int], int, int]]:
    """Of every tensor: dtype, shape, and where its bytes begin and stop."""
    entries = {}
    for name, about in header.items():
        try:
            (begin, stop), shape, dtype = about["data_offsets"], about["shape"], about["dtype"]
            whole = all(type(value) is int and value >= 0 for value in (begin, stop, *shape))
            # Beside a size of 0 the others may be of any size, for which torch has no strides.
            whole = whole and len(shape) <= MAX_DIMS and math.prod(max(n, 1) for n in shape) < 2**62
        except (TypeError, KeyError, ValueError):
            whole, dtype = False, None
        if not whole or not isinstance(dtype, str) or dtype not in DTYPES:
            raise EvonasError(f"{path}: {name!r:.80} is not a tensor of {', '.join(DTYPES)}")
        entries[name] = (DTYPES[dtype], shape, begin, stop)
    return entries


@torch.inference_mode()
def generate(
    model: Transformer,
    tokens_BT: torch.Tensor,
    new_tokens: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """``tokens_BT`` and ``new_tokens`` more, drawn one by one with the KV cache; temperature 0 takes the likeliest.

    Raises EvonasError, before anything is computed, where the model's context has no room for them (windowed rope
    models go on without end).
    """
    model.eval()
    cache, given = model.new_cache(tokens_BT.shape[0]), tokens_BT.shape[-1]
    room = new_tokens if cache.limit is None else cache.limit - given + 1  # the last one is not read again
    if 0 < room < new_tokens:
        raise EvonasError(
            f"{new_tokens} tokens after {given} do not fit: this model holds at most {cache.limit} tokens",
            f"Ask for {room} or fewer.",
        )
    logits_BV = model.prefill(tokens_BT, cache)[:, -1]
    for left in range(new_tokens, 0, -1):
        if temperature > 0:
            next_B1 = torch.multinomial((logits_BV / temperature).softmax(-1), 1, generator=generator)
        else:
            next_B1 = logits_BV.argmax(-1, keepdim=True)
        tokens_BT = torch.cat((tokens_BT, next_B1), 1)
        if left > 1:
            logits_BV = model.decode(next_B1, cache)
    return tokens_BT


def encoded(text: str, vocabulary: bytes) -> torch.Tensor:
    """Tokens (1, T) of a text, byte by byte. Raises EvonasError where it holds a byte that the vocabulary lacks."""
    data = text.encode()
    lacking = bytes(sorted({*data} - {*vocabulary}))
    if lacking:
        raise EvonasError(f"the text this model learned has none of {lacking.decode(errors='replace')!r}")
    return torch.tensor([[vocabulary.index(byte) for byte in data]], dtype=torch.int64)


def decoded(tokens: torch.Tensor, vocabulary: bytes) -> str:
    """The text of tokens of any shape."""
    return bytes(vocabulary[token] for token in tokens.flatten().tolist()).decode(errors="replace")


@torch.inference_mode()
def milliseconds(call: Callable[[], object], seconds: float = SECONDS) -> tuple[float, float, int]:
    """Median of ``call`` over about ``seconds`` of repeats, half their interquartile range, and how many there were.

    On one thread of the CPU, after a warm-up, with Python's garbage collection off, without the repeats in which
    others had the CPU (where there are enough of the rest): as evonas measures latency.
    """
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.disable()
    try:
        until = time.perf_counter() + WARM_UP_SECONDS
        call()
        while time.perf_counter() < until:
            call()
        times, undisturbed = _repeats(call, seconds)
    finally:
        if collecting:
            gc.enable()
        torch.set_num_threads(threads)
    times = undisturbed if len(undisturbed) >= FEW_REPEATS else times
    quartiles = torch.tensor((0.25, 0.5, 0.75), dtype=torch.float64)
    low, median, high = torch.tensor(times, dtype=torch.float64).div(1e6).quantile(quartiles).tolist()
    return median, (high - low) / 2, len(times)


def _repeats(call: Callable[[], object], seconds: float) -> tuple[list[int], list[int]]:
    """Nanoseconds of every repeat, and of those in which this thread hardly had to wait."""
    times: list[int] = []
    undisturbed: list[int] = []
    begun, work = time.perf_counter(), 0
    while len(times) < MAX_REPEATS:
        spent = time.perf_counter() - begun
        if len(times) >= MIN_REPEATS and spent > seconds:
            fewest = MIN_REPEATS * work / len(times) / 1e9
            patience = max(PATIENCE * seconds, min(PATIENCE * fewest, fewest + WAIT))
            if len(undisturbed) >= MIN_REPEATS or spent > patience:
                break
        before, start = time.thread_time_ns(), time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
        own = time.thread_time_ns() - before
        work += own
        if times[-1] - own <= WAITED * times[-1]:
            undisturbed.append(times[-1])
    return times, undisturbed


def report(model: Transformer, vocabulary: bytes | None = None) -> None:
    """Print parameters, forward latency and, to see that it runs, some generated tokens or, with a vocabulary, text."""
    model.eval()
    tokens = (torch.arange(model.context) % model.vocab_size).unsqueeze(0)
    params = sum(parameter.numel() for parameter in model.parameters())
    print(f"genome      {model.genome.id}, vocabulary {model.vocab_size}, context {model.context}")
    print(f"parameters  {params:,}")
    median, spread, repeats = milliseconds(lambda: model(tokens))
    print(f"latency     {median:.3f} ms +- {spread:.3f}, one forward pass of {model.context} tokens at batch 1,")
    print(f"            one thread; median and half the interquartile range of {repeats}")
    generator = torch.Generator().manual_seed(0)
    if vocabulary is None:
        drawn = generate(model, tokens[:, :1], min(16, model.context), generator=generator)
        print("tokens      " + " ".join(str(token) for token in drawn[0].tolist()))
    else:
        begin = encoded("\n", vocabulary) if b"\n" in vocabulary else tokens[:, :1]
        text = decoded(generate(model, begin, model.context - 1, 0.8, generator), vocabulary)
        print("text        " + text.strip("\n").replace("\n", "\n            "))
