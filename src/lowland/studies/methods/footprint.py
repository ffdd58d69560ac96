"""What an arm needs in memory: the most bytes of tensors alive in a step of its training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from lowland.data import numbered_batches
from lowland.measure import step_bytes
from lowland.studies.methods.columns import PEAK, footprint
from lowland.studies.study import Planned
from lowland.train import Experiment, Recipe
from lowland.train.plan import make_plan
from lowland.train.trainer import Trainer

FUNCTION = f"{__name__}:rows"
WARM_UP, STEPS = 2, 6
"""Six steps have a whole period of LookSAM with k = 5."""


def planned(name: str, recipe: Recipe, *, steps: int = STEPS) -> Planned:
    """The run that measures an arm's memory, by one of its recipes, on the CPU."""
    run = Experiment(
        function=FUNCTION,
        settings={"recipe": json.dumps(recipe.to_dict(), sort_keys=True), "steps": steps},
        method=recipe.method,
        rho=recipe.rho,
        seed=recipe.seed,
    )
    return Planned(group=footprint(name), recipe=run)


def rows(*, seed: int, rho: float, recipe: str, steps: int) -> Iterator[dict[str, float]]:
    """One row: bytes at the worst moment of a step, and between steps.

    Args:
        seed: of the recipe, which has it too.
        rho: likewise.
        recipe: the recipe as JSON.
        steps: how many of them are looked at.
    """
    plan = make_plan(Recipe.from_mapping({**json.loads(recipe), "device": "cpu"}))

    def make() -> Callable[[int], object]:
        trainer = Trainer(plan)

        def step(number: int) -> None:
            epoch, start = divmod(number, plan.steps_per_epoch)
            batch = next(
                numbered_batches(
                    plan.data.train,
                    batch_size=plan.recipe.batch_size,
                    seed=plan.recipe.seed,
                    epoch=epoch,
                    shuffle=True,
                    drop_last=True,
                    start=start,
                )
            )
            trainer.update(number, *batch)

        return step

    found = step_bytes(make, warm_up=WARM_UP, steps=steps)
    yield {PEAK: found.value, "bytes/resting": found.resting}
