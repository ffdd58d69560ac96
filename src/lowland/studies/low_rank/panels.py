"""What the report of the low-rank study draws."""

from __future__ import annotations

from lowland.studies.low_rank.columns import (
    BARE,
    LARGE,
    MAIN,
    OTHER,
    TEST_ERROR,
    TRAIN_LOSS,
    TRANSFER,
    VARIANCES,
    Measured,
    knn_column,
    rank_column,
)
from lowland.studies.study import Panel


def panels(what: Measured) -> tuple[Panel, ...]:
    """Fig. 1 of the paper (test error, kNN error, rank), its Fig. 10, and what explains it."""
    block = what.block
    unseen = "unseen classes" if what.transfer == TRANSFER else "another data set"
    return (
        Panel(title="Test error", column=TEST_ERROR, group=MAIN, percent=True),
        Panel(
            title=f"kNN error on {unseen}",
            column=knn_column(block, "test", what.knn_kind),
            group=what.transfer,
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
        *(
            Panel(
                title=f"Feature rank at {100 * share:g}%, {block}",
                column=rank_column(block, variance=share),
                group=MAIN,
                note="another share of the variance, train images",
            )
            for share in VARIANCES[1:]
        ),
        Panel(
            title=f"Feature rank, {block}, the other setting",
            column=rank_column(block),
            group=OTHER,
            note="state-of-the-art where minimal was chosen, and the other way round",
        ),
        Panel(
            title=f"Feature rank, {block}, five times the learning rate",
            column=rank_column(block),
            group=LARGE,
            note="minimal setting otherwise",
        ),
        Panel(
            title=f"Feature rank, {block}, without augmentation",
            column=rank_column(block),
            group=BARE,
            note="minimal setting otherwise",
        ),
    )
