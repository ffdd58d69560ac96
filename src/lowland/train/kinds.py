"""Runs of either kind: of a recipe, or of an experiment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lowland.train.check import check_recipe
from lowland.train.experiment import Experiment
from lowland.train.loop import run
from lowland.train.recipe import Recipe
from lowland.train.runnable import Runnable


def run_any(what: Runnable, root: str | os.PathLike[str], **watched: Any) -> Path:
    """Leave its run directory under `root`, or find it there; see `run` and `Experiment.run`."""
    if isinstance(what, Recipe):
        return run(what, root, **watched)
    return _experiment(what).run(root, **watched)


def check_any(what: Runnable) -> None:
    """Find out whether it can be run at all; see `check_recipe` and `Experiment.check`."""
    if isinstance(what, Recipe):
        check_recipe(what)
    else:
        _experiment(what).check()


def _experiment(what: Runnable) -> Experiment:
    if not isinstance(what, Experiment):
        raise TypeError(f"a {type(what).__name__} is neither a Recipe nor an Experiment")
    return what
