"""Labelled images in memory: three disjoint splits, and what is needed to reproduce them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data.annotations import count_values, strata
from lowland.data.split import hold_out, stratified

_CHUNK = 2048  # images whose pixels are held as int64 at a time


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of a source.

    Attributes:
        images: uint8, (n, c, h, w), as stored in the source.
        labels: int64, (n,).
        index: int64, (n,), row of each image in the source.
        annotations: what else is known of each image, by name: int64, (n,), values 0, 1, ...
            Empty for most data sets.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    annotations: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor | slice) -> Split:
        """These rows, in the given order; of a slice a view."""
        noted = {name: values[rows] for name, values in self.annotations.items()}
        return Split(self.images[rows], self.labels[rows], self.index[rows], noted)

    def to(self, device: torch.device | str) -> Split:
        """The same split on `device`."""
        images, labels, index = (t.to(device) for t in (self.images, self.labels, self.index))
        noted = {name: values.to(device) for name, values in self.annotations.items()}
        return Split(images, labels, index, noted)


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """A data set, made by `assemble`.

    Attributes:
        name: the name it was loaded by.
        train, validation, test: disjoint splits.
        probing: images of none of these, kept for fitting probes: every joint value of the core and
            the spurious annotation equally often. None for most data sets.
        shape: channels, height and width of an image.
        classes: number of classes; labels are 0 .. classes - 1.
        annotations: names of what the splits are annotated with, and how many values each has:
            0 .. number - 1, counted over all splits.
        mean, std: per channel over the pixels of the train split, in units of the stored values;
            a constant channel has std 1.
        augmentation: name of the policy that suits these images (`lowland.data.POLICIES`).
        fingerprint: SHA-256 over splits, labels, annotations, rows, policy, mean and std.
        source: plain record of the files' SHA-256, and of how the splits were made. Where one
            annotation goes with the label in train by accident, ``spurious`` names it, and
            ``core`` the one that the label is made of. ``values`` has names for the values of
            annotations, where they have any.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    shape: tuple[int, int, int]
    classes: int
    annotations: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str
    fingerprint: str
    source: dict[str, Any]
    probing: Split | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def normalise(self, images: Tensor) -> Tensor:
        """(images - mean) / std per channel, float32, on the device of `images`."""
        mean, std = (_per_channel(each, images.device) for each in (self.mean, self.std))
        return (images.float() - mean) / std

    def to(self, device: torch.device | str) -> ImageData:
        """The same data with all splits on `device`."""
        return dataclasses.replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
            probing=None if self.probing is None else self.probing.to(device),
        )

    def keep_labels(self, labels: Sequence[int]) -> ImageData:
        """Only these classes, renumbered 0, 1, ... in the given order; mean and std anew.

        Raises:
            InputError: a label is not there or named twice, or fewer than two are given.
        """
        chosen = [int(label) for label in labels]
        if len(set(chosen)) != len(chosen) or len(chosen) < 2:
            raise InputError(f"labels {chosen}: name two or more different ones")
        if strange := sorted(set(chosen) - set(range(self.classes))):
            raise InputError(f"{self.name} has no label {strange[0]}: use 0 to {self.classes - 1}")
        number = torch.full((self.classes,), -1)
        number[chosen] = torch.arange(len(chosen))
        splits = {name: _renumbered(split, number) for name, split in self.splits.items()}
        if self.probing is not None:
            splits["probing"] = _renumbered(self.probing, number)
        return self._derive(splits, {"labels": chosen})

    def first(self, n_train: int) -> ImageData:
        """At most `n_train` training images: the first of each class, shares kept.

        So are those of the joint values of labels and annotations. Validation and test stay whole;
        mean and std are those of the smaller train split.

        Raises:
            InputError: `n_train` is smaller than the number of classes, or of joint values.
        """
        if n_train >= len(self.train):
            return self
        rows = stratified(strata(self.train), n_train, name=self.name)
        train = self.train.select(rows.to(self.train.labels.device))
        return self._derive({**self.splits, "train": train}, {"limit": n_train})

    def hold_out(self, share: float, *, seed: int = 0) -> ImageData:
        """A random, stratified `share` of train and validation together is validation.

        Classes, and joint values of labels and annotations, keep their shares. Both splits keep
        the order of the source.

        Raises:
            InputError: `share` is not in (0, 1), or there are too few images.
        """
        if not 0 < share < 1:
            raise InputError(f"held_out is {share:g}: give a share between 0 and 1")
        together = joined([self.train, self.validation])
        whole = together.select(together.index.argsort())
        kept, held = hold_out(strata(whole), share, seed=seed, name=self.name)
        splits = {"train": whole.select(kept), "validation": whole.select(held), "test": self.test}
        return self._derive(splits, {"held_out": share})

    def _derive(self, splits: dict[str, Split], how: dict[str, Any]) -> ImageData:
        kept = {"probing": self.probing} if self.probing is not None else {}
        return assemble(
            self.name,
            **{**kept, **splits},
            augmentation=self.augmentation,
            source={**self.source, **how},
        )


@functools.lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Kept: a copy to a GPU for every batch would wait for all that is under way there."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


def joined(splits: Sequence[Split]) -> Split:
    """The rows of several splits with the same annotations, one after the other."""
    return Split(
        torch.cat([split.images for split in splits]),
        torch.cat([split.labels for split in splits]),
        torch.cat([split.index for split in splits]),
        {
            name: torch.cat([split.annotations[name] for split in splits])
            for name in splits[0].annotations
        },
    )


def assemble(
    name: str,
    *,
    train: Split,
    validation: Split,
    test: Split,
    augmentation: str,
    source: dict[str, Any],
    probing: Split | None = None,
) -> ImageData:
    """Check the splits, take mean and std from train, and record sizes and fingerprint.

    What is kept for fitting probes is checked as a split is.

    Raises:
        InputError: a split is empty, a class has no training image, there is only one class,
            labels leave 0 .. classes - 1, shapes differ, or an annotation is not in all splits,
            not of whole numbers from 0 on, or the same for all images.
        ValueError: two splits share a row of the source.
    """
    named = {"train": train, "validation": validation, "test": test}
    splits = named if probing is None else {**named, "probing": probing}
    for split_name, split in splits.items():
        if not split.images.numel():
            raise InputError(f"{name}: the {split_name} split is empty: add images to it")
        if split.images.shape[1:] != train.images.shape[1:]:
            raise InputError(f"{name}: {split_name} images differ in shape from train images")
    rows = torch.cat([split.index for split in splits.values()]).sort().values
    if rows.diff().eq(0).any():
        raise ValueError(f"{name}: splits are not disjoint")
    classes = _count_classes(name, splits)
    annotations = count_values(name, splits)
    mean, std = channel_statistics(train.images)
    channels, height, width = train.images.shape[1:]
    return ImageData(
        name=name,
        **named,
        probing=probing,
        shape=(channels, height, width),
        classes=classes,
        annotations=annotations,
        mean=mean,
        std=std,
        augmentation=augmentation,
        fingerprint=_fingerprint(splits, f"{augmentation} {mean} {std}"),
        source={**source, "sizes": {key: len(split) for key, split in splits.items()}},
    )


def _renumbered(split: Split, number: Tensor) -> Split:
    """The rows whose label has a number >= 0, with that number as label."""
    labels = number.to(split.labels.device)[split.labels]
    kept = labels >= 0
    return dataclasses.replace(split.select(kept), labels=labels[kept])


def _count_classes(name: str, splits: dict[str, Split]) -> int:
    present = sorted(set(splits["train"].labels.tolist()))
    classes = len(present)
    if classes < 2:
        raise InputError(f"{name}: the train split has one class only: at least two are needed")
    if present != list(range(classes)):
        raise InputError(
            f"{name}: training labels must be 0, 1, ... without gaps, got {classes} different "
            f"ones from {present[0]} to {present[-1]}: renumber them"
        )
    for split_name, split in splits.items():
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"{name}: {split_name} has label {low if low < 0 else high}, "
                f"training labels are 0 to {classes - 1}: remove it"
            )
    return classes


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and (population) standard deviation per channel, from exact integer sums."""
    channels = images.shape[1]
    total = torch.zeros(channels, dtype=torch.int64, device=images.device)
    squares = torch.zeros_like(total)
    for start in range(0, len(images), _CHUNK):
        pixels = images[start : start + _CHUNK].long()
        total += pixels.sum((0, 2, 3))
        squares += pixels.square().sum((0, 2, 3))
    n = images.numel() // channels
    pairs = list(zip(total.tolist(), squares.tolist(), strict=True))
    mean = tuple(s / n for s, _ in pairs)
    # n Σx² - (Σx)² in whole numbers: no cancellation, and exactly 0 for a constant channel.
    std = tuple(math.sqrt(n * q - s * s) / n or 1.0 for s, q in pairs)
    return mean, std


def _fingerprint(splits: dict[str, Split], rest: str) -> str:
    digest = hashlib.sha256(rest.encode())
    for name, split in splits.items():
        digest.update(f"{name} {tuple(split.images.shape)}".encode())
        for tensor in (split.images, split.labels, split.index):
            digest.update(tensor.cpu().contiguous().numpy().data)
        for annotation in sorted(split.annotations):
            digest.update(annotation.encode())
            digest.update(split.annotations[annotation].cpu().contiguous().numpy().data)
    return digest.hexdigest()
