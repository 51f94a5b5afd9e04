"""Genomes, genes and search spaces; analytic cost; JSON and TOML in and out. Nothing here needs torch."""

from .genome import (
    ARCHITECTURE_GENES,
    LAYER_GENES,
    REFERENCE_BATCH,
    TRAINING_GENES,
    Genome,
    Layer,
)
from .io import GenomeFile, genome_from_dict, genome_to_dict, read_genome, write_genome
from .space import SearchSpace
from .toml import read_space, space_from_dict, space_to_dict
from .traits import TRAITS, traits
from .transformer import TRAINING_DEFAULTS, bounded_windows, check_transformer, transformer_genome

__all__ = [
    "ARCHITECTURE_GENES",
    "LAYER_GENES",
    "REFERENCE_BATCH",
    "TRAINING_DEFAULTS",
    "TRAINING_GENES",
    "TRAITS",
    "Genome",
    "GenomeFile",
    "Layer",
    "SearchSpace",
    "bounded_windows",
    "check_transformer",
    "genome_from_dict",
    "genome_to_dict",
    "read_genome",
    "read_space",
    "space_from_dict",
    "space_to_dict",
    "traits",
    "transformer_genome",
    "write_genome",
]
