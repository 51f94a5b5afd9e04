"""The networks that genomes describe, in PyTorch; one ``nn.Module`` per operation and nothing of the search."""

from .inherit import Inheritance, inherit
from .transformer import Transformer, build

__all__ = ["Inheritance", "Transformer", "build", "inherit"]
