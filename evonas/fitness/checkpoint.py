"""A training between two rungs or midway in one, as one safetensors file: weights, optimiser state, how far it is."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the search process only clears up, and needs no torch for it
    import torch

    from .midway import Midway
    from .train import Training

_SUFFIX = ".safetensors"
_DROPOUT = "dropout"  # name of the state of its generator, midway
_STATE = {"AdamW": ("step", "exp_avg", "exp_avg_sq"), "Muon": ("momentum",)}  # what optimisers keep of a parameter
_EVERY = 60.0  # seconds between two writings of a training that runs, without an evaluation
_LONGEST_WRITING = 3600.0  # seconds
_SPARED = 20  # and in any case so many times as long as the last writing took


def path_of(folder: str | Path, genome_id: str) -> Path:
    return Path(folder) / f"{genome_id}{_SUFFIX}"


def save(training: Training, path: Path, midway: Midway | None = None) -> None:
    """Write ``training``, with where it is where a cycle runs. Beside ``path`` first, then renamed: a kill leaves the
    file that was there."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": tensor for name, tensor in training.model.state_dict().items()}
    tensors |= {f"optimizer.{name}.{key}": tensor for name, key, tensor in _state(training)}
    progress = {"cycles": training.cycles, "sequences": training.sequences, "first_loss": training.first_loss}
    if midway is not None:
        tensors[_DROPOUT] = midway.dropout
        progress |= {"steps": midway.steps, "batches": midway.batches, "evaluations": midway.evaluations}
    else:
        path.parent.mkdir(exist_ok=True)  # not its parents: a run that was moved is not begun again where it was
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        save_file(
            {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
            partial,
            metadata={"genome": training.genome.id, "seed": str(training.seed), "progress": json.dumps(progress)},
        )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(training: Training, path: Path, midway: bool = False) -> bool:
    """Bring a fresh ``training`` to where ``path`` left it, between two cycles or ``midway`` in one; False, and nothing
    changed, where there is no such file or it is not of this genome, seed and shape. What is lost is trained again."""
    from safetensors import SafetensorError, safe_open

    from .midway import dropout_generator

    weights = {f"model.{name}": tensor for name, tensor in training.model.state_dict().items()}
    places = _places(training)
    wanted = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wanted |= {name: shape for name, (_, _, shape, _) in places.items()}
    known = {name: (shape, "F32") for name, shape in wanted.items()}
    known |= {_DROPOUT: (tuple(dropout_generator(training.device).get_state().shape), "U8")} if midway else {}
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt", device=training.device) as file:
            about = file.metadata() or {}
            if (about.get("genome"), about.get("seed")) != (training.genome.id, str(training.seed)):
                return False
            progress = json.loads(about["progress"])
            done = _done(progress, 0 if midway else 1)
            slices = {name: file.get_slice(name) for name in file.keys()}
            # Before any of them is read: they may be of any size.
            if {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()} != known:
                return False
            tensors = {name: file.get_tensor(name) for name in wanted}
            left = _left(progress, file.get_tensor(_DROPOUT).cpu(), training.device) if midway else None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError, OverflowError):
        return False
    training.model.load_state_dict({name.removeprefix("model."): tensors[name] for name in weights})
    for name, (optimizer, parameter, _, key) in places.items():
        optimizer.state[parameter][key] = tensors[name]
    training.cycles, training.sequences, training.first_loss = done
    training.left = left
    return True


def _done(progress: Any, least: int) -> tuple[int, int, float]:
    """Cycles (``least`` or more), their sequences, the first loss. Raises ValueError, KeyError or TypeError where they
    are none."""
    cycles, sequences, loss = (progress[key] for key in ("cycles", "sequences", "first_loss"))
    if not all(type(n) is int and least <= n < 2**63 for n in (cycles, sequences)):
        raise ValueError(f"{cycles!r:.40} cycles of {sequences!r:.40} sequences")
    if type(loss) is not float or not math.isfinite(loss):
        raise ValueError(f"a first loss of {loss!r:.40}")
    return cycles, sequences, loss


def _left(progress: Any, dropout: torch.Tensor, device: str) -> Midway:
    """Raises what ``_done`` does, or OverflowError, where it is none."""
    import numpy as np
    import torch

    from .midway import Midway

    steps, evaluations = progress["steps"], tuple(tuple(row) for row in progress["evaluations"])
    if not (type(steps) is int and 0 < steps < 2**63):
        raise ValueError(f"{steps!r:.40} steps")
    if not all([*map(type, row)] == [int, float, float] and np.isfinite(row).all() for row in evaluations):
        raise ValueError("evaluations that are none")
    np.random.default_rng(0).bit_generator.state = progress["batches"]  # what the generators refuse is refused here
    try:
        torch.Generator(device).set_state(dropout)
    except RuntimeError as error:
        raise ValueError("no state of a generator") from error
    return Midway(steps, progress["batches"], dropout, evaluations)


class Keeper:
    """Keeps a training that runs at ``path``: after an evaluation and once a minute, as far as no more than a twentieth
    of the time goes to it."""

    def __init__(self, training: Training, path: Path) -> None:
        self._training, self._path = training, path
        self._last, self._took = time.monotonic(), 0.0

    def look(self, evaluations: Sequence[tuple[int, float, float]], at_once: bool) -> None:
        """Write it down if it is time to; ``at_once`` there has been an evaluation."""
        began = time.monotonic()
        if began - self._last < (0.0 if at_once else _EVERY) + _SPARED * self._took:
            return
        from safetensors import SafetensorError

        with contextlib.suppress(OSError, SafetensorError):  # a full disk takes the checkpoint, not the training
            save(self._training, self._path, self._training.midway(evaluations))
        self._last = time.monotonic()
        self._took = self._last - began


def _places(training: Training) -> dict[str, tuple]:
    """Name in a file -> (optimizer, parameter, shape, key) of all the state that a training has from its first step."""
    names = {parameter: name for name, parameter in training.model.named_parameters()}
    return {
        f"optimizer.{names[parameter]}.{key}": (
            optimizer,
            parameter,
            () if key == "step" else tuple(parameter.shape),
            key,
        )
        for optimizer in training.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key in _STATE[type(optimizer).__name__]
    }


def keep_only(folder: str | Path, genome_ids: Collection[str]) -> None:
    """Remove every checkpoint of another genome, and what a killed worker left half-written, but what one of these
    genomes may be written to just now."""
    kept = set(genome_ids)
    for path in Path(folder).glob("*"):
        if path.suffix not in (_SUFFIX, ".partial"):
            continue
        with contextlib.suppress(FileNotFoundError):
            old = path.suffix == ".partial" and time.time() - path.stat().st_mtime > _LONGEST_WRITING
            if old or path.name.partition(".")[0] not in kept:
                path.unlink()


def _state(training: Training):
    """(parameter name, key, tensor) of all optimiser state."""
    import torch

    names = {parameter: name for name, parameter in training.model.named_parameters()}
    for optimizer in training.optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                yield names[parameter], key, value if torch.is_tensor(value) else torch.tensor(value)
