"""RW-SAM: examples with steep losses weigh more in ε."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowland.core.perturbation import wide_dtype
from lowland.optim.checks import check_mode, check_number, check_whole
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import Evaluate, Program, Update
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step


@dataclass(frozen=True)
class Reweighted:
    """[losses at w+δz, weighted gradient at w, gradient at w+ε]."""

    lam: float = 1.0
    delta: float = 1e-3
    seed: int = 0
    keeps_gradient: ClassVar[bool] = False
    splits: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("lam", "delta")

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        step.need_one_batch()
        lam, delta = step.hyper["lam"], step.hyper["delta"]
        z = step.draw("sign", self.seed)
        # before the pass at w, whose graph would not survive a move of the weights
        near = (yield Evaluate(at=step.displace(z, delta), gradient=False)).each("RW-SAM")

        def weights(losses: Tensor) -> Tensor:
            wide = wide_dtype(losses.dtype)
            slopes = (near.to(wide) - losses.to(wide)).abs() / delta
            return torch.softmax(lam * slopes, 0)

        first = yield Evaluate(weigh=weights, ascent=True, again=True)
        at = step.perturb(first)
        del first
        second = yield Evaluate(at=at)
        yield Update(second.gradient)


class RWSAM(SharpnessAware):
    """Luo et al. 2025 (arXiv 2509.18001): ε from the examples whose losses are steepest.

        s_i = |ℓ_i(w + δz) − ℓ_i(w)| / δ,   p = softmax(λ·s),   z ∈ {−1, 1}^d, one for the batch
        ε = ρ·ĝ_p with g_p = Σ p_i·∇ℓ_i(w),   u = ∇L(w + ε) with equal weights

    |⟨z, ∇ℓ_i⟩| has mean 0.8·‖∇ℓ_i‖. With several devices z is the same on all, and each takes the
    softmax over its own examples.

    Args:
        rho: ρ = ‖ε‖.
        lam: λ; 0 is SAM, large ones perturb along the steepest example. Neither λ nor δ has a
            published default; 0.1, 1 and 10 are a start.
        delta: δ. Differences of losses below float32's rounding are noise: do not go much lower.
        seed: of z, with the step.
        replay_rng: the same dropout masks in all three forwards, without which s is mostly noise.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Call as ``opt.step(loss_fn=per_example_loss, batch=...)``. Cost: 2 passes and a forward; one
    copy of the parameters, z for the time of that forward. Confidence: medium, rule from the text.

    Raises:
        InputError: parameters are sharded.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        lam: float = 1.0,
        delta: float = 1e-3,
        seed: int = 0,
        replay_rng: bool = True,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        check_number("lam", lam, least=0.0)
        check_number("delta", delta, least=1e-12)
        check_whole("seed", seed, least=0)
        check_mode("RW-SAM", options)
        super().__init__(
            params,
            base,
            rho=rho,
            perturbation=Perturbation(across=perturbation),
            plan=Reweighted(lam, delta, seed),
            replay_rng=replay_rng,
            **options,
        )
