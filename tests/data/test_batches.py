"""Batches: complete, ordered, and resumable from (seed, epoch, step) alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_images import make_split

from lowland.core.errors import InputError
from lowland.data import batch_count, batches, numbered_batches

EVERYTHING = {"batch_size": 4, "shuffle": True, "augmentation": "shift-flip"}


def numbered(n: int, size: int = 4):
    return make_split(list(range(n)), shape=(1, size, size))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(1, 12), st.booleans(), st.booleans())
def test_every_example_once_and_the_last_batch_ragged(
    n: int, batch_size: int, shuffle: bool, drop_last: bool
) -> None:
    split = numbered(n)
    options = {"batch_size": batch_size, "drop_last": drop_last}
    if drop_last and batch_size > n:
        with pytest.raises(InputError, match=f"{n} examples make no whole batch of {batch_size}"):
            batches(split, **options)
        return
    out = list(batches(split, shuffle=shuffle, **options))
    assert len(out) == batch_count(n, **options)
    assert len(out) == (math.floor if drop_last else math.ceil)(n / batch_size)
    labels = torch.cat([label for _, label in out]).tolist()
    assert len(set(labels)) == len(labels) == (n // batch_size * batch_size if drop_last else n)
    assert all(len(label) == batch_size for _, label in out[:-1])
    for images, label in out:
        assert torch.equal(images, split.images[label])  # label k is row k
    if not shuffle:
        assert labels == list(range(len(labels)))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 4), st.integers(0, 3))
def test_resuming_at_a_step_gives_the_same_bits(start: int, epoch: int) -> None:
    split = numbered(18, size=8)
    whole = list(batches(split, seed=3, epoch=epoch, **EVERYTHING))
    rest = list(batches(split, seed=3, epoch=epoch, start=start, **EVERYTHING))
    assert len(rest) == len(whole) - start
    for (images, labels), (again, labels_again) in zip(whole[start:], rest, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)


def order(seed: int, epoch: int, **options: object) -> list[int]:
    given = {"batch_size": 7, "shuffle": True, **options}
    out = batches(numbered(40, size=8), seed=seed, epoch=epoch, **given)
    return torch.cat([labels for _, labels in out]).tolist()


def test_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    torch.manual_seed(123)
    assert order(0, 1) == order(0, 1, augmentation="shift-flip") == order(0, 1, batch_size=11)


def test_augmentation_differs_between_steps_epochs_and_seeds() -> None:
    split = make_split([0] * 4, shape=(1, 64, 64))
    same = split.select(torch.zeros(8, dtype=torch.int64))

    def first_and_second(seed: int, epoch: int) -> list[bytes]:
        out = batches(same, batch_size=4, seed=seed, epoch=epoch, augmentation="shift-flip")
        return [images.numpy().tobytes() for images, _ in out]

    seen = [b for seed in range(2) for epoch in range(2) for b in first_and_second(seed, epoch)]
    assert len(set(seen)) == len(seen) == 8


def test_the_global_generator_is_not_used() -> None:
    before = torch.get_rng_state()
    list(batches(numbered(9, size=8), **EVERYTHING))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_augmentation_gives_the_stored_pixels() -> None:
    split = numbered(5)
    images, labels = next(batches(split, batch_size=5))
    assert torch.equal(images, split.images)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("n", "batch_size", "drop_last", "message"),
    [
        (5, 0, False, "batch_size is 0: use 1 or more"),
        (5, -3, True, "batch_size is -3: use 1 or more"),
        (5, 6, True, "5 examples make no whole batch of 6: use batch_size=5 or less"),
    ],
)
def test_refused_at_once(n: int, batch_size: int, drop_last: bool, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        batches(numbered(n), batch_size=batch_size, drop_last=drop_last)


def test_unknown_augmentation_is_refused() -> None:
    with pytest.raises(InputError, match="unknown augmentation 'flip'"):
        next(batches(numbered(5), batch_size=5, augmentation="flip"))


def test_places_say_which_examples_a_batch_has() -> None:
    split = numbered(10).select(torch.arange(9, -1, -1))  # labels 9 ... 0
    options = {**EVERYTHING, "seed": 3, "epoch": 2, "start": 1}
    plain = list(batches(split, **options))
    for (images, labels, rows), (same, known) in zip(
        numbered_batches(split, **options), plain, strict=True
    ):
        assert torch.equal(images, same)
        assert torch.equal(labels, known)
        assert torch.equal(split.labels[rows], labels)
        assert torch.equal(rows, 9 - labels)
