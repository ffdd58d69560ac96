"""Encoders of images by name, without their heads, with the pixels that they want."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, one_line, unknown
from lowland.core.seeds import derived_seed
from lowland.data import Pairs
from lowland.models import ViT, create
from lowland.models.hub import (
    image_settings,
    timm_network,
    transformers_network,
    transformers_place,
)
from lowland.train.contrastive.recipe import ContrastiveRecipe

VIT = {"patch": 4, "width": 192, "depth": 6, "heads": 3}
"""What the options of ``vit`` are where they are left out."""


@dataclass(frozen=True, eq=False)
class ImageTower:
    """An encoder of images.

    Attributes:
        module: images (b, c, h, w) -> features (b, width).
        width: number of features.
        mean, std: per channel, of values in [0, 1]: what pixels are normalised by.
        channels: channels that it reads; grey images are repeated.
    """

    module: nn.Module
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int

    def inputs(self, images: Tensor, largest: float) -> Tensor:
        """uint8 images as the encoder wants them, float32."""
        values = images.float() / largest
        if values.shape[1] != self.channels:
            values = values.expand(-1, self.channels, -1, -1)
        mean, std = (
            torch.tensor(numbers, device=images.device).view(-1, 1, 1)
            for numbers in (self.mean, self.std)
        )
        return (values - mean) / std


def build_images(recipe: ContrastiveRecipe, data: Pairs) -> ImageTower:
    """The image tower of a recipe for these data, initialised from its seed.

    Raises:
        InputError: it cannot be made, or cannot read these images.
    """
    kind = recipe.image.partition(":")[0]
    own = tuple(m / data.largest for m in data.mean), tuple(s / data.largest for s in data.std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(recipe.seed, "initialisation", "image"))
        if kind == "timm":
            module, pixels = _timm(recipe)
        elif kind == "hf":
            module, pixels = _transformers(recipe)
        else:
            module, pixels = _own(recipe, data), own
    mean, std = ((0.0,), (1.0,)) if recipe.pixels == "unit" else pixels
    channels = data.shape[0] if kind not in ("timm", "hf") else 3
    if channels < data.shape[0]:
        raise InputError(f"{recipe.image} reads {channels} channels, images have {data.shape[0]}")
    silent_dropout(module, paths="drop_path_rate" not in dict(recipe.image_options))
    tower = ImageTower(module, 0, mean, std, channels)
    return replace(tower, width=_width(recipe, tower, data))


def silent_dropout(module: nn.Module, *, paths: bool = True) -> None:
    """Set every rate of dropout to 0: fine-tuning here is without.

    Rates are the ``p`` of torch's layers, and numbers with "drop" in their name that modules of
    timm and transformers, or their configurations, hold and hand to functions (``dropout``,
    ``attention_dropout``, ``layerdrop``, ...).

    Args:
        module: an encoder.
        paths: stochastic depth too (``drop_prob``, ``drop_path_rate``).
    """
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = 0.0
        for holder in (part, getattr(part, "config", None)):
            named = list(vars(holder).items()) if hasattr(holder, "__dict__") else []
            for name, value in named:
                if "drop" in name and isinstance(value, float) and (paths or "drop_p" not in name):
                    setattr(holder, name, 0.0)


def _own(recipe: ContrastiveRecipe, data: Pairs) -> nn.Module:
    options = dict(recipe.image_options)
    if recipe.image == "vit":
        for key in options:
            if key not in VIT:
                raise unknown("option of vit", key, VIT)
        sizes: dict[str, Any] = {**VIT, **options}
        _check_vit(sizes, data.shape)
        whole: nn.Module = ViT(data.shape[0], 2, size=data.shape[1], **sizes)
    else:
        if strange := set(options) - {"width"}:
            raise unknown(f"option of {recipe.image}", min(strange), ["width"])
        width: Any = options.get("width")
        whole = create(recipe.image, shape=data.shape, classes=2, width=width)
    # every network here is a sequence that ends in its logits
    assert isinstance(whole, nn.Sequential)
    del whole[-1]
    return whole


def _check_vit(sizes: dict[str, Any], shape: tuple[int, int, int]) -> None:
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"image_options: {name} must be a whole number from 1, not {value!r}")
    if shape[1] != shape[2] or shape[1] % sizes["patch"]:
        raise InputError(
            f"images are {shape[1]}x{shape[2]}, patches {sizes['patch']}: set size to a multiple "
            "of image_options=patch=..."
        )
    if sizes["width"] % sizes["heads"]:
        raise InputError(f"image_options: {sizes['heads']} heads do not divide {sizes['width']}")


def _timm(recipe: ContrastiveRecipe) -> tuple[nn.Module, Any]:
    options = dict(recipe.image_options)
    pretrained = bool(options.pop("pretrained", True))
    module, config = timm_network(
        recipe.image, recipe.image, pretrained=pretrained, num_classes=0, **options
    )
    return module, (tuple(config["mean"]), tuple(config["std"]))


def _transformers(recipe: ContrastiveRecipe) -> tuple[nn.Module, Any]:
    where = transformers_place(recipe.image)
    module, _, _ = transformers_network(recipe.image, where, heads=False)
    settings = image_settings(where) or {}
    mean, std = settings.get("image_mean", (0.0,)), settings.get("image_std", (1.0,))
    return FirstOrMean(module), (tuple(mean), tuple(std))


class FirstOrMean(nn.Module):
    """A network of transformers: its first token, or the mean over positions where it has none."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        drop_pooler(network)
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (b, d)."""
        states: Tensor = self.network(pixel_values=pixels).last_hidden_state
        return states[:, 0] if states.ndim == 3 else states.flatten(2).mean(2)


def drop_pooler(network: nn.Module) -> None:
    """Take out a layer that nothing here reads: it would be kept, and never trained."""
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # type: ignore[assignment]


def _width(recipe: ContrastiveRecipe, tower: ImageTower, data: Pairs) -> int:
    """Number of features, found out on a black image."""
    blank = torch.zeros(2, *data.shape, dtype=torch.uint8)
    training = tower.module.training
    try:
        with torch.no_grad():
            found = tower.module.eval()(tower.inputs(blank, data.largest))
    except Exception as error:  # whatever a network says to images of another size
        raise InputError(
            f"{recipe.image} cannot read images of shape {data.shape} ({one_line(error)}): set "
            "size to what it reads"
        ) from None
    tower.module.train(training)
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise InputError(f"{recipe.image} gives no vector for an image: choose another encoder")
    return int(found.shape[1])
