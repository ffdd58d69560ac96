"""The universal class of sharpness measures: trace, determinant, Frobenius norm, your own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowland.core.errors import InputError, unknown
from lowland.optim.checks import check_number, check_whole
from lowland.optim.gradient import Gradient, owned
from lowland.optim.plan import Evaluate, Evaluation, Program, Update, plain_step
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step

Scalar = Callable[[Tensor], Tensor]
DRAWS = ("normal", "uniform", "sign")


@dataclass(frozen=True)
class Measure:
    """S = φ(mean of ψ(Δ_i)), Δ_i = (L(w + ρ·u_i) − L(w))/ρ²; both act on tensors elementwise.

    Attributes:
        phi: φ, differentiable.
        psi: ψ, differentiable.
        draw: what u_i is drawn from: "normal", "uniform" on [−width, width], or "sign".
        width: of the uniform distribution.
    """

    phi: Scalar
    psi: Scalar
    draw: str = "normal"
    width: float = 0.01

    def __post_init__(self) -> None:
        if self.draw not in DRAWS:
            raise unknown("draw", self.draw, DRAWS)

    def weights(self, deltas: Tensor) -> Tensor:
        """φ′(mean ψ)·ψ′(Δ_i)/n: how much each ∇Δ_i counts in ∇S."""
        with torch.enable_grad():
            at = deltas.detach().clone().requires_grad_()
            value = self.phi(self.psi(at).mean())
            (slopes,) = torch.autograd.grad(value, at)
        return slopes


@dataclass(frozen=True)
class Variance(Measure):
    """S = half the unbiased variance of L(w + ρ·u_i)/ρ, for the Frobenius norm of the Hessian."""

    def weights(self, deltas: Tensor) -> Tensor:
        n = deltas.numel()
        return (deltas - deltas.mean()) / (n - 1)


def same(x: Tensor) -> Tensor:
    """x: φ and ψ of the trace."""
    return x


def inverse_square(x: Tensor) -> Tensor:
    """x⁻²: φ of the determinant."""
    return x**-2


def damped(x: Tensor) -> Tensor:
    """exp(−x/2): ψ of the determinant."""
    return torch.exp(-x / 2)


TRACE = Measure(same, same)
DETERMINANT = Measure(inverse_square, damped, "uniform")
FROBENIUS = Variance(same, same)


@dataclass(frozen=True)
class Around:
    """[w, w+ρu₁, ..., w+ρu_n], and u = g + λ·Σ weight_i·(g̃_i − g)/ρ^k."""

    measure: Measure
    lam: float = 1.0
    n: int = 1
    seed: int = 0
    paper_scaling: bool = False
    keeps_gradient: ClassVar[bool] = False
    splits: ClassVar[bool] = False
    needs_closure: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("lam", "n")
    common: ClassVar[tuple[str, ...]] = ("rho",)

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return bool(hyper["lam"] != 0)

    def __call__(self, step: Step) -> Program:
        if not self.perturbs(step.count, step.hyper):
            yield from plain_step(step)
            return
        rho = step.hyper["rho"] * step.factor
        first = yield Evaluate()
        g, losses, around = owned(first.gradient), [first.loss], []
        for i in range(step.hyper["n"]):
            u = step.draw(self.measure.draw, self.seed, i)
            if self.measure.draw == "uniform":  # on [−1, 1]
                torch._foreach_mul_(u.tensors, self.measure.width)
            there: Evaluation = yield Evaluate(at=step.displace(u, rho))
            around.append(owned(there.gradient))
            losses.append(there.loss)
        mine = torch.stack([torch.as_tensor(loss, dtype=torch.float64) for loss in losses])
        known = step.average(mine, first.examples).cpu()
        weights = self.measure.weights((known[1:] - known[0]) / rho**2)
        lam = step.hyper["lam"] / (rho**2 if self.paper_scaling else 1.0)
        yield Update(self._sum(g, around, (lam * weights).tolist()))

    @staticmethod
    def _sum(g: Gradient, around: list[Gradient], weights: list[float]) -> Gradient:
        out = g.like([t.clone() for t in g.tensors])
        for other, weight in zip(around, weights, strict=True):
            there = other.by_param()
            both = out.where(lambda p, there=there: p in there)  # type: ignore[misc]
            before = g.where(lambda p, there=there: p in there)  # type: ignore[misc]
            torch._foreach_add_(both.tensors, [there[p] for p in both.params], alpha=weight)
            torch._foreach_add_(both.tensors, before.tensors, alpha=-weight)
        return out


class UniversalSAM(SharpnessAware):
    """Tahmasebi et al. 2024 (arXiv 2406.03682): descend L + λ·S for a measure S of sharpness.

        S = φ(mean_i ψ(Δ_i)),   Δ_i = (L(w + ρ·u_i) − L(w))/ρ² ≈ ½·u_iᵀHu_i
        u = g + λ·φ′·mean_i ψ′(Δ_i)·(g̃_i − g)

    The factor 1/ρ² of ∇Δ_i is taken into λ, as in the authors' code; `paper_scaling` keeps it.
    Δ_i also contains ⟨g, u_i⟩/ρ, which has mean 0 and dominates away from stationary points.

    Args:
        measure: S: `TRACE`, `DETERMINANT`, `FROBENIUS`, or a `Measure` of your own.
        rho: ρ.
        lam: λ; 0 is the base optimizer.
        n: how many directions; at least 2 for the variance.
        seed: of the directions, with the step.
        paper_scaling: divide the sum by ρ², as the formula has it.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Call as ``step(closure)`` or ``step(loss_fn=..., batch=...)``. All groups have one ρ. Cost:
    1 + n passes; a copy of the parameters, and 1 + n gradients. The losses are read in every step,
    and averaged over devices. Confidence: high for trace, determinant and Frobenius, the authors'
    code agrees.

    Raises:
        InputError: n is too small, or parameters are sharded.
    """

    measure: ClassVar[Measure] = TRACE
    defaults_of: ClassVar[dict[str, Any]] = {"rho": 0.01, "lam": 1.0, "n": 1}

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        measure: Measure | None = None,
        rho: float | None = None,
        lam: float | None = None,
        n: int | None = None,
        seed: int = 0,
        paper_scaling: bool = False,
        **options: Any,
    ) -> None:
        measure = measure or self.measure
        given = {"rho": rho, "lam": lam, "n": n}
        use: dict[str, Any] = {k: self.defaults_of[k] if v is None else v for k, v in given.items()}
        check_number("lam", use["lam"], least=-math.inf)
        check_whole("n", use["n"], least=1)
        check_whole("seed", seed, least=0)
        if isinstance(measure, Variance) and use["n"] < 2:
            raise InputError(f"n is {use['n']}: a variance needs at least 2 directions")
        plan = Around(measure, use["lam"], use["n"], seed, paper_scaling)
        super().__init__(params, base, rho=use["rho"], plan=plan, **options)


class TraceSAM(UniversalSAM):
    """Tahmasebi et al. 2024 (arXiv 2406.03682): S = mean Δ_i, whose mean over directions is ½·tr H.

    Args:
        rho: ρ; with λ = 1 and n = 1 that of the authors' code.
        **options: everything that `UniversalSAM` takes but `measure`.

    Directions are Gaussian; the authors' "hypersphere" draw is not rescaled and is Gaussian too.
    Cost: 1 + n passes; a copy of the parameters, and 1 + n gradients. Confidence: high, the
    authors' code agrees.
    """


class DetSAM(UniversalSAM):
    """Tahmasebi et al. 2024 (arXiv 2406.03682): φ(x) = x⁻², ψ(x) = exp(−x/2) on a cube, for det H.

    Args:
        rho: ρ; with λ = 1, n = 1 and the cube [−0.01, 0.01] that of the authors' code.
        **options: everything that `UniversalSAM` takes but `measure`.

    Under a unit Gaussian the same formula has det(I + H) in place of det H. Cost: 1 + n passes; a
    copy of the parameters, and 1 + n gradients. Confidence: high, the authors' code agrees.
    """

    measure: ClassVar[Measure] = DETERMINANT
    defaults_of: ClassVar[dict[str, Any]] = {"rho": 1.0, "lam": 1.0, "n": 1}


class FrobSAM(UniversalSAM):
    """Tahmasebi et al. 2024 (arXiv 2406.03682): half the variance of L(w + ρ·u_i), for ‖H‖_F.

    It has ¼·ρ⁴·‖H‖_F² in it; its other part, ½·ρ²·‖g‖², dominates away from stationary points.

    Args:
        rho: ρ; with λ = 0.005 and n = 2 that of the authors' code.
        **options: everything that `UniversalSAM` takes but `measure`.

    Cost: 1 + n passes; a copy of the parameters, and 1 + n gradients. Confidence: high, the
    authors' code agrees.
    """

    measure: ClassVar[Measure] = FROBENIUS
    defaults_of: ClassVar[dict[str, Any]] = {"rho": 0.005, "lam": 0.005, "n": 2}
