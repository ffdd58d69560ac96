"""Worst-case sharpness: how much the loss rises at the highest point found around the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, unknown
from lowland.core.perturbation import wide_dtype
from lowland.core.records import Measurement
from lowland.core.restore import preserved
from lowland.core.seeds import generator
from lowland.measure.averages import mean_of, standard_error_of
from lowland.measure.evaluation import Batches, Loss, refuse_batch_statistics
from lowland.measure.parameters import chosen_parameters
from lowland.measure.surface.around import Around
from lowland.measure.surface.ascent import ASCENTS, Summit, climb
from lowland.measure.surface.balls import Ball, Scales, scaled, uniform_in_ball
from lowland.measure.surface.groups import GroupSize, check_groups, groups
from lowland.measure.surface.objective import Objective, Point, check_logits, logits_words, rise


@dataclass(frozen=True, kw_only=True)
class WorstSharpness(Measurement):
    """The mean over groups of the highest rise found; `uncertainty` is its standard error between
    groups. The true maximum may be higher, never lower.

    `converged`: `gap` and `late` are within the tolerance, as shares of the value. False with a
    single ascent, which nothing can be held against, and where an ascent met a gradient that is not
    finite. It says that more of the same would find little more, not that there is no more to find.

    Attributes:
        rho: the radius ρ.
        m: examples that share a perturbation: the largest group.
        smallest_m: the smallest group.
        groups: number of groups.
        loss: mean loss at w.
        error: mean rise of the share of examples misclassified, at the points of highest loss; None
            without classes.
        restarts: ascents for each group.
        gap: mean over groups of the best ascent's rise less the second best's; None for one ascent.
        late: mean over groups of what the best ascent gained in the second half of its steps.
        radius: mean over groups of ‖T⁻¹ε‖_p at the points of highest loss.
    """

    rho: float
    m: int
    smallest_m: int
    groups: int
    loss: float
    error: float | None
    restarts: int
    gap: float | None
    late: float
    radius: float


@dataclass(frozen=True)
class _Plan:
    """How a group is climbed."""

    ball: Ball
    kind: str
    steps: int
    step: float
    restarts: int
    seed: int

    def __post_init__(self) -> None:
        for name, value, least in (("steps", self.steps, 1), ("restarts", self.restarts, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name}: {value!r}; give a whole number from {least} on")
        if not (math.isfinite(self.step) and self.step > 0):
            raise InputError(f"step: {self.step!r}; give a share of the radius, for example 0.1")


@dataclass(frozen=True)
class _Found:
    """The highest point of a group."""

    low: Point
    risen: float
    gap: float | None
    late: float
    error: float | None
    radius: float
    blind: bool


def worst_sharpness(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    rho: float,
    parameters: str | None = None,
    p: float = 2.0,
    adaptive: str | None = None,
    eta: float = 0.0,
    scale_bias: bool = True,
    m: GroupSize = "batch",
    examples: int | None = None,
    ascent: str = "halving",
    steps: int = 20,
    step: float | None = None,
    restarts: int = 3,
    tolerance: float = 0.05,
    logits: str | None = None,
    seed: int = 0,
) -> WorstSharpness:
    """The mean over groups of max_ε L(w + ε) - L(w) over ‖T⁻¹ε‖_p ≤ ρ, found by ascent, eval mode.

    Each group of m examples has its own loss L and ε. The value is the highest loss that any
    ascent has seen at any of its points, w itself included: a lower bound on the maximum, and never
    below 0. It rises with more steps and restarts, and falls with m. Where L is quadratic with
    Hessian H and no gradient at w, and p = 2, the maximum is (ρ²/2)·λ_max(H).

    The first ascent starts at w, the others at points drawn uniformly from the ball; at a point
    without gradient an ascent stays. Ascents move in z = T⁻¹ε, so that T shapes their steps as it
    does ASAM's. Error and loss are taken at the same points: whether one is above 0 has no say in
    whether the other counts.

    A model that has diverged gives NaN; a pass that overflows counts as infinite.

    Args:
        model: called as ``model(inputs)``; left exactly as it was.
        loss_fn: ``loss_fn(outputs, targets)``: losses (b,) or their mean, never their sum.
        batches: pairs (inputs, targets), moved to the model's device.
        rho: radius, at least 0.
        parameters: glob over names of parameters and modules: move these alone; None for all that
            require gradients.
        p: the norm of the ball: 2, ``math.inf``, 1 or any between. For others than 2 and ∞ the
            ascent comes back to the ball along rays.
        adaptive: None, "elementwise" (T = |w| + η), "layerwise" or "filterwise".
        eta: η.
        scale_bias: False leaves T = 1 on tensors without "weight" in their name.
        m: examples that share ε: "batch" for batches as they come; a number regroups the examples,
            the last group with what is left; None for one ε for all data, read in every step.
        examples: the first so many alone.
        ascent: "halving", the scheme of APGD, or "fixed" steps; see `climb`.
        steps: of each ascent.
        step: the first step as a share of ρ; None for 2 if halving, 0.1 if fixed.
        restarts: ascents for each group.
        tolerance: for `converged`, a share of the value.
        logits: normalise the outputs before the loss (`normalized_logits`).
        seed: of the starts, drawn on the CPU: the same on every device.

    Cost: restarts·steps forward and backward passes and restarts + 1 forward passes; if halving,
    one of each more for each time that it goes back, at most seven times in an ascent of 20. Eight
    copies of the weights beside the model's own, five if fixed; one more for T.

    Source: arXiv 2302.07011 (APGD), 2305.16292 (fixed). `SHARPNESS_PRESETS` has their options.

    Raises:
        InputError: options that make no sense, no examples, a loss of the wrong shape, nothing that
            requires gradients, or BatchNorm without running statistics.
    """
    start = time.perf_counter()
    if ascent not in ASCENTS:
        raise unknown("ascent", ascent, ASCENTS)
    plan = _Plan(
        Ball(rho, p, adaptive, eta, scale_bias),
        ascent,
        steps,
        ASCENTS[ascent] if step is None else step,
        restarts,
        seed,
    )
    check_groups(m, examples)
    check_logits(logits)
    found: list[_Found] = []
    with preserved(model), torch.inference_mode(False), torch.no_grad():
        model.eval()
        refuse_batch_statistics(model)
        named = chosen_parameters(model, parameters)
        around, scales = Around(list(named.values())), plan.ball.scales(named)
        for i, group in enumerate(groups(model, batches, m, examples)):
            found.append(
                _highest(Objective(model, loss_fn, group, logits), around, scales, plan, i)
            )
    where = "all parameters" if parameters is None else parameters
    return _record(
        found,
        plan,
        tolerance,
        definition=(
            "mean over groups, by examples, of the largest L(w + eps) - L(w) that "
            f"{restarts} ascents of {steps} {ascent} steps of {plan.step:g} rho at first have seen "
            f"within rho in the {plan.ball.words}, eval mode, over {where}{logits_words(logits)}"
        ),
        dtype=str(around.weights[0].dtype).removeprefix("torch."),
        seconds=time.perf_counter() - start,
    )


def _highest(
    objective: Objective, around: Around, scales: Scales, plan: _Plan, group: int
) -> _Found:
    """The best of the ascents of a group."""

    def look(z: Sequence[Tensor], gradient: bool) -> tuple[Point, Sequence[Tensor | None] | None]:
        around.put((1.0, scaled(z, scales)))
        if not gradient:
            return objective.point(), None
        point, slope = objective.gradient(around.weights)
        return point, scaled(slope, scales)

    around.back()
    low = objective.point()
    summits = [Summit(plan.ball.p, point=low)]
    for run in range(plan.restarts if math.isfinite(low.loss) else 0):
        z = _start(around.weights, plan, group, run)
        summit = climb(
            look,
            z,
            p=plan.ball.p,
            rho=plan.ball.rho,
            kind=plan.kind,
            steps=plan.steps,
            step=plan.step,
        )
        summit.z = []  # its height is enough
        summits.append(summit)
    around.back()
    return _compared(low, summits)


def _start(weights: Sequence[Tensor], plan: _Plan, group: int, run: int) -> list[Tensor]:
    if run == 0:
        return [torch.zeros_like(w, dtype=wide_dtype(w.dtype)) for w in weights]
    draw = generator("cpu", "worst sharpness", plan.seed, group, run)
    return uniform_in_ball(weights, plan.ball.p, plan.ball.rho, draw)


def _compared(low: Point, summits: list[Summit]) -> _Found:
    best = max(summits, key=lambda s: s.height)
    heights = sorted((s.height for s in summits[1:]), reverse=True)
    point = best.point or low
    gap = None
    if len(heights) > 1:
        gap = 0.0 if heights[0] == heights[1] else heights[0] - heights[1]
    error = None
    if point.error is not None and low.error is not None:
        error = point.error - low.error
    late = best.height - best.halfway if math.isfinite(best.halfway) else 0.0
    return _Found(
        low,
        rise(low.loss, point.loss),
        gap,
        late,
        error,
        best.radius,
        any(s.blind for s in summits),
    )


def _record(
    found: list[_Found],
    plan: _Plan,
    tolerance: float,
    *,
    definition: str,
    dtype: str,
    seconds: float,
) -> WorstSharpness:
    sizes = [f.low.n for f in found]
    rises = [f.risen for f in found]
    value = mean_of(rises, sizes)
    seen = math.isfinite(value) and not any(f.blind for f in found)
    gaps = [f.gap for f in found if f.gap is not None]
    gap = mean_of(gaps, sizes) if len(gaps) == len(found) else None
    late = mean_of([f.late for f in found], sizes)
    errors = [f.error for f in found if f.error is not None]
    return WorstSharpness(
        name="worst_sharpness",
        value=value,
        definition=definition,
        n=sum(sizes),
        dtype=dtype,
        seconds=seconds,
        uncertainty=standard_error_of(rises, sizes),
        converged=seen and gap is not None and max(gap, late) <= tolerance * value,
        seed=plan.seed if plan.restarts > 1 else None,
        rho=plan.ball.rho,
        m=max(sizes),
        smallest_m=min(sizes),
        groups=len(sizes),
        loss=mean_of([f.low.loss for f in found], sizes),
        error=mean_of(errors, sizes) if len(errors) == len(found) else None,
        restarts=plan.restarts,
        gap=gap,
        late=late,
        radius=mean_of([f.radius for f in found], sizes),
    )
