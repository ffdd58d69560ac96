"""Random shifts and flips of a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowland.core.errors import unknown

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
    if policy not in POLICIES:
        raise unknown("augmentation", policy, POLICIES)
    if policy == "none":
        return images
    n, _, h, w = images.shape
    p = round(h / 8)
    offsets = torch.randint(2 * p + 1, (2, n), generator=generator, device=generator.device)
    down, right = offsets.to(images.device)
    # Every crop of every padded image, as a view; one crop of each is then copied out.
    crops = pad(images, (p, p, p, p)).unfold(2, h, 1).unfold(3, w, 1)
    moved = crops[torch.arange(n, device=images.device), :, down, right]
    if policy == "shift":
        return moved
    mirror = torch.randint(2, (n, 1, 1, 1), generator=generator, device=generator.device)
    return torch.where(mirror.to(images.device).bool(), moved.flip(3), moved)
