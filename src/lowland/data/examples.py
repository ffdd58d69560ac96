"""Examples to measure on: images or texts of one split, read when they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data.images import ImageData

SPLITS = ("train", "validation", "test")

LARGEST = {"digits": 16.0, "digit-dominoes": 16.0}
"""Data sets whose largest stored value is not 255."""


@dataclass(frozen=True)
class Request:
    """What is asked of a source.

    Attributes:
        name: the whole name, for records and messages.
        path: the file or folder.
        split: one of `SPLITS`, or None.
        kind: "images" or "texts".
        column: column of a table, or None.
    """

    name: str
    path: Path
    split: str | None
    kind: str = "images"
    column: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Examples:
    """Examples of one split, in the order in which they are measured.

    Attributes:
        name: the name they were opened by.
        kind: "images" or "texts".
        split: "train", "validation" or "test"; "all" where the source has no splits.
        read: place -> the image (c, h, w) as stored, or the text.
        labels: (n,) int64, or None.
        classes: number of classes, or None without labels.
        n: how many there are.
        largest: the largest value that a stored image can have.
        order: how they are ordered.
        source: plain record of where they come from.
    """

    name: str
    kind: str
    split: str
    read: Callable[[int], Any]
    labels: Tensor | None
    classes: int | None
    n: int
    largest: float
    order: str
    source: dict[str, Any]

    def first(self, n: int) -> Examples:
        """At most the first `n`."""
        n = min(n, self.n)
        labels = None if self.labels is None else self.labels[:n]
        return dataclasses.replace(self, n=n, labels=labels)

    def ordered(self, rows: Tensor, order: str) -> Examples:
        """The examples at `rows`, in that order."""
        places = rows.tolist()
        read = self.read
        return dataclasses.replace(
            self,
            read=lambda place: read(places[place]),
            labels=None if self.labels is None else self.labels[rows],
            n=len(places),
            order=order,
        )

    def to_dict(self) -> dict[str, Any]:
        """What they are, as plain values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "split": self.split,
            "n": self.n,
            "labelled": self.labels is not None,
            "classes": self.classes,
            "order": self.order,
            "source": self.source,
        }


def of_data(data: ImageData, split: str | None = None) -> Examples:
    """A split of a data set that is in memory, in the order of its source."""
    chosen = data.splits[split or "train"]
    images = chosen.images
    return Examples(
        name=data.name,
        kind="images",
        split=split or "train",
        read=lambda place: images[place],
        labels=chosen.labels,
        classes=data.classes,
        n=len(chosen),
        largest=LARGEST.get(data.name.partition(":")[0], 255.0),
        order="as in the source",
        source={"fingerprint": data.fingerprint, **data.source},
    )


def chosen_split(
    name: str, marked: Sequence[str] | None, split: str | None, n: int
) -> tuple[str, Tensor]:
    """The split to read and its rows, of a source that may or may not mark them.

    Args:
        name: the source, for messages.
        marked: the split of each row, or None.
        split: what was asked for.
        n: number of rows.

    Raises:
        InputError: a split was asked for that the source has not got.
    """
    if marked is None:
        if split is not None:
            raise InputError(f"{name} marks no splits: leave --split out to use all of it")
        return "all", torch.arange(n)
    there = [s for s in SPLITS if s in marked]
    wanted = split or ("train" if "train" in there else there[0])
    if wanted not in there:
        raise InputError(f"{name} has no split {wanted!r}: it has {', '.join(there)}")
    return wanted, torch.tensor([row for row, mark in enumerate(marked) if mark == wanted])


def in_turn(labels: Tensor) -> Tensor:
    """Rows such that the classes take turns: the first of each class, the second of each, ...

    >>> in_turn(torch.tensor([0, 0, 0, 1, 2, 2])).tolist()
    [0, 3, 4, 1, 5, 2]
    """
    place = torch.zeros_like(labels)
    for label in range(int(labels.max()) + 1):
        mine = labels == label
        place[mine] = torch.arange(int(mine.sum()))
    return (place * (int(labels.max()) + 1) + labels).argsort(stable=True)
