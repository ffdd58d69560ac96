"""What a step leaves to be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepRecord:
    """What happened in a step; numbers are 0-dim tensors on the device, read when wanted.

    Attributes:
        loss: L(w) as the loss function returned it, detached; in context form as the caller gave
            it (``perturbed(loss=...)``), in two-step form None.
        perturbed_loss: L(w+ε), likewise; None if there was no second pass.
        grad_norm: n, the norm that scaled ε (‖g‖ for SAM, ‖T·g‖ for ASAM); of the last part if the
            batch was split; None without a second pass.
        perturbation_norm: the norm of ε in the metric (‖ε‖ for SAM, ‖T⁻¹·ε‖ for ASAM), likewise.
        skipped: whether the step was skipped because a gradient was not finite.
        skipped_total: how many were, over the whole training.
    """

    loss: Tensor | None
    perturbed_loss: Tensor | None
    grad_norm: Tensor | None
    perturbation_norm: Tensor | None
    skipped: bool | Tensor
    skipped_total: int | Tensor

    def metrics(self) -> dict[str, float]:
        """What is known of them as numbers, by name, for any tracker; waits for the device once.

        Names: loss, perturbed_loss, sharpness, grad_norm, perturbation_norm, skipped (0 or 1),
        skipped_total.
        """
        names = ("loss", "perturbed_loss", "sharpness", "grad_norm", "perturbation_norm")
        known = {name: value for name in names if (value := getattr(self, name)) is not None}
        known |= {"skipped": self.skipped, "skipped_total": self.skipped_total}
        tensors = {name: v for name, v in known.items() if isinstance(v, Tensor)}
        numbers = {name: float(v) for name, v in known.items() if name not in tensors}
        if tensors:
            device = next(iter(tensors.values())).device
            together = torch.stack([v.detach().to(device).double() for v in tensors.values()])
            numbers |= dict(zip(tensors, together.tolist(), strict=True))
        return {name: numbers[name] for name in known}

    @property
    def sharpness(self) -> Tensor | None:
        """L(w+ε) − L(w), free in every step with two passes; None where either is unknown."""
        if self.loss is None or self.perturbed_loss is None:
            return None
        return self.perturbed_loss - self.loss


class MeanLoss:
    """The example-weighted mean of the losses of the parts of one step.

    Args:
        summed: their sum instead, for losses that were divided before.
    """

    def __init__(self, summed: bool = False) -> None:
        self.value: Tensor | None = None
        self.summed = summed
        self._weight = 0.0

    def add(self, loss: Any, weight: float) -> None:
        """Take in a loss; what is not a number (a dictionary, say) is not recorded."""
        if isinstance(loss, Tensor) and loss.numel() == 1:
            value = loss.detach().reshape(())
        elif isinstance(loss, int | float):
            value = torch.tensor(float(loss))
        else:
            return
        self._weight += weight
        if self.value is None:
            self.value = value
        elif self.summed:
            self.value = self.value + value
        else:
            self.value = self.value + (value - self.value) * (weight / self._weight)
