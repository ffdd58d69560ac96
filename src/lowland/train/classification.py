"""Training one network on labelled images, as the loop sees it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lowland.data import numbered_batches
from lowland.train.evaluate import Evaluator
from lowland.train.job import Work
from lowland.train.measures import Measures
from lowland.train.plan import Plan
from lowland.train.trainer import Trainer


def start(plan: Plan) -> Work:
    """Trainer, evaluations and measurements of a plan, on its device."""
    plan = plan.on_device()
    recipe, data = plan.recipe, plan.data
    trainer = Trainer(plan)
    evaluator = Evaluator(plan, trainer.module)

    def batches(epoch: int, first: int) -> Iterator[tuple[Tensor, ...]]:
        return numbered_batches(
            data.train,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            epoch=epoch,
            shuffle=True,
            drop_last=True,
            augmentation=data.augmentation if recipe.augment else "none",
            start=first,
        )

    return Work(
        trainer=trainer,
        evaluator=evaluator,
        batches=batches,
        measures=Measures(plan, trainer.module, evaluator.definitions),
    )
