"""What the image-text studies measure: groups of runs, and columns of their histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowland.studies.effects import mean
from lowland.studies.runs import Runs

TUNED = "fine-tuned"
"""Runs that train both encoders."""
FROZEN = "frozen"
"""Runs that leave the text encoder as it is."""
GROUPS = (TUNED, FROZEN)

VARIANCES = (0.99, 0.95, 0.9, 0.85)
TRAIN_LOSS = "train/loss"
VALIDATION_ERROR = "validation/error"

IMAGEWISE = "text-to-image"
TEXTWISE = "image-to-text"
WAYS = {"imagewise": IMAGEWISE, "textwise": TEXTWISE}
"""The paper's words for the direction of retrieval, and what is looked for: imagewise error is that
of finding the image of a text."""

TOWERS = ("image", "text")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the claims are about.

    Attributes:
        batch: pairs of a batch, within which retrieval is measured.
        queries: test pairs in whole batches; errors move in steps of one over that.
        ranked: pairs behind every rank.
    """

    batch: int
    queries: int
    ranked: int


def rank(
    tower: str,
    *,
    split: str = "test",
    place: str = "normalised",
    center: str = "unit",
    variance: float = 0.99,
) -> str:
    """Name of the column with a feature rank (see `lowland.train.contrastive.evaluate`)."""
    return f"rank/{split}/{tower}/{place}/{center}/{variance:g}"


def error(way: str, *, split: str = "test", among_all: bool = False) -> str:
    """Name of the column with a retrieval error; `way` is of `WAYS`' values."""
    return f"{split}/all/{way}" if among_all else f"{split}/{way}"


def by_rho(runs: Runs, group: str, column: str, *, percent: bool = False) -> str:
    """The mean over seeds at every ρ, as a sentence."""

    def shown(values: Sequence[float]) -> str:
        return f"{mean(values):.1%}" if percent else f"{mean(values):.1f}"

    seeds = runs.seeds(group)
    words = ", ".join(
        f"{shown([runs.final(group, rho, seed, column) for seed in seeds])} at {rho:g}"
        for rho in runs.rhos(group)
    )
    return f"Mean by ρ: {words}."
