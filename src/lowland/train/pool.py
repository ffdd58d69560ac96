"""Independent runs side by side, each in a process of its own with one thread.

Workers are long-lived, since importing torch takes longer than a small run. Each has a pipe of its
own, so that a worker that is killed, in whatever it was doing, disturbs no other. A second pipe
that carries nothing tells a worker that this process is gone, however it went, and the worker
goes too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError
from lowland.train.loop import CHECKPOINT_SECONDS
from lowland.train.progress import Note, Progress
from lowland.train.runnable import Runnable
from lowland.train.tracking import EVERY, LoggerFactory
from lowland.train.worker import Outcome, Task

ONE_THREAD = dict.fromkeys(("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from lowland.train.worker import main; main(*map(int, sys.argv[2:]))"
)


@dataclass(frozen=True, kw_only=True)
class Event:
    """News of one run: it moved, or it ended, or there is something to read.

    Attributes:
        recipe: which run.
        progress: where it is now, or None.
        outcome: how it ended, or None.
        note: a line for people, or None.
    """

    recipe: Runnable
    progress: Progress | None = None
    outcome: Outcome | None = None
    note: str | None = None


def run_all(
    recipes: Sequence[Runnable],
    root: str | os.PathLike[str],
    *,
    workers: int,
    on_progress: Callable[[Event], object] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    loggers: LoggerFactory | None = None,
    log_every: int = EVERY,
) -> list[Outcome]:
    """Do all runs under `root`, `workers` at a time; each ends as `run` alone would end it.

    A run that fails, or whose process dies, is one outcome with an error; the others go on. Equal
    recipes are run once. Ctrl-C, or an exception from `on_progress`, stops all workers at once
    and leaves every run to be resumed by the next call.

    Args:
        recipes: what to run, recipes or experiments, started in this order.
        root: folder of run directories.
        workers: processes at a time.
        on_progress: called in this process with every `Event`.
        checkpoint_seconds: as for `run`.
        loggers: makes the loggers of each run, in the process that does it; picklable.
        log_every: as for `run`.

    Returns:
        One outcome per recipe, in their order.

    Raises:
        InputError: `workers` is less than 1.
    """
    if workers < 1:
        raise InputError(f"workers must be 1 or more, not {workers}")
    tasks = [
        Task(
            recipe=recipe,
            root=Path(root),
            checkpoint_seconds=checkpoint_seconds,
            loggers=loggers,
            log_every=log_every,
        )
        for recipe in dict.fromkeys(recipes)
    ]
    pool = _Pool(tasks, on_progress or (lambda event: None))
    try:
        outcomes = pool.work(min(workers, len(tasks)))
    finally:
        pool.stop()
    return [outcomes[recipe] for recipe in recipes]


class _Pool:
    """Workers, and the tasks that none of them has yet."""

    def __init__(self, tasks: Sequence[Task], tell: Callable[[Event], object]) -> None:
        self._waiting = deque(tasks)
        self._tell = tell
        self._workers: dict[Connection[Any, Any], _Worker] = {}
        self._outcomes: dict[Runnable, Outcome] = {}

    def work(self, workers: int) -> dict[Runnable, Outcome]:
        """Do every task; returns how each ended."""
        for _ in range(workers):
            self._hire()
        while self._workers:
            for channel in wait(list(self._workers)):
                assert isinstance(channel, Connection)
                self._listen(self._workers[channel])
        return self._outcomes

    def stop(self) -> None:
        """Kill every worker. Their directories are consistent at every moment."""
        for worker in self._workers.values():
            worker.process.kill()
        while self._workers:
            self._dismiss(next(iter(self._workers.values())))

    def _hire(self) -> None:
        worker = _Worker(self._waiting.popleft())
        self._workers[worker.channel] = worker

    def _listen(self, worker: _Worker) -> None:
        try:
            news = worker.channel.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if isinstance(news, Progress):
            self._tell(Event(recipe=worker.task.recipe, progress=news))
            return
        if isinstance(news, Note):
            self._tell(Event(recipe=worker.task.recipe, note=news.text))
            return
        self._end(news)
        if self._waiting:
            worker.give(self._waiting.popleft())
        else:
            self._dismiss(worker)

    def _bury(self, worker: _Worker) -> None:
        """A worker is gone in the middle of its task; another one takes the next."""
        code = self._dismiss(worker)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        memory = " (out of memory?)" if code == -signal.SIGKILL else ""
        error = f"its process {how}{memory}: run the same again to resume"
        self._end(Outcome(recipe=worker.task.recipe, error=error))
        if self._waiting:
            self._hire()

    def _end(self, outcome: Outcome) -> None:
        self._outcomes[outcome.recipe] = outcome
        self._tell(Event(recipe=outcome.recipe, outcome=outcome))

    def _dismiss(self, worker: _Worker) -> int:
        worker.channel.close()
        del self._workers[worker.channel]
        code = worker.process.wait()
        os.close(worker.lifeline)  # not before: it would cut short what is done on the way out
        return code


class _Worker:
    """A process, this end of its pipe and of its lifeline, and what it is working on."""

    def __init__(self, task: Task) -> None:
        self.channel, theirs = Pipe()
        read, self.lifeline = os.pipe()
        handed = [theirs.fileno(), read]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), *map(str, handed)],
                pass_fds=handed,
                env={**os.environ, **ONE_THREAD},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Ctrl-C in the terminal reaches this process alone, which then stops the others
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(read)
        self.give(task)

    def give(self, task: Task) -> None:
        """Hand over the next task; if the process is gone, listening to it will tell."""
        self.task = task
        with contextlib.suppress(OSError):
            self.channel.send(task)
