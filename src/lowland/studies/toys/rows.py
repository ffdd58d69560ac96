"""Many small runs as the rows of one tensor, each with its own ρ, through the library's engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowland.optim import Perturbation, SharpnessAware, Unnormalized
from lowland.optim.gradient import Gradient, Part
from lowland.optim.plan import TwoPass
from lowland.optim.step import Step
from lowland.optim.transforms import State

GUARD = 1e-12
LARGEST = 1e100

Field = Callable[[Tensor], Tensor]
"""From points (runs, d) to the gradient of every run's own loss (runs, d)."""


@dataclass(frozen=True, eq=False)
class EachRow:
    """Unified SAM's ε of every row by itself: ε_k = ρ_k·(1 − λ_k + λ_k/(‖g_k‖ + 1e-12))·g_k.

    A transform of the engine's: the rows of the only tensor are the runs, so that one step of the
    optimizer is one step of all of them. The optimizer's own ρ is 1 and not normalized.

    Attributes:
        rho: (runs, 1) ρ of every row; 0 is plain descent.
        share: (runs, 1) λ of every row: 0 is USAM, 1 is SAM.
    """

    rho: Tensor
    share: Tensor
    remembers: ClassVar[bool] = False
    relative_guard: ClassVar[float] = 0.0
    defaults: ClassVar[tuple[str, ...]] = ()

    def direction(self, part: Part, state: State) -> list[Tensor]:
        """ε of every row."""
        (g,) = part.tensors
        norm = torch.linalg.vector_norm(g, dim=1, keepdim=True)
        return [self.rho * (1 - self.share + self.share / (norm + GUARD)) * g]

    def update(self, part: Part, state: State) -> dict[str, list[Tensor]]:
        """Nothing is remembered."""
        return {}


@dataclass(frozen=True, eq=False)
class AddFirst:
    """u = g̃ + c·g, with c = 1 for the rows whose gradients are never zeroed between the passes."""

    kept: Tensor

    def __call__(self, g: Gradient, g_perturbed: Gradient, step: Step, /) -> Gradient:
        """Add the first gradient where it was kept."""
        pairs = zip(g_perturbed.tensors, g.tensors, strict=True)
        return g.like([after + self.kept * before for after, before in pairs])


class RowSGD(Optimizer):
    """SGD with a step size and a momentum for every row: v_k ← μ_k·v_k + g_k, w_k ← w_k − η_k·v_k.

    Args:
        points: (runs, d) the only parameter.
        rates: (runs, 1) η of every row; may be changed in place between steps.
        momentum: (runs, 1) μ of every row; None for none.

    Attributes:
        velocity: (runs, d) v, from 0; None without momentum.
    """

    def __init__(self, points: nn.Parameter, rates: Tensor, momentum: Tensor | None = None) -> None:
        super().__init__([points], {"lr": 1.0})
        self.rates, self.momentum = rates, momentum
        self.velocity = None if momentum is None else torch.zeros_like(points.detach())

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step along ``.grad``."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                along = p.grad
                if self.velocity is not None and self.momentum is not None:
                    along = self.velocity.mul_(self.momentum).add_(p.grad)
                p.addcmul_(self.rates, along, value=-group["lr"])
        return loss


class Rows:
    """Runs side by side: their points are the rows of `points`.

    A run whose gradient is not finite, or has an element above 1e100, has diverged: it stays where
    it is, and `now` has NaN for it. (Left alone, its square would be infinite in the norm that the
    engine takes over the whole tensor, and the engine would skip the step of all.)

    Args:
        start: (runs, d) where they begin.
        rho: ρ of every run.
        share: λ of every run, or one for all: 0 USAM, 1 SAM.
        lr: η of every run, or one for all.
        kept: runs that descend along g + g̃.
        momentum: μ of every run, or one for all.

    Attributes:
        points: the parameter.
        rho, share, lr: (runs, 1); ρ and η may be changed in place between steps.
        lost: (runs, 1) whether a run has diverged.
        optimizer: the library's, over `RowSGD`.
    """

    def __init__(
        self,
        start: Tensor,
        rho: Sequence[float] | Tensor,
        share: Sequence[float] | Tensor | float,
        *,
        lr: Sequence[float] | Tensor | float,
        kept: Sequence[bool] | None = None,
        momentum: Sequence[float] | float | None = None,
    ) -> None:
        runs = len(start)
        self.points = nn.Parameter(start.detach().clone().double())
        self.rho, self.share, self.lr = (_column(values, runs) for values in (rho, share, lr))
        self.lost = torch.zeros(runs, 1, dtype=torch.bool)
        combine = None
        if kept is not None:
            combine = AddFirst(torch.tensor(kept, dtype=torch.float64).reshape(runs, 1))
        held = None if momentum is None else _column(momentum, runs)
        self._base = RowSGD(self.points, self.lr, held)
        rule = Perturbation(transform=EachRow(self.rho, self.share), radius=Unnormalized())
        self.optimizer = SharpnessAware(
            [self.points],
            self._base,
            rho=1.0,
            perturbation=rule,
            plan=TwoPass(combine),
        )

    def step(self, field: Field) -> None:
        """One step of every run; `field` is evaluated twice, at the points and at those moved."""

        def closure() -> float:
            with torch.no_grad():
                g = field(self.points)
                self.lost |= ~(g.abs().amax(1, keepdim=True) < LARGEST)
                self.points.grad = g.masked_fill(self.lost, 0.0)
                if self._base.velocity is not None:
                    self._base.velocity.masked_fill_(self.lost, 0.0)
            return 0.0

        self.optimizer.step(closure)

    def now(self) -> Tensor:
        """(runs, d) a copy of the points, NaN where a run has diverged."""
        return self.points.detach().masked_fill(self.lost, math.nan)


def _column(values: Sequence[float] | Tensor | float, runs: int) -> Tensor:
    """(runs, 1) in memory of its own."""
    return torch.as_tensor(values, dtype=torch.float64).flatten().expand(runs).clone()[:, None]
