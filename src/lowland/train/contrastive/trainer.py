"""Two towers in training: their optimizer and the update, on Lightning Fabric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.seeds import derived_seed
from lowland.models import TwoTowers, info_nce
from lowland.train.arguments import MESA_SHARE, assembled, takes_batch
from lowland.train.contrastive.images import ImageTower
from lowland.train.contrastive.plan import ContrastivePlan
from lowland.train.schedule import learning_rate
from lowland.train.state import State
from lowland.train.trainer import step_metrics


class PairTrainer:
    """The towers of a plan and what trains them; all randomness is drawn from counters.

    Attributes:
        module: the bare towers.
        optimizer: the bare optimizer; its learning rate is set anew at every update.

    Raises:
        InputError: a method that needs more than the loss of a batch.
    """

    def __init__(self, plan: ContrastivePlan, module: TwoTowers, images: ImageTower) -> None:
        from lightning_fabric import Fabric

        self._plan, self._images = plan, images
        precision: Any = plan.recipe.precision
        self._fabric = Fabric(accelerator=plan.device, devices=1, precision=precision)
        self.module = module.to(self._fabric.device)
        optimizer = _optimizer(plan, self.module)
        self._model, self._wrapped = self._fabric.setup(self.module, optimizer)
        self.optimizer: Any = self._wrapped.optimizer
        self.module.train()

    @property
    def skipped(self) -> int:
        """Updates skipped so far because a gradient was not finite; counted in its state."""
        return int(self.optimizer.param_groups[0].get("sam_skipped", 0))

    def update(self, step: int, images: Tensor, *texts: Tensor) -> Tensor | None:
        """Update number `step` (from 0) on a batch; the loss at w.

        Args:
            step: number of the update.
            images: uint8.
            texts: what the text tower is called with, of one caption of each.
        """
        recipe = self._plan.recipe
        lr = learning_rate(recipe.schedule, recipe.lr, step=step, steps=self._plan.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(derived_seed(recipe.seed, "update", step))
        inputs = self._images.inputs(images, self._plan.data.largest)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            first, second = self._model(inputs, *texts)
            loss = info_nce(first, second, recipe.temperature)
            self._fabric.backward(loss)
            return loss

        loss: Tensor = self._wrapped.step(closure)
        return loss.detach()

    def metrics(self, loss: Tensor | None) -> dict[str, float]:
        """The last update in numbers, by the names that loggers get; waits for the device."""
        return step_metrics(self.optimizer, loss)

    def restore(self, state: State) -> None:
        """Go on from `state`."""
        self.module.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)


def _optimizer(plan: ContrastivePlan, module: TwoTowers) -> torch.optim.Optimizer:
    recipe = plan.recipe

    def refuse(_: dict[str, Any]) -> Any:
        raise InputError(
            f"method {recipe.method} needs more than the loss of a batch (labels, losses of single "
            "examples, the network at another width), and pairs give no more: choose another, "
            "such as sam"
        )

    optimizer = assembled(
        recipe,
        module,
        {
            **dict.fromkeys(("weights", "base_model", "ascent_data", "m", "examples"), refuse),
            "start": refuse,
            "steps_per_epoch": lambda options: plan.steps_per_epoch,
            "decay": lambda options: max(0.0, 1 - 1 / (MESA_SHARE * plan.steps)),
            "seed": lambda options: derived_seed(recipe.seed, "method"),
        },
    )
    if takes_batch(recipe, optimizer):
        refuse({})
    return optimizer
