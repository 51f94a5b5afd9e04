"""The readers of weights and of trainings that ``tools/fuzz.py`` feeds; see ``tools/fuzz_readers.py``."""

from __future__ import annotations

from random import Random
from typing import Any

from fuzz_inputs import edited_safetensors
from fuzz_reader import CONTEXT, Reader

VOCAB = 11
SMALL = {
    "n_layers": 1, "d_model": 16, "n_heads": 2, "ffn_ratio": 1, "norm": "rmsnorm", "activation": "gelu",
    "position": "rope", "tied_embeddings": True, "batch_size": 2,
}  # fmt: skip
KINDS = (
    {},
    {"position": "learned", "norm": "layernorm", "tied_embeddings": False},
    {"kv_rank": 4, "conv_width": 3, "block_conv_width": 2},
)


class Weights(Reader):
    def prepare(self) -> None:
        import torch

        from evonas.convert.weights import save_weights
        from evonas.genome import transformer_genome
        from evonas.model import build

        torch.set_num_threads(1)
        self.genomes = [transformer_genome({**SMALL, **kind}) for kind in KINDS]
        for genome in self.genomes:
            save_weights(build(genome, VOCAB, CONTEXT), self.path)
            self.corpus.append(self.path.read_bytes())

    def edit(self, rng: Random, data: bytes, other: bytes) -> bytes:
        return edited_safetensors(rng, data, other)

    def read(self, k: int) -> bool:
        from evonas.convert.weights import are_of, load_trained

        genome = self.genomes[k % len(self.genomes)]
        are_of(self.path, genome)
        load_trained(genome, self.path, CONTEXT if k % 2 else None)
        return True


class Checkpoints(Reader):
    file = "checkpoint.safetensors"
    midway = False  # or at a step of a cycle

    def prepare(self) -> None:
        import torch

        from evonas.genome import transformer_genome
        from evonas.tasks import load_task

        torch.set_num_threads(1)
        (self.folder / "text").write_bytes(b"abcdefghij\n" * 60)
        self.task = load_task("text", str(self.folder / "text"), CONTEXT)
        self.genomes = [transformer_genome({**SMALL, **kind}) for kind in (*KINDS, {"optimizer": "muon"})]
        self.fresh: dict[int, Any] = {}
        for n in range(len(self.genomes)):
            self.keep(self.training(n))
            self.corpus.append(self.path.read_bytes())

    def keep(self, training: Any) -> None:
        from evonas.fitness import checkpoint

        training.run(CONTEXT * 4)
        checkpoint.save(training, self.path)

    def training(self, n: int) -> Any:
        from evonas.fitness.train import Training

        return Training(self.genomes[n], self.task, seed=n)

    def edit(self, rng: Random, data: bytes, other: bytes) -> bytes:
        return edited_safetensors(rng, data, other)

    def read(self, k: int) -> bool:
        """What is refused must leave the training as it was, what is accepted must go on."""
        import torch

        from evonas.fitness import checkpoint
        from evonas.fitness.train import DivergenceError

        n = k % len(self.genomes)
        training, before = self.fresh.get(n) or (self.training(n), None)
        before = before or {name: t.clone() for name, t in training.model.state_dict().items()}
        self.fresh.pop(n, None)
        if checkpoint.load(training, self.path, self.midway):
            try:
                training.run((training.sequences + 2) * CONTEXT)
            except DivergenceError:  # its numbers are as bad as they may be
                pass
            return True
        assert not any(optimizer.state for optimizer in training.optimizers), "a refused checkpoint left its state"
        assert (training.cycles, training.sequences, training.first_loss, training.left) == (0, 0, None, None)
        assert all(torch.equal(t, before[name]) for name, t in training.model.state_dict().items())
        self.fresh[n] = training, before
        return False


class Interrupted(Checkpoints):
    file = "training.safetensors"
    midway = True

    def keep(self, training: Any) -> None:
        from evonas.fitness import checkpoint

        def after_step(step: int) -> None:
            if step == 1:
                checkpoint.save(training, self.path, training.midway([(1, 2.0, 0.1)]))

        training.run(CONTEXT * 4, after_step)
