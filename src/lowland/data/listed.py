"""Annotated image files that an official list assigns to train, validation and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data.annotations import joint_rows
from lowland.data.images import ImageData, Split, assemble
from lowland.data.sized import sized_files

SPLITS = ("train", "validation", "test")
"""What 0, 1 and 2 mean in a list."""


def assemble_listed(
    name: str,
    root: Path,
    files: Sequence[Path],
    split: Tensor,
    annotations: Mapping[str, Tensor],
    *,
    core: str,
    spurious: str,
    size: int,
    source: dict[str, Any],
) -> ImageData:
    """Images in the splits of their list, in its order; the label is the core annotation.

    Args:
        name: the data set.
        root: its folder.
        files: the images, in the order of the list.
        split: 0 train, 1 validation, 2 test, (n,).
        annotations: 0 or 1, int64, (n,) each.
        core, spurious: names of two of them.
        size: height and width in pixels.
        source: as for `assemble`.

    Raises:
        InputError: a split or, in test, a joint value of the two without images; images that are
            missing, damaged or too many for the memory.
    """
    labels = annotations[core]
    rows = {key: (split == place).nonzero().flatten() for place, key in enumerate(SPLITS)}
    for key, chosen in rows.items():
        if not len(chosen):
            raise InputError(f"{root}: the list has no {key} images: fetch the whole list")
    listed = Split(torch.empty(len(files), 0), labels, torch.arange(len(files)), annotations)
    joint_rows(f"{root}: test", listed.select(rows["test"]), {core: 2, spurious: 2})
    whole = Split(sized_files(root, files, size), labels, listed.index, annotations)
    return assemble(
        name,
        **{key: whole.select(chosen) for key, chosen in rows.items()},
        augmentation="shift-flip",
        source={
            **source,
            "files": len(files),
            "core": core,
            "spurious": spurious,
            "rule": "train, validation and test from the list",
        },
    )


def binary(where: str, words: Sequence[str], values: tuple[str, str]) -> Tensor:
    """0 and 1 for the first and the second of two words, int64 (n,).

    Raises:
        InputError: another word; the message begins with `where` and counts from 1.
    """
    numbers = {values[0]: 0, values[1]: 1}
    for row, word in enumerate(words, start=1):
        if word not in numbers:
            raise InputError(f"{where} of image {row} is {word!r}: expected {' or '.join(values)}")
    return torch.tensor([numbers[word] for word in words])


def split_numbers(where: str, words: Sequence[str]) -> Tensor:
    """0, 1 and 2 as numbers, int64 (n,).

    Raises:
        InputError: another word.
    """
    for row, word in enumerate(words, start=1):
        if word not in ("0", "1", "2"):
            raise InputError(
                f"{where} of image {row} is {word!r}: expected 0 (train), 1 (validation) or 2 "
                "(test)"
            )
    return torch.tensor([int(word) for word in words])
