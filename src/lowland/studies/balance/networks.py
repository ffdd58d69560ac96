"""The small networks of the study, without buffers, so that many can be trained as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from lowland.core.seeds import derived_seed

Shape = tuple[int, int, int]


class Network(nn.Module):
    """A body and a linear head on its output.

    Attributes:
        body: (b, c, h, w) -> (b, d), the penultimate features.
        head: (b, d) -> (b, classes).
    """

    def __init__(self, body: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """The penultimate features, what probes are fitted to."""
        found: Tensor = self.body(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.features(x))
        return logits


def mlp(shape: Shape, classes: int, width: int = 64) -> Network:
    """Two hidden layers of `width` ReLU units."""
    body = nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
    )
    return Network(body, width, classes)


def cnn(shape: Shape, classes: int, width: int = 64) -> Network:
    """Two convolutions of 3x3 and stride 2 with width/4 channels, then `width` units, all ReLU."""
    channels, height, breadth = shape
    places = math.prod(-(-side // 4) for side in (height, breadth))
    between = max(width // 4, 1)
    body = nn.Sequential(
        nn.Conv2d(channels, between, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(between, between, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(between * places, width),
        nn.ReLU(),
    )
    return Network(body, width, classes)


NETWORKS: Mapping[str, Callable[[Shape, int, int], Network]] = MappingProxyType(
    {"mlp": mlp, "cnn": cnn}
)
"""The networks by name."""


def initialised(make: Callable[[], Network], seed: int) -> Network:
    """A network at the initialisation of a seed; the global generator is left as it was.

    Args:
        make: builds the network, which draws from torch's CPU generator.
        seed: of the initialisation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "initialisation"))
        return make()
