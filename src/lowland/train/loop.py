"""The training loop: a recipe goes in, a run directory comes out."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lowland.core.errors import InputError
from lowland.core.provenance import provenance
from lowland.train import directory
from lowland.train.history import Row
from lowland.train.hold import Hold, once
from lowland.train.job import Job
from lowland.train.plan import make_plan
from lowland.train.progress import OnProgress, Progress, Throttle
from lowland.train.recipe import Recipe
from lowland.train.schedule import evaluation_steps, learning_rate
from lowland.train.state import State
from lowland.train.tracker import Loggers, Tracker, check_loggers
from lowland.train.tracking import EVERY

NEWS_SECONDS = 0.2
"""Progress between evaluations is told this seldom."""

CHECKPOINT_SECONDS = 30.0
"""Work between evaluations that a kill may cost."""

NEEDED = ("lightning_fabric", "pyarrow", "safetensors")
"""Packages beyond lowland's own dependencies that every run needs."""


def run(
    recipe: Recipe,
    root: str | os.PathLike[str],
    *,
    on_progress: OnProgress | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    loggers: Loggers = (),
    log_every: int = EVERY,
    patience: float = 0.0,
) -> Path:
    """Train what `recipe` says, measure it, and leave a run directory under `root`.

    The directory is named by a hash of what determines the run. A finished run is found there and
    returned at once, without a change. A run that was killed, at any moment, goes on from its last
    state and ends as if it had never stopped: on a CPU with the same bits, wall times apart. The
    state is kept at every evaluation, and when `checkpoint_seconds` have passed.

    Torch's number of threads and random generators are as before afterwards.

    Args:
        recipe: what to train and what to measure.
        root: folder of run directories; made if it is not there.
        on_progress: called with `Progress`, a few times a second at most. What it raises stops
            the run, which can be resumed.
        checkpoint_seconds: at most so much work is lost when the process is killed.
        loggers: loggers of Lightning (`lightning_fabric.loggers`, `pytorch_lightning.loggers`), or
            a function that makes them (`LoggerFactory`). They get the loss and, with a
            sharpness-aware method, ‖g‖, ‖ε‖, L(w+ε), L(w+ε) − L(w) and the skipped updates of
            update 1, 1 + `log_every`, ..., and every evaluation; at every commit of the state, so
            that a resumed run sends nothing twice. They change nothing in the run, its record or
            its name; one that fails is a warning.
        log_every: updates between two points.
        patience: seconds to wait for a directory that is in use.

    Returns:
        The run directory.

    Raises:
        InputError: the recipe does not fit the data or this machine; a package is missing; the
            directory is in use, or damaged, or something else; the disk is full. What was there
            stays as it was.
    """
    return watched_run(
        lambda: make_plan(recipe),
        root,
        on_progress=on_progress,
        checkpoint_seconds=checkpoint_seconds,
        loggers=loggers,
        log_every=log_every,
        patience=patience,
    )


def watched_run(
    prepare: Callable[[], Job],
    root: str | os.PathLike[str],
    *,
    on_progress: OnProgress | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    loggers: Loggers = (),
    log_every: int = EVERY,
    patience: float = 0.0,
) -> Path:
    """Do a job of any kind, which `prepare` looks up, under `root`; the rest is as for `run`."""
    tell = on_progress or (lambda progress: None)
    options = _Options(tell, checkpoint_seconds, loggers, log_every)
    _check_installed()
    check_loggers(options.loggers)
    if options.log_every < 1:
        raise InputError(f"log every must be 1 or more, not {options.log_every}")
    job = prepare()
    folder = Path(root) / job.run

    def work(hold: Hold) -> None:
        with _own_torch_settings(job):
            _Run(job, folder, hold, options).go()

    once(folder, job.run, work, patience=patience)
    options.tell(Progress(run=job.run, step=job.steps, steps=job.steps, finished=True))
    return folder


@dataclass(frozen=True)
class _Options:
    """How a run is watched; nothing of it changes what comes out."""

    tell: OnProgress
    checkpoint_seconds: float
    loggers: Loggers
    log_every: int


class _Run:
    """A run at work in its directory, which is locked."""

    def __init__(self, job: Job, folder: Path, hold: Hold, options: _Options) -> None:
        self._job, self._folder, self._hold = job, folder, hold
        self._tell = options.tell
        work = job.start()
        self._batches, self._measures = work.batches, work.measures
        self._trainer, self._evaluator = work.trainer, work.evaluator
        begun = time.perf_counter()
        # a new run measures first: an option that does not fit this network leaves no directory
        new = self._measures is not None and not (folder / directory.RUN).exists()
        self._first = self._measures.first() if self._measures and new else None
        first_seconds = time.perf_counter() - begun
        # only now, when nothing in the recipe can be wrong any more
        state = directory.begin(folder, job.record())
        with directory.clear_errors(folder):
            hold.claim()
        self._step = 0
        self._rows: list[Row] = []
        self._measured: list[Row] = []
        self._sessions: list[dict[str, Any]] = []
        self._seconds = {"train": 0.0, "evaluate": 0.0, "measure": first_seconds, "write": 0.0}
        if state is not None:
            self._resume(state)
        self._sessions.append({"step": self._step, **provenance()})
        self._due, self._news = Throttle(options.checkpoint_seconds), Throttle(NEWS_SECONDS)
        self._tracker = Tracker(
            options.loggers,
            folder,
            recipe=job.recipe,
            run=job.run,
            points=state.points if state is not None else (),
            every=options.log_every,
        )
        self._mark = time.perf_counter()

    def _resume(self, state: State) -> None:
        self._trainer.restore(state)
        self._evaluator.definitions.update(state.definitions)
        self._step = state.step
        self._rows, self._sessions = list(state.rows), list(state.sessions)
        self._measured = list(state.measured)
        if self._measures is not None:
            self._measures.resume(self._measured)
        self._seconds.update(state.seconds)

    def go(self) -> None:
        """Train to the end from wherever the run is, and finish its directory."""
        try:
            self._go()
        except BaseException:
            self._tracker.close("failed")
            raise
        self._tracker.close("success")

    def _go(self) -> None:
        self._tell(self._progress())
        self._send()  # what a kill kept from the loggers
        if not self._rows:
            self._measure()
            self._evaluate()
        while self._step < self._job.steps and not self._diverged:
            self._rest_of_epoch()
        self._hold.check()
        directory.finish(self._folder, self._state(), diverged=self._diverged)

    def _rest_of_epoch(self) -> None:
        points = evaluation_steps(self._job.steps, self._job.recipe.evaluations)
        epoch, start = divmod(self._step, self._job.steps_per_epoch)
        for batch in self._batches(epoch, start):
            loss = self._trainer.update(self._step, *batch)
            self._step += 1
            if self._tracker.wants(self._step):
                self._tracker.add(self._step, self._trainer.metrics(loss))
            self._measure()
            if self._step in points:
                self._evaluate()
                if self._diverged:
                    return
            elif self._due():
                self._commit()
            if self._news():
                self._tell(self._progress())

    @property
    def _diverged(self) -> bool:
        """Whether the last evaluation found a loss that is not finite: no step can mend that."""
        return bool(self._rows) and self._rows[-1]["diverged"] == 1

    def _measure(self) -> None:
        """Add a row of the recipe's own measurements, if one is due."""
        if self._measures is None or not self._measures.wants(self._step):
            return
        self._lap("train")
        row = self._first or self._measures(self._step)
        self._first = None
        self._measured.append(row)
        self._tracker.add(self._step, {f"measure/{k}": v for k, v in row.items() if k != "step"})
        self._lap("measure")

    def _evaluate(self) -> None:
        """Add a row to the history, and make it what a killed run goes on from."""
        job, recipe = self._job, self._job.recipe
        self._lap("train")
        measured = self._evaluator(start=self._step == 0, end=self._step == job.steps)
        self._lap("evaluate")
        row: Row = {
            "step": self._step,
            "epoch": self._step / job.steps_per_epoch,
            "lr": learning_rate(recipe.schedule, recipe.lr, step=self._step, steps=job.steps),
            "rho": recipe.rho,
            "skipped": self._trainer.skipped,
            "diverged": int(not self._evaluator.finite),
            **measured,
            "seconds/train": self._seconds["train"],
            "seconds/evaluate": self._seconds["evaluate"],
        }
        self._rows.append(row)
        self._tracker.add_row(row)
        self._commit()
        self._tell(self._progress(row))

    def _commit(self) -> None:
        self._lap("train")
        self._hold.check()
        directory.commit(self._folder, self._job.run, self._state())
        self._send()
        self._lap("write")

    def _send(self) -> None:
        with directory.clear_errors(self._folder):
            self._tracker.send()

    def _state(self) -> State:
        return State(
            step=self._step,
            model=self._trainer.module.state_dict(),
            optimizer=self._trainer.optimizer.state_dict(),
            seconds=self._seconds,
            rows=self._rows,
            definitions=self._evaluator.definitions,
            sessions=self._sessions,
            points=self._tracker.points,
            measured=self._measured,
        )

    def _lap(self, kind: str) -> None:
        """Book the time since the last call under `kind`."""
        if self._job.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self._seconds[kind] += now - self._mark
        self._mark = now

    def _progress(self, row: Row | None = None) -> Progress:
        return Progress(run=self._job.run, step=self._step, steps=self._job.steps, row=row)


def _check_installed() -> None:
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"training needs {name}: pip install 'lowland[study]'")


@contextlib.contextmanager
def _own_torch_settings(job: Job) -> Iterator[None]:
    """The recipe's threads, and random generators that are put back; torch has one of each."""
    threads = torch.get_num_threads()
    devices = [torch.cuda.current_device()] if job.device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.set_num_threads(job.recipe.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
