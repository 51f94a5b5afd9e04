"""The networks that genomes describe, in PyTorch; one ``nn.Module`` per operation and nothing of the search."""

from .transformer import Transformer, build

__all__ = ["Transformer", "build"]
