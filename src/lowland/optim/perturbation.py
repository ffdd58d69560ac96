"""What ε is: selection, transform, metric, radius.

ε = φ(n)·M·d, with d the direction made from the gradient g (transform), M·d and the norm's parts
from the metric, n the norm over all selected tensors of all groups together, and φ the radius.
The transform comes before the metric; only the engine reduces the norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, unknown
from lowland.core.perturbation import wide_dtype
from lowland.core.selection import match_names, normalization_parameters
from lowland.core.sharding import local
from lowland.optim.checks import check_number
from lowland.optim.gradient import Part, remembered

State = dict[Tensor, dict[str, Any]]
SCOPES = ("global", "local")


class Selection(Protocol):
    """Which tensors move: (model, all parameters of the optimizer) → those that do."""

    def __call__(self, model: nn.Module | None, params: list[Tensor]) -> Sequence[Tensor]: ...


class Transform(Protocol):
    """From the gradient to the direction d, with a memory of earlier steps if it needs one."""

    defaults: ClassVar[tuple[str, ...]]

    @property
    def relative_guard(self) -> float:
        """Share of ‖g‖ below which ‖d‖ is rounding noise and ε = 0."""
        ...

    def direction(self, part: Part, state: State) -> list[Tensor]:
        """d of one group; reads state, changes nothing."""
        ...

    def update(self, part: Part, state: State) -> dict[str, list[Tensor]]:
        """New per-parameter state by key, from the gradient at w; written if the step is taken."""
        ...


class Metric(Protocol):
    """From d to (M·d, M^½·d), given the unperturbed weights: where to go, and what is measured.

    The norm n is the joint Euclidean norm of the second, over all groups.
    """

    defaults: ClassVar[tuple[str, ...]]

    def __call__(self, part: Part) -> tuple[list[Tensor], list[Tensor]]: ...


class Radius(Protocol):
    """(n, ρ) → φ(n), for n a float or a 0-dim tensor."""

    def __call__(self, norm: Any, rho: float) -> Any: ...


@dataclass(frozen=True)
class Everything:
    """All parameters."""

    def __call__(self, model: nn.Module | None, params: list[Tensor]) -> Sequence[Tensor]:
        return params


@dataclass(frozen=True)
class NormLayers:
    """Scale and shift of normalization layers, found by module type; or all the others.

    Attributes:
        invert: select everything but the normalization layers.
        classes: further module classes that count as normalization.
    """

    invert: bool = False
    classes: tuple[type[nn.Module], ...] = ()

    def __call__(self, model: nn.Module | None, params: list[Tensor]) -> Sequence[Tensor]:
        if model is None:
            raise InputError("selecting normalization layers needs the model: pass model=")
        chosen = set(normalization_parameters(model, self.classes))
        return [p for p in params if (p in chosen) != self.invert]


@dataclass(frozen=True)
class Named:
    """Parameters whose name in the model matches a glob, for example ``"head.*"``."""

    glob: str

    def __call__(self, model: nn.Module | None, params: list[Tensor]) -> Sequence[Tensor]:
        if model is None:
            raise InputError("selecting parameters by name needs the model: pass model=")
        names = dict(model.named_parameters())
        chosen = {names[name] for name in match_names(self.glob, names, "parameter")}
        return [p for p in params if p in chosen]


@dataclass(frozen=True)
class Euclidean:
    """M = 1: the direction itself, measured by its Euclidean norm."""

    defaults: ClassVar[tuple[str, ...]] = ()

    def __call__(self, part: Part) -> tuple[list[Tensor], list[Tensor]]:
        return part.tensors, part.tensors


@dataclass(frozen=True, eq=False)
class Elementwise:
    """ASAM's metric: M = T² with T = diag(|w| + η), and n = ‖T·d‖.

    T is read from the unperturbed weights; the gradient is not changed in place.

    Attributes:
        eta: η, kept in the parameter groups.
        unscaled: parameters with T = 1.
    """

    eta: float = 0.01
    unscaled: tuple[Tensor, ...] = ()
    defaults: ClassVar[tuple[str, ...]] = ("eta",)

    def __post_init__(self) -> None:
        check_number("eta", self.eta, least=0.0)

    def __call__(self, part: Part) -> tuple[list[Tensor], list[Tensor]]:
        outside = {id(p) for p in self.unscaled}
        inside = [i for i, p in enumerate(part.params) if id(p) not in outside]
        ahead, halfway = list(part.tensors), list(part.tensors)
        if inside:
            here = part.weights
            weights = [here[i].detach() for i in inside]
            scales = list(torch._foreach_abs([w.to(wide_dtype(w.dtype)) for w in weights]))
            if part.group["eta"]:
                torch._foreach_add_(scales, part.group["eta"])
            # in float32 for half types: w²·g leaves the range of float16
            once = torch._foreach_mul(scales, [part.tensors[i] for i in inside])
            twice = torch._foreach_mul(once, scales)
            for i, t, tt in zip(inside, once, twice, strict=True):
                halfway[i], ahead[i] = t, tt
        return ahead, halfway


@dataclass(frozen=True)
class MinusRunningMean:
    """F-SAM's transform: d = g − σ·m, with m a running mean of the gradients.

    m ← λ·m + (1−λ)·g after the step; m is the first gradient after the first step, which perturbs
    along g itself. ``ema="before"`` uses the mean without the present gradient, ``"after"`` with
    it; for σ = 1 both give the same direction. m is kept in ``state[p]["sam_ema"]``, in float32
    for half-precision parameters.

    With ``nonfinite="device"`` and a first step that is skipped, m starts as 0 instead.

    Where d is nothing but rounding noise (‖d‖ < 1e-6·‖g‖) there is no perturbation: normalizing
    noise would blow it up to the full radius.
    """

    sigma: float = 1.0
    ema_decay: float = 0.9
    ema: str = "before"
    relative_guard: float = 1e-6
    defaults: ClassVar[tuple[str, ...]] = ("sigma", "ema_decay")

    def __post_init__(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}: give a number in [0, 1)")
        check_number("sigma", self.sigma, least=-math.inf)
        if self.ema not in ("before", "after"):
            raise InputError(f"ema is {self.ema!r}: give 'before' or 'after'")

    def direction(self, part: Part, state: State) -> list[Tensor]:
        out = list(part.tensors)
        old = [i for i, p in enumerate(part.params) if remembered(state, p, "sam_ema") is not None]
        if old:
            if self.ema == "after":
                means = self._next([(part.params[i], part.tensors[i]) for i in old], part, state)
            else:
                means = [state[part.params[i]]["sam_ema"] for i in old]
                means = [local(m) for m in means]
            grads = [part.tensors[i].to(m.dtype) for i, m in zip(old, means, strict=True)]
            moved = torch._foreach_sub(grads, means, alpha=part.group["sigma"])
            for i, d in zip(old, moved, strict=True):
                out[i] = d
        return out

    def update(self, part: Part, state: State) -> dict[str, list[Tensor]]:
        pairs = list(zip(part.params, part.tensors, strict=True))
        return {"sam_ema": self._next(pairs, part, state)}

    @staticmethod
    def _next(pairs: list[tuple[Tensor, Tensor]], part: Part, state: State) -> list[Tensor]:
        decay = part.group["ema_decay"]
        wide = [g.to(wide_dtype(g.dtype)) for _, g in pairs]
        means = [remembered(state, p, "sam_ema") for p, _ in pairs]
        old = [i for i, m in enumerate(means) if m is not None]
        new = [g if means[i] is not None else g.clone() for i, g in enumerate(wide)]
        if old:
            before = [m for m in means if m is not None]
            after = torch._foreach_lerp(before, [wide[i] for i in old], 1 - decay)
            for i, m in zip(old, after, strict=True):
                new[i] = m
        return new


@dataclass(frozen=True)
class Normalized:
    """SAM's radius: φ(n) = ρ/(n + guard), so that ‖ε‖ = ρ up to ρ·guard/n; ε = 0 where n = 0."""

    guard: float = 1e-12

    def __call__(self, norm: Any, rho: float) -> Any:
        return rho / (norm + self.guard)


@dataclass(frozen=True)
class Perturbation:
    """ε = φ(n)·M·d: what moves, in which direction, under which metric, how far.

    Any combination works: F-SAM's direction on normalization layers with ASAM's metric is
    ``Perturbation(NormLayers(), MinusRunningMean(), Elementwise())``.

    Attributes:
        selection: which tensors move.
        transform: from g to the direction d; None is d = g.
        metric: M, and what is measured.
        radius: φ.
        across: with several devices, whose gradient g is: "global" is the mean over all of them
            (m is the whole batch), "local" is each device's own (m is the device's batch, ε
            differs between devices, and the first pass exchanges nothing).
    """

    selection: Selection = field(default_factory=Everything)
    transform: Transform | None = None
    metric: Metric = field(default_factory=Euclidean)
    radius: Radius = field(default_factory=Normalized)
    across: str = "global"

    def __post_init__(self) -> None:
        if self.across not in SCOPES:
            raise unknown("perturbation", self.across, SCOPES)

    def defaults(self) -> dict[str, Any]:
        """The hyperparameters that go into the parameter groups."""
        owners: list[Any] = [self.transform, self.metric]
        return {name: getattr(o, name) for o in owners if o is not None for name in o.defaults}
