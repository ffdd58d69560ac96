"""Random shifts and flips of a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowland.core.errors import unknown
from lowland.core.transfer import sent

POLICIES = {
    "none": "images as stored",
    "shift": "moved by up to h/8 pixels each way, black moving in",
    "shift-flip": "shift, then mirrored left to right with probability 1/2",
}
"""Augmentation policies and what they do."""


def augment(images: Tensor, policy: str, generator: torch.Generator) -> Tensor:
    """Augmented images; equal to a random crop of the image padded by p = round(h / 8) zeros.

    Vertical and horizontal offsets are uniform on 0 .. 2p and independent; p is 1 for 8-pixel
    images, 4 for 28 and 32, 8 for 64. Every draw comes from `generator`. It may live on another
    device than the images: with a generator on the CPU all devices get the same batch.

    Args:
        images: (n, c, h, w), any dtype; not changed.
        policy: a name from `POLICIES`; ``"none"`` returns `images` itself and draws nothing.

    Raises:
        InputError: there is no such policy.
    """
    drawn = draw(policy, len(images), images.shape[2], generator)
    return augmented(images, policy, sent(drawn, images.device))


def draw(policy: str, n: int, height: int, generator: torch.Generator) -> Tensor:
    """What `augment` draws for `n` images: int64, (k, n), on the device of the generator.

    Its rows are the vertical offsets, the horizontal ones, and 1 where an image is mirrored, as far
    as the policy has them: k is 0, 2 or 3.

    Raises:
        InputError: there is no such policy.
    """
    if policy not in POLICIES:
        raise unknown("augmentation", policy, POLICIES)
    if policy == "none":
        return torch.empty(0, n, dtype=torch.int64, device=generator.device)
    places = 2 * _margin(height) + 1
    place = generator.device
    offsets = torch.randint(places, (2, n), generator=generator, device=place)
    if policy == "shift":
        return offsets
    mirrored = torch.randint(2, (1, n), generator=generator, device=place)
    return torch.cat([offsets, mirrored])


def augmented(images: Tensor, policy: str, drawn: Tensor) -> Tensor:
    """`augment` with what `draw` gave for as many images, on their device; no host waits for it."""
    if policy == "none":
        return images
    n, _, h, w = images.shape
    p = _margin(h)
    down, right = drawn[:2]
    # Every crop of every padded image, as a view; one crop of each is then copied out.
    crops = pad(images, (p, p, p, p)).unfold(2, h, 1).unfold(3, w, 1)
    moved = crops[torch.arange(n, device=images.device), :, down, right]
    if policy == "shift":
        return moved
    return torch.where(drawn[2].view(n, 1, 1, 1).bool(), moved.flip(3), moved)


def _margin(height: int) -> int:
    """Zeros on each side of an image."""
    return round(height / 8)
