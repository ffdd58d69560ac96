"""A study end to end: written whole, repeated without a change, resumed, and kept from harm."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lowland import InputError, studies
from lowland.core.files import locked
from lowland.studies import runner
from lowland.studies.runner import Status
from lowland.train import Event, Local, Outcome, Progress, RayCluster, Tracking, Watch, run

SMOKE = studies.Choice(size="smoke")
STUDY = studies.get("low-rank")


def execute(folder: Path, choice: studies.Choice = SMOKE, **options: Any) -> dict[str, Any]:
    return studies.execute(STUDY, choice, folder, **options)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a smoke study, which really ran."""
    folder = tmp_path_factory.mktemp("studies") / "smoke"
    execute(folder, launcher=Local(workers=2))
    return folder


@pytest.fixture
def copy(smoke: Path, tmp_path: Path) -> Path:
    """A finished smoke study that a test may change."""
    return Path(shutil.copytree(smoke, tmp_path / "copy"))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished runs are found in this process: no workers have to start for that."""

    def launch(self: Local, recipes: Any, root: Path, watch: Watch) -> list[Outcome]:
        outcomes = []
        for recipe in recipes:
            outcomes.append(Outcome(recipe=recipe, folder=run(recipe, root)))
            progress = Progress(run="r", step=4, steps=4, finished=True)
            watch.on_event(Event(recipe=recipe, progress=progress))
            watch.on_event(Event(recipe=recipe, outcome=outcomes[-1]))
        return outcomes

    monkeypatch.setattr(Local, "launch", launch)


def no_training(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is left to train")


def test_a_smoke_study_measures_every_claim(smoke: Path) -> None:
    results = json.loads((smoke / "results.json").read_text(encoding="utf-8"))
    assert (results["format"], len(results["runs"])) == ("lowland-study", 8)
    measured_claims = [claim for claim in results["claims"] if claim["n"]]
    assert len(measured_claims) >= 8
    for claim in results["claims"]:
        # of groups that the smoke size leaves out
        assert claim["n"] or (claim["verdict"] == "no data here" and claim["why"])
    for claim in measured_claims:
        assert claim["n"] == 2, claim["why"]
        assert claim["verdict"] in ("holds", "does not hold", "cannot tell")
        assert math.isfinite(claim["estimate"])
        assert claim["low"] <= claim["estimate"] <= claim["high"]
    measured = {column for run in results["runs"] for column in run["history"]}
    assert {panel["column"] for panel in results["panels"]} <= measured
    assert results["failures"] == []
    assert {"commit", "torch", "cpu", "time", "workers"} <= set(results["provenance"])
    assert all(run["provenance"]["torch"] and run["seconds"] > 0 for run in results["runs"])
    assert (smoke / "report.html").stat().st_size > 1_000_000


def test_a_second_call_changes_nothing(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(smoke)
    monkeypatch.setattr(Local, "launch", no_training)
    execute(smoke)
    assert snapshot(smoke) == before


def test_a_lost_report_is_written_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    monkeypatch.setattr(Local, "launch", no_training)
    execute(copy)
    assert (copy / "report.html").read_bytes() == content


@pytest.mark.usefixtures("in_process")
def test_a_data_file_that_did_not_change_is_not_decoded_again(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digits stand in for the file, which only its size and time are asked of."""
    file = tmp_path / "images.parquet"
    file.write_bytes(b"1")
    plan = STUDY.plan(SMOKE)
    study = dataclasses.replace(STUDY, plan=lambda choice: plan)
    choice = studies.Choice(size="smoke", data=f"parquet:{file}")
    (copy / "results.json").unlink()
    marker = json.loads((copy / "study.json").read_text(encoding="utf-8"))
    (copy / "study.json").write_text(json.dumps({**marker, "data": choice.data}))
    studies.execute(study, choice, copy)
    before = snapshot(copy)
    undecodable = dataclasses.replace(study, plan=no_training)
    studies.execute(undecodable, choice, copy)
    assert snapshot(copy) == before
    seen = file.stat()
    for content, changed in ((b"2", seen.st_mtime_ns + 1), (b"22", seen.st_mtime_ns)):
        file.write_bytes(content)
        os.utime(file, ns=(changed, changed))
        with pytest.raises(AssertionError, match="nothing is left to train"):
            studies.execute(undecodable, choice, copy)


@pytest.mark.usefixtures("in_process")
def test_fewer_seeds_use_the_runs_that_are_there(copy: Path) -> None:
    runs = sorted(path.name for path in (copy / "runs").iterdir())
    before = snapshot(copy / "runs")
    results = execute(copy, studies.Choice(size="smoke", seeds=1))
    assert sorted(path.name for path in (copy / "runs").iterdir()) == runs
    assert snapshot(copy / "runs") == before
    assert results["asked"]["seeds"] == [0]
    assert {claim["verdict"] for claim in results["claims"]} <= {"cannot tell", "no data here"}
    assert all(claim["estimate"] is None and not claim["beside"] for claim in results["claims"])


@pytest.mark.usefixtures("in_process")
def test_progress_reaches_the_end(copy: Path) -> None:
    (copy / "results.json").unlink()
    seen: list[Status] = []
    execute(copy, tell=seen.append)
    assert (seen[-1].done, seen[-1].total, seen[-1].share) == (8, 8, 1.0)
    assert all(a.done <= b.done for a, b in itertools.pairwise(seen))


def test_other_folders_are_left_alone(tmp_path: Path, smoke: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"it holds thesis\.tex: choose another folder"):
        execute(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        execute(tmp_path / "thesis.tex")
    with pytest.raises(InputError, match="Not a directory"):
        execute(tmp_path / "thesis.tex" / "inside")
    assert snapshot(tmp_path) == before
    with pytest.raises(InputError, match="holds a study of size smoke, not default"):
        execute(smoke, studies.Choice())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.json").write_text("[]")
    with pytest.raises(InputError, match=r"study\.json is not of lowland"):
        execute(tmp_path / "other")


def test_a_folder_in_use_is_refused(copy: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from lowland.core.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, copy], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="in use by another process"):
            execute(copy)
    finally:
        other.kill()
        other.communicate()
    with locked(copy):  # the lock died with its process
        pass


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "lowland-study", "version": 99}'])
def test_damaged_results_are_named_and_kept(copy: Path, content: str) -> None:
    (copy / "results.json").write_text(content)
    before = snapshot(copy)
    with pytest.raises(InputError, match=r"results\.json") as caught:
        execute(copy)
    assert "\n" not in str(caught.value)
    assert snapshot(copy) == before


@pytest.mark.usefixtures("in_process")
def test_a_full_disk_keeps_what_is_there(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "results.json").unlink()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = snapshot(copy / "runs")
    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_json", full)
        with pytest.raises(InputError, match="No space left on device; finished runs are kept"):
            execute(copy)
    assert snapshot(copy / "runs") == before
    assert not (copy / "results.json").exists()
    assert execute(copy)["failures"] == []


@pytest.mark.usefixtures("in_process")
def test_a_failed_run_is_listed_and_tried_again(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "results.json").unlink()
    real = Local.launch

    def one_fails(self: Local, *arguments: Any) -> list[Any]:
        outcomes = real(self, *arguments)
        broken = Outcome(recipe=outcomes[0].recipe, error="its process was killed")
        return [broken, *outcomes[1:]]

    with monkeypatch.context() as patch:
        patch.setattr(Local, "launch", one_fails)
        results = execute(copy)
    (failure,) = results["failures"]
    assert (failure["group"], failure["seed"]) == ("main", 0)
    assert len(results["runs"]) == 7
    end = next(claim for claim in results["claims"] if claim["name"] == "rank-at-end")
    assert (end["verdict"], end["why"]) == ("cannot tell", "one seed is never a result")
    assert execute(copy)["failures"] == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch_size=5000", "200 examples make no whole batch of 5000"),
        ("method_options=beta=0.5", "method_options do not fit method sam over sgd"),
    ],
)
def test_what_cannot_be_run_is_refused_before_a_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    choice = studies.Choice(size="smoke", overrides=(setting,), seeds=1)
    with monkeypatch.context() as patch:
        patch.setattr(Local, "launch", no_training)
        with pytest.raises(InputError, match=message):
            execute(tmp_path / "new", choice)
    assert not (tmp_path / "new" / "results.json").exists()


def test_no_run_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_fail(self: Local, recipes: Any, *_: Any) -> list[Outcome]:
        return [Outcome(recipe=recipe, error="a common cause") for recipe in recipes]

    monkeypatch.setattr(Local, "launch", all_fail)
    with pytest.raises(InputError, match="a common cause"):
        execute(tmp_path / "new")
    assert not (tmp_path / "new" / "results.json").exists()


@pytest.mark.parametrize("launcher", [Local(workers=0), RayCluster(workers=0)])
def test_a_launcher_that_cannot_work_is_refused_at_once(tmp_path: Path, launcher: Any) -> None:
    with pytest.raises(InputError, match="workers must be 1 or more, not 0"):
        execute(tmp_path / "new", launcher=launcher)
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("in_process")
def test_metrics_have_a_place_before_the_runs_start(copy: Path, tmp_path: Path) -> None:
    """Nothing is made for a study that has nothing to do."""
    tracking = Tracking(tracker="csv", place=str(copy / "logs"))
    execute(copy, loggers=tracking)
    assert not (copy / "logs").exists()
    (copy / "results.json").unlink()
    execute(copy, loggers=tracking)
    assert (copy / "logs").is_dir()
    (copy / "results.json").unlink()
    taken = Tracking(tracker="csv", place=str(copy / "study.json"))
    with pytest.raises(InputError, match="File exists: choose another folder, --log csv:DIR"):
        execute(copy, loggers=taken)


@pytest.mark.usefixtures("in_process")
def test_the_results_say_which_launcher_and_notes_are_passed_on(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Local.launch

    def noting(self: Any, recipes: Any, root: Path, watch: Watch) -> list[Outcome]:
        watch.on_event(Event(recipe=recipes[0], note="something happened"))
        return real(Local(), recipes, root, watch)

    monkeypatch.setattr(RayCluster, "launch", noting)
    (copy / "results.json").unlink()
    seen: list[Status] = []
    results = execute(copy, launcher=RayCluster(), tell=seen.append)
    assert results["provenance"]["launcher"] == "ray"
    assert results["provenance"]["workers"] == "as many as the Ray cluster takes"
    assert [status.note for status in seen if status.note] == ["something happened"]
    (copy / "results.json").unlink()
    assert execute(copy, launcher=Local(workers=2))["provenance"]["workers"] == 2


def test_what_is_not_installed_is_missed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name)
    )
    with pytest.raises(ModuleNotFoundError) as caught:
        execute(tmp_path / "new")
    assert caught.value.name == "plotly"
    assert not (tmp_path / "new").exists()


def start(folder: Path) -> subprocess.Popen[str]:
    command = ["study", "low-rank", "--size", "smoke", "--out", str(folder), "--workers", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "lowland", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """Shells have jobs in the background ignore Ctrl-C, and their children too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_runs(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob("runs/*/run.json"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def comparable(folder: Path) -> dict[str, Any]:
    """Results without what differs between two equal studies: times and machines."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    del results["provenance"]
    for record in results["runs"]:
        del record["provenance"], record["seconds"]
        history = record["history"].items()
        record["history"] = {k: v for k, v in history if not k.startswith("seconds")}
    return results


@pytest.mark.slow
def test_interrupted_and_killed_it_goes_on_to_the_same_results(smoke: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    process = start(folder)
    wait_for_runs(folder, 1, process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output == ""
    assert errors.strip().splitlines()[-1] == (
        "lowland: interrupted: everything finished is kept; the same command goes on from here"
    )
    assert "Traceback" not in errors

    process = start(folder)
    wait_for_runs(folder, 3, process)
    process.kill()
    process.communicate(timeout=30)
    assert not (folder / "results.json").exists()

    time.sleep(3)  # the killed process's workers notice within a moment
    assert execute(folder)["failures"] == []
    assert comparable(folder) == comparable(smoke)
