"""Choosing rows so that every class keeps its share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.seeds import generator

SPLIT_NAMES = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
}
"""Names of splits in files and folders."""


def stratified(labels: Tensor, count: int, *, name: str) -> Tensor:
    """The rows of `count` examples, ascending: the first of each class, class shares kept.

    The r-th of the n_c examples of class c has the key r / n_c, r counted from 0, and the
    `count` smallest keys are taken (Adams' apportionment). So no class is left out while `count`
    is at least the number of classes, and a file that is sorted by class loses nothing.

    Args:
        labels: class of each row, (n,), on the CPU.
        count: how many rows to take, at most n.
        name: the data set, for the message.

    Raises:
        InputError: `count` is smaller than the number of classes.
    """
    _, members, sizes = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
    if count < len(sizes):
        raise InputError(f"{name}: {count} examples cannot cover {len(sizes)} classes: take more")
    by_class = np.argsort(members, kind="stable")
    first = np.cumsum(sizes) - sizes
    place = np.empty_like(by_class)
    place[by_class] = np.arange(len(members)) - first[members[by_class]]
    taken = np.argsort(place / sizes[members], kind="stable")[:count]
    return torch.from_numpy(np.sort(taken))


def hold_out(labels: Tensor, share: float, *, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """Rows kept and rows held out, each ascending: a random, stratified `share` is held out.

    At least one row is held out, and every class keeps at least one row.

    Raises:
        InputError: there are too few rows for that.
    """
    n = len(labels)
    held = max(1, round(share * n))
    if n - held < len(np.unique(labels.numpy())):
        raise InputError(
            f"{name}: {n} training images are too few to hold out {held} and keep one of every "
            "class: add images"
        )
    shuffled = torch.randperm(n, generator=generator("cpu", "split", seed))
    is_kept = torch.zeros(n, dtype=torch.bool)
    is_kept[shuffled[stratified(labels[shuffled], n - held, name=name)]] = True
    return is_kept.nonzero().flatten(), (~is_kept).nonzero().flatten()


def completed(
    rows: dict[str, Tensor], labels: Tensor, rule: str, *, seed: int, name: str
) -> tuple[dict[str, Tensor], str]:
    """Rows of train, validation and test where a source has some of them, and how they were found.

    A source with validation rows and no test rows is tested on its validation rows. Whatever is
    missing then is held out of train within each class: 20% for test, 10% of the rest for
    validation.

    Args:
        rows: rows by split, ascending, empty where the source has none.
        labels: class of every row of the source.
        rule: how the source gave them.
        seed: of what is held out.
        name: the source, for messages.

    Raises:
        InputError: there are too few rows.
    """
    rows = dict(rows)
    if not len(rows["test"]) and len(rows["validation"]):
        rows["test"], rows["validation"] = rows["validation"], rows["test"]
        rule += "; its validation rows are test"
    for key, share in (("test", 0.2), ("validation", 0.1)):
        if not len(rows[key]):
            train = rows["train"]
            kept, held = hold_out(labels[train], share, seed=seed, name=name)
            rows["train"], rows[key] = train[kept], train[held]
            rule += f"; stratified: {share:.0%} of train {key}"
    return rows, rule
