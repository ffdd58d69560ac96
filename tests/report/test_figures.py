"""Series and figures: the right numbers, in specifications that plotly accepts."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from made_results import made_results

from lowland.report.figures import colour, curves, finals, palette
from lowland.report.intervals import t_interval
from lowland.report.series import at_end, over_training, rhos
from lowland.report.strip import strip
from lowland.report.tables import by_rho, by_run, facts


@pytest.fixture
def results() -> dict[str, Any]:
    return made_results()


def panel(results: dict[str, Any], title: str) -> dict[str, Any]:
    return next(panel for panel in results["panels"] if panel["title"] == title)


def test_series_are_means_over_seeds_of_the_right_group(results: dict[str, Any]) -> None:
    results["runs"][-1]["history"]["rank"] = [0.0] * 4  # of the transfer group: not in this panel
    points = over_training(results["runs"], panel(results, "Rank"), 0.4)
    assert [point.x for point in points] == [0.0, 5.0, 10.0, 20.0]
    assert points[-1].values == (92.0, 91.0, 90.0)
    assert points[-1].interval == t_interval([92.0, 91.0, 90.0])
    final = at_end(results["runs"], panel(results, "kNN error"))
    assert [point.x for point in final] == rhos(results["runs"]) == [0.0, 0.1, 0.4]
    assert final[0].mean == pytest.approx(0.06)


def test_what_was_not_measured_leaves_a_gap(results: dict[str, Any]) -> None:
    runs = results["runs"]
    assert [p.x for p in over_training(runs, panel(results, "kNN error"), 0.1)] == [20.0]
    assert at_end(runs, panel(results, "Not measured")) == []
    rank = panel(results, "Rank")
    broken = next(r for r in runs if (r["group"], r["rho"], r["seed"]) == ("main", 0.4, 1))
    broken["history"] = {"epoch": [0.0, 5.0], "rank": [99.0, None]}  # it diverged
    points = over_training(runs, rank, 0.4)
    assert [point.seeds for point in points] == [(0, 1, 2), (0, 2), (0, 2), (0, 2)]
    assert at_end(runs, rank)[-1].seeds == (0, 2)


def test_curves_need_more_than_a_start_and_an_end(results: dict[str, Any]) -> None:
    assert [figure.title for figure in curves(results)] == ["Test error", "Rank", "Train loss"]
    titles = ["Test error", "kNN error", "Rank", "Train loss"]
    assert [figure.title for figure in finals(results)] == titles
    for run in results["runs"]:
        run["history"] = {k: [v[0], v[-1]] for k, v in run["history"].items()}
    assert curves(results) == []


def test_plotly_accepts_every_figure(results: dict[str, Any]) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for figure in (*curves(results), *finals(results)):
        graph_objects.Figure(figure.spec)  # raises on any property that plotly does not know
        json.dumps(figure.spec, allow_nan=False)
    with pytest.raises(ValueError, match="colour"):
        graph_objects.Figure({"data": [{"type": "scatter", "colour": 1}]})


def test_curves_show_mean_and_interval(results: dict[str, Any]) -> None:
    rank = next(figure for figure in curves(results) if figure.title == "Rank")
    lines = [trace for trace in rank.spec["data"] if "name" in trace]
    assert [line["name"] for line in lines] == ["ρ = 0", "ρ = 0.1", "ρ = 0.4"]
    assert lines[2]["y"] == [99.0, 97.0, 95.0, 91.0]
    interval = t_interval([92.0, 91.0, 90.0])
    assert interval is not None
    assert lines[2]["customdata"][-1] == [interval.low, interval.high]
    band = next(trace for trace in rank.spec["data"] if trace["meta"]["rho"] == "0.4")
    assert (band["y"][3], band["y"][4]) == (interval.high, interval.low)


def test_radii_differ_in_colour_dash_and_marker(results: dict[str, Any]) -> None:
    lines = [trace for trace in curves(results)[0].spec["data"] if "name" in trace]
    for look in (
        [line["line"]["color"] for line in lines],
        [line["line"]["dash"] for line in lines],
        [line["marker"]["symbol"] for line in lines],
    ):
        assert len(set(look)) == 3
    for count in range(1, 12):
        found = {colour(index, count) for index in range(count)}
        assert len(found) == count
        assert all(re.fullmatch("#[0-9a-f]{6}", one) for one in found)
    assert len(set(palette([0.0, 0.1, 0.2]).values())) == 3


def test_logarithmic_bands_stay_above_zero(results: dict[str, Any]) -> None:
    for run in results["runs"]:
        run["history"]["train/loss"] = [1.0, 0.1, 0.01, 0.001 * (1 + 20 * run["seed"])]
    loss = next(figure for figure in curves(results) if figure.title == "Train loss")
    assert all(y > 0 for trace in loss.spec["data"] for y in trace["y"])
    assert math.isfinite(loss.spec["layout"]["yaxis"]["range"][0])


def test_errors_near_chance_can_be_told_apart(results: dict[str, Any]) -> None:
    """On an axis from 0 they would be one line at its upper edge."""
    low = next(figure for figure in curves(results) if figure.title == "Test error")
    assert low.spec["layout"]["yaxis"]["range"][0] == 0
    for run in results["runs"]:
        run["history"]["test/error"] = [0.99, 0.97, 0.95 - run["rho"] / 10, 0.95 - run["rho"] / 10]
    high = next(figure for figure in curves(results) if figure.title == "Test error")
    bottom, top = high.spec["layout"]["yaxis"]["range"]
    assert 85 < bottom < 91
    assert 95 < top < 97
    ends = [trace["y"][-1] for trace in high.spec["data"] if "name" in trace]
    assert (max(ends) - min(ends)) / (top - bottom) > 0.5


def test_one_seed_is_drawn_without_intervals_and_tabled_without_numbers(
    results: dict[str, Any],
) -> None:
    results["runs"] = [run for run in results["runs"] if run["seed"] == 0]
    for figure in finals(results):
        assert not any("error_y" in trace for trace in figure.spec["data"])
    _, rows = by_rho(results)
    assert {cell for row in rows for cell in row[1:]} <= {"one seed", "–"}


def test_tables(results: dict[str, Any]) -> None:
    head, rows = by_rho(results)
    assert head == ["ρ", "Test error", "kNN error", "Rank", "Train loss"]
    half = t_interval([92.0, 91.0, 90.0])
    assert half is not None
    assert rows[2][3] == f"91.0 ±{half.high - 91:.1f}"
    assert rows[0][2].startswith("6.00% ±")
    head, rows = by_run(results)
    assert len(rows) == len(results["runs"])
    assert rows[0][:3] == ["main", "0", "0"]
    assert rows[0][head.index("kNN error")] == ""  # not of this group
    assert dict(facts(results))["recipe"] == "lr=0.1, variances=0.99/0.95"
    before = dict(facts(results))["runs"]
    results["runs"].append({**results["runs"][0], "group": "another"})  # the same run
    assert dict(facts(results))["runs"] == before == "18 runs, 54 s in all; 2 at a time"


def test_strips_say_in_words_what_they_draw(results: dict[str, Any]) -> None:
    first, _, third, fourth = map(strip, results["claims"])
    assert 'aria-label="20.0% [10.0, 30.0], 3 seeds; needs at least 5.0%"' in first
    assert first.count('class="seed"') == 3
    assert (first.count('class="limit"'), third.count('class="limit"')) == (1, 2)
    assert fourth == ""
    claim = {**results["claims"][0], "low": 0.2, "high": 0.2, "threshold": 0.0, "effects": {}}
    assert "nan" not in strip(claim)
