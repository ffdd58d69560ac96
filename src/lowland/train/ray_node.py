"""The part of the Ray launcher that runs on the nodes."""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lowland.train.shared import Terms, refusal
from lowland.train.worker import News, Outcome, Task, attempt


@dataclass(frozen=True, kw_only=True)
class Started:
    """The first news of an attempt: which process does it."""

    host: str
    node: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class Letter:
    """News of one attempt at one run, on its way to the driver."""

    index: int
    attempt: int
    news: News | Started


def visitor() -> Callable[..., Any]:
    """The function that nodes are sent.

    It is made here, inside another one, so that it travels with its code: a node without lowland
    can then say so.
    """

    def visit(expected: str, terms: bytes, work: bytes | None, letters: Any) -> Any:
        import platform as machine

        try:
            from lowland.train.shared import code
        except ImportError as error:
            return (
                f"node {machine.node()} has no usable lowland ({error}): install the same version "
                "on every node"
            )
        if code() != expected:
            return (
                f"node {machine.node()} has another version of lowland or torch than this "
                "machine: install the same on every node"
            )
        from lowland.train.ray_node import visited

        return visited(terms, work, letters)

    return visit


def visited(terms: bytes, work: bytes | None, letters: Any) -> str | Outcome | None:
    """Do the run in `work`, or only look whether this node could.

    Returns:
        How the run ended; or why nothing can run here; or None, if only asked and it can.
    """
    offer: Terms = pickle.loads(terms)
    if (reason := refusal(offer)) is not None or work is None:
        return reason
    task: Task
    index, number, task = pickle.loads(work)

    def send(news: News | Started) -> None:
        with contextlib.suppress(Exception):  # news are for people; the run goes on without
            letters.put(pickle.dumps(Letter(index=index, attempt=number, news=news)))

    send(Started(host=platform.node(), node=_node(), pid=os.getpid()))
    return attempt(task, send)


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
