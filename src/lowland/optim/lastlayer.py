"""SAM on the output layer only: last-layer SAM, and Logits-SAM for language models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from lowland.optim.gradient import Part
from lowland.optim.head import HeadPlan
from lowland.optim.metrics import Euclidean, Finish
from lowland.optim.perturbation import Perturbation
from lowland.optim.selections import OutputLayer
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step


class LastLayerSAM(SharpnessAware):
    """Springer et al. 2024 (arXiv 2405.20439): perturb the output layer, descend everything.

        ε = ρ·g_H / ‖g_H‖ on weight and bias of the last linear layer, 0 elsewhere

    Args:
        model: the network. Required.
        head: name of the output layer; None takes the last ``nn.Linear``.
        bias: perturb its bias too.
        one_forward: in ``step(loss_fn=, batch=)``, run the network once: its output layer alone
            runs again, at w+ε on the same features. None does so where it gives the same
            gradient; True raises where it would not; False never does.
        rho: ρ = ‖ε‖ over the output layer.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Raises:
        InputError: no model, or one without a linear layer; with ``one_forward=True`` also where
            the network's output is not that of its output layer.

    Cost: 1 pass, and the output layer and the loss a second time; 2 passes in the other forms, with
    ``batches=``, sharded or compiled networks, and in local perturbation unless ``one_forward`` is
    True. A copy of the output layer. One forward means the same random numbers (torch's) for both
    losses, dropout included, and what the network returns beside the logits is that of w. A weight
    that the network uses elsewhere too (tied embeddings) moves there as well, in two passes.
    Confidence: medium, from the text.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        model: nn.Module | None = None,
        head: str | None = None,
        bias: bool = True,
        rho: float = 0.05,
        one_forward: bool | None = None,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        rule = Perturbation(OutputLayer(head, bias), across=perturbation)
        plan = HeadPlan(model, head, one_forward)
        super().__init__(
            params, base, rho=rho, model=model, perturbation=rule, plan=plan, **options
        )


@dataclass(frozen=True)
class TimesWeight:
    """M·d = |w|⊙d, measured by its own norm."""

    p: ClassVar[float] = 2.0
    joint: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ()

    def __call__(self, part: Part, step: Step) -> tuple[list[Tensor], Finish | None]:
        pairs = zip(part.weights, part.tensors, strict=True)
        return [w.detach().abs() * t for w, t in pairs], None


class LogitsSAM(SharpnessAware):
    """Luo et al. 2026 (arXiv 2603.18258): SAM on the output layer of a language model, for DPO.

        ε = ρ·g_W / (‖g_W‖_F + 1e-12),   g_W = Σ (∂L/∂z)ᵀ·h,   z = h·Wᵀ;   u = ∇L(W + ε, rest)

    `LastLayerSAM` without bias, always by one forward. The embeddings may be tied to the layer:
    W+ε is for the layer's use alone, and does not move them.

    Args:
        model: the network. Required. Its output (or one entry of it) is the logits, as they are.
        head: name of the output layer, such as "lm_head"; None takes the last ``nn.Linear``.
        rho: ρ = ‖ε‖_F; between 1e-5 and 1e-3 in the paper, best 1e-4. (The authors' code has a
            default of 0.05, which is not what they used.)
        adaptive: ε along |W|⊙g_W, the norm likewise.
        one_forward: see `LastLayerSAM`; True here.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Raises:
        InputError: no model, or none with a linear layer; its output is not the logits.

    Call as ``opt.step(loss_fn=..., batch=...)``; with DPO the loss function runs the network on
    chosen and rejected answers (once or twice), and takes the reference's log-probabilities from
    the batch: a reference network that runs in it would run twice. Compute no loss inside the
    network (no ``labels=``). Cost: 1 pass, the output layer and the loss a second time; copies of
    the output layer. Confidence: high, the authors' code agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        model: nn.Module | None = None,
        head: str | None = None,
        rho: float = 1e-4,
        adaptive: bool = False,
        one_forward: bool | None = True,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        rule = Perturbation(
            OutputLayer(head, bias=False),
            metric=TimesWeight() if adaptive else Euclidean(),
            across=perturbation,
        )
        plan = HeadPlan(model, head, one_forward, alone=True)
        super().__init__(
            params, base, rho=rho, model=model, perturbation=rule, plan=plan, **options
        )
