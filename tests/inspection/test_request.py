"""What is asked for: names, options, presets."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from made_networks import MEAN_STD, array_data, foreign, inspected

from lowland.core.errors import InputError
from lowland.inspection import DEFAULT, EXAMPLES, PRESETS, How, Preset, make_request, presets
from lowland.measure import INSTRUMENTS, Instrument, feature_rank, option_names


def names(what: str, **options: Any) -> list[str]:
    return [instrument.name for instrument in make_request(what=what, **options).instruments]


def test_what() -> None:
    assert names("") == list(DEFAULT)
    assert names("all") == list(INSTRUMENTS)
    assert names("active, rank,active") == ["active", "rank"]
    assert make_request().examples == EXAMPLES


def test_settings_go_over_the_preset() -> None:
    plain = make_request(preset="low-rank-paper")
    assert plain.options["rank"]["center"] == "example"
    assert plain.options["active"] == {"rule": "maximum", "share": 0.05}
    assert (plain.examples, plain.split) == (10_240, None), "a split is for sources that have some"
    changed = make_request(
        preset="low-rank-paper", settings=["rank.variance=0.95"], examples=5, split="test"
    )
    assert changed.options["rank"] == {**plain.options["rank"], "variance": 0.95}
    assert (changed.examples, changed.split) == (5, "test")


def test_values_of_settings() -> None:
    made = make_request(settings=["rank.variance=0.9,0.99", "rank.center=none"])
    assert made.options == {"rank": {"variance": (0.9, 0.99), "center": "none"}}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sharpness.m=8", 8),
        ("sharpness.m=batch", "batch"),
        ("sharpness.m=none", None),
        ("sharpness.p=inf", math.inf),
        ("eigenvalue.dtype=float64", torch.float64),
        ("eigenvalue.k=3", 3),
        ("trace.tolerance=none", None),
        ("hessian-moments.orders=2", (2,)),
        ("hessian-moments.orders=2,3", (2, 3)),
        ("participation-ratio.correction=none", "none"),
    ],
)
def test_values_take_the_type_of_the_option(setting: str, value: Any) -> None:
    name, _, option = setting.partition("=")[0].partition(".")
    assert make_request(what=name, settings=[setting]).options[name][option] == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "rnk"}, "unknown instrument 'rnk': did you mean 'rank'?"),
        ({"what": "rank,actve"}, "did you mean 'active'?"),
        ({"preset": "low-rank"}, "unknown preset 'low-rank': did you mean 'low-rank-paper'?"),
        ({"settings": ["rank"]}, "write INSTRUMENT.OPTION=VALUE"),
        ({"settings": ["variance=0.9"]}, "write INSTRUMENT.OPTION=VALUE"),
        ({"settings": ["rank.varianc=0.9"]}, "unknown option of rank 'varianc': did you mean"),
        ({"settings": ["rank.features=0.9"]}, "unknown option of rank 'features'"),
        (
            {"settings": ["rank.variance=high"]},
            "rank.variance must be a number or several, not 'high'",
        ),
        ({"settings": ["rank.variance=2"]}, "rank: variance: 2 is not a share"),
        ({"settings": ["rank.center=rows"]}, "rank: unknown center 'rows'"),
        ({"what": "sharpness", "settings": ["sharpness.rho=nan"]}, "nan is not a radius"),
        (
            {"what": "distinct", "settings": ["distinct.sample=all"]},
            "distinct.sample must be a whole number or none, not 'all'",
        ),
        ({"what": "hessian-moments", "settings": ["hessian-moments.orders=x"]}, "a list, each"),
        ({"what": "eigenvalue", "settings": ["eigenvalue.dtype=big"]}, "a type such as float64"),
        ({"settings": ["loss.x=3"]}, "loss is not measured; add it to --what"),
        ({"settings": ["nothing.x=3"]}, "unknown instrument 'nothing'"),
        ({"examples": 0}, "--examples must be 1 or more, not 0"),
        ({"batch_size": -1}, "--batch-size must be 1 or more, not -1"),
        ({"order": "clases"}, "unknown order 'clases': did you mean 'classes'?"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_request(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_options_of_every_instrument_are_found(name: str) -> None:
    """By signature: nothing here knows which instruments there are."""
    known = option_names(INSTRUMENTS[name])
    assert not {"features", "labels", "model", "loss_fn", "batches", "parameters"} & set(known)
    assert all(key in known for key, _ in INSTRUMENTS[name].options)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_presets_give_options_that_there_are(preset: Preset) -> None:
    for name, options in preset.options.items():
        assert set(options) <= set(option_names(INSTRUMENTS[name]))


def test_a_published_rule_is_used_where_the_instrument_has_one() -> None:
    def ranked(features: Any, variance: float = 0.99, rule: str = "exact") -> Any:
        return feature_rank(features, variance)

    preset = PRESETS["low-rank-paper"]
    bare = dataclasses.replace(INSTRUMENTS["rank"], measure=feature_rank)
    with_rule = dataclasses.replace(bare, measure=ranked)
    assert preset.options_of(with_rule)["rule"] == preset.where_known["rank"]["rule"]
    without = option_names(bare)
    assert ("rule" in preset.options_of(bare)) == ("rule" in without)


def test_an_instrument_nobody_foresaw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A new row of the table is measured, with its options, and shown in every report."""

    def halves(features: Any, *, half: int = 2) -> Any:
        found = feature_rank(features, 0.5)
        return dataclasses.replace(found, name="half_rank", value=found.value / half)

    new = Instrument(name="half", words="half of a rank", looks_at="features", measure=halves)
    monkeypatch.setitem(INSTRUMENTS, "half", new)
    torch.save(foreign().state_dict(), tmp_path / "w.pt")
    how = How(constructor="made_networks:foreign", **MEAN_STD)
    record = inspected(
        tmp_path / "w.pt", data=array_data(tmp_path), how=how, what="half", settings=["half.half=4"]
    )
    for row in record["subjects"][0]["blocks"].values():
        assert row["half"]["value"] == row["half"]["ranks"]["0.5"] / 4


def test_the_table_of_presets_is_the_place_to_add_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = Preset(
        name="other", words="w", source="s", what=("active",), examples=7, split="test",
        options={"active": {"share": 0.1}},
    )  # fmt: skip
    monkeypatch.setitem(presets.PRESETS, "other", other)
    made = make_request(preset="other")
    assert names("", preset="other") == ["active"]
    assert (made.examples, made.options) == (7, {"active": {"share": 0.1}})
    torch.save(foreign().state_dict(), tmp_path / "w.pt")
    how = How(constructor="made_networks:foreign", size=(8, 8), **MEAN_STD)
    record = inspected(tmp_path / "w.pt", data="digits", how=how, preset="other")
    assert (record["data"]["split"], record["data"]["n"], record["notes"]) == ("test", 7, [])
