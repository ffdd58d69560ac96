"""The page: whole, offline, escaped, drawn by a real browser, and written only when it must be."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_comparison import made_comparison
from made_results import made_results

from lowland import InputError
from lowland.report.page import render, write_page
from lowland.report.shell import PAGE, script_json

OWN = re.compile(r"<script>.*?</script>", re.DOTALL)


@pytest.fixture
def results() -> dict[str, Any]:
    return made_results()


def without_plotly(page: str) -> str:
    """The page without its scripts, which mention addresses that they never load."""
    return OWN.sub("", page)


class Outside(html.parser.HTMLParser):
    """Collects everything that a page would load or link."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {k}={v}" for k, v in attrs if k in ("src", "href", "srcset", "data")]


def test_nothing_is_loaded_from_anywhere(results: dict[str, Any]) -> None:
    page = render(results)
    own = without_plotly(page)
    assert Outside(own).found == []
    assert "http:" not in own
    assert "https:" not in own
    assert "@import" not in own
    assert "url(" not in own
    # and the browser is told to refuse, whatever a library tries
    assert "default-src 'none'" in own
    assert Outside('<img src="https://x/y.png">').found  # the check can fail


def test_words_come_first_then_figures_tables_and_provenance(results: dict[str, Any]) -> None:
    page = without_plotly(render(results))
    order = [
        "4 claims: 1 holds, 1 does not hold, 1 cannot tell, 1 no data here",
        "Verdicts",
        "Over training",
        "At the end, against ρ",
        "Numbers",
        "How to read this",
        "Provenance",
        "every run",
    ]
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    for word in ("holds", "does not hold", "cannot tell", "no data here"):
        assert re.search(rf'class="chip {word.replace(" ", "-")}">\S {word}<', page)
    for text in ("c0ffee (modified)", "A CPU", "changed by --set", "epochs=20"):
        assert text in page


def test_text_is_escaped(results: dict[str, Any]) -> None:
    results["panels"][0]["title"] = "</script><script>alert(1)</script>"
    results["asked"]["data"] = "parquet:<x>"
    page = render(results)
    assert "& more <b>." not in page
    assert "The sentence of first &amp; more &lt;b&gt;." in page
    assert "A note on &lt;data&gt;." in page
    assert "it &lt;died&gt;" in page
    assert "<script>alert(1)" not in page
    figures = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures is not None
    assert len(json.loads(figures[1])) == 7


def test_json_cannot_end_its_script() -> None:
    text = script_json({"a": "</script><!--"})
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><!--"}


def test_a_page_that_is_up_to_date_is_left_alone(results: dict[str, Any], tmp_path: Path) -> None:
    path = write_page(tmp_path, results)
    assert path == tmp_path / PAGE
    first = (path.stat().st_mtime_ns, path.read_bytes())
    write_page(tmp_path, results)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == first
    results["notes"] = ["something else"]
    write_page(tmp_path, results)
    assert path.read_bytes() != first[1]
    path.write_bytes(b"\xff\xfe not a page")
    write_page(tmp_path, results)
    assert "something else" in path.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_is_named(results: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / PAGE).mkdir()
    with pytest.raises(InputError, match=r"report\.html cannot be written: Is a directory"):
        write_page(tmp_path, results)
    assert [path.name for path in tmp_path.iterdir()] == [PAGE]


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="no Chromium on the path")
@pytest.mark.parametrize(("make", "figures"), [(made_results, 7), (made_comparison, 11)])
def test_a_browser_draws_every_figure(make: Any, figures: int, tmp_path: Path) -> None:
    """The second one in a dark theme."""
    dark = make is made_comparison
    path = write_page(tmp_path, make())
    browser = chromium()
    assert browser is not None
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1200,2000",
        "--virtual-time-budget=10000",
        "--enable-logging=stderr",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    drawn = without_plotly(done.stdout)
    assert len(re.findall(r'class="plot[^"]*js-plotly-plot', drawn)) == figures
    assert drawn.count('class="main-svg"') >= figures
    assert len(re.findall(r'class="trace scatter', drawn)) >= 3 * 6
    light_ink, dark_ink = "rgb(29, 39, 51)", "rgb(228, 233, 239)"
    assert (dark_ink in drawn, light_ink in drawn) == (dark, not dark)
    assert "CONSOLE" not in done.stderr, done.stderr  # neither errors nor refused requests
