"""The Polyak step size at w+ε, below the base optimizer's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.optim.gradient import Gradient, Part
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import Evaluate, Program, Update
from lowland.optim.step import Step

ALONG = (
    "the Polyak step size takes ε to be along g, on all parameters: leave selection, transform and "
    "metric of the Perturbation at their defaults"
)
NO_LOSS = (
    "the Polyak step size is made of the loss, and the closure returned none: end it with "
    "`return loss`, a tensor of one element"
)


@dataclass(frozen=True)
class PolyakStep:
    """[w, w+ε], then u = min(1, η_P/η)·g̃ with η the group's lr, so that SGD's step is min(η, η_P):

        η_P = [L(w + ε) − ℓ* − ⟨g̃, ε⟩]₊ / ‖g̃‖²

    ε has to be along g: ε = φ(n)·g.

    Attributes:
        lower_bound: ℓ*, the smallest that the loss of a batch can be.
    """

    lower_bound: float = 0.0
    keeps_gradient: ClassVar[bool] = True
    splits: ClassVar[bool] = False
    needs_closure: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("lower_bound",)
    common: ClassVar[tuple[str, ...]] = ("rho",)

    @staticmethod
    def check(rule: Perturbation) -> None:
        """Refuse an ε that is not along g."""
        plain = Perturbation(radius=rule.radius, norm_of=rule.norm_of, across=rule.across)
        if rule != plain:
            raise InputError(ALONG)

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        second = yield Evaluate(at=step.perturb((yield Evaluate())))
        g, u = step.gradient(), second.gradient
        rate = self._rate(step, g, u)
        parts = [_scaled(part, rate) for part in u]
        yield Update(Gradient(parts))

    @staticmethod
    def _rate(step: Step, g: Gradient, u: Gradient) -> Tensor:
        loss, norm, size = step.perturbed_loss.value, step.grad_norm, step.perturbation_norm
        if loss is None:
            raise InputError(NO_LOSS)
        assert norm is not None
        assert size is not None
        loss = step.average(loss.reshape(1), step.examples or 1)[0]
        here = u.by_param()
        both = g.where(lambda p: p in here)
        tiny = torch.finfo(norm.dtype).tiny
        # where −L is descended, its gradient and ε both change sign
        sign = -1.0 if step.hyper.get("maximize") else 1.0
        along = step.inner(both.like([here[p] for p in both.params]), both)
        along = along * size / norm.clamp_min(tiny)
        gap = (sign * loss.to(along) - step.hyper["lower_bound"] - along).clamp_min(0.0)
        rate: Tensor = gap / (step.norm(u) ** 2).clamp_min(tiny)
        return rate


def _scaled(part: Part, rate: Tensor) -> Part:
    lr = torch.as_tensor(part.group["lr"], dtype=rate.dtype, device=rate.device)
    share = torch.where(lr > 0, (rate / lr).clamp_max(1.0), torch.ones_like(rate))
    tensors = [(t * share).to(t.dtype) for t in part.tensors]
    return Part(part.group, part.params, tensors)
