"""Loggers that fail, and what is no logger."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.loggers.csv_logs import CSVLogger
from recorders import Recorder

from lowland.core.errors import InputError
from lowland.train import (
    Event,
    Recipe,
    Tracking,
    TrackingWarning,
    read_record,
    run,
    run_all,
)

Make = Callable[..., Recipe]


class Broken(Recorder):
    """Fails in one of its methods, so many times."""

    def __init__(self, method: str, times: int) -> None:
        super().__init__()
        self._method, self._left = method, times

    def _call(self, method: str) -> None:
        if method == self._method and self._left:
            self._left -= 1
            raise OSError("no route\nto host")

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self._call("log_hyperparams")

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._call("log_metrics")
        super().log_metrics(metrics, step)

    def save(self) -> None:
        self._call("save")
        super().save()

    def finalize(self, status: str) -> None:
        self._call("finalize")


@pytest.mark.parametrize("method", ["log_hyperparams", "log_metrics", "save", "finalize"])
@pytest.mark.parametrize("times", [1, 10_000])
def test_a_logger_that_raises_costs_one_warning_and_no_run(
    tiny: Make, tmp_path: Path, result: Any, method: str, times: int
) -> None:
    broken, sound = Broken(method, times), Recorder()
    recipe = tiny(epochs=6, evaluations=6)
    sound.finalize = lambda status: None  # type: ignore[method-assign]
    with pytest.warns(TrackingWarning) as caught:
        folder = run(recipe, tmp_path / "logged", loggers=lambda *_: [broken, sound], log_every=1)
    (warning,) = caught
    assert str(warning.message) == (
        "logger Broken failed (OSError: no route to host): the run goes on, without it if it "
        "fails 3 times in a row"
    )
    assert result(folder) == result(run(recipe, tmp_path / "plain"))
    assert [step for step, _ in sound.points] == list(range(19))
    if times == 1:  # what it could not take is sent again, and nothing twice
        assert broken.points == sound.points


def test_a_factory_that_raises_costs_one_warning(tiny: Make, tmp_path: Path) -> None:
    def broken(recipe: Recipe, run: str, first: int) -> list[Any]:
        raise OSError("no space")

    with pytest.warns(TrackingWarning, match=r"no logger for run \w+ \(OSError: no space\)"):
        folder = run(tiny(), tmp_path, loggers=broken)
    assert read_record(folder)["status"] == "finished"


@pytest.mark.slow
def test_a_failing_logger_in_a_worker_is_a_note_and_not_noise(
    tiny: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "logs"
    place.write_text("a file")
    seen: list[Event] = []
    tracking = Tracking(tracker="csv", place=str(place))
    recipes = [tiny(), tiny(seed=1)]
    outcomes = run_all(
        recipes, tmp_path / "runs", workers=1, on_progress=seen.append, loggers=tracking
    )
    assert [outcome.error for outcome in outcomes] == [None, None]
    notes = [event for event in seen if event.note]
    assert [event.recipe for event in notes] == recipes
    assert all("the run goes on without" in (event.note or "") for event in notes)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("loggers", ["csv", [3], CSVLogger])
def test_what_is_no_logger_is_refused_before_anything_runs(
    tiny: Make, tmp_path: Path, loggers: Any
) -> None:
    if loggers is CSVLogger:  # a class is a factory, of something else
        with pytest.warns(TrackingWarning, match="no logger for run"):
            run(tiny(), tmp_path, loggers=loggers)
        return
    with pytest.raises(InputError, match="loggers must be a list of Lightning Fabric loggers"):
        run(tiny(), tmp_path, loggers=loggers)
    with pytest.raises(InputError, match="log every must be 1 or more, not 0"):
        run(tiny(), tmp_path, log_every=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensorbord", "unknown tracker 'tensorbord': did you mean 'tensorboard'?"),
        ("csv:", "--log csv: names no folder: write csv or csv:DIR"),
        ("wandb", "tracker wandb needs wandb: pip install wandb"),
        ("mlflow:http://x", "tracker mlflow needs pytorch-lightning: pip install pytorch-light"),
        ("tensorboard", "tracker tensorboard needs tensorboard: pip install tensorboard"),
    ],
)
def test_trackers_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    find = importlib.util.find_spec
    lacking = {"wandb", "mlflow", "tensorboard"}
    if text.startswith("mlflow"):
        lacking.add("pytorch_lightning")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in lacking else find(name)
    )
    with pytest.raises(InputError) as caught:
        Tracking.parse(text, default=tmp_path)
    assert message in str(caught.value)


def test_the_place_of_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = functools.partial(Tracking.parse, default=tmp_path / "logs")
    assert parse("csv").place == str(tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    assert parse("csv:here").place == str(tmp_path / "here")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: File exists: choose another folder, --log csv:"):
        parse(f"csv:{tmp_path / 'file'}").prepare()
    parse("csv:deep/down").prepare()
    assert (tmp_path / "deep" / "down").is_dir()
