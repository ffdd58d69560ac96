"""Dominoes of scikit-learn's digits: a 0 or a 1 above a harder digit. Defined data, no download."""

from __future__ import annotations

import torch
from torch import Tensor

from lowland.data.digits import read_digits
from lowland.data.dominoes import SETTINGS, Halves, assemble_dominoes
from lowland.data.images import ImageData, Split
from lowland.data.settings import Form, Setting, read_name

Property = tuple[tuple[int, ...], tuple[int, ...]]

ODD: Property = ((2, 4, 6, 8), (3, 5, 7, 9))


def _property(text: str) -> Property:
    """The digits of label 0 and of label 1: ``odd``, or both, as in ``3-8`` or ``35-68``."""
    if text == "odd":
        return ODD
    sides = text.split("-")
    digits = "".join(sides)
    fits = len(sides) == 2 and all(sides) and set(digits) <= set("23456789")
    if not fits or len(set(digits)) < len(digits):
        raise ValueError("odd, or different digits from 2 to 9 for either label, as in 3-8")
    zero, one = (tuple(int(digit) for digit in side) for side in sides)
    return zero, one


FORM = Form(
    kind="digit-dominoes",
    settings={
        **SETTINGS,
        "hard": Setting(words="odd or DIGITS-DIGITS", read=_property, default=ODD),
    },
)


def read_digit_dominoes(name: str, seed: int) -> ImageData:
    """Dominoes, 16x8 and grey (0 to 16): an easy digit above a hard one, the label from the latter.

    The easy digit is a 0 or a 1 (annotation ``easy``). The hard one is 2 to 9 and the label
    whether it is odd (``hard=odd``), or one of two groups of digits (``hard=3-8``: 3 is label 0,
    8 is label 1; ``hard=35-68``). How they are put together: `assemble_dominoes`. The pictures
    of each split are those of the same split of ``digits``, so no digit is in two of them.
    Nothing moves the images in training.
    """
    named = read_name(name, FORM)
    digits = read_digits("digits", seed)
    groups: Property = named["hard"]
    return assemble_dominoes(
        name,
        {split: _halves(part, groups) for split, part in digits.splits.items()},
        correlation=named["correlation"],
        easy=named["easy"],
        seed=seed,
        source={
            "sha256": digits.source["sha256"],
            "digits of label 0": list(groups[0]),
            "digits of label 1": list(groups[1]),
        },
    )


def _halves(digits: Split, groups: Property) -> Halves:
    easy, easy_values = chosen(digits, ((0,), (1,)))
    hard, hard_values = chosen(digits, groups)
    return Halves(easy, easy_values, hard, hard_values)


def chosen(split: Split, groups: Property) -> tuple[Tensor, Tensor]:
    """The images of two groups of classes, in the order of the split, and the group of each."""
    first, second = (torch.isin(split.labels, torch.tensor(group)) for group in groups)
    rows = (first | second).nonzero().flatten()
    return split.images[rows], second[rows].long()
