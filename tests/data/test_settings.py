"""Settings in names of data sets."""

from __future__ import annotations

import pytest

from lowland.core.errors import InputError
from lowland.data import load, places
from lowland.data.settings import Form, Setting, number, places_in, read_name, whole
from lowland.train.recipe import Recipe

FORM = Form(
    kind="made",
    place="FOLDER",
    settings={
        "share": Setting(words="SHARE", read=number(0, 1), default=0.5),
        "size": Setting(words="PIXELS", read=whole(1)),
        "other": Setting(words="PATH", place=True),
        "test": Setting(words="DOMAIN", required=True),
    },
)


def test_a_name_is_taken_apart() -> None:
    named = read_name("made:a=b/c,size=3,test=x,other=~/d=e", FORM)
    assert named.place == "a=b/c"
    assert named.values == {"share": 0.5, "size": 3, "other": "~/d=e", "test": "x"}
    assert places_in("made:a=b/c,size=3,test=x,other=d", FORM) == ("a=b/c", "d")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("", "data set 'made:' lacks its folder: made:FOLDER,test=DOMAIN"),
        ("size=2,test=x", "lacks its folder: made:FOLDER,test=DOMAIN"),
        ("f", "data set 'made:f' lacks its test: made:FOLDER,test=DOMAIN"),
        ("f,test=", "test has no value: write test=DOMAIN"),
        ("f,test", "'test' is no setting: write KEY=VALUE with share, size, other, test; paths"),
        ("f,test=x,test=y", "test is given twice: leave one out"),
        ("f,tset=x", "unknown setting of made 'tset': did you mean 'test'?"),
        ("f,test=x,share=1.5", "made: share is 1.5: give a number from 0 to 1"),
        ("f,test=x,share=half", "made: share is half: give a number from 0 to 1"),
        ("f,test=x,share=nan", "made: share is nan: give a number from 0 to 1"),
        ("f,test=x,size=0", "made: size is 0: give a whole number, at least 1"),
        ("f,test=x,size=-2", "made: size is -2: give a whole number, at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(rest: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_name(f"made:{rest}", FORM)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_places_of_names() -> None:
    assert places("digits") == places("digit-dominoes:correlation=1") == places("hf:a/b") == ()
    assert places("parquet:a/b") == ("a/b",)


def test_recipes_take_settings_and_refuse_wrong_ones() -> None:
    recipe = Recipe(data="digit-dominoes:correlation=1", transfer_data=("parquet:a/b",))
    assert recipe.files == ("a/b",)
    with pytest.raises(InputError, match="did you mean 'correlation'"):
        Recipe(data="digit-dominoes:corelation=1")
    with pytest.raises(InputError, match="unknown data set 'digit-domino'"):
        load("digit-domino")
