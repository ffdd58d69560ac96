"""Moments of the examples' Hessians where training arrives: the experiment and its matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from lowland.measure.curvature import ExampleHessians, sam_stability
from lowland.measure.curvature.moment_matrices import dense_moments
from lowland.studies.minima.networks import (
    INPUTS,
    Problem,
    Shape,
    Trained,
    draw,
    interpolate,
    train,
)
from lowland.studies.minima.stability import bounds, excess, published, within

Row = dict[str, float | int]

ORDERS = (2, 3, 4)
EXACT = 1e-20
"""Mean losses below are rounding."""


def matrices(shape: Shape, point: Tensor, problem: Problem) -> dict[int, Tensor]:
    """M_1 = H, M_2, M_3, M_4: means of powers of the examples' Hessians, exact, in float64."""
    with ExampleHessians(shape.network(point), _loss, _data(problem)) as examples:
        return dense_moments(examples, ORDERS)


def spectra(moments: Mapping[int, Tensor]) -> dict[str, float]:
    """λ_max(H), and of M_k − H^k the largest eigenvalue with its sign and the largest in size.

    M_2 − H² is positive semidefinite; for k = 3, 4 there may be negative eigenvalues.
    """
    h = moments[1]
    found = {"largest": float(torch.linalg.eigvalsh(h)[-1])}
    for k in ORDERS:
        values = torch.linalg.eigvalsh(moments[k] - torch.linalg.matrix_power(h, k))
        found[f"moment/{k}"] = float(values[-1])
        found[f"size/{k}"] = float(values.abs().max())
        found[f"least/{k}"] = float(values[0])
    return found


def minima(
    *,
    seed: int,
    rho: float,
    count: int,
    method: str,
    radii: Sequence[float],
    units: int,
    examples: int,
    steps: int,
    lr: float,
    level: float,
    every: int,
) -> Iterator[Row]:
    """Rows over training; the last row of a run has the moments, exact, at three places.

    ``level/...``: at the first evaluation at or below a loss that all ρ of the seed reach: `level`,
    or the lowest that all do where that is higher. ``end/...``: at the end. ``fit/...``: at the
    minimum next to the end that fits every example (`interpolate`), where all losses are 0 and the
    step is linear. Of that minimum, for the η and ρ of the run: ``excess``, the largest eigenvalue
    of E(I − ηH_i − ηρH_i²)² minus 1; ``range``, the same on the span of the examples' gradients,
    outside of which nothing moves; ``identity``, how far the published form of the matrix is off;
    and each published quantity over its bound.

    Args:
        seed: the first seed.
        rho: not used; the radii are.
        count: seeds from the first one on.
        method: "sam", or "usam", whose condition it is.
        radii: ρ; 0 is SGD.
        units, examples: m and n.
        steps: one example each.
        lr: η, constant.
        level: of the mean loss over all examples.
        every: steps between two evaluations.
    """
    shape = Shape(INPUTS, units)
    seeds = range(seed, seed + count)
    problems = [draw(one, shape, examples, steps) for one in seeds]
    share = float(method == "sam")
    trained = train(shape, problems, [(r, share) for r in radii], lr=lr, every=every)
    for i, (one, problem) in enumerate(zip(seeds, problems, strict=True)):
        places = range(i * len(radii), (i + 1) * len(radii))
        common = common_loss(trained.losses[:, list(places)], level)
        for radius, place in zip(radii, places, strict=True):
            head: Row = {"rho": radius, "seed": one}
            yield from _curve(head, trained, place)
            yield _last(head, trained, place, shape, problem, lr=lr, level=common)


def common_loss(losses: Tensor, level: float) -> float:
    """`level`, or the largest of the runs' lowest losses (evaluations, runs) if that is higher.

    Runs that diverged have none and do not count.
    """
    lowest = losses.nan_to_num(nan=math.inf).amin(0)
    reached = lowest[lowest.isfinite()]
    return max(level, float(reached.max())) if len(reached) else level


def _curve(head: Row, trained: Trained, place: int) -> Iterator[Row]:
    losses = trained.losses[:, place].tolist()
    for k in range(0, len(losses) - 1, max(1, len(losses) // 10)):
        yield {**head, "step": trained.steps[k], "loss": losses[k]}


def _last(
    head: Row,
    trained: Trained,
    place: int,
    shape: Shape,
    problem: Problem,
    *,
    lr: float,
    level: float,
) -> Row:
    losses = trained.losses[:, place].tolist()
    row: Row = {**head, "step": trained.steps[-1], "loss": losses[-1]}
    reached = [k for k, loss in enumerate(losses) if loss <= level]
    if reached:
        first = reached[0]
        row |= _named("level", spectra(matrices(shape, trained.points[first, place], problem)))
        row |= {"level/step": trained.steps[first], "level/loss": losses[first]}
    if not math.isfinite(losses[-1]):
        return row
    end = trained.points[-1, place]
    row |= _named("end", spectra(matrices(shape, end, problem)))
    return row | at_fit(shape, interpolate(shape, end, problem), problem, lr, float(head["rho"]))


def at_fit(shape: Shape, point: Tensor, problem: Problem, lr: float, rho: float) -> Row:
    """What `minima` says of a minimum that fits every example."""
    left = shape.outputs(point[None], problem.x[None])[0] - problem.y
    row: Row = {"fit/loss": float(left.square().mean() / 2)}
    if not row["fit/loss"] < EXACT:
        return row
    moments = matrices(shape, point, problem)
    record = sam_stability(
        shape.network(point), _loss, _data(problem), lr=lr, rho=rho, method="dense"
    )
    row |= _named("fit", spectra(moments)) | {"excess": record.excess}
    basis = torch.linalg.qr(shape.jacobian(point, problem.x).T)[0]
    row["range"] = excess(within(moments, basis), lr=lr, rho=rho)
    said = torch.linalg.eigvalsh(published(moments, lr=lr, rho=rho))[-1]
    row["identity"] = float(said) - 1 - record.excess
    spread = max(float(row["fit/moment/2"]), 0.0) ** 0.5
    return row | _named("bound", bounds(moments, lr=lr, rho=rho)) | {"bound/spread": lr * spread}


def _named(prefix: str, values: Mapping[str, float]) -> Row:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _data(problem: Problem) -> list[tuple[Tensor, Tensor]]:
    return [(problem.x, problem.y[:, None])]


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """½(f − y)², one for each example."""
    return mse_loss(outputs, targets, reduction="none")[:, 0] / 2
