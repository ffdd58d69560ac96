"""Decoding images of any size into one tensor of squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lowland.core.errors import InputError
from lowland.data.decode import decode, decode_image
from lowland.data.files import read_source
from lowland.data.memory import check_memory

_CHUNK = 256


def sized_images(
    where: str,
    encoded: Sequence[bytes | None],
    size: int | None,
    *,
    row_name: Callable[[int], str] | None = None,
) -> Tensor:
    """Pixels uint8 (n, c, size, size), each side resized for itself (bilinear, antialiased).

    Args:
        where: the source, for messages.
        encoded: images, 8 bits a channel; each is asked for once.
        row_name: what messages call an image; ``WHERE: row 3`` if None.
        size: height and width; None for images that are of one size already, which stay as they
            are, and then are squares or not.

    Raises:
        InputError: an image cannot be decoded, or is of another size than the first, or they do
            not fit into memory.
    """
    if size is None:
        return torch.from_numpy(decode(Path(where), encoded))
    if size < 1:
        raise InputError(f"size is {size}: use 1 or more")
    check_memory(where, len(encoded), size, size, remedy="give a smaller size=PIXELS")
    name = row_name or (lambda row: f"{where}: row {row}")
    pixels = torch.empty(len(encoded), 3, size, size, dtype=torch.uint8)

    def fill(start: int) -> bool:
        grey = True
        for row in range(start, min(start + _CHUNK, len(encoded))):
            image = decode_image(name(row), encoded[row])
            grey &= len(image) == 1
            pixels[row] = _squared(image, size)
        return grey

    with ThreadPoolExecutor() as pool:
        all_grey = all(list(pool.map(fill, range(0, len(encoded), _CHUNK))))
    return pixels[:, :1].clone() if all_grey else pixels


class Lazy(Sequence[Any]):
    """A sequence whose items are read when they are asked for."""

    def __init__(self, read: Callable[[int], Any], n: int) -> None:
        self._read, self._n = read, n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, place: Any) -> Any:
        return self._read(place)


def sized_files(root: Path, paths: Sequence[Path], size: int) -> Tensor:
    """`sized_images` of files, after a look at whether they are there.

    Raises:
        InputError: a file is missing or no image, or they do not fit into memory.
    """
    if missing := [path for path in paths if not path.is_file()]:
        first = missing[0].relative_to(root) if missing[0].is_relative_to(root) else missing[0]
        raise InputError(
            f"{root}: {len(missing)} of {len(paths)} images are missing, first {first}: unpack the "
            "archive again"
        )
    contents = Lazy(lambda row: read_source(paths[row], "put it back")[0], len(paths))
    return sized_images(str(root), contents, size, row_name=lambda row: str(paths[row]))


def _squared(image: Tensor, size: int) -> Tensor:
    if tuple(image.shape[1:]) == (size, size):
        return image
    values = interpolate(image[None].float(), size=(size, size), mode="bilinear", antialias=True)
    return values[0].round().clamp(0, 255).to(torch.uint8)
