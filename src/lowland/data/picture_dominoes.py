"""Dominoes of MNIST and CIFAR-10: a 0 or a 1 above an automobile or a truck."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowland.core.errors import InputError
from lowland.data.cifar import read_cifar
from lowland.data.dominoes import SETTINGS, Halves, assemble_dominoes
from lowland.data.fashion_mnist import read_fashion_mnist
from lowland.data.images import ImageData, Split
from lowland.data.settings import Form, Setting, read_name
from lowland.data.sources import read_labelled
from lowland.data.stamp import stamp

DIGITS = (0, 1)
PICTURES = (1, 9)
"""Labels of CIFAR-10: automobile and truck."""

SIDE = 32

FORM = Form(
    kind="cifar-mnist-dominoes",
    settings={
        "mnist": Setting(words="PATH", required=True, place=True),
        "cifar": Setting(words="PATH", required=True, place=True),
        **SETTINGS,
    },
)


def read_picture_dominoes(name: str, seed: int) -> ImageData:
    """Dominoes, 64x32 and RGB: a digit of MNIST above a picture of CIFAR-10, label from the latter.

    The digit is a 0 or a 1 (annotation ``easy``), grey as RGB, 28x28 in the middle of 32x32
    pixels; the picture an automobile (label 0) or a truck (label 1). How they are put together:
    `assemble_dominoes`. Test is made of test images, train and validation of the train images
    with a stratified 10% for validation, so no image is in two splits.

    ``mnist`` is an ``.npz`` file (``npz:FILE``) or a folder with the four IDX files; ``cifar`` a
    folder with an official archive (``cifar:FOLDER``) or a Parquet file (``parquet:FILE``).

    Source: the kind of data of arXiv 2006.07710 and 2405.20439; how the latter pairs the halves
    is not published, so counts and splits are choices made here.

    Raises:
        InputError: a source is missing, is not that, or lacks one of the classes.
    """
    named = read_name(name, FORM)
    files = (named["mnist"], named["cifar"])
    halves, source = _halves(*files, seed, stamp(files))
    return assemble_dominoes(
        name,
        halves,
        correlation=named["correlation"],
        easy=named["easy"],
        seed=seed,
        source=source,
    )


@functools.lru_cache(maxsize=1)  # a study asks for several correlations of the same pictures
def _halves(
    mnist: str, cifar: str, seed: int, stamp: object
) -> tuple[dict[str, Halves], dict[str, Any]]:
    digits, of_digits = _read(mnist, read_fashion_mnist, DIGITS, (1, 28), seed)
    pictures, of_pictures = _read(cifar, read_cifar, PICTURES, (3, SIDE), seed)
    halves = {
        split: Halves(_framed(digits[split][0]), digits[split][1], *pictures[split])
        for split in digits
    }
    hashes = {**of_digits["sha256"], **of_pictures["sha256"]}
    return halves, {"sha256": hashes, "classes": ["automobile", "truck"]}


def _read(
    path: str,
    folder: Callable[[str, int], ImageData],
    classes: tuple[int, int],
    shape: tuple[int, int],
    seed: int,
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Any]]:
    """By split the images of two classes, and which of the two each is of."""
    splits, source = read_labelled(path, folder, classes, seed)
    channels, side = shape
    found = {}
    for split, part in splits.items():
        if tuple(part.images.shape[1:]) != (channels, side, side):
            size = "x".join(map(str, part.images.shape[1:]))
            raise InputError(
                f"{path} has images of {size}, not {channels}x{side}x{side}: name the "
                f"files of {'MNIST' if side == 28 else 'CIFAR-10'}"
            )
        found[split] = _of_classes(part, classes)
    return found, source


def _of_classes(part: Split, classes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    rows = torch.isin(part.labels, torch.tensor(classes)).nonzero().flatten()
    return part.images[rows], (part.labels[rows] == classes[1]).long()


def _framed(digits: Tensor) -> Tensor:
    edge = (SIDE - digits.shape[-1]) // 2
    return pad(digits, (edge,) * 4).expand(-1, 3, -1, -1)
