"""Digits with captions: what is measured, and that captions say it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lowland.data import load, load_pairs
from lowland.data.digit_captions import (
    BOUNDS,
    CAPTIONS,
    LARGEST,
    NUMBERS,
    TEMPLATES,
    WORDS,
    describe,
    measured,
)


def slow(image: np.ndarray) -> dict[str, float]:
    """The definitions, pixel by pixel."""
    h, w = image.shape
    places = [(i, j, image[i, j]) for i in range(h) for j in range(w)]
    mass = math.fsum(v for _, _, v in places)
    x0 = math.fsum(j * v for _, j, v in places) / mass
    y0 = math.fsum(i * v for i, _, v in places) / mass
    xx = math.fsum((j - x0) ** 2 * v for _, j, v in places) / mass
    yy = math.fsum((i - y0) ** 2 * v for i, _, v in places) / mass
    xy = math.fsum((i - y0) * (j - x0) * v for i, j, v in places) / mass

    def at(i: int, j: int) -> float:
        return float(image[i, j]) if 0 <= i < h and 0 <= j < w else 0.0

    steps = [abs(at(i, j) - at(i, j - 1)) for i in range(h) for j in range(w + 1)]
    steps += [abs(at(i, j) - at(i - 1, j)) for i in range(h + 1) for j in range(w)]
    return {
        "ink": mass / (h * w),
        "slant": math.degrees(math.atan(-xy / yy)),
        "stroke": 2 * mass / math.fsum(steps),
        "breadth": math.sqrt(xx),
    }


def test_measured_as_defined() -> None:
    images = load("digits").test.images[:20, 0].double().numpy() / LARGEST
    found = measured(images)
    for place, image in enumerate(images):
        for name, value in slow(image).items():
            assert found[name][place] == pytest.approx(value, rel=1e-9, abs=1e-9), name


def test_bars_have_the_width_and_slant_that_they_were_drawn_with() -> None:
    bar = np.zeros((1, 40, 40))
    bar[0, 2:38, 10:13] = 1.0
    found = measured(bar)
    assert found["stroke"][0] == pytest.approx(3, rel=0.1)
    assert found["slant"][0] == pytest.approx(0, abs=1e-9)
    leaning = np.zeros((1, 40, 40))
    for row in range(40):  # one pixel to the right for every four upwards
        leaning[0, row, 25 - row // 4 : 27 - row // 4] = 1.0
    assert measured(leaning)["slant"][0] == pytest.approx(math.degrees(math.atan(1 / 4)), abs=0.5)
    assert measured(leaning[:, ::-1])["slant"][0] < -10


def test_a_blank_image_has_numbers() -> None:
    assert all(np.isfinite(values).all() for values in measured(np.zeros((1, 8, 8))).values())


def test_captions_say_what_was_measured() -> None:
    data, labels = load_pairs("digits-captions"), load("digits").train.labels
    found = measured(data.train.images[:, 0].double().numpy() / LARGEST)
    for place, texts in enumerate(data.train.captions[:200]):
        assert len(set(texts)) == len(texts) == CAPTIONS
        said = {
            name: WORDS[name][int(np.searchsorted(BOUNDS[name], found[name][place]))]
            for name in BOUNDS
        }
        possible = {
            template.format(number=NUMBERS[int(labels[place])], **said) for template in TEMPLATES
        }
        assert set(texts) <= possible


def test_every_word_is_used_about_equally_often() -> None:
    found = measured(load("digits").train.images[:, 0].double().numpy() / LARGEST)
    for name, bounds in BOUNDS.items():
        counts = np.bincount(np.searchsorted(bounds, found[name]), minlength=5)
        assert len(WORDS[name]) == 5
        assert counts.min() > 0.15 * counts.sum(), name


def test_captions_are_those_of_row_and_seed_alone() -> None:
    split = load("digits").test
    rows = split.index.flip(0)
    whole, turned = describe(split, 0), describe(split.select(split.index.argsort().flip(0)), 0)
    by_row = dict(zip(split.index.tolist(), whole, strict=True))
    assert turned == tuple(by_row[row] for row in sorted(rows.tolist(), reverse=True))
    assert describe(split, 1) != whole
