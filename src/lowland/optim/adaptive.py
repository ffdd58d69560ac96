"""AdaSAM and LightSAM: adaptive step sizes around, and inside, the perturbation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.perturbation import wide_dtype
from lowland.optim.gradient import Part, remembered
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import Evaluate, Program, Update
from lowland.optim.radii import Unnormalized
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step
from lowland.optim.transforms import State
from lowland.optim.uncorrected import UncorrectedAdaGrad, UncorrectedAdam, quotients

VARIANTS = ("I", "II", "III")


def _no_base(name: str, base: Any) -> None:
    if base is not None:
        raise InputError(f"{name} brings its own base optimizer: leave {base!r} out")


class AdaSAM(SharpnessAware):
    """Sun et al. 2023 (arXiv 2303.00565): SAM over AMSGrad without bias correction.

        ε = ρ·g/‖g‖;   m, v from g̃ = ∇L(w + ε),   v̂ ← max(v̂, v),   w ← w − η·m/√v̂

    Args:
        rho: ρ.
        lr: η. The first step moves weights by 3.16·η: warm it up.
        betas: β₁, β₂.
        initial: √v₀.
        **options: everything that `SharpnessAware` takes but the base, and `weight_decay`.

    Cost: 2 passes; a copy of the parameters, m, v and v̂. Confidence: good, another group's code
    agrees; β assumed.
    """

    def __init__(
        self, params: Iterable[Any], base: None = None, *, rho: float = 0.05, **options: Any
    ) -> None:
        _no_base("AdaSAM", base)
        super().__init__(params, UncorrectedAdam, rho=rho, amsgrad=True, **options)


@dataclass(frozen=True)
class AccumulatedNorm:
    """LightSAM-I's plan: ε = ρ·g/√u with u the sum of ‖g‖² over all steps, this one included."""

    keeps_gradient: ClassVar[bool] = True  # its norm goes into u, on every device alike
    splits: ClassVar[bool] = False
    defaults: ClassVar[tuple[str, ...]] = ("sam_u",)
    sam_u: float = 1e-16

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        first = yield Evaluate()
        norm = step.norm(first.gradient)
        u = step.hyper["sam_u"] + (float(norm) if step.reads_freely else norm) ** 2
        step.stage_hyper("sam_u", u)
        at = [] if isinstance(u, float) and u == 0 else step.perturb(first, 1 / u**0.5)
        del first
        second = yield Evaluate(at=at)
        yield Update(second.gradient)


@dataclass(frozen=True)
class OverAccumulated:
    """LightSAM's elementwise transforms: d = r/√u with u a sum (II) or running mean (III) of g².

    Attributes:
        mean: III: running means, r of g with β₁ and u of g² with β₂; otherwise r = g and u a sum.
        betas: β₁, β₂.
        initial: √u₀.
    """

    mean: bool
    betas: tuple[float, float] = (0.9, 0.999)
    initial: float = 1e-8
    relative_guard: ClassVar[float] = 0.0
    remembers: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ()

    def direction(self, part: Part, state: State) -> list[Tensor]:
        new = self.update(part, state)
        over = new.get("sam_r") or [t.to(wide_dtype(t.dtype)) for t in part.tensors]
        return quotients(over, torch._foreach_sqrt(new["sam_u"]))

    def update(self, part: Part, state: State) -> dict[str, list[Tensor]]:
        first, second = self.betas
        g = [t.to(wide_dtype(t.dtype)) for t in part.tensors]
        u = self._held("sam_u", self.initial**2, part, g, state)
        if not self.mean:
            return {"sam_u": list(torch._foreach_addcmul(u, g, g, value=1.0))}
        squares = torch._foreach_mul(u, second)
        torch._foreach_addcmul_(squares, g, g, value=1 - second)
        r = self._held("sam_r", 0.0, part, g, state)
        return {"sam_u": list(squares), "sam_r": list(torch._foreach_lerp(r, g, 1 - first))}

    @staticmethod
    def _held(key: str, start: float, part: Part, g: list[Tensor], state: State) -> list[Tensor]:
        held = [remembered(state, p, key) for p in part.params]
        return [torch.full_like(t, start) if h is None else h for h, t in zip(held, g, strict=True)]


class LightSAM(SharpnessAware):
    """Cheng et al. 2025 (arXiv 2505.24399): SAM that converges for any ρ and η.

        I    u ← u + ‖g‖²,   ε = ρ·g/√u;     v ← v + ‖g̃‖²,   w ← w − η·g̃/√v
        II   the same elementwise: |ε_i| <= ρ
        III  r, u running means of g, g²,   ε = ρ·r/√u;   m, v of g̃, g̃²,   w ← w − η·m/√v

    No bias correction, u₀ = v₀ = `initial`². Over all of training Σ‖ε_t‖² grows by ρ²·log u alone.

    Args:
        variant: "I", "II" or "III".
        rho: ρ.
        lr: η.
        betas: of III.
        initial: √u₀ = √v₀.
        perturbation: "global"; "local" is refused, since the sums would differ between devices.
        **options: everything that `SharpnessAware` takes but the base.

    Cost: 2 passes; a copy of the parameters, and for II two, for III four tensors of their size,
    and g through the second pass. A loss scale must not reach u: pass the scaler. I waits for the
    norm in every step. Confidence: good, another group's code agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: None = None,
        *,
        variant: str = "III",
        rho: float = 0.05,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        initial: float = 1e-8,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        _no_base("LightSAM", base)
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS)
        own: dict[str, Any] = {"lr": lr, "initial": initial}
        if variant == "I":
            plan = AccumulatedNorm(initial**2)
            rule = Perturbation(radius=Unnormalized(), across=perturbation)
            super().__init__(
                params, UncorrectedAdaGrad, rho=rho, plan=plan, perturbation=rule, norm=True,
                **own, **options,
            )  # fmt: skip
            return
        transform = OverAccumulated(variant == "III", betas, initial)
        rule = Perturbation(transform=transform, radius=Unnormalized(), across=perturbation)
        made = UncorrectedAdam if variant == "III" else UncorrectedAdaGrad
        if variant == "III":
            own |= {"betas": betas, "amsgrad": False}
        super().__init__(params, made, rho=rho, perturbation=rule, **own, **options)
