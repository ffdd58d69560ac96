"""Active units by other rules and shares of examples, and active channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.measure import active_units


def test_the_rule_for_gelu_is_a_tenth_of_the_largest() -> None:
    x = torch.tensor([[10.0, 1.0, 1.01, 0.6, 0.5, -7.0]])
    assert active_units(x, rule="gelu").value == 2
    assert active_units(x, rule="gelu").threshold == pytest.approx(1.0)
    assert active_units(x).value == 4
    assert active_units(x, rule="gelu", share=0.05).value == 4
    definition = active_units(x, rule="gelu").definition
    assert definition == "units above 0.1 of the largest value on at least one of the examples"


def test_the_absolute_rule_counts_magnitudes_from_the_threshold_on() -> None:
    x = np.array([[0.05, -0.05, 0.0499, -0.9, 0.0]])
    record = active_units(x, rule="absolute")
    assert (record.value, record.threshold) == (3, 0.05)
    assert record.definition == "units of magnitude 0.05 or more on at least one of the examples"
    assert active_units(x * 100, rule="absolute", share=5).value == 3
    assert active_units(-x * 100, rule="absolute", share=4.99).value == 4


def test_several_shares_of_examples_from_one_look() -> None:
    """Unit j is active on j of 100 examples: more than s·100 of them is j > s·100, exactly."""
    x = (torch.arange(100)[:, None] < torch.arange(101)).float()
    shares = [k / 100 for k in range(100)]
    record = active_units(x, examples=shares)
    assert record.by_examples == {s: 100 - k for k, s in enumerate(shares)}
    assert (record.value, record.examples) == (100, 0.0)
    assert active_units(x, examples=(0.01, 0.05)).value == 99
    assert active_units(x, examples=0.6999999999).value == 31


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 9),
    c=st.integers(1, 5),
    positions=st.integers(1, 4),
    step=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    examples=st.sampled_from([0.0, 0.3, 0.5]),
    rule=st.sampled_from(["maximum", "gelu", "positive", "absolute"]),
)
def test_a_channel_is_active_where_any_position_is(
    n, c, positions, step, seed, examples, rule
) -> None:
    maps = torch.randn(n, c, positions, generator=torch.Generator().manual_seed(seed)) - 1.5
    plain = maps.double().numpy()
    share = 0.4
    limit = {"positive": 0.0, "absolute": share}.get(rule, share * plain.max())
    above = np.abs(plain) >= limit if rule == "absolute" else plain > limit
    counts = above.any(2).sum(0)
    options = {"rule": rule, "share": share, "examples": examples, "channels": c}
    record = active_units(maps, **options)
    assert record.value == (counts > examples * n).sum()
    assert record.mean_fraction == pytest.approx(above.any(2).mean())
    assert (record.dimension, record.channels) == (c, c)
    last = active_units(maps.transpose(1, 2), channels_last=True, **options)
    assert last.value == record.value
    streamed = active_units(lambda: iter(maps.split(step)), **options)
    assert (streamed.value, streamed.mean_fraction) == (record.value, record.mean_fraction)


def test_channels_are_said_in_the_definition() -> None:
    record = active_units(torch.ones(2, 3, 4), channels=3)
    assert record.definition.startswith("channels, at any of their positions, above 0.05 of the")
    assert active_units(torch.ones(2, 12)).channels is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 5}, "channels: 5 do not divide 12 units; give the channels of the block's"),
        ({"channels": 0}, "channels: 0 do not divide 12 units"),
        ({"examples": []}, "examples: no shares; give at least one, for example 0.0"),
        ({"examples": [0.0, 1.0]}, "examples: 1.0 is not in [0, 1)"),
        ({"rule": "absolute", "share": -1.0}, "share: -1.0 is not in [0, 1)"),
        ({"rule": "absolute", "share": float("inf")}, "share: inf is not in [0, 1)"),
        ({"rule": "relu"}, "unknown rule 'relu': did you mean 'gelu'?"),
    ],
)
def test_bad_options(options, message) -> None:
    with pytest.raises(InputError) as caught:
        active_units(torch.ones(2, 3, 4), **options)
    assert str(caught.value).startswith(message)
