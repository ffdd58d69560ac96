"""Logistic regressions fitted to a certified distance from their optimum, many at once."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowland.measure.probes.certificate import Certificate, certify
from lowland.measure.probes.interior import Interior, with_zeros
from lowland.measure.probes.lasso_model import lasso_gap
from lowland.measure.probes.objective import Problems, evaluate, gradient_at
from lowland.measure.probes.search import Search
from lowland.measure.probes.spectral import Spectral, spectral_basis

SMALL = 2**24
"""Multiply-adds of a read up to which float64 from the start costs nothing that matters."""

QUICK = 100
"""Reads of the quasi-Newton search with L1; what it solves at all it has mostly solved by then."""

WORKING = 512
"""With L1, more features than this are fitted a working set at a time."""

FIRST = 128
"""Features in the first working set; the next ones may have twice as many each."""

CLOSER = 0.05
"""Share of the tolerance that interior points are taken to: so near, coefficients that are zero at
the minimum can be set to zero within the tolerance."""

ROUNDS = 3
"""How often a search whose estimate was too hopeful is sent on, ten times stricter each time."""


@dataclass(frozen=True)
class Fits:
    """B fits in the coordinates of the design.

    Attributes:
        x: (B, c, d + 1) float64 coefficients and, last, intercepts.
        loss: (B,) Σ w_i·ℓ_i.
        objective: (B,) C·Σ w_i·ℓ_i + R(W).
        gap: (B,) relative duality gap: (F - min F)/F is at most this.
        converged: (B,) whether it is at most the tolerance.
        reads: how often the features were read in searching.
    """

    x: Tensor
    loss: Tensor
    objective: Tensor
    gap: Tensor
    converged: Tensor
    reads: int


class _Fitting:
    """The best certified points so far, and which fits are still open."""

    def __init__(self, problems: Problems, tolerance: float, max_reads: int) -> None:
        self.problems, self.tolerance, self.left = problems, tolerance, max_reads
        self.start = problems.start(torch.float64)
        self.x = self.start.clone()
        none = torch.full_like(problems.C, torch.inf)
        self.loss, self.objective, self.gap = none.clone(), none.clone(), none.clone()

    @functools.cached_property
    def basis(self) -> Spectral:
        """Of all features; working sets do without."""
        return spectral_basis(self.problems.design)

    def open(self) -> Tensor:
        """The fits that are not certified yet."""
        return (~(self.gap <= self.tolerance)).nonzero()[:, 0]

    def search(self, kind: type[Search | Interior], dtype: torch.dtype, most: int) -> None:
        """Search on in this type until nothing is open, or the type or the reads are used up."""
        share = CLOSER if kind is Interior else 0.5
        target = torch.full_like(self.problems.C, share * self.tolerance)
        most = min(most, self.left)
        for _ in range(ROUNDS):
            which = self.open()
            if not len(which) or most <= 0:
                return
            # an interior point's way begins far from the bounds, not at what another search left
            x = self.start[which] if kind is Interior else self.x[which]
            search = kind(self.problems.select(which), self.basis, x, target[which], dtype)
            search.run(most)
            most -= search.reads
            self.left -= search.reads
            if kind is Search:
                self.x[which] = search.found
            # what did not get there in float32 needs no certificate, unless it is the last word
            last = dtype == torch.float64 or self.left <= 0
            sure = torch.ones_like(search.reached) if last else search.reached
            ready, found = which[sure], search.found[sure]
            self.certify(ready, found, sparse=kind is Interior)
            if not bool(search.reached.all()):
                return
            target[ready] *= 0.1

    def by_working_sets(self, dtype: torch.dtype) -> None:
        """Solve for some of the features, add those whose gradients say so, and again.

        Most coefficients of an L1 fit are zero, and all else costs their number squared or more.
        """
        which, design = self.open(), self.problems.design
        problems = self.problems.select(which)
        chosen = _largest(gradient_at(problems, self.start[which]), FIRST)
        while len(which) and len(chosen) and self.left > 0:
            part = replace(problems, design=design.columns(chosen))
            target = torch.full_like(part.C, CLOSER * self.tolerance)
            basis = spectral_basis(part.design)
            search = Interior(part, basis, part.start(torch.float64), target, dtype)
            search.run(math.ceil(self.left * design.d / len(chosen)))
            self.left -= math.ceil(search.reads * len(chosen) / design.d)
            x = torch.zeros_like(self.start[which])
            x[..., torch.cat([chosen, chosen.new_tensor([design.d])])] = search.found
            found = evaluate(problems, x)
            gap = lasso_gap(x, problems.C * found.loss, found.gradient)
            done = (gap <= 0.5 * self.tolerance) | ~search.reached
            self.certify(which[done], x[done], sparse=True)
            kept = (~done).nonzero()[:, 0]
            which, problems = which[kept], problems.select(kept)
            missing = found.gradient[kept].abs()
            missing[..., chosen] = 0
            missing[..., -1] = 0
            more = _largest(missing, len(chosen), beyond=1.0)
            if not len(more):
                return
            chosen = torch.cat([chosen, more]).sort().values

    def certify(self, which: Tensor, x: Tensor, *, sparse: bool = False) -> None:
        """Write down what holds for these fits, where it is better than what is known."""
        if not len(which):
            return
        problems = self.problems.select(which)
        if sparse:
            self._write(which, certify(problems, with_zeros(x, gradient_at(problems, x))))
            missed = ~(self.gap[which] <= self.tolerance)
            which, x, problems = which[missed], x[missed], problems.select(missed.nonzero()[:, 0])
        if len(which):
            self._write(which, certify(problems, x))

    def _write(self, which: Tensor, proof: Certificate) -> None:
        gap = proof.gap / proof.objective.clamp_min(1e-300)
        better = (gap < self.gap[which]) | torch.isinf(self.gap[which])
        own = which[better]
        self.x[own], self.gap[own] = proof.x[better], gap[better]
        self.loss[own], self.objective[own] = proof.loss[better], proof.objective[better]


def _largest(gradient: Tensor, most: int, *, beyond: float = 0.0) -> Tensor:
    """Features, ascending, whose gradients are the largest in some fit, at most so many."""
    size = gradient[..., :-1].abs().flatten(0, 1)
    size = size.amax(0) if len(size) else size.new_zeros(size.shape[1])
    order = size.argsort(descending=True, stable=True)[:most]
    return order[size[order] > beyond].sort().values


def fit(problems: Problems, *, tolerance: float, max_reads: int) -> Fits:
    """Minimise C·Σ w·ℓ + R(W) for every fit, to (F - min F)/F ≤ `tolerance`, certified.

    Searches go on in float32 until their own estimates say that they are done; then the duality
    gap is computed in float64 from the features as they were given. What it does not certify goes
    on, at last in float64. L1 is searched by proximal quasi-Newton steps first, which is fast where
    features are not too correlated, and by an interior-point method where that has not ended; more
    than `WORKING` features a working set at a time (`reads` counts shares of reads there).
    Fits that stay open have `converged` False and the gap that they have.

    Cost: 4·n·d·B·c operations per read; with L2 50,000 × 512 takes 15 to 200 reads, with L1 100
    to 1,000, the fewer the smaller C.
    """
    design = problems.design
    fitting = _Fitting(problems, tolerance, max_reads)
    types = [torch.float64]
    work = design.n * design.d * problems.columns * len(problems.C)
    if work > SMALL and design.fits_single:
        types.insert(0, torch.float32)
    if problems.penalty == "l1":
        if design.d > WORKING:
            fitting.by_working_sets(types[0])
        elif fitting.basis.whole:
            fitting.search(Search, types[0], QUICK)
        for dtype in types:
            fitting.search(Interior, dtype, max_reads)
    else:
        for dtype in types:
            fitting.search(Search, dtype, max_reads)
    uncertified = torch.isinf(fitting.gap).nonzero()[:, 0]
    fitting.certify(uncertified, fitting.x[uncertified])
    return Fits(
        x=fitting.x,
        loss=fitting.loss,
        objective=fitting.objective,
        gap=fitting.gap,
        converged=fitting.gap <= tolerance,
        reads=max_reads - fitting.left,
    )
