"""Labels and groups as users have them: any whole numbers, in tensors, arrays or lists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.measure.features.labels import whole_labels


def numbered(labels: Tensor, what: str = "labels") -> tuple[Tensor, Tensor]:
    """The classes that occur, ascending, and the number of each example's class among them.

    Raises:
        InputError: fewer than two classes.
    """
    classes, numbers = torch.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            f"{what}: all {len(labels)} training examples have label {int(classes[0])}; a probe "
            "needs at least two classes"
        )
    return classes, numbers


def numbers_among(labels: Tensor, classes: Tensor) -> Tensor:
    """The number of each label among ascending `classes`; -1 for one that is not among them."""
    place = torch.searchsorted(classes, labels).clamp_max(len(classes) - 1)
    return torch.where(classes[place] == labels, place, -1)


def joint_groups(*columns: Any) -> Tensor:
    """One group number per combination of several annotations, counted from 0 in sorted order.

    >>> joint_groups([0, 0, 1, 1], [3, 5, 3, 5]).tolist()
    [0, 1, 2, 3]

    Raises:
        InputError: no annotations, or of different lengths.
    """
    if not columns:
        raise InputError("joint_groups: no annotations; give at least one column of labels")
    n = len(columns[0])
    table = torch.stack([whole_labels(c, n, f"column {i}") for i, c in enumerate(columns)], 1)
    groups: Tensor = torch.unique(table, dim=0, return_inverse=True)[1]
    return groups


def balanced_rows(groups: Tensor, generator: torch.Generator, rows: Tensor | None = None) -> Tensor:
    """Rows drawn without replacement so that every group has as many as the smallest one.

    Args:
        groups: (n,) group of each example.
        generator: draws them.
        rows: draw among these only.

    Returns:
        Row numbers, ascending.
    """
    rows = torch.arange(len(groups)) if rows is None else rows
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    own = groups[shuffled]
    counts = torch.unique(own, return_counts=True)[1]
    least = int(counts.min())
    taken = [shuffled[own == group][:least] for group in torch.unique(own)]
    return torch.cat(taken).sort().values


def stratified_split(
    labels: Tensor, share: float, generator: torch.Generator, what: str = "validation"
) -> tuple[Tensor, Tensor]:
    """Rows (kept, held out): about `share` of every class is held out, and at least one is kept.

    Raises:
        InputError: a share outside (0, 1), or so small that nothing is held out.
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"{what}: {share!r} is not in (0, 1); give for example 0.2 for 20%")
    shuffled = torch.randperm(len(labels), generator=generator)
    own = labels[shuffled]
    held = []
    for label in torch.unique(own):
        rows = shuffled[own == label]
        held.append(rows[: min(len(rows) - 1, round(share * len(rows)))])
    out = torch.cat(held).sort().values
    if not len(out):
        raise InputError(
            f"{what}: a share of {share:g} of {len(labels)} examples holds none out; give a "
            "larger share, or (features, labels)"
        )
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[out] = False
    return kept.nonzero()[:, 0], out
