from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowland.train.flatten import flatten, unflatten

special = st.sampled_from([math.nan, math.inf, -math.inf, -0.0])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | special | st.text()
tensors = st.builds(
    lambda shape, dtype: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool]),
)
keys = st.text() | st.integers() | st.floats(allow_nan=False) | st.none()
nested = st.recursive(
    scalars | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    """Equal in type and value; tensors bit for bit, NaN equal to NaN, 0.0 not to -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        keys = zip(left, right, strict=True)
        return all(same(a, b) and same(left[a], right[b]) for a, b in keys)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return repr(left) == repr(right)


@settings(deadline=None, max_examples=200)
@given(value=nested)
def test_any_nesting_comes_back_through_json(value: Any) -> None:
    structure, found = flatten(value, "state")
    text = json.dumps(structure, allow_nan=False)
    assert same(unflatten(json.loads(text), found), value)


def test_a_dict_that_looks_like_a_mark_is_still_a_dict() -> None:
    value = {"tensor": "state/0", "list": {"float": "nan"}, 0: {"dict": []}, "0": 1}
    structure, found = flatten(value, "state")
    assert found == {}
    assert unflatten(json.loads(json.dumps(structure)), found) == value


def test_a_stepped_optimizer_comes_back() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([{"params": [weight], "lr": 0.1}], weight_decay=1e-3)
    weight.grad = torch.tensor([1.0, -2.0, 3.0])
    optimizer.step()
    state = optimizer.state_dict()
    structure, found = flatten(state, "optimizer")
    assert all(name.startswith("optimizer/") for name in found)
    assert same(unflatten(json.loads(json.dumps(structure)), found), state)


def test_what_needs_a_pickle_is_named() -> None:
    with pytest.raises(TypeError, match=r"^state\['groups'\]\[1\]\['hook'\] is a function"):
        flatten({"groups": [{}, {"hook": same}]}, "state")
