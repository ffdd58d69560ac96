"""How unlike the Hessians of single examples are: the largest eigenvalues of M_k - H^k."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.measure.curvature.krylov import NotFiniteError
from lowland.measure.curvature.lanczos import Search
from lowland.measure.curvature.moment_matrices import (
    NOWHERE,
    Method,
    Top,
    dense_moments,
    dense_top,
    is_dense,
    lanczos,
    mean_matrix,
    moment_matrix,
    spread,
    top,
)
from lowland.measure.curvature.per_example import ExampleHessians, ExampleOptions
from lowland.measure.evaluation import Batches, Loss


@dataclass(frozen=True, kw_only=True)
class HessianMoments(Measurement):
    """λ_max(M_k - H^k) for several k; `value` is the first, `uncertainty` its residual.

    Attributes:
        orders: the k.
        top: λ_max(M_k - H^k) for each.
        residuals: ‖A·y - θ·y‖ of each, 0 where the matrices themselves were made.
        converged_each: whether each residual is within the tolerance.
        largest: λ_max(H).
        trace: tr(M_2 - H²) = mean over examples of ‖H_i - H‖_F².
        trace_error: its standard error over probes, 0 where it is exact.
        dense: whether the matrices themselves were made.
        passes: products per example.
        size: weights.
    """

    orders: tuple[int, ...]
    top: tuple[float, ...]
    residuals: tuple[float, ...]
    converged_each: tuple[bool, ...]
    largest: float
    trace: float
    trace_error: float
    dense: bool
    passes: float
    size: int


def hessian_moments(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    orders: Sequence[int] = (2, 3, 4),
    parameters: str | None = None,
    method: Method = "auto",
    tolerance: float = 1e-3,
    max_products: int = 60,
    probes: int = 10,
    seed: int = 0,
    **options: Unpack[ExampleOptions],
) -> HessianMoments:
    """λ_max(M_k - H^k) with M_k = (1/n) Σ_i H_i^k and H_i the Hessian of example i alone, H = M_1.

    All are 0 where every example has the same Hessian. M_2 - H² = (1/n) Σ_i (H_i - H)² is positive
    semidefinite; for k >= 3 M_k - H^k need not be. At an interpolating minimum they bound, with the
    learning rate and ρ, where SGD and SAM are linearly stable (`sam_stability` is the condition
    itself).

    Args:
        model: called as ``model(inputs)``; left as it was.
        loss_fn: losses (b,) or their mean. H_i belongs to the loss of a batch of example i alone; a
            loss whose mean over these is not the batch's own is refused.
        batches: pairs (inputs, targets), the same in every pass.
        orders: the k, at least 2.
        parameters: glob over names of parameters and modules: their blocks of all H_i; None for all
            that require gradients.
        method: "dense" makes every H_i; "products" uses Lanczos; "auto" is dense up to 200 weights.
        tolerance: residual of each eigenvalue, as in `hessian_eigenvalues`.
        max_products: of Lanczos, for each k.
        probes: random signs z for the trace, from mean_i ‖H_i·z‖² - ‖H·z‖²; at least 2.
        seed: of start vectors and probes.
        options: `dtype`, `check` and `vectorised` of `ExampleHessians`.

    Cost: dense: d products per example, and memory of (orders + 4)·d². Products: for each k up to
    `max_products` times 2k - 1 products per example, and one for each probe. A product per example
    costs 2-3 gradients of that example.

    Source: arXiv 2311.17539.

    Raises:
        InputError: orders below 2, an unknown method, too few products or probes, a loss that is no
            mean over examples, or what `HessianOperator` raises of model and data.
    """
    start = time.perf_counter()
    _check(orders, probes)
    search = lanczos(tolerance, max_products)
    with ExampleHessians(model, loss_fn, batches, parameters=parameters, **options) as examples:
        size = examples.layout.size
        dense = is_dense(method, size)
        try:
            if not examples.finite:
                raise NotFiniteError
            if dense:
                found = _written_out(examples, orders)
            else:
                found = _by_products(examples, orders, search, probes, seed)
        except NotFiniteError:
            found = _Moments([NOWHERE] * len(orders), NOWHERE, math.nan, math.nan)
        return HessianMoments(
            name="hessian_moments",
            value=found.tops[0].value,
            definition=_definition(orders[0], parameters, tolerance, dense),
            n=examples.n,
            dtype="float64" if dense else str(examples.layout.dtype).removeprefix("torch."),
            seconds=time.perf_counter() - start,
            uncertainty=found.tops[0].residual,
            converged=all(each.converged for each in [*found.tops, found.largest]),
            seed=None if dense else seed,
            orders=tuple(orders),
            top=tuple(each.value for each in found.tops),
            residuals=tuple(each.residual for each in found.tops),
            converged_each=tuple(each.converged for each in found.tops),
            largest=found.largest.value,
            trace=found.trace,
            trace_error=found.trace_error,
            dense=dense,
            passes=examples.products,
            size=size,
        )


@dataclass(frozen=True)
class _Moments:
    tops: list[Top]
    largest: Top
    trace: float
    trace_error: float


def _by_products(
    examples: ExampleHessians, orders: Sequence[int], search: Search, probes: int, seed: int
) -> _Moments:
    tops = [top(moment_matrix(examples, order), search, seed) for order in orders]
    largest = top(mean_matrix(examples), search, seed)
    return _Moments(tops, largest, *spread(examples, probes, seed))


def _written_out(examples: ExampleHessians, orders: Sequence[int]) -> _Moments:
    means = dense_moments(examples, orders)
    mean = means[1]
    apart = {k: moment - torch.linalg.matrix_power(mean, k) for k, moment in means.items()}
    tops = [dense_top(apart[order]) for order in orders]
    return _Moments(tops, dense_top(mean), float(apart[2].trace()), 0.0)


def _check(orders: Sequence[int], probes: int) -> None:
    if not orders or min(orders) < 2:
        raise InputError(
            f"orders: {tuple(orders)}; give whole numbers from 2 on, such as (2, 3, 4)"
        )
    if probes < 2:
        raise InputError(f"probes: {probes}; a standard error needs at least 2")


def _definition(order: int, parameters: str | None, tolerance: float, dense: bool) -> str:
    over = "all parameters" if parameters is None else parameters
    how = "from the matrices" if dense else f"Lanczos to residuals of {tolerance:g}"
    return (
        f"largest eigenvalue of M_{order} - H^{order}, M_k the mean k-th power of the examples' "
        f"Hessians in eval mode over {over}; {how}"
    )
