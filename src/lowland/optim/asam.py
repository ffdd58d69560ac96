"""ASAM: adaptive sharpness-aware minimization."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lowland.core.errors import unknown
from lowland.optim.metrics import Elementwise, Filterwise, Layerwise
from lowland.optim.perturbation import Perturbation
from lowland.optim.sharpness_aware import SharpnessAware

KINDS = {"elementwise": Elementwise, "layerwise": Layerwise, "filterwise": Filterwise}


class ASAM(SharpnessAware):
    """Kwon et al. 2021 (arXiv 2102.11600): a ball that scales with the weights.

        ε = ρ·T²g / ‖T·g‖,   T = diag(|w| + η) on tensors named "...weight...", T = 1 on the rest

    so that ‖T⁻¹ε‖ = ρ. With η = 0 and no biases, rescaling the layers of a ReLU network leaves the
    perturbed function as it is. T is taken from the unperturbed weights.

    With p = ∞, ε = ρ·T·sign(g). T may also be one number for each layer, ‖w_l‖ + η, or for each
    filter.

    Args:
        rho: 0.5 for CIFAR-10, 1.0 for CIFAR-100 in the paper.
        norm: "elementwise", "layerwise" or "filterwise".
        p: the norm that bounds T⁻¹ε, above 1.
        eta: η, which keeps weights near zero movable.
        scale_bias: scale all tensors by T. Otherwise names tell weights from biases: pass
            ``model=`` or ``model.named_parameters()``. Without names all are scaled, with a
            warning. The scale of a normalization layer is named "weight" too.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Cost: 2 passes; one copy of the parameters, one more while ε is built. Confidence: high, the
    authors' code agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.5,
        norm: str = "elementwise",
        p: float = 2.0,
        eta: float = 0.01,
        scale_bias: bool = False,
        model: nn.Module | None = None,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        params = list(params)
        unscaled = () if scale_bias else biases(params, model)
        if norm not in KINDS:
            raise unknown("norm", norm, KINDS)
        metric = KINDS[norm](p=p, eta=eta, unscaled=unscaled)
        rule = Perturbation(metric=metric, across=perturbation)
        super().__init__(params, base, rho=rho, model=model, perturbation=rule, **options)


def biases(params: list[Any], model: nn.Module | None) -> tuple[Tensor, ...]:
    """The parameters without "weight" in their name."""
    flat: list[Any] = []
    for item in params:
        if isinstance(item, dict) and not isinstance(item["params"], Tensor):
            item["params"] = list(item["params"])
            flat += item["params"]
        else:
            flat.append(item)
    named = dict(item for item in flat if isinstance(item, tuple))
    if model is not None:
        named = dict(model.named_parameters())
    if not named:
        warnings.warn(
            "ASAM leaves biases unscaled but has no names to tell them by, so it scales all "
            "tensors: pass model=, or model.named_parameters(), or scale_bias=True",
            RuntimeWarning,
            stacklevel=4,
        )
    return tuple(p for name, p in named.items() if "weight" not in name)
