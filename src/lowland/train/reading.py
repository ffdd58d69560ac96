"""A reading: what a function finds in a trained network, as a run beside those of recipes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.core.provenance import provenance, source_hash
from lowland.data import ImageData
from lowland.train import directory
from lowland.train.check import check_recipe
from lowland.train.experiment import DETERMINES
from lowland.train.functions import (
    Settings,
    check_name,
    check_settings,
    checked_row,
    frozen_settings,
    imported,
    own_settings,
    plain_settings,
    source_of,
)
from lowland.train.history import Row, read_history
from lowland.train.hold import Hold, once
from lowland.train.loop import CHECKPOINT_SECONDS, NEEDED, run
from lowland.train.plan import make_plan
from lowland.train.progress import OnProgress, Progress
from lowland.train.recipe import Recipe
from lowland.train.tracker import Loggers
from lowland.train.tracking import EVERY
from lowland.train.trainer import build_model

TRAINING_PATIENCE = 7 * 24 * 3600.0
"""Seconds to wait for a training that another reading of the same recipe has begun."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained:
    """A trained network and what it was trained on.

    Attributes:
        module: the network with its final weights, in eval mode, on `device`.
        data: the data of the recipe, on `device`.
        recipe: what was trained.
        folder: its run directory.
        device: ``cpu`` or ``cuda``.
    """

    module: nn.Module
    data: ImageData
    recipe: Recipe
    folder: Path
    device: str

    def untrained(self) -> nn.Module:
        """The same network at its initialisation, in eval mode, on `device`."""
        fresh = build_model(self.recipe, self.data.shape, self.data.classes)
        return fresh.to(self.device, dtype=next(self.module.parameters()).dtype).eval()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A recipe to train, and a function that reads numbers off what came out.

    The function is called as ``function(trained, **settings)`` with a `Trained`, and returns one
    mapping from column to number or None. As a run of its own the reading has the history of the
    recipe, with these columns added to its last row. The training has its own run directory under
    the same root, so that readings of one recipe share it, and a new function trains nothing
    again. Global generators are seeded with the recipe's seed for the function, and put back. For a
    training that diverged the function is not called: the columns are missing.

    Attributes:
        recipe: what to train.
        function: ``"package.module:function"``.
        settings: further arguments by name, as for an `Experiment`.
    """

    recipe: Recipe
    function: str
    settings: Mapping[str, Any] | Settings = field(default=(), compare=False)
    # what equality is: 1, 1.0 and True are different settings
    _identity: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_name(self.function)
        object.__setattr__(self, "settings", frozen_settings(self.settings))
        object.__setattr__(self, "_identity", json.dumps(self._asked(), sort_keys=True))

    @property
    def method(self) -> str:
        """The recipe's."""
        return self.recipe.method

    @property
    def rho(self) -> float:
        """The recipe's."""
        return self.recipe.rho

    @property
    def seed(self) -> int:
        """The recipe's."""
        return self.recipe.seed

    @property
    def device(self) -> str:
        """The recipe's."""
        return self.recipe.device

    @property
    def files(self) -> tuple[str, ...]:
        """The recipe's."""
        return self.recipe.files

    def to_dict(self) -> dict[str, Any]:
        """Everything that was set: the recipe's settings, and ``reading``."""
        return {**self.recipe.to_dict(), "reading": self._asked()}

    def _asked(self) -> dict[str, Any]:
        return {
            "function": self.function,
            "settings": plain_settings(frozen_settings(self.settings)),
        }

    def check(self) -> None:
        """Find out whether the recipe can be run, and the function takes the settings.

        Raises:
            InputError: as for `check_recipe`; there is no such function; settings do not fit.
        """
        check_settings(self.function, None, **dict(self.settings))
        check_recipe(self.recipe)

    def run(
        self,
        root: str | os.PathLike[str],
        *,
        on_progress: OnProgress | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        loggers: Loggers = (),
        log_every: int = EVERY,
        patience: float = 0.0,
    ) -> Path:
        """Train the recipe if that is not done, call the function, and leave both directories.

        A training that another process has begun is waited for.

        Args:
            root: folder of run directories.
            on_progress, checkpoint_seconds, loggers, log_every: of the training.
            patience: seconds to wait for the reading's own directory if it is in use.

        Raises:
            InputError: as for `run` and `check`.
            TypeError: the function gave something else than numbers.
        """
        for name in NEEDED:
            if importlib.util.find_spec(name) is None:
                raise InputError(f"training needs {name}: pip install 'lowland[study]'")
        check_settings(self.function, None, **dict(self.settings))
        tell = on_progress or (lambda progress: None)
        trained = run(
            self.recipe,
            root,
            on_progress=tell,
            checkpoint_seconds=checkpoint_seconds,
            loggers=loggers,
            log_every=log_every,
            patience=max(patience, TRAINING_PATIENCE),
        )
        name = self._name(trained)
        folder = Path(root) / name
        once(folder, name, lambda hold: _read(self, trained, folder, hold), patience=patience)
        tell(Progress(run=name, step=1, steps=1, finished=True))
        return folder

    def _name(self, trained: Path) -> str:
        """Hash of what determines the columns."""
        facts = {
            "trained": trained.name,
            "reading": self._asked(),
            "code": source_hash(DETERMINES),
            "torch": torch.__version__,
            **source_of(self.function),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _read(reading: Reading, trained: Path, folder: Path, hold: Hold) -> None:
    """The columns of a reading, in its directory, which is locked."""
    record = {"run": folder.name, "trained": trained.name, "reading": reading._asked()}
    directory.begin(folder, record)
    with directory.clear_errors(folder):
        hold.claim()
    begun, recipe = time.perf_counter(), reading.recipe
    before, found = directory.read_record(trained), {}
    with own_settings(recipe.seed, recipe.threads):
        session = {"step": 0, **provenance()}
        if not before["diverged"]:  # there is nothing to be read off such a network
            found = imported(reading.function)(_opened(recipe, trained), **dict(reading.settings))
    columns = checked_row(found, reading.function)
    rows = _joined(read_history(trained / directory.HISTORY), columns, reading.function)
    hold.check()
    directory.complete(
        folder,
        rows,
        diverged=before["diverged"],
        seconds={**before["seconds"], "read": time.perf_counter() - begun},
        sessions=[*before["sessions"], session],
        definitions=before["definitions"],
    )


def _opened(recipe: Recipe, folder: Path) -> Trained:
    """The network of a finished run directory, and its data."""
    plan = make_plan(recipe).on_device()
    module = build_model(recipe, plan.data.shape, plan.data.classes)
    weights = directory.read_weights(folder)
    dtype = next((w.dtype for w in weights.values() if w.is_floating_point()), torch.float32)
    module.to(dtype).load_state_dict(weights)
    module = module.to(plan.device).eval()
    return Trained(module=module, data=plan.data, recipe=recipe, folder=folder, device=plan.device)


def _joined(rows: list[Row], columns: Row, function: str) -> list[Row]:
    """The history with the columns in its last row."""
    if both := sorted(set(columns) & {name for row in rows for name in row}):
        raise ValueError(f"{function} gave {both[0]}, which the training has itself")
    return [*rows[:-1], {**rows[-1], **columns}]
