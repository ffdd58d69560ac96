"""The outermost eigenvalues of a symmetric matrix, with residuals, and what was missed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lowland.measure.curvature.bounds import PROBABILITY, smallest_overlap, upper_bound
from lowland.measure.curvature.krylov import KrylovSpace, Ritz, Symmetric

Which = Literal["algebraic", "magnitude", "smallest"]

SMALL = 1e-2
"""Values below this share of ‖A‖ are asked for as accurately as if they had that size."""

DROWNED = 2.0
"""Residuals below so many times the noise in a product have nowhere to fall."""

PATIENCE = 3
"""How often residuals may fail to fall below what the recurrence says before that is stagnation."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Approximate eigenpairs, the outermost first.

    Attributes:
        values: Rayleigh quotients θ (k,), float64.
        vectors: unit vectors y (k, d).
        residuals: ‖A·y - θ·y‖ (k,), from products of y itself.
        norm: the largest |θ| that was seen.
        stagnated: residuals stopped falling, by rounding or noise in the products.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    norm: float
    stagnated: bool = False

    def thresholds(self, tolerance: float) -> Tensor:
        """The residual up to which each value counts as converged."""
        least = max(SMALL * self.norm, torch.finfo(torch.float32).tiny)  # not 0 where A is 0
        return tolerance * self.values.abs().clamp(min=least)

    def converged(self, tolerance: float) -> Tensor:
        """Which values have converged (k,)."""
        return self.residuals <= self.thresholds(tolerance)


def order(values: Tensor, which: Which) -> Tensor:
    """Positions of `values` from the outermost one inwards.

    >>> order(torch.tensor([-3.0, 1.0, 2.0]), "magnitude")
    tensor([0, 2, 1])
    """
    keys = {"algebraic": values, "smallest": -values, "magnitude": values.abs()}
    return keys[which].argsort(descending=True, stable=True)


@dataclass(frozen=True, kw_only=True)
class Search:
    """How eigenvalues are looked for.

    Attributes:
        k: how many.
        which: which end, or both.
        tolerance: residual relative to the value.
        max_products: vectors multiplied at most.
        block: vectors multiplied at a time.
        capacity: most vectors in a basis.
    """

    k: int
    which: Which
    tolerance: float
    max_products: int
    block: int
    capacity: int

    def outermost(self, matrix: Symmetric, draws: torch.Generator) -> tuple[Pairs, int]:
        """The k outermost pairs by thick-restart block Lanczos, and how many products it took.

        Residuals are those of the recurrence until all are small enough, and then taken from
        products with the vectors themselves. Where these are larger, the search goes on, unless
        that has happened before without much gain.
        """
        space = KrylovSpace(matrix, self.capacity, self.block, draws)
        spent, best, failures, demand = 0, float("inf"), 0, 1.0
        while True:
            space.expand()
            ritz = space.ritz()
            last = space.products + spent + self.k + self.block > self.max_products
            drowned = self._worst(ritz) <= DROWNED * space.noise
            if space.exhausted or last or drowned or self._settled(ritz, demand):
                pairs = self._checked(matrix, space, ritz)
                spent += self.k
                wrong = float((pairs.residuals / pairs.thresholds(self.tolerance)).max())
                if wrong <= 1 or space.exhausted or last:
                    return pairs, space.products + spent
                failures += 1
                if drowned or (wrong > best / 2 and failures >= PATIENCE):
                    return replace(pairs, stagnated=True), space.products + spent
                best, demand = min(best, wrong), demand / 4
            if space.full:
                space.restart(self._best(ritz, self.k + (space.filled - self.k) // 2))

    def _worst(self, ritz: Ritz) -> float:
        """The largest residual of the k outermost pairs."""
        if len(ritz.values) < self.k:
            return math.inf
        return float(ritz.residuals[order(ritz.values, self.which)[: self.k]].max())

    def _settled(self, ritz: Ritz, demand: float) -> bool:
        """Whether the recurrence has the k outermost pairs at their thresholds, times `demand`."""
        if len(ritz.values) < self.k:
            return False
        chosen = order(ritz.values, self.which)[: self.k]
        found = Pairs(
            ritz.values[chosen],
            ritz.vectors,
            ritz.residuals[chosen],
            float(ritz.values.abs().max()),
        )
        return bool(found.converged(self.tolerance * demand).all())

    def _best(self, ritz: Ritz, count: int) -> Tensor:
        return ritz.vectors[:, order(ritz.values, self.which)[:count]]

    def _checked(self, matrix: Symmetric, space: KrylovSpace, ritz: Ritz) -> Pairs:
        vectors = space.rows(self._best(ritz, self.k))
        return refined(matrix, vectors, self.which, float(ritz.values.abs().max()))

    def missed(
        self, matrix: Symmetric, found: Pairs, draws: torch.Generator, max_products: int
    ) -> Rest:
        """Look for eigenvalues beyond the last of `found`, in what is orthogonal to all of them.

        Lanczos starts from a new random vector there. It ends when no eigenvalue that is left
        can be further out than the last one found, up to the tolerance; or when one that is has
        been found; or when products or memory are used up.
        """
        edge = float(found.values[self.k - 1])
        slack = float(found.thresholds(self.tolerance)[self.k - 1])
        room = min(self.capacity, max_products)
        sides = [s for s in (1, -1) if self.which != ("smallest" if s > 0 else "algebraic")]
        if matrix.size == len(found.values):
            return Rest(bound=None, products=0, vector=None)
        space = KrylovSpace(matrix, room, 1, draws, locked=found.vectors)
        share = 1 - (1 - PROBABILITY) / len(sides)
        overlap = smallest_overlap(space.reachable, share)
        goal = abs(edge) if self.which == "magnitude" else edge * sides[0]
        lengths: list[float] = []
        bound = float("inf")
        while space.filled < room:
            space.expand()
            lengths.append(space.step_length())
            ritz = space.ritz()
            ends = [upper_bound(side * ritz.values, lengths, overlap) for side in sides]
            bound = min(bound, max(ends))
            if bound <= goal + slack:
                break
            outer = int(order(ritz.values, self.which)[0])
            value, residual = float(ritz.values[outer]), float(ritz.residuals[outer])
            beyond = abs(value) if self.which == "magnitude" else value * sides[0]
            # nearer zero less is allowed than where the last value is, which it may displace
            enough = min(slack, self.tolerance * max(abs(value), SMALL * found.norm))
            if beyond > goal + slack and residual <= enough:
                vector = space.rows(ritz.vectors[:, outer : outer + 1])
                return Rest(bound=None, products=space.products, vector=vector)
        return Rest(bound=bound, products=space.products, vector=None)


@dataclass(frozen=True, eq=False)
class Rest:
    """What is known of the eigenvalues beside those found.

    Attributes:
        bound: none of them is further out than this, with probability `PROBABILITY`; "further out"
            is above, below after a change of sign, or larger in magnitude. None if there are none.
        products: vectors multiplied for it.
        vector: (1, d), a Ritz vector that is further out than the last one found; None if there
            was none.
    """

    bound: float | None
    products: int
    vector: Tensor | None


def refined(matrix: Symmetric, vectors: Tensor, which: Which, norm: float) -> Pairs:
    """Rayleigh-Ritz in the span of `vectors` (k, d), with residuals from their own products."""
    # QR in the working precision: Ritz vectors are orthonormal up to rounding already.
    basis = torch.linalg.qr(vectors.T).Q.T.contiguous()
    products = matrix.multiply(basis)
    small = (basis @ products.T).cpu().double()
    values, turn = torch.linalg.eigh((small + small.T) / 2)
    turn = turn[:, order(values, which)]
    values = values[order(values, which)]
    turned = turn.T.to(matrix.device, matrix.dtype)
    basis, products = turned @ basis, turned @ products
    residuals = products - values.to(matrix.device, matrix.dtype)[:, None] * basis
    lengths = torch.linalg.vector_norm(residuals, dim=1).cpu().double()
    return Pairs(values, basis, lengths, max(norm, float(values.abs().max())))
