"""What the methods study measures: groups of runs, and columns of their histories."""

from __future__ import annotations

from dataclasses import dataclass

from lowland.studies.low_rank.columns import rank_column
from lowland.studies.methods.arms import Arm

VALIDATION_ERROR = "validation/error"
TEST_ERROR = "test/error"
TRAIN_LOSS = "train/loss"
SHARPNESS = "sharpness/one-step"
PEAK = "bytes/peak"
EQUAL_EPOCHS, EQUAL_COMPUTE = "equal epochs", "equal compute"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the claims and tables are about.

    Attributes:
        arms: those that run.
        block: the block whose features are measured.
        epochs: epochs of all arms, at equal epochs.
        batch_size: examples per step, which is SAM's m.
        steps_per_epoch: updates in an epoch.
        test_images: number of test images, which errors move in steps of.
    """

    arms: tuple[Arm, ...]
    block: str
    epochs: int
    batch_size: int
    steps_per_epoch: int
    test_images: int

    @property
    def names(self) -> frozenset[str]:
        """Names of the arms."""
        return frozenset(arm.name for arm in self.arms)

    @property
    def rank(self) -> str:
        """The column with the feature rank."""
        return rank_column(self.block)

    @property
    def active(self) -> str:
        """The column with the number of active units."""
        return f"active-units/train/{self.block}"

    def epochs_of(self, arm: Arm, protocol: str) -> int:
        """How long an arm trains."""
        return self.epochs if protocol == EQUAL_EPOCHS else arm.epochs_at_equal_compute(self.epochs)

    def group(self, arm: Arm, protocol: str) -> str:
        """The group of the arm's runs: its own runs serve for both where they are as long."""
        same = self.epochs_of(arm, protocol) == self.epochs
        return arm.name if same else f"{arm.name}, {protocol}"


def footprint(name: str) -> str:
    """The group of the one run that measures an arm's memory."""
    return f"{name}, memory"
