"""Annotations travel with their images, and are checked."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from made_images import make_data, make_split

from lowland.core.errors import InputError
from lowland.data import ImageData, Split, decorrelated, load
from lowland.train.evaluate import first


def annotated(labels: list[int], start: int = 0, **notes: Any) -> Split:
    """A split whose annotation "row" is the row of the image."""
    split = make_split(labels, first=start)
    return dataclasses.replace(split, annotations={"row": split.index.clone(), **notes})


def made(**changes: Any) -> ImageData:
    given = {
        "train": annotated([0, 1, 2] * 4),
        "validation": annotated([0, 1, 2] * 2, 100),
        "test": annotated([0, 1, 2] * 2, 200),
    }
    return make_data(**{**given, **changes})


def test_annotations_go_where_their_images_go() -> None:
    parts = {
        name: dataclasses.replace(split, annotations={"third": split.index // 3 % 2})
        for name, split in made().splits.items()
    }
    data = make_data(**parts)
    assert data.annotations == {"third": 2}
    derived = [data.to("cpu"), data.keep_labels([2, 0]), data.first(9), data.hold_out(0.4)]
    splits = [split for other in derived for split in other.splits.values()]
    rows = torch.tensor([3, 1])
    splits += [data.train.select(rows), data.train.select(slice(4)), first(data.train, 5)]
    for split in splits:
        assert torch.equal(split.annotations["third"], split.index // 3 % 2)
    assert made().train.select(rows).annotations["row"].tolist() == [3, 1]
    assert data.hold_out(0.4).annotations == data.annotations


def groups(split: Split) -> list[int]:
    pairs = torch.stack([split.labels, split.annotations["easy"]], 1)
    return torch.unique(pairs, dim=0, return_counts=True)[1].tolist()


def test_limits_and_held_out_shares_keep_the_joint_groups() -> None:
    data = load("digit-dominoes:correlation=0.9", limit=100)
    assert groups(data.train) == [45, 5, 5, 45]
    held = load("digit-dominoes:correlation=0.9", held_out=0.2)
    assert groups(held.validation) == [103, 11, 11, 105]
    assert torch.equal(held.validation.annotations["hard"], held.validation.labels)


def test_annotations_are_in_the_fingerprint_and_nothing_is_without_them() -> None:
    plain, noted = make_data(), made()
    assert plain.annotations == {}
    assert plain.fingerprint == "2bc567123919a40b32fb98113fbe1bd615c87493069c8bc9292ecaae0508cee0"
    assert plain.fingerprint != noted.fingerprint
    split = noted.train
    changed = dataclasses.replace(split, annotations={"row": split.index + 1})
    assert made(train=changed).fingerprint != noted.fingerprint
    renamed = {
        name: dataclasses.replace(part, annotations={"line": part.index})
        for name, part in noted.splits.items()
    }
    assert make_data(**renamed).fingerprint != noted.fingerprint


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"colour": torch.ones(6).long()}, "test is annotated with 'colour', train is not"),
        ({"row": torch.ones(5).long()}, r"'row' of test has shape \(5,\): give one number per im"),
        ({"row": torch.ones(6)}, "'row' of test is torch.float32: give whole numbers, int64"),
        ({"row": -torch.ones(6).long()}, "'row' of test has the value -1: values start at 0"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(notes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(test=annotated([0, 1, 2] * 2, 200, **notes))


def test_a_missing_and_a_constant_annotation_are_refused() -> None:
    with pytest.raises(InputError, match="train is annotated with 'row', test is not"):
        made(test=make_split([0, 1, 2] * 2, first=200))
    same = {
        name: dataclasses.replace(split, annotations={"place": torch.ones_like(split.labels)})
        for name, split in made().splits.items()
    }
    with pytest.raises(InputError, match="'place' is 1 for all 24 images: leave it out"):
        make_data(**same)


def test_probes_need_to_know_what_is_spurious() -> None:
    with pytest.raises(InputError, match="made names no core and spurious annotation"):
        decorrelated(made())
