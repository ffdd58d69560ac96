"""An inspection in the terminal and on the page: whole, readable at every width, escaped."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_inspection import made_inspection, record_of
from rich.cells import cell_len
from rich.console import Console
from test_page import Outside, chromium, without_plotly

from lowland.report import inspection as words
from lowland.report import inspection_terminal, progress
from lowland.report.inspection_figures import depth_figures, spectrum_figures
from lowland.report.inspection_page import render, write_page

LONG = [f"vit.encoder.layer.{i}" for i in range(12)]


def shown(record: dict[str, Any], width: int, **options: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, **options)
    inspection_terminal.show(record, console, page=Path("runs/x/report.html"))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("blocks", [None, LONG])
def test_everything_is_there_at_every_width(
    width: int, count: int, blocks: list[str] | None
) -> None:
    text = shown(made_inspection(count, blocks), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "…\n" not in text.replace("vit.encoder.layer.…", "")
    flat = " ".join(text.split())
    for word in (
        "first.pt",
        "12,345 parameters",
        "npz:data.npz, train: 100 images, as in the file",
        "5.00% ±0.4%",
        "1.5 ±0.02",
        "25.00%",
        "0.1235†" if count == 1 else "0.1235",
        "definition of knn_error",
        "definition of slope; rho = 0.05; m = 64",
        "A note on the data.",
        "† stopped before its tolerance was reached.",
        "report: runs/x/report.html",
    ):
        assert word in flat
    if count == 2:
        for word in ("second.pt", "change", "−20.0%", "between the two", "only in first.pt"):
            assert word in flat
        assert "second.pt: A note on <runs/second.pt>." in flat


@pytest.mark.parametrize("count", [1, 2])
def test_no_number_is_cut_at_any_width(count: int) -> None:
    """Tables that fit to the cell are the ones at risk."""
    record = made_inspection(count)
    for subject in record["subjects"]:
        for row in subject["blocks"].values():
            row["rank"]["value"] = 123_456_789
    for width in range(60, 110):
        assert "…" not in shown(record, width), width


def test_a_definition_that_differs_between_blocks_says_so() -> None:
    record = made_inspection()
    for block, row in record["subjects"][0]["blocks"].items():
        row["rank"]["definition"] = f"tolerance of {block}"
    text = " ".join(shown(record, 120).split())
    assert "tolerance of block1 (so in block1; not in all)" in text
    assert "of knn_error (so in" not in text


def test_rows_stand_under_their_heads() -> None:
    lines = shown(made_inspection(), 200).splitlines()
    (head,) = [line for line in lines if line.startswith("block ")]
    (row,) = [line for line in lines if line.startswith("block2")]
    for name, value in (("features", "64"), ("rank", "20"), ("knn", "6.00% ±0.4%")):
        assert head.index(name) + len(name) == row.index(value) + len(value)


def test_bars_are_shares_of_the_largest() -> None:
    lines = shown(made_inspection(), 120).splitlines()
    bars = [line.count("█") for line in lines if line.startswith("block") and "█" in line]
    assert bars == [3, 6, 9, 12]
    assert "█" not in shown(made_inspection(), 52), "there is no room"


def test_a_table_without_colour_and_with() -> None:
    assert "\x1b[" not in shown(made_inspection(), 80, no_color=True)
    assert "\x1b[" in shown(made_inspection(), 80, force_terminal=True, color_system="truecolor")


def test_square_brackets_are_not_markup() -> None:
    record = made_inspection(1, ["a[0]", "a[1]"])
    record["subjects"][0]["name"] = "[red]x"
    text = shown(record, 80)
    assert "a[0]" in text
    assert "[red]x" in text


def test_nothing_by_block() -> None:
    record = made_inspection()
    for row in record["subjects"][0]["blocks"].values():
        row.clear()
    text = shown(record, 80)
    assert "block1" not in text
    assert "whole network" in text
    assert "No instrument of blocks" in render(record)


def test_numbers() -> None:
    assert words.cell(record_of("x", "nan")) == "nan"
    assert words.cell(record_of("x", None)) == "–"
    assert words.cell(record_of("x", -1234)) == "−1,234"
    assert words.cell(record_of("x", 1.5e-7)) == "1.50e−07"
    assert words.cell(record_of("x", 123456.0)) == "1.23e+05"
    assert words.cell(record_of("x", 54321.9)) == "54,322"
    assert words.cell(None) == ""


def test_changes() -> None:
    def change(a: Any, b: Any, name: str = "x") -> str:
        return words.change(record_of(name, a), record_of(name, b))

    assert change(10, 10) == "0.0%"
    assert change(10, 12) == "+20.0%"
    assert change(1, 50) == "50 times"
    assert change(1.0, 0.9999) == change(1.0, 1.0001) == "0.0%"
    assert change(-1.0, 2.0) == "+3"
    assert change(0, 3) == "+3"
    assert change("nan", 3) == ""
    assert words.change(None, record_of("x", 3)) == ""
    assert change(0.5, 0.25, "knn_error") == "−25.00 points"


def test_short_names_end_before_the_last_part() -> None:
    assert words.short_names(["a.b"]) == ({"a.b": "b"}, "a.")
    assert words.short_names([]) == ({}, "")
    assert words.short_names(["a.b.c", "a.d"])[1] == "a."


def test_ranks_near_the_number_of_examples_are_noted() -> None:
    record = made_inspection()
    assert not any("A rank cannot exceed" in note for note in words.notes(record))
    row = record["subjects"][0]["blocks"]["block1"]["rank"]
    row |= {"value": 80, "dimension": 6400}
    assert any("A rank cannot exceed the 100 examples" in note for note in words.notes(record))


@pytest.mark.parametrize("count", [1, 2])
def test_the_page_has_everything_and_loads_nothing(count: int) -> None:
    page = render(made_inspection(count))
    own = without_plotly(page)
    assert Outside(own).found == []
    assert "default-src 'none'" in own
    order = ["Block by block", "Whole network", "Along depth", "Spectra", "Definitions", "Notes"]
    places = [own.index(f"<h2>{text}") for text in [*order, "Provenance"]]
    assert places == sorted(places)
    for text in (
        "Preset low-rank-paper (arXiv 1): as &lt;published&gt;",
        "c0ffee (modified)",
        "options of rank",
        "the class token",
        "shorter side 224",
        "definition of knn_error (S)",
        "every record",
        "A note on &lt;runs/first.pt&gt;",
    ):
        assert text in own
    assert "<runs/first.pt>" not in own


def test_text_cannot_leave_its_place() -> None:
    record = made_inspection()
    record["subjects"][0]["name"] = "</script><script>alert(1)</script>"
    row = next(iter(record["subjects"][0]["blocks"].values()))
    record["subjects"][0]["blocks"] = {'"><b>': row}
    page = render(record)
    assert "<script>alert(1)" not in page
    assert '"><b>' not in without_plotly(page)
    figures = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures is not None
    json.loads(figures[1])


def test_figures() -> None:
    record = made_inspection(2)
    names = [figure.title for figure in depth_figures(record)]
    assert names == ["rank", "knn", "slope", "cka"]
    rank, knn = depth_figures(record)[:2]
    assert [trace["y"] for trace in rank.spec["data"]] == [[10, 20, 30, 40], [8, 18, 28, 38]]
    assert knn.spec["data"][0]["y"] == pytest.approx([5, 6, 7, 8]), "percent"
    assert knn.spec["data"][0]["error_y"]["array"] == pytest.approx([1.96 * 0.4] * 4)
    assert knn.spec["data"][0]["error_y"]["arrayminus"] == pytest.approx([1.96 * 0.4] * 4)
    one, _ = spectrum_figures(record)
    curve = one.spec["data"][0]
    assert curve["x"] == list(range(1, 41))
    assert curve["y"][-1] == pytest.approx(100)
    assert curve["y"] == sorted(curve["y"])
    total = sum(2.0 ** -(i / 4) for i in range(40))
    assert curve["y"][0] == pytest.approx(100 / total)


def test_figures_of_instruments_with_options_say_the_definition_that_was_used() -> None:
    notes = {figure.title: figure.note for figure in depth_figures(made_inspection())}
    assert notes["rank"] == "definition of feature_rank", "it has options"
    assert notes["knn"] == "what knn is"


def test_bars_are_the_intervals_that_records_have() -> None:
    """A trace's interval is Student's, wider than 1.96 standard errors."""
    record = made_inspection()
    for row in record["subjects"][0]["blocks"].values():
        row["rank"] |= {"value": 10, "uncertainty": 1.0, "low": 7.0, "high": 14.0}
    (figure,) = [f for f in depth_figures(record) if f.title == "rank"]
    bars = figure.spec["data"][0]["error_y"]
    assert (bars["array"], bars["arrayminus"]) == ([4.0] * 4, [3.0] * 4)


def test_spectra_that_were_thinned_and_those_that_are_none() -> None:
    record = made_inspection()
    rows = list(record["subjects"][0]["blocks"].values())
    rows[0]["rank"]["spectrum"] = {
        "length": 900, "index": [0, 1, 899], "values": [4.0, 3.0, 0.0], "cumulative": [4, 7, 10],
    }  # fmt: skip
    rows[1]["rank"]["spectrum"] = [0.0, 0.0]
    del rows[2]["rank"]["spectrum"]
    (figure,) = spectrum_figures(record)
    assert len(figure.spec["data"]) == 2
    assert figure.spec["data"][0]["x"] == [1, 2, 900]
    assert figure.spec["data"][0]["y"] == pytest.approx([40, 70, 100])


def test_values_that_are_no_numbers_are_left_out_of_figures() -> None:
    record = made_inspection()
    for row in record["subjects"][0]["blocks"].values():
        row["rank"]["value"] = "nan"
    assert "rank" not in [figure.title for figure in depth_figures(record)]
    assert "nan" in render(record)


def test_a_page_that_is_up_to_date_is_left_alone(tmp_path: Path) -> None:
    path = write_page(tmp_path, made_inspection())
    first = path.stat().st_mtime_ns
    write_page(tmp_path, made_inspection())
    assert path.stat().st_mtime_ns == first
    write_page(tmp_path, made_inspection(2))
    assert path.stat().st_mtime_ns != first


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="no Chromium on the path")
def test_a_browser_draws_every_figure(tmp_path: Path) -> None:
    path = write_page(tmp_path, made_inspection(2))
    browser = chromium()
    assert browser is not None
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1200,2000", "--virtual-time-budget=10000", "--enable-logging=stderr",
        "--blink-settings=preferredColorScheme=0", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    drawn = without_plotly(done.stdout)
    assert len(re.findall(r'class="plot[^"]*js-plotly-plot', drawn)) == 6
    assert "rgb(228, 233, 239)" in drawn, "dark ink"
    assert "CONSOLE" not in done.stderr, done.stderr


def test_what_is_being_done() -> None:
    out = io.StringIO()
    with progress.doing(Console(file=out, width=80, force_terminal=True)) as tell:
        tell("x: batch 3 of 8 [not markup]")
    assert "batch 3 of 8 [not markup]" in out.getvalue()
    out = io.StringIO()
    with progress.doing(Console(file=out, width=80)) as tell:
        for _ in range(100):
            tell("again")
    assert out.getvalue() == ""


def test_what_is_being_done_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    out = io.StringIO()
    with progress.doing(Console(file=out, width=80)) as tell:
        tell("batch 1")
        tell("batch 2")
    assert out.getvalue() == "batch 1\nbatch 2\n"
