"""Genomes as arrays: there and back, every gene as ``Gene`` has it, repaired as the space repairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.evolution.variation import MUTATIONS, mate_codes
from evonas.genome import Genome, read_space, space_from_dict
from evonas.genome.codes import Coder
from evonas.genome.column import Column
from evonas.genome.gene import Gene

quick = settings(deadline=None, derandomize=True, max_examples=60)
seeds = st.integers(0, 2**32 - 1)

GENES = [
    Gene("options", choices=(1, 2, 8, None)),
    Gene("words", choices=("a", "b", "c")),
    Gene("truth", choices=(False, True)),
    Gene("steps", low=0.0, high=0.3, step=0.05),
    Gene("range", low=-2.0, high=3.0),
    Gene("log", low=1e-4, high=0.1, log=True),
    Gene("whole", low=1, high=900, log=True),
    Gene("one", choices=(7,)),
    Gene("point", low=0.5, high=0.5),
    Gene("huge", low=1e18, high=1e20, log=True),
]
genes = pytest.mark.parametrize("gene", GENES, ids=lambda g: g.name)

RULES = {
    "kind": "custom",
    "length": "n",
    "genes": {
        "n": [1, 2, 4, 5],
        "d": [6, 8, 12],
        "x": {"low": 0.0, "high": 1.0},
        "act": ["p", "q"],
        "extra": [1, 2, 3],
    },
    "layers": {"h": [1, 2, 3, 4], "k": [1, 2, 3], "w": {"low": 0.0, "high": 1.0}},
    "rules": ["d % h == 0", "k <= h", "act == 'p' or d > 6", "x < 0.5 or w <= x"],
    "active": {"extra": "act == 'q'", "k": "h > 1"},
}
SPACES = {
    "transformer": read_space("text-cpu").bounded(64),
    "rules on ranges": space_from_dict(RULES),
    "depth in a rule": space_from_dict({**RULES, "rules": ["n * d <= 30", "n < 5 or h == 1"]}),
    "flat": space_from_dict({"kind": "custom", "genes": {"a": [1, 2, 3], "b": [1, 2]}, "rules": ["a + b != 3"]}),
    "a latent of the whole network": space_from_dict(
        {
            "kind": "custom",
            "genes": {"n_heads": [2, 4], "n_kv_heads": [1, 2, 4], "kv_rank": [8, 16], "attention": ["full", "latent"]},
            "active": {"n_kv_heads": "attention == 'full'"},
        }
    ),
    **{
        f"head_dim {'or none' if none else 'stated'}": space_from_dict(
            {
                "kind": "custom",
                "length": "n_layers",
                "genes": {"n_layers": [1, 2], "d_model": [16, 32], "head_dim": [None] * none + [8, 16]},
                "layers": {"n_heads": [1, 2, 4]},
            }
        )
        for none in (True, False)
    },
    "free": space_from_dict({"kind": "custom", "genes": {"a": {"low": 0.0, "high": 1.0}, "b": ["u", "v"]}}),
}
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def draw(space, n: int, seed: int = 0) -> list[Genome]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(n)]


@genes
def test_a_column_says_what_the_gene_says(gene):
    column, units = Column(gene), np.linspace(0, 1 - 1e-9, 301)
    codes = column.at(units)
    values = column.values(codes).tolist()
    assert values == [gene.from_unit(u) for u in units.tolist()]
    assert [column.code(v) for v in values] == codes.tolist()
    assert column.units(codes) == pytest.approx([gene.to_unit(v) for v in values])
    if gene.is_ordered:
        for direction in (-1, 1):
            shifted = column.values(column.shifted(codes, np.full(len(codes), direction))).tolist()
            assert shifted == [gene.shifted(v, direction) for v in values]


@genes
def test_what_moves_is_another_value_of_the_gene(gene):
    column, rng = Column(gene), np.random.default_rng(1)
    codes = column.drawn(rng, 500)
    before = codes.copy()
    moved = column.moved(codes, rng)
    assert (codes == before).all() and all(gene.contains(v) for v in column.values(moved).tolist())
    fixed = gene.name in ("one", "point")
    assert (moved == codes).all() if fixed else (moved != codes).all()


@pytest.mark.parametrize("value, code", [(3, 1.0), (100, 3.0), ("no number", 2.0), (None, 3.0)])
def test_what_is_no_option_is_the_nearest(value, code):
    assert Column(GENES[0]).code(value) == code


@spaces
def test_genomes_come_back_as_they_were(space):
    found, coder = draw(space, 60), Coder(space)
    codes = coder.encode(found)
    assert coder.decode(codes) == found and coder.repaired(codes).same(codes).all()
    again = coder.of(found)
    assert again.same(codes).all() and coder.of(found[::-1]).same(codes[::-1]).all()


@spaces
def test_what_is_decoded_is_in_canonical_form(space):
    coder = Coder(space)
    codes = coder.encode(draw(space, 20, 5))
    for k, column in enumerate(coder.scalar_columns):
        if column.size is None:  # a whole number in a continuous range
            codes.scalars[:, k] = np.rint(codes.scalars[:, k])
    for genome in coder.decode(codes):
        twin = Genome({name: genome[name] for name in reversed(list(genome))})
        assert list(genome.items()) == list(twin.items()) and genome.id == twin.id
        assert [type(v) for v in genome.values()] == [type(v) for v in twin.values()]


@pytest.mark.parametrize("given, allowed", [(5, 6), (3, 2), (2, 2)])
def test_layers_that_are_missing_are_the_last_one_again(given, allowed):
    space = space_from_dict(
        {"kind": "custom", "length": "n", "genes": {"n": [2, 6]}, "layers": {"h": [1, 2, 3]}, "rules": ["h < 9"]}
    )
    coder = Coder(space)
    genome = Genome({"n": given, "h": (2,) * (given - 1) + (3,)})
    codes = coder.encode([genome])
    assert coder.decode(codes)[0] == coder.decode(coder.repaired(codes))[0] == space.repair(genome)
    assert coder.depths(codes) == [allowed] and (codes.layers[0, allowed:] == 0).all()


@spaces
def test_what_is_decoded_is_remembered_as_what_it_is_encoded_as(space):
    coder, rng = Coder(space), np.random.default_rng(3)
    parents = coder.encode(draw(space, 80))
    found = coder.decode(mate_codes(parents, parents[::-1], coder, rng))
    assert coder.of(found).same(coder.encode(found)).all()


@spaces
@quick
@given(seed=seeds)
def test_codes_are_repaired_as_the_space_repairs_genes(space, seed):
    coder, rng = Coder(space), np.random.default_rng(seed)
    start = coder.encode(draw(space, 12, seed))
    for name, (operator, _) in MUTATIONS.items():
        if name in ("ramp", "insert", "duplicate", "remove") and not space.layer_genes:
            continue
        codes = start[:]
        codes = coder.fitted(codes, operator(codes, coder, rng))
        repaired = coder.repaired(codes)
        expected = [space.repair(_raw(coder, codes, i)) for i in range(len(codes))]
        assert coder.decode(repaired) == expected
        assert all(space.contains(genome) for genome in expected)
        depths = coder.depths(repaired)
        assert all((row[depth:] == 0).all() for row, depth in zip(repaired.layers, depths))


def _raw(coder: Coder, codes, i: int) -> dict:
    """Genes as they stand, without a Genome's canonical form."""
    values = {c.gene.name: c.values(codes.scalars[i : i + 1, k])[0] for k, c in enumerate(coder.scalar_columns)}
    depth = coder.depths(codes)[i]
    for k, c in enumerate(coder.layer_columns):
        values[c.gene.name] = tuple(c.values(codes.layers[i, :depth, k]).tolist())
    return values


@spaces
def test_inputs_are_those_of_the_space(space):
    found, coder = draw(space, 20), Coder(space)
    scalars, fields = coder.inputs(coder.encode(found))
    rows = np.hstack([scalars, *(block.reshape(len(found), -1) for block in fields)])
    assert rows == pytest.approx(np.array([space.encode(genome) for genome in found]))


def test_a_rule_is_asked_once_for_a_combination(monkeypatch):
    space = space_from_dict(RULES)
    coder, asked = Coder(space), []
    ask = space.mended_row
    monkeypatch.setattr(space, "mended_row", lambda outer, inner: asked.append((outer, inner)) or ask(outer, inner))
    codes = coder.encode(draw(space, 200))
    for _ in range(2):
        coder.repaired(codes)
        assert len(asked) == len({repr(pair) for pair in asked}) <= math.prod(codes.layers.shape[:2])
