"""One name for every model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from lowland.core.errors import InputError, unknown
from lowland.models.mixer import Mixer
from lowland.models.mlp import MLP
from lowland.models.resnet import PostActResNet, PreActResNet
from lowland.models.vit import ViT

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Architecture:
    """How to build a model.

    Attributes:
        build: (shape, classes, width, depth) -> network.
        width: the default width.
        smallest: smallest height and width of an image; the strides divide by so much.
        patch: images are cut into squares of so many pixels; None where they are not.
        depth: the default depth: blocks in each superblock, hidden layers, or blocks.
        one_size: the network takes images of one size alone, the one that it was built for.
    """

    build: Callable[[Shape, int, int, int], nn.Module]
    width: int
    smallest: int
    patch: int | None = None
    depth: int = 1
    one_size: bool = False


def _preact(superblocks: int, depth: int, width: int, window: int | None = None) -> Architecture:
    def build(shape: Shape, classes: int, width: int, depth: int) -> nn.Module:
        # a window of 4 pools all of a 32-pixel image and leaves 2x2 means of a 64-pixel one
        side = (
            None if window is None else max(1, min(shape[1:]) // 2 ** (superblocks - 1) // window)
        )
        widths = _doubling(width, superblocks)
        return PreActResNet(shape[0], classes, widths=widths, depth=depth, pooled=side or 1)

    return Architecture(build, width=width, smallest=2 ** (superblocks - 1), depth=depth)


def _postact(superblocks: int, depth: int, width: int) -> Architecture:
    def build(shape: Shape, classes: int, width: int, depth: int) -> nn.Module:
        return PostActResNet(shape[0], classes, widths=_doubling(width, superblocks), depth=depth)

    return Architecture(build, width=width, smallest=2 ** (superblocks - 1), depth=depth)


def _mlp(shape: Shape, classes: int, width: int, depth: int) -> nn.Module:
    return MLP(math.prod(shape), classes, width=width, depth=depth)


def _vit(patch: int, depth: int, width: int) -> Architecture:
    def build(shape: Shape, classes: int, width: int, depth: int) -> nn.Module:
        size = {"size": shape[1], "patch": patch, "depth": depth}
        return ViT(shape[0], classes, width=width, heads=max(1, width // 64), **size)

    return Architecture(build, width=width, smallest=patch, depth=depth, patch=patch, one_size=True)


def _mixer(patch: int, depth: int, width: int) -> Architecture:
    def build(shape: Shape, classes: int, width: int, depth: int) -> nn.Module:
        return Mixer(shape[0], classes, size=shape[1], patch=patch, depth=depth, width=width)

    return Architecture(build, width=width, smallest=patch, depth=depth, patch=patch, one_size=True)


def _doubling(width: int, count: int) -> list[int]:
    return [width * 2**i for i in range(count)]


MODELS = {
    "preact-resnet18": _preact(4, depth=2, width=64),
    "preact-resnet18-4x4": _preact(4, depth=2, width=64, window=4),
    "resnet18": _postact(4, depth=2, width=64),
    "preact-resnet-small": _preact(3, depth=1, width=16),
    "resnet-small": _postact(3, depth=1, width=16),
    "mlp": Architecture(_mlp, width=128, smallest=1, depth=2, one_size=True),
    "vit-mini": _vit(patch=2, depth=4, width=64),
    "vit": _vit(patch=4, depth=6, width=192),
    "vit-ti4": _vit(patch=4, depth=12, width=192),
    "vit-b16": _vit(patch=16, depth=12, width=768),
    "vit-b32": _vit(patch=32, depth=12, width=768),
    "vit-l16": _vit(patch=16, depth=24, width=1024),
    "vit-l32": _vit(patch=32, depth=24, width=1024),
    "mixer-mini": _mixer(patch=2, depth=4, width=64),
    "mixer": _mixer(patch=4, depth=6, width=192),
    "mixer-ti4": _mixer(patch=4, depth=12, width=192),
    "mixer-b16": _mixer(patch=16, depth=12, width=768),
    "mixer-b32": _mixer(patch=32, depth=12, width=768),
    "mixer-l16": _mixer(patch=16, depth=24, width=1024),
}
"""Names that `create` accepts.

``preact-resnet18`` and ``resnet18`` have four superblocks of two blocks with widths w, 2w, 4w,
8w; ``preact-resnet-small`` and ``resnet-small`` have three superblocks of one block with widths w,
2w, 4w; ``mlp`` has two hidden layers of width w. ``preact-resnet18-4x4`` takes the mean over
windows of 4x4 positions before its head, not over all: of 64-pixel images it has 2x2 of them, as
the network of arXiv 2305.16292 for Tiny ImageNet, and of 32-pixel images it is
``preact-resnet18``. ``vit`` and ``mixer`` are small (patches of 4 pixels, 6 blocks of
width w), the minis smaller (2 pixels, 4 blocks), for images of 8 pixels; those named ti4 have the
depth and width of the papers' size Ti with patches of 4 pixels, and the others the sizes B and L
with patches of 16 or 32 pixels. A ViT has w/64 heads, at least one.
"""


def create(
    name: str,
    *,
    shape: Shape,
    classes: int,
    width: int | None = None,
    depth: int | None = None,
) -> nn.Module:
    """A freshly initialised network, drawn from torch's global generator.

    Convolutions are Kaiming-normal (fan-out, ReLU gain), BatchNorm starts at scale 1 and shift
    0, linear layers keep PyTorch's default weights with zero biases. Linear
    maps in the blocks of a ViT or Mixer are Xavier-uniform, as a ViT's were published (a Mixer's
    there are normal of variance 1/inputs), position embeddings N(0, 0.02²).

    Args:
        name: one of `MODELS`.
        shape: channels, height and width of an image.
        classes: number of logits.
        width: see `MODELS`; None for the model's own default.
        depth: blocks in each superblock of a residual network, hidden layers of ``mlp``, blocks of
            a ViT or Mixer; None for the model's own default.

    Raises:
        InputError: unknown name; width, depth or classes out of range; or image too small.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    architecture = MODELS[name]
    width = architecture.width if width is None else width
    depth = architecture.depth if depth is None else depth
    for what, value in (("width", width), ("depth", depth)):
        if value < 1:
            raise InputError(f"{what} is {value}: use 1 or more")
    if classes < 2:
        raise InputError(f"classes is {classes}: use 2 or more")
    if min(shape) < 1 or min(shape[1:]) < architecture.smallest:
        raise InputError(
            f"{name} needs images of {architecture.smallest} pixels or more on each side, got "
            f"{shape[1]}x{shape[2]} with {shape[0]} channels: use another model or larger images"
        )
    if architecture.patch is not None:
        _check_patches(name, shape, architecture.patch, width)
    model = architecture.build(shape, classes, width, depth)
    if architecture.patch is None:
        _initialise(model)
    return model


def _check_patches(name: str, shape: Shape, patch: int, width: int) -> None:
    if shape[1] != shape[2] or shape[1] % patch:
        raise InputError(
            f"{name} cuts images into patches of {patch}x{patch} pixels, got {shape[1]}x{shape[2]}:"
            f" use square images whose sides are a multiple of {patch}"
        )
    if name.startswith("vit") and width % max(1, width // 64):
        raise InputError(f"{name} of width {width} has {width // 64} heads: use a multiple of 64")


def block_names(model: nn.Module) -> list[str]:
    """Names of the children whose outputs are features worth measuring, in order.

    Superblocks are ``block1``, ``block2``, ...; a pre-activation network has ``final`` (after
    its last BatchNorm and ReLU) too, and every residual network ``pool``, which in a ViT is the
    class token and in a Mixer the mean token after the last LayerNorm. A forward hook on
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


def scale_weights(model: nn.Module, factor: float) -> None:
    """Multiply every weight matrix and kernel by `factor`, in place.

    Those are the parameters of two or more dimensions; biases, and scales and shifts of
    normalisation layers, stay. A ReLU network of L layers without biases then starts at
    factor**L times the function that it would have been; a layer that BatchNorm follows computes
    the same, and only moves more at a given learning rate.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
