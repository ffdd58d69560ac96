"""Runs at equal train loss."""

from __future__ import annotations

import math

import pytest

from lowland.studies.matched import at_equal_loss
from lowland.studies.runs import NotMeasuredError, Run


def run(losses: list[float | None], values: list[float | None], *, diverged: bool = False) -> Run:
    history = {"train/loss": losses, "rank": values}
    return Run(name="", group="", method="", rho=0, seed=0, history=history, diverged=diverged)


def test_each_is_read_where_it_first_reaches_what_all_reach() -> None:
    first = run([8.0, 4.0, 1.0], [10.0, 6.0, 2.0])
    second = run([8.0, 2.0], [1.0, 3.0])
    half = math.log(4 / 2) / math.log(4 / 1)
    found = at_equal_loss([first, second], "rank")
    assert found == pytest.approx([6 + half * (2 - 6), 3.0])


@pytest.mark.parametrize(
    "other",
    [
        run([0.5, 0.4], [1.0, 1.0]),
        run([8.0, None], [1.0, None], diverged=True),
        run([8.0, 0.0], [1.0, 1.0]),
    ],
    ids=["starts below", "diverged", "loss of zero"],
)
def test_there_is_no_such_loss(other: Run) -> None:
    assert at_equal_loss([run([8.0, 1.0], [1.0, 2.0]), other], "rank") is None


def test_a_column_that_was_not_measured_is_said() -> None:
    with pytest.raises(NotMeasuredError, match="rank was not measured"):
        at_equal_loss([run([8.0, 1.0], [1.0, None])] * 2, "rank")
