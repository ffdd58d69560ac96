"""The trace of the Hessian, to a tolerance, with an interval that means what it says."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.core.student import student_t
from lowland.measure.curvature.eigenvalues import symmetric
from lowland.measure.curvature.krylov import NotFiniteError, Symmetric
from lowland.measure.curvature.operator import HessianOperator, ProductOptions
from lowland.measure.curvature.subject import Matrix
from lowland.measure.evaluation import Batches, Loss

CONFIDENCE = 0.95
GROUP_BYTES = 2**28
GROUP = 10
"""Vectors multiplied in one pass over the data, if so many fit into `GROUP_BYTES`."""


@dataclass(frozen=True, kw_only=True)
class HessianTrace(Measurement):
    """tr A; `uncertainty` is the standard error over probes, 0 where the trace is exact.

    Attributes:
        low: lower end of the 95% interval.
        high: its upper end.
        degrees: of freedom of Student's t behind the interval.
        probes: random vectors in the part that is estimated.
        captured: what the part adds that was taken exactly.
        exact: whether every diagonal entry was computed.
        products: vectors that the matrix was multiplied with.
        size: rows of the matrix.
    """

    low: float
    high: float
    degrees: int
    probes: int
    captured: float
    exact: bool
    products: int
    size: int


def hessian_trace(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    matrix: Matrix = "hessian",
    parameters: str | None = None,
    tolerance: float | None = 0.05,
    absolute: float = 0.0,
    sketch: int = 10,
    probes: int = 10,
    max_products: int = 300,
    seed: int = 0,
    **options: Unpack[ProductOptions],
) -> HessianTrace:
    """tr A = tr(QᵀAQ) + (1/N) Σ_j g_jᵀAg_j with g_j = (I - QQᵀ)z_j: in part exact, in part sampled.

    Q is an orthonormal basis of A·S for a random S of `sketch` columns: it holds most of the
    outermost eigenvectors, whose eigenvalues would make the samples scatter (Hutch++). The z_j are
    random signs. Given Q the samples are independent, so Student's t applies to them. (The
    estimates of XTrace are not independent: their intervals covered 86-94% where these cover
    91-96%.)

    N is fixed from the first `probes` samples alone, by Stein's two-stage rule: with their standard
    deviation s and t = t(0.975; probes - 1), N = (t·s/h)² for the half-width h that is asked for,
    and the interval is the mean of all N ± t·s/√N. (If h is relative, it follows the estimate of
    the trace, and N with it.) Stopping once the running error looks small
    would cover less than 95%; this does not, for normal samples. Where eigenvalues fall
    geometrically a few of them dominate the samples, which are then skewed: 90-92% was measured.

    Args:
        model: called as ``model(inputs)``; left as it was.
        loss_fn: ``loss_fn(outputs, targets)``: losses (b,) or their mean, never their sum.
        batches: pairs (inputs, targets), the same in every pass; see `HessianOperator`.
        matrix: "hessian" or "ggn".
        parameters: glob over names of parameters and modules: the trace of their block; None for
            all that require gradients.
        tolerance: half-width of the 95% interval asked for, relative to the trace; None to take
            `probes` samples and no more.
        absolute: a half-width that is enough, whatever the trace: it may be near zero where
            eigenvalues have both signs.
        sketch: columns of S; 0 for Hutchinson's estimate.
        probes: samples from which N is fixed, at least 2.
        max_products: vectors multiplied at most; if they do not reach the tolerance the record says
            ``converged=False`` and has the wider interval.
        seed: of S and z.
        options: `dtype`, `compile`, `graph_bytes` and `check` of `HessianOperator`.

    Cost: 2·sketch + N products; or as many as the matrix has rows, where that is no more: the trace
    is then exact. Memory: 2·sketch + 10 vectors.

    Source: R. Meyer, C. Musco, C. Musco, D. Woodruff, Hutch++: Optimal stochastic trace estimation,
    2021; C. Stein, A two-sample test for a linear hypothesis whose power is independent of the
    variance, 1945.

    Raises:
        InputError: fewer than two probes, a negative sketch or half-width, too few products, or
            what `HessianOperator` raises.
    """
    start = time.perf_counter()
    plan = _Plan(tolerance, absolute, sketch, probes, max_products)
    operator = HessianOperator(
        model, loss_fn, batches, matrix=matrix, parameters=parameters, **options
    )
    with operator:
        found = plan.carried_out(symmetric(operator), operator.finite, seed)
        return HessianTrace(
            name="hessian_trace",
            value=found.value,
            definition=_definition(operator, plan, found),
            n=operator.n,
            dtype=str(operator.dtype).removeprefix("torch."),
            seconds=time.perf_counter() - start,
            uncertainty=found.error,
            converged=found.converged,
            seed=seed,
            low=found.value - found.half,
            high=found.value + found.half,
            degrees=found.degrees,
            probes=found.probes,
            captured=found.captured,
            exact=found.exact,
            products=operator.products,
            size=operator.size,
        )


@dataclass(frozen=True, kw_only=True)
class TraceEstimate:
    """A trace with its 95% half-width; see `HessianTrace`."""

    value: float
    error: float
    half: float
    degrees: int
    probes: int
    captured: float
    exact: bool
    converged: bool


@dataclass(frozen=True)
class _Plan:
    tolerance: float | None
    absolute: float
    sketch: int
    probes: int
    max_products: int

    def __post_init__(self) -> None:
        if self.probes < 2 or self.sketch < 0:
            raise InputError(
                f"probes={self.probes}, sketch={self.sketch}: give at least 2 and at least 0"
            )
        for name, given in (("tolerance", self.tolerance), ("absolute", self.absolute)):
            if given is not None and not (math.isfinite(given) and given >= 0):
                raise InputError(f"{name}: {given!r} is no half-width; give a number from 0 on")
        if self.max_products < self.first_stage:
            raise InputError(
                f"max_products: {self.max_products} are fewer than 2·sketch + probes = "
                f"{self.first_stage}; give more"
            )

    @property
    def first_stage(self) -> int:
        """Products before it is known how many are needed."""
        return 2 * self.sketch + self.probes

    def carried_out(self, matrix: Symmetric, finite: bool, seed: int) -> TraceEstimate:
        """The estimate; NaN for a matrix that is not finite."""
        draws = torch.Generator().manual_seed(seed)
        try:
            if not finite:
                raise NotFiniteError
            if matrix.size <= self.first_stage:
                return _exact(matrix)
            return self._estimated(matrix, draws)
        except NotFiniteError:
            nan = math.nan
            return TraceEstimate(
                value=nan, error=nan, half=nan, degrees=0, probes=0, captured=nan, exact=False,
                converged=False,
            )  # fmt: skip

    def _estimated(self, matrix: Symmetric, draws: torch.Generator) -> TraceEstimate:
        basis, captured = _sketched(matrix, self.sketch, draws)
        samples = _samples(matrix, basis, self.probes, draws)
        spread = float(samples.std())
        quantile = student_t(CONFIDENCE, self.probes - 1)
        most = self.probes + self.max_products - self.first_stage
        while True:  # twice as a rule: the half-width asked for moves with the trace
            half = self._half_width(captured + float(samples.mean()))
            wanted = self._count(quantile * spread, half)
            more = int(min(wanted, most)) - len(samples)
            if more <= 0:
                break
            if more >= matrix.size and matrix.size <= most - len(samples):
                return _exact(matrix)
            samples = torch.cat([samples, _samples(matrix, basis, more, draws)])
        count = len(samples)
        error = spread / math.sqrt(count)
        return TraceEstimate(
            value=captured + float(samples.mean()),
            error=error,
            half=quantile * error,
            degrees=self.probes - 1,
            probes=count,
            captured=captured,
            exact=False,
            converged=wanted <= count,
        )

    def _half_width(self, trace: float) -> float | None:
        return None if self.tolerance is None else max(self.tolerance * abs(trace), self.absolute)

    def _count(self, spread: float, half: float | None) -> float:
        if half is None or spread <= half * math.sqrt(self.probes):
            return self.probes
        return math.ceil((spread / half) ** 2) if half > 0 else math.inf


def _sketched(matrix: Symmetric, count: int, draws: torch.Generator) -> tuple[Tensor, float]:
    """An orthonormal basis Q (rows) of A·S, and tr(QᵀAQ)."""
    if count == 0:
        return torch.zeros(0, matrix.size, dtype=matrix.dtype, device=matrix.device), 0.0
    random = torch.randn(count, matrix.size, generator=draws, dtype=matrix.dtype)
    image = _multiplied(matrix, random.to(matrix.device))
    basis = torch.linalg.qr(image.T).Q.T.contiguous()
    return basis, float((basis * _multiplied(matrix, basis)).sum(1).cpu().double().sum())


def _samples(matrix: Symmetric, basis: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """gᵀAg for g = (I - QQᵀ)z and random signs z: (count,), float64."""
    found = []
    for size in _groups(matrix, count):
        signs = torch.randint(0, 2, (size, matrix.size), generator=draws, dtype=torch.int8)
        z = (2 * signs - 1).to(matrix.device, matrix.dtype)
        z -= (z @ basis.T) @ basis
        z -= (z @ basis.T) @ basis
        found.append((z * _multiplied(matrix, z)).sum(1).cpu().double())
    return torch.cat(found)


def _exact(matrix: Symmetric) -> TraceEstimate:
    total, done = 0.0, 0
    for size in _groups(matrix, matrix.size):
        rows = torch.zeros(size, matrix.size, dtype=matrix.dtype, device=matrix.device)
        rows[torch.arange(size), done + torch.arange(size)] = 1
        total += float((rows * _multiplied(matrix, rows)).sum(1).cpu().double().sum())
        done += size
    return TraceEstimate(
        value=total, error=0.0, half=0.0, degrees=0, probes=0, captured=total, exact=True,
        converged=True,
    )  # fmt: skip


def _groups(matrix: Symmetric, count: int) -> Iterator[int]:
    most = max(1, min(GROUP, GROUP_BYTES // (matrix.size * matrix.dtype.itemsize)))
    for done in range(0, count, most):
        yield min(most, count - done)


def _multiplied(matrix: Symmetric, rows: Tensor) -> Tensor:
    """A times every row, a group at a time.

    Raises:
        NotFiniteError: a product is NaN or infinite.
    """
    parts = [matrix.multiply(part) for part in torch.split(rows, GROUP)]
    found = torch.cat(parts)
    if not bool(torch.isfinite(found).all()):
        raise NotFiniteError
    return found


def _definition(operator: HessianOperator, plan: _Plan, found: TraceEstimate) -> str:
    name = f"trace of the {operator.words}"
    if found.exact:
        return f"{name}; every diagonal entry"
    goal = "fixed probes" if plan.tolerance is None else f"to {plan.tolerance:.3g} of it"
    return (
        f"{name}; Hutch++ with a sketch of {plan.sketch} and random signs, {goal}; 95% interval by "
        f"Stein's two-stage rule from {plan.probes} probes"
    )
