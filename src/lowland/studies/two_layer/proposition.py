"""Proposition 1 of arXiv 2305.16292: what one step of SAM does to the inner weights, term by term.

With ℓ = r²/2, f(x) = Σ_j a_j·σ(w_j·x̃) + c, x̃ = (x, 1), σ = ReLU and N = ‖∇f‖, the gradient at
the perturbed weights θ + ρ·∇ℓ/‖∇ℓ‖ is, up to O(ρ²),

    ∂/∂w_j:  r·(1 + ρN/|r|)·a_j·σ'_j·x̃   (data fitting)   +   ρ·|r|/N·σ_j·x̃   (regularisation),

the gradient of ℓ + ρ·‖∇ℓ‖ = ℓ + ρ·|r|·N. A step of size η lowers the pre-activation w_j·x̃ by
η·ρ·|r|/N·σ_j·‖x̃‖² ≥ 0 through the second term. The paper has √ℓ in place of |r|; with the
ℓ = r²/2 that its proof needs, |r| = √(2ℓ).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.studies.two_layer.activations import Activation, with_ones
from lowland.studies.two_layer.draws import Network

RADII = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


@dataclass(frozen=True, kw_only=True)
class SamStep:
    """The gradient by the inner weights at the perturbed weights, for one network and its inputs.

    Attributes:
        gradient: (examples, d + 1, units) what SAM descends for each example alone, exactly.
        data_fitting: the same shape, the first term of the proposition.
        regularisation: the second.
        by_slope: (examples,) the multiple of a_j·σ'_j·x̃ in `gradient`, by least squares.
        by_value: (examples,) the multiple of σ_j·x̃.
        residual: (examples,) r.
        length: (examples,) N.
    """

    gradient: Tensor
    data_fitting: Tensor
    regularisation: Tensor
    by_slope: Tensor
    by_value: Tensor
    residual: Tensor
    length: Tensor

    def remainder(self) -> Tensor:
        """(examples,) norm of what the two terms leave, over the norm of the gradient."""
        left = self.gradient - self.data_fitting - self.regularisation
        size: Tensor = torch.linalg.vector_norm(left, dim=(1, 2))
        whole: Tensor = torch.linalg.vector_norm(self.gradient, dim=(1, 2))
        return size / whole


def sam_step(network: Network, x: Tensor, y: Tensor, rho: float, activation: Activation) -> SamStep:
    """The step of SAM on every example alone, with ℓ = r²/2, and its two terms.

    Args:
        network: of one run.
        x: (examples, d) inputs.
        y: (examples,) targets.
        rho: ρ > 0.
        activation: ReLU, for which the proposition is stated: σ·σ' = σ and σ'' = 0.
    """
    inputs = with_ones(x)
    weight, outer, offset = network.weight[0], network.outer[0], network.offset[0]
    value, slope = activation.both(inputs @ weight)
    r = value @ outer + offset - y
    square = inputs.square().sum(1)
    along = outer * slope
    length = (value.square().sum(1) + square * along.square().sum(1) + 1).sqrt()
    # θ + ρ·sign(r)·∇f/N
    s = (rho * r.sign() / length)[:, None]
    moved_outer = outer + s * value
    moved, moved_slope = activation.both(inputs @ weight + s * square[:, None] * along)
    moved_r = (moved * moved_outer).sum(1) + offset + s[:, 0] - y
    by_unit = moved_r[:, None] * moved_outer * moved_slope
    fitting = (r * (1 + rho * length / r.abs()))[:, None] * along
    pruning = (rho * r.abs() / length)[:, None] * value
    pair = torch.stack([along, value], -1)
    found = torch.linalg.lstsq(pair, by_unit[..., None]).solution[..., 0]
    return SamStep(
        gradient=_outer(inputs, by_unit),
        data_fitting=_outer(inputs, fitting),
        regularisation=_outer(inputs, pruning),
        by_slope=found[:, 0],
        by_value=found[:, 1],
        residual=r,
        length=length,
    )


def _outer(inputs: Tensor, by_unit: Tensor) -> Tensor:
    return inputs[:, :, None] * by_unit[:, None]


def check(network: Network, x: Tensor, y: Tensor, activation: Activation) -> dict[str, float]:
    """The proposition on one network, in numbers.

    Returns:
        ``remainder/RHO``, the median over examples of what the two terms leave, relative;
        ``order``, the exponent of ρ in it between the two smallest radii; ``constant/residual``
        and ``constant/loss``, the measured multiple of σ_j·x̃ at the smallest ρ over ρ·|r|/N and
        over ρ·√ℓ/N (medians); ``fitting``, the measured multiple of a_j·σ'_j·x̃ over
        r·(1 + ρN/|r|); ``lowered``, the share of examples where the multiple of σ_j·x̃ is at
        least 0.
    """
    exact = Network(*(part.double() for part in (network.weight, network.outer, network.offset)))
    x, y = x.double(), y.double()
    found, sizes = {}, []
    for rho in RADII:
        step = sam_step(exact, x, y, rho, activation)
        sizes.append(step.remainder())
        found[f"remainder/{rho:g}"] = float(sizes[-1].median())
    last = RADII[-1]
    ratio = step.by_value / (last * step.residual.abs() / step.length)
    fitted = step.residual * (1 + last * step.length / step.residual.abs())
    orders = (sizes[-2] / sizes[-1]).log() / torch.tensor(RADII[-2] / last).log()
    return {
        **found,
        "order": float(orders.median()),
        "constant/residual": float(ratio.median()),
        "constant/loss": float(ratio.median()) * 2**0.5,
        "fitting": float((step.by_slope / fitted).median()),
        "lowered": float((step.by_value >= 0).double().mean()),
    }
