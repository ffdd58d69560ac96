"""W&B and MLflow, each for itself where it is installed; nothing goes over a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lowland.train import Progress, Recipe, Tracking, run

Make = Callable[..., Recipe]
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


class StopError(Exception):
    """What a caller may raise at any time."""


def stopped_and_resumed(tiny: Make, root: Path, tracking: Tracking) -> list[str]:
    """Names of two runs, of which the first was stopped on its way."""

    def stop(progress: Progress) -> None:
        if progress.row is not None and progress.step == 3:
            raise StopError

    tracking.prepare()
    with pytest.raises(StopError):
        run(tiny(), root, loggers=tracking, log_every=1, on_progress=stop)
    return [run(tiny(seed=seed), root, loggers=tracking, log_every=1).name for seed in (0, 1)]


def test_mlflow_has_every_step_once(tiny: Make, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs mlflow: pip install mlflow")
    from mlflow.tracking import MlflowClient

    tracking = Tracking.parse(f"mlflow:{tmp_path / 'logs'}", default=tmp_path)
    names = stopped_and_resumed(tiny, tmp_path / "runs", tracking)
    client = MlflowClient(f"sqlite:///{tracking.place}/mlflow.db")
    experiment = client.get_experiment_by_name("lowland")
    assert experiment is not None
    found = {r.data.tags["lowland.run"]: r for r in client.search_runs([experiment.experiment_id])}
    assert set(found) == set(names)
    for entry in found.values():
        assert entry.info.status == "FINISHED"
        assert entry.data.params["rho"] == "0.1"
        for metric, steps in (
            ("sam/sharpness", [1, 2, 3, 4, 5, 6]),
            ("eval/test/error", [0, 3, 6]),
        ):
            history = client.get_metric_history(entry.info.run_id, metric)
            assert sorted(point.step for point in history) == steps


def test_wandb_goes_on_with_the_run_of_the_same_name(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs wandb: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracking = Tracking.parse(f"wandb:{tmp_path / 'logs'}", default=tmp_path)
    names = stopped_and_resumed(tiny, tmp_path / "runs", tracking)
    sessions = [path.stem for path in tmp_path.glob("logs/wandb/offline-run-*/run-*.wandb")]
    assert sorted(sessions) == sorted([f"run-{names[0]}"] * 2 + [f"run-{names[1]}"])
