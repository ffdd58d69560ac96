"""The terminal report: readable at every width, verdicts in words, nothing cut off."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_results import made_results
from rich.console import Console

from lowland.report import progress, terminal


@pytest.fixture
def results() -> dict[str, Any]:
    return made_results()


def shown(results: dict[str, Any], width: int, **options: Any) -> str:
    out = io.StringIO()
    terminal.show(results, Path("runs/x/report.html"), Console(file=out, width=width, **options))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_everything_is_there_at_every_width(results: dict[str, Any], width: int) -> None:
    text = shown(results, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for word in (
        "✓ holds",
        "✕ does not hold",
        "? cannot tell",
        "– no data here",
        "20.0% [10.0, 30.0], 3 seeds",
        "needs at least 5.0%",
        "within ±15.0%",
        "nothing was measured",
        "report: runs/x/report.html",
        "failed: main, ρ = 0.4, seed 7: it <died>",
        "Test error",
        "6.00% ±",
    ):
        assert word in " ".join(text.split()) or word in text


def test_what_tells_rows_apart_stands_beside_every_column(results: dict[str, Any]) -> None:
    """With the first column alone, no one could say which of two rows is plain and which SAM."""
    head = ["arm", "training", "a long heading of numbers", "another long heading"]
    rows = [["cnn", "plain", 0.1, 0.2], ["cnn", "SAM", 0.3, 0.4], ["mlp", "plain", 0.5, 0.6]]
    results["tables"] = [{"title": "Arms", "head": head, "rows": rows, "note": ""}]
    text = shown(results, 50)
    assert text.count("a long heading") == text.count("another long heading") == 1
    lines = [line.split() for line in text.splitlines()]
    assert ["cnn", "SAM", "0.3"] in lines
    assert ["cnn", "SAM", "0.4"] in lines


def test_verdicts_do_not_need_colour(results: dict[str, Any]) -> None:
    plain = shown(results, 80, no_color=True)
    coloured = shown(results, 80, force_terminal=True, color_system="truecolor")
    assert "\x1b[" not in plain
    assert "\x1b[" in coloured


def test_square_brackets_are_not_markup(results: dict[str, Any]) -> None:
    results["claims"][0]["sentence"] = "A [red]sentence[/red]."
    results["failures"][0]["error"] = "tensor [2, 3]"
    text = shown(results, 100)
    assert "A [red]sentence[/red]." in text
    assert "tensor [2, 3]" in text


def test_list_of_studies() -> None:
    out = io.StringIO()
    study = {
        "name": "low-rank",
        "title": "T",
        "source": "S",
        "shows": "ranks",
        "sizes": {"smoke": "seconds"},
    }
    terminal.show_studies([study], Console(file=out, width=60))
    assert [" ".join(line.split()) for line in out.getvalue().splitlines() if line.strip()] == [
        "low-rank T",
        "source S",
        "shows ranks",
        "--size smoke seconds",
    ]


def status(done: int, total: int, share: float) -> Any:
    return SimpleNamespace(done=done, total=total, share=share)


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    out = io.StringIO()
    with progress.shown(Console(file=out, width=80)) as tell:
        for done in range(100):
            tell(status(done, 100, done / 100))
        tell(status(100, 100, 1.0))
        tell(status(100, 100, 1.0))
    assert out.getvalue().splitlines() == [
        "0 of 100 runs, 0% of the work",
        "100 of 100 runs, 100% of the work",
    ]


def test_progress_on_a_terminal_is_a_bar_that_goes_away() -> None:
    out = io.StringIO()
    with progress.shown(Console(file=out, width=80, force_terminal=True)) as tell:
        tell(status(3, 8, 0.4))
    assert "3 of 8 runs" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K") or "\x1b[2K" in out.getvalue()
    out = io.StringIO()
    with progress.shown(Console(file=out, width=80, force_terminal=True)):
        pass
    assert "runs" not in out.getvalue()
