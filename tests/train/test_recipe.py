from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.train import Recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "digit"}, "unknown data set 'digit': did you mean 'digits'?"),
        ({"model": "preact-resnet-smal"}, "did you mean 'preact-resnet-small'?"),
        ({"method": "looksams"}, "unknown method 'looksams': did you mean 'looksam'?"),
        ({"method": "fedsam"}, "fedsam trains in rounds over clients"),
        ({"base": "adamv"}, "unknown base optimizer 'adamv': did you mean"),
        ({"schedule": "cosin"}, "did you mean 'cosine'?"),
        ({"precision": "16-mixed"}, "unknown precision '16-mixed'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"centers": ["unit", "row"]}, "unknown center 'row'"),
        ({"epochs": 0}, "epochs must be 1 or more, not 0"),
        ({"batch_size": -4}, "batch_size must be 1 or more, not -4"),
        ({"evaluations": 0}, "evaluations must be 1 or more, not 0"),
        ({"rank_examples": 0}, "rank_examples must be 1 or more, not 0"),
        ({"threads": 0}, "threads must be 1 or more, not 0"),
        ({"width": 0}, "width must be 1 or more, not 0"),
        ({"limit": 0}, "limit must be 1 or more, not 0"),
        ({"rho": -0.1}, "rho must be 0 or more, not -0.1"),
        ({"rho": float("nan")}, "rho must be a finite number, not nan"),
        ({"lr": float("inf")}, "lr must be a finite number, not inf"),
        ({"lr": "fast"}, "lr must be a number, not 'fast'"),
        ({"momentum": -1}, "momentum must be 0 or more"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more"),
        ({"sharpness_rho": -1}, "sharpness_rho must be 0 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"variances": []}, "variances is empty"),
        ({"centers": []}, "centers is empty"),
        ({"variances": [0.9, 1.1]}, "variances must be shares in (0, 1], not 1.1"),
        ({"variances": [0.0]}, "variances must be shares in (0, 1], not 0.0"),
        ({"method": "none", "rho": 0.1}, "method none has no rho"),
        ({"method": "none", "method_options": {"k": 1}}, "method none has no rho"),
        ({"base": "adam", "momentum": 0.9}, "momentum belongs to base sgd"),
        ({"transfer_labels": [1, 2]}, "transfer_labels need labels"),
        ({"labels": [0, 1], "transfer_labels": [1, 2]}, "class 1 is in labels and"),
        ({"epoch": 3}, "unknown setting 'epoch': did you mean 'epochs'?"),
    ],
)
def test_an_unusable_value_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.from_mapping(changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_are_read_by_the_type_of_their_field() -> None:
    recipe = Recipe().with_settings(
        ["epochs=5", "width = 8", "rho=1", "labels=0,1,2", "method=looksam"]
    )
    assert (recipe.epochs, recipe.width, recipe.labels) == (5, 8, (0, 1, 2))
    assert recipe.rho == 1.0
    assert recipe.with_settings(["labels=none", "method_options=k=3"]).labels is None
    assert Recipe().with_settings([]) == Recipe()


def test_a_data_set_may_have_an_equals_sign_in_its_name() -> None:
    assert Recipe().with_settings(["data=digits:a=b"]).data == "digits:a=b"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "setting 'epochs' has no value: write key=value"),
        ("epoch=3", "unknown setting 'epoch': did you mean 'epochs'?"),
        ("epochs=many", "epochs must be a whole number, not 'many'"),
        ("epochs=0", "epochs must be 1 or more"),
    ],
)
def test_a_setting_that_cannot_be_read_is_refused(setting: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe().with_settings([setting])
    assert message in str(caught.value)


@settings(deadline=None, max_examples=50)
@given(
    rho=st.floats(0, 10),
    lr=st.floats(0, 10),
    seed=st.integers(0, 2**40),
    labels=st.none() | st.lists(st.integers(0, 9), unique=True, min_size=2),
    variances=st.lists(st.floats(0.01, 1), min_size=1),
    options=st.dictionaries(st.text("ab", min_size=1), st.integers() | st.booleans()),
)
def test_plain_values_and_back_is_the_same_recipe(**values: Any) -> None:
    values["method_options"] = values.pop("options")
    recipe = Recipe(**values)
    plain = json.loads(json.dumps(recipe.to_dict()))
    again = Recipe.from_mapping(plain)
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert list(again.to_dict()) == [field.name for field in dataclasses.fields(Recipe)]


def test_equal_settings_are_equal_recipes_however_they_are_written() -> None:
    assert Recipe(rho=1, labels=[0, 1]) == Recipe(rho=1.0, labels=(0, 1))  # type: ignore[arg-type]
    assert Recipe(rho=1).to_dict() == Recipe(rho=1.0).to_dict()


def test_every_setting_is_documented() -> None:
    for field in dataclasses.fields(Recipe):
        assert f"        {field.name}: " in (Recipe.__doc__ or ""), field.name
