"""From stored images to a network's inputs: size, range, normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lowland.core.errors import InputError, unknown

Interpolation = Literal["bilinear", "bicubic", "nearest"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, crop the centre, scale to [0, `unit`], subtract `mean`, divide by `std`.

    Attributes:
        mean, std: one number per channel, of values that reach up to `unit`.
        size: height and width of the network's images; None leaves images as they are.
        resize: the shorter side before the centre crop; None for that of `size`. With `squash`
            height and width are resized to `size` each for itself, and nothing is cropped.
        squash: see `resize`.
        interpolation: how images are resized, with antialiasing ("nearest" has none).
        unit: what the largest value that can be stored becomes: 1 for values in [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    resize: int | None = None
    squash: bool = False
    interpolation: str = "bilinear"
    unit: float = 1.0

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS)
        if not self.mean or len(self.mean) != len(self.std):
            raise InputError(
                f"mean has {len(self.mean)} numbers, std {len(self.std)}: give one per channel"
            )
        if any(not s > 0 for s in self.std):
            raise InputError(f"std is {self.std}: give numbers above 0")
        for side in (*(self.size or ()), *((self.resize,) if self.resize else ())):
            if side < 1:
                raise InputError(f"size is {side}: give 1 pixel or more")

    @property
    def channels(self) -> int | None:
        """Channels of the network's images; None if one number stands for all."""
        return len(self.mean) if len(self.mean) > 1 else None

    def __call__(self, image: Tensor, largest: float) -> Tensor:
        """An input (c, h, w), float32.

        Args:
            image: (c, h, w) as stored. Grey images are repeated where the network takes colour.
            largest: the largest value that can be stored.

        Raises:
            InputError: colour images for a network that takes grey ones.
        """
        values = image.float()
        if self.channels is not None and len(values) != self.channels:
            if len(values) != 1:
                raise InputError(
                    f"images have {len(values)} channels, the network takes {self.channels}: use "
                    "other data, or --mean and --std with a number for each channel"
                )
            values = values.expand(self.channels, -1, -1)
        values = self._sized(values).clamp(0.0, largest)  # cubic resizing overshoots
        if largest != self.unit:
            values = values * (self.unit / largest)
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        return (values - mean) / torch.tensor(self.std).view(-1, 1, 1)

    def _sized(self, values: Tensor) -> Tensor:
        if self.size is None:
            return values
        height, width = self.size
        if tuple(values.shape[1:]) == self.size and self.resize is None:
            return values
        if self.squash:
            return self._resized(values, height, width)
        h, w = values.shape[1:]
        # the shorter side, or more of it where the crop would not fit into the longer one
        target = self.resize or min(height, width)
        factor = max(target / min(h, w), height / h, width / w)
        values = self._resized(
            values, max(height, round(h * factor)), max(width, round(w * factor))
        )
        top, left = (values.shape[1] - height) // 2, (values.shape[2] - width) // 2
        return values[:, top : top + height, left : left + width]

    def _resized(self, values: Tensor, height: int, width: int) -> Tensor:
        if (height, width) == tuple(values.shape[1:]):
            return values
        smooth: dict[str, Any] = {"align_corners": False, "antialias": True}
        resized = interpolate(
            values[None],
            size=(height, width),
            mode=self.interpolation,
            **({} if self.interpolation == "nearest" else smooth),
        )
        return resized[0]

    def words(self) -> str:
        """What is done, in a line."""
        steps = []
        if self.size is not None:
            height, width = self.size
            to = f"{height}x{width}"
            if self.squash:
                steps.append(f"resized to {to} ({self.interpolation})")
            else:
                side = self.resize or min(height, width)
                steps.append(f"shorter side {side} ({self.interpolation}), centre crop {to}")
        steps.append(f"values in [0, {self.unit:g}]")
        steps.append(f"minus {_numbers(self.mean)}, over {_numbers(self.std)}")
        return "; ".join(steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "size": None if self.size is None else list(self.size),
            "resize": self.resize,
            "squash": self.squash,
            "interpolation": self.interpolation,
            "unit": self.unit,
        }


def _numbers(values: tuple[float, ...]) -> str:
    different = tuple(dict.fromkeys(values))
    return "/".join(f"{value:.4g}" for value in (different if len(different) == 1 else values))
