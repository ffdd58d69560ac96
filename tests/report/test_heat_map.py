"""A number over two grids: what the page draws of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from lowland.report.drawings import drawings
from lowland.studies.drawing import HeatMap

GAINS = HeatMap(
    title="Gain",
    columns=["0.1", "0.2", "0.4"],
    rows=["6", "25"],
    column_title="ρ",
    row_title="width",
    values=[[0.01, -0.04, None], [0.0, 0.02, 0.03]],
    value_title="points",
    percent=True,
    signed=True,
)


def spec(heat: HeatMap) -> dict[str, Any]:
    (figure,) = drawings({"runs": [], "drawings": [dataclasses.asdict(heat)]})
    assert figure.title == heat.title
    return figure.spec


def test_cells_hold_their_numbers_and_zero_is_in_the_middle() -> None:
    (trace,) = spec(GAINS)["data"]
    assert trace["z"] == [[1, -4, None], [0, 2, 3]]
    assert trace["text"] == [["1", "−4", ""], ["0", "2", "3"]]
    assert (trace["zmin"], trace["zmax"]) == (-4, 4)
    assert trace["colorscale"][1] == [0.5, "#ffffff"]


def test_unsigned_values_go_from_the_smallest_to_the_largest() -> None:
    (trace,) = spec(dataclasses.replace(GAINS, signed=False, percent=False))["data"]
    assert "zmin" not in trace
    assert trace["z"][1] == [0.0, 0.02, 0.03]


def test_words_along_the_axes_are_not_read_as_numbers() -> None:
    made = spec(GAINS)
    for axis, title in (("xaxis", "ρ"), ("yaxis", "width")):
        assert made["layout"][axis]["type"] == "category"
        assert made["layout"][axis]["title"]["text"] == title


@pytest.mark.parametrize("value", [0.0, None])
def test_a_map_without_any_difference_has_colours_all_the_same(value: float | None) -> None:
    (trace,) = spec(dataclasses.replace(GAINS, values=[[value] * 3] * 2))["data"]
    assert math.isclose(trace["zmax"], 1.0)


def test_upright_titles_are_no_longer_than_the_figure_is_high() -> None:
    long = "validation error of SGD minus SAM, points"
    made = spec(dataclasses.replace(GAINS, row_title=long, value_title=long))
    broken = "validation error of SGD minus<br>SAM, points"
    assert made["layout"]["yaxis"]["title"]["text"] == broken
    assert made["data"][0]["colorbar"]["title"]["text"] == broken
