"""Traits: size, optimiser, and how far it may go per token."""

from __future__ import annotations

import math

import numpy as np

from evonas.genome import TRAITS, Genome, read_space, traits

SPACE = read_space("text-cpu").bounded(64)


def genome(**genes):
    base = SPACE.genes_of(SPACE.sample(np.random.default_rng(0)))
    fixed = {"n_layers": 4, "d_model": 64, "optimizer": "adamw", "learning_rate": 3e-3, "batch_size": 12}
    return SPACE.repair({**base, **fixed, **genes})


def test_they_are_size_optimiser_and_path():
    found = traits(genome())
    assert found.shape == (TRAITS,)
    # The rate is stated at a batch of 12.
    np.testing.assert_allclose(found, [math.log(128), 1.0, math.log(3e-3 / 12), 0.0])


def test_muon_has_a_path_of_its_own():
    np.testing.assert_allclose(traits(genome(optimizer="muon")), [math.log(128), 0.0, 0.0, math.log(3e-3 / 12)])


def test_smaller_batches_go_further_per_token_and_the_rate_follows_their_root():
    whole, third = (traits(genome(batch_size=size))[2] for size in (12, 4))
    assert math.isclose(third - whole, math.log(3) / 2)


def test_genes_that_are_not_written_are_nanogpts():
    some = {name: value for name, value in genome().items() if name not in ("optimizer", "batch_size")}
    assert traits(Genome(some)).tolist() == traits(genome()).tolist()
