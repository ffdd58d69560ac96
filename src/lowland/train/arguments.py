"""What a method takes from the run that it trains, beside parameters and plain options.

Most methods need nothing of it. The few that do name it in their constructor, and what stands
there under such a name is filled in here:

    weights          ω by label, for the labels of the training images; mean one over them, so that
                     the learning rate means what it means without weights
    base_model       the same network at its base width (option ``base_width``, half the width if
                     left out)
    ascent_data      training images drawn anew for every step, augmented like any others (option
                     ``ascent_batches``: so many batches of them, or all; all if left out)
    m                examples behind each ε of m-SAM: a quarter of the batch
    examples         the number of training images
    steps_per_epoch  the number of updates in an epoch
    start            the first update with SAF's term (option ``start_epoch``; epoch 5, as the
                     authors have it, or a quarter of a shorter run)
    decay            MESA's: the authors' average is over 4.4 % of their updates, and this one over
                     as much of the run
    seed             of the method's own draws, from the seed of the run

What `method_options` name themselves is left as it is. The three further options stand among them
with the method's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowland import models, optim
from lowland.core.errors import InputError
from lowland.core.seeds import derived_seed, generator
from lowland.core.transfer import sent
from lowland.data import augment
from lowland.train.plan import Plan
from lowland.train.stepped import NO_METHOD, Stepped

BASES = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "published-adam": optim.StatelessAdam,
    "sgd": torch.optim.SGD,
}
MOST = 1024
"""Images of `ascent_data` in one pass."""

ONCE = frozenset({"last-layer-sam"})
"""Methods with which the batch runs through the network once, if they get it, and else twice."""

PARTLY = frozenset({"sl-sam"})
"""Methods in whose updates some parameters have no gradient."""

MESA_SHARE = 5000 / (90 * 1251)
"""1/(1 − 0.9998) of 90 epochs of ImageNet in batches of 1024."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Normalised images, labels, and the number of each image among the training images."""


class Clock:
    """The number of the update that is under way, for what is drawn in it."""

    step = 0


def build_optimizer(
    plan: Plan, model: nn.Module, clock: Clock | None = None
) -> torch.optim.Optimizer:
    """The optimizer of a plan over all parameters of `model`.

    Args:
        plan: what is trained, on which data.
        model: the network.
        clock: tells the number of the update; whoever makes updates sets it.

    Raises:
        InputError: `method_options` has something that the method does not take, or cannot use.
    """
    clock = clock or Clock()

    def filled(name: str, options: dict[str, Any]) -> Any:
        return _FROM_RUN[name](plan, options, clock)

    from_run = {name: partial(filled, name) for name in _FROM_RUN}
    return assembled(plan.recipe, model, from_run, fused=plan.recipe.fused)


def assembled(
    recipe: Stepped,
    model: nn.Module,
    from_run: Mapping[str, Callable[[dict[str, Any]], Any]],
    *,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """The optimizer of a recipe of any kind.

    Args:
        recipe: what is asked.
        model: the network.
        from_run: constructor argument -> how it is made from `method_options`, out of which it
            takes what is its own.
        fused: the base optimizer's fused form, see `Recipe`.

    Raises:
        InputError: as for `build_optimizer`.
    """
    in_one: dict[str, Any] = {"fused": True} if fused else {}
    if recipe.method == NO_METHOD:
        trained = [p for p in model.parameters() if p.requires_grad]
        plain: torch.optim.Optimizer = _base(recipe)(trained, **_settings(recipe), **in_one)
        return plain
    method = optim.METHODS[recipe.method]
    given = {**in_one, **dict(recipe.method_options)}
    if fused:
        given.setdefault("nonfinite", "device")
    asks = inspect.signature(method.optimizer).parameters
    for name in [name for name in from_run if name in asks and name not in given]:
        given[name] = from_run[name](given)
    own = recipe.brings_base
    settings = _own_settings(recipe) if own else _settings(recipe)
    try:
        made = optim.create(
            recipe.method,
            model,
            None if own else _base(recipe),
            rho=recipe.rho,
            **settings,
            **given,
        )
    except TypeError as error:
        over = "its own base optimizer" if own else recipe.base
        raise InputError(
            f"method_options do not fit method {recipe.method} over {over}: {error}"
        ) from None
    if fused and recipe.momentum and recipe.method in PARTLY:
        raise InputError(
            f"{recipe.method} trains other parameters in every update, which torch's fused sgd "
            "does not do with momentum: set fused=false or momentum=0"
        )
    return made


def takes_batch(recipe: Stepped, optimizer: Any) -> bool:
    """Whether an update hands the batch over, in place of a closure."""
    return recipe.method in ONCE or bool(getattr(optimizer, "needs_batch", False))


def _base(recipe: Stepped) -> Any:
    return BASES[recipe.base]


def _settings(recipe: Stepped) -> dict[str, Any]:
    settings: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    return settings | ({"momentum": recipe.momentum} if recipe.base == "sgd" else {})


def _own_settings(recipe: Stepped) -> dict[str, Any]:
    """For a base optimizer that the method brings: it may have no weight decay."""
    decay = {"weight_decay": recipe.weight_decay} if recipe.weight_decay else {}
    return {"lr": recipe.lr, **decay}


def _label_weights(plan: Plan, options: dict[str, Any], clock: Clock) -> Tensor:
    return optim.label_weights(plan.data.train.labels.cpu(), mean_one=True)


def _base_model(plan: Plan, options: dict[str, Any], clock: Clock) -> dict[str, list[int]]:
    """Shapes at base width; the network itself is let go."""
    recipe, data = plan.recipe, plan.data
    width = recipe.width or models.MODELS[recipe.model].width
    base = options.pop("base_width", max(1, width // 2))
    if not isinstance(base, int) or isinstance(base, bool) or base < 1:
        raise InputError(f"base_width must be 1 or more, not {base!r}")
    with torch.random.fork_rng(devices=[]):
        model = models.create(
            recipe.model, shape=data.shape, classes=data.classes, width=base, depth=recipe.depth
        )
    return {name: list(p.shape) for name, p in model.named_parameters()}


def _ascent_data(plan: Plan, options: dict[str, Any], clock: Clock) -> Callable[[], list[Batch]]:
    train, recipe = plan.data.train, plan.recipe
    batches = options.pop("ascent_batches", len(train))
    if not isinstance(batches, int) or isinstance(batches, bool) or batches < 1:
        raise InputError(f"ascent_batches must be 1 or more, not {batches!r}")
    many = min(batches * recipe.batch_size, len(train))

    def draw() -> list[Batch]:
        draws = generator("cpu", recipe.seed, "ascent", clock.step)
        order = sent(torch.randperm(len(train), generator=draws)[:many], train.labels.device)
        policy = plan.data.augmentation if recipe.augment else "none"
        images = augment(train.images[order], policy, draws)
        parts = [slice(i, i + MOST) for i in range(0, many, MOST)]
        rows = [order[part] for part in parts]
        x = [plan.data.normalise(images[part]) for part in parts]
        return [(a, train.labels[b], b) for a, b in zip(x, rows, strict=True)]

    return draw


def _start(plan: Plan, options: dict[str, Any], clock: Clock) -> int:
    epoch = options.pop("start_epoch", min(5, plan.recipe.epochs // 4))
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise InputError(f"start_epoch must be 0 or more, not {epoch!r}")
    return epoch * plan.steps_per_epoch


_FROM_RUN: dict[str, Callable[[Plan, dict[str, Any], Clock], Any]] = {
    "weights": _label_weights,
    "base_model": _base_model,
    "ascent_data": _ascent_data,
    "m": lambda plan, options, clock: max(1, plan.recipe.batch_size // 4),
    "examples": lambda plan, options, clock: len(plan.data.train),
    "steps_per_epoch": lambda plan, options, clock: plan.steps_per_epoch,
    "start": _start,
    "decay": lambda plan, options, clock: max(0.0, 1 - 1 / (MESA_SHARE * plan.steps)),
    "seed": lambda plan, options, clock: derived_seed(plan.recipe.seed, "method"),
}
"""Constructor argument → how it is made from the run; takes its own options out."""
