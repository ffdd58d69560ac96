"""Metrics reach the loggers, once each, and change nothing in the run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from recorders import Recorder, events, lasting, table
from torch import Tensor

from lowland.train import (
    Progress,
    Recipe,
    Tracking,
    read_history,
    run,
)
from lowland.train.csv_log import CSVLog
from lowland.train.trainer import Trainer

Make = Callable[..., Recipe]


def test_logging_changes_nothing(tiny: Make, tmp_path: Path, result: Any) -> None:
    for method in ("sam", "looksam", "m-sam", "none"):
        options = {"m-sam": {"m": 5}}.get(method, {})
        recipe = tiny(method=method, method_options=options, rho=0.0 if method == "none" else 0.1)
        plain = run(recipe, tmp_path / "plain")
        tracking = Tracking(tracker="tensorboard", place=str(tmp_path / "logs"))
        logged = run(recipe, tmp_path / "logged", loggers=tracking, log_every=1)
        assert logged.name == plain.name  # no part of what a run is
        assert result(logged) == result(plain)
        assert lasting(logged) == lasting(plain)
        files = [{path.name for path in folder.iterdir()} for folder in (logged, plain)]
        assert files[0] == files[1]


def test_every_update_and_every_evaluation_in_numbers(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    update = Trainer.update

    def watched(self: Trainer, step: int, *batch: Any) -> Tensor:
        loss = update(self, step, *batch)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(Trainer, "update", watched)
    recorder = Recorder()
    folder = run(tiny(), tmp_path, loggers=[recorder], log_every=1)
    assert [step for step, _ in recorder.points] == list(range(7))
    points = dict(recorder.points)
    assert [points[step]["train/loss"] for step in range(1, 7)] == losses
    for step in range(1, 7):
        point = points[step]
        risen = point["sam/perturbed_loss"] - point["train/loss"]
        assert point["sam/sharpness"] == pytest.approx(risen, abs=1e-6)
        assert point["sam/perturbation_norm"] == pytest.approx(0.1, rel=1e-5)  # ρ
        assert point["sam/grad_norm"] > 0
        assert point["sam/skipped"] == 0
    for row in read_history(folder / "history.parquet"):
        found = {k: v for k, v in points[int(row["step"] or 0)].items() if k.startswith("eval/")}
        assert found == {f"eval/{name}": v for name, v in row.items() if name != "step"}
    assert recorder.saved[-1] == len(recorder.points)


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (2, [1, 3, 5]), (10, [1])])
def test_points_come_every_so_many_updates(
    tiny: Make, tmp_path: Path, every: int, steps: list[int]
) -> None:
    recorder = Recorder()
    run(tiny(), tmp_path, loggers=[recorder], log_every=every)
    assert [step for step, point in recorder.points if "train/loss" in point] == steps
    assert [step for step, point in recorder.points if "eval/test/loss" in point] == [0, 3, 6]


def test_the_sharpness_of_a_method_that_skips_passes_is_not_missed(
    tiny: Make, tmp_path: Path
) -> None:
    """LookSAM has two passes in updates 1, 6, 11, ...; points are of 1, 11, ... by default."""
    recorder = Recorder()
    recipe = tiny(method="looksam", method_options={"k": 5}, epochs=8)
    run(recipe, tmp_path, loggers=[recorder])
    points = [point for _, point in recorder.points if "train/loss" in point]
    assert len(points) == 3
    assert all("sam/sharpness" in point for point in points)


def test_plain_training_logs_the_loss_alone(tiny: Make, tmp_path: Path) -> None:
    recorder = Recorder()
    run(tiny(method="none", rho=0.0), tmp_path, loggers=[recorder], log_every=1)
    names = {name for _, point in recorder.points for name in point}
    assert {name for name in names if not name.startswith("eval/")} == {"train/loss"}


def test_skipped_updates_are_counted(tiny: Make, tmp_path: Path) -> None:
    recorder = Recorder()
    recipe = tiny(lr=1e30, evaluations=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(recipe, tmp_path, loggers=[recorder], log_every=1)
    counts = [point["sam/skipped"] for _, point in recorder.points if "sam/skipped" in point]
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_lightnings_own_loggers_work_as_they_are(tiny: Make, tmp_path: Path) -> None:
    recorder = Recorder()
    loggers = [
        recorder,
        CSVLogger(str(tmp_path / "csv"), name="run"),
        TensorBoardLogger(str(tmp_path / "tb"), name="run"),
    ]
    run(tiny(), tmp_path / "runs", loggers=loggers, log_every=1)
    expected = dict(recorder.points)
    found = events(tmp_path / "tb" / "run" / "version_0")
    for name in ("train/loss", "sam/grad_norm", "sam/sharpness", "eval/test/error"):
        values = [(step, point[name]) for step, point in expected.items() if name in point]
        assert values
        assert found[name] == [(step, pytest.approx(v, rel=1e-6)) for step, v in values]
    rows = table(tmp_path / "csv" / "run" / "version_0" / "metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(7))
    assert [float(row["train/loss"]) for row in rows[1:]] == [
        expected[step]["train/loss"] for step in range(1, 7)
    ]


class StopError(Exception):
    """What a caller may raise at any time."""


def test_a_resumed_run_goes_on_from_its_step_whatever_the_logger(
    tiny: Make, tmp_path: Path
) -> None:
    """In memory, so that nothing can be forgotten that was sent twice."""
    whole = Recorder()
    run(tiny(epochs=8, evaluations=4), tmp_path / "whole", loggers=[whole], log_every=1)
    for stop in (0, 6, 12, 18, 24):
        recorder = Recorder()

        def tell(progress: Progress, stop: int = stop) -> None:
            if progress.row is not None and progress.step == stop:
                raise StopError

        root, recipe = tmp_path / str(stop), tiny(epochs=8, evaluations=4)
        with pytest.raises(StopError):
            run(recipe, root, on_progress=tell, loggers=[recorder], log_every=1)
        assert [step for step, _ in recorder.points] == list(range(stop + 1))
        run(recipe, root, loggers=[recorder], log_every=1)
        clean = [
            [(s, {k: v for k, v in p.items() if "seconds" not in k}) for s, p in r.points]
            for r in (recorder, whole)
        ]
        assert clean[0] == clean[1]


@pytest.mark.slow
def test_killed_before_every_change_of_the_disk_it_has_every_step_once(
    tiny: Make, tmp_path: Path
) -> None:
    from test_kill import drive  # beside this file

    recipe = tiny(epochs=1, batch_size=30, evaluations=1, limit=60)
    count = 34
    jobs = [
        {
            "recipe": recipe.to_dict(),
            "root": str(tmp_path / f"killed-{n}"),
            "log": str(tmp_path / f"logs-{n}"),
            "kills": [n],
        }
        for n in range(1, count)
    ]
    killed = drive(tmp_path, jobs)
    assert killed == sorted(killed, reverse=True)
    assert 15 < sum(killed) < count - 2
    (whole,) = (tmp_path / f"logs-{count - 1}").glob("csv/*/metrics.csv")
    assert [row["step"] for row in table(whole)] == ["0", "1", "2"]
    for number in range(1, sum(killed) + 2):
        logs = tmp_path / f"logs-{number}"
        (file,) = logs.glob("csv/*/metrics.csv")
        assert table(file) == table(whole), number
        (folder,) = logs.glob("tensorboard/*")
        found = events(folder)
        assert [step for step, _ in found["train/loss"]] == [1, 2], number
        assert [step for step, _ in found["eval/test/loss"]] == [0, 2], number
        losses = [float(row["train/loss"]) for row in table(whole)[1:]]
        assert [value for _, value in found["train/loss"]] == pytest.approx(losses, rel=1e-6)


def test_the_end_is_told_to_loggers_that_were_made_for_the_run(tiny: Make, tmp_path: Path) -> None:
    class Ending(Recorder):
        def finalize(self, status: str) -> None:
            ended.append(status)

    def stop(progress: Progress) -> None:
        raise StopError

    ended: list[str] = []
    with pytest.raises(StopError):
        run(tiny(), tmp_path, loggers=lambda *_: [Ending()], on_progress=stop)
    assert ended == ["failed"]
    run(tiny(), tmp_path, loggers=lambda *_: [Ending()])
    assert ended == ["failed", "success"]
    run(tiny(), tmp_path, loggers=lambda *_: [Ending()])  # finished: there is nothing to log
    assert ended == ["failed", "success"]


def test_settings_go_to_loggers_that_take_them(tiny: Make, tmp_path: Path) -> None:
    class Settings(Recorder):
        def log_hyperparams(self, params: dict[str, Any]) -> None:
            found.append(params)

    found: list[dict[str, Any]] = []
    folder = run(tiny(), tmp_path, loggers=[Settings()])
    assert found == [{**tiny().to_dict(), "run": folder.name}]


def test_a_csv_log_goes_on_and_forgets_what_comes_again(tmp_path: Path) -> None:
    log = CSVLog(tmp_path)
    for step in (0, 1, 2):
        log.log_metrics({"a": float("nan") if step == 1 else step / 3}, step)
    log.save()
    log = CSVLog(tmp_path, first=2)
    log.log_metrics({"b": 5.0}, 2)
    log.save()
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "step,a,b",
        "0,0.0,",
        "1,nan,",
        "2,,5.0",
    ]


def test_points_that_are_not_finite_survive_a_resume(tiny: Make, tmp_path: Path) -> None:
    """They wait in the state, which is JSON."""
    from lowland.train.state import State, load_state, save_state

    point = {"step": 1, "train/loss": float("inf")}
    save_state(tmp_path, "run", State(step=1, model={}, optimizer={}, points=[point]))
    json.loads((tmp_path / "state.json").read_text())
    found = load_state(tmp_path, "run")
    assert found is not None
    assert found.points == [point]
