"""Labelled images that other sets are made of, by the path of their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError
from lowland.data.arrays import read_arrays
from lowland.data.images import ImageData, Split
from lowland.data.parquet import parquet_splits


def read_labelled(
    path: str, folder: Callable[[str, int], ImageData], classes: Sequence[int], seed: int
) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits of a labelled set with the images of some classes, and the record of its source.

    Args:
        path: an ``.npz`` file (`read_arrays`), a Parquet file (`parquet_splits`), or a folder.
        folder: reads the folder.
        classes: the labels that are needed.
        seed: of what is held out.

    Raises:
        InputError: it is none of these, or cannot be read.
    """
    place = Path(path).expanduser()
    if place.is_file() and place.suffix != ".npz":
        splits, source = parquet_splits(place, seed, classes)
        return splits, source
    if not place.exists():
        raise InputError(
            f"data {path}: no such file or folder: name an .npz or Parquet file, or a "
            "folder with the official files"
        )
    data = folder(f"folder:{path}", seed) if place.is_dir() else read_arrays(f"npz:{path}", seed)
    return data.splits, data.source
