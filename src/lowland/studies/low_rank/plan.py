"""The two grids of the low-rank study, at each size and in each setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lowland.core.errors import InputError
from lowland.core.selection import match_names
from lowland.studies.blocks import judged_block, names_of_blocks
from lowland.studies.low_rank.claims import claims
from lowland.studies.low_rank.columns import MAIN, TRANSFER, VARIANCES, Measured
from lowland.studies.low_rank.panels import panels
from lowland.studies.study import Choice, Plan, Planned, grid

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

MOST_RANK_EXAMPLES = 10_240

_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "minimal": {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"},
    "state-of-the-art": {"momentum": 0.9, "weight_decay": 5e-4, "schedule": "step", "lr": 0.1},
}

_SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"lr": 0.2, "epochs": 2, "limit": 200, "evaluations": 2, "width": 8},
    "default": {"lr": 0.2, "epochs": 20, "evaluations": 10},
    "paper": {
        "model": "preact-resnet18",
        "width": 64,
        "lr": 0.05,
        "epochs": 200,
        "batch_size": 256,
        "evaluations": 40,
    },
}
_SEEDS = {"smoke": 2, "default": 5, "paper": 5}
_RHOS = {"smoke": (0.2,), "default": (0.05, 0.1, 0.2, 0.4)}

# Published grids by setting and number of classes: CIFAR-10, CIFAR-100, Tiny ImageNet.
_PAPER_RHOS = {
    ("minimal", 10): (0.1, 0.2, 0.4, 0.6),
    ("minimal", 100): (0.1, 0.2, 0.4, 0.6),
    ("minimal", 200): (0.1, 0.4, 0.5, 0.6),
    ("state-of-the-art", 10): (0.1, 0.4, 0.6, 0.8),
    ("state-of-the-art", 100): (0.2, 0.6, 0.9, 1.2),
    ("state-of-the-art", 200): (0.1, 0.4, 0.6, 0.7),
}

_OWN_OPTIONS = {"data": "--data", "method": "--method", "rho": "--rho", "seed": "--seeds"}
_FIXED = ("transfer_labels", "rank_examples", "centers", "variances")


def plan(choice: Choice) -> Plan:
    """Lay out both grids on the data that was chosen.

    Raises:
        InputError: unknown names or unusable values, or data that do not fit.
    """
    from lowland.data import load

    recipe = _base_recipe(choice)
    data = load(recipe.data, labels=recipe.labels, limit=recipe.limit)
    what = _measured(recipe, data, chosen="rank_block" in _keys(choice))
    recipe = dataclasses.replace(recipe, rank_block=what.block)
    n = min(MOST_RANK_EXAMPLES, len(data.train), len(data.test))
    main = dataclasses.replace(recipe, rank_examples=n)
    groups = {MAIN: main, **_transfer(recipe, data)}
    rhos = _rhos(choice, data.classes)
    seeds = choice.seed_range(_SEEDS[choice.size])
    runs = [
        Planned(group=group, recipe=_at(base, choice.method, rho, seed))
        for group, base in groups.items()
        for rho, seed in grid(rhos, seeds)
    ]
    return Plan(
        runs=tuple(runs),
        claims=claims(what),
        panels=panels(what),
        fingerprint=data.fingerprint,
        notes=_notes(choice, n, data, groups),
    )


def _base_recipe(choice: Choice) -> Recipe:
    """What all runs have in common."""
    from lowland.train import Recipe

    for key in _keys(choice):
        if key in _OWN_OPTIONS:
            raise InputError(f"--set {key}=... is not for a study: use {_OWN_OPTIONS[key]}")
        if key in _FIXED:
            raise InputError(f"--set {key}=...: the study sets {key} itself: leave it out")
    values = {**_SIZES[choice.size], **_SETTINGS[choice.setting]}
    recipe = Recipe(data=choice.data, method=choice.method, variances=VARIANCES, **values)
    return recipe.with_settings(choice.overrides)


def _keys(choice: Choice) -> list[str]:
    return [setting.partition("=")[0].strip() for setting in choice.overrides]


def _at(base: Recipe, method: str, rho: float, seed: int) -> Recipe:
    """One point of a grid; ρ = 0 is the base optimizer alone, whatever the method.

    The base optimizer that a method brings is there in no other way than by the method.
    """
    from lowland.train.stepped import NO_METHOD

    if rho == 0 and not base.brings_base:
        return dataclasses.replace(base, method=NO_METHOD, rho=0.0, method_options=(), seed=seed)
    return dataclasses.replace(base, method=method, rho=rho, seed=seed)


def _rhos(choice: Choice, classes: int) -> list[float]:
    if choice.rhos is not None:
        positive = choice.rhos
    elif choice.size == "paper":
        positive = _PAPER_RHOS.get((choice.setting, classes), _PAPER_RHOS[choice.setting, 10])
    else:
        positive = _RHOS[choice.size]
    return sorted({0.0, *map(float, positive)})


def _measured(recipe: Recipe, data: ImageData, *, chosen: bool) -> Measured:
    """The block to judge, the blocks beside it, and numbers of images."""
    beside = match_names(recipe.rank_blocks, names_of_blocks(recipe, data))
    block = judged_block(recipe, data, chosen=chosen)
    trained, _ = _halves(recipe, data)
    # loaded labels are renumbered in the order of the recipe's, so the left-out ones come last
    queries = int((data.test.labels >= len(trained)).sum())
    return Measured(
        block=block,
        others=tuple(name for name in beside if name != block),
        test_images=len(data.test),
        transfer_images=max(min(queries, recipe.rank_examples), 1),
    )


def _transfer(recipe: Recipe, data: ImageData) -> dict[str, Recipe]:
    """Train on the first half of the classes, transfer to the rest; nothing below four classes."""
    trained, left_out = _halves(recipe, data)
    if not left_out:
        return {}
    split = dataclasses.replace(
        recipe,
        labels=trained,
        transfer_labels=left_out,
        # no claim is about the ranks of these runs
        rank_blocks=recipe.rank_block,
        centers=("unit",),
        variances=VARIANCES[:1],
    )
    return {TRANSFER: split}


def _halves(recipe: Recipe, data: ImageData) -> tuple[tuple[int, ...], tuple[int, ...]]:
    labels = recipe.labels or tuple(range(data.classes))
    half = (len(labels) + 1) // 2 if len(labels) >= 4 else len(labels)
    return labels[:half], labels[half:]


def _notes(
    choice: Choice, n: int, data: ImageData, groups: Mapping[str, Recipe]
) -> tuple[str, ...]:
    sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    plain = "plain training"
    if next(iter(groups.values())).brings_base:
        plain = f"the base optimizer that {choice.method} brings, alone"
    notes = [
        f"Data: {data.name}, {sizes} images; one fixed split for all seeds, so intervals speak "
        "about the randomness of training, not about the choice of images.",
        f"Every rank, on train and on test, is that of the same number of examples, {n}, since "
        "the rank depends on it.",
        f"ρ = 0 is {plain}; every other ρ is {choice.method}.",
    ]
    if TRANSFER in groups:
        recipe = groups[TRANSFER]
        named = [
            ", ".join(map(str, part or ())) for part in (recipe.labels, recipe.transfer_labels)
        ]
        notes.append(
            f"Transfer: networks trained on classes {named[0]} alone; reference and query images "
            f"of classes {named[1]}."
        )
    return tuple(notes)
