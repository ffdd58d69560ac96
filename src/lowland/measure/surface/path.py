"""The loss along a path between two checkpoints, and the barrier on it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, unknown
from lowland.core.perturbation import wide_dtype
from lowland.core.records import Measurement
from lowland.core.restore import preserved
from lowland.measure.evaluation import Batches, Loss, refuse_batch_statistics
from lowland.measure.parameters import chosen_parameters
from lowland.measure.surface.batch_statistics import batch_norms
from lowland.measure.surface.checkpoints import (
    Checkpoint,
    buffers_of,
    parameters_of,
    stored_buffers,
)
from lowland.measure.surface.directions import dot, squared_distance
from lowland.measure.surface.survey import BATCH_NORM, Seen, Survey, survey

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class WeightPath(Measurement):
    """The loss along a path; `value` is its barrier.

    Attributes:
        kind: "linear" or "bezier".
        alphas: where the path was looked at, from 0 (the start) to 1 (the end).
        losses: float64, mean loss at each.
        errors: share of examples misclassified at each; None without classes.
        barrier: max_α L(α) - ((1-α)·L(0) + α·L(1)), Entezari et al. 2022 (arXiv 2110.06296); the
            same as `value`. Over the points looked at, ends included, so never below 0.
        barrier_over_mean: max_α L(α) - (L(0) + L(1))/2, Frankle et al. 2020 (arXiv 1912.05671).
        error_barrier, error_barrier_over_mean: the same of the errors; None without classes.
        highest: α where the barrier is.
        distance: ‖w_1 - w_0‖ over the parameters that move.
        cosine: between w_0 and w_1.
        batch_norm: "reestimated" or "keep".
        steps: of training, for a curve; 0 for a line.
        bend: the trained middle of a curve, by name; not in `to_dict`.
    """

    kind: str
    alphas: tuple[float, ...]
    losses: Array = field(repr=False, compare=False)
    errors: Array | None = field(repr=False, compare=False)
    barrier: float
    barrier_over_mean: float
    error_barrier: float | None
    error_barrier_over_mean: float | None
    highest: float
    distance: float
    cosine: float
    batch_norm: str
    steps: int = 0
    bend: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain Python values, without the weights of the bend."""
        return {name: value for name, value in super().to_dict().items() if name != "bend"}


def linear_path(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    end: Checkpoint,
    *,
    start: Checkpoint | None = None,
    points: int = 11,
    parameters: str | None = None,
    batch_norm: str = "reestimated",
) -> WeightPath:
    """L((1-α)·w_0 + α·w_1) for α from 0 to 1, eval mode: linear mode connectivity.

    Checkpoints are taken as they are: hidden units that could be permuted to match are not matched,
    so a barrier between independently trained networks may be one of naming alone.

    Between the ends BatchNorm's running statistics are re-estimated from the data (`reestimate`);
    the ends keep theirs. Other floating-point buffers are interpolated, whole numbers are the
    start's.

    Args:
        model: the start, unless `start` is given; left exactly as it was.
        loss_fn: ``loss_fn(outputs, targets)``: losses (b,) or their mean, never their sum.
        batches: pairs (inputs, targets), read several times.
        end: a model or a state dict.
        start: a model or a state dict, in place of the model's own weights.
        points: values of α, evenly spaced, both ends among them.
        parameters: glob: these alone go to the end, the rest stays at the start (layerwise
            connectivity); BatchNorm's statistics are then re-estimated at α = 1 too. None for all.
        batch_norm: "reestimated"; "keep" interpolates the running statistics like other buffers.

    Cost: `points` forward passes over the data, nearly twice that with BatchNorm; four copies of
    the weights beside the model's own and the end's.

    Raises:
        InputError: names or shapes that differ, options that make no sense, no examples, a loss of
            the wrong shape, BatchNorm without running statistics, or shuffled data.
    """
    began = time.perf_counter()
    ends = Ends(model, start, end, parameters, batch_norm, points)
    with preserved(model), torch.inference_mode(False), torch.no_grad():
        model.eval()
        refuse_batch_statistics(model)
        seen = ends.survey(loss_fn, batches, ends.line)
    return record_of(ends, seen, kind="linear", seconds=time.perf_counter() - began)


Route = Callable[[str, float], Tensor]
"""(name of a parameter, α) -> its value there."""


class Ends:
    """Two checkpoints of one network, and standing between them.

    Attributes:
        first, last: the parameters that move, by name, in float32 at least.
        whole: whether all do.
        alphas: where to look.
    """

    def __init__(
        self,
        model: nn.Module,
        start: Checkpoint | None,
        end: Checkpoint,
        parameters: str | None,
        batch_norm: str,
        points: int,
    ) -> None:
        if batch_norm not in BATCH_NORM:
            raise unknown("batch_norm", batch_norm, BATCH_NORM)
        if isinstance(points, bool) or not isinstance(points, int) or points < 2:
            raise InputError(f"points: {points!r}; give a whole number from 2 on")
        self.model, self.batch_norm, self.parameters = model, batch_norm, parameters
        origin: Checkpoint = model if start is None else start
        self._params = chosen_parameters(model, None, frozen=True)
        chosen = chosen_parameters(model, parameters, frozen=True)
        ours, theirs = parameters_of(model, origin, "start"), parameters_of(model, end, "end")
        self._still = _own({n: t for n, t in ours.items() if n not in chosen})
        self.first = {n: _wide(ours[n], p) for n, p in chosen.items()}
        self.last = {n: _wide(theirs[n], p) for n, p in chosen.items()}
        self._buffers = stored_buffers(model)
        self._first_buffers = _own(buffers_of(model, origin, "start"))
        self._last_buffers = _own(buffers_of(model, end, "end"))
        self.whole = len(chosen) == len(self._params)
        self.alphas = tuple(i / (points - 1) for i in range(points))

    def line(self, name: str, alpha: float) -> Tensor:
        """(1-α)·w_0 + α·w_1, exactly w_0 and w_1 at the ends."""
        return torch.lerp(self.first[name], self.last[name], alpha)

    def survey(self, loss_fn: Loss, batches: Batches, route: Route) -> Seen:
        """The loss at every α; inside `preserved`."""

        def stand(alpha: float) -> bool:
            self.stand(alpha, route)
            return 0 < alpha < 1 or (alpha == 1 and not self.whole)

        asked = Survey(self.model, loss_fn, batches, self.batch_norm, "every point")
        return survey(asked, self.alphas, stand)

    def stand(self, alpha: float, route: Route) -> None:
        """Weights and buffers at α."""
        for name, parameter in self._params.items():
            moves = name in self.first
            parameter.data.copy_(route(name, alpha) if moves else self._still[name])
        self._stand_buffers(alpha if self.whole else 0.0)

    def _stand_buffers(self, alpha: float) -> None:
        for name, buffer in self._buffers.items():
            first, last = self._first_buffers[name], self._last_buffers[name]
            if buffer.is_floating_point():
                wide = wide_dtype(buffer.dtype)
                first, last = first.to(buffer.device, wide), last.to(buffer.device, wide)
                first = torch.lerp(first, last, alpha)
            buffer.data.copy_(first)

    @property
    def moving(self) -> dict[str, nn.Parameter]:
        """The model's own parameters that move, by name."""
        return {name: self._params[name] for name in self.first}

    @property
    def distance(self) -> float:
        """‖w_1 - w_0‖."""
        return math.sqrt(squared_distance(list(self.first.values()), list(self.last.values())))

    @property
    def cosine(self) -> float:
        """Between w_0 and w_1; NaN where one is 0."""
        first, last = list(self.first.values()), list(self.last.values())
        product = math.sqrt(dot(first, first)) * math.sqrt(dot(last, last))
        return dot(first, last) / product if product else math.nan


def _wide(tensor: Tensor, parameter: Tensor) -> Tensor:
    return tensor.detach().to(parameter.device, wide_dtype(parameter.dtype), copy=True)


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in tensors.items()}


def barriers(alphas: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """The highest point over the chord, over the mean of the ends, and where the first is.

    Infinite and NaN values in between make the barrier infinite; ends that are not finite make it
    NaN.

    >>> barriers([0.0, 0.5, 1.0], [1.0, 4.0, 3.0])
    (2.0, 2.0, 0.5)
    """
    first, last = values[0], values[-1]
    if not (math.isfinite(first) and math.isfinite(last)):
        return math.nan, math.nan, math.nan
    known = [math.inf if math.isnan(v) else v for v in values]
    over = [v - ((1 - a) * first + a * last) for a, v in zip(alphas, known, strict=True)]
    over[0] = over[-1] = 0.0  # by definition; the arithmetic may be an ulp off
    height = max(over)
    return height, max(known) - (first + last) / 2, alphas[over.index(height)]


def record_of(
    ends: Ends,
    seen: Seen,
    *,
    kind: str,
    seconds: float,
    steps: int = 0,
    seed: int | None = None,
    bend: Mapping[str, Tensor] | None = None,
) -> WeightPath:
    """What was seen between two ends."""
    barrier, over_mean, highest = barriers(ends.alphas, seen.losses)
    of_errors = None if seen.errors is None else barriers(ends.alphas, seen.errors)
    anew = ends.batch_norm == "reestimated" and bool(batch_norms(ends.model))
    curve = "(1-a) w0 + a w1" if kind == "linear" else "(1-a)^2 w0 + 2a(1-a) bend + a^2 w1"
    return WeightPath(
        name=f"{kind}_path",
        value=barrier,
        definition=(
            f"max over {len(ends.alphas)} points a in [0, 1] of L(a) - ((1-a) L(0) + a L(1)) along "
            f"{curve}, eval mode, "
            f"{'all parameters' if ends.parameters is None else ends.parameters}, "
            f"{'statistics re-estimated between the ends' if anew else 'buffers interpolated'}, "
            "units not permuted"
        ),
        n=seen.n,
        dtype=str(next(ends.model.parameters()).dtype).removeprefix("torch."),
        seconds=seconds,
        converged=math.isfinite(barrier),
        seed=seed,
        kind=kind,
        alphas=ends.alphas,
        losses=np.array(seen.losses),
        errors=None if seen.errors is None else np.array(seen.errors),
        barrier=barrier,
        barrier_over_mean=over_mean,
        error_barrier=None if of_errors is None else of_errors[0],
        error_barrier_over_mean=None if of_errors is None else of_errors[1],
        highest=highest,
        distance=ends.distance,
        cosine=ends.cosine,
        batch_norm=ends.batch_norm,
        steps=steps,
        bend=bend,
    )
