"""Batches of an epoch, reproducible from (seed, epoch, step) alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.seeds import generator
from lowland.core.transfer import sent
from lowland.data.augment import augmented, draw
from lowland.data.images import Split

AHEAD = 256
"""Batches whose augmentation is drawn and copied to a device at once: 1.5 MB for 256 images each,
and some ten milliseconds of the host."""


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

    All draws are made on the host. To another device they go `AHEAD` batches at a time, so that
    the host waits for nothing between two batches.

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
    order = sent(order, split.labels.device)
    height = split.images.shape[2]

    def drawn(steps: range) -> list[Tensor]:
        """What the augmentation of each of these batches draws, in one copy to the device."""
        sizes = [min(batch_size, n - step * batch_size) for step in steps]
        parts = [
            draw(augmentation, size, height, generator("cpu", seed, "augmentation", epoch, step))
            for step, size in zip(steps, sizes, strict=True)
        ]
        return list(torch.split(sent(torch.cat(parts, 1), order.device), sizes, 1))

    def yielded() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        ahead = _ahead(order.device)
        for begin in range(start, count, ahead):
            steps = range(begin, min(begin + ahead, count))
            for step, offsets in zip(steps, drawn(steps), strict=True):
                rows = order[step * batch_size : (step + 1) * batch_size]
                images = augmented(split.images[rows], augmentation, offsets)
                yield images, split.labels[rows], rows

    return yielded()


def _ahead(device: torch.device) -> int:
    return 1 if device.type == "cpu" else AHEAD


def batches(split: Split, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, labels): `numbered_batches`, with its arguments, without the places."""
    return ((images, labels) for images, labels, _ in numbered_batches(split, **options))
