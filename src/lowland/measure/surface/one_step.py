"""One-step sharpness: how much the loss rises one step of length ρ up the gradient."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.core.restore import preserved
from lowland.measure.averages import mean_of, standard_error_of
from lowland.measure.evaluation import Batches, Loss
from lowland.measure.parameters import chosen_parameters, moved
from lowland.measure.surface.balls import Ball, Scales, scaled, steepest
from lowland.measure.surface.groups import GroupSize, check_groups, groups
from lowland.measure.surface.objective import Objective, Point, check_logits, logits_words, rise


@dataclass(frozen=True, kw_only=True)
class OneStepSharpness(Measurement):
    """The mean rise of the loss; `uncertainty` is the standard error between batches.

    `converged`: the value is finite.

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
    p: float = 2.0,
    adaptive: str | None = None,
    eta: float = 0.0,
    scale_bias: bool = True,
    m: GroupSize = "batch",
    examples: int | None = None,
    logits: str | None = None,
) -> OneStepSharpness:
    """The mean over batches of L(w + ε) - L(w), each batch with its own loss L and steepest ε.

    By default ε = ρ·g/‖g‖ with g = ∇L(w), SAM's perturbation; in general it is the ε with
    ‖T⁻¹ε‖_p = ρ up which L rises fastest at w (`Ball`). ‖g‖ is one norm over all parameters that
    are moved. Batches weigh by their examples. The value depends on the batch size m: with smaller
    m each step fits fewer examples and the loss rises more. A batch with g = 0 counts as 0. A model
    that has diverged gives NaN; a pass at w + ε that overflows counts as infinite.

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
        p: the norm that bounds ε: 2, ``math.inf``, 1 or any between.
        adaptive: None, "elementwise" (ASAM's T = |w| + η), "layerwise" or "filterwise".
        eta: η.
        scale_bias: False leaves T = 1 on tensors without "weight" in their name, as ASAM does.
        m: examples that share a step: "batch" for batches as they come; a number regroups the
            examples, the last group with what is left; None for one step for all data, which are
            then read twice.
        examples: the first so many alone.
        logits: normalise the outputs before the loss (`normalized_logits`).

    Cost: per batch two forward passes and one backward; three copies of the weights beside the
    model's own, the gradient among them, and two or three more for T or p other than 2.

    Raises:
        InputError: ρ negative or not finite, no examples, a loss of the wrong shape, nothing that
            requires gradients, or options that make no sense.
    """
    start = time.perf_counter()
    ball = Ball(rho, p, adaptive, eta, scale_bias)
    check_groups(m, examples)
    check_logits(logits)
    if training_mode and m != "batch":
        raise InputError(
            "m: in train mode the loss depends on the batch; give batches of m examples and "
            "m='batch'"
        )
    sizes: list[int] = []
    before: list[float] = []
    rises: list[float] = []
    with preserved(model), torch.inference_mode(False), torch.enable_grad():
        model.train(training_mode)
        named = chosen_parameters(model, parameters)
        weights, scales = list(named.values()), ball.scales(named)
        for group in groups(model, batches, m, examples):
            objective = Objective(model, loss_fn, group, logits)
            point, risen = _rise(objective, weights, ball, scales)
            sizes.append(point.n)
            before.append(point.loss)
            rises.append(risen)
    value = mean_of(rises, sizes)
    return OneStepSharpness(
        name="one_step_sharpness",
        value=value,
        definition=_definition(ball, parameters, training_mode, logits),
        n=sum(sizes),
        dtype=str(weights[0].dtype).removeprefix("torch."),
        seconds=time.perf_counter() - start,
        uncertainty=standard_error_of(rises, sizes),
        converged=math.isfinite(value),
        rho=rho,
        m=max(sizes),
        smallest_m=min(sizes),
        batches=len(sizes),
        loss=mean_of(before, sizes),
        training_mode=training_mode,
    )


def _definition(ball: Ball, parameters: str | None, training_mode: bool, logits: str | None) -> str:
    where = "all parameters" if parameters is None else parameters
    plain = ball.p == 2 and ball.adaptive is None
    step = "rho g/||g||" if plain else "eps"
    norm = "Euclidean norm" if plain else f"eps the steepest of length rho in the {ball.words}"
    return (
        f"mean over batches, by examples, of L(w + {step}) - L(w), "
        f"{'train' if training_mode else 'eval'} mode, {norm} over {where}{logits_words(logits)}"
    )


def _rise(
    objective: Objective, weights: list[nn.Parameter], ball: Ball, scales: Scales
) -> tuple[Point, float]:
    """What a group has at w, and the rise to w + ε, from the same random draws."""
    point, gradients = objective.gradient(weights)
    directions, divisor = steepest(scaled(gradients, scales), ball.p)
    if math.isnan(divisor):
        return point, math.nan
    length = ball.rho / divisor
    if length == 0.0:
        return point, point.loss - point.loss
    with moved(weights, scaled(directions, scales), length):
        return point, rise(point.loss, objective.point(last=True).loss)
