from __future__ import annotations

import math

import pytest

from lowland.train.schedule import evaluation_steps, learning_rate


def rates(schedule: str, steps: int) -> list[float]:
    return [learning_rate(schedule, 0.2, step=step, steps=steps) for step in range(steps)]


def test_constant_stays() -> None:
    assert rates("constant", 4) == [0.2] * 4


def test_step_falls_to_a_tenth_at_half_and_to_a_hundredth_at_nine_tenths() -> None:
    expected = [0.2] * 5 + [0.02] * 4 + [0.002]
    assert rates("step", 10) == pytest.approx(expected, rel=1e-12)


def test_halves_and_quarters_fall_by_tenths() -> None:
    assert rates("halves", 8) == pytest.approx([0.2] * 4 + [0.02] * 2 + [0.002] * 2, rel=1e-12)
    expected = [0.2 * 0.1**k for k in range(4) for _ in range(2)]
    assert rates("quarters", 8) == pytest.approx(expected, rel=1e-12)


def test_cosine_starts_at_the_rate_and_passes_half_of_it_in_the_middle() -> None:
    found = rates("cosine", 8)
    assert found[0] == 0.2
    assert found[4] == pytest.approx(0.1)
    assert found == sorted(found, reverse=True)
    assert found[7] == pytest.approx(0.1 * (1 + math.cos(7 / 8 * math.pi)))


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"),
    [
        (100, 4, (0, 25, 50, 75, 100)),
        (10, 1, (0, 10)),
        (7, 3, (0, 2, 4, 7)),
        (2, 10, (0, 1, 2)),
    ],
)
def test_evaluations_are_spread_and_include_start_and_end(
    steps: int, evaluations: int, expected: tuple[int, ...]
) -> None:
    assert evaluation_steps(steps, evaluations) == expected
