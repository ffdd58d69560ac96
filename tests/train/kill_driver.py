"""A process that runs recipes in forked children and kills them with SIGKILL.

One import of torch serves all children. Called with a JSON file of entries
``{"recipe": ..., "root": ..., "kills": [...]}``, with ``"experiment"`` or ``"contrastive"`` in
place of ``"recipe"`` for one of those, perhaps with ``"log"``, a folder for metrics: a whole number
n kills the next child just before its n-th change to a directory, a fraction kills it after so many
seconds. When the kills are used up, a last child may finish. Prints how many children were killed,
per entry.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from lowland.train import ContrastiveRecipe, Experiment, Recipe, Runnable, Tracking, run_any

# what a run needs is imported and looked up once, here, for all children
import lightning_fabric  # noqa: F401  isort: skip
import pyarrow.parquet  # noqa: F401  isort: skip
import safetensors.torch  # noqa: F401  isort: skip
import sklearn.datasets  # noqa: F401  isort: skip
import torch._dynamo

from lowland.core.provenance import provenance
from lowland.train.plan import make_plan

CHANGING = ("replace", "unlink")
"""What changes a directory; a file half-written is found beside, under a temporary name."""


def kill_at_operation(number: int) -> None:
    """Make this process die by SIGKILL just before its `number`-th change to a directory."""
    count = 0

    def counted(operation: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return call

    for name in CHANGING:
        setattr(os, name, counted(getattr(os, name)))


def both(place: str, recipe: Runnable, run: str, first: int) -> list[Any]:
    """A CSV file and TensorBoard's events, each in a folder of its own."""
    trackers = (
        Tracking(tracker=tracker, place=f"{place}/{tracker}") for tracker in ("csv", "tensorboard")
    )
    return [logger for tracker in trackers for logger in tracker(recipe, run, first)]


def child(recipe: Runnable, root: Path, kill: float | None, log: str | None) -> bool:
    """Run in a forked process; whether it was killed."""
    loggers: Any = () if log is None else functools.partial(both, log)
    pid = os.fork()
    if pid == 0:
        if isinstance(kill, int):
            kill_at_operation(kill)
        try:
            run_any(recipe, root, checkpoint_seconds=0.0, loggers=loggers, log_every=1)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if isinstance(kill, float):
        time.sleep(kill)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    if os.WEXITSTATUS(status):
        sys.exit("a child failed")
    return False


def made(job: dict[str, Any]) -> Runnable:
    """What a job is to run."""
    if "experiment" in job:
        return Experiment(**job["experiment"])
    if "contrastive" in job:
        return ContrastiveRecipe.from_mapping(job["contrastive"])
    return Recipe.from_mapping(job["recipe"])


def main() -> None:
    torch.set_num_threads(1)
    provenance()
    make_plan(Recipe())
    assert threading.active_count() == 1
    for job in json.loads(Path(sys.argv[1]).read_text()):
        recipe, root = made(job), Path(job["root"])
        log = job.get("log")
        killed = sum(child(recipe, root, kill, log) for kill in job["kills"])
        assert not child(recipe, root, None, log)
        print(killed, flush=True)


if __name__ == "__main__":
    main()
