"""What the report of the low-rank study draws."""

from __future__ import annotations

from lowland.studies.low_rank.columns import (
    MAIN,
    TEST_ERROR,
    TRAIN_LOSS,
    TRANSFER,
    Measured,
    knn_column,
    rank_column,
)
from lowland.studies.study import Panel


def panels(what: Measured) -> tuple[Panel, ...]:
    """Fig. 1 of the paper (test error, kNN error, rank), then what explains or controls it."""
    block = what.block
    return (
        Panel(title="Test error", column=TEST_ERROR, group=MAIN, percent=True),
        Panel(
            title="kNN error on unseen classes",
            column=knn_column(block, "test"),
            group=TRANSFER,
            percent=True,
            note=f"10 neighbours, cosine distance, features of {block}",
        ),
        Panel(
            title=f"Feature rank, {block}",
            column=rank_column(block),
            group=MAIN,
            note="components that hold 99% of the variance, train images",
        ),
        Panel(
            title="Train loss",
            column=TRAIN_LOSS,
            group=MAIN,
            log=True,
            note="the confound: large ρ may underfit",
        ),
        Panel(
            title=f"Feature rank on test images, {block}",
            column=rank_column(block, split="test"),
            group=MAIN,
            note="equally many examples",
        ),
        Panel(
            title=f"Rank, published centring, {block}",
            column=rank_column(block, center="example"),
            group=MAIN,
            note="each example minus its own mean, which leaves the mean example in",
        ),
    )
