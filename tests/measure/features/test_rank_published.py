"""The published convention of the feature rank, against a literal reference."""

from __future__ import annotations

import numpy as np
import pytest
import rank_family_oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.measure.features.rank import RANK_PRESETS, feature_rank

PAPER = RANK_PRESETS["low-rank-paper"]


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 30),
    d=st.integers(1, 30),
    seed=st.integers(0, 10**6),
    offset=st.sampled_from([0.0, 3.0]),
    center=st.sampled_from(["example", "none"]),
    variance=st.sampled_from([0.5, 0.9, 0.99, 0.9999]),
)
def test_equals_the_literal_reference(n, d, seed, offset, center, variance) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(n, 4) @ torch.randn(4, d) + 0.1 * torch.randn(n, d) + offset).relu()
    record = feature_rank(x, variance, center, rule="published")
    expected = rank_family_oracle.published_rank(x.numpy(), variance, center)
    shift = {variance * (1 - 1e-5), min(variance * (1 + 1e-5), 1.0)}
    near = {rank_family_oracle.published_rank(x.numpy(), t, center) for t in shift}
    assert record.value == expected or len(near) > 1  # a tie within the rounding of float32
    assert record.value == record.at(variance)
    assert record.dtype == "float32"


def test_the_preset_is_the_protocol() -> None:
    torch.manual_seed(0)
    x = torch.rand(40, 3, 5, 5)
    record = feature_rank(x, **PAPER)
    assert record.value == rank_family_oracle.published_rank(x.numpy(), 0.99, "example")
    assert (record.center, record.rule, record.solver) == ("example", "published", "svdvals")
    assert "1 + the number of k" in record.definition
    assert not record.certain(0.99)


def test_one_more_where_the_share_is_held_exactly() -> None:
    x = torch.eye(4)
    assert feature_rank(x, 0.5, "none", rule="published").value == 3
    assert feature_rank(x, 0.5, "none").value == 2


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_zero_features_and_all_of_the_variance_are_one_above_full_rank(shape) -> None:
    assert feature_rank(torch.zeros(shape), **PAPER).value == 4
    assert feature_rank(torch.eye(*shape), 1.0, "none", rule="published").value == 4


def test_constant_examples_are_nothing_but_rounding() -> None:
    """Row means of equal features are subtracted exactly: all zero, and the rank is n + 1."""
    assert feature_rank(torch.full((4, 8), 0.5), **PAPER).value == 5


def test_streams_and_other_types_are_read_in_float32() -> None:
    x = torch.rand(30, 12)
    expected = feature_rank(x, **PAPER)
    for other in (lambda: iter(x.split(7)), x.double(), x.numpy()):
        record = feature_rank(other, **PAPER)
        assert record.value == expected.value
        assert record.mean_energy == pytest.approx(expected.mean_energy)
    assert feature_rank(x.bfloat16(), **PAPER).value >= 1


@pytest.mark.parametrize("name", RANK_PRESETS)
def test_every_preset_runs_and_cannot_be_changed(name) -> None:
    record = feature_rank(torch.rand(20, 30), **RANK_PRESETS[name])
    assert record.ranks
    with pytest.raises(TypeError):
        RANK_PRESETS[name] = {}
    assert isinstance(record.to_dict()["spectrum"], list)


def test_published_centring_leaves_the_mean_example_in() -> None:
    """What makes the published numbers small: one direction holds nearly everything."""
    torch.manual_seed(1)
    x = torch.randn(200, 50) + 20 * torch.randn(50)
    assert feature_rank(x, **PAPER).value == 1
    assert feature_rank(x).value > 40


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(InputError, match="unknown rule 'publshed': did you mean 'published'"):
        feature_rank(np.eye(3), rule="publshed")
