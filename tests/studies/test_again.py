"""Runs of a record are judged again by the claims as they are now, without training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowland.__main__ import main
from lowland.core.errors import InputError
from lowland.studies import STUDIES
from lowland.studies.again import _agree, judge_again

RESULTS = Path(__file__).parents[2] / "results"
HERE = [
    found.parent.name
    for found in sorted(RESULTS.glob("*/results.json"))
    if "reduced" not in found.parent.name
]
"""Records on data that need no files."""


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))
    return found


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    results = record(folder)
    change(results)
    (folder / "results.json").write_text(json.dumps(results), "utf-8")


@pytest.fixture
def bottleneck(tmp_path: Path) -> Path:
    """A copy of a committed record, without run directories."""
    return Path(shutil.copytree(RESULTS / "low-rank-bottleneck-digits", tmp_path / "record"))


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """The same of runs that were trained side by side."""
    return Path(shutil.copytree(RESULTS / "overparam-minima", tmp_path / "record"))


@pytest.mark.parametrize("name", ["bottleneck", "stacks"])
def test_runs_stay_and_verdicts_are_made_anew(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    before = record(folder)

    def spoil(results: dict[str, Any]) -> None:
        results["claims"] = [{**results["claims"][0], "verdict": "holds", "estimate": 12.0}]

    changed(folder, spoil)
    after = judge_again(folder, STUDIES)
    assert after == record(folder)
    assert (after["runs"], after["asked"]) == (before["runs"], before["asked"])
    made = dict(after["provenance"])
    judged = made.pop("judged")
    before["provenance"].pop("judged", None)
    assert made == before["provenance"]
    assert set(judged) == {"lowland", "commit", "modified", "time"}
    assert after["key"] is after["glance"] is None
    names = [claim["name"] for claim in after["claims"]]
    assert names == [c.name for c in STUDIES[after["study"]["name"]].plan(_choice(after)).claims]
    shown = {claim["name"]: claim["verdict"] for claim in before["claims"]}
    assert {name: v for name, v in shown.items() if name in names} == {
        claim["name"]: claim["verdict"] for claim in after["claims"] if claim["name"] in shown
    }


def _choice(results: dict[str, Any]) -> Any:
    return STUDIES[results["study"]["name"]].choose(size=results["asked"]["size"])


def test_the_plan_is_the_one_that_made_the_runs(bottleneck: Path) -> None:
    """Of fewer seeds and radii than usual, the claims about them are judged."""

    def fewer(results: dict[str, Any]) -> None:
        top = results["asked"]["rhos"][-1]
        results["runs"] = [
            run for run in results["runs"] if run["seed"] < 3 and run["rho"] in (0.0, top)
        ]
        results["asked"] |= {"rhos": [0.0, top], "seeds": [0, 1, 2]}

    changed(bottleneck, fewer)
    results = judge_again(bottleneck, STUDIES)
    assert {claim["n"] for claim in results["claims"]} <= {0, 3}
    assert any(claim["n"] == 3 for claim in results["claims"])


def test_a_run_that_failed_is_still_one(bottleneck: Path) -> None:
    def fail(results: dict[str, Any]) -> None:
        run = results["runs"].pop()
        place = {part: run[part] for part in ("group", "rho", "seed")}
        results["failures"].append({**place, "error": "out of memory"})

    changed(bottleneck, fail)
    assert judge_again(bottleneck, STUDIES)["failures"][0]["error"] == "out of memory"


def _other_rate(results: dict[str, Any]) -> None:
    results["runs"][0]["recipe"]["lr"] *= 2


def _one_less(results: dict[str, Any]) -> None:
    results["runs"].pop()


@pytest.mark.parametrize("change", [_other_rate, _one_less])
def test_other_runs_are_refused(bottleneck: Path, change: Any) -> None:
    changed(bottleneck, change)
    before = (bottleneck / "results.json").read_bytes()
    with pytest.raises(InputError, match="plans other runs than these: run the study again"):
        judge_again(bottleneck, STUDIES)
    assert (bottleneck / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("recorded", "planned", "same"),
    [
        ({"lr": 0.1, "gone": 1}, {"lr": 0.1, "newer": 2}, True),
        ({"settings": {"a": [1, 2]}}, {"settings": {"a": (1, 2), "b": 3}}, True),
        ({"settings": {"a": [1, 2]}}, {"settings": {"a": [1, 2, 3]}}, False),
        ({"recipe": '{"lr": 0.1}'}, {"recipe": '{"fused": false, "lr": 0.1}'}, True),
        ({"recipe": '{"lr": 0.1}'}, {"recipe": '{"fused": false, "lr": 0.2}'}, False),
        ({"name": "{a"}, {"name": "{b"}, False),
        ({"limit": None}, {"limit": 5}, False),
    ],
)
def test_newer_settings_do_not_tell_runs_apart(recorded: Any, planned: Any, same: bool) -> None:
    assert _agree(recorded, planned) is same


def test_a_study_that_there_is_no_more(bottleneck: Path) -> None:
    changed(bottleneck, lambda results: results["study"].update(name="low-rank/bottlenek"))
    with pytest.raises(InputError, match=r"low-rank/bottlenek.*low-rank/bottleneck"):
        judge_again(bottleneck, STUDIES)


def test_the_command(bottleneck: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(bottleneck), "--judge"]) == 0
    assert "bottleneck" in capsys.readouterr().out
    assert "judged again" in (bottleneck / "report.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("folder", HERE)
def test_committed_verdicts_are_those_of_this_code(folder: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(RESULTS / folder, tmp_path / folder))
    before = record(copy)
    after = judge_again(copy, STUDIES)
    assert [after[part] for part in ("notes", "panels", "rule", "study")] == [
        before[part] for part in ("notes", "panels", "rule", "study")
    ]
    words = ("name", "sentence", "source", "published", "effect", "verdict", "why", "n")
    assert [[claim[w] for w in words] for claim in after["claims"]] == [
        [claim[w] for w in words] for claim in before["claims"]
    ]
    for one, other in zip(after["claims"], before["claims"], strict=True):
        for bound in ("estimate", "low", "high"):
            known = other[bound]
            assert one[bound] == (known and pytest.approx(known, rel=1e-6, abs=1e-9))
