"""Where the metrics of runs go: the trackers that the command line knows, by name."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lowland.core.errors import InputError, unknown
from lowland.train.csv_log import CSVLog

if TYPE_CHECKING:
    from lowland.train.runnable import Runnable

EVERY = 10
"""Updates between two points. Reading a point waits for the device once."""


class Logger(Protocol):
    """What is used of `lightning_fabric.loggers.Logger`; every logger of Lightning has it."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Take in the metrics of a step."""

    def save(self) -> None:
        """Write what was taken in."""

    def finalize(self, status: str) -> None:
        """Close; `status` is ``success`` or ``failed``."""


LoggerFactory = Callable[["Runnable", str, int], Sequence[Logger]]
"""Makes the loggers of one run from its recipe (or experiment), its name, and the first step that
will be logged: above 0 where a run goes on. What has to reach other processes must be picklable."""

_NEEDED = {
    "csv": (),
    "mlflow": ("pytorch_lightning", "mlflow"),
    "tensorboard": ("tensorboard",),
    "wandb": ("pytorch_lightning", "wandb"),
}
TRACKERS = tuple(_NEEDED)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """A tracker by name: the factory behind ``--log``.

    Attributes:
        tracker: ``csv``, ``tensorboard``, ``wandb`` or ``mlflow``.
        place: folder of its files; for MLflow the URI of a server, too.
        project: name of the project (W&B) or experiment (MLflow).
    """

    tracker: str
    place: str
    project: str = "lowland"

    @classmethod
    def parse(cls, text: str, *, default: Path, project: str = "lowland") -> Tracking:
        """``"tensorboard"`` or ``"tensorboard:DIR"``.

        Args:
            text: what was typed.
            default: the place where none is given.
            project: as above.

        Raises:
            InputError: there is no such tracker, or its library is not installed.
        """
        tracker, colon, place = text.partition(":")
        if tracker not in _NEEDED:
            raise unknown("tracker", tracker, TRACKERS)
        if colon and not place:
            raise InputError(f"--log {text} names no folder: write {tracker} or {tracker}:DIR")
        if not place and tracker == "mlflow":
            place = os.environ.get("MLFLOW_TRACKING_URI", "")
        if "://" not in place:
            place = str(Path(place or default).expanduser().resolve())
        made = cls(tracker=tracker, place=place, project=project)
        made.check()
        return made

    def check(self) -> None:
        """Miss a library now, not in the middle of a run.

        Raises:
            InputError: one is not installed here.
        """
        for module in _NEEDED[self.tracker]:
            if importlib.util.find_spec(module) is None:
                package = module.replace("_", "-")
                raise InputError(f"tracker {self.tracker} needs {package}: pip install {package}")

    def prepare(self) -> None:
        """Make the folder or the experiment, so that what cannot be is found before any run.

        Raises:
            InputError: it cannot be.
        """
        if "://" not in self.place:
            self._make_folder()
        if self.tracker == "mlflow":
            _make_experiment(self)

    def _make_folder(self) -> None:
        try:
            Path(self.place).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.place}: {error.strerror}: choose another folder, --log {self.tracker}:DIR"
            ) from None
        if not os.access(self.place, os.W_OK):
            raise InputError(
                f"{self.place} is not writable: choose another folder, --log {self.tracker}:DIR"
            )

    def __call__(self, recipe: Runnable, run: str, first: int) -> list[Logger]:
        """The logger of one run; what it logged from step `first` on, it forgets."""
        return [_MAKERS[self.tracker](self, label(recipe, run), run, first)]


def label(recipe: Runnable, run: str) -> str:
    """A readable name for a run that no other run has."""
    method = recipe.method if recipe.rho else "none"
    return f"{method}-rho{recipe.rho:g}-seed{recipe.seed}-{run[:8]}"


def _csv(where: Tracking, name: str, run: str, first: int) -> Logger:
    return CSVLog(Path(where.place) / name, first)


def _tensorboard(where: Tracking, name: str, run: str, first: int) -> Logger:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    # the reader forgets what an earlier process wrote from this step on
    logger: Logger = TensorBoardLogger(where.place, name=name, version="", purge_step=first)
    return logger


def _wandb(where: Tracking, name: str, run: str, first: int) -> Logger:
    from pytorch_lightning.loggers import WandbLogger
    from wandb import Settings

    class OneOfMany(WandbLogger):  # type: ignore[misc, unused-ignore]
        """A process does several runs, one after the other; W&B has to be told of each end."""

        def finalize(self, status: str) -> None:
            super().finalize(status)
            self.experiment.finish(exit_code=0 if status == "success" else 1)

    # with an id, W&B goes on with the run of that id
    logger: Logger = OneOfMany(
        name=name,
        id=run,
        project=where.project,
        save_dir=where.place,
        settings=Settings(silent=True, console="off"),
    )
    return logger


def _mlflow(where: Tracking, name: str, run: str, first: int) -> Logger:
    from mlflow.tracking import MlflowClient
    from pytorch_lightning.loggers import MLFlowLogger

    uri = _mlflow_uri(where)
    client, known = MlflowClient(uri), None
    experiment = client.get_experiment_by_name(where.project)
    if experiment is not None:  # a run that goes on is found by its tag
        chosen = f"tags.`lowland.run` = '{run}'"
        for found in client.search_runs([experiment.experiment_id], filter_string=chosen):
            known = found.info.run_id
    logger: Logger = MLFlowLogger(
        experiment_name=where.project,
        run_name=name,
        tracking_uri=uri,
        tags={"lowland.run": run},
        run_id=known,
    )
    return logger


def _mlflow_uri(where: Tracking) -> str:
    """MLflow no longer writes plain files: in a folder it has a database."""
    return where.place if "://" in where.place else f"sqlite:///{where.place}/mlflow.db"


def _make_experiment(where: Tracking) -> None:
    """Once, before many processes would do it at the same time."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table it makes
    uri = _mlflow_uri(where)
    artifacts = None if uri == where.place else Path(where.place, "artifacts").as_uri()
    try:
        client = MlflowClient(uri)
        if client.get_experiment_by_name(where.project) is None:
            client.create_experiment(where.project, artifact_location=artifacts)
    except (ImportError, MlflowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"MLflow at {uri} cannot be used: {reason}") from None


_MAKERS: dict[str, Callable[[Tracking, str, str, int], Logger]] = {
    "csv": _csv,
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
