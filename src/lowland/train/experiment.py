"""An experiment: a function that computes rows of numbers, as a run beside those of recipes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lowland.core.errors import InputError, unknown
from lowland.core.provenance import provenance, source_hash
from lowland.train import directory
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
from lowland.train.history import Row, Value
from lowland.train.hold import Hold, once
from lowland.train.plan import DETERMINES as RECIPE_DETERMINES
from lowland.train.progress import OnProgress, Progress
from lowland.train.tracker import Loggers, Tracker, check_loggers
from lowland.train.tracking import EVERY

DETERMINES = (*RECIPE_DETERMINES, "embeddings", "inspection", "studies")
"""The parts of lowland whose code determines an experiment: its own lies in a study."""

CPU = "cpu"
DEVICES = ("auto", CPU, "cuda")

NEEDED = ("pyarrow", "safetensors")

Function = Callable[..., Iterable[Mapping[str, Value]]]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A function to be called once, for rows of numbers that become the history of a run.

    It is called as ``function(seed=seed, rho=rho, **settings)`` and returns an iterable of rows, a
    list or a generator; a row is a mapping from column to number or None. Before that the global
    generators of torch's CPU, NumPy and Python are seeded with `seed`, and torch has `threads`
    threads; all of it is put back afterwards. It has to give the same rows every time, in a time
    that may be lost: there is no state in between, so one that is killed starts again.

    Equal experiments are equal runs; `method` is a label and makes no difference.

    Attributes:
        function: ``"package.module:function"``. A function outside lowland counts with the file
            that it is in, not with what that imports.
        settings: further arguments by name: numbers, truth values, words, None, and lists of them.
        method: what the run is called in tables, for example the method's name.
        rho: radius ρ; 0 is plain training.
        seed: seed of everything that is drawn.
        threads: CPU threads; the order of sums depends on them, so they are part of the run.
        device: ``cpu``; or ``cuda``, or ``auto`` for whichever is there, which the function is then
            told, as its argument ``device``.
        files: files and folders that it reads, which every machine must see. They are no part of
            the run: settings say what is in them.
    """

    function: str = field(compare=False)
    settings: Mapping[str, Any] | Settings = field(default=(), compare=False)
    method: str = field(default="none", compare=False)
    rho: float = field(default=0.0, compare=False)
    seed: int = field(default=0, compare=False)
    threads: int = field(default=1, compare=False)
    device: str = field(default=CPU, compare=False)
    files: tuple[str, ...] = field(default=(), compare=False)
    # what equality is: 1, 1.0 and True are different settings
    _identity: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_name(self.function)
        object.__setattr__(self, "settings", frozen_settings(self.settings))
        object.__setattr__(self, "rho", float(self.rho))
        if not (math.isfinite(self.rho) and self.rho >= 0):
            raise InputError(f"rho must be finite and 0 or more, not {self.rho:g}")
        for name, value, least in (("seed", self.seed, 0), ("threads", self.threads, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number, {least} or more, not {value!r}")
        if self.device not in DEVICES:
            raise unknown("device", self.device, DEVICES)
        object.__setattr__(self, "_identity", json.dumps(self._facts(), sort_keys=True))

    def to_dict(self) -> dict[str, Any]:
        """Everything that was set, as plain JSON values."""
        return {"method": self.method, **self._facts()}

    @property
    def arguments(self) -> dict[str, Any]:
        """What the function is called with."""
        return {"seed": self.seed, "rho": self.rho, **dict(self.settings), **self._place()}

    def _facts(self) -> dict[str, Any]:
        """What makes a difference."""
        return {
            "function": self.function,
            "settings": plain_settings(frozen_settings(self.settings)),
            "rho": self.rho,
            "seed": self.seed,
            "threads": self.threads,
            **({} if self.device == CPU else {"device": self.device}),
        }

    def _place(self) -> dict[str, str]:
        """The device, of experiments that ask for one."""
        there = "cuda" if torch.cuda.is_available() else CPU
        return {} if self.device == CPU else {"device": self.device.replace("auto", there)}

    def check(self) -> None:
        """Import the function and fit the settings to it.

        Raises:
            InputError: there is no such function, or it does not take these settings.
        """
        check_settings(self.function, **self.arguments)

    def run(
        self,
        root: str | os.PathLike[str],
        *,
        on_progress: OnProgress | None = None,
        checkpoint_seconds: float = 0.0,
        loggers: Loggers = (),
        log_every: int = EVERY,
        patience: float = 0.0,
    ) -> Path:
        """Call the function, and leave its rows in a run directory under `root`.

        The directory is as `lowland.train.run` makes it, without weights, and is named by a hash
        of what determines the rows: the experiment, lowland's code and torch's version. A finished
        one is found and returned at once, without a change.

        Args:
            root: folder of run directories; made if it is not there.
            on_progress: called with `Progress` at the start, with every row, and at the end. What
                it raises stops the run.
            checkpoint_seconds: taken for the sake of the interface; there is no state.
            loggers: as for `lowland.train.run`; they get every row, at the end.
            log_every: taken for the sake of the interface.
            patience: seconds to wait for a directory that is in use.

        Raises:
            InputError: as for `check`; a package is missing; the directory is in use, damaged, or
                something else; the disk is full.
            TypeError: the function gave something else than numbers.
            ValueError: it gave no rows.
        """
        for name in NEEDED:
            if importlib.util.find_spec(name) is None:
                raise InputError(f"experiments need {name}: pip install 'lowland[study]'")
        check_loggers(loggers)
        self.check()
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("device cuda is not there: use device=cpu or device=auto")
        run = self._name()
        folder = Path(root) / run
        tell = on_progress or (lambda progress: None)

        def work(hold: Hold) -> None:
            _compute(self, imported(self.function), folder, run, hold, tell, loggers)

        once(folder, run, work, patience=patience)
        tell(Progress(run=run, step=1, steps=1, finished=True))
        return folder

    def _name(self) -> str:
        """Hash of what determines the rows."""
        facts = {
            "experiment": self._facts(),
            "code": source_hash(DETERMINES),
            "torch": torch.__version__,
            **self._place(),
            **source_of(self.function),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _compute(
    experiment: Experiment,
    function: Function,
    folder: Path,
    run: str,
    hold: Hold,
    tell: OnProgress,
    loggers: Loggers,
) -> None:
    """The rows of an experiment, in its directory, which is locked."""
    directory.begin(folder, {"run": run, "experiment": experiment._facts()})
    with directory.clear_errors(folder):
        hold.claim()
    tell(Progress(run=run, step=0, steps=1))
    begun, rows = time.perf_counter(), []
    with own_settings(experiment.seed, experiment.threads):
        session = {"step": 0, **provenance()}
        for row in function(**experiment.arguments):
            rows.append(checked_row(row, experiment.function))
            tell(Progress(run=run, step=0, steps=1, row=rows[-1]))
    if not rows:
        raise ValueError(f"{experiment.function} gave no rows")
    seconds = time.perf_counter() - begun
    _log(experiment, folder, run, rows, loggers)
    hold.check()
    directory.complete(
        folder,
        rows,
        diverged=not all(math.isfinite(v) for row in rows for v in row.values() if v is not None),
        seconds={"compute": seconds},
        sessions=[session],
        definitions={},
    )


def _log(experiment: Experiment, folder: Path, run: str, rows: list[Row], loggers: Loggers) -> None:
    """Give every row to the loggers, numbered from 0; what a killed run gave, not again."""
    points: list[Row] = [
        {"step": i, **{f"eval/{name}": value for name, value in row.items() if value is not None}}
        for i, row in enumerate(rows)
    ]
    tracker = Tracker(loggers, folder, recipe=experiment, run=run, points=points)
    with directory.clear_errors(folder):
        tracker.send()
    tracker.close("success")
