"""Coloured and rotated digits: exact shares, one domain of each digit, one domain left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data import ImageData, decorrelated, load
from lowland.data.domains import dealt
from lowland.data.images import joined


def whole(data: ImageData) -> dict[str, Tensor]:
    """All rows in the order of the source."""
    split = joined(list(data.splits.values()))
    split = split.select(split.index.argsort())
    return {"images": split.images, "label": split.labels, **split.annotations}


def digits() -> dict[str, Tensor]:
    split = joined(list(load("digits").splits.values()))
    split = split.select(split.index.argsort())
    return {"images": ((split.images.int() * 255 + 8) // 16).byte(), "label": split.labels}


def test_colours_and_noise_are_exact() -> None:
    data, source = whole(load("colored-digits")), digits()
    assert torch.equal(data["shape"], (source["label"] >= 5).long())
    for domain, correlation in enumerate((0.9, 0.8, 0.1)):
        mine = data["domain"] == domain
        assert int(mine.sum()) == 599
        label, shape, colour = (data[name][mine] for name in ("label", "shape", "colour"))
        for value in (0, 1):
            n = int((shape == value).sum())
            assert int(((label != shape) & (shape == value)).sum()) == round(0.25 * n)
            n = int((label == value).sum())
            wrong = int(((label != colour) & (label == value)).sum())
            assert wrong == round((1 - correlation) * n)


def test_the_colour_is_the_channel_and_the_shape_the_picture() -> None:
    data, source = whole(load("colored-digits:test=0.8,noise=0")), digits()
    assert torch.equal(data["label"], data["shape"])
    assert torch.equal(data["images"].amax(1), source["images"][:, 0])
    assert torch.equal(data["images"].sum((2, 3)).argmax(1), data["colour"])
    assert not data["images"][:, 2].any()


def test_the_domain_left_out_is_test_and_only_test() -> None:
    data = load("colored-digits:test=0.9")
    assert data.test.annotations["domain"].unique().tolist() == [0]
    for split in (data.train, data.validation):
        assert split.annotations["domain"].unique().tolist() == [1, 2]
    assert data.source["sizes"] == {"train": 958, "validation": 240, "test": 599}
    assert data.source["tested on"] == "0.9"
    assert (data.shape, data.classes, data.augmentation) == ((3, 8, 8), 2, "none")
    assert data.annotations == {"domain": 3, "colour": 2, "shape": 2}
    joint = data.validation.annotations["domain"].bincount()
    assert joint.tolist() == [0, 119, 121]


def test_probes_of_colour_and_shape_see_them_apart() -> None:
    split = decorrelated(load("colored-digits"))
    joint = 2 * split.annotations["shape"] + split.annotations["colour"]
    assert joint.bincount().tolist() == [37] * 4


def test_domains_are_dealt_within_classes() -> None:
    labels = torch.arange(100) % 7
    domain = dealt(labels, 3, seed=0)
    for label in range(7):
        counts = domain[labels == label].bincount(minlength=3)
        assert int(counts.max() - counts.min()) <= 1
    assert sorted(domain.bincount().tolist()) == [33, 33, 34]
    assert not torch.equal(domain, dealt(labels, 3, seed=1))


def test_rotated_digits_are_turned_by_their_domain() -> None:
    data, source = load("rotated-digits"), digits()
    every = whole(data)
    assert torch.equal(every["label"], source["label"])
    straight = every["domain"] == 0
    assert torch.equal(every["images"][straight], source["images"][straight])
    turned = every["domain"] == 5
    clockwise = source["images"][turned][:, 0].rot90(-1, (1, 2)).float()
    anti = source["images"][turned][:, 0].rot90(1, (1, 2)).float()
    images = every["images"][turned][:, 0].float()
    assert (images - anti).abs().mean() < 0.7 * (images - clockwise).abs().mean()
    assert data.annotations == {"domain": 6}
    assert data.source["tested on"] == "75"
    assert data.test.annotations["domain"].unique().tolist() == [5]
    assert (data.shape, data.classes) == ((1, 8, 8), 10)


def test_mnist_has_the_same_domains(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    x, y = draws.integers(0, 256, (240, 28, 28), dtype=np.uint8), np.arange(240) % 10
    np.savez(tmp_path / "x.npz", xtr=x[:200], ytr=y[:200], xte=x[200:], yte=y[200:])
    colored = load(f"colored-mnist:{tmp_path / 'x.npz'}")
    assert (colored.shape, len(colored.test)) == ((3, 28, 28), 80)
    assert torch.equal(whole(colored)["images"].amax(1), torch.from_numpy(x))
    rotated = load(f"rotated-mnist:{tmp_path / 'x.npz'},test=0")
    assert len(rotated.test) == 40
    assert torch.equal(rotated.test.images[:, 0], torch.from_numpy(x)[rotated.test.index])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("colored-digits:test=0.7", "unknown domain of colored-digits '0.7': did you mean '0.9'?"),
        ("colored-digits:noise=0.6", "colored-digits: noise is 0.6: give a number from 0 to 0.5"),
        ("rotated-digits:test=20", "known: 0, 15, 30, 45, 60, 75"),
        ("rotated-digits:noise=0", "unknown setting of rotated-digits 'noise': known: test"),
        ("colored-mnist:", "data set 'colored-mnist:' lacks its path: colored-mnist:PATH"),
        ("rotated-mnist", "did you mean 'rotated-mnist:PATH'?"),
    ],
)
def test_domains_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(name)
    assert message in str(caught.value)


def test_coloured_images_cannot_be_coloured(tmp_path: Path) -> None:
    x = np.zeros((40, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(40) % 2)
    with pytest.raises(InputError, match="has images of 3 channels: name files of grey digits"):
        load(f"colored-mnist:{tmp_path / 'x.npz'}")
