"""Effects against closed forms and scipy, and the choice of ρ against the bias it avoids."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowland.studies.effects import (
    choose_left_out,
    common_level,
    kendall,
    mean,
    relative_fall,
    value_at_level,
)


def test_relative_fall_and_mean() -> None:
    assert relative_fall(200, 150) == 0.25
    assert relative_fall(100, 120) == pytest.approx(-0.2)
    assert relative_fall(100, 0) == 1.0
    for before, after in ((0, 1), (-1, 1), (math.nan, 1), (1, math.inf)):
        assert math.isnan(relative_fall(before, after))
    assert mean([1, 2, 6]) == 3
    assert math.isnan(mean([]))


@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=8),
)
def test_kendall_agrees_with_scipy_ties_included(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = zip(*pairs, strict=True)
    tied = len(set(first)) == 1 or len(set(second)) == 1
    ours = kendall(first, second)
    assert math.isnan(ours) if tied else ours == pytest.approx(stats.kendalltau(first, second)[0])


def test_kendall_of_what_is_not_finite() -> None:
    assert math.isnan(kendall([1, 2, math.nan], [1, 2, 3]))
    assert kendall([1, 2, 3], [5, 6, 7]) == 1
    assert kendall([1, 2, 3], [7, 6, 5]) == -1


def test_a_seed_has_no_say_in_its_own_choice() -> None:
    errors = {0.1: {0: 0.0, 1: 0.3, 2: 0.3}, 0.2: {0: 0.9, 1: 0.2, 2: 0.2}}
    # seed 0 alone would choose 0.1; the others, which choose for it, choose 0.2
    assert choose_left_out(errors) == {0: 0.2, 1: 0.1, 2: 0.1}


def test_ties_go_to_the_smaller_rho_and_broken_ones_to_none() -> None:
    assert choose_left_out({0.2: {0: 0.1, 1: 0.1}, 0.1: {0: 0.1, 1: 0.1}}) == {0: 0.1, 1: 0.1}
    errors = {0.1: {0: math.nan, 1: 0.5}, 0.2: {0: 0.9, 1: 0.9}}
    assert choose_left_out(errors) == {0: 0.1, 1: 0.2}
    assert choose_left_out({0.1: {0: 0.1}}) == {}
    assert choose_left_out({}) == {}


def test_ties_are_not_decided_by_rounding() -> None:
    """Of ten images 3 + 5 and 1 + 7 are wrong: as many, though not as sums of floats."""
    assert sum([0.1, 0.7]) < sum([0.3, 0.5])
    errors = {0.1: {0: 0.9, 1: 0.3, 2: 0.5}, 0.2: {0: 0.9, 1: 0.1, 2: 0.7}}
    assert choose_left_out(errors)[0] == 0.1
    errors[0.2][1] -= 1e-9
    assert choose_left_out(errors)[0] == 0.2, "what differs is no tie"


def test_choosing_left_out_is_not_biased_and_choosing_on_all_is() -> None:
    """All ρ are equal, and a run that is lucky on validation is lucky on test."""
    rng = np.random.default_rng(5)
    rhos, seeds, trials = (0.1, 0.2, 0.4, 0.8), range(5), 3000
    luck = rng.normal(size=(trials, 4, 5))
    validation = luck + 0.5 * rng.normal(size=luck.shape)
    test = luck + 0.5 * rng.normal(size=luck.shape)
    plain = rng.normal(size=(trials, 5))
    left_out, on_all = [], []
    for v, t, p in zip(validation, test, plain, strict=True):
        errors = {r: dict(zip(seeds, row, strict=True)) for r, row in zip(rhos, v, strict=True)}
        chosen = choose_left_out(errors)
        left_out.append(np.mean([p[s] - t[rhos.index(chosen[s]), s] for s in seeds]))
        on_all.append(np.mean(p - t[v.mean(axis=1).argmin()]))
    spread = np.std(left_out) / math.sqrt(trials)
    assert abs(np.mean(left_out)) < 4 * spread
    assert np.mean(on_all) > 20 * spread


def test_common_level_is_the_worst_of_the_best() -> None:
    assert common_level([[2.0, 0.5, 0.1], [2.0, 0.9, 0.4]]) == 0.4
    assert common_level([[2.0, 0.2, 0.6], [2.0, 0.9, 0.4]]) == 0.4  # a curve may rise again
    assert common_level([[2.0, 0.5], [0.3, 0.4]]) is None  # starts at the level
    assert common_level([[2.0, 0.5], [2.0, math.inf]]) is None
    assert common_level([[2.0, 0.5], [2.0, 0.0]]) is None
    assert common_level([[2.0], [2.0, 0.1]]) is None


def test_value_at_a_level_is_linear_in_the_logarithm() -> None:
    losses, ranks = [4.0, 1.0, 0.25], [100.0, 80.0, 40.0]
    assert value_at_level(losses, ranks, 1.0) == 80
    assert value_at_level(losses, ranks, 2.0) == pytest.approx(90)  # half-way from 4 to 1 in log
    assert value_at_level(losses, ranks, 0.5) == pytest.approx(60)
    # first reached, though later evaluations are above again
    assert value_at_level([4.0, 1.0, 3.0, 0.5], [100.0, 80.0, 70.0, 60.0], 1.0) == 80
