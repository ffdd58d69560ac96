"""What the low-rank study measures: groups of runs, and columns of their histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowland.studies.effects import mean
from lowland.studies.runs import Runs

MAIN = "main"
TRANSFER = "transfer"
OTHER = "other-setting"
LARGE = "large-step"
BARE = "no-augmentation"
DECAY = "weight-decay-only"
POST = "post-activation"
GROUPS = {
    MAIN: "the setting that was chosen, every ρ",
    TRANSFER: "trained on half of the classes, neighbours among the others",
    OTHER: "the other of the two settings",
    LARGE: "minimal, with five times the learning rate",
    BARE: "minimal, without augmentation",
    DECAY: "minimal, without augmentation, with weight decay",
    POST: "the chosen setting, a post-activation network",
}
"""The groups of runs, and what they are."""

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
        last: the block before the classifier, of which neural collapse is expected.
        classes: number of classes.
        test_images: number of test images, which errors move in steps of.
        transfer_images: the same for the classes left out of training, or for other data.
        transfer: the group that has neighbours, `TRANSFER` for classes left out of training, `MAIN`
            for another data set.
        setting: the setting of the main runs.
    """

    block: str
    others: tuple[str, ...] = ()
    last: str = "pool"
    classes: int = 10
    test_images: int
    transfer_images: int
    transfer: str = TRANSFER
    setting: str = "minimal"

    @property
    def knn_kind(self) -> str:
        """What the columns of neighbours begin with."""
        return "knn-transfer" if self.transfer == TRANSFER else "knn-transfer-1"

    @property
    def minimal(self) -> str:
        """The group of the minimal setting."""
        return MAIN if self.setting == "minimal" else OTHER

    @property
    def state_of_the_art(self) -> str:
        """The group of the state-of-the-art setting."""
        return OTHER if self.setting == "minimal" else MAIN


def rank_column(
    block: str, *, split: str = "train", center: str = "unit", variance: float = 0.99
) -> str:
    """Name of the history column that holds a feature rank."""
    return f"rank/{split}/{block}/{center}/{variance:g}"


def knn_column(block: str, split: str, kind: str = "knn-transfer") -> str:
    """Name of the column with the kNN error on what was not trained on."""
    return f"{kind}/{split}/{block}"


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
