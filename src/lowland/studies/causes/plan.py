"""The arms of the study of causes as runs, at each size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lowland.core.errors import InputError
from lowland.studies.blocks import judged_block, names_of_blocks
from lowland.studies.causes.arms import FEW, MANY, NETWORKS, RESNET, Arm, arms
from lowland.studies.causes.claims import claims
from lowland.studies.causes.columns import Measured
from lowland.studies.causes.drawings import figures, panels, tables
from lowland.studies.recipes import all_rhos, at, base_recipe
from lowland.studies.study import Choice, Plan, Planned

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

READ = "lowland.studies.causes.readings:read"
MOST_RANK_EXAMPLES = 10_240
TIMES = 20
"""Measurements of neural collapse over training."""

_SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"lr": 0.2, "epochs": 2, "limit": 300, "evaluations": 2},
    "default": {"lr": 0.2, "epochs": 20, "evaluations": 10},
    "paper": {"lr": 0.05, "epochs": 200, "evaluations": 20, "batch_size": 256},
}
_PAPER_NETWORK = {"model": "preact-resnet18", "width": 64}
_SEEDS = {"smoke": 2, "default": 6, "paper": 3}
_RHOS = {"smoke": (0.2,), "default": (0.1, 0.2, 0.4), "paper": (0.1, 0.2, 0.4, 0.6)}
_FIXED = (
    "model",
    "width",
    "depth",
    "labels",
    "rank_block",
    "rank_blocks",
    "rank_examples",
    "centers",
    "variances",
    "measures",
    "measure_every",
    "measure_blocks",
    "label_noise",
    "init_scale",
    "weight_decay",
    "augment",
)


def plan(choice: Choice) -> Plan:
    """Lay out all arms on the data that was chosen.

    Raises:
        InputError: unknown names or unusable values, or data that do not fit.
    """
    from lowland.data import load
    from lowland.train import Reading

    base = base_recipe(
        choice, {**_SIZES[choice.size], "augment": False, "centers": ("unit",)}, fixed=_FIXED
    )
    data = load(base.data, limit=base.limit, held_out=base.held_out)
    if data.classes < 5:
        raise InputError(f"{data.name} has {data.classes} classes: use data with 5 or more")
    few = tuple(range(_few(data)))
    every = arms(base.lr, few)
    networks = {name: _network(base, name, choice, data) for name in NETWORKS}
    what = Measured(
        arms=every,
        blocks={name: recipe.rank_block.partition(",")[0] for name, recipe in networks.items()},
        last={name: recipe.rank_block.rpartition(",")[2] for name, recipe in networks.items()},
        classes=data.classes,
        test_images=len(data.test),
    )
    rhos = all_rhos(choice, _RHOS[choice.size])
    seeds = choice.seed_range(_SEEDS[choice.size])
    runs = []
    for arm in every:
        recipe = _of_arm(networks[arm.network], arm, data)
        grid = {"all": rhos, "ends": [0.0, rhos[-1]], "plain": [0.0]}[arm.rhos]
        settings = {"active": _active(arm.network, what), "last": what.last[arm.network]}
        runs += [
            Planned(
                group=arm.group,
                recipe=Reading(
                    recipe=at(recipe, choice.method, rho, seed), function=READ, settings=settings
                ),
            )
            for seed in seeds
            for rho in grid
        ]
    return Plan(
        runs=tuple(runs),
        claims=claims(what),
        panels=panels(what),
        fingerprint=data.fingerprint,
        notes=_notes(choice, data, networks[RESNET], few),
        figures=partial(figures, what=what),
        tables=partial(tables, what=what),
    )


def _network(base: Recipe, name: str, choice: Choice, data: ImageData) -> Recipe:
    """Plain training of one network, with the judged block and the last one in every evaluation."""
    values = dict(NETWORKS[name])
    if choice.size == "paper" and name == RESNET:
        values |= _PAPER_NETWORK
    recipe = dataclasses.replace(base, **values)
    names = names_of_blocks(recipe, data)
    block = judged_block(recipe, data, chosen=False)
    last = "pool" if "pool" in names else names[-1]
    steps = len(data.train) // recipe.batch_size * recipe.epochs
    both = f"{block},{last}"
    return dataclasses.replace(
        recipe,
        rank_block=both,
        rank_blocks=both,
        rank_examples=min(MOST_RANK_EXAMPLES, len(data.train), len(data.test)),
        measures=("collapse",),
        measure_blocks=last,
        measure_every=max(steps // TIMES, 1),
    )


def _of_arm(recipe: Recipe, arm: Arm, data: ImageData) -> Recipe:
    """The recipe of an arm; few classes and many are compared on as many images."""
    changes = dict(arm.changes)
    if arm.cause in (FEW, MANY):
        train, test = (int((s.labels < _few(data)).sum()) for s in (data.train, data.test))
        changes["limit"] = train
        changes["rank_examples"] = min(recipe.rank_examples, train, test)
        # as many updates as in the other arms, on fewer images
        changes["epochs"] = max(recipe.epochs * len(data.train) // train, 1)
    return dataclasses.replace(recipe, **changes)


def _few(data: ImageData) -> int:
    return (data.classes + 1) // 3


def _active(network: str, what: Measured) -> str:
    """The block whose ReLUs are counted: after the last one, or the judged one."""
    return "final" if network == RESNET else what.blocks[network]


def _notes(
    choice: Choice, data: ImageData, recipe: Recipe, few: tuple[int, ...]
) -> tuple[str, ...]:
    sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    return (
        f"Data: {data.name}, {sizes} images; one fixed split for all seeds, so intervals speak "
        "about the randomness of training, not about the choice of images.",
        f"Plain training is without momentum, weight decay, augmentation and label noise, at "
        f"learning rate {recipe.lr:g}; every arm changes one of these. Every other ρ is "
        f"{choice.method}.",
        f"Ranks are of {recipe.rank_examples} images on train and on test. Label noise is never "
        "in an evaluation: train losses are those of the true labels.",
        "At matched train loss: where arm and plain training first reach the lowest loss that "
        "both reach. Falls at the end, after as many updates, are beside.",
        f"Few classes are {len(few)}, many are all {data.classes}, with as many images and "
        "updates in both.",
        "Small initialisation is of the fully connected network: BatchNorm undoes a scale.",
        "Augmentation and weight decay with ρ are also in low-rank, in its network and setting, "
        "as sentences of section 3.1.",
    )
