"""Index maps between the widths of a parent network and those of its child."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Axis(NamedTuple):
    """Places ``to`` of the child's axis come from the parent's places ``source``; its places ``new`` from nowhere."""

    to: torch.Tensor
    source: torch.Tensor
    new: torch.Tensor


def axis(size: int, to: torch.Tensor, source: torch.Tensor) -> Axis:
    """The map onto a child's axis of ``size`` places."""
    free = torch.ones(size, dtype=torch.bool)
    free[to] = False
    return Axis(to, source, free.nonzero()[:, 0])


def leading(old: int, new: int) -> Axis:
    """The first places, as many as both have."""
    both = torch.arange(min(old, new))
    return axis(new, both, both)


def strongest(score: torch.Tensor, new: int) -> Axis:
    """The places of the highest ``score``, as many as fit, in their old order."""
    kept = score.topk(min(len(score), new)).indices.sort().values.cpu()
    return axis(new, torch.arange(len(kept)), kept)


def rotary(old: int, new: int) -> Axis:
    """Rotated pairs (i, i + width/2), each to the nearest frequency BASE^(-2i/width) of the other width.

    The same frequency where ``new`` is a multiple of ``old``.
    """
    old, new = old // 2, new // 2
    few, many = min(old, new), max(old, new)
    of_few = torch.arange(few)
    of_many = (2 * of_few * many + few) // (2 * max(few, 1))  # rounds i * many / few, all different
    to, source = (of_few, of_many) if new < old else (of_many, of_few)
    return axis(2 * new, torch.cat((to, to + new)), torch.cat((source, source + old)))


def heads(score: torch.Tensor, kv_heads: int, new_heads: int, new_kv_heads: int) -> tuple[Axis, torch.Tensor]:
    """Heads and KV heads of a child, for a parent's heads of strengths ``score`` (H,) on ``kv_heads`` K.

    A parent's KV head goes, with its group of queries, to groups of its own wherever there are enough: to several where
    the child's groups are smaller, which is exact. With fewer KV heads, neighbouring groups are joined as far as the
    child's groups have room, their KV heads averaged (grouped-query attention, Ainslie et al. 2023, sec. 2.1); the
    strongest heads stay where there is no room for all.

    Returns the map of the heads and the weights (K', K) that make the child's KV heads from the parent's, zero in the
    rows of new ones.
    """
    group, new_group = len(score) // kv_heads, new_heads // new_kv_heads
    score = score.cpu().view(kv_heads, group)
    if new_kv_heads >= kv_heads:
        split = min(-(-group // new_group), new_kv_heads // kv_heads)
        kept = [group * k + strongest(score[k], split * new_group).source for k in range(kv_heads)]
        groups = [part for each in kept for part in each.tensor_split(split)]
    else:
        joined = max(1, new_group // group)
        strong = strongest(score.sum(1), new_kv_heads * joined).source
        kept = [group * k + strongest(score[k], new_group).source for k in range(kv_heads)]
        groups = [torch.cat([kept[k] for k in part]) for part in strong.tensor_split(new_kv_heads)]
    to = torch.cat([new_group * k + torch.arange(len(part)) for k, part in enumerate(groups)])
    pool = torch.zeros(new_kv_heads, kv_heads)
    for k, part in enumerate(groups):
        pool[k, part // group] = 1.0
    return axis(new_heads, to, torch.cat(groups)), pool / pool.sum(1, keepdim=True).clamp(min=1)


def take(target: torch.Tensor, source: torch.Tensor, axes: Sequence[Axis]) -> int:
    """Copy into ``target`` what has a source on every axis; returns how many values."""
    target[_grid([a.to for a in axes])] = source[_grid([a.source for a in axes])]
    count = 1
    for a in axes:
        count *= len(a.to)
    return count


def _grid(indices: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Index tensors that select the outer product of ``indices``, as ``numpy.ix_``."""
    return torch.meshgrid(*indices, indexing="ij")
