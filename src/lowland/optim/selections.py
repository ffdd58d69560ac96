"""Which tensors move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.selection import match_names, normalization_parameters, output_layer

MADE = (
    "the weight of the output layer {!r} is computed from other parameters (weight_norm, say), so "
    "it cannot move by itself: select those, as in perturbation=Perturbation(Named({!r})) of "
    "SharpnessAware"
)


class Selection(Protocol):
    """Which tensors move: (model, all parameters of the optimizer) → those that do."""

    def __call__(self, model: nn.Module | None, params: list[Tensor]) -> Sequence[Tensor]: ...


@dataclass(frozen=True)
class Everything:
    """All parameters."""

    def __call__(self, model: nn.Module | None, params: list[Tensor]) -> Sequence[Tensor]:
        return params


@dataclass(frozen=True)
class Matrices:
    """Parameters of two dimensions or more: no biases, no scales and shifts."""

    def __call__(self, model: nn.Module | None, params: list[Tensor]) -> Sequence[Tensor]:
        return [p for p in params if p.ndim > 1]


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
class OutputLayer:
    """Weight and bias of the linear layer that makes the outputs.

    Attributes:
        name: its name in the model; None takes the last linear layer.
        bias: whether its bias moves too.
    """

    name: str | None = None
    bias: bool = True

    def __call__(self, model: nn.Module | None, params: list[Tensor]) -> Sequence[Tensor]:
        if model is None:
            raise InputError("selecting the output layer needs the model: pass model=")
        head = output_layer(model, self.name)
        if "weight" not in head._parameters:
            name = next(k for k, m in model.named_modules() if m is head)
            raise InputError(MADE.format(name, f"{name}.*" if name else "*"))
        chosen = {head.weight, *([head.bias] if self.bias and head.bias is not None else [])}
        return [p for p in params if p in chosen]


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
