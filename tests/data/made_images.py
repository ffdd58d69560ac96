"""Small data sets and files, made here."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import torch
from PIL import Image

from lowland.data.images import ImageData, Split, assemble


def make_split(labels: list[int], *, shape: tuple[int, ...] = (1, 4, 4), first: int = 0) -> Split:
    """Random images with these labels, rows counted from `first`."""
    draws = torch.Generator().manual_seed(first)
    images = torch.randint(256, (len(labels), *shape), dtype=torch.uint8, generator=draws)
    rows = torch.arange(first, first + len(labels))
    return Split(images, torch.tensor(labels, dtype=torch.int64), rows)


def make_data(**changes: Any) -> ImageData:
    """12 train, 6 validation and 6 test images of 3 classes; `changes` replace splits."""
    given = {
        "train": make_split([0, 1, 2] * 4),
        "validation": make_split([0, 1, 2] * 2, first=100),
        "test": make_split([0, 1, 2] * 2, first=200),
        "augmentation": "shift",
        "source": {"sha256": {"made": "0" * 64}},
    }
    return assemble("made", **{**given, **changes})


def png(pixels: Any, kind: str = "PNG") -> bytes:
    """The pixels (h, w) or (h, w, 3) as an encoded image."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, kind)
    return buffer.getvalue()


def image(level: int, size: tuple[int, int] = (4, 5)) -> np.ndarray:
    """An RGB image that says which one it is."""
    pixels = np.full((*size, 3), level, np.uint8)
    pixels[0, 0] = (255, 0, 9)
    return pixels


def levels(data: ImageData, split: str) -> list[int]:
    """What `image` was made with, in the order of the split."""
    return data.splits[split].images[:, 1, 1, 1].tolist()


def idx_bytes(array: np.ndarray) -> bytes:
    """The array in IDX format."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()
