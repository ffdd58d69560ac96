"""One network in training: model, optimizer, and the update, on Lightning Fabric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import models
from lowland.core.seeds import derived_seed, generator
from lowland.train.arguments import Clock, build_optimizer, takes_batch
from lowland.train.noise import noisy_labels
from lowland.train.plan import Plan
from lowland.train.recipe import Recipe
from lowland.train.schedule import learning_rate
from lowland.train.state import State

BACKEND = "inductor"
"""Of `torch.compile`."""

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
"""Memory formats by their names in a recipe."""

METRICS = {
    "loss": "train/loss",
    "perturbed_loss": "sam/perturbed_loss",
    "sharpness": "sam/sharpness",
    "grad_norm": "sam/grad_norm",
    "perturbation_norm": "sam/perturbation_norm",
    "skipped_total": "sam/skipped",
}
"""What the last step of a sharpness-aware optimizer knows, and the names it is logged by."""


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
        self._layout: Any = LAYOUTS[recipe.memory_format]
        network: Any = build_model(recipe, plan.data.shape, plan.data.classes)
        self.module: nn.Module = network.to(fabric.device, memory_format=self._layout)
        self._clock = Clock()
        optimizer = build_optimizer(plan, self.module, self._clock)
        model: Any = self.module
        if recipe.compile:  # an object beside the bare network, which evaluations run eagerly
            model = torch.compile(self.module, backend=BACKEND)
        self._model, self._wrapped = fabric.setup(model, optimizer)
        self.optimizer: Any = self._wrapped.optimizer
        self.module.train()

    @property
    def skipped(self) -> int:
        """Updates skipped so far because a gradient was not finite; counted in its state."""
        return int(self.optimizer.param_groups[0].get("sam_skipped", 0))

    def update(self, step: int, images: Tensor, labels: Tensor, rows: Tensor) -> Tensor | None:
        """Update number `step` (from 0) on a batch; the mean loss at w, None if nobody knows it.

        Args:
            step: number of the update.
            images: uint8.
            labels: their classes.
            rows: their places among the training images.
        """
        recipe = self._plan.recipe
        lr = learning_rate(recipe.schedule, recipe.lr, step=step, steps=self._plan.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._clock.step = step
        torch.manual_seed(derived_seed(recipe.seed, "update", step))
        inputs = self._plan.data.normalise(images)
        if self._layout is torch.channels_last:
            inputs = inputs.contiguous(memory_format=self._layout)
        if recipe.label_noise:
            draws = generator("cpu", recipe.seed, "label noise", step)
            classes = self._plan.data.classes
            labels = noisy_labels(
                labels, classes=classes, share=recipe.label_noise, generator=draws
            )
        if takes_batch(recipe, self.optimizer):
            return self._step_on_batch(inputs, labels, rows)
        return self._step_on_closure(inputs, labels)

    def _step_on_closure(self, inputs: Tensor, labels: Tensor) -> Tensor:
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = cross_entropy(self._model(inputs), labels)
            self._fabric.backward(loss)
            return loss

        loss: Tensor = self._wrapped.step(closure)
        return loss.detach()

    def _step_on_batch(self, inputs: Tensor, labels: Tensor, rows: Tensor) -> Tensor | None:
        """For methods that split or weigh the batch; Fabric's wrapper passes closures alone on."""

        def per_example(x: Tensor, y: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            logits = self._model(x)
            return cross_entropy(logits, y, reduction="none"), logits

        loss: Tensor | None = self.optimizer.step(
            loss_fn=per_example, batch=(inputs, labels, rows), backward=self._fabric.backward
        )
        return None if loss is None else loss.detach()

    def metrics(self, loss: Tensor | None) -> dict[str, float]:
        """The last update in numbers, by the names that loggers get; waits for the device.

        Plain training has the loss alone; n-SAM does not evaluate it.

        Args:
            loss: what `update` returned.
        """
        return step_metrics(self.optimizer, loss)

    def restore(self, state: State) -> None:
        """Go on from `state`."""
        self.module.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        lay_out_alike(self.optimizer.state)


def lay_out_alike(state: Mapping[Tensor, dict[str, Any]]) -> None:
    """Give what an optimizer keeps of a parameter, in its shape, the parameter's memory format.

    What comes from a file lies as files have it, and fused kernels want both alike.
    """
    for parameter, slot in state.items():
        for name, value in slot.items():
            of_its_shape = isinstance(value, Tensor) and value.shape == parameter.shape
            if of_its_shape and value.stride() != parameter.stride():
                slot[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def step_metrics(optimizer: Any, loss: Tensor | None) -> dict[str, float]:
    """What an optimizer knows of its last step, by the names in `METRICS`."""
    last = getattr(optimizer, "last", None)
    known = {} if last is None else last.metrics()
    named = {METRICS[name]: value for name, value in known.items() if name in METRICS}
    return named if loss is None else {"train/loss": float(loss), **named}


def build_model(recipe: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network of a recipe, initialised from its seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(recipe.seed, "initialisation"))
        model = models.create(
            recipe.model, shape=shape, classes=classes, width=recipe.width, depth=recipe.depth
        )
    if recipe.init_scale != 1.0:
        models.scale_weights(model, recipe.init_scale)
    return model
