"""The decision rule: its words, its symmetry, and how often it is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.studies.verdict import AtLeast, Within, confidence_each, judge

effects = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=2, max_size=8)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([0.30, 0.31, 0.29], "holds"),
        ([0.00, 0.01, -0.01], "does not hold"),
        ([-0.30, -0.31, -0.29], "does not hold"),
        ([0.10, 0.11, 0.09], "cannot tell"),  # the interval contains delta
        ([0.9, -0.5, 0.4], "cannot tell"),  # too wide for any word
    ],
)
def test_words_of_a_difference(values: list[float], word: str) -> None:
    assert judge(values, AtLeast(0.1), family=1).word == word


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([0.00, 0.01, -0.01], "holds"),
        ([0.30, 0.31, 0.29], "does not hold"),
        ([-0.30, -0.31, -0.29], "does not hold"),
        ([0.10, 0.11, 0.09], "cannot tell"),
        ([0.9, -0.8, 0.0], "cannot tell"),
    ],
)
def test_words_of_an_equality(values: list[float], word: str) -> None:
    assert judge(values, Within(0.1), family=1).word == word


@pytest.mark.parametrize("rule", [AtLeast(0.1), Within(0.1)])
def test_what_can_never_be_a_result(rule: AtLeast | Within) -> None:
    nothing = judge([], rule, family=1)
    assert (nothing.word, nothing.interval, nothing.n) == ("no data here", None, 0)
    single = judge([5.0], rule, family=1)
    assert (single.word, single.interval, single.n) == ("cannot tell", None, 1)
    assert "one seed is never a result" in single.reason
    for lost in (math.nan, math.inf, -math.inf):
        broken = judge([0.5, 0.5, 0.5, lost], rule, family=1)
        assert (broken.word, broken.interval) == ("cannot tell", None)
        assert broken.reason == "1 of 4 seeds gave no finite effect"


@settings(deadline=None, max_examples=200)
@given(values=effects, delta=st.floats(0, 3), family=st.integers(1, 12))
def test_interval_and_word_never_disagree(values: list[float], delta: float, family: int) -> None:
    verdict = judge(values, AtLeast(delta), family=family)
    assert verdict.interval is not None
    low, high = verdict.interval.low, verdict.interval.high
    assert low <= verdict.interval.mean <= high
    assert (verdict.word == "holds") == (low >= delta)
    assert (verdict.word == "does not hold") == (high < delta)


@settings(deadline=None, max_examples=200)
@given(values=effects, margin=st.floats(0.01, 3))
def test_equality_does_not_care_about_the_sign(values: list[float], margin: float) -> None:
    mirrored = [-value for value in values]
    assert judge(values, Within(margin), family=3).word == (
        judge(mirrored, Within(margin), family=3).word
    )


@settings(deadline=None, max_examples=200)
@given(values=effects, delta=st.floats(0, 3), shift=st.floats(0, 5))
def test_a_larger_effect_is_never_a_worse_verdict(
    values: list[float], delta: float, shift: float
) -> None:
    order = {"does not hold": 0, "cannot tell": 1, "holds": 2}
    before = judge(values, AtLeast(delta), family=2).word
    after = judge([value + shift + 1e-9 for value in values], AtLeast(delta), family=2).word
    assert order[after] >= order[before]


def test_a_larger_family_only_widens() -> None:
    values = [0.2, 0.25, 0.3, 0.22]
    one, many = (judge(values, AtLeast(0.1), family=size).interval for size in (1, 8))
    assert one is not None
    assert many is not None
    assert many.low < one.low < one.high < many.high
    assert many.confidence == confidence_each(8) == pytest.approx(0.99375)


def test_bad_thresholds_are_refused() -> None:
    for delta in (-0.1, math.nan, math.inf):
        with pytest.raises(InputError, match="smallest effect"):
            AtLeast(delta)
    for margin in (0.0, -0.1, math.nan):
        with pytest.raises(InputError, match="equivalence margin"):
            Within(margin)
    with pytest.raises(InputError, match="family"):
        confidence_each(0)


def rate_bound(probability: float, trials: int) -> float:
    """What a frequency exceeds once in 30,000 times when the probability is as stated."""
    return probability + 4 * math.sqrt(probability * (1 - probability) / trials)


@pytest.mark.parametrize("seeds", [2, 5, 10])
@pytest.mark.parametrize("family", [1, 8])
@pytest.mark.parametrize(
    ("rule", "truth"), [(AtLeast(0.5), 0.5), (Within(0.5), 0.5), (Within(0.5), -0.5)]
)
def test_wrong_words_are_as_rare_as_stated(
    rule: AtLeast | Within, truth: float, seeds: int, family: int
) -> None:
    """At an effect of exactly the threshold both words are wrong: each at most 2.5% / family."""
    trials = 6000
    draws = np.random.default_rng(seeds * 100 + family).normal(truth, 0.1, (trials, seeds))
    words = [judge(row, rule, family=family).word for row in draws.tolist()]
    bound = rate_bound(0.025 / family, trials)
    assert words.count("holds") / trials <= bound
    assert words.count("does not hold") / trials <= bound


def test_any_wrong_word_in_a_family_is_rarer_than_five_percent() -> None:
    trials, family = 2000, 8
    draws = np.random.default_rng(11).normal(0.5, 0.2, (trials, family, 5))
    wrong = sum(
        any(judge(row, AtLeast(0.5), family=family).word != "cannot tell" for row in study)
        for study in draws.tolist()
    )
    assert wrong / trials <= rate_bound(0.05, trials)
    assert wrong / trials > 0.03  # the bound is used, not wasted


def test_clear_effects_are_found() -> None:
    draws = np.random.default_rng(3).normal(0.0, 0.05, (500, 5))
    found = sum(
        judge(row, AtLeast(0.1), family=8).word == "holds" for row in (draws + 0.5).tolist()
    )
    refuted = sum(
        judge(row, AtLeast(0.1), family=8).word == "does not hold" for row in (draws - 0.5).tolist()
    )
    equal = sum(judge(row, Within(0.3), family=8).word == "holds" for row in draws.tolist())
    assert min(found, refuted, equal) > 480
