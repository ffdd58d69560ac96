"""One-step sharpness: how much the loss rises one step of length ρ up the gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.perturbation import global_norm
from lowland.core.records import Measurement
from lowland.core.restore import preserved, preserved_randomness
from lowland.measure.averages import batch_number, mean_of, standard_error_of
from lowland.measure.evaluation import Batches, Loss, labelled, losses
from lowland.measure.parameters import chosen_parameters, gradients_of, moved


@dataclass(frozen=True, kw_only=True)
class OneStepSharpness(Measurement):
    """The mean rise of the loss; `uncertainty` is the standard error between batches.

    Attributes:
        rho: the radius ρ.
        m: examples behind each step: the largest batch size.
        smallest_m: the smallest batch size; below `m` if the last batch is short.
        batches: number of batches, each with a step of its own.
        loss: mean loss at w.
        training_mode: whether the model was in train mode.
    """

    rho: float
    m: int
    smallest_m: int
    batches: int
    loss: float
    training_mode: bool


def one_step_sharpness(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    rho: float,
    parameters: str | None = None,
    training_mode: bool = False,
) -> OneStepSharpness:
    """The mean over batches of L(w + ρ·g/‖g‖) - L(w), each batch with its own loss L and g = ∇L(w).

    ‖g‖ is one norm over all parameters that are moved. Batches weigh by their examples.
    The value depends on the batch size m: with smaller m each step fits fewer examples and the
    loss rises more. A batch with g = 0 counts as 0. A model that has diverged gives NaN.

    Afterwards weights, buffers, modes, `.grad` and random generators are as they were.

    Args:
        model: called as ``model(inputs)``.
        loss_fn: ``loss_fn(outputs, targets)``: losses (b,) or their mean, never their sum.
        batches: pairs (inputs, targets), moved to the model's device.
        rho: radius of the step, at least 0.
        parameters: glob over names of parameters and modules: move these alone; None for all that
            require gradients.
        training_mode: evaluate in train mode (statistics of the batch, dropout with the same draws
            at both points) instead of eval mode.

    Cost: per batch two forward passes and one backward; two copies of the weights.

    Raises:
        InputError: ρ negative or not finite, no examples, a loss of the wrong shape, or nothing
            that requires gradients.
    """
    start = time.perf_counter()
    if not (math.isfinite(rho) and rho >= 0):
        raise InputError(f"rho: {rho!r} is not a radius; give a finite number from 0 on")
    sizes: list[int] = []
    before: list[float] = []
    after: list[float] = []
    with preserved(model), torch.inference_mode(False), torch.enable_grad():
        model.train(training_mode)
        weights = list(chosen_parameters(model, parameters).values())
        for inputs, targets in labelled(model, batches):
            evaluate = partial(_evaluate, model, loss_fn, inputs, targets)
            low, high = _two_losses(evaluate, weights, rho)
            sizes.append(len(targets))
            before.append(low)
            after.append(high)
    n = sum(sizes)
    rises = [high - low for low, high in zip(before, after, strict=True)]
    return OneStepSharpness(
        name="one_step_sharpness",
        value=mean_of(rises, sizes),
        definition=(
            "mean over batches, by examples, of L(w + rho g/||g||) - L(w), "
            f"{'train' if training_mode else 'eval'} mode, Euclidean norm over "
            f"{'all parameters' if parameters is None else parameters}"
        ),
        n=n,
        dtype=str(weights[0].dtype).removeprefix("torch."),
        seconds=time.perf_counter() - start,
        uncertainty=standard_error_of(rises, sizes),
        rho=rho,
        m=max(sizes),
        smallest_m=min(sizes),
        batches=len(sizes),
        loss=mean_of(before, sizes),
        training_mode=training_mode,
    )


def _evaluate(model: nn.Module, loss_fn: Loss, inputs: Any, targets: Tensor) -> Tensor:
    return losses(loss_fn, model(inputs), targets)


def _two_losses(
    evaluate: Callable[[], Tensor], weights: list[nn.Parameter], rho: float
) -> tuple[float, float]:
    """The mean loss of a batch at w and at w + ρ·g/‖g‖, from the same random draws."""
    with preserved_randomness():
        loss = evaluate()
        gradients = gradients_of(loss.mean(), weights)
    low = batch_number(loss)
    norm = float(global_norm([g for g in gradients if g is not None]))
    if norm == 0.0 or rho == 0.0:
        return low, low
    with moved(weights, gradients, rho / norm), torch.no_grad():
        return low, batch_number(evaluate())
