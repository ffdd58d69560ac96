"""Batches of an epoch, reproducible from (seed, epoch, step) alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.seeds import generator
from lowland.data.augment import augment
from lowland.data.images import Split


def batch_count(n: int, *, batch_size: int, drop_last: bool) -> int:
    """How many batches `n` examples make.

    Raises:
        InputError: none at all.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: use 1 or more")
    count = n // batch_size if drop_last else -(-n // batch_size)
    if not count:
        raise InputError(
            f"{n} examples make no whole batch of {batch_size}: use batch_size={max(n, 1)} or less"
        )
    return count


def numbered_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    augmentation: str = "none",
    start: int = 0,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (images, labels, rows): uint8 (b, c, h, w), int64 (b,) and the places of the examples
    in `split`, int64 (b,), all on the device of `split`.

    The order depends on (seed, epoch) alone, the augmentation of a batch on (seed, epoch, step)
    alone, and neither on the device. So training resumes at any (epoch, step) with no generator
    state: pass the step as `start`.

    Args:
        split: the examples.
        batch_size: examples per batch; the last batch is smaller unless `drop_last`.
        shuffle: a fresh order every epoch; otherwise the order of `split`.
        augmentation: a policy of `lowland.data.POLICIES`.
        start: number of leading batches to leave out.

    Raises:
        InputError: there is no batch, or no such policy.
    """
    n = len(split)
    count = batch_count(n, batch_size=batch_size, drop_last=drop_last)
    order = torch.arange(n)
    if shuffle:
        order = torch.randperm(n, generator=generator("cpu", seed, "order", epoch))
    order = order.to(split.labels.device)

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = order[step * batch_size : (step + 1) * batch_size]
        draws = generator("cpu", seed, "augmentation", epoch, step)
        return augment(split.images[rows], augmentation, draws), split.labels[rows], rows

    return map(batch, range(start, count))


def batches(split: Split, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, labels): `numbered_batches`, with its arguments, without the places."""
    return ((images, labels) for images, labels, _ in numbered_batches(split, **options))
