"""Training: a recipe, an experiment or a reading goes in, a run directory comes out."""

from lowland.train.check import check_recipe
from lowland.train.contrastive import ContrastiveRecipe
from lowland.train.directory import read_record, read_weights
from lowland.train.experiment import Experiment
from lowland.train.history import Row, read_history
from lowland.train.kinds import check_any, run_any
from lowland.train.launch import Launcher, Local, Watch
from lowland.train.loop import run
from lowland.train.pool import Event, run_all
from lowland.train.progress import Progress
from lowland.train.ray_launcher import RayCluster
from lowland.train.reading import Reading, Trained
from lowland.train.recipe import Recipe
from lowland.train.runnable import Runnable
from lowland.train.tracker import TrackingWarning
from lowland.train.tracking import Logger, LoggerFactory, Tracking
from lowland.train.worker import Outcome

__all__ = [
    "ContrastiveRecipe",
    "Event",
    "Experiment",
    "Launcher",
    "Local",
    "Logger",
    "LoggerFactory",
    "Outcome",
    "Progress",
    "RayCluster",
    "Reading",
    "Recipe",
    "Row",
    "Runnable",
    "Tracking",
    "TrackingWarning",
    "Trained",
    "Watch",
    "check_any",
    "check_recipe",
    "read_history",
    "read_record",
    "read_weights",
    "run",
    "run_all",
    "run_any",
]
