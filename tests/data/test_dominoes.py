"""Dominoes of digits: who is above whom, how often, and made of what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data import Split, decorrelated, load, open_examples
from lowland.data.dominoes import Halves, assemble_dominoes


def counts(split: Split) -> list[list[int]]:
    """How often (label, easy) is (0, 0), (0, 1); (1, 0), (1, 1)."""
    joint = 2 * split.labels + split.annotations["easy"]
    return joint.bincount(minlength=4).view(2, 2).tolist()


def pictures(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("correlation", [0.5, 0.8, 0.95, 1.0])
def test_the_share_that_agrees_is_exact(correlation: float) -> None:
    data = load(f"digit-dominoes:correlation={correlation}")
    for split in (data.train, data.validation):
        for label, row in enumerate(counts(split)):
            assert row[label] == round(correlation * sum(row))
        assert torch.equal(split.annotations["hard"], split.labels)
    assert counts(data.test) == [[142, 142], [142, 142]]
    assert (data.shape, data.classes, data.augmentation) == ((1, 16, 8), 2, "none")
    assert data.annotations == {"easy": 2, "hard": 2}


def test_halves_show_what_the_annotations_say() -> None:
    digits, data = load("digits"), load("digit-dominoes:hard=35-68")
    for name, split in data.splits.items():
        source = digits.splits[name]
        label_of = {
            image.numpy().tobytes(): int(label)
            for image, label in zip(source.images, source.labels, strict=True)
        }
        above, below = split.images.chunk(2, dim=2)
        easy = [label_of[image.numpy().tobytes()] for image in above]
        hard = [label_of[image.numpy().tobytes()] for image in below]
        assert easy == split.annotations["easy"].tolist()
        assert [int(digit in (6, 8)) for digit in hard] == split.labels.tolist()
        assert set(hard) == {3, 5, 6, 8}
    odd = load("digit-dominoes")
    assert odd.source["digits of label 1"] == [3, 5, 7, 9]
    assert odd.source["sizes"] == {"train": 862, "validation": 288, "test": 568}


def test_no_picture_is_in_two_splits() -> None:
    data = load("digit-dominoes")
    halves = [split.images.chunk(2, dim=2) for split in data.splits.values()]
    for half in (0, 1):
        sets = [pictures(parts[half]) for parts in halves]
        assert not sets[0] & sets[1]
        assert not (sets[0] | sets[1]) & sets[2]


def test_settings_change_the_easy_half_alone() -> None:
    data = load("digit-dominoes:correlation=0.95")
    same, blank = load("digit-dominoes:correlation=1"), load("digit-dominoes:easy=none")
    for name, split in data.splits.items():
        for other in (same.splits[name], blank.splits[name]):
            assert torch.equal(split.images[:, :, 8:], other.images[:, :, 8:])
            assert torch.equal(split.labels, other.labels)
        assert not blank.splits[name].images[:, :, :8].any()
        agree = split.annotations["easy"] == same.splits[name].annotations["easy"]
        assert torch.equal(split.images[agree], same.splits[name].images[agree])
    assert torch.equal(blank.train.annotations["easy"], data.train.annotations["easy"])


def test_every_picture_of_a_split_is_used() -> None:
    digits, data = load("digits").test, load("digit-dominoes").test
    above, below = data.images.chunk(2, dim=2)
    assert pictures(above) == pictures(digits.images[digits.labels <= 1])
    assert pictures(below) < pictures(digits.images[digits.labels > 1])
    assert len(pictures(below)) == 2 * 142


def test_the_split_is_that_of_the_data_seed() -> None:
    data = load("digit-dominoes")
    assert load("digit-dominoes:correlation=0.95,hard=odd").fingerprint == data.fingerprint
    assert load("digit-dominoes", seed=1).fingerprint != data.fingerprint
    assert data.source["spurious"] == "easy"
    assert data.source["core"] == "hard"


def test_probes_are_fitted_on_train_pictures_in_equal_groups() -> None:
    data = load("digit-dominoes:correlation=1")
    split = decorrelated(data)
    assert counts(split) == [[429, 429], [429, 429]]
    for half in (0, 1):
        known = pictures(data.train.images.chunk(2, dim=2)[half])
        assert pictures(split.images.chunk(2, dim=2)[half]) <= known
    easy_of, label_of = (
        {picture.numpy().tobytes(): int(value) for picture, value in zip(half, shown, strict=True)}
        for half, shown in zip(
            data.train.images.chunk(2, dim=2), data.train.annotations.values(), strict=True
        )
    )
    above, below = split.images.chunk(2, dim=2)
    assert [easy_of[a.numpy().tobytes()] for a in above] == split.annotations["easy"].tolist()
    assert [label_of[b.numpy().tobytes()] for b in below] == split.labels.tolist()
    assert torch.equal(decorrelated(data).images, split.images)
    assert not torch.equal(decorrelated(data, seed=1).images, split.images)


def test_examples_of_dominoes_can_be_inspected() -> None:
    examples = open_examples("digit-dominoes:easy=none", split="test")
    assert (examples.n, examples.largest, examples.classes) == (568, 16.0, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("hard=1-8", "hard is 1-8: give odd, or different digits from 2 to 9"),
        ("hard=38", "hard is 38: give odd"),
        ("hard=3-33", "hard is 3-33: give odd, or different digits"),
        ("easy=no", "easy is no: give shown or none"),
        ("correlation=0.4", "correlation is 0.4: give a number from 0.5 to 1"),
        (
            "hard=3-8,correlation=0.99",
            "validation has 37 images of label 0, too few for correlation 0.99: none would "
            "disagree; use 0.9729 or less, or 1 for none",
        ),
    ],
)
def test_dominoes_that_cannot_be_made(settings: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(f"digit-dominoes:{settings}")
    assert message in str(caught.value)


def test_a_value_without_pictures_is_named() -> None:
    zeros = torch.zeros(4, dtype=torch.int64)
    values = torch.tensor([0, 1, 0, 1])
    image = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    parts = {
        "train": Halves(image, values, image, values),
        "test": Halves(image, zeros, image, values),
    }
    with pytest.raises(InputError, match="made: no test image has easy = 1: add images"):
        assemble_dominoes("made", parts, correlation=1.0, easy="shown", seed=0, source={})


def test_the_code_of_the_page_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(code, names)
    assert set(names["probed"].errors) == {"easy", "hard"}
    assert names["probed"].groups == 4
