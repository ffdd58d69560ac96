"""Many small networks of one architecture, trained side by side as one batched computation."""

from lowland.train.stack.networks import Stack
from lowland.train.stack.plan import StackPlan
from lowland.train.stack.training import Trained, train

__all__ = ["Stack", "StackPlan", "Trained", "train"]
