"""A training between two rungs, as one safetensors file: weights, optimiser state, how far it is."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the search process only clears up, and needs no torch for it
    from .train import Training

_SUFFIX = ".safetensors"


def path_of(folder: str | Path, genome_id: str) -> Path:
    return Path(folder) / f"{genome_id}{_SUFFIX}"


def save(training: Training, path: Path) -> None:
    """Write ``training``. Beside ``path`` first, then renamed: a kill leaves the file of the last rung."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": tensor for name, tensor in training.model.state_dict().items()}
    tensors |= {f"optimizer.{name}.{key}": tensor for name, key, tensor in _state(training)}
    progress = {"cycles": training.cycles, "sequences": training.sequences, "first_loss": training.first_loss}
    path.parent.mkdir(parents=True, exist_ok=True)
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

    try:
        with safe_open(path, framework="pt", device=training.device) as file:
            about = file.metadata() or {}
            if (about.get("genome"), about.get("seed")) != (training.genome.id, str(training.seed)):
                return False
            progress = json.loads(about["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        weights = {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}
        own = training.model.state_dict()
        if {k: t.shape for k, t in weights.items()} != {k: t.shape for k, t in own.items()}:
            return False
        training.model.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValueError):
        return False
    names = {parameter: name for name, parameter in training.model.named_parameters()}
    for optimizer in training.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                start = f"optimizer.{names[parameter]}."
                found = {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
                optimizer.state[parameter].update(found)
    training.cycles, training.sequences = int(progress["cycles"]), int(progress["sequences"])
    training.first_loss = progress["first_loss"]
    return True


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
