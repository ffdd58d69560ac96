"""The methods study from the command line to its report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from lowland.__main__ import main
from lowland.studies.methods.arms import ARMS


def run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *more: str
) -> tuple[dict[str, Any], str]:
    """Results and what was printed at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["study", "methods", "--size", "smoke", "--out", str(folder), *more]) == 0
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= 80
    return json.loads((folder / "results.json").read_text("utf-8")), printed


def check(results: dict[str, Any], names: list[str]) -> None:
    assert results["failures"] == []
    arms = results["comparison"]["arms"]
    assert [arm["name"] for arm in arms] == names
    for arm in arms:
        for protocol in results["comparison"]["protocols"]:
            assert arm[protocol]["n"] == 2, arm["name"]
            for measure in results["comparison"]["measures"]:
                found = arm[protocol][measure["key"]]
                assert found["low"] <= found["estimate"] <= found["high"]
        assert 0 < arm["time"]["low"] <= arm["time"]["median"] <= arm["time"]["high"]
        assert arm["memory"] > 0
    for claim in results["claims"]:
        assert claim["n"] == 2, claim["why"]
        assert math.isfinite(claim["estimate"])


@pytest.mark.slow
def test_a_few_arms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, printed = run(tmp_path, capsys, monkeypatch, "--method", "looksam")
    check(results, ["plain", "sam", "looksam"])
    assert [claim["name"] for claim in results["claims"]] == [
        "sam-equal-epochs", "sam-equal-compute", "looksam-reaches-sam"
    ]  # fmt: skip
    assert results["asked"]["method"] == "looksam"
    assert results["asked"]["setting"] == "standard"
    memory = {arm["name"]: arm["memory"] for arm in results["comparison"]["arms"]}
    assert memory["plain"] == 1.0
    assert 1 < memory["sam"] < memory["looksam"]
    assert "looksam" in printed
    assert (tmp_path / "report.html").stat().st_size > 1_000_000


@pytest.mark.slow
def test_every_arm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, _ = run(tmp_path, capsys, monkeypatch)
    check(results, list(ARMS))
