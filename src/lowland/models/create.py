"""One name for every model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from lowland.core.errors import InputError, unknown
from lowland.models.mlp import MLP
from lowland.models.resnet import PostActResNet, PreActResNet

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Architecture:
    """How to build a model.

    Attributes:
        build: (shape, classes, width) -> network.
        width: the default width.
        smallest: smallest height and width of an image; the strides divide by so much.
    """

    build: Callable[[Shape, int, int], nn.Module]
    width: int
    smallest: int


def _preact_resnet18(shape: Shape, classes: int, width: int) -> nn.Module:
    return PreActResNet(shape[0], classes, widths=_doubling(width, 4), depth=2)


def _resnet18(shape: Shape, classes: int, width: int) -> nn.Module:
    return PostActResNet(shape[0], classes, widths=_doubling(width, 4), depth=2)


def _preact_resnet_small(shape: Shape, classes: int, width: int) -> nn.Module:
    return PreActResNet(shape[0], classes, widths=_doubling(width, 3), depth=1)


def _mlp(shape: Shape, classes: int, width: int) -> nn.Module:
    return MLP(math.prod(shape), classes, width=width)


def _doubling(width: int, count: int) -> list[int]:
    return [width * 2**i for i in range(count)]


MODELS = {
    "preact-resnet18": Architecture(_preact_resnet18, width=64, smallest=8),
    "resnet18": Architecture(_resnet18, width=64, smallest=8),
    "preact-resnet-small": Architecture(_preact_resnet_small, width=16, smallest=4),
    "mlp": Architecture(_mlp, width=128, smallest=1),
}
"""Names that `create` accepts.

``preact-resnet18`` and ``resnet18`` have four superblocks of two blocks with widths w, 2w, 4w,
8w; ``preact-resnet-small`` has three superblocks of one block with widths w, 2w, 4w; ``mlp`` has
two hidden layers of width w.
"""


def create(name: str, *, shape: Shape, classes: int, width: int | None = None) -> nn.Module:
    """A freshly initialised network, drawn from torch's global generator.

    Convolutions are Kaiming-normal (fan-out, ReLU gain), BatchNorm starts at scale 1 and shift
    0, linear layers keep PyTorch's default weights with zero biases.

    Args:
        name: one of `MODELS`.
        shape: channels, height and width of an image.
        classes: number of logits.
        width: see `MODELS`; None for the model's own default.

    Raises:
        InputError: unknown name, width or classes out of range, or image too small.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    architecture = MODELS[name]
    width = architecture.width if width is None else width
    if width < 1:
        raise InputError(f"width is {width}: use 1 or more")
    if classes < 2:
        raise InputError(f"classes is {classes}: use 2 or more")
    if min(shape) < 1 or min(shape[1:]) < architecture.smallest:
        raise InputError(
            f"{name} needs images of {architecture.smallest} pixels or more on each side, got "
            f"{shape[1]}x{shape[2]} with {shape[0]} channels: use another model or larger images"
        )
    model = architecture.build(shape, classes, width)
    _initialise(model)
    return model


def block_names(model: nn.Module) -> list[str]:
    """Names of the children whose outputs are features worth measuring, in order.

    Superblocks are ``block1``, ``block2``, ...; a pre-activation network has ``final`` (after
    its last BatchNorm and ReLU) too, and every residual network ``pool``. A forward hook on
    ``model.get_submodule(name)`` sees exactly that output. Return-blocks 1 to 3, 4 and 5 of
    M. Andriushchenko et al., Sharpness-aware minimization leads to low-rank features, 2023, are
    ``block1`` to ``block3``, ``final`` and ``pool`` of ``preact-resnet18``.
    """
    names = (name for name, _ in model.named_children())
    return [name for name in names if name.startswith("block") or name in {"final", "pool"}]


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
