"""Training: a recipe goes in, a run directory comes out."""

from lowland.train.directory import read_record, read_weights
from lowland.train.history import Row, read_history
from lowland.train.loop import run
from lowland.train.pool import Event, run_all
from lowland.train.progress import Progress
from lowland.train.recipe import Recipe
from lowland.train.worker import Outcome

__all__ = [
    "Event",
    "Outcome",
    "Progress",
    "Recipe",
    "Row",
    "read_history",
    "read_record",
    "read_weights",
    "run",
    "run_all",
]
