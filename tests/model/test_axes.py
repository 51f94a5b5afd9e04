from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evonas.model.axes import heads, leading, rotary, strongest, take
from evonas.model.rotary import Rotary


def counts() -> st.SearchStrategy[tuple[int, int]]:
    """Heads and KV heads."""
    return st.tuples(st.integers(1, 6), st.integers(1, 4)).map(lambda pair: (pair[0] * pair[1], pair[0]))


@given(counts(), counts(), st.randoms(use_true_random=False))
def test_heads_go_with_their_kv_heads(old, new, random):
    (n, kv), (new_n, new_kv) = old, new
    score = torch.tensor([random.random() for _ in range(n)])
    axis, pool = heads(score, kv, new_n, new_kv)
    assert sorted((*axis.to.tolist(), *axis.new.tolist())) == list(range(new_n))
    assert len(set(axis.source.tolist())) == len(axis.source) == len(axis.to) > 0
    group, new_group = n // kv, new_n // new_kv
    for k in range(new_kv):
        read = {s // group for t, s in zip(axis.to.tolist(), axis.source.tolist()) if t // new_group == k}
        assert pool[k].nonzero()[:, 0].tolist() == sorted(read)
        assert pool[k].sum().item() == pytest.approx(1 if read else 0)
    if new_kv >= kv * -(-group // new_group):
        assert sorted(axis.source.tolist()) == list(range(n)) and ((pool == 0) | (pool == 1)).all()
    if new_kv >= kv:
        assert ((pool == 0) | (pool == 1)).all()


def test_the_strongest_heads_stay():
    axis, pool = heads(torch.tensor([3.0, 1.0, 2.0, 9.0]), 4, 2, 2)
    assert axis.source.tolist() == [0, 3] and pool.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    axis, pool = heads(torch.tensor([3.0, 1.0, 2.0, 9.0]), 2, 2, 2)
    assert axis.source.tolist() == [0, 3] and pool.tolist() == [[1, 0], [0, 1]]


@given(st.integers(1, 20), st.integers(1, 20))
def test_rotary_pairs_stay_pairs_and_go_to_near_frequencies(old, new):
    axis = rotary(2 * old, 2 * new)
    pairs = min(old, new)
    for ends, width in ((axis.to, new), (axis.source, old)):
        assert len(set(ends.tolist())) == len(ends) == 2 * pairs
        assert torch.equal(ends[pairs:], ends[:pairs] + width)
    turns = [Rotary(2 * width, 2).cos[1, 0] for width in (old, new)]
    if new % old == 0:
        assert torch.equal(turns[0][axis.source], turns[1][axis.to])
    distance = (axis.to[:pairs] / new - axis.source[:pairs] / old).abs()
    assert (distance <= 0.5 / max(old, new) + 1e-6).all()


def test_take_copies_where_every_axis_has_a_source():
    target, source = torch.zeros(3, 2), torch.arange(8.0).view(2, 4)
    count = take(target, source, [leading(2, 3), strongest(torch.tensor([1.0, 5.0, 0.0, 2.0]), 2)])
    assert count == 4 and target.tolist() == [[1, 3], [5, 7], [0, 0]]
