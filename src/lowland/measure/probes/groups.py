"""Errors by group, the worst of them, and their averages by name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.measure.proportions import wilson


@dataclass(frozen=True, kw_only=True)
class GroupError:
    """The error of one group with Wilson's 95 % interval.

    Attributes:
        group: its number.
        n: test examples in it.
        errors: of them misclassified.
        error: errors / n.
        low: lower end of the interval.
        high: upper end.
        train_size: training examples in it; None where training groups were not given.
    """

    group: int
    n: int
    errors: int
    error: float
    low: float
    high: float
    train_size: int | None


@dataclass(frozen=True, kw_only=True)
class GroupErrors:
    """Errors of all groups.

    Attributes:
        groups: by ascending number.
        worst_group: the group with the largest error, the first of equals.
        worst_error: its error. As the largest of several estimates it is biased upwards; the
            interval is that of the one group and does not correct for the choice.
        worst_low: lower end of its 95 % interval.
        worst_high: upper end.
        averages: "examples": every test example counts once; "groups equally": the mean of the
            groups' errors; "training shares": groups weighed by their share of the training
            examples, only where training groups were given. Published "averages" are any of them.
    """

    groups: tuple[GroupError, ...]
    worst_group: int
    worst_error: float
    worst_low: float
    worst_high: float
    averages: dict[str, float]


def group_errors(wrong: Tensor, groups: Tensor, train_groups: Tensor | None) -> GroupErrors:
    """Errors by group from what was misclassified.

    Args:
        wrong: (n,) whether each test example was.
        groups: (n,) their groups.
        train_groups: (m,) groups of the training examples. Groups without test examples have no
            error; their training share is left out of "training shares".
    """
    rows = []
    for group in torch.unique(groups).tolist():
        own = wrong[groups == group]
        n, errors = len(own), int(own.sum())
        low, high = wilson(errors / n, n)
        train = None if train_groups is None else int((train_groups == group).sum())
        rows.append(
            GroupError(
                group=group,
                n=n,
                errors=errors,
                error=errors / n,
                low=low,
                high=high,
                train_size=train,
            )
        )
    worst = max(rows, key=lambda row: row.error)
    return GroupErrors(
        groups=tuple(rows),
        worst_group=worst.group,
        worst_error=worst.error,
        worst_low=worst.low,
        worst_high=worst.high,
        averages=_averages(rows),
    )


def _averages(rows: list[GroupError]) -> dict[str, float]:
    total = sum(row.n for row in rows)
    averages = {
        "examples": sum(row.errors for row in rows) / total,
        "groups equally": sum(row.error for row in rows) / len(rows),
    }
    sizes = [row.train_size for row in rows]
    known = [size for size in sizes if size is not None]
    if len(known) == len(rows) and sum(known) > 0:
        weighed = sum(row.error * size for row, size in zip(rows, known, strict=True))
        averages["training shares"] = weighed / sum(known)
    return averages
