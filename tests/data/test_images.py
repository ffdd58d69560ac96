"""Splits, statistics, selection and fingerprint of a data set."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_images import make_data, make_split

from lowland.core.errors import InputError
from lowland.data import ImageData, Split


def with_pixels(value: int | np.ndarray, labels: list[int], first: int = 0) -> Split:
    split = make_split(labels, first=first)
    images = torch.as_tensor(value, dtype=torch.uint8).expand_as(split.images).clone()
    return Split(images, split.labels, split.index)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_mean_and_std_are_those_of_the_train_pixels(c: int, h: int, w: int, seed: int) -> None:
    train = make_split([0, 1, 2], shape=(c, h, w), first=seed)
    rest = {"shape": (c, h, w)}
    data = make_data(
        train=train,
        validation=make_split([0], first=1000, **rest),
        test=make_split([1], first=2000, **rest),
    )
    pixels = train.images.numpy().astype(np.float64)
    np.testing.assert_allclose(data.mean, pixels.mean((0, 2, 3)), rtol=1e-13)
    expected = pixels.std((0, 2, 3))
    np.testing.assert_allclose(data.std, np.where(expected == 0, 1, expected), rtol=1e-13)
    assert data.shape == (c, h, w)


def test_statistics_over_more_than_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_data()
    monkeypatch.setattr("lowland.data.images._CHUNK", 5)
    assert (make_data().mean, make_data().std) == (whole.mean, whole.std)


def test_normalise_standardises_train_and_only_train() -> None:
    data = make_data(
        train=make_split([0, 1] * 50, shape=(3, 8, 8)),
        validation=make_split([0, 1], shape=(3, 8, 8), first=1000),
        test=make_split([0, 1], shape=(3, 8, 8), first=2000),
    )
    out = data.normalise(data.train.images)
    assert out.dtype == torch.float32
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    assert (out.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    by_hand = (data.test.images[1, 2, 3, 4].item() - data.mean[2]) / data.std[2]
    assert data.normalise(data.test.images)[1, 2, 3, 4].item() == pytest.approx(by_hand, rel=1e-5)


def test_statistics_do_not_see_validation_or_test() -> None:
    other = make_data(validation=with_pixels(255, [0, 1], 100), test=with_pixels(0, [2, 1], 200))
    assert (other.mean, other.std) == (make_data().mean, make_data().std)


def test_a_constant_channel_is_centred_and_not_divided_by_zero() -> None:
    data = make_data(train=with_pixels(77, [0, 1, 2]))
    assert (data.mean, data.std) == ((77.0,), (1.0,))
    assert torch.equal(data.normalise(data.train.images), torch.zeros(3, 1, 4, 4))


def test_keep_labels_renumbers_in_the_given_order() -> None:
    data = make_data()
    kept = data.keep_labels([2, 0])
    assert kept.classes == 2
    for name, split in kept.splits.items():
        before = data.splits[name]
        rows = [row for row, label in enumerate(before.labels.tolist()) if label in (0, 2)]
        assert torch.equal(split.images, before.images[rows])
        assert torch.equal(split.index, before.index[rows])
        assert split.labels.tolist() == [{2: 0, 0: 1}[int(before.labels[row])] for row in rows]
    pixels = kept.train.images.double()
    assert kept.mean[0] == pytest.approx(pixels.mean().item())
    assert kept.mean != data.mean
    assert kept.source["labels"] == [2, 0]
    assert kept.source["sizes"] == {"train": 8, "validation": 4, "test": 4}
    assert kept.source["sha256"] == data.source["sha256"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0], r"labels \[0, 0\]: name two or more different ones"),
        ([1], r"labels \[1\]: name two or more different ones"),
        ([], r"labels \[\]: name two or more different ones"),
        ([0, 3], "made has no label 3: use 0 to 2"),
        ([0, -1], "made has no label -1: use 0 to 2"),
    ],
)
def test_keep_labels_refuses(labels: list[int], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        make_data().keep_labels(labels)


def test_keep_labels_that_leaves_a_split_empty() -> None:
    data = make_data(test=make_split([2, 2], first=200))
    with pytest.raises(InputError, match="made: the test split is empty: add images to it"):
        data.keep_labels([0, 1])


def test_first_limits_train_alone() -> None:
    data = make_data()
    less = data.first(6)
    assert less.train.labels.bincount().tolist() == [2, 2, 2]
    assert less.train.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert less.test is data.test
    assert less.validation is data.validation
    assert less.mean[0] == pytest.approx(less.train.images.double().mean().item())
    assert less.source["limit"] == 6
    assert less.source["sizes"]["train"] == 6
    assert data.first(12) is data
    assert data.first(99) is data


@pytest.mark.parametrize("limit", [-1, 0, 2])
def test_first_refuses_to_lose_a_class(limit: int) -> None:
    with pytest.raises(InputError, match=f"^made: {limit} examples cannot cover 3 classes"):
        make_data().first(limit)


BAD = {
    "empty": ({"validation": make_split([], first=5)}, "the validation split is empty"),
    "no pixels": ({"train": make_split([0, 1], shape=(1, 0, 4))}, "the train split is empty"),
    "shapes": ({"test": make_split([0], shape=(1, 4, 5), first=9)}, "test images differ in shape"),
    "one class": ({"train": make_split([0, 0, 0])}, "the train split has one class only"),
    "gap": (
        {"train": make_split([0, 1, 3])},
        "0, 1, ... without gaps, got 3 different ones from 0",
    ),
    "from one": (
        {"train": make_split([1, 2, 3])},
        "without gaps, got 3 different ones from 1 to 3",
    ),
    "huge": ({"train": make_split([0, 10**12])}, "without gaps"),
    "negative": ({"train": make_split([-1, 0])}, "from -1 to 0: renumber them"),
    "unseen": ({"test": make_split([0, 3], first=200)}, "test has label 3, training labels are 0"),
    "below": ({"validation": make_split([-2, 0], first=100)}, "validation has label -2"),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_splits_are_one_line_of_input_error(case: str) -> None:
    changes, message = BAD[case]
    with pytest.raises(InputError) as caught:
        make_data(**changes)
    assert str(caught.value).startswith("made: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_that_share_a_row_are_a_fault() -> None:
    with pytest.raises(ValueError, match="made: splits are not disjoint"):
        make_data(test=make_split([0, 1], first=11))


def changed(split: Split, **parts: Any) -> Split:
    return Split(**{**{k: getattr(split, k) for k in ("images", "labels", "index")}, **parts})


def one_pixel(data: ImageData) -> Split:
    images = data.test.images.clone()
    images[0, 0, 0, 0] ^= 1
    return changed(data.test, images=images)


def test_fingerprint_sees_every_part_and_nothing_else() -> None:
    data = make_data()
    assert make_data(source={"other": 1}).fingerprint == data.fingerprint
    others = [
        make_data(test=one_pixel(data)),
        make_data(test=changed(data.test, labels=data.test.labels.flip(0))),
        make_data(validation=changed(data.validation, index=data.validation.index + 1)),
        make_data(augmentation="none"),
        make_data(validation=data.test, test=data.validation),
        data.first(9),
        data.keep_labels([0, 1]),
    ]
    prints = {data.fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 1 + len(others)


def test_to_a_device_changes_no_value() -> None:
    data = make_data()
    moved = data.to("cpu")
    assert moved.fingerprint == data.fingerprint
    for name, split in data.splits.items():
        assert torch.equal(moved.splits[name].images, split.images)


def test_duplicate_images_stay_separate_rows() -> None:
    data = make_data(train=with_pixels(9, [0, 1, 2] * 3))
    assert len(data.train) == 9
    assert data.train.index.tolist() == list(range(9))


def test_source_is_plain_json() -> None:
    source = make_data().keep_labels(np.array([0, 2])).first(4).source
    assert json.loads(json.dumps(source)) == source
