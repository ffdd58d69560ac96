"""Ray clusters of several nodes on this machine, for the tests of the Ray launcher."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

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
