"""Whether a recipe can be run at all, found out before anything is started."""

from __future__ import annotations

import dataclasses

from lowland.train.arguments import build_optimizer
from lowland.train.plan import make_plan
from lowland.train.recipe import Recipe
from lowland.train.trainer import build_model


def check_recipe(recipe: Recipe) -> None:
    """Read the data, and build network and optimizer, on the CPU; nothing is written.

    Raises:
        InputError: what a run of this recipe would end with before its first update. That its
            device is there is not looked at: runs may be for other machines.
    """
    plan = make_plan(dataclasses.replace(recipe, device="cpu"))
    build_optimizer(plan, build_model(recipe, plan.data.shape, plan.data.classes))
