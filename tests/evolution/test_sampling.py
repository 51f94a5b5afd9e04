"""The first population sees all of the space, its ends too."""

from __future__ import annotations

import numpy as np
import pytest

from evonas.evolution import stratified
from evonas.evolution.sampling import around_prior, best_known_first, first_population, with_prior
from evonas.evolution.variation import mutate
from evonas.genome import TRAINING_GENES, read_genome, read_space, space_from_dict, space_to_dict
from evonas.genome.graph import cost

N = 50


def deep_space():
    """Twelve layers always: what differs is only what is in them."""
    data = space_to_dict(read_space("text-gpu"))
    data["genes"]["n_layers"] = [12]
    return space_from_dict(data)


def uniform(space, n: int, rng: np.random.Generator):
    return [space.sample(rng) for _ in range(n)]


def spread(values) -> float:
    return max(values) - min(values)


def sizes(genomes) -> list[float]:
    return [float(np.log(cost(g, 256, 64).params)) for g in genomes]


@pytest.mark.parametrize("field", ["ffn_ratio", "n_heads"])
def test_per_layer_fields_reach_both_ends(field):
    # Twelve independent draws average out: their mean never comes near an end.
    space = deep_space()
    gene = space.genes[field]

    def means(genomes) -> np.ndarray:
        return np.array([np.mean([gene.to_unit(v) for v in g[field]]) for g in genomes])

    for seed in range(3):
        rng = np.random.default_rng(seed)
        strata, even = means(stratified(space, N, rng)), means(uniform(space, N, rng))
        assert strata.min() < 0.2 and strata.max() > 0.8
        assert even.min() > 0.2 and even.max() < 0.8
        low, middle, high = np.histogram(strata, bins=[0, 1 / 3, 2 / 3, 1])[0]
        assert min(low, middle, high) >= N // 8


def test_extreme_sizes_are_seen_more_than_by_even_draws():
    space = deep_space()
    wider = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        wider.append(spread(sizes(stratified(space, N, rng))) / spread(sizes(uniform(space, N, rng))))
    assert np.median(wider) > 1.15


def test_both_ends_of_the_shipped_space_are_seen():
    space = read_space("text-gpu")
    rng = np.random.default_rng(0)
    many = np.array(sizes(uniform(space, 600, rng)))
    strata = np.array(sizes(stratified(space, N, rng)))
    assert strata.min() < np.quantile(many, 0.02) and strata.max() > np.quantile(many, 0.98)


def test_every_field_is_a_latin_hypercube():
    # Genes that are no matter of size take one level per stratum, exactly.
    space = space_from_dict(
        {"kind": "custom", "genes": {k: {"low": 1e-4, "high": 1.0, "log": True} for k in "ab"} | {"c": list("wxyz")}}
    )
    genomes = stratified(space, 40, np.random.default_rng(1))
    for name in "ab":
        units = sorted(space.genes[name].to_unit(g[name]) for g in genomes)
        assert all(k - 0.2 <= u * 40 <= k + 1.2 for k, u in enumerate(units))  # values are rounded to three digits
    assert [sum(g.c == c for g in genomes) for c in "wxyz"] == [10, 10, 10, 10]
    together = np.corrcoef([[space.genes[k].to_unit(g[k]) for g in genomes] for k in "ab"])[0, 1]
    assert abs(together) < 0.5


def test_training_is_not_tied_to_size():
    space = read_space("text-gpu")
    genomes = stratified(space, 3000, np.random.default_rng(2))
    width = [g.d_model for g in genomes]
    depth = [g.n_layers for g in genomes]
    assert np.corrcoef(width, depth)[0, 1] > 0.1  # all-small and all-large networks occur ...
    for name in ("batch_size", "dropout", "learning_rate"):  # ... and train in every way
        assert name in TRAINING_GENES
        assert abs(np.corrcoef(width, [g[name] for g in genomes])[0, 1]) < 0.15


def test_draws_are_members_and_a_function_of_the_generator():
    space = read_space("text-cpu")
    for n in (1, 2, 7):
        first = stratified(space, n, np.random.default_rng(3))
        assert len(first) == n and all(space.contains(g) for g in first)
        assert first == stratified(space, n, np.random.default_rng(3))
    assert stratified(space, 7, np.random.default_rng(3)) != stratified(space, 7, np.random.default_rng(4))


def test_a_constraint_that_almost_nothing_meets_is_found_by_mutation():
    space = read_space("text-cpu").bounded(64)
    bound = 14_000.0

    def screen(genome) -> float:
        return max(0.0, cost(genome, 256, 64).params / bound - 1)

    drawn = stratified(space, 300, np.random.default_rng(1))
    assert all(screen(genome) > 0 for genome in drawn)
    found = first_population(space, 6, [], mutate, screen, np.random.default_rng(0))
    assert len({c.genome.id for c in found}) == 6 and all(screen(c.genome) <= 0 for c in found)


def without_prior(space):
    return space_from_dict({k: v for k, v in space_to_dict(space).items() if k != "prior"})


def test_around_the_prior_sizes_vary_and_the_rest_hardly():
    space = read_space("text-cpu").bounded(64)
    genomes = around_prior(space, 96, np.random.default_rng(0))
    assert all(space.contains(g) for g in genomes)
    exact = [g for g in genomes if all(g[n] in (v, (v,) * g.n_layers) for n, v in space.prior.items() if n in g)]
    assert 20 <= len(exact) <= 50, "a third of them"
    assert {g.n_layers for g in genomes} == {1, 2, 3, 4}
    assert max(g.d_model for g in genomes) >= 176 and min(g.d_model for g in genomes) <= 48
    assert 0.9 <= np.mean([g.optimizer == "muon" for g in genomes]) < 1
    rates = np.log([g.learning_rate for g in genomes])
    assert 0.1 < np.std(rates) < 0.9 and abs(np.median(rates) - np.log(1e-2)) < 0.2


def test_around_the_prior_all_sizes_grow_together_and_depth_last():
    # So that few of them reach from the smallest network to the largest, with none that is deep and narrow.
    space = read_space("text-cpu").bounded(64)
    for seed in range(5):
        genomes = around_prior(space, 8, np.random.default_rng(seed))
        genomes.sort(key=lambda g: (g.d_model, g.n_layers))
        assert [g.n_layers for g in genomes] == sorted(g.n_layers for g in genomes)
        assert [g.n_layers for g in genomes[:4]] == [1] * 4 and genomes[-1].n_layers >= 3
        assert genomes[0].d_model <= 64 and genomes[-1].d_model >= 176
        ratios = [np.mean(g.ffn_ratio) for g in genomes]
        assert np.mean(ratios[:3]) < 2.5 < np.mean(ratios[-3:])


def draw(space, seeds=()):
    return first_population(space, 16, seeds, mutate, lambda genome: 0.0, np.random.default_rng(0))


def test_half_of_what_is_not_the_seeds_begins_at_the_prior():
    space = read_space("text-cpu").bounded(64)

    def count(drawn) -> dict:
        return {name: sum(c.operator == name for c in drawn) for name in ("seed", "prior", "stratified")}

    assert count(draw(space)) == {"seed": 0, "prior": 8, "stratified": 8}
    assert count(draw(without_prior(space))) == {"seed": 0, "prior": 0, "stratified": 16}
    nanogpt = space.repair(read_genome("nanogpt-cpu").genome)
    drawn = draw(space, [nanogpt])
    assert count(drawn) == {"seed": 1, "prior": 5, "stratified": 3}
    assert (drawn[1].genome, drawn[1].parents) == (with_prior(space, nanogpt), (nanogpt.id,))
    # A seed that is at the prior already has no twin.
    twin = with_prior(space, nanogpt)
    assert not any(c.parents == (twin.id,) and c.operator == "prior" for c in draw(space, [twin]))


def test_what_is_known_best_comes_first():
    space = read_space("text-cpu").bounded(64)
    drawn = best_known_first(draw(space, [space.repair(read_genome("nanogpt-cpu").genome)]))
    kinds = [c.operator if c.operator in ("seed", "prior", "stratified") else "mutant" for c in drawn]
    assert kinds == ["seed", *["prior", "mutant"] * 5, *["mutant"] * 2, *["stratified"] * 3]
    assert [c.index for c in drawn] == list(range(16))
    assert [c.operator for c in best_known_first(draw(space))] == ["prior"] * 8 + ["stratified"] * 8


def test_mutants_of_a_seed_are_a_few_mutations_away_in_a_large_population_too():
    space = deep_space()
    seed, steps = space.sample(np.random.default_rng(1)), []

    def step(genome, space, rng):
        steps.append(genome.id)
        return mutate(genome, space, rng)

    first_population(space, 400, [seed], step, lambda g: 0.0, np.random.default_rng(0))
    assert len(steps) <= 8 * 200


@pytest.mark.parametrize("n", [4, 6, 8, 10])
def test_many_seeds_leave_room_for_what_they_are_not(n):
    space = read_space("text-cpu").bounded(64)
    seeds = stratified(space, n, np.random.default_rng(5))
    drawn = first_population(space, 16, seeds, mutate, lambda genome: 0.0, np.random.default_rng(0))
    twins = [c for c in drawn if c.operator == "prior" and c.parents]
    fresh = [c for c in drawn if c.operator in ("prior", "stratified") and not c.parents]
    assert len(twins) == min(n, (16 - n) // 4) and len(fresh) >= (16 - n) // 4


def test_a_seed_with_the_prior_keeps_its_size():
    space = read_space("text-gpu")
    for name in ("smollm-135m", "deepseek-v2-lite", "gpt2"):
        seed = read_genome(name).genome
        wide = space.widened(seed)
        seed = wide.repair(seed)
        twin = with_prior(wide, seed)
        assert wide.contains(twin) and with_prior(wide, twin) == twin
        assert (twin.optimizer, twin.activation, twin.conv_width) == ("muon", "relu2", 4)
        for gene in ("n_layers", "d_model", "n_heads", "n_kv_heads", "kv_rank", "window", "ffn_ratio"):
            assert twin[gene] == seed[gene]
    plain = without_prior(space)
    assert with_prior(plain, seed) == plain.repair(seed)


def test_a_prior_that_breaks_a_rule_is_repaired():
    data = {"kind": "custom", "genes": {"a": list("xyz"), "b": list("xyz")}, "rules": ["a != b"], "prior": {"a": "x"}}
    space = space_from_dict(data)
    assert space.contains(with_prior(space, space.repair({"a": "y", "b": "x"})))
    assert all(space.contains(g) for g in around_prior(space, 20, np.random.default_rng(0)))


def test_a_prior_on_the_number_of_layers():
    data = space_to_dict(read_space("text-cpu"))
    data["prior"] = {"n_layers": 2.0, "d_model": 64}
    genomes = around_prior(space_from_dict(data), 30, np.random.default_rng(0))
    assert sum(g.n_layers == 2 and g.d_model == 64 for g in genomes) >= 8


def test_a_screen_holds_for_what_begins_at_the_prior():
    space = read_space("text-cpu").bounded(64)

    def screen(genome) -> float:
        return float(genome.optimizer == "muon")

    found = first_population(space, 8, [], mutate, screen, np.random.default_rng(0))
    assert len(found) == 8 and all(c.genome.optimizer == "adamw" for c in found)


def test_sizes_of_a_space_of_ones_own_are_not_tied_together():
    genes = {**{name: {"low": 0.0, "high": 1.0} for name in "xyz"}, "shape": ["round", "square"]}
    space = space_from_dict({"kind": "custom", "genes": genes, "prior": {"shape": "round"}})
    rows = np.array([[g[name] for name in "xyz"] for g in around_prior(space, 40, np.random.default_rng(0))])
    assert np.abs(np.corrcoef(rows.T)[np.triu_indices(3, 1)]).max() < 0.8
