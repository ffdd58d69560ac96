"""Matrices made of the Hessians of single examples: by their products, or written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.measure.curvature.krylov import NotFiniteError, Symmetric
from lowland.measure.curvature.lanczos import Search
from lowland.measure.curvature.per_example import ExampleHessians, Hessian

Method = Literal["auto", "dense", "products"]
METHODS = ("auto", "dense", "products")
DENSE = 200
"""Up to so many weights the matrices themselves are made, unless told otherwise."""


@dataclass(frozen=True)
class Top:
    """The largest eigenvalue, its residual, and the residual that was asked for."""

    value: float
    residual: float
    slack: float

    @property
    def converged(self) -> bool:
        """Whether the residual is as small as that; False for NaN."""
        return self.residual <= self.slack


NOWHERE = Top(math.nan, math.nan, math.nan)
"""Of a matrix that is not finite."""


def is_dense(method: Method, size: int) -> bool:
    """Whether the matrices themselves are made.

    Raises:
        InputError: an unknown method.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    return method == "dense" or (method == "auto" and size <= DENSE)


def lanczos(tolerance: float, max_products: int) -> Search:
    """The search for one largest eigenvalue.

    Raises:
        InputError: fewer than four products, or a tolerance that is not positive.
    """
    if max_products < 4:
        raise InputError(f"max_products: {max_products}; give at least 4")
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise InputError(f"tolerance: {tolerance!r}; give a positive number, such as 1e-3")
    return Search(
        k=1,
        which="algebraic",
        tolerance=tolerance,
        max_products=max_products,
        block=1,
        capacity=max_products,
    )


def top(matrix: Symmetric, search: Search, seed: int) -> Top:
    """The largest eigenvalue by Lanczos."""
    pairs, _ = search.outermost(matrix, torch.Generator().manual_seed(seed))
    slack = float(pairs.thresholds(search.tolerance)[0])
    return Top(float(pairs.values[0]), float(pairs.residuals[0]), slack)


def dense_top(matrix: Tensor) -> Top:
    """The largest eigenvalue of a matrix that is there; the slack is rounding."""
    values = torch.linalg.eigvalsh(matrix)
    slack = len(matrix) * torch.finfo(matrix.dtype).eps * float(values.abs().max())
    return Top(float(values[-1]), 0.0, slack)


def power(hessian: Hessian, vector: Tensor, order: int) -> Tensor:
    """H_i^k·v."""
    for _ in range(order):
        vector = hessian(vector)
    return vector


def mean_matrix(examples: ExampleHessians) -> Symmetric:
    """H = M_1 by its products."""
    return _by_rows(examples, lambda row: _mean_product(examples, row))


def moment_matrix(examples: ExampleHessians, order: int) -> Symmetric:
    """M_k - H^k by its products: 2k - 1 products per example for each."""

    def of_row(vector: Tensor) -> Tensor:
        def both(hessian: Hessian) -> Tensor:
            first = hessian(vector)
            return torch.stack([first, power(hessian, first, order - 1)])

        mean, moment = examples.mean(both)
        for _ in range(order - 1):
            mean = _mean_product(examples, mean)
        found: Tensor = moment - mean
        return found

    return _by_rows(examples, of_row)


def _mean_product(examples: ExampleHessians, vector: Tensor) -> Tensor:
    return examples.mean(lambda hessian: hessian(vector))


def step_matrix(examples: ExampleHessians, lr: float, rho: float) -> Symmetric:
    """E(I - A_i)² - I = E(A_i² - 2A_i) with A_i = ηH_i + ηρH_i², by its products.

    Four products per example for each; without the identity, no digits are lost beside it.
    """

    def of_row(vector: Tensor) -> Tensor:
        def of_example(hessian: Hessian) -> Tensor:
            def moved(v: Tensor) -> Tensor:
                bent = hessian(v)
                return lr * (bent + rho * hessian(bent)) if rho else lr * bent

            once = moved(vector)
            return moved(once) - 2 * once

        return examples.mean(of_example)

    return _by_rows(examples, of_row)


def _by_rows(examples: ExampleHessians, of_row: Callable[[Tensor], Tensor]) -> Symmetric:
    layout = examples.layout
    return Symmetric(
        lambda rows: torch.stack([of_row(row) for row in rows]),
        layout.size,
        layout.dtype,
        layout.device,
    )


def dense_moments(examples: ExampleHessians, orders: Sequence[int]) -> dict[int, Tensor]:
    """M_k written out, for k = 1, 2 and the orders, in float64."""
    wanted = sorted({1, 2, *orders})

    def powers(matrix: Tensor) -> Tensor:
        return torch.stack([torch.linalg.matrix_power(matrix, k) for k in wanted])

    return dict(zip(wanted, dense_mean(examples, powers, len(wanted)), strict=True))


def dense_step(examples: ExampleHessians, lr: float, rho: float) -> Tensor:
    """E(I - ηH_i - ηρH_i²)² - I written out, in float64."""

    def step(matrix: Tensor) -> Tensor:
        moved = lr * matrix + lr * rho * (matrix @ matrix)
        return moved @ moved - 2 * moved

    return dense_mean(examples, step, 3)


def dense_mean(
    examples: ExampleHessians, function: Callable[[Tensor], Tensor], held: int
) -> Tensor:
    """(1/n) Σ_i f(H_i) of the matrices themselves, in float64: d products per example.

    Raises:
        NotFiniteError: the result is NaN or infinite.
    """
    layout = examples.layout
    eye = torch.eye(layout.size, dtype=layout.dtype, device=layout.device)

    def of_example(hessian: Hessian) -> Tensor:
        matrix = torch.stack([hessian(row) for row in eye]).double()
        return function((matrix + matrix.mT) / 2)

    found = examples.mean(of_example, held=(held + 2) * layout.size)
    if not bool(torch.isfinite(found).all()):
        raise NotFiniteError
    return found


def spread(examples: ExampleHessians, probes: int, seed: int) -> tuple[float, float]:
    """tr(M_2 - H²) = E zᵀ(M_2 - H²)z by random signs z, and the standard error.

    A probe is mean_i ‖H_i·z‖² - ‖H·z‖²: one product per example.
    """
    draws = torch.Generator().manual_seed(seed)
    layout = examples.layout
    samples = []
    for _ in range(probes):
        signs = 2 * torch.randint(0, 2, (layout.size,), generator=draws) - 1
        z = signs.to(layout.device, layout.dtype)

        def image_and_square(hessian: Hessian, z: Tensor = z) -> Tensor:
            image = hessian(z)
            return torch.cat([image, image.square().sum()[None]])

        found = examples.mean(image_and_square).double()
        samples.append(float(found[-1] - found[:-1].square().sum()))
    values = torch.tensor(samples, dtype=torch.float64)
    return float(values.mean()), float(values.std()) / math.sqrt(probes)
