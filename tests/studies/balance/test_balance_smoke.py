"""Both studies of the paper at their smallest, and a trained recipe that is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lowland.studies import execute
from lowland.studies.balance import STUDY as BALANCE
from lowland.studies.balance import columns
from lowland.studies.mechanism import STUDY as MECHANISM
from lowland.studies.study import Study
from lowland.train import Local, Reading, read_history


@pytest.mark.slow
@pytest.mark.parametrize("study", [BALANCE, MECHANISM])
def test_smoke(study: Study, tmp_path: Path) -> None:
    choice = study.choose(size="smoke")
    results = execute(study, choice, tmp_path, launcher=Local(workers=1))
    assert not results["failures"]
    assert results["drawings"]
    assert results["tables"]
    words = {claim["name"]: claim["verdict"] for claim in results["claims"]}
    if study is MECHANISM:
        assert (words["corner-sgd"], words["corner-lsam"]) == ("holds", "holds")
        assert "no data here" not in words.values()
    else:
        without = {name for name, word in words.items() if word == "no data here"}
        named = {"on-cifar-mnist", "on-waterbirds", "on-celeba"}
        assert without == named | {"mlp-not-flatness", "cnn-not-flatness"}
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_recipe_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dominoes of digits stand for data that were found, which the small networks do not take."""
    monkeypatch.setattr(sys.modules[BALANCE.plan.__module__], "DATA", "something-else")
    choice = BALANCE.choose(
        size="smoke", data="digit-dominoes:correlation=0.95", overrides=("limit=100",), seeds=1
    )
    reading = BALANCE.plan(choice).runs[1].recipe
    assert isinstance(reading, Reading)
    row = read_history(reading.run(tmp_path) / "history.parquet")[-1]
    for column in (
        columns.HARD,
        columns.EASY,
        columns.HARD_DFR,
        columns.HARD_STRONG,
        columns.WORST,
        columns.ORACLE_WORST,
        columns.ORACLE_PROBE,
    ):
        value = row[column]
        assert value is not None
        assert 0 <= value <= 1
    assert (row[columns.SHARPNESS] or 0) > 0
    assert row["validation/error"] is not None, "ρ is chosen by it"
