"""A training between two rungs, as one safetensors file: weights, optimiser state, how far it is."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the search process only clears up, and needs no torch for it
    from .train import Training

_SUFFIX = ".safetensors"
_STATE = {"AdamW": ("step", "exp_avg", "exp_avg_sq"), "Muon": ("momentum",)}  # what optimisers keep of a parameter


def path_of(folder: str | Path, genome_id: str) -> Path:
    return Path(folder) / f"{genome_id}{_SUFFIX}"


def save(training: Training, path: Path) -> None:
    """Write ``training``. Beside ``path`` first, then renamed: a kill leaves the file of the last rung."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": tensor for name, tensor in training.model.state_dict().items()}
    tensors |= {f"optimizer.{name}.{key}": tensor for name, key, tensor in _state(training)}
    progress = {"cycles": training.cycles, "sequences": training.sequences, "first_loss": training.first_loss}
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


def load(training: Training, path: Path) -> bool:
    """Bring a fresh ``training`` to where ``path`` left it; False, and nothing changed, where there is no such file or
    it is not of this genome, seed and shape. What is lost is trained again."""
    from safetensors import SafetensorError, safe_open

    weights = {f"model.{name}": tensor for name, tensor in training.model.state_dict().items()}
    places = _places(training)
    wanted = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wanted |= {name: shape for name, (_, _, shape, _) in places.items()}
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt", device=training.device) as file:
            about = file.metadata() or {}
            if (about.get("genome"), about.get("seed")) != (training.genome.id, str(training.seed)):
                return False
            progress = _progress(about["progress"])
            slices = {name: file.get_slice(name) for name in file.keys()}
            # Before any of them is read: they may be of any size.
            if {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()} != {
                name: (shape, "F32") for name, shape in wanted.items()
            }:
                return False
            tensors = {name: file.get_tensor(name) for name in wanted}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError):
        return False
    training.model.load_state_dict({name.removeprefix("model."): tensors[name] for name in weights})
    for name, (optimizer, parameter, _, key) in places.items():
        optimizer.state[parameter][key] = tensors[name]
    training.cycles, training.sequences, training.first_loss = progress
    return True


def _progress(text: str) -> tuple[int, int, float]:
    """Cycles, sequences and first loss. Raises ValueError, KeyError or TypeError where they are none."""
    progress = json.loads(text)
    cycles, sequences, loss = (progress[key] for key in ("cycles", "sequences", "first_loss"))
    if not all(type(n) is int and 0 < n < 2**63 for n in (cycles, sequences)):
        raise ValueError(f"{cycles!r:.40} cycles of {sequences!r:.40} sequences")
    if type(loss) is not float or not math.isfinite(loss):
        raise ValueError(f"a first loss of {loss!r:.40}")
    return cycles, sequences, loss


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
    """Remove every checkpoint of another genome, and what a killed worker left half-written."""
    kept = {path_of(folder, genome_id).name for genome_id in genome_ids}
    for path in Path(folder).glob("*"):
        if path.name not in kept and path.suffix in (_SUFFIX, ".partial"):
            path.unlink(missing_ok=True)


def _state(training: Training):
    """(parameter name, key, tensor) of all optimiser state."""
    import torch

    names = {parameter: name for name, parameter in training.model.named_parameters()}
    for optimizer in training.optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                yield names[parameter], key, value if torch.is_tensor(value) else torch.tensor(value)
