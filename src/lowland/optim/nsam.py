"""n-SAM: ε from other data than the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.optim import Optimizer

from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import Evaluate, Program, Update
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class OtherData:
    """[w on other data, w+ε on the batch]."""

    data: Batches | None
    keeps_gradient: ClassVar[bool] = False
    splits: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ()

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        data = self.data() if callable(self.data) else self.data
        at = step.perturb((yield Evaluate(data=data, ascent=True)))
        second = yield Evaluate(at=at)
        yield Update(second.gradient)


class NSAM(SharpnessAware):
    """SAM whose ε comes from the whole training set, or from any other data.

        ε = ρ·g_D / ‖g_D‖ with g_D = ∇L_D(w),   u = ∇L_B(w + ε) on the batch B

    Foret et al. 2021 and Andriushchenko & Flammarion 2022 (arXiv 2206.06232) report that it gains
    nothing over plain training: what helps is m below the data set, not the worst weights as such.

    Args:
        ascent_data: D: batches of the loss function's arguments, or a function that gives them anew
            in every step (a loader, a sample, an independent batch). None takes the batch itself,
            which is SAM.
        rho: ρ = ‖ε‖.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Call as ``opt.step(loss_fn=..., batch=...)``. D is weighed by examples, and its forwards, at w,
    are the ones that move running statistics. ``opt.last.loss`` is not known, so there is no
    sharpness either. Cost: 1 + |D|/|B| passes; one copy of the parameters. Confidence: medium, from
    the text of both papers.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        ascent_data: Batches | None = None,
        rho: float = 0.05,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        rule = Perturbation(across=perturbation)
        plan = OtherData(ascent_data)
        super().__init__(params, base, rho=rho, perturbation=rule, plan=plan, **options)
