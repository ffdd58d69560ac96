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
        InputError: an image cannot be decoded, or is of another size than the first.
    """
    if size is None:
        return torch.from_numpy(decode(Path(where), encoded))
    if size < 1:
        raise InputError(f"size is {size}: use 1 or more")
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
    """`sized_images` of files, after a look at whether they are there and fit into memory.

    Raises:
        InputError: a file is missing or no image, or they do not fit.
    """
    if missing := [path for path in paths if not path.is_file()]:
        raise InputError(
            f"{root}: {len(missing)} of {len(paths)} images are missing, first "
            f"{missing[0].relative_to(root)}: unpack the archive again"
        )
    check_memory(str(root), len(paths), size)
    contents = Lazy(lambda row: read_source(paths[row], "put it back")[0], len(paths))
    return sized_images(str(root), contents, size, row_name=lambda row: str(paths[row]))


def check_memory(where: str, n: int, size: int) -> None:
    """Refuse images that would not fit: 3·size² bytes each, twice while they are put in order.

    Raises:
        InputError: less than that is free.
    """
    need, free = 2 * n * 3 * size**2, free_memory()
    if free is not None and need > free:
        raise InputError(
            f"{where}: {n} images of {size}x{size} pixels take {need / 2**30:.1f} GiB to read, "
            f"{free / 2**30:.1f} GiB are free: give a smaller size=PIXELS"
        )


def free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line), None)


def _squared(image: Tensor, size: int) -> Tensor:
    if tuple(image.shape[1:]) == (size, size):
        return image
    values = interpolate(image[None].float(), size=(size, size), mode="bilinear", antialias=True)
    return values[0].round().clamp(0, 255).to(torch.uint8)
