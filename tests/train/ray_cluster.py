"""Ray clusters of several nodes on this machine, and what runs on them must have left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lowland.train import Event, Local, Outcome, Watch, read_record

STORE = 80 * 2**20
QUICK = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""A dead node is noticed within seconds; by default it takes half a minute."""


@contextlib.contextmanager
def cluster(*nodes: int) -> Iterator[Any]:
    """A cluster of nodes with so many cores each; the first is the head."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": nodes[0], "object_store_memory": STORE, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={**head, "_system_config": QUICK})
    try:
        for cores in nodes[1:]:
            made.add_node(num_cpus=cores, object_store_memory=STORE)
        made.wait_for_nodes()
        logging.getLogger("ray").setLevel(logging.ERROR)
        yield made
    finally:
        made.shutdown()


def same(outcomes: list[Outcome], root: Path, result: Any) -> None:
    """The outcomes are what the local launcher makes, bit for bit."""
    recipes = [outcome.recipe for outcome in outcomes]
    expected = Local(workers=2).launch(recipes, root, Watch())
    for here, there in zip(outcomes, expected, strict=True):
        assert here.error is None
        assert here.folder is not None
        assert there.folder is not None
        assert here.folder.name == there.folder.name
        assert result(here.folder) == result(there.folder)
        records = [read_record(folder) for folder in (here.folder, there.folder)]
        for record in records:  # what tells time and process
            del record["seconds"], record["sessions"], record["files"]["history.parquet"]
        assert records[0] == records[1]


def sessions(outcome: Outcome) -> list[int]:
    """At which step each process that worked on a run began."""
    assert outcome.folder is not None
    return [session["step"] for session in read_record(outcome.folder)["sessions"]]


def process_of(event: Event) -> int:
    """The process that a note about a death names."""
    return int((event.note or "").partition("(process ")[2].partition(")")[0])


def writers(root: Path) -> set[int]:
    """Processes other than this one that hold the lock of a run directory under `root`."""
    locks = {path.stat().st_ino for path in root.glob("*/.lock")}
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    found = {int(f[4]) for f in lines if f[1] == "FLOCK" and int(f[5].split(":")[2]) in locks}
    return found - {os.getpid()}


def gone(pids: set[int], seconds: float = 20.0) -> bool:
    """Whether all processes end within so many seconds."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False
