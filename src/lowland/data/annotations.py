"""Annotations of images: checked, counted, and as joint groups."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from lowland.core.errors import InputError


class Annotated(Protocol):
    """What is looked at of a split."""

    @property
    def labels(self) -> Tensor: ...

    @property
    def annotations(self) -> Mapping[str, Tensor]: ...

    def __len__(self) -> int: ...


def count_values(name: str, splits: Mapping[str, Annotated]) -> dict[str, int]:
    """How many values each annotation has: one more than its largest value in any split.

    Raises:
        InputError: a split lacks an annotation that train has, or the other way round; one is not
            (n,) int64, has a value below 0, or has a single value in all splits together.
    """
    names = set(splits["train"].annotations)
    for split_name, split in splits.items():
        if different := sorted(names ^ set(split.annotations)):
            has, lacks = ("train", split_name) if different[0] in names else (split_name, "train")
            raise InputError(
                f"{name}: {has} is annotated with {different[0]!r}, {lacks} is not: annotate both"
            )
        for annotation, values in split.annotations.items():
            _check(f"{name}: annotation {annotation!r} of {split_name}", values, len(split))
    counts = {}
    for annotation in splits["train"].annotations:
        present = torch.cat([split.annotations[annotation] for split in splits.values()])
        low, high = int(present.min()), int(present.max())
        if low == high:
            raise InputError(
                f"{name}: annotation {annotation!r} is {low} for all {len(present)} images: leave "
                "it out, or add images with another value"
            )
        counts[annotation] = high + 1
    return counts


def strata(split: Annotated) -> Tensor:
    """Number of the joint value of label and annotations of each row, int64 (n,) on the CPU.

    Numbers have no gaps. Without annotations they are the labels.
    """
    columns = [split.labels, *split.annotations.values()]
    if len(columns) == 1:
        return split.labels.cpu()
    numbers: Tensor = torch.unique(torch.stack(columns, 1).cpu(), dim=0, return_inverse=True)[1]
    return numbers


def joint_rows(where: str, split: Annotated, counts: Mapping[str, int]) -> list[Tensor]:
    """The rows of each joint value of some annotations, on the CPU; the last one varies fastest.

    Args:
        where: the split, for the message.
        split: the rows.
        counts: the annotations, and how many values each has.

    Raises:
        InputError: a joint value has no rows.
    """
    groups = []
    for joint in itertools.product(*(range(count) for count in counts.values())):
        mine = torch.ones(len(split), dtype=torch.bool)
        for name, value in zip(counts, joint, strict=True):
            mine &= split.annotations[name].cpu() == value
        if not mine.any():
            said = " and ".join(f"{n} = {v}" for n, v in zip(counts, joint, strict=True))
            raise InputError(
                f"{where} has no image with {said}: every combination is needed; add some"
            )
        groups.append(mine.nonzero().flatten())
    return groups


def _check(where: str, values: Tensor, n: int) -> None:
    if values.shape != (n,):
        raise InputError(f"{where} has shape {tuple(values.shape)}: give one number per image, {n}")
    if values.dtype != torch.int64:
        raise InputError(f"{where} is {values.dtype}: give whole numbers, int64")
    if n and int(values.min()) < 0:
        raise InputError(f"{where} has the value {int(values.min())}: values start at 0")
