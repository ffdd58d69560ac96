"""Dominoes: an easy picture above a hard one, and a label that both may tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.seeds import generator
from lowland.data.images import ImageData, Split, assemble
from lowland.data.settings import CORRELATION, Setting, one_of

EASY = Setting(words="shown or none", read=one_of("shown", "none"), default="shown")

MADE = "dominoes"
"""What ``source["made"]`` says of such a data set."""


@dataclass(frozen=True, eq=False)
class Halves:
    """The pictures that dominoes of one split are made of.

    Attributes:
        easy, hard: uint8, (k, c, h, w) and (n, c, h, w).
        easy_values, hard_values: what each shows: 0 or 1, int64, (k,) and (n,).
    """

    easy: Tensor
    easy_values: Tensor
    hard: Tensor
    hard_values: Tensor


def assemble_dominoes(
    name: str,
    halves: Mapping[str, Halves],
    *,
    correlation: float,
    easy: str,
    seed: int,
    source: dict[str, Any],
) -> ImageData:
    """Dominoes (c, 2h, w) whose label is what the hard half shows, with annotations easy and hard.

    Train and validation use every hard picture once. Of the n_y pictures of label y exactly
    round(correlation · n_y) are below an easy picture of the same value. Test has all four joint
    values of (label, easy) equally often: each hard picture is there below a 0 and below a 1, as
    many of either label. At another correlation, or with the easy half blank, the same hard
    pictures are at the same rows, and those that show the same easy value show the same picture.
    (`hold_out` draws
    validation anew from both: hard pictures stay apart then, easy ones do not.)

    Args:
        halves: by split. Splits share no picture.
        correlation: share of train and validation whose halves agree, 0.5 to 1.
        easy: "shown", or "none" for black in its place. The annotation stays what it would show.
        seed: of who is above whom. It is not the seed of a run.

    Raises:
        InputError: a value without pictures, or so few that none would disagree.
    """
    splits: dict[str, Split] = {}
    start = 0
    for split, parts in halves.items():
        for half, values in (("easy", parts.easy_values), ("hard", parts.hard_values)):
            for value in (0, 1):
                if not (values == value).any():
                    raise InputError(
                        f"{name}: no {split} image has {half} = {value}: add images that have"
                    )
        draws = generator("cpu", "dominoes", split, seed)
        if split == "test":
            splits[split] = balanced(parts, draws, first_row=start)
        else:
            where = f"{name}: {split}"
            splits[split] = _correlated(where, parts, correlation, draws, first_row=start)
        start += len(splits[split])
        if easy == "none":
            splits[split].images[:, :, : parts.easy.shape[2]] = 0
    return assemble(
        name,
        **splits,
        augmentation="none",
        source={
            **source,
            "made": MADE,
            "correlation": correlation,
            "easy half": easy,
            "core": "hard",
            "spurious": "easy",
            "rule": "train and validation correlated, test with joint values equally often",
            "split_seed": seed,
        },
    )


def balanced(parts: Halves, draws: torch.Generator, *, first_row: int = 0) -> Split:
    """All four joint values equally often: each of m hard pictures of either label below a 0 and
    below a 1, with m the number of the rarer label."""
    m = int(parts.hard_values.bincount(minlength=2).min())
    kept = torch.cat([_shuffled(parts.hard_values == y, draws)[:m] for y in (0, 1)]).sort().values
    hard = kept.repeat_interleave(2)
    easy = _partners(parts, draws)[:, kept].T.flatten()
    return _dominoes(parts, easy, hard, first_row)


def halves_of(split: Split) -> Halves:
    """The pictures that a split of dominoes was made of."""
    above, below = split.images.chunk(2, dim=2)
    return Halves(above, split.annotations["easy"], below, split.annotations["hard"])


def _correlated(
    where: str, parts: Halves, correlation: float, draws: torch.Generator, *, first_row: int
) -> Split:
    partners = _partners(parts, draws)
    shown = parts.hard_values.clone()
    for label in (0, 1):
        members = _shuffled(parts.hard_values == label, draws)
        agreeing = round(correlation * len(members))
        if agreeing == len(members) and correlation < 1:
            most = math.floor(1e4 * (1 - 1 / len(members))) / 1e4
            raise InputError(
                f"{where} has {len(members)} images of label {label}, too few for correlation "
                f"{correlation:g}: none would disagree; use {most:g} or less, or 1 for none"
            )
        shown[members[agreeing:]] = 1 - label
    n = torch.arange(len(shown))
    return _dominoes(parts, partners[shown, n], n, first_row)


def _partners(parts: Halves, draws: torch.Generator) -> Tensor:
    """For either value the easy picture above each hard one, (2, n): all in turn, shuffled."""
    n = len(parts.hard_values)
    pools = [_shuffled(parts.easy_values == value, draws) for value in (0, 1)]
    return torch.stack([pool[torch.arange(n) % len(pool)] for pool in pools])


def _shuffled(chosen: Tensor, draws: torch.Generator) -> Tensor:
    rows = chosen.nonzero().flatten()
    return rows[torch.randperm(len(rows), generator=draws)]


def _dominoes(parts: Halves, easy: Tensor, hard: Tensor, first_row: int) -> Split:
    labels = parts.hard_values[hard]
    return Split(
        torch.cat([parts.easy[easy], parts.hard[hard]], dim=2),
        labels,
        torch.arange(first_row, first_row + len(labels)),
        {"easy": parts.easy_values[easy], "hard": labels.clone()},
    )


SETTINGS = {"correlation": CORRELATION, "easy": EASY}
"""Settings that all dominoes have."""
