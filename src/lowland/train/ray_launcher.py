"""Runs as tasks on a Ray cluster.

Each run is one task with resources of its own. What goes wrong with a worker or a node goes wrong
with one attempt: the run is tried again, elsewhere if need be, and goes on from its state in the
folder that all nodes share. How a run ends is the task's result; news travel through a queue.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError
from lowland.train.launch import Watch
from lowland.train.ray_sweep import Sweep, first_line
from lowland.train.runnable import Runnable
from lowland.train.shared import offered
from lowland.train.worker import Outcome, Task

QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",  # what Ray prints about its processes; we say it in a line
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Read by Ray when it is imported."""

PATIENCE = 60.0
"""Seconds that a new attempt waits for the last one's process to let go of the run directory."""


@dataclass(frozen=True, kw_only=True)
class RayCluster:
    """A Ray cluster.

    Attributes:
        address: of an existing cluster: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; None starts
            one on this machine that ends with the runs. A process that is connected already stays
            so, whatever the address.
        cpus_per_run: cores that a run occupies; fractions are allowed.
        gpus_per_run: GPUs that a run occupies; with 0 it sees none.
        retries: how often a run is tried again when its worker or node dies.
        workers: most runs side by side; None for as many as fit.
    """

    address: str | None = None
    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0
    retries: int = 3
    workers: int | None = None

    @property
    def name(self) -> str:
        """``ray``."""
        return "ray"

    @property
    def side_by_side(self) -> int | str:
        """See `Launcher.side_by_side`."""
        return self.workers or "as many as the Ray cluster takes"

    def check(self) -> None:
        """See `Launcher.check`."""
        if importlib.util.find_spec("ray") is None:
            raise InputError("launcher ray needs ray: pip install 'lowland[ray]'")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers must be 1 or more, not {self.workers}")
        if not self.cpus_per_run > 0:
            raise InputError(f"cpus per run must be above 0, not {self.cpus_per_run:g}")
        if not self.gpus_per_run >= 0:
            raise InputError(f"gpus per run must be 0 or more, not {self.gpus_per_run:g}")
        if self.retries < 0:
            raise InputError(f"retries must be 0 or more, not {self.retries}")

    def launch(self, recipes: Sequence[Runnable], root: Path, watch: Watch) -> list[Outcome]:
        """See `Launcher.launch`."""
        self.check()
        root = root.absolute()
        if not self.gpus_per_run and any(recipe.device == "cuda" for recipe in recipes):
            raise InputError("device cuda needs a GPU for each run: --gpus-per-run 1")
        tasks = [
            Task(
                recipe=recipe,
                root=root,
                checkpoint_seconds=watch.checkpoint_seconds,
                loggers=watch.loggers,
                log_every=watch.log_every,
                patience=PATIENCE,
            )
            for recipe in dict.fromkeys(recipes)
        ]
        if not tasks:
            return []
        with _connected(self.address), offered(root, recipes, watch.loggers) as terms:
            sweep = Sweep(self, tasks, terms, watch)
            try:
                sweep.probe()
                outcomes = sweep.work()
            finally:
                sweep.stop()
        return [outcomes[recipe] for recipe in recipes]


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Be part of a cluster, quietly; a connection that is there already stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        # nothing large travels through Ray: no large store for it
        options |= {"include_dashboard": False, "object_store_memory": 80 * 2**20}
    else:
        _reach(address)
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        if address in (None, "auto"):
            raise InputError(
                f"no Ray cluster on this machine ({first_line(error)}): start one with "
                "`ray start --head`"
            ) from None
        raise InputError(
            f"the Ray cluster at {address} lets this process not in ({first_line(error)}): both "
            "sides need the same Ray and Python, and Ray's token where the cluster asks for one"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Miss a cluster that is not there at once; Ray itself tries for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not (colon and host and port.isdigit()):
        raise InputError(f"address must be auto, HOST:PORT or ray://HOST:PORT, not {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster at {address} ({error}): start one with `ray start --head`"
        ) from None
