"""Moving the weights to w+ε and bringing them back to exactly w."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowland.core.perturbation import combine_norms, global_norm, wide_dtype

Scale = float | Tensor
Move = list[tuple[list[Tensor], list[Tensor], Scale]]
"""(parameters, directions d, scale s) per group: where ε = s·d."""

SMALL = 16_384
"""Mean number of elements per tensor below which one norm over a flat copy beats many norms."""


class Displacement:
    """A persistent copy of the weights that move, and the move itself.

    w is copied into buffers that are allocated once, ε is added in place, and w comes back by an
    in-place copy: addresses never change, and coming back is exact in every dtype, which
    subtracting ε is not. Memory: one copy of the tensors that move.

    The buffers of one type and device are slices of one flat tensor, which serves as work space
    for the norm before w is copied there.
    """

    def __init__(self) -> None:
        self.displaced = False
        self._params: list[Tensor] = []
        self._buffers: list[Tensor] = []
        self._flat: list[Tensor] = []

    def norm(self, params: list[Tensor], tensors: list[Tensor]) -> Tensor:
        """The joint Euclidean norm of `tensors`, shaped like `params`, which are about to move.

        Cost: one read, or for networks of many small tensors a copy and one read, which is several
        times faster there than a norm for each.
        """
        if not params:
            return torch.zeros(())
        self._prepare(params)
        elements = sum(flat.numel() for flat in self._flat)
        exact = all(wide_dtype(flat.dtype) == flat.dtype for flat in self._flat)
        if self.displaced or elements >= SMALL * len(params) or not exact:
            return global_norm(tensors)
        torch._foreach_copy_(self._buffers, tensors)
        return combine_norms([torch.linalg.vector_norm(flat) for flat in self._flat])

    def go(self, moves: Move) -> None:
        """w ← w + s·d for every (parameters, directions d, scale s); w is copied away first."""
        if not moves:
            return
        self._prepare([p for params, _, _ in moves for p in params])
        torch._foreach_copy_(self._buffers, self._params)
        self.displaced = True
        for params, directions, scale in moves:
            if isinstance(scale, Tensor):
                torch._foreach_add_(params, torch._foreach_mul(directions, scale))
            else:
                torch._foreach_add_(params, directions, alpha=scale)

    def come_back(self) -> None:
        """Put w back, bit for bit. Safe to call at any time and any number of times."""
        if self.displaced:
            with torch.no_grad():
                torch._foreach_copy_(self._params, self._buffers)
            self.displaced = False

    def _prepare(self, params: list[Tensor]) -> None:
        """Buffers for exactly these parameters; the ones of the last step if they are the same."""
        same = len(params) == len(self._params) and all(map(operator.is_, params, self._params))
        if same and self._fits(params):
            return
        self._params, self._flat = params, []
        self._buffers = [torch.empty(0)] * len(params)
        kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for i, p in enumerate(params):
            kinds.setdefault((p.dtype, p.device), []).append(i)
        for (dtype, device), members in kinds.items():
            sizes = [params[i].numel() for i in members]
            flat = torch.empty(sum(sizes), dtype=dtype, device=device)
            for i, piece in zip(members, torch.split(flat, sizes), strict=True):
                self._buffers[i] = piece.view(params[i].shape)
            self._flat.append(flat)

    def _fits(self, params: Sequence[Tensor]) -> bool:
        """Whether the parameters are still where and what they were (``model.to(...)``)."""
        first, buffer = params[0], self._buffers[0]
        return first.dtype == buffer.dtype and first.device == buffer.device

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles start with no buffers of their own."""
        return {"displaced": False, "_params": [], "_buffers": [], "_flat": []}
