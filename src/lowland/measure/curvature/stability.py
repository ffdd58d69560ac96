"""Whether unnormalised SAM with one example per step stays at a minimum: the linear condition."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Unpack

from torch import nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.measure.curvature.krylov import NotFiniteError
from lowland.measure.curvature.moment_matrices import (
    NOWHERE,
    Method,
    dense_step,
    dense_top,
    is_dense,
    lanczos,
    step_matrix,
    top,
)
from lowland.measure.curvature.per_example import ExampleHessians, ExampleOptions
from lowland.measure.evaluation import Batches, Loss


@dataclass(frozen=True, kw_only=True)
class SAMStability(Measurement):
    """λ_max E(I - ηH_i - ηρH_i²)²; `uncertainty` is its residual.

    Attributes:
        lr: η.
        rho: ρ.
        excess: λ_max - 1, computed as such.
        stable: whether it is not above 0 by more than the tolerance; None if Lanczos stopped early.
        dense: whether the matrix itself was made.
        passes: products per example.
        size: weights.
    """

    lr: float
    rho: float
    excess: float
    stable: bool | None
    dense: bool
    passes: float
    size: int


def sam_stability(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    lr: float,
    rho: float,
    parameters: str | None = None,
    method: Method = "auto",
    tolerance: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
    **options: Unpack[ExampleOptions],
) -> SAMStability:
    """λ_max of E(I - ηH_i - ηρH_i²)²: at most 1 if unnormalised SAM is linearly stable there.

    The linearised step at a minimum that fits every example, with one example i per step and
    ε = ρ·∇ℓ_i, is w -> (I - ηH_i - ηρH_i²)·w around it. If the largest eigenvalue is at most 1
    then E‖w‖² does not grow from step to step: enough for stability, and necessary with one weight.
    ρ = 0 is SGD. With more weights than examples there are directions in which nothing happens, so
    that the largest eigenvalue is never below 1.

    Args:
        model: called as ``model(inputs)``; left as it was.
        loss_fn: as for `hessian_moments`.
        batches: pairs (inputs, targets), the same in every pass.
        lr: η, positive.
        rho: ρ of ε = ρ·g without normalisation, at least 0.
        parameters: glob: only these weights move; None for all that require gradients.
        method: as for `hessian_moments`.
        tolerance: residual relative to the excess, or to 1% of the matrix's norm less 1.
        max_products: of Lanczos.
        seed: of start vectors.
        options: `dtype`, `check` and `vectorised` of `ExampleHessians`.

    Cost: four products per example for each product of Lanczos; dense as for `hessian_moments`.

    Source: arXiv 2311.17539.

    Raises:
        InputError: a learning rate that is not positive, a negative ρ, or what `hessian_moments`
            raises.
    """
    start = time.perf_counter()
    if not (math.isfinite(lr) and lr > 0 and math.isfinite(rho) and rho >= 0):
        raise InputError(f"lr={lr!r}, rho={rho!r}: give a positive learning rate and rho from 0 on")
    search = lanczos(tolerance, max_products)
    with ExampleHessians(model, loss_fn, batches, parameters=parameters, **options) as examples:
        size = examples.layout.size
        dense = is_dense(method, size)
        try:
            if not examples.finite:
                raise NotFiniteError
            if dense:
                found = dense_top(dense_step(examples, lr, rho))
            else:
                found = top(step_matrix(examples, lr, rho), search, seed)
        except NotFiniteError:
            found = NOWHERE
        over = "all parameters" if parameters is None else parameters
        return SAMStability(
            name="sam_stability",
            value=1 + found.value,
            definition=(
                f"largest eigenvalue of E(I - {lr:g} H_i - {lr * rho:g} H_i^2)^2 over examples i, "
                f"in eval mode over {over}"
            ),
            n=examples.n,
            dtype="float64" if dense else str(examples.layout.dtype).removeprefix("torch."),
            seconds=time.perf_counter() - start,
            uncertainty=found.residual,
            converged=found.converged,
            seed=None if dense else seed,
            lr=lr,
            rho=rho,
            excess=found.value,
            stable=found.value <= found.slack if found.converged else None,
            dense=dense,
            passes=examples.products,
            size=size,
        )
