"""Active units: closed forms, both rules, streaming."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.measure import active_units

EXAMPLE = [[0.0, 1.0, -5.0, 0.05, 0.3], [0.0, 0.0, 0.0, 0.04, 0.3], [0.0, 0.2, 0.0, 0.0, 0.3]]


def test_closed_form_of_the_maximum_rule() -> None:
    """Threshold 0.05 · 1: of the five units the second and the last exceed it."""
    record = active_units(EXAMPLE)
    assert (record.value, record.dimension, record.n) == (2, 5, 3)
    assert record.fraction == pytest.approx(2 / 5)
    assert record.mean_fraction == pytest.approx(5 / 15)
    assert record.threshold == pytest.approx(0.05)
    assert (
        record.definition == "units above 0.05 of the largest value on at least one of the examples"
    )


def test_closed_form_of_the_positive_rule() -> None:
    record = active_units(EXAMPLE, rule="positive")
    assert (record.value, record.threshold) == (3, 0.0)
    assert record.mean_fraction == pytest.approx(7 / 15)
    assert record.definition == "units above zero on at least one of the examples"


def test_more_than_a_share_of_the_examples() -> None:
    x = torch.zeros(10, 4)
    for unit, count in enumerate([0, 1, 2, 10]):
        x[:count, unit] = 1.0
    assert [active_units(x, examples=s).value for s in (0.0, 0.1, 0.2, 0.9)] == [3, 2, 1, 1]
    assert "more than 0.1 of the examples" in active_units(x, examples=0.1).definition


def test_a_value_at_the_threshold_is_not_above_it() -> None:
    x = np.array([[1.0, 0.25, 0.250001]])
    assert active_units(x, share=0.25).value == 2


@pytest.mark.parametrize("rule", ["maximum", "positive"])
def test_dead_units_are_not_active(rule) -> None:
    assert active_units(torch.zeros(4, 7), rule=rule).value == 0
    assert active_units(-torch.ones(4, 7), rule=rule).value == 0


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 20),
    d=st.integers(1, 20),
    step=st.integers(1, 20),
    seed=st.integers(0, 10**6),
    share=st.floats(0.0, 0.99),
    rule=st.sampled_from(["maximum", "positive"]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
)
def test_equals_numpy_and_streaming(n, d, step, seed, share, rule, dtype) -> None:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype)
    plain = x.double().numpy()
    threshold = share * plain.max() if rule == "maximum" else 0.0
    record = active_units(x, rule=rule, share=share)
    assert record.value == (plain > threshold).any(axis=0).sum()
    assert record.mean_fraction == pytest.approx((plain > threshold).mean())
    streamed = active_units(lambda: iter(x.split(step)), rule=rule, share=share)
    assert (streamed.value, streamed.mean_fraction, streamed.n) == (
        record.value,
        record.mean_fraction,
        n,
    )


def test_units_are_channels_at_positions() -> None:
    assert active_units(torch.ones(2, 3, 4, 5)).dimension == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "max"}, "unknown rule 'max': did you mean 'maximum'? known: absolute, gelu"),
        ({"share": 1.0}, "share: 1.0 is not in [0, 1); give for example 0.05 for 5%"),
        ({"share": -0.1}, "share: -0.1 is not in [0, 1)"),
        ({"share": float("nan")}, "share: nan is not in [0, 1)"),
        ({"examples": 5}, "examples: 5 is not in [0, 1)"),
    ],
)
def test_bad_options(options, message) -> None:
    with pytest.raises(InputError) as caught:
        active_units(torch.eye(3), **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("bad", [torch.tensor([[torch.nan]]), torch.zeros(0, 2), iter([])])
def test_bad_features(bad) -> None:
    with pytest.raises(InputError, match=r"^features: "):
        active_units(bad)
