"""The groups of runs that the low-rank study compares, as changes to one recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lowland.core.errors import InputError, unknown
from lowland.studies.low_rank.columns import (
    BARE,
    DECAY,
    GROUPS,
    LARGE,
    MAIN,
    OTHER,
    POST,
    TRANSFER,
    VARIANCES,
)

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "minimal": {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"},
    "state-of-the-art": {"momentum": 0.9, "weight_decay": 5e-4, "schedule": "step", "lr": 0.1},
}

LARGER = 5.0
"""Factor on the learning rate of `LARGE`; the two settings' steps differ by more."""

DOSE = 0.975
"""lr · weight decay · updates of 200 epochs of CIFAR at the published 0.05 and 5e-4: by so much, as
an exponent, decay alone shrinks the weights. Shorter runs need a larger weight decay for that."""

EVERY = 20
"""Evaluations of the settings whose start is looked at, where the main runs have fewer."""

POST_ACTIVATION = {
    "preact-resnet-small": "resnet-small",
    "preact-resnet18": "resnet18",
    "preact-resnet18-4x4": "resnet18",
}
"""Pre-activation network -> the same with a ReLU after every sum."""

OPTION = "groups"
"""The study's own key among the settings: which groups to run."""


def chosen_groups(overrides: tuple[str, ...], usual: tuple[str, ...]) -> tuple[str, ...]:
    """The groups that ``groups=main,post-activation`` among the settings names, or the usual ones.

    Raises:
        InputError: an unknown group, or none of the main runs.
    """
    found = usual
    for setting in overrides:
        key, _, text = setting.partition("=")
        if key.strip() == OPTION:
            found = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in found:
        if name not in GROUPS:
            raise unknown("group", name, GROUPS)
    if MAIN not in found:
        raise InputError(f"groups must have {MAIN}: everything is compared with it")
    return found


def recipes(
    main: Recipe,
    setting: str,
    data: ImageData,
    *,
    wanted: tuple[str, ...],
    lr: float,
    block: str,
    steps: int,
    kept: set[str],
) -> dict[str, Recipe]:
    """The recipe of every group that is wanted and makes sense, at ρ = 0.

    Args:
        main: the main runs'.
        setting: their setting.
        data: what is trained on.
        wanted: names of groups.
        lr: the size's learning rate in the minimal setting.
        block: the judged block.
        steps: updates of a run.
        kept: settings that the caller chose, which no group changes.
    """
    lean = dataclasses.replace(
        main, rank_block=block, rank_blocks=block, centers=("unit",), variances=VARIANCES[:1]
    )
    other = next(name for name in SETTINGS if name != setting)
    changes: dict[str, dict[str, Any]] = {
        OTHER: {
            "lr": lr,
            **SETTINGS[other],
            "rank_blocks": main.rank_blocks,
            "evaluations": max(EVERY, main.evaluations),
        },
    }
    if main.model in POST_ACTIVATION:
        changes[POST] = {"model": POST_ACTIVATION[main.model]}
    if setting == "minimal":
        changes[LARGE] = {"lr": LARGER * main.lr}
        changes[BARE] = {"augment": False}
        changes[DECAY] = {"augment": False, "weight_decay": DOSE / (main.lr * max(steps, 1))}
    found = {MAIN: main}
    if TRANSFER in wanted and not main.transfer_data:
        found |= _transfer(lean, data)
    for group in (OTHER, LARGE, BARE, DECAY, POST):
        own = {k: v for k, v in changes.get(group, {}).items() if k not in kept}
        if group in wanted and own:
            found[group] = dataclasses.replace(lean, **own)
    return found


def _transfer(lean: Recipe, data: ImageData) -> dict[str, Recipe]:
    """Train on the first half of the classes, transfer to the rest; nothing below four classes."""
    trained, left_out = halves(lean, data)
    if not left_out:
        return {}
    return {TRANSFER: dataclasses.replace(lean, labels=trained, transfer_labels=left_out)}


def halves(recipe: Recipe, data: ImageData) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The classes trained on where the others are left for transfer, and those."""
    labels = recipe.labels or tuple(range(data.classes))
    half = (len(labels) + 1) // 2 if len(labels) >= 4 else len(labels)
    return labels[:half], labels[half:]
