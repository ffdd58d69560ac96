"""The kinds of annotated data sets: how their names are written, and who reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lowland.data import (
    celeba,
    digit_domains,
    digit_dominoes,
    domain_folders,
    picture_dominoes,
    waterbirds,
)
from lowland.data.images import ImageData
from lowland.data.settings import Form


@dataclass(frozen=True)
class Kind:
    """A kind of data set whose name may have settings.

    Attributes:
        form: how the name is written.
        read: makes the data of a name and the seed of its splits.
        words: what it is.
    """

    form: Form
    read: Callable[[str, int], ImageData]
    words: str

    @property
    def described(self) -> str:
        """What it is, and the settings it takes."""
        return f"{self.words}; {self.form.optional}" if self.form.optional else self.words


_KINDS = (
    Kind(
        digit_dominoes.FORM,
        digit_dominoes.read_digit_dominoes,
        "a digit 0 or 1 above a harder one, 16x8, annotated; no download",
    ),
    Kind(
        picture_dominoes.FORM,
        picture_dominoes.read_picture_dominoes,
        "MNIST's 0 or 1 above CIFAR-10's automobile or truck, 64x32, annotated",
    ),
    Kind(
        digit_domains.COLORED_DIGITS,
        digit_domains.read_colored,
        "digits whose colour goes with their label in two of three domains; no download",
    ),
    Kind(digit_domains.COLORED_MNIST, digit_domains.read_colored, "the same of MNIST"),
    Kind(
        digit_domains.ROTATED_DIGITS,
        digit_domains.read_rotated,
        "digits turned by 0, 15, ... 75 degrees, one angle left out; no download",
    ),
    Kind(digit_domains.ROTATED_MNIST, digit_domains.read_rotated, "the same of MNIST"),
    Kind(
        domain_folders.FORM,
        domain_folders.read_domains,
        "images in DomainBed's folders DOMAIN/CLASS/IMAGE, or a Parquet file with domains",
    ),
    Kind(waterbirds.FORM, waterbirds.read_waterbirds, "Waterbirds in its official layout"),
    Kind(celeba.FORM, celeba.read_celeba, "CelebA in its official layout"),
)

ANNOTATED = {kind.form.kind: kind for kind in _KINDS}
"""Kinds of annotated data sets by name."""
