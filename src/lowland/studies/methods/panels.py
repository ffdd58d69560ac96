"""What the report of the methods study draws against ρ: SAM, with plain training as ρ = 0."""

from __future__ import annotations

from lowland.studies.methods.arms import SAM
from lowland.studies.methods.columns import SHARPNESS, TEST_ERROR, TRAIN_LOSS, Setup
from lowland.studies.study import Panel


def panels(setup: Setup) -> tuple[Panel, ...]:
    """Error, and what is said to explain it."""
    return (
        Panel(title="SAM: test error", column=TEST_ERROR, group=SAM, percent=True),
        Panel(
            title=f"SAM: feature rank, {setup.block}",
            column=setup.rank,
            group=SAM,
            note="components that hold 99% of the variance, train images",
        ),
        Panel(
            title="SAM: sharpness",
            column=SHARPNESS,
            group=SAM,
            note="rise of the loss one step of length 0.05 up the gradient, train images",
        ),
        Panel(
            title="SAM: train loss",
            column=TRAIN_LOSS,
            group=SAM,
            log=True,
            note="the confound: large ρ may underfit",
        ),
    )
