"""Decoding images of any size into one tensor of squares."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lowland.core.errors import InputError
from lowland.data.decode import decode, decode_image

_CHUNK = 256


def sized_images(where: str, encoded: Sequence[bytes | None], size: int | None) -> Tensor:
    """Pixels uint8 (n, c, size, size), each side resized for itself (bilinear, antialiased).

    Args:
        where: the source, for messages.
        encoded: images, 8 bits a channel.
        size: height and width; None for images that are of one size already, which stay as they
            are, and then are squares or not.

    Raises:
        InputError: an image cannot be decoded, or is of another size than the first.
    """
    if size is None:
        return torch.from_numpy(decode(Path(where), encoded))
    if size < 1:
        raise InputError(f"size is {size}: use 1 or more")
    pixels = torch.empty(len(encoded), 3, size, size, dtype=torch.uint8)

    def fill(start: int) -> bool:
        grey = True
        for row in range(start, min(start + _CHUNK, len(encoded))):
            image = decode_image(f"{where}: row {row}", encoded[row])
            grey &= len(image) == 1
            pixels[row] = _squared(image, size)
        return grey

    with ThreadPoolExecutor() as pool:
        all_grey = all(list(pool.map(fill, range(0, len(encoded), _CHUNK))))
    return pixels[:, :1].clone() if all_grey else pixels


def _squared(image: Tensor, size: int) -> Tensor:
    if tuple(image.shape[1:]) == (size, size):
        return image
    values = interpolate(image[None].float(), size=(size, size), mode="bilinear", antialias=True)
    return values[0].round().clamp(0, 255).to(torch.uint8)
