"""The two penalties, as the search sees them: what is minimised, the next step, how far it is."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lowland.measure.probes.lasso_model import (
    Model,
    Splitting,
    l1,
    lasso_gap,
    minimise,
    weights_of,
)
from lowland.measure.probes.objective import Problems
from lowland.measure.probes.pairs import Pairs, dots
from lowland.measure.probes.spectral import Spectral


class Penalized(Protocol):
    """A penalty R, with the metric M (B, 1, D + 1) that a search starts from, diagonal."""

    metric: Tensor
    memory: int

    def value(self, x: Tensor) -> Tensor:
        """(B,) R(W)."""
        ...

    def smooth(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of all that is smooth: of the loss, and of R where R is."""
        ...

    def propose(self, x: Tensor, g: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """A step p, and the change (B,) of the objective that it promises to first order."""
        ...

    def slope(self, x: Tensor, p: Tensor, g: Tensor) -> Tensor:
        """(B,) the derivative of the objective along p on arriving at x."""
        ...

    def distance(self, x: Tensor, value: Tensor, g: Tensor) -> Tensor:
        """(B,) about how far the objective is above its minimum, from above."""
        ...

    def select(self, keep: Tensor) -> None:
        """Go on with these fits alone."""
        ...


def penalized(problems: Problems, basis: Spectral) -> Penalized:
    """The penalty of these problems."""
    kind = Ridge if problems.penalty == "l2" else Lasso
    return kind(problems, basis)


class _Base:
    """M = C·κ·W̄·XᵀX, the Hessian of the loss at equal probabilities, class by class.

    κ = (1/K)(1 - 1/K); W̄ is the mean weight of an example. Along the intercepts: C·κ·Σw.
    """

    def __init__(self, problems: Problems, basis: Spectral) -> None:
        classes, n = problems.tasks.classes, problems.design.n
        mass = problems.tasks.class_weights()[problems.task]
        per_example = problems.C * (1 / classes) * (1 - 1 / classes) * mass.sum(1) / n
        ends = torch.cat([basis.energies, basis.energies.new_full((1,), float(n))])
        self.basis = basis
        self.per_example = per_example[:, None, None]
        self.metric = self.per_example * ends
        columns = mass if problems.columns > 1 else mass.amin(1, keepdim=True)
        self.intercept_mass = problems.C[:, None] * columns

    def select(self, keep: Tensor) -> None:
        """Go on with these fits alone."""
        self.metric, self.per_example = self.metric[keep], self.per_example[keep]
        self.intercept_mass = self.intercept_mass[keep]

    def _intercepts(self, g: Tensor) -> Tensor:
        """What better intercepts would gain: Newton's decrement, with p for p(1 - p)."""
        return (g[..., -1].square() / self.intercept_mass).sum(1)


class Ridge(_Base):
    """R = ½‖W‖²: L-BFGS with (M + 1)⁻¹ as its first guess."""

    memory = 10

    def __init__(self, problems: Problems, basis: Spectral) -> None:
        super().__init__(problems, basis)
        self.metric[..., :-1] += 1.0

    def value(self, x: Tensor) -> Tensor:
        """(B,) ½‖W‖²."""
        w = weights_of(x)
        return 0.5 * dots(w, w)

    def smooth(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the loss plus W."""
        return torch.cat([gradient[..., :-1] + weights_of(x), gradient[..., -1:]], -1)

    def propose(self, x: Tensor, g: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """-H·g."""
        p = -self.basis.back(pairs.apply_inverse(self.basis.to(g), self.metric))
        return p, dots(g, p)

    def slope(self, x: Tensor, p: Tensor, g: Tensor) -> Tensor:
        """gᵀp."""
        return dots(g, p)

    def distance(self, x: Tensor, value: Tensor, g: Tensor) -> Tensor:
        """½‖∇_W‖², as R is 1-strongly convex, and the intercepts' part."""
        w = weights_of(g)
        return 0.5 * dots(w, w) + self._intercepts(g)


class Lasso(_Base):
    """R = Σ|W|: proximal L-BFGS, its model minimised by `lasso_model`."""

    memory = 10

    def __init__(self, problems: Problems, basis: Spectral) -> None:
        super().__init__(problems, basis)
        # directions without curvature get a little, so that the model has a minimum
        floor = 1e-6 * self.metric[..., :-1].amax(2, keepdim=True)
        self.metric[..., :-1] = torch.maximum(self.metric[..., :-1], floor).clamp_min(1e-30)
        scale = torch.cat([basis.diagonal, basis.diagonal.new_full((1,), problems.design.n)])
        self.diagonal = self.per_example * scale
        self.diagonal = self.diagonal.clamp_min(1e-30).maximum(
            torch.cat([floor.expand_as(self.diagonal[..., :-1]), self.diagonal[..., -1:]], -1)
        )
        duals = self.metric.new_zeros(len(problems.C), problems.columns, problems.design.d + 1)
        self.state = Splitting(duals, self.diagonal[..., :-1].mean((1, 2)))

    def select(self, keep: Tensor) -> None:
        """Go on with these fits alone."""
        super().select(keep)
        self.diagonal = self.diagonal[keep]
        self.state.select(keep)

    def value(self, x: Tensor) -> Tensor:
        """(B,) Σ|W|."""
        return l1(x)

    def smooth(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the loss."""
        return gradient

    def propose(self, x: Tensor, g: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """To the minimum of the model."""
        z = minimise(Model(self.basis, self.metric, self.diagonal, pairs), x, g, self.state)
        return z - x, dots(g, z - x) + l1(z) - l1(x)

    def slope(self, x: Tensor, p: Tensor, g: Tensor) -> Tensor:
        """gᵀp plus the left derivative of Σ|W|."""
        w, q = weights_of(x), weights_of(p)
        rise = torch.where(w != 0, w.sign() * q, -q.abs())
        return dots(g, p) + rise.flatten(1).sum(1)

    def distance(self, x: Tensor, value: Tensor, g: Tensor) -> Tensor:
        """About the duality gap, and the intercepts' part."""
        loss = value - l1(x)
        return lasso_gap(x, loss, g) * value + self._intercepts(g)
