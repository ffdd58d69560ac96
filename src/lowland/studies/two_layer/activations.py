"""Activations with two derivatives, and the published settings that go with each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from lowland.core.errors import unknown

Shape = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Activation:
    """An activation σ and how its networks were trained in arXiv 2305.16292's released runs.

    Attributes:
        name: "relu", "tanh" or "abs".
        both: h -> σ(h), σ'(h).
        second: (σ, σ') -> σ''; None where that is zero almost everywhere.
        learning_rate: constant step size. (The paper says 0.1 for all.)
        initial_scale: standard deviation of all initial weights and biases. (The paper says 0.3.)
        radii: ρ of SAM.
        least: a unit is active where |σ| reaches this on some example; 0 asks for σ > 0.
    """

    name: str
    both: Callable[[Tensor], Shape]
    second: Callable[[Tensor, Tensor], Tensor] | None
    learning_rate: float
    initial_scale: float
    radii: tuple[float, ...]
    least: float

    def __call__(self, h: Tensor) -> Tensor:
        return self.both(h)[0]

    def active(self, values: Tensor, *, rounding: float = 0.0) -> Tensor:
        """(…, units) whether units of values (…, examples, units) are active on some example.

        Where σ > 0 is asked for: above `rounding` times the largest value of all units. SAM brings
        units to the kink of the ReLU and holds them there, within 1e-8 of it in float32, and which
        of those are above zero is decided by the order of additions.
        """
        if self.least == 0:
            largest = values.amax((-2, -1), keepdim=True)
            return (values > rounding * largest).any(-2)
        return (values.abs() >= self.least).any(-2)


def _relu(h: Tensor) -> Shape:
    value = h.clamp_min(0)
    return value, (h > 0).to(h.dtype)


def _tanh(h: Tensor) -> Shape:
    value = torch.tanh(h)
    return value, 1 - value * value


def _abs(h: Tensor) -> Shape:
    return h.abs(), h.sign()


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        activation.name: activation
        for activation in (
            Activation("relu", _relu, None, 0.1, 0.3, (0.0, 0.1, 0.2, 0.4, 0.6), 0.0),
            Activation(
                "tanh",
                _tanh,
                lambda value, slope: -2 * value * slope,
                0.005,
                1.0,
                (0.0, 0.2, 0.4, 0.6, 0.8),
                0.05,
            ),
            Activation("abs", _abs, None, 0.01, 0.3, (0.0, 0.1, 0.2, 0.3, 0.4), 0.05),
        )
    }
)
"""Every activation by name."""

PENALTIES = (0.0, 0.1, 0.2, 0.3, 0.35, 0.38)
"""λ of the published gradient-norm regularisation."""


def get_activation(name: str) -> Activation:
    """An activation by name.

    Raises:
        InputError: there is none.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def with_ones(x: Tensor) -> Tensor:
    """(…, d + 1): inputs with a 1 at the end, so that a bias is a weight."""
    return torch.cat([x, torch.ones_like(x[..., :1])], -1)
