"""The density of the Hessian's eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.measure.curvature.bounds import PROBABILITY, both_bounds
from lowland.measure.curvature.eigenvalues import symmetric
from lowland.measure.curvature.krylov import KrylovSpace, NotFiniteError, Symmetric
from lowland.measure.curvature.operator import HessianOperator, ProductOptions
from lowland.measure.curvature.subject import Matrix
from lowland.measure.evaluation import Batches, Loss

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
WIDTH = 0.01
MARGIN = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class HessianDensity(Measurement):
    """The spectral density; `value` is the mean eigenvalue tr A/d, `uncertainty` its error.

    Attributes:
        nodes: (probes, steps): Ritz values of each probe, ascending.
        weights: (probes, steps): the share of eigenvalues that each stands for; rows sum to 1.
        grid: (points,): where the density is given.
        density: (points,): it integrates to 1.
        density_error: (points,): its standard error over probes.
        width: standard deviation of the Gaussian that stands for a node.
        mean_square: mean of λ², that is ‖A‖_F²/d.
        mean_square_error: its standard error.
        low: no eigenvalue is below this, with 99% probability.
        high: none is above this, with 99% probability.
        products: vectors that the matrix was multiplied with.
        size: rows of the matrix.
    """

    nodes: Numbers
    weights: Numbers
    grid: Numbers
    density: Numbers
    density_error: Numbers
    width: float
    mean_square: float
    mean_square_error: float
    low: float
    high: float
    products: int
    size: int

    def share_below(self, value: float) -> tuple[float, float]:
        """Bounds on the share of eigenvalues below `value`, as far as the probes tell it.

        Gauss quadrature bounds the distribution of each probe between its nodes (Chebyshev, Markov
        and Stieltjes): at least the weights of all nodes below but the last, at most those and the
        next. The ends are the means over probes; that these stand for the whole matrix is a matter
        of `probes` and the size, not of the bounds.
        """
        below = (self.nodes < value).sum(1)
        sums = np.concatenate([np.zeros((len(self.nodes), 1)), self.weights.cumsum(1)], axis=1)
        rows = np.arange(len(sums))
        steps = self.nodes.shape[1]
        low = np.where(below == steps, sums[rows, below], sums[rows, np.maximum(below - 1, 0)])
        high = np.where(below == 0, 0.0, sums[rows, np.minimum(below + 1, steps)])
        first, last = value <= self.low, value > self.high
        inside = (float(low.mean()), float(high.mean()))
        return (0.0, 0.0) if first else (1.0, 1.0) if last else inside


def hessian_density(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    matrix: Matrix = "hessian",
    parameters: str | None = None,
    probes: int = 5,
    steps: int = 40,
    width: float | None = None,
    points: int = 512,
    seed: int = 0,
    **options: Unpack[ProductOptions],
) -> HessianDensity:
    """ρ(x) = (1/d) Σ_i δ(x - λ_i), each eigenvalue widened to a Gaussian, without knowing any λ_i.

    For a unit vector v, Lanczos with full reorthogonalisation gives nodes θ_j and weights w_j with
    Σ_j w_j·f(θ_j) = vᵀf(A)v for all polynomials f up to degree 2·steps - 1. For v uniform on the
    sphere the mean of that is Σ_i f(λ_i)/d. Mean and mean square of the eigenvalues are therefore
    exact for the probes, and have their standard errors.

    Args:
        model: called as ``model(inputs)``; left as it was.
        loss_fn: ``loss_fn(outputs, targets)``: losses (b,) or their mean, never their sum.
        batches: pairs (inputs, targets), the same in every pass; see `HessianOperator`.
        matrix: "hessian" or "ggn".
        parameters: glob over names of parameters and modules: the block of the matrix that belongs
            to them; None for all that require gradients.
        probes: vectors v, at least 2.
        steps: of Lanczos for each.
        width: of the Gaussian; None for 1% of the range of the nodes and 0.
        points: of the grid.
        seed: of the vectors v.
        options: `dtype`, `compile`, `graph_bytes` and `check` of `HessianOperator`.

    Cost: probes·steps products; memory for `steps` vectors.

    Source: S. Ubaru, J. Chen, Y. Saad, Fast estimation of tr(f(A)) via stochastic Lanczos
    quadrature, 2017; B. Ghorbani, S. Krishnan, Y. Xiao, An investigation into neural net
    optimization via Hessian eigenvalue density, 2019.

    Raises:
        InputError: fewer than two probes, steps or points, a width that is not positive, or what
            `HessianOperator` raises.
    """
    start = time.perf_counter()
    if min(probes, steps, points) < 2:
        raise InputError(
            f"probes={probes}, steps={steps}, points={points}: give at least 2 of each"
        )
    if width is not None and not (math.isfinite(width) and width > 0):
        raise InputError(f"width: {width!r}; give a positive number")
    operator = HessianOperator(
        model, loss_fn, batches, matrix=matrix, parameters=parameters, **options
    )
    with operator:
        draws = torch.Generator().manual_seed(seed)
        found = _quadratures(symmetric(operator), operator.finite, probes, steps, draws)
        width, grid, curves = _curves(found, width, points)
        mean, mean_error = _mean((found.weights * found.nodes).sum(1))
        square, square_error = _mean((found.weights * found.nodes**2).sum(1))
        return HessianDensity(
            name="hessian_density",
            value=mean,
            definition=(
                f"density of the eigenvalues of the {operator.words}; {probes} probes of "
                f"{found.nodes.shape[1]} Lanczos steps, Gaussians of width {width:.3g}; value: "
                "mean eigenvalue"
            ),
            n=operator.n,
            dtype=str(operator.dtype).removeprefix("torch."),
            seconds=time.perf_counter() - start,
            uncertainty=mean_error,
            converged=math.isfinite(mean),
            seed=seed,
            nodes=found.nodes,
            weights=found.weights,
            grid=grid,
            density=curves.mean(0),
            density_error=curves.std(0, ddof=1) / math.sqrt(probes),
            width=width,
            mean_square=square,
            mean_square_error=square_error,
            low=found.low,
            high=found.high,
            products=operator.products,
            size=operator.size,
        )


@dataclass(frozen=True, eq=False)
class _Quadratures:
    nodes: Numbers
    weights: Numbers
    low: float
    high: float


def _quadratures(
    matrix: Symmetric, finite: bool, probes: int, steps: int, draws: torch.Generator
) -> _Quadratures:
    nodes, weights, ends = [], [], []
    share = 1 - (1 - PROBABILITY) / probes  # the tightest of several bounds
    try:
        if not finite:
            raise NotFiniteError
        for _ in range(probes):
            space = KrylovSpace(matrix, min(steps, matrix.size), 1, draws)
            lengths = []
            while space.filled < space.capacity:
                space.expand()
                lengths.append(space.step_length())
            ritz = space.ritz()
            nodes.append(ritz.values.numpy())
            weights.append(ritz.vectors[0].square().numpy())
            ends.append(both_bounds(ritz.values, lengths, matrix.size, share))
    except NotFiniteError:
        nowhere = np.full((probes, 2), math.nan)
        return _Quadratures(nowhere, nowhere, math.nan, math.nan)
    low, high = max(low for low, _ in ends), min(high for _, high in ends)
    return _Quadratures(np.stack(nodes), np.stack(weights), low, high)


def _curves(
    found: _Quadratures, width: float | None, points: int
) -> tuple[float, Numbers, Numbers]:
    """The width, the grid, and the density of each probe on it (probes, points)."""
    low, high = float(found.nodes.min()), float(found.nodes.max())
    span = high - low
    if width is None:
        width = WIDTH * (max(span, abs(low), abs(high)) or 1.0)
    edge = MARGIN * span + 4 * width
    grid = np.linspace(low - edge, high + edge, points)
    apart = (grid[None, :, None] - found.nodes[:, None, :]) / width
    bells = np.exp(-0.5 * apart**2) / (width * math.sqrt(2 * math.pi))
    return width, grid, (bells * found.weights[:, None, :]).sum(2)


def _mean(values: Numbers) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
