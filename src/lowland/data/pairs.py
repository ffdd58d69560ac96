"""Images with captions in memory: three disjoint splits, and what is needed to reproduce them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.seeds import generator
from lowland.data.images import channel_statistics

Captions = tuple[tuple[str, ...], ...]
"""For each image its captions, one or more."""


@dataclass(frozen=True, eq=False)
class PairSplit:
    """Some rows of a source.

    Attributes:
        images: uint8, (n, c, h, w).
        captions: of each image, one or more.
        index: int64, (n,), row of each image in the source.
    """

    images: Tensor
    captions: Captions
    index: Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def select(self, rows: Tensor) -> PairSplit:
        """These rows, in the given order."""
        captions = tuple(self.captions[row] for row in rows.tolist())
        return PairSplit(self.images[rows], captions, self.index[rows])

    def first(self, n: int) -> PairSplit:
        """The first `n` rows, or all."""
        return PairSplit(self.images[:n], self.captions[:n], self.index[:n])


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """A data set of images with captions, made by `assemble_pairs`.

    Attributes:
        name: the name it was loaded by.
        train, validation, test: disjoint splits.
        shape: channels, height and width of an image.
        largest: the largest value that a pixel can have.
        mean, std: per channel over the pixels of the train split, in units of the stored values.
        fingerprint: SHA-256 over images, captions, rows, and `largest`.
        source: plain record of the files' SHA-256, and of how the splits were made.
    """

    name: str
    train: PairSplit
    validation: PairSplit
    test: PairSplit
    shape: tuple[int, int, int]
    largest: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    source: dict[str, Any]

    @property
    def splits(self) -> dict[str, PairSplit]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def first(self, n_train: int) -> Pairs:
        """At most `n_train` training pairs, the first; validation and test stay whole."""
        if n_train >= len(self.train):
            return self
        splits = {**self.splits, "train": self.train.first(n_train)}
        source = {**self.source, "limit": n_train}
        return assemble_pairs(self.name, **splits, largest=self.largest, source=source)

    def to(self, device: torch.device | str) -> Pairs:
        """The same data with all images on `device`."""
        moved = {
            name: dataclasses.replace(split, images=split.images.to(device))
            for name, split in self.splits.items()
        }
        return dataclasses.replace(self, **moved)  # type: ignore[arg-type]


def assemble_pairs(
    name: str,
    *,
    train: PairSplit,
    validation: PairSplit,
    test: PairSplit,
    largest: float,
    source: dict[str, Any],
) -> Pairs:
    """Check the splits, take mean and std from train, and record sizes and fingerprint.

    Raises:
        InputError: a split is empty, an image has no caption, or a caption is no text.
    """
    splits = {"train": train, "validation": validation, "test": test}
    for split_name, split in splits.items():
        check_captions(f"{name}, {split_name}", split.images, split.captions, split.index)
    mean, std = channel_statistics(train.images)
    channels, height, width = train.images.shape[1:]
    return Pairs(
        name=name,
        **splits,
        shape=(channels, height, width),
        largest=largest,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(splits, largest),
        source={**source, "sizes": {key: len(split) for key, split in splits.items()}},
    )


def check_captions(
    where: str, images: Sequence[Any] | Tensor, captions: Sequence[Any], index: Any = None
) -> None:
    """Refuse captions that do not belong to images one list to one image.

    Args:
        where: the data, for messages.
        images: as many as there are lists of captions.
        captions: a list of texts for each image.
        index: row of each image in the source, for messages; None for its place.

    Raises:
        InputError: the first thing that is wrong; its row is named.
    """
    if len(images) != len(captions):
        raise InputError(
            f"{where}: {len(captions)} lists of captions for {len(images)} images: give one list "
            "for every image"
        )
    if not len(images):
        raise InputError(f"{where}: there are no pairs: add images with captions")
    for place, texts in enumerate(captions):
        wrong = _wrong(texts)
        if wrong:
            row = place if index is None else int(index[place])
            raise InputError(f"{where}: row {row} {wrong}")


def _wrong(texts: Any) -> str:
    """What is wrong with the captions of one image; nothing if they can be used."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        return f"has {type(texts).__name__} in place of a list of captions: give a list of texts"
    if not texts:
        return "has no caption: give it one, or leave the image out"
    for text in texts:
        if not isinstance(text, str):
            return f"has a caption of type {type(text).__name__}: captions are texts"
        if not text.strip():
            return "has an empty caption: fill it, or leave it out"
    return ""


def random_rows(n: int, shares: Mapping[str, float], *, seed: int) -> dict[str, Tensor]:
    """Rows of ``train`` and of splits held out of it at random, each ascending.

    Args:
        n: number of rows.
        shares: for each split its share of what the ones before it left; at least one row.
        seed: of the draw.

    Raises:
        InputError: too few rows for that.
    """
    left = torch.randperm(n, generator=generator("cpu", "split", seed))
    parts = {}
    for name, share in shares.items():
        held = max(1, round(share * len(left)))
        parts[name], left = left[:held], left[held:]
    if not len(left):
        raise InputError(f"{n} pairs cannot make train, validation and test: add some")
    return {name: rows.sort().values for name, rows in {**parts, "train": left}.items()}


def _fingerprint(splits: dict[str, PairSplit], largest: float) -> str:
    digest = hashlib.sha256(repr(largest).encode())
    for name, split in splits.items():
        digest.update(f"{name} {tuple(split.images.shape)}".encode())
        for tensor in (split.images, split.index):
            digest.update(tensor.cpu().contiguous().numpy().data)
        digest.update(json.dumps(split.captions).encode())
    return digest.hexdigest()
