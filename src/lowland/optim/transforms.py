"""From the gradient to the direction of ε."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.perturbation import centralized, wide_dtype
from lowland.core.sharding import local
from lowland.optim.checks import check_number
from lowland.optim.gradient import Part, remembered

State = dict[Tensor, dict[str, Any]]


class Transform(Protocol):
    """From the gradient to the direction d, with a memory of earlier steps if it needs one."""

    defaults: ClassVar[tuple[str, ...]]

    @property
    def remembers(self) -> bool:
        """Whether it has state to update."""
        ...

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
    remembers: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("sigma", "ema_decay")

    def __post_init__(self) -> None:
        _check_decay(self.ema_decay)
        check_number("sigma", self.sigma, least=-math.inf)
        if self.ema not in ("before", "after"):
            raise InputError(f"ema is {self.ema!r}: give 'before' or 'after'")

    def direction(self, part: Part, state: State) -> list[Tensor]:
        out = list(part.tensors)
        old = [i for i, p in enumerate(part.params) if remembered(state, p, "sam_ema") is not None]
        if old:
            if self.ema == "after":
                means = next_means([(part.params[i], part.tensors[i]) for i in old], part, state)
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
        return {"sam_ema": next_means(pairs, part, state)}


@dataclass(frozen=True)
class RunningMean:
    """d = m with m ← λ·m + (1−λ)·g, the present gradient taken in: what `MinusRunningMean` takes
    away, and nothing else. The state is the same.
    """

    ema_decay: float = 0.9
    relative_guard: ClassVar[float] = 0.0
    remembers: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("ema_decay",)

    def __post_init__(self) -> None:
        _check_decay(self.ema_decay)

    def direction(self, part: Part, state: State) -> list[Tensor]:
        return self.update(part, state)["sam_ema"]

    def update(self, part: Part, state: State) -> dict[str, list[Tensor]]:
        pairs = list(zip(part.params, part.tensors, strict=True))
        return {"sam_ema": next_means(pairs, part, state)}


def next_means(pairs: list[tuple[Tensor, Tensor]], part: Part, state: State) -> list[Tensor]:
    """m with the present gradients taken in; the gradients themselves where there is no m yet."""
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


def _check_decay(decay: float) -> None:
    if not 0 <= decay < 1:
        raise InputError(f"ema_decay is {decay}: give a number in [0, 1)")


@dataclass(frozen=True)
class Centralized:
    """GCSAM's transform: the mean over all axes but the first is taken from every tensor that has
    more than one, so that each output's weights get a direction of mean zero.

    Attributes:
        conv_only: only tensors of more than two axes.
    """

    conv_only: bool = False
    relative_guard: ClassVar[float] = 1e-6
    remembers: ClassVar[bool] = False
    defaults: ClassVar[tuple[str, ...]] = ()

    def direction(self, part: Part, state: State) -> list[Tensor]:
        least = 3 if self.conv_only else 2
        return [centralized(t) if t.ndim >= least else t for t in part.tensors]

    def update(self, part: Part, state: State) -> dict[str, list[Tensor]]:
        return {}
