"""ESAM: some tensors in the ascent, some examples in the descent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.optim.checks import check_mode, check_number, check_whole
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import Evaluate, Program, Update
from lowland.optim.radii import Normalized
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step


@dataclass(frozen=True)
class Sampled:
    """[w on some tensors, losses at w+ε, w+ε on some examples]."""

    beta: float = 0.6
    gamma: float = 0.5
    seed: int = 0
    freeze: bool = False
    keeps_gradient: ClassVar[bool] = False
    splits: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("beta", "gamma")

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        step.need_one_batch()
        beta, gamma = step.hyper["beta"], step.hyper["gamma"]
        kept = self._tensors(step, beta)
        first = yield Evaluate(ascent=True, only=kept if self.freeze else None)
        before = first.each("ESAM") if gamma < 1 else None
        known = set(first.gradient.params)
        reached = kept is None or any(p in known for p in kept)
        at = step.perturb(first, 1 / beta, among=kept) if reached else []
        del first
        if before is None:
            second = yield Evaluate(at=at)
        else:
            many = max(1, int(gamma * before.numel()))

            def rise(losses: Tensor) -> Tensor:
                return (losses - before).topk(many).indices.sort().values

            second = yield Evaluate(at=at, choose=rise)
        yield Update(second.gradient)

    def _tensors(self, step: Step, beta: float) -> list[Tensor] | None:
        """The tensors of this step's ascent; None for all of them."""
        if beta == 1 or step.count == step.hyper["start"]:
            return None
        params = step.params
        draws = torch.rand(len(params), generator=step.generator(self.seed))
        kept = [p for p, draw in zip(params, draws.tolist(), strict=True) if draw < beta]
        return kept or params[-1:]


class ESAM(SharpnessAware):
    """Du et al. 2022 (arXiv 2110.03141): SAM on a share of the tensors and of the examples.

        ε = ρ·g_K / (β·(‖g_K‖ + 1e-7)) on tensors K, each kept with probability β:  ‖ε‖ = ρ/β
        u = mean of ∇ℓ_i(w + ε) over the ⌊γ·b⌋ examples with the largest ℓ_i(w + ε) − ℓ_i(w)

    Tensors are kept or not as wholes, as in the authors' code; the first step keeps all. If none
    were kept, the last one is. Ties and ⌊γ·b⌋ = 0 aside, the selected examples are one more than in
    the authors' code, which compares strictly.

    Args:
        rho: ρ, before the division by β.
        beta: β in (0, 1].
        gamma: γ in (0, 1]; 1 makes no selection and no forward for it. 0.6 (ResNet-18) or 0.5 and
            0.5 are the paper's, 1 and 1 the defaults of the authors' code.
        freeze: switch off `requires_grad` of the other tensors in the first pass, which makes its
            backward cheaper; a compiled model compiles anew for each choice, and DDP, which waits
            for every gradient, refuses it.
        seed: of the choice of tensors, with the step.
        perturbation: "global" or "local", as for `SAM`; every device selects its own examples.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Call as ``opt.step(loss_fn=per_example_loss, batch=...)``. Cost: 1 + γ passes and a forward; one
    copy of the parameters. With a forward a third of a plain step, β = 0.6 and γ = 0.5 make 1.83
    plain steps, 1.70 with `freeze`: the 1.4 of the paper's abstract is out of reach by these
    passes. On small networks the selection costs more than it saves.
    Confidence: high, the authors' code agrees.

    Raises:
        InputError: the loss function returns a mean, or β or γ is outside (0, 1].
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        beta: float = 0.6,
        gamma: float = 0.5,
        freeze: bool = False,
        seed: int = 0,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        for name, value in (("beta", beta), ("gamma", gamma)):
            check_number(name, value, least=0.0)
            if not 0 < value <= 1:
                raise InputError(f"{name} is {value}: give a number in (0, 1]")
        check_whole("seed", seed, least=0)
        check_mode("ESAM", options)
        rule = Perturbation(radius=Normalized(1e-7), across=perturbation)
        plan = Sampled(beta, gamma, seed, freeze)
        super().__init__(params, base, rho=rho, perturbation=rule, plan=plan, **options)
