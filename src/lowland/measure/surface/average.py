"""Average-case sharpness: how much the loss rises on average under noise on the weights."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.core.restore import preserved
from lowland.measure.averages import mean_of
from lowland.measure.evaluation import Batches, Loss, refuse_batch_statistics, refuse_shuffled
from lowland.measure.parameters import chosen_parameters
from lowland.measure.surface.around import Around
from lowland.measure.surface.balls import Ball
from lowland.measure.surface.draws import Rises, two_stages
from lowland.measure.surface.groups import GroupSize, check_groups, groups
from lowland.measure.surface.noise_law import NoiseLaw
from lowland.measure.surface.objective import Objective, check_logits, logits_words


@dataclass(frozen=True, kw_only=True)
class AverageSharpness(Measurement):
    """The mean rise of the loss over draws; `uncertainty` is its standard error over draws.

    Attributes:
        rho: the radius ρ.
        interval: 95% Student interval of the mean over all draws that could be made; not of what
            other examples would give. None for a single draw.
        draws: how many draws the value is the mean of; pairs, if antithetic.
        m: examples that share a perturbation: the largest group.
        smallest_m: the smallest group.
        groups: number of groups.
        loss: mean loss at w.
        error: mean rise of the share of examples misclassified; None without classes.
    """

    rho: float
    interval: tuple[float, float] | None
    draws: int
    m: int
    smallest_m: int
    groups: int
    loss: float
    error: float | None


def average_sharpness(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    rho: float,
    parameters: str | None = None,
    noise: str = "gaussian",
    per: str = "element",
    p: float = 2.0,
    adaptive: str | None = None,
    eta: float = 0.0,
    scale_bias: bool = True,
    m: GroupSize = None,
    examples: int | None = None,
    draws: int = 20,
    antithetic: bool = False,
    tolerance: float | None = None,
    most: int = 1000,
    logits: str | None = None,
    seed: int = 0,
) -> AverageSharpness:
    """E_ε[L(w + ε)] - L(w): the mean rise of the loss under noise on the weights, eval mode.

    Where L is quadratic with Hessian H over d elements this is (σ²/2)·tr H for Gaussian noise of
    deviation σ, ρ²/(2(d + 2))·tr H in the Euclidean ball, ρ²/(2d)·tr H on its sphere, ρ²/6·tr H in
    the cube (p = ∞). The value does not depend on m: with smaller groups, each with draws of its
    own, only its uncertainty is smaller.

    The interval is Student's over draws, for these examples: it covers 95% where the rises of
    single draws are near normal, as they are unless a few directions of curvature hold most of the
    trace. With a tolerance the first `draws` tell how many are needed, and their spread, with the
    degrees of freedom it has, makes the interval (Stein's two stages), so that stopping when it is
    narrow does not spoil its coverage.

    A model that has diverged gives NaN; a draw whose pass overflows makes the value infinite.

    Args:
        model: called as ``model(inputs)``; left exactly as it was.
        loss_fn: ``loss_fn(outputs, targets)``: losses (b,) or their mean, never their sum.
        batches: pairs (inputs, targets), moved to the model's device.
        rho: radius, at least 0.
        parameters: glob over names of parameters and modules: move these alone; None for all that
            require gradients.
        noise: "gaussian"; "ball" or "sphere": uniform in the ball of radius ρ or on its surface.
        per: what ρ is of Gaussian noise: the deviation of each "element", so that ‖ε‖ is about
            ρ√d, or of the "norm": the deviation is ρ/√d, and ‖ε‖ about ρ.
        p: the norm of the ball.
        adaptive: None, "elementwise" (ε = T·noise with T = |w| + η), "layerwise" or "filterwise".
        eta: η.
        scale_bias: False leaves T = 1 on tensors without "weight" in their name.
        m: examples that share a draw: None for one for all data, which are then read once for each
            draw; "batch" for batches as they come; a number regroups the examples.
        examples: the first so many alone.
        draws: how many, or how many at first.
        antithetic: a draw is the mean over ε and -ε, which removes the gradient's part; twice the
            passes.
        tolerance: go on until the half-width of the interval is at most this share of the value.
        most: the most draws.
        logits: normalise the outputs before the loss (`normalized_logits`).
        seed: of the draws, made on the CPU: the same on every device.

    Cost: 1 + draws forward passes (twice the draws if antithetic), d random numbers for each draw
    and group; four copies of the weights beside the model's own, two more for T.

    Source: arXiv 2302.07011 for the Gaussian forms. `SHARPNESS_PRESETS` has its options.

    Raises:
        InputError: options that make no sense, no examples, a loss of the wrong shape, BatchNorm
            without running statistics, or data that are shuffled where they are read twice.
    """
    start = time.perf_counter()
    law = NoiseLaw(noise, per, Ball(rho, p, adaptive, eta, scale_bias), antithetic)
    _check(draws, most, tolerance)
    check_groups(m, examples)
    check_logits(logits)
    if tolerance is not None:
        refuse_shuffled(batches)
    with preserved(model), torch.inference_mode(False), torch.no_grad():
        model.eval()
        refuse_batch_statistics(model)
        named = chosen_parameters(model, parameters)
        around = Around(list(named.values()))

        def more(first: int, stop: int) -> Rises:
            found = Rises(law, around, law.ball.scales(named), range(first, stop), seed)
            for i, group in enumerate(groups(model, batches, m, examples)):
                found.add(i, group, Objective(model, loss_fn, group, logits))
            return found

        found = more(0, draws)
        estimate = two_stages(found, more, tolerance, most)
    return AverageSharpness(
        name="average_sharpness",
        value=estimate.mean,
        definition=(
            f"mean of L(w + eps) - L(w), eval mode, {law.words}, over "
            f"{'all parameters' if parameters is None else parameters}{logits_words(logits)}"
        ),
        n=sum(found.sizes),
        dtype=str(around.weights[0].dtype).removeprefix("torch."),
        seconds=time.perf_counter() - start,
        uncertainty=estimate.error,
        converged=estimate.converged,
        seed=seed,
        rho=rho,
        interval=estimate.interval,
        draws=estimate.draws,
        m=max(found.sizes),
        smallest_m=min(found.sizes),
        groups=len(found.sizes),
        loss=mean_of(found.losses, found.sizes),
        error=estimate.wrong,
    )


def _check(draws: int, most: int, tolerance: float | None) -> None:
    for name, value in (("draws", draws), ("most", most)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}: {value!r}; give a whole number from 1 on")
    if tolerance is None:
        return
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise InputError(f"tolerance: {tolerance!r}; give a share of the value, for example 0.05")
    if draws < 2:
        raise InputError("draws: a tolerance needs a spread, so at least 2")
