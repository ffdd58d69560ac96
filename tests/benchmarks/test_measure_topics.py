"""The benchmark of the instruments: every topic has its file, and what fails is said."""

from __future__ import annotations

import importlib
import inspect

import pytest

import measure


@pytest.mark.parametrize("topic", measure.TOPICS)
def test_every_topic_has_rows_and_takes_the_options(topic: str) -> None:
    module = importlib.import_module(f"measure_{topic}")
    assert "quick" in inspect.signature(module.rows).parameters
    source = inspect.getsource(module.main)
    assert all(option in source for option in ('"--quick"', '"--out"'))


def test_a_topic_that_fails_is_said(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(measure, "run_topic", lambda topic, out, quick: topic != "surface")
    monkeypatch.setattr("sys.argv", ["measure.py", "--only", "rank,surface"])
    with pytest.raises(SystemExit, match="did not come to an end: surface"):
        measure.main()
    monkeypatch.setattr("sys.argv", ["measure.py", "--only", "rnak"])
    with pytest.raises(SystemExit):
        measure.main()
    assert "unknown topic 'rnak'" in capsys.readouterr().err
