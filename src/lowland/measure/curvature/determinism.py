"""Whether two passes over the data see the same function: without that there is no matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.measure.averages import mean_of
from lowland.measure.curvature.subject import Subject
from lowland.measure.evaluation import SameDivisor, losses
from lowland.measure.parameters import gradients_of

REMEDY = (
    "a Hessian needs the same function in every pass: give all examples in a fixed order "
    "(shuffle=False), without augmentation or dropout, or check=False"
)


@dataclass(eq=False)
class DataPass:
    """What one pass over the data saw.

    Attributes:
        gradient: Σ_b m_b·∇L_b over the batches so far.
        sizes: examples m_b of each batch.
        losses: mean loss L_b of each batch.
        slopes: ‖∇L_b‖ of each batch.
    """

    gradient: Tensor
    sizes: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    slopes: list[float] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Examples."""
        return sum(self.sizes)

    @property
    def loss(self) -> float:
        """The mean loss."""
        return mean_of(self.losses, self.sizes)

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.loss) and bool(torch.isfinite(self.gradient).all())


def tolerance_of(dtype: torch.dtype) -> float:
    """By how much two passes may differ relatively: rounding in another order, and no more."""
    return min(1e3 * torch.finfo(dtype).eps, 0.05)


def refuse_different(first: DataPass, second: DataPass) -> None:
    """Raise `InputError` if two passes over the same data and weights differ.

    Sizes and losses are compared batch by batch, so that another order is seen too, and gradients
    relative to the batches' own: at a minimum their sum is small.
    """
    tolerance = tolerance_of(first.gradient.dtype)
    if first.sizes != second.sizes:
        raise InputError(
            f"batches: {first.n} examples in {len(first.sizes)} batches in one pass, {second.n} in "
            f"{len(second.sizes)} in the next; {REMEDY}"
        )
    for number, (a, b) in enumerate(zip(first.losses, second.losses, strict=True)):
        if differ(a, b, tolerance):
            raise InputError(
                f"batches: the loss of batch {number} is {a:.6g} in one pass and {b:.6g} in the "
                f"next; {REMEDY}"
            )
    scale = sum(m * s for m, s in zip(first.sizes, first.slopes, strict=True))
    apart = float(torch.linalg.vector_norm(first.gradient - second.gradient))
    if apart > tolerance * scale:
        raise InputError(
            f"batches: the gradients of two passes differ by {apart / scale:.1%} of their size; "
            f"{REMEDY}"
        )


def differ(a: float, b: float, tolerance: float) -> bool:
    """Whether two numbers differ by more than a relative tolerance; NaN is like NaN.

    >>> differ(1.0, 1.1, 0.01), differ(math.nan, math.nan, 0.01)
    (True, False)
    """
    if math.isnan(a) and math.isnan(b):
        return False
    return a != b and not abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-3)


def data_pass(subject: Subject) -> DataPass:
    """Loss and gradient of every batch, at the cost of one gradient of the whole data.

    Raises:
        InputError: the loss does not depend on the model's weights at all, chosen or not.
    """
    layout = subject.layout
    found = DataPass(torch.zeros(layout.size, dtype=layout.dtype, device=layout.device))
    weights = list(subject.weights.values())
    divisor = SameDivisor(subject.loss_fn)
    for inputs, targets in subject:
        divisor.see(targets)
        loss = losses(subject.loss_fn, subject.outputs(inputs), targets).mean()
        gradient: Sequence[Tensor | None] = [None] * len(weights)
        if loss.requires_grad:
            gradient = gradients_of(loss, weights)
        elif not found.sizes:
            _refuse_detached(subject)
        layout.add(found.gradient, gradient, float(len(targets)))
        found.sizes.append(len(targets))
        found.losses.append(float(loss.detach()))
        found.slopes.append(_norm(gradient))
    return found


def _refuse_detached(subject: Subject) -> None:
    """A loss may not depend on the chosen weights, but on none at all is a mistake."""
    free = [p for p in subject.model.parameters() if not p.requires_grad]
    for parameter in free:
        parameter.requires_grad_()
    try:
        inputs, targets = next(iter(subject))
        loss = losses(subject.loss_fn, subject.outputs(inputs), targets).mean()
        gradients_of(loss, [*subject.weights.values(), *free])
    finally:
        for parameter in free:
            parameter.requires_grad_(False)


def _norm(parts: Sequence[Tensor | None]) -> float:
    there = [part for part in parts if part is not None]
    return math.hypot(*(float(norm) for norm in torch._foreach_norm(there))) if there else 0.0
