"""Many runs in one directory, tables and figures of a study's own, seeds and exact mode."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from made_study import STUDY, InProcess
from rich.console import Console

from lowland import studies
from lowland.core.errors import InputError
from lowland.report import page, terminal
from lowland.studies.folder import default_folder
from lowland.studies.study import Choice, Plan
from lowland.train import Experiment


def execute(folder: Path, **asked: Any) -> dict[str, Any]:
    return studies.execute(STUDY, STUDY.choose(**asked), folder, launcher=InProcess())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return execute(tmp_path_factory.mktemp("made") / "up")


def test_each_pair_of_rho_and_seed_is_a_run(results: dict[str, Any]) -> None:
    places = [(run["rho"], run["seed"]) for run in results["runs"]]
    assert places == [(0.0, 0), (0.5, 0), (0.0, 1), (0.5, 1), (0.0, 2), (0.5, 2)]
    assert results["runs"][3]["history"]["value"] == pytest.approx([5.1, 6.1, 15.1, 105.1])
    assert (results["asked"]["rhos"], results["asked"]["seeds"]) == ([0.0, 0.5], [0, 1, 2])
    assert results["asked"]["data"] == "numbers"
    claim = results["claims"][0]
    assert claim["effects"] == pytest.approx({"0": 5.0, "1": 5.0, "2": 5.0})


def test_own_figures_and_tables_are_plain_and_drawn(results: dict[str, Any]) -> None:
    (drawing,) = results["drawings"]
    assert drawing["lines"][0]["low"] == [15, None]
    html = page.render(results)
    for words in ("By block", "Own table", "second", '"type":"log"', "n."):
        assert words in html
    assert "11000.0" in html  # shares are shown as percentages: 110 is 11000 %
    shown = io.StringIO()
    terminal.show(results, Path("x"), Console(file=shown, width=70))
    assert "Own table" in shown.getvalue()


def test_a_file_beside_the_data_that_changed_is_seen(tmp_path: Path) -> None:
    """Such as a checkpoint, or the other data set of ``transfer_data``."""
    data, other = tmp_path / "x.parquet", tmp_path / "y.parquet"
    for file in (data, other):
        file.write_bytes(b"1")
    made: list[int] = []

    def plan(choice: Choice) -> Plan:
        made.append(1)
        whole = STUDY.plan(choice)
        (planned,) = whole.runs
        assert isinstance(planned.recipe, Experiment)
        recipe = dataclasses.replace(planned.recipe, files=(str(data), str(other)))
        return dataclasses.replace(whole, runs=(dataclasses.replace(planned, recipe=recipe),))

    study = dataclasses.replace(STUDY, plan=plan)
    choice = study.choose(data=f"parquet:{data}")

    def execute(*overrides: str) -> tuple[str | None, str]:
        asked = dataclasses.replace(choice, overrides=overrides)
        folder = tmp_path / f"{len(overrides)}"
        found = studies.execute(study, asked, folder, launcher=InProcess())
        return found["glance"], found["key"]

    glance, key = execute()
    assert glance, "one file: it need not be read to do nothing"
    assert execute() == (glance, key)
    assert len(made) == 1
    setting = f"transfer_data=parquet:{other},digits"
    glance, before = execute(setting)
    assert glance is None
    assert execute(setting) == (None, before)
    other.write_bytes(b"22")
    assert execute(setting)[1] != before


def test_time_zero_is_no_place_on_a_logarithmic_axis(results: dict[str, Any]) -> None:
    from lowland.report.series import over_training

    points = over_training(results["runs"], results["panels"][0], 0.5)
    assert [point.x for point in points] == [1, 10, 100]


def test_seeds_from_one_on(tmp_path: Path) -> None:
    assert list(STUDY.choose(seed=4).seed_range(5)) == [4]
    assert list(STUDY.choose(seed=4, seeds=2).seed_range(5)) == [4, 5]
    assert list(STUDY.choose(seeds=2).seed_range(5)) == [0, 1]
    assert execute(tmp_path / "four", seed=4)["asked"]["seeds"] == [4]
    with pytest.raises(InputError, match="seed must be 0 or more"):
        STUDY.check(STUDY.choose(seed=-1))


def test_exact_runs_have_a_folder_of_their_own(tmp_path: Path) -> None:
    exact = STUDY.choose(exact=True)
    assert default_folder(STUDY, exact) == Path("runs/made-up-numbers-default-exact")
    execute(tmp_path / "plain")
    with pytest.raises(InputError, match="exact no, not yes"):
        execute(tmp_path / "plain", exact=True)
    execute(tmp_path / "exact", exact=True)
    with pytest.raises(InputError, match="exact yes, not no"):
        execute(tmp_path / "exact")


def test_a_study_without_an_exact_mode_says_so() -> None:
    low_rank = studies.get("low-rank")
    with pytest.raises(InputError, match="has no exact mode"):
        low_rank.check(low_rank.choose(exact=True))


def test_a_panel_of_medians_is_not_moved_by_one_wild_seed() -> None:
    import numpy as np
    from made_runs import make_runs

    from lowland.report import tables
    from lowland.report.figures import log_ticks
    from lowland.report.series import at_end

    values = [1e12, 3.0, 1.0, 2.0, 4.0]
    made = make_runs(lambda rho, seed, step: {"loss": values[seed]}, rhos=(0.1,), seeds=range(5))
    runs = [vars(run) for run in made]
    panel = {"column": "loss", "group": "main", "percent": False, "log": True, "median": True}
    (point,) = at_end(runs, panel)
    assert (point.mean, point.interval.low, point.interval.high) == tuple(
        np.quantile(values, [0.5, 0.25, 0.75])
    )
    assert tables.cell(point, panel) == "3 (2 to 4)"
    assert log_ticks([1.0, 50.0])["dtick"] == "D2"
    assert log_ticks([1e-9, 1e9, 0.0, float("inf")])["dtick"] == 3
    # 1, 2 and 5 alone would leave an axis from 1.5 to 2.3 with one tick
    assert log_ticks([1.5, 2.3])["dtick"] == "L0.2"
    assert log_ticks([1.07, 3.9])["dtick"] == "L0.5"
    assert log_ticks([7.0, 7.0, 7.0])["dtick"] == "D2"
    # 1000 is written 1,000 there, and not 1e+3
    assert log_ticks([300.0, 2000.0])["tickformat"] == ",.3~r"
    assert log_ticks([3e-9, 2e-8])["tickformat"] == ".3~g"
