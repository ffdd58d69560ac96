"""Reading results: ours or refused, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_results import made_results

from lowland import InputError
from lowland.report.results import read_results


@pytest.fixture
def results() -> dict[str, Any]:
    return made_results()


def test_ours_is_read(results: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert read_results(tmp_path) == results


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a result of `lowland study`"),
        ('{"format": "other"}', "is not a result of `lowland study`"),
        ('{"format": "lowland-study", "version": 2}', "has format version 2, this lowland reads 1"),
        ('{"format": "lowland-study", "version": 1}', "lacks 'key'"),
        (b"\xff\x00", "is not valid JSON"),
    ],
)
def test_others_are_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        read_results(tmp_path)
    assert str(path) in str(caught.value)


def test_damaged_ones_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"format": "low')
    with pytest.raises(InputError, match=r"not valid JSON .* remove it, and the study makes it"):
        read_results(tmp_path)


def test_missing_ones_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `lowland study` to its end"):
        read_results(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read_results(tmp_path / "nowhere")
