"""What the low-rank study measures: groups of runs, and columns of their histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowland.studies.effects import mean
from lowland.studies.runs import Runs

MAIN = "main"
TRANSFER = "transfer"
VARIANCES = (0.99, 0.95, 0.999)
TRAIN_LOSS = "train/loss"
VALIDATION_ERROR = "validation/error"
TEST_ERROR = "test/error"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the claims are about.

    Attributes:
        block: the block whose features are judged.
        others: further blocks, shown beside it.
        test_images: number of test images, which errors move in steps of.
        transfer_images: the same for the classes left out of training.
    """

    block: str
    others: tuple[str, ...] = ()
    test_images: int
    transfer_images: int


def rank_column(
    block: str, *, split: str = "train", center: str = "unit", variance: float = 0.99
) -> str:
    """Name of the history column that holds a feature rank."""
    return f"rank/{split}/{block}/{center}/{variance:g}"


def knn_column(block: str, split: str) -> str:
    """Name of the column with the kNN error on the classes left out of training."""
    return f"knn-transfer/{split}/{block}"


def means_by_rho(runs: Runs, column: str, group: str = MAIN, *, percent: bool = False) -> str:
    """The mean over seeds at every ρ, as a sentence."""

    def shown(values: Sequence[float]) -> str:
        return f"{mean(values):.2%}" if percent else f"{mean(values):.1f}"

    seeds = runs.seeds(group)
    words = ", ".join(
        f"{shown([runs.final(group, rho, seed, column) for seed in seeds])} at {rho:g}"
        for rho in runs.rhos(group)
    )
    return f"Mean by ρ: {words}."
