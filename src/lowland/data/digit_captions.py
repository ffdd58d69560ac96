"""Digits with captions that say what is measured in the image: defined data, no download.

The images are scikit-learn's 1,797 handwritten digits. Nobody wrote the captions: each is made
from a template, the digit's label as a word, and four numbers measured in its pixels (grey values
divided by the largest, v in [0, 1]; x to the right, y down, in pixels; moments are weighted by v):

    ink        mean of v
    slant      atan(-μ₁₁ / μ₀₂) in degrees, with μ₁₁, μ₀₂ the second central moments: how far the
               figure leans to the right
    stroke     2·Σv / Σ(|∂v/∂x| + |∂v/∂y|), width of the stroke in pixels: a long bar of
               width w has total variation 2 per unit of length
    breadth    √μ₂₀ in pixels

Each of these is one of five words; the bounds between them are `BOUNDS`. Half of the templates
leave breadth out, so that captions of one image differ in what they say, as those of people do.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lowland.core.seeds import generator
from lowland.data.digits import read_digits
from lowland.data.images import Split
from lowland.data.pairs import Captions, Pairs, PairSplit, assemble_pairs

LARGEST = 16.0
CAPTIONS = 5
"""Captions of an image, each from another template."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

BOUNDS = {
    "slant": (-8.0, -4.0, -1.0, 3.0),
    "stroke": (1.11, 1.18, 1.25, 1.36),
    "ink": (0.27, 0.295, 0.315, 0.335),
    "breadth": (1.13, 1.23, 1.3, 1.37),
}
"""What separates the five words of a quantity: rounded fifths of the images."""

WORDS = {
    "slant": (
        "leaning far to the left",
        "leaning to the left",
        "upright",
        "leaning a little to the right",
        "leaning to the right",
    ),
    "stroke": ("very thin", "thin", "medium", "thick", "very thick"),
    "ink": ("faint", "light", "grey", "dark", "black"),
    "breadth": ("narrow", "slim", "middling", "wide", "broad"),
}

TEMPLATES = (
    "a {breadth} {ink} {number} , {slant} , {stroke} strokes",
    "the number {number} in {stroke} {ink} strokes , {slant} and {breadth}",
    "{stroke} {breadth} {number} {slant} , {ink} ink",
    "{slant} : a {breadth} {number} with {stroke} lines in {ink}",
    "a {ink} {number} , {stroke} , {slant}",
    "somebody wrote {number} {slant} with a {stroke} {ink} pen",
    "handwritten {number} , {ink} ink , {stroke} pen , {slant}",
    "here is a {stroke} {number} in {ink} , {slant}",
)


def read_digit_captions(name: str, seed: int) -> Pairs:
    """Digits with captions, in the splits of `lowland.data.load("digits")`.

    Args:
        name: what the data set is called.
        seed: of the split and of the choice of templates; never the seed of a run.
    """
    data = read_digits(name, seed)
    splits = {key: _captioned(split, seed) for key, split in data.splits.items()}
    source = {
        **data.source,
        "captions": "defined: made from label and pixels by lowland.data.digit_captions",
        "templates": list(TEMPLATES),
    }
    return assemble_pairs(name, **splits, largest=LARGEST, source=source)


def measured(images: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Ink, slant, stroke and breadth of each image (n, h, w) with values in [0, 1].

    A blank image has slant, stroke and breadth 0.
    """
    mass = images.sum((1, 2))
    whole = np.maximum(mass, np.finfo(float).tiny)
    rows, columns = (np.arange(size, dtype=float) for size in images.shape[1:])
    x = columns - (images.sum(1) @ columns / whole)[:, None]
    y = rows - (images.sum(2) @ rows / whole)[:, None]
    mu_20 = np.einsum("nij,nj->n", images, x**2) / whole
    mu_02 = np.einsum("nij,ni->n", images, y**2) / whole
    mu_11 = np.einsum("nij,ni,nj->n", images, y, x) / whole
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    variation = sum(np.abs(np.diff(framed, axis=axis)).sum((1, 2)) for axis in (1, 2))
    return {
        "ink": images.mean((1, 2)),
        "slant": np.degrees(np.arctan2(-mu_11, mu_02)),
        "stroke": 2 * mass / np.maximum(variation, np.finfo(float).tiny),
        "breadth": np.sqrt(mu_20),
    }


def _captioned(split: Split, seed: int) -> PairSplit:
    return PairSplit(split.images, describe(split, seed), split.index)


def describe(split: Split, seed: int) -> Captions:
    """Captions of digits; those of an image depend on its row in the source and on `seed` alone."""
    found = measured(split.images[:, 0].double().numpy() / LARGEST)
    words = {
        name: [WORDS[name][place] for place in np.searchsorted(BOUNDS[name], values)]
        for name, values in found.items()
    }
    captions = []
    for i, (row, label) in enumerate(zip(split.index.tolist(), split.labels.tolist(), strict=True)):
        draws = generator("cpu", seed, "captions", row)
        chosen = torch.randperm(len(TEMPLATES), generator=draws)[:CAPTIONS].tolist()
        said = {name: of_all[i] for name, of_all in words.items()}
        captions.append(
            tuple(TEMPLATES[place].format(number=NUMBERS[label], **said) for place in chosen)
        )
    return tuple(captions)
