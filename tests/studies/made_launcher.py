"""A launcher that does every run in this process, which starts at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lowland.train import Outcome, Runnable, Watch
from lowland.train.worker import Task, attempt


class Here:
    """One run after another, as a worker does them."""

    name = "here"
    side_by_side = 1

    def check(self) -> None:
        """Nothing can be wrong."""

    def launch(self, recipes: Sequence[Runnable], root: Path, watch: Watch) -> list[Outcome]:
        """See `lowland.train.Launcher`."""
        tasks = [Task(recipe=r, root=root, checkpoint_seconds=60.0) for r in recipes]
        return [attempt(task, lambda news: None) for task in tasks]
