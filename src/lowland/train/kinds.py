"""Runs of any kind: of a recipe of either kind, of an experiment, or a reading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lowland.train.check import check_recipe
from lowland.train.contrastive import ContrastiveRecipe
from lowland.train.experiment import Experiment
from lowland.train.loop import run
from lowland.train.reading import Reading
from lowland.train.recipe import Recipe
from lowland.train.runnable import Runnable


def run_any(what: Runnable, root: str | os.PathLike[str], **watched: Any) -> Path:
    """Leave its run directory under `root`, or find it there; see `run` and `Experiment.run`."""
    if isinstance(what, Recipe):
        return run(what, root, **watched)
    return _itself(what).run(root, **watched)


def check_any(what: Runnable) -> None:
    """Find out whether it can be run at all; see `check_recipe` and `Experiment.check`."""
    if isinstance(what, Recipe):
        check_recipe(what)
    else:
        _itself(what).check()


def _itself(what: Runnable) -> Experiment | Reading | ContrastiveRecipe:
    """What runs and checks itself."""
    if not isinstance(what, Experiment | Reading | ContrastiveRecipe):
        raise TypeError(f"a {type(what).__name__} is no Recipe, Experiment or Reading")
    return what
