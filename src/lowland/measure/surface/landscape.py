"""The loss along a line and on a plane through the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.core.restore import preserved
from lowland.measure.evaluation import Batches, Loss, refuse_batch_statistics
from lowland.measure.parameters import chosen_parameters
from lowland.measure.surface.around import Around
from lowland.measure.surface.directions import (
    as_direction,
    check_scaling,
    dot,
    orthogonal_to,
    random_direction,
)
from lowland.measure.surface.survey import BATCH_NORM, READS, Survey, survey

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Landscape(Measurement):
    """The loss on a grid; `value` is the loss at w, the grid's middle.

    `converged`: the value is finite.

    Attributes:
        axes: the coordinates along each direction: one tuple for a line, two for a plane. Symmetric
            about 0, which is in the middle.
        losses: float64, (points,) or (points, points): ``losses[i, j]`` is the mean loss at
            w + axes[0][i]·d1 + axes[1][j]·d2. NaN or infinite where the model diverges.
        errors: share of examples misclassified, on the same grid; None without classes.
        directions: where each direction comes from.
        norms: ‖d‖ of each.
        cosine: between the two directions; None for a line.
        batch_norm: "keep" or "reestimated".
    """

    axes: tuple[tuple[float, ...], ...]
    losses: Array = field(repr=False, compare=False)
    errors: Array | None = field(repr=False, compare=False)
    directions: tuple[str, ...]
    norms: tuple[float, ...]
    cosine: float | None
    batch_norm: str


def loss_line(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    direction: Any = None,
    span: float = 1.0,
    points: int = 21,
    parameters: str | None = None,
    normalization: str = "filter",
    biases: str = "ignore",
    batch_norm: str = "keep",
    reads: str = "once",
    seed: int = 0,
) -> Landscape:
    """L(w + a·d) at `points` values of a from -span to span, with w itself in the middle.

    Everything is as for `loss_plane`.

    Args:
        model, loss_fn, batches: as for `mean_loss`; the model is left exactly as it was.
        direction: None draws one (`random_direction`); otherwise what `as_direction` takes, used as
            given: an eigenvector of the Hessian, a mapping by name, `direction_towards` a
            checkpoint.
        span: largest a, in units of d.
        points: how many, an odd number.
        parameters: glob: move these alone; None for all, frozen ones too.
        normalization, biases, seed: of a direction that is drawn.
        batch_norm: "keep" or "reestimated".
        reads: "once" or "every point".

    Raises:
        InputError: as `loss_plane`.
    """
    given = None if direction is None else [direction]
    grid = _Grid([span], [points])
    return _landscape(
        "loss_line",
        model,
        loss_fn,
        batches,
        grid,
        _Asked(given, parameters, normalization, biases, seed, False),
        batch_norm,
        reads,
    )


def loss_plane(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    directions: Sequence[Any] | None = None,
    span: float | tuple[float, float] = 1.0,
    points: int | tuple[int, int] = 21,
    parameters: str | None = None,
    normalization: str = "filter",
    biases: str = "ignore",
    orthogonal: bool = False,
    batch_norm: str = "keep",
    reads: str = "once",
    seed: int = 0,
) -> Landscape:
    """L(w + a·d1 + b·d2) on a grid of a and b, each from -span to span, w itself in the middle.

    Eval mode; every example counts once; every point starts from the same copy of w. The two
    directions drawn by default are filter-normalised Gaussians (Li et al. 2018, arXiv 1712.09913),
    nearly orthogonal in many dimensions; the record has their cosine.

    Args:
        model: called as ``model(inputs)``; left exactly as it was.
        loss_fn: ``loss_fn(outputs, targets)``: losses (b,) or their mean, never their sum.
        batches: pairs (inputs, targets), moved to the model's device.
        directions: None draws two; otherwise two of what `as_direction` takes, used as given:
            eigenvectors of the Hessian, `trajectory_directions`, `direction_towards` checkpoints.
        span: largest coordinate, in units of the directions; one number or one for each.
        points: along each direction, an odd number: an even one would leave w off the grid.
        parameters: glob: move these alone; None for all, frozen ones too.
        normalization: "filter", "layer" or "none", of directions that are drawn.
        biases: "ignore" or "keep", of directions that are drawn.
        orthogonal: take the part of d2 that is orthogonal to d1; its filters then have no longer
            exactly the norms of the weights'.
        batch_norm: "keep" uses the running statistics of w everywhere; "reestimated" estimates them
            at every point, w included, in a pass of its own (`reestimate`).
        reads: "once" reads the data once, with all points for each batch; "every point" reads them
            for each point, with the weights moved once for each. The numbers are the same.
        seed: of directions that are drawn.

    Cost: one forward pass over the data for each point (two if re-estimated). Moving the weights
    reads and writes a copy of the parameters per direction, for each point and batch if the data
    are read once. Memory: three copies of the weights beside the
    model's own, and each direction.

    Raises:
        InputError: an even number of points, options that make no sense, directions of other
            shapes, no examples, a loss of the wrong shape, BatchNorm without running statistics,
            or data that shuffle and are read more than once.
    """
    if directions is not None and len(directions) != 2:
        raise InputError(f"directions: {len(directions)}; give two, or None to draw them")
    grid = _Grid(_pair(span, "span"), _pair(points, "points"))
    return _landscape(
        "loss_plane",
        model,
        loss_fn,
        batches,
        grid,
        _Asked(directions, parameters, normalization, biases, seed, orthogonal),
        batch_norm,
        reads,
    )


def _pair(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        return [value, value]
    if len(value) != 2:
        raise InputError(f"{name}: {value!r}; give one number, or one for each direction")
    return list(value)


class _Grid:
    """Coordinates about 0."""

    def __init__(self, spans: Sequence[float], points: Sequence[int]) -> None:
        self.axes = tuple(centered(span, n) for span, n in zip(spans, points, strict=True))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(len, self.axes))

    def coordinates(self) -> list[tuple[float, ...]]:
        """All points, the last axis fastest."""
        found: list[tuple[float, ...]] = [()]
        for axis in self.axes:
            found = [(*head, a) for head in found for a in axis]
        return found


def centered(span: float, points: int) -> tuple[float, ...]:
    """span·i/h for i = -h..h, h = (points - 1)/2: symmetric to the bit, with 0 in the middle.

    >>> centered(1.0, 5)
    (-1.0, -0.5, 0.0, 0.5, 1.0)
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 3:
        raise InputError(f"points: {points!r}; give an odd whole number from 3 on")
    if points % 2 == 0:
        raise InputError(
            f"points: {points} is even, so that the middle would fall between points and the "
            f"weights themselves off the grid; give {points + 1}"
        )
    if isinstance(span, bool) or not (math.isfinite(span) and span > 0):
        raise InputError(f"span: {span!r}; give a finite number above 0")
    half = points // 2
    return tuple(span * i / half for i in range(-half, half + 1))


@dataclass(frozen=True, eq=False)
class _Asked:
    """Directions as asked for."""

    given: Sequence[Any] | None
    parameters: str | None
    normalization: str
    biases: str
    seed: int
    orthogonal: bool

    def make(
        self, model: nn.Module, named: dict[str, nn.Parameter], count: int
    ) -> tuple[list[list[Tensor | None]], tuple[str, ...]]:
        """Their parts and their words."""
        check_scaling(self.normalization, self.biases)
        if self.given is None:
            found = [
                random_direction(
                    model,
                    parameters=self.parameters,
                    normalization=self.normalization,
                    biases=self.biases,
                    seed=self.seed,
                    number=i,
                )
                for i in range(count)
            ]
        else:
            found = [as_direction(model, given, self.parameters) for given in self.given]
        parts = [direction.parts(named) for direction in found]
        words = [direction.words for direction in found]
        if self.orthogonal:
            parts[1] = orthogonal_to(parts[1], parts[0])
            words[1] += ", its part orthogonal to the first"
        return parts, tuple(words)


def _landscape(
    name: str,
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    grid: _Grid,
    asked: _Asked,
    batch_norm: str,
    reads: str,
) -> Landscape:
    start = time.perf_counter()
    if batch_norm not in BATCH_NORM:
        raise unknown("batch_norm", batch_norm, BATCH_NORM)
    if reads not in READS:
        raise unknown("reads", reads, READS)
    with preserved(model), torch.inference_mode(False), torch.no_grad():
        model.eval()
        refuse_batch_statistics(model)
        named = chosen_parameters(model, asked.parameters, frozen=True)
        parts, words = asked.make(model, named, len(grid.axes))
        norms = tuple(math.sqrt(dot(part, part)) for part in parts)
        around = Around(list(named.values()))

        def stand(point: tuple[float, ...]) -> bool:
            around.put(*zip(point, parts, strict=True))
            return True

        found = survey(
            Survey(model, loss_fn, batches, batch_norm, reads), grid.coordinates(), stand
        )
        losses = np.array(found.losses).reshape(grid.shape)
        cosine = None
        if len(parts) == 2:
            product = norms[0] * norms[1]
            cosine = dot(*parts) / product if product else math.nan
    middle = tuple(n // 2 for n in grid.shape)
    return Landscape(
        name=name,
        value=float(losses[middle]),
        definition=_definition(grid, words, asked.parameters, batch_norm),
        n=found.n,
        dtype=str(around.weights[0].dtype).removeprefix("torch."),
        seconds=time.perf_counter() - start,
        converged=math.isfinite(losses[middle]),
        seed=asked.seed if asked.given is None else None,
        axes=grid.axes,
        losses=losses,
        errors=None if found.errors is None else np.array(found.errors).reshape(grid.shape),
        directions=words,
        norms=norms,
        cosine=cosine,
        batch_norm=batch_norm,
    )


def _definition(grid: _Grid, words: Sequence[str], parameters: str | None, batch_norm: str) -> str:
    line = len(words) == 1
    place = "w + a d" if line else "w + a d1 + b d2"
    each = words[0] if line else "; ".join(f"d{i + 1}: {w}" for i, w in enumerate(words))
    where = "all parameters" if parameters is None else parameters
    statistics = (
        "running statistics of w"
        if batch_norm == "keep"
        else "statistics re-estimated at each point"
    )
    size = "x".join(map(str, grid.shape))
    return (
        f"mean loss over examples at {place} on a centred grid of {size}, eval mode, {where}, "
        f"{statistics}; {each}"
    )
