"""One network in training: model, optimizer, and the update, on Lightning Fabric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import models, optim
from lowland.core.errors import InputError
from lowland.core.seeds import derived_seed
from lowland.train.plan import Plan
from lowland.train.recipe import NO_METHOD, Recipe
from lowland.train.schedule import learning_rate
from lowland.train.state import State

METRICS = {
    "loss": "train/loss",
    "perturbed_loss": "sam/perturbed_loss",
    "sharpness": "sam/sharpness",
    "grad_norm": "sam/grad_norm",
    "perturbation_norm": "sam/perturbation_norm",
    "skipped_total": "sam/skipped",
}
"""What the last step of a sharpness-aware optimizer knows, and the names it is logged by."""

_BASES = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


class Trainer:
    """The network of a plan and what trains it.

    All randomness is drawn from counters: initialisation from the seed, and each update from
    (seed, step). So a state holds no generator. The global generator is used (dropout draws from
    it); whoever calls restores it.

    Attributes:
        module: the bare network.
        optimizer: the bare optimizer; its learning rate is set anew at every update.
    """

    def __init__(self, plan: Plan) -> None:
        from lightning_fabric import Fabric

        self._plan = plan
        recipe = plan.recipe
        precision: Any = recipe.precision
        fabric = Fabric(accelerator=plan.device, devices=1, precision=precision)
        self._fabric = fabric
        # on its device before the optimizer sees it, which may hold on to buffers
        self.module = build_model(recipe, plan.data.shape, plan.data.classes).to(fabric.device)
        self._model, self._wrapped = fabric.setup(self.module, build_optimizer(recipe, self.module))
        self.optimizer: Any = self._wrapped.optimizer
        self.module.train()

    @property
    def skipped(self) -> int:
        """Updates skipped so far because a gradient was not finite; counted in its state."""
        return int(self.optimizer.param_groups[0].get("sam_skipped", 0))

    def update(self, step: int, images: Tensor, labels: Tensor) -> Tensor:
        """Update number `step` (from 0) on a batch of uint8 images; the mean loss at w."""
        recipe = self._plan.recipe
        lr = learning_rate(recipe.schedule, recipe.lr, step=step, steps=self._plan.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(derived_seed(recipe.seed, "update", step))
        inputs = self._plan.data.normalise(images)
        if getattr(self.optimizer, "needs_batch", False):
            return self._step_on_batch(inputs, labels)
        return self._step_on_closure(inputs, labels)

    def _step_on_closure(self, inputs: Tensor, labels: Tensor) -> Tensor:
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = cross_entropy(self._model(inputs), labels)
            self._fabric.backward(loss)
            return loss

        loss: Tensor = self._wrapped.step(closure)
        return loss.detach()

    def _step_on_batch(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """For methods that split or weigh the batch; Fabric's wrapper passes closures alone on."""

        def per_example(x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(self._model(x), y, reduction="none")

        loss: Tensor = self.optimizer.step(
            loss_fn=per_example, batch=(inputs, labels), backward=self._fabric.backward
        )
        return loss.detach()

    def metrics(self, loss: Tensor) -> dict[str, float]:
        """The last update in numbers, by the names that loggers get; waits for the device.

        Plain training has the loss alone.

        Args:
            loss: what `update` returned.
        """
        last = getattr(self.optimizer, "last", None)
        known = {} if last is None else last.metrics()
        named = {METRICS[name]: value for name, value in known.items() if name in METRICS}
        return {"train/loss": float(loss), **named}

    def restore(self, state: State) -> None:
        """Go on from `state`."""
        self.module.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)


def build_model(recipe: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network of a recipe, initialised from its seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(recipe.seed, "initialisation"))
        return models.create(recipe.model, shape=shape, classes=classes, width=recipe.width)


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a recipe over all parameters of `model`.

    Raises:
        InputError: `method_options` has something that the method does not take.
    """
    base: Any = _BASES[recipe.base]
    options: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.base == "sgd":
        options["momentum"] = recipe.momentum
    if recipe.method == NO_METHOD:
        plain: torch.optim.Optimizer = base(model.parameters(), **options)
        return plain
    method = dict(recipe.method_options)
    try:
        return optim.create(recipe.method, model, base, rho=recipe.rho, **options, **method)
    except TypeError as error:
        raise InputError(
            f"method_options do not fit method {recipe.method} over {recipe.base}: {error}"
        ) from None
