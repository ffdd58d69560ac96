"""Products of one batch: v -> ∇²L·v and v -> Jᵀ(∇²ℓ)J·v, from graphs that serve many vectors.

Both differentiate in reverse only, so that whatever can be differentiated twice will do. The graph
of the first derivative is made once and can be kept: a further vector then costs one backward pass
through it.

Operations, with a gradient as the unit (forward 1/3, backward 2/3, as in dense and convolutional
layers): making the graph is 1 and each Hessian product 2, each Gauss-Newton product 4/3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowland.measure.curvature.outputs import OutputMap, output_hessian, tensor_outputs
from lowland.measure.evaluation import Loss, losses

Parts = Sequence[Tensor | None]
"""One tensor per weight; None stands for zeros."""


class HessianMap:
    """v -> ∇²L·v for the mean loss L of one batch, with the graph of ∇L behind it.

    Attributes:
        loss: L.
    """

    def __init__(
        self, loss_fn: Loss, outputs: Any, targets: Tensor, weights: Sequence[Tensor]
    ) -> None:
        loss = losses(loss_fn, outputs, targets).mean()
        self.loss = loss.detach()
        self._weights = list(weights)
        self._slopes = _derivatives(loss, self._weights, None, graph=True)

    def gradient(self) -> Parts:
        """∇L."""
        return [None if slope is None else slope.detach() for slope in self._slopes]

    def __call__(self, vectors: Sequence[Tensor]) -> Parts:
        return _pulled(self._slopes, self._weights, vectors)


class GaussNewtonMap:
    """v -> Jᵀ·∇²_z ℓ·J·v for one batch, with J the derivative of the outputs z by the weights.

    J·v is the derivative of Jᵀu by u, which is linear in u: two backward passes instead of a
    forward-mode one, and no operation needs a forward-mode formula.

    Attributes:
        loss: the mean loss of the batch.
    """

    def __init__(
        self,
        loss_fn: Loss,
        outputs: Any,
        targets: Tensor,
        weights: Sequence[Tensor],
        *,
        known: bool = True,
    ) -> None:
        self._outputs = tensor_outputs(outputs)
        self._weights = list(weights)
        self._middle: OutputMap = output_hessian(
            loss_fn, self._outputs.detach(), targets, known=known
        )
        self._cotangent = torch.zeros_like(self._outputs, requires_grad=True)
        self._pulled = _derivatives(self._outputs, self._weights, self._cotangent, graph=True)
        z = self._outputs.detach().requires_grad_()
        loss = losses(loss_fn, z, targets).mean()
        self.loss = loss.detach()
        self._slope = _derivatives(loss, [z], None, graph=False)[0]

    def gradient(self) -> Parts:
        """∇L."""
        if self._slope is None:
            return [None] * len(self._weights)
        return _derivatives(self._outputs, self._weights, self._slope, graph=False, retain=True)

    def __call__(self, vectors: Sequence[Tensor]) -> Parts:
        (pushed,) = _pulled(self._pulled, [self._cotangent], vectors)
        if pushed is None:
            return [None] * len(self._weights)
        bent = self._middle(pushed)
        return _derivatives(self._outputs, self._weights, bent, graph=False, retain=True)


BatchMap = HessianMap | GaussNewtonMap
MAPS: dict[str, Callable[..., BatchMap]] = {"hessian": HessianMap, "ggn": GaussNewtonMap}


def _derivatives(
    of: Tensor, by: list[Tensor], cotangent: Tensor | None, *, graph: bool, retain: bool = False
) -> Parts:
    if not of.requires_grad:
        return [None] * len(by)
    return torch.autograd.grad(
        of, by, cotangent, create_graph=graph, retain_graph=graph or retain, allow_unused=True
    )


def _pulled(slopes: Parts, by: list[Tensor], vectors: Sequence[Tensor]) -> Parts:
    """Σ_j v_j·∂s_j/∂by over the slopes that depend on anything."""
    pairs = zip(slopes, vectors, strict=True)
    live = [(s, v) for s, v in pairs if s is not None and s.requires_grad]
    if not live:
        return [None] * len(by)
    found: Parts = torch.autograd.grad(
        [s for s, _ in live], by, [v for _, v in live], retain_graph=True, allow_unused=True
    )
    return found
