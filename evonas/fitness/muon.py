"""Muon for small matrices: momentum orthogonalised by Newton-Schulz, equal shapes in one batched product."""

from __future__ import annotations

from collections.abc import Iterable

import torch

# Quintic coefficients of Jordan et al. 2024 ("Muon: an optimizer for hidden layers in neural networks").
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Muon with decoupled weight decay and Nesterov momentum; all parameters are matrices.

    The update is scaled by 0.2 * sqrt(max(rows, columns)), so that one learning rate serves AdamW as well (Liu et al.
    2025, "Muon is scalable for LLM training", eq. 4). ``torch.optim.Muon`` computes the same, matrix by matrix and in
    bfloat16, which a CPU without units for it emulates; here matrices of one shape are one batch, iterated in
    ``dtype``.

    ``every``: momentum is orthogonalised, and followed so many times as far, at the first of so many steps; the others
    only take in their gradients and decay. What an orthogonalisation costs does not depend on the batch, and beside a
    small one it is half of a step (compare Khaled et al. 2025, "MuonBP", which spares the communication it takes).
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
        every: int = 1,
    ) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype, self._every, self._steps = dtype, every, 0

    def begin(self, steps: int = 0) -> None:
        """A cycle of which ``steps`` are done: its first one is the first of ``every``."""
        self._steps = steps

    @torch.no_grad()
    def step(self, closure=None) -> None:
        moves = self._steps % self._every == 0
        self._steps += 1
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                self._step_batch(shape, parameters, group, moves)

    def _step_batch(self, shape: torch.Size, parameters: list[torch.Tensor], group: dict, moves: bool) -> None:
        grads = [p.grad for p in parameters]
        for p in parameters:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        rate = group["lr"]  # a number, or a tensor where the step is captured
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        if not moves:
            return
        updates = torch.stack(torch._foreach_lerp(grads, momenta, group["momentum"]))
        directions = orthogonalised(updates, self._dtype).mul_(-rate * self._every * 0.2 * max(shape) ** 0.5)
        torch._foreach_add_(parameters, list(directions.unbind(0)))


def orthogonalised(matrices: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Approximately U V^T of each matrix U S V^T in ``matrices`` (n, rows, columns), by Newton-Schulz iteration.

    In float32, matrices at least twice as long as wide iterate on their Gram matrix G = X X^T alone: every step
    multiplies X by a polynomial in G, so the steps' product is formed first and meets X once, for half the work. Not
    in bfloat16, whose rounding a squared condition number would show.
    """
    x = matrices.to(dtype)
    tall = x.size(1) > x.size(2)
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    oblong = x.size(2) >= 2 * x.size(1)
    x = _through_gram(x) if oblong and x.dtype == torch.float32 else _direct(x)
    return (x.mT if tall else x).to(matrices.dtype)


def _direct(x: torch.Tensor) -> torch.Tensor:
    for _ in range(_STEPS):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        x = torch.baddbmm(x, polynomial, x, beta=_A)
    return x


def _through_gram(x: torch.Tensor) -> torch.Tensor:
    gram = torch.bmm(x, x.mT)
    product: torch.Tensor | None = None
    for step in range(_STEPS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        polynomial.diagonal(dim1=1, dim2=2).add_(_A)
        product = polynomial if product is None else torch.bmm(polynomial, product)
        if step < _STEPS - 1:
            gram = torch.bmm(torch.bmm(polynomial, gram), polynomial)
    return torch.bmm(product, x)
