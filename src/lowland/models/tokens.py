"""What networks over tokens share: patches in, one vector out, and the feed-forward block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-6
"""Added to the variance by LayerNorm: the default of Flax, in which these networks were trained."""


def layer_norm(width: int) -> nn.LayerNorm:
    """LayerNorm over the last axis with `EPSILON`."""
    return nn.LayerNorm(width, eps=EPSILON)


class Patches(nn.Module):
    """Images (b, c, h, w) -> tokens (b, h·w/p², width), row by row: a linear map of each patch."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, patch, stride=patch)
        fan_in = channels * patch * patch
        nn.init.trunc_normal_(self.project.weight, std=fan_in**-0.5)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.project(images).flatten(2).transpose(1, 2)
        return tokens


class FeedForward(nn.Module):
    """x -> narrow(gelu(widen(x))) over the last axis.

    GELU is the tanh approximation, x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))), which is what
    ``flax.linen.gelu`` computes unless told otherwise; the exact one differs by up to 5e-4.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, hidden)
        self.gelu = nn.GELU(approximate="tanh")
        self.narrow = nn.Linear(hidden, width)
        start(self.widen, self.narrow)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.narrow(self.gelu(self.widen(x)))
        return out


class FirstToken(nn.Module):
    """Tokens (b, t, d) -> the first of each example (b, d): the class token."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


class MeanToken(nn.Module):
    """Tokens (b, t, d) -> their mean over t (b, d)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


def start(*layers: nn.Linear) -> None:
    """Xavier-uniform weights, zero biases."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def resized_grid(grid: Tensor, size: int) -> Tensor:
    """A square grid of vectors (g·g, d) on size·size places, corners on corners, bilinear.

    The rule by which the published ViT checkpoints are fine-tuned at other image sizes
    (``scipy.ndimage.zoom`` of order 1).
    """
    side = int(len(grid) ** 0.5)
    image = grid.view(side, side, -1).permute(2, 0, 1)[None]
    zoomed = torch.nn.functional.interpolate(
        image, size=(size, size), mode="bilinear", align_corners=True
    )
    return zoomed[0].permute(1, 2, 0).reshape(size * size, -1)
