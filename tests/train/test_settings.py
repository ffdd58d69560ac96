from __future__ import annotations

import math
from typing import Any

import pytest

from lowland.core.errors import InputError
from lowland.train.settings import Options, check, parse


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("5", int, 5),
        (" 5 ", int, 5),
        ("1e-3", float, 1e-3),
        ("5", float, 5.0),
        ("yes", bool, True),
        ("False", bool, False),
        ("none", int | None, None),
        ("3", int | None, 3),
        ("none", str, "none"),
        ("0,1, 2", tuple[int, ...], (0, 1, 2)),
        ("0,1", tuple[int, ...] | None, (0, 1)),
        ("None", tuple[int, ...] | None, None),
        ("unit,example", tuple[str, ...], ("unit", "example")),
        (
            "cifar-mnist-dominoes:mnist=a.npz,cifar=b, correlation = 1,parquet:c=d,digits",
            tuple[str, ...],
            (
                "cifar-mnist-dominoes:mnist=a.npz,cifar=b,correlation = 1",
                "parquet:c=d",
                "digits",
            ),
        ),
        ("easy=none", tuple[str, ...], ("easy=none",)),
        ("k=5,alpha=0.7,exact=true,kind=fast", Options, None),
    ],
)
def test_text_is_read_by_the_type_of_its_field(text: str, hint: Any, value: Any) -> None:
    if hint == Options:
        value = (("alpha", 0.7), ("exact", True), ("k", 5), ("kind", "fast"))
    read = parse("field", text, hint)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "hint", "message"),
    [
        ("5.5", int, "epochs must be a whole number, not '5.5'"),
        ("", int, "epochs must be a whole number, not ''"),
        ("fast", float, "epochs must be a number, not 'fast'"),
        ("nan", float, "epochs must be a finite number, not nan"),
        ("maybe", bool, "epochs must be true or false, not 'maybe'"),
        ("none", int, "epochs must be a whole number, not 'none'"),
        ("0,x", tuple[int, ...], "epochs must be a whole number, not 'x'"),
        ("k", Options, "epochs must be key=value pairs, not 'k'"),
        ("k=", Options, "epochs must be key=value pairs, not 'k='"),
        ("k=inf", Options, "epochs.k must be a finite number, not inf"),
    ],
)
def test_text_of_another_type_is_refused_in_one_line(text: str, hint: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse("epochs", text, hint)
    assert str(caught.value) == message


def test_values_are_brought_to_their_normal_form() -> None:
    checked = check("rho", 1, float)
    assert (checked, type(checked)) == (1.0, float)
    assert check("labels", [1, 2], tuple[int, ...]) == (1, 2)
    assert check("options", {"b": 1, "a": 2}, Options) == (("a", 2), ("b", 1))
    assert check("options", [("b", 1), ("a", 2)], Options) == (("a", 2), ("b", 1))


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (True, float),
        (1, bool),
        (1.5, int),
        ("1", int),
        (None, int),
        (math.inf, float),
        (math.nan, float),
        ("ab", tuple[str, ...]),
        (3, tuple[int, ...]),
        ((1, "2"), tuple[int, ...]),
        ({"k": None}, Options),
        (7, Options),
        (["abc"], Options),
    ],
)
def test_values_of_another_type_are_refused(value: Any, hint: Any) -> None:
    with pytest.raises(InputError, match=r"^field"):
        check("field", value, hint)
