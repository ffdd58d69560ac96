"""Arms side by side: the table and the plots say what the record says."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_comparison import FIRST, SECOND, made_comparison
from made_results import made_results
from rich.console import Console

from lowland.report import terminal
from lowland.report.arms import arm_table
from lowland.report.cost import KINDS, cost_figures, sweep_figures
from lowland.report.page import render


@pytest.fixture
def results() -> dict[str, Any]:
    return made_comparison()


def marks(spec: dict[str, Any]) -> dict[tuple[str, str], tuple[float, float, float, str]]:
    """(arm, protocol) → x, y, half of the interval and symbol."""
    found = {}
    for trace in spec["data"]:
        if trace["mode"] != "markers":
            continue
        rows = zip(trace["x"], trace["y"], trace["error_y"]["array"], trace["text"], strict=True)
        for x, y, half, text in rows:
            name, protocol = re.findall(r"<b>(.*)</b>, (.*):", text)[0]
            found[name, protocol] = (x, y, half, trace["marker"]["symbol"])
    return found


def test_every_arm_is_a_row_with_intervals(results: dict[str, Any]) -> None:
    head, rows = arm_table(results)
    assert head == [
        "arm", "passes", "ρ", "test error, equal epochs", "test error, equal compute",
        "time per step", "memory", "feature rank", "sharpness",
    ]  # fmt: skip
    assert rows[0] == [
        "plain", "1", "–", "5.00% ±0.40", "4.50% ±0.40", "1.05 [1.00, 1.10]", "1.05", "75.0 ±2.0",
        "0.050 ±0.010",
    ]  # fmt: skip
    assert rows[1][2] == "0.1 (5 of 8)"
    assert [row[0] for row in rows] == ["plain", "sam", "looksam", "worse <x>", "adasam"]
    short, few = arm_table(results, short=True)
    assert short == ["arm", *head[3:6], "feature rank"]
    assert few[2] == ["looksam", "4.00% ±0.40", "3.50% ±0.40", "1.26", "75.0 ±2.0"]


def test_gaps_and_single_seeds_are_said(results: dict[str, Any]) -> None:
    nothing = {"estimate": None, "low": None, "high": None}
    results["comparison"]["arms"][1].update({FIRST: None, SECOND: None, "time": None})
    results["comparison"]["arms"][1]["memory"] = None
    results["comparison"]["arms"][2][FIRST]["error"] = nothing
    _, rows = arm_table(results)
    assert rows[1] == ["sam", "2", *["–"] * 7]
    assert rows[2][3] == "one seed"
    names = {name for name, _ in marks(cost_figures(results)[1].spec)}
    assert names == {"plain", "looksam", "worse <x>", "adasam"}
    assert ("looksam", FIRST) not in marks(cost_figures(results)[1].spec)


def test_cost_is_that_of_the_whole_training(results: dict[str, Any]) -> None:
    time, passes = cost_figures(results)
    found = marks(time.spec)
    assert found["plain", FIRST][:3] == pytest.approx((1.05, 5.0, 0.4))
    assert found["plain", SECOND][:3] == pytest.approx((2.1, 4.5, 0.4))
    assert found["looksam", FIRST][:3] == pytest.approx((1.26, 4.0, 0.4))
    assert found["looksam", SECOND][:3] == pytest.approx((1.26 * 1.7, 3.5, 0.4))
    assert ("sam", SECOND) not in found  # the same runs
    assert found["looksam", FIRST][3] == "diamond"
    assert found["looksam", SECOND][3] == "diamond-open"
    by_passes = marks(passes.spec)
    assert by_passes["looksam", FIRST][0] == pytest.approx(1.2)
    # arms of two passes side by side, best first, around 2
    row = [by_passes[name, FIRST][0] for name in ("sam", "adasam", "worse <x>")]
    row = [row[0], by_passes["plain", SECOND][0], *row[1:]]
    assert row == sorted(row)
    assert sum(row) / 4 == pytest.approx(2.0)
    assert all(abs(x - 2) < 0.1 for x in row)


def test_kinds_are_told_apart_without_colour(results: dict[str, Any]) -> None:
    symbols = [symbol for _, symbol in KINDS.values()]
    assert len(set(symbols)) == len(symbols)
    time = cost_figures(results)[0].spec
    shown = [trace["name"] for trace in time["data"] if trace["showlegend"]]
    assert shown == ["plain training", "perturbation", "plan", "base optimizer"]


def test_names_stand_beside_what_is_not_beaten(results: dict[str, Any]) -> None:
    time = cost_figures(results)[0].spec
    (labels,) = (trace for trace in time["data"] if trace["mode"] == "text")
    assert {text.strip() for text in labels["text"]} == {"plain", "sam", "looksam"}


def test_no_error_at_all_is_a_mark_too_and_nothing_is_no_plot(results: dict[str, Any]) -> None:
    arms = results["comparison"]["arms"]
    arms[2][FIRST]["error"] = {"estimate": 0.0, "low": 0.0, "high": 0.0}
    assert marks(cost_figures(results)[0].spec)["looksam", FIRST][1] == 0.0
    for arm in arms:
        arm[FIRST] = arm[SECOND] = None
    assert cost_figures(results) == []
    assert "<h2>Accuracy against cost</h2>" not in render(results)


def test_two_protocols_of_an_arm_are_joined(results: dict[str, Any]) -> None:
    time = cost_figures(results)[0].spec
    joints = [trace for trace in time["data"] if trace["mode"] == "lines"]
    assert [trace["x"] for trace in joints] == [
        pytest.approx([1.05, 2.1]), pytest.approx([1.26, 2.142])
    ]  # fmt: skip


def test_sweeps_are_lines_with_intervals(results: dict[str, Any]) -> None:
    by_m, by_rho = sweep_figures(results)
    (line,) = by_m.spec["data"]
    assert line["x"] == [64, 32, 16]
    assert line["y"] == pytest.approx([8.4, 5.2, 3.6])
    assert line["error_y"]["array"] == pytest.approx([0.3] * 3)
    assert by_m.spec["layout"]["xaxis"]["type"] == "log"
    assert [trace["name"] for trace in by_rho.spec["data"]] == ["lightsam I", "lightsam II"]
    assert by_rho.spec["data"][0]["text"] == ["lightsam I, ρ = 0.0001", "lightsam I, ρ = 0.01"]
    results["comparison"]["sweeps"][0]["lines"] = []
    assert len(sweep_figures(results)) == 1


def test_specifications_are_those_of_plotly(results: dict[str, Any]) -> None:
    import plotly.graph_objects as go

    for figure in (*cost_figures(results), *sweep_figures(results)):
        go.Figure(figure.spec)  # raises on an unknown name or value
        json.dumps(figure.spec, allow_nan=False)


def test_the_page_has_plots_and_table_in_place_of_means_by_rho(results: dict[str, Any]) -> None:
    page = re.sub(r"<script>.*?</script>", "", render(results), flags=re.DOTALL)
    order = ["Verdicts", "Accuracy against cost", "All arms", "Sweeps", "How to read this"]
    places = [page.index(f"<h2>{title}</h2>") for title in order]
    assert places == sorted(places)
    assert "<h2>Numbers</h2>" not in page
    assert "5 arms" in page
    assert "worse &lt;x&gt;" in page
    for name in ("cost-time", "cost-passes", "sweep-0", "sweep-1"):
        assert f'id="{name}"' in page
    before = re.sub(r"<script>.*?</script>", "", render(made_results()), flags=re.DOTALL)
    assert "Accuracy against cost" not in before
    assert "<h2>Numbers</h2>" in before


def test_sections_without_figures_are_left_out(results: dict[str, Any]) -> None:
    results["panels"] = []
    page = render(results)
    assert "<h2>Over training</h2>" not in page
    assert "<h2>At the end, against ρ</h2>" not in page


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_has_a_row_per_arm(results: dict[str, Any], width: int) -> None:
    results["comparison"]["arms"][3]["name"] = "f-sam full gradient"
    out = io.StringIO()
    terminal.show(results, Path("runs/x/report.html"), Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    (row,) = (line for line in lines if line.startswith("looksam"))
    assert row.split() == [
        "looksam", "4.00%", "±0.40", "3.50%", "±0.40", "1.26", "75.0", "±2.0"
    ]  # fmt: skip
    assert any(line.startswith("f-sam full gradient  ") for line in lines)
