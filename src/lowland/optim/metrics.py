"""How far a direction is, and which direction is steepest: from d to M·d and the norm n.

With the scaling T (1, |w| + η, a norm of a layer, ...) and exponents 1/p + 1/q = 1,

    n = ‖T·d‖_q,   M·d = T·J(T·d),   J(v) = sign(v)·|v|^(q−1)

so that ε = ρ·M·d / n^(q−1) has ‖T⁻¹ε‖_p = ρ and is the steepest of all that have. For p = 2, J is
the identity; for p = ∞ it is the sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.perturbation import wide_dtype
from lowland.core.sharding import rows_are_whole
from lowland.optim.checks import check_number
from lowland.optim.gradient import Part

if TYPE_CHECKING:
    from lowland.optim.step import Step

Finish = Callable[[list[Tensor]], list[Tensor]]


class Metric(Protocol):
    """From d to what is measured, T·d, and from that to where to go, M·d, at w.

    Called with the directions of one group, it returns the measured tensors and a function that
    makes M·d of them, which is called once, at w, when the norm is known, and may use their memory;
    None if they are M·d already.

    Attributes:
        p: ε is bounded in this norm, measured is the dual one.
        joint: one norm over all tensors together; otherwise one for each tensor.
    """

    defaults: ClassVar[tuple[str, ...]]
    joint: ClassVar[bool]

    @property
    def p(self) -> float: ...

    def __call__(self, part: Part, step: Step) -> tuple[list[Tensor], Finish | None]: ...


def dual_exponent(p: float) -> float:
    """q with 1/p + 1/q = 1.

    >>> dual_exponent(2.0), dual_exponent(math.inf)
    (2.0, 1.0)
    """
    return 1.0 if p == math.inf else p / (p - 1)


@dataclass(frozen=True)
class Scaled:
    """A diagonal metric: subclasses say what T is.

    Attributes:
        p: the norm that bounds T⁻¹ε, above 1; ``math.inf`` bounds every element.
    """

    p: float = 2.0
    joint: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if isinstance(self.p, bool) or not (isinstance(self.p, int | float) and self.p > 1):
            raise InputError(f"p is {self.p!r}: give a number above 1, or math.inf")

    def scales(self, part: Part, step: Step) -> dict[int, Tensor | float]:
        """T by position, where it is not 1: new tensors that broadcast, or numbers."""
        return {}

    def __call__(self, part: Part, step: Step) -> tuple[list[Tensor], Finish | None]:
        scales = self.scales(part, step)
        measured = _times(part.tensors, scales)
        if not scales and self.p == 2:
            return measured, None
        del scales
        here = Part(part.group, part.params, [])  # not the gradient, which is let go of before

        def finish(measured: list[Tensor]) -> list[Tensor]:
            # T is made again: for the time of the norm it would be one more copy of the weights
            steep = measured if self.p == 2 else [_steepest(t, self.p) for t in measured]
            return _times(steep, self.scales(here, step))

        return measured, finish


def _times(tensors: list[Tensor], scales: dict[int, Tensor | float]) -> list[Tensor]:
    """T·t; the scales are used up, the tensors are not."""
    out = list(tensors)
    made: list[Tensor] = []
    whole: list[int] = []
    for i, scale in scales.items():
        if isinstance(scale, Tensor) and scale.shape == tensors[i].shape:
            whole.append(i)
            made.append(scale)
        else:
            out[i] = tensors[i].to(wide_dtype(tensors[i].dtype)) * scale
    if whole:
        torch._foreach_mul_(made, [tensors[i] for i in whole])
        for i, t in zip(whole, made, strict=True):
            out[i] = t
    return out


def _steepest(t: Tensor, p: float) -> Tensor:
    if p == math.inf:
        return t.sign()
    wide = t.to(wide_dtype(t.dtype))
    return wide.sign() * wide.abs() ** (dual_exponent(p) - 1)


@dataclass(frozen=True)
class Euclidean(Scaled):
    """T = 1: the direction itself, measured by its norm."""


@dataclass(frozen=True, eq=False)
class Elementwise(Scaled):
    """ASAM's metric: T = diag(|w| + η).

    T is read from the unperturbed weights; the gradient is not changed in place.

    Attributes:
        eta: η, kept in the parameter groups.
        unscaled: parameters with T = 1.
    """

    eta: float = 0.01
    unscaled: tuple[Tensor, ...] = ()
    defaults: ClassVar[tuple[str, ...]] = ("eta",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, least=0.0)

    def inside(self, part: Part) -> list[int]:
        """Positions of the tensors that are scaled."""
        check_number("eta", part.group["eta"], least=0.0)
        outside = {id(p) for p in self.unscaled}
        return [i for i, p in enumerate(part.params) if id(p) not in outside]

    def scales(self, part: Part, step: Step) -> dict[int, Tensor | float]:
        inside = self.inside(part)
        if not inside:
            return {}
        here = part.weights
        weights = [here[i].detach() for i in inside]
        # in float32 for half types: w²·g leaves the range of float16
        scales = list(torch._foreach_abs([w.to(wide_dtype(w.dtype)) for w in weights]))
        if part.group["eta"]:
            torch._foreach_add_(scales, part.group["eta"])
        return dict(zip(inside, scales, strict=True))


@dataclass(frozen=True, eq=False)
class Layerwise(Elementwise):
    """ASAM's coarsest metric: T = ‖w_l‖ + η, one number for each tensor."""

    def scales(self, part: Part, step: Step) -> dict[int, Tensor | float]:
        inside = self.inside(part)
        if not inside:
            return {}
        weights, params = part.weights, part.params
        norms = step.norms([params[i] for i in inside], [weights[i].detach() for i in inside])
        return {i: n + part.group["eta"] for i, n in zip(inside, norms, strict=True)}


@dataclass(frozen=True, eq=False)
class Filterwise(Elementwise):
    """ASAM's metric by filters: T = ‖w_f‖ + η for each output channel f of tensors with several
    axes, and |w| + η for the others."""

    def scales(self, part: Part, step: Step) -> dict[int, Tensor | float]:
        eta, weights = part.group["eta"], part.weights
        found: dict[int, Tensor | float] = {}
        for i in self.inside(part):
            w = weights[i].detach()
            w = w.to(wide_dtype(w.dtype))
            if part.params[i].ndim < 2:
                found[i] = w.abs().add_(eta)
                continue
            if not rows_are_whole(part.params[i]):
                raise InputError(
                    "filterwise ASAM needs whole filters, and these are split over devices along "
                    "another axis than the first: use the layerwise or elementwise metric"
                )
            norms = torch.linalg.vector_norm(w.flatten(1), dim=1) + eta
            found[i] = norms.view(-1, *[1] * (w.ndim - 1))
        return found


@dataclass(frozen=True)
class PerTensor(Scaled):
    """One norm for each tensor: every tensor moves by ρ.

    Attributes:
        by_weight: every tensor moves by ρ·‖w_l‖ instead.
    """

    by_weight: bool = False
    joint: ClassVar[bool] = False

    def __call__(self, part: Part, step: Step) -> tuple[list[Tensor], Finish | None]:
        measured, finish = super().__call__(part, step)
        if not self.by_weight:
            return measured, finish

        here = Part(part.group, part.params, [])

        def by_weight(measured: list[Tensor]) -> list[Tensor]:
            steep = measured if finish is None else finish(measured)
            norms = step.norms(here.params, [w.detach() for w in here.weights])
            return [t.to(wide_dtype(t.dtype)) * n for t, n in zip(steep, norms, strict=True)]

        return measured, by_weight


@dataclass(frozen=True, eq=False)
class Fixed(Scaled):
    """T is a number for each parameter, 1 for those that are not named.

    Attributes:
        factors: T by parameter.
    """

    factors: Mapping[Tensor, float] = field(default_factory=dict)

    def scales(self, part: Part, step: Step) -> dict[int, Tensor | float]:
        numbers = [self.factors.get(p, 1.0) for p in part.params]
        return {i: number for i, number in enumerate(numbers) if number != 1.0}
