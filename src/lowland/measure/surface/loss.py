"""Mean loss and classification error over a data set."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowland.core.records import Measurement
from lowland.core.restore import preserved
from lowland.measure.evaluation import Batches, Loss, SameDivisor, labelled, losses, outputs_of


@dataclass(frozen=True, kw_only=True)
class MeanLoss(Measurement):
    """The mean loss; `uncertainty` is its standard error, if losses per example were given.

    Attributes:
        error: share of examples whose largest output is not at the target's place; None where
            outputs and targets are not those of a classifier. Outputs with a NaN are wrong.
    """

    error: float | None


def mean_loss(model: nn.Module, loss_fn: Loss, batches: Batches) -> MeanLoss:
    """The mean of the loss over all examples, with the model in eval mode, and the share of errors.

    Every example weighs the same, whatever the sizes of the batches. The model, its gradients and
    the random generators are left as they were. A model that has diverged gives NaN or infinity.

    Args:
        model: called as ``model(inputs)``.
        loss_fn: ``loss_fn(outputs, targets)``: losses (b,) or their mean, never their sum.
        batches: pairs (inputs, targets), moved to the model's device. For the error: outputs
            (b, classes) and whole-number targets (b,).

    Cost: one forward pass over the data, and a copy of the weights.

    Raises:
        InputError: no examples, batches that are not pairs, a loss of the wrong shape.
    """
    start = time.perf_counter()
    values: list[Tensor] = []
    weights: list[int] = []
    wrong: list[int] = []
    divisor = SameDivisor(loss_fn)
    with preserved(model), torch.no_grad():
        model.eval()
        for inputs, targets in labelled(model, batches):
            divisor.see(targets)
            outputs = outputs_of(model, inputs)
            values.append(losses(loss_fn, outputs, targets).cpu().double())
            weights.append(len(targets))
            if classifies(outputs, targets):
                wrong.append(misclassified(outputs, targets))
    n = sum(weights)
    total = sum(float(v.mean()) * w for v, w in zip(values, weights, strict=True))
    return MeanLoss(
        name="mean_loss",
        value=total / n,
        definition="mean of the loss over examples, in eval mode",
        n=n,
        dtype="float64",
        seconds=time.perf_counter() - start,
        uncertainty=_standard_error(values, n),
        error=sum(wrong) / n if len(wrong) == len(weights) else None,
    )


def _standard_error(values: list[Tensor], n: int) -> float | None:
    if n < 2 or any(v.ndim == 0 for v in values):
        return None
    return float(torch.cat(values).std()) / math.sqrt(n)


def classifies(outputs: object, targets: Tensor) -> bool:
    """Whether these are outputs (b, classes) and the numbers of the right classes (b,)."""
    whole = not (targets.is_floating_point() or targets.is_complex()) and targets.ndim == 1
    many = isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] > 1
    return many and whole and bool((targets >= 0).all())  # below 0: targets to be ignored


def misclassified(outputs: Tensor, targets: Tensor) -> int:
    """How many examples have their largest output elsewhere than the target, or a NaN."""
    wrong = (outputs.argmax(1) != targets) | outputs.isnan().any(1)
    return int(wrong.sum())
