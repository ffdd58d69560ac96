"""The toy: a half-space and an exclusive or, that tell the same label.

The simple feature e is linear: x_e = (2e - 1)·γ·m + σ·noise in d dimensions, m a unit vector. The
hard feature h is the sign of a product, z_1·z_2 of x_h in d dimensions, z two coordinates in a
rotated frame: no linear function of the inputs tells anything of it, and random ReLU features of
the width of the student tell little. m and the frame are drawn for every seed. Draws with
|z_1·z_2| below the margin are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowland.core.seeds import generator
from lowland.studies.balance.examples import EASY, HARD, Annotated, Part
from lowland.studies.balance.networks import Network

DIMENSIONS = 8
"""d, of either half of the inputs."""

GAP, NOISE, MARGIN = 2.0, 0.5, 0.1
SIZES = {"train": 1000, "validation": 500, "test": 2000, "probing": 1000}
OVERSAMPLED = 2
"""About a quarter of all draws lie within the margin."""


def toy(seed: int, correlation: float, *, alone: bool = False, **sizes: int) -> Annotated:
    """The toy of a seed.

    Args:
        seed: of directions and examples.
        correlation: probability that the simple feature agrees with the label, in train and
            validation; in test and probing the features are independent.
        alone: the simple half of the inputs is zero.
        **sizes: examples by split, in place of `SIZES`.
    """
    draws = generator("cpu", "toy", seed)
    frame = torch.linalg.qr(torch.randn(DIMENSIONS, DIMENSIONS, generator=draws))[0]
    along = torch.nn.functional.normalize(torch.randn(DIMENSIONS, generator=draws), dim=0)
    parts = {
        name: _part(
            sizes.get(name, usual),
            frame,
            along,
            correlation if name in ("train", "validation") else 0.5,
            draws,
            alone=alone,
        )
        for name, usual in SIZES.items()
    }
    return Annotated(**parts, classes=2)


def _part(
    n: int, frame: Tensor, along: Tensor, correlation: float, draws: torch.Generator, *, alone: bool
) -> Part:
    x = torch.randn(OVERSAMPLED * n + 64, DIMENSIONS, generator=draws)
    z = x @ frame
    product = z[:, 0] * z[:, 1]
    kept = (product.abs() > MARGIN).nonzero().flatten()[:n]
    hard = (product[kept] > 0).long()
    agrees = torch.rand(len(kept), generator=draws) < correlation
    easy = torch.where(agrees, hard, 1 - hard)
    noise = torch.randn(len(kept), DIMENSIONS, generator=draws)
    simple = (2.0 * easy[:, None] - 1) * GAP * along + NOISE * noise
    half = torch.zeros_like(simple) if alone else simple
    return Part(torch.cat([half, x[kept]], 1), hard, {HARD: hard, EASY: easy})


def student(width: int) -> Network:
    """A hidden layer of ReLU units and a linear head."""
    body = nn.Sequential(nn.Linear(2 * DIMENSIONS, width), nn.ReLU())
    return Network(body, width, 2)
