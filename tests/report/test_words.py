"""Numbers in words: units, signs, and nothing that looks like more than it is."""

from __future__ import annotations

from typing import Any

import pytest
from made_results import made_results

from lowland.report import words


@pytest.fixture
def results() -> dict[str, Any]:
    return made_results()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.274, "percent", "27.4%"),
        (-0.0301, "percent", "−3.0%"),
        (-0.0004, "percent", "0.0%"),  # no minus before a zero
        (0.0095, "points", "0.95 points"),
        (-0.0278, "points", "−2.78 points"),
        (0.2, "", "0.20"),
        (-0.07, "", "−0.07"),
        (None, "percent", "–"),
        (float("nan"), "", "–"),
    ],
)
def test_amounts(value: float | None, unit: str, text: str) -> None:
    assert words.amount(value, unit) == text


def test_span_leaves_the_unit_to_the_estimate() -> None:
    assert words.span(-0.1, 0.25, "percent") == "[−10.0, 25.0]"
    assert words.span(0.001, 0.002, "points") == "[0.10, 0.20]"
    assert words.span(None, None, "") == ""


def test_effect_and_threshold(results: dict[str, Any]) -> None:
    first, second, third, fourth = results["claims"]
    assert words.effect(first) == "20.0% [10.0, 30.0], 3 seeds"
    assert words.effect(second) == "−1.00 points [−2.00, 0.00], 3 seeds"
    assert words.effect(fourth) == "nothing was measured"
    assert words.threshold(first) == "at least 5.0%"
    assert words.threshold(third) == "within ±15.0%"


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        (["holds"], "1 claim: 1 holds"),
        (["does not hold"] * 2, "2 claims: 2 do not hold"),
        (["cannot tell"], "1 claim: 1 cannot tell"),
        (
            ["holds", "holds", "does not hold", "cannot tell", "no data here"],
            "5 claims: 2 hold, 1 does not hold, 1 cannot tell, 1 no data here",
        ),
    ],
)
def test_summary(verdicts: list[str], text: str) -> None:
    assert words.summary([{"verdict": word} for word in verdicts]) == text


def test_durations() -> None:
    assert [words.seconds(s) for s in (3.4, 119.0, 600.0, 36_000.0)] == [
        "3 s",
        "119 s",
        "10 min",
        "10.0 h",
    ]
