"""What the study of causes measures: columns of histories, and what its claims are about."""

from __future__ import annotations

from dataclasses import dataclass

from lowland.studies.causes.arms import Arm

TRAIN_LOSS = "train/loss"
VALIDATION_ERROR = "validation/error"
TEST_ERROR = "test/error"
TRAIN_ERROR = "train/error"
SHARPNESS = "sharpness/one-step"
WEIGHT_NORM = "weight-norm"
WEIGHT_RANK = "weight-rank"
START_WEIGHT_RANK = "weight-rank/start"
POSITIVE = "positive"
START_POSITIVE = "positive/start"
COLLAPSE = "collapse"
TIMES = ("start", "quarter", "half", "end")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the claims are about.

    Attributes:
        arms: all arms.
        blocks: network -> its judged block.
        last: network -> the block before its classifier.
        classes: number of classes.
        test_images: number of test images.
    """

    arms: tuple[Arm, ...]
    blocks: dict[str, str]
    last: dict[str, str]
    classes: int
    test_images: int


def rank_column(block: str) -> str:
    """Feature rank on train images at 99% of the variance."""
    return f"rank/train/{block}/unit/0.99"


def collapse_column(time: str) -> str:
    """NC1 of the last block at one of `TIMES`."""
    return f"{COLLAPSE}/{time}"
