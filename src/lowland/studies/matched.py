"""Runs side by side where their train losses are equal."""

from __future__ import annotations

from collections.abc import Sequence

from lowland.studies.effects import common_level, value_at_level
from lowland.studies.runs import Run

TRAIN_LOSS = "train/loss"


def at_equal_loss(
    runs: Sequence[Run], column: str, *, loss: str = TRAIN_LOSS
) -> list[float] | None:
    """A column of each run where it first reaches the lowest train loss that all of them reach.

    None where there is no such loss (`common_level`), for example because a run diverged. Between
    two evaluations the column is interpolated linearly in log(loss) (`value_at_level`).

    Args:
        runs: what is compared, each at equal loss with all others.
        column: what is read.
        loss: the column of the train loss.
    """
    losses = [run.curve(loss) for run in runs]
    level = common_level(losses)
    if level is None:
        return None
    return [
        value_at_level(own, run.curve(column), level) for own, run in zip(losses, runs, strict=True)
    ]
