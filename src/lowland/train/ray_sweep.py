"""A number of runs on a Ray cluster that this process is connected to."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowland.core.errors import InputError
from lowland.train.launch import Watch
from lowland.train.pool import ONE_THREAD, Event
from lowland.train.progress import Note, Progress
from lowland.train.ray_node import Letter, Started, visitor
from lowland.train.runnable import Runnable
from lowland.train.shared import Terms, code
from lowland.train.tracking import label
from lowland.train.worker import Outcome, Task

if TYPE_CHECKING:
    from lowland.train.ray_launcher import RayCluster

POLL_SECONDS = 0.2
PROBE_SECONDS = 180.0
"""A node has to start a process and import torch, perhaps over a network."""
GONE = "lost the Ray cluster ({}): everything finished is kept; the same command goes on from here"


@dataclass
class _Attempt:
    """One try at a run."""

    task: Task
    index: int
    number: int
    where: str = ""
    node: str = ""
    step: int = 0
    steps: int = 0

    def lost(self) -> str:
        """How far it came, in words."""
        at = f" at step {self.step} of {self.steps}" if self.steps else ""
        return f"{label(self.task.recipe, '')}".rstrip("-") + f"{at}{self.where}"


class Sweep:
    """Runs on a cluster, and those that wait for it."""

    def __init__(
        self, cluster: RayCluster, tasks: Sequence[Task], terms: Terms, watch: Watch
    ) -> None:
        from ray.util.queue import Queue

        self._cluster, self._watch = cluster, watch
        self._waiting = deque(_Attempt(task, i, 1) for i, task in enumerate(tasks))
        self._running: dict[Any, _Attempt] = {}
        self._outcomes: dict[Runnable, Outcome] = {}
        self._fixed = code(), pickle.dumps(terms)
        self._short = False
        self._letters = Queue(actor_options=_beside_the_driver())
        self._visit = _remote(cluster)

    def probe(self) -> None:
        """Ask every node that has room for a run whether it can do one.

        Raises:
            InputError: one cannot, or none has room.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if not (nodes := self._fitting()):
            cpus, gpus = self._cluster.cpus_per_run, self._cluster.gpus_per_run
            beside = f" and {gpus:g} GPUs" if gpus else ""
            raise InputError(
                f"no node of the Ray cluster has {cpus:g} cores{beside} for a run: "
                "ask for less per run, or start such a node"
            )
        asked = [
            self._visit.options(
                num_cpus=0,
                num_gpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(*self._fixed, None, None)
            for node in nodes
        ]
        answered, silent = ray.wait(asked, num_returns=len(asked), timeout=PROBE_SECONDS)
        if silent:
            raise InputError(
                f"{len(silent)} of {len(nodes)} nodes of the Ray cluster do not answer"
            )
        for answer in answered:
            try:
                reason = ray.get(answer)
            except ray.exceptions.RayError as error:
                reason = f"a node of the Ray cluster cannot run anything: {first_line(error)}"
            if reason is not None:
                raise InputError(reason)

    def work(self) -> dict[Runnable, Outcome]:
        """Do every task; returns how each ended."""
        import ray

        limit = self._cluster.workers or len(self._waiting)
        try:
            while self._waiting or self._running:
                while self._waiting and len(self._running) < limit:
                    self._submit(self._waiting.popleft())
                ended, _ = ray.wait(list(self._running), num_returns=1, timeout=POLL_SECONDS)
                self._read()
                for reference in ended:
                    self._settle(reference)
                self._look_for_room()
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            raise InputError(GONE.format(first_line(error))) from None
        return self._outcomes

    def stop(self) -> None:
        """Kill what is at work. Run directories are consistent at every moment."""
        import ray

        with suppress(Exception):  # a cluster that is gone has nothing to stop
            for reference in self._running:
                ray.cancel(reference, force=True)
            ray.wait(list(self._running), num_returns=len(self._running), timeout=10)
        with suppress(Exception):
            self._letters.shutdown(force=True)

    def _submit(self, attempt: _Attempt) -> None:
        work = pickle.dumps((attempt.index, attempt.number, attempt.task))
        self._running[self._visit.remote(*self._fixed, work, self._letters)] = attempt

    def _read(self) -> None:
        """Pass on what has come from the nodes."""
        import ray

        try:
            letters = self._letters.get_nowait_batch(self._letters.qsize())
        except ray.exceptions.RayError:  # starts anew by itself
            return
        running = {(a.index, a.number): a for a in self._running.values()}
        for letter in map(pickle.loads, letters):
            attempt = running.get((letter.index, letter.attempt))
            if attempt is not None:  # else of a process that was thought dead
                self._tell(attempt, letter)

    def _tell(self, attempt: _Attempt, letter: Letter) -> None:
        recipe, news = attempt.task.recipe, letter.news
        if isinstance(news, Started):
            attempt.where, attempt.node = f" on {news.host} (process {news.pid})", news.node
        elif isinstance(news, Note):
            self._watch.on_event(Event(recipe=recipe, note=news.text))
        elif isinstance(news, Progress):
            attempt.step, attempt.steps = news.step, news.steps
            self._watch.on_event(Event(recipe=recipe, progress=news))

    def _settle(self, reference: Any) -> None:
        """A task is over, one way or the other."""
        import ray

        attempt = self._running[reference]
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            answer = first_line(error.cause)
        except ray.exceptions.RayError as error:
            del self._running[reference]
            self._died(attempt, first_line(error))
            return
        del self._running[reference]
        recipe = attempt.task.recipe
        self._end(answer if isinstance(answer, Outcome) else Outcome(recipe=recipe, error=answer))

    def _died(self, attempt: _Attempt, reason: str) -> None:
        """The process of an attempt is gone; try again, or give up."""
        recipe, retries = attempt.task.recipe, self._cluster.retries
        what = f"{attempt.lost()}: its process or node died ({reason})"
        if attempt.number > retries:
            tried = "" if not retries else f", {attempt.number} times in all"
            self._end(Outcome(recipe=recipe, error=f"{what}{tried}: run the same again to resume"))
            return
        note = f"{what}; it goes on from its last state, retry {attempt.number} of {retries}"
        self._watch.on_event(Event(recipe=recipe, note=note))
        self._waiting.appendleft(_Attempt(attempt.task, attempt.index, attempt.number + 1))

    def _end(self, outcome: Outcome) -> None:
        self._outcomes[outcome.recipe] = outcome
        self._watch.on_event(Event(recipe=outcome.recipe, outcome=outcome))

    def _fitting(self) -> list[dict[str, Any]]:
        """Nodes that could do a run if nothing else ran there."""
        import ray

        wanted = {"CPU": self._cluster.cpus_per_run, "GPU": self._cluster.gpus_per_run}
        alive = [node for node in ray.nodes() if node["Alive"]]
        return [
            node
            for node in alive
            if all(node["Resources"].get(name, 0) >= amount for name, amount in wanted.items())
        ]

    def _look_for_room(self) -> None:
        """Say once when no node is left that could do what waits."""
        if self._short or not self._running or self._fitting():
            return
        self._short = True
        recipe = next(iter(self._running.values())).task.recipe
        note = "no node is left with room for a run: waiting for one; Ctrl-C stops and keeps all"
        self._watch.on_event(Event(recipe=recipe, note=note))


def _remote(cluster: RayCluster) -> Any:
    """The task: one attempt each, since a retry shall be seen; no GPU but its own."""
    import ray

    hidden = {} if cluster.gpus_per_run else {"CUDA_VISIBLE_DEVICES": ""}
    task = ray.remote(
        num_cpus=cluster.cpus_per_run,
        num_gpus=cluster.gpus_per_run,
        max_retries=0,
        name="lowland run",
        runtime_env={"env_vars": {**ONE_THREAD, **hidden}},
    )
    return task(visitor())


def _beside_the_driver() -> dict[str, Any]:
    """Where the queue shall be: it lives as long as the driver's node does."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    return {
        "num_cpus": 0,
        "max_restarts": -1,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=True),
    }


def first_line(error: BaseException) -> str:
    """The first sentence of what Ray says, which goes on for paragraphs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text.split(". ")[0].rstrip(".:")[:200]
