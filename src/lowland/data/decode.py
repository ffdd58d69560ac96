"""Decoding many small images of one size."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data.memory import check_memory

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # common ones; none that runs another program
_GREY = {"1", "L", "LA"}
_COLOUR = {"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"}
_CHUNK = 512


def decode(
    path: Path, encoded: Sequence[bytes | None], *, where: Callable[[int], str] | None = None
) -> NDArray[np.uint8]:
    """Pixels (n, c, h, w): c is 1 if every image is grey, else 3 (RGB; transparency dropped).

    Pixels are as they are stored: a camera's note on how to turn them (EXIF) is not followed.

    Args:
        path: the file that they come from, for messages.
        encoded: one or more rows, each an encoded image, all of one size, 8 bits per channel.
        where: what messages call a row; ``PATH: row 3`` if None.

    Raises:
        InputError: a row cannot be decoded or differs in size; it is named. Or all together do not
            fit into memory.
    """
    place = where or (lambda row: f"{path}: row {row}")
    height, width, _ = _decoded(place(0), encoded[0], None)[0].shape
    remedy = "use fewer images, or smaller ones"
    check_memory(str(path), len(encoded), height, width, remedy=remedy)
    pixels = np.empty((len(encoded), 3, height, width), np.uint8)

    def fill(start: int) -> bool:
        """Decode a chunk of rows; tell whether all of them are grey."""
        grey = True
        for row in range(start, min(start + _CHUNK, len(encoded))):
            image, is_grey = _decoded(place(row), encoded[row], (width, height))
            pixels[row] = image.transpose(2, 0, 1)
            grey &= is_grey
        return grey

    # Decoding releases the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor() as pool:
        all_grey = all(list(pool.map(fill, range(0, len(encoded), _CHUNK))))
    return pixels[:, :1].copy() if all_grey else pixels


def decode_image(where: str, encoded: bytes | None) -> Tensor:
    """Pixels (c, h, w) of one encoded image of any size: c is 1 if it is grey, else 3.

    Raises:
        InputError: it cannot be decoded; `where` begins the message.
    """
    pixels, grey = _decoded(where, encoded, None)
    whole = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    return whole[:1] if grey else whole


def _decoded(
    where: str, encoded: bytes | None, size: tuple[int, int] | None
) -> tuple[NDArray[np.uint8], bool]:
    from PIL import Image

    if encoded is None:
        raise InputError(f"{where} holds no image bytes: store them in the file")
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            if size is not None and image.size != size:
                raise InputError(
                    f"{where} is {image.size[0]}x{image.size[1]} pixels, the first is "
                    f"{size[0]}x{size[1]}: resize all images to one size"
                )
            if image.mode not in _GREY | _COLOUR:
                raise InputError(f"{where} has mode {image.mode}: store 8 bits a channel")
            # by way of RGBA, or Pillow warns of a palette that is partly transparent
            whole = image.convert("RGBA") if "transparency" in image.info else image
            return np.asarray(whole.convert("RGB")), image.mode in _GREY
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged bytes
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{where} cannot be decoded ({reason}): use {', '.join(_FORMATS)}"
        ) from None
