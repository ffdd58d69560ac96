"""The grids of the low-rank study, at each size and in each setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lowland.core.selection import match_names
from lowland.studies.blocks import judged_block, names_of_blocks
from lowland.studies.low_rank.claims import claims
from lowland.studies.low_rank.columns import GROUPS, MAIN, TRANSFER, VARIANCES, Measured
from lowland.studies.low_rank.figures import figures
from lowland.studies.low_rank.groups import OPTION, SETTINGS, chosen_groups, halves, recipes
from lowland.studies.low_rank.notes import notes
from lowland.studies.low_rank.panels import panels
from lowland.studies.recipes import all_rhos, at, base_recipe, keys, own_settings
from lowland.studies.study import Choice, Plan, Planned, grid

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

MOST_RANK_EXAMPLES = 10_240
HELD_OUT = 0.001
"""Share of train that the published experiments hold out: 50 images of CIFAR."""

_SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"lr": 0.2, "epochs": 2, "limit": 200, "evaluations": 2, "width": 8},
    "default": {"lr": 0.2, "epochs": 20, "evaluations": 10},
    "paper": {
        "model": "preact-resnet18",
        "width": 64,
        "lr": 0.05,
        "epochs": 200,
        "batch_size": 256,
        "evaluations": 40,  # the published: every 1,000 iterations, 39 times on CIFAR
        "held_out": HELD_OUT,
    },
}
_SEEDS = {"smoke": 2, "default": 5, "paper": 5}
_RHOS = {"smoke": (0.2,), "default": (0.05, 0.1, 0.2, 0.4)}
_GROUPS = {
    "smoke": (MAIN, TRANSFER),
    "default": tuple(GROUPS),
    "paper": (MAIN, TRANSFER),
}

# Published grids by setting and number of classes: CIFAR-10, CIFAR-100, Tiny ImageNet.
_PAPER_RHOS = {
    ("minimal", 10): (0.1, 0.2, 0.4, 0.6),
    ("minimal", 100): (0.1, 0.2, 0.4, 0.6),
    ("minimal", 200): (0.1, 0.4, 0.5, 0.6),
    ("state-of-the-art", 10): (0.1, 0.4, 0.6, 0.8),
    ("state-of-the-art", 100): (0.2, 0.6, 0.9, 1.2),
    ("state-of-the-art", 200): (0.1, 0.4, 0.6, 0.7),
}

_FIXED = ("transfer_labels", "rank_examples", "centers", "variances")


def plan(choice: Choice) -> Plan:
    """Lay out all grids on the data that was chosen.

    Raises:
        InputError: unknown names or unusable values, or data that do not fit.
    """
    from lowland.data import load

    given = keys(choice)
    wanted = chosen_groups(choice.overrides, _GROUPS[choice.size])
    recipe = _base_recipe(choice)
    data = load(recipe.data, labels=recipe.labels, limit=recipe.limit, held_out=recipe.held_out)
    if choice.size == "paper":
        recipe = _published(recipe, data, given)
    what = _measured(choice, recipe, data)
    lr = recipe.lr if "lr" in given else _SIZES[choice.size]["lr"]
    groups = recipes(
        _main(choice, recipe, data, what),
        choice.setting,
        data,
        wanted=wanted,
        lr=lr,
        block=what.block,
        steps=len(data.train) // recipe.batch_size * recipe.epochs,
        kept=set(given),
    )
    rhos = _rhos(choice, data.classes)
    seeds = choice.seed_range(_SEEDS[choice.size])
    runs = [
        Planned(group=group, recipe=at(base, choice.method, rho, seed))
        for group, base in groups.items()
        for rho, seed in grid(rhos if group in (MAIN, TRANSFER) else [0.0, rhos[-1]], seeds)
    ]
    return Plan(
        runs=tuple(runs),
        claims=claims(what),
        panels=panels(what),
        fingerprint=data.fingerprint,
        notes=notes(choice, data, groups, what),
        figures=partial(figures, what=what),
    )


def _base_recipe(choice: Choice) -> Recipe:
    """What all runs have in common."""
    values = {"variances": VARIANCES, **_SIZES[choice.size], **SETTINGS[choice.setting]}
    _, changes = own_settings(choice.overrides, (OPTION,))
    return base_recipe(choice, values, fixed=_FIXED, overrides=changes)


def _published(recipe: Recipe, data: ImageData, given: list[str]) -> Recipe:
    """With the published network for Tiny ImageNet, which pools windows of 4x4 positions."""
    if "model" in given or min(data.shape[1:]) < 64:
        return recipe
    return dataclasses.replace(recipe, model="preact-resnet18-4x4")


def _main(choice: Choice, recipe: Recipe, data: ImageData, what: Measured) -> Recipe:
    """The main runs: ranks of the judged block, at paper size of all blocks from it on."""
    names = names_of_blocks(recipe, data)
    curves = what.block
    n = min(MOST_RANK_EXAMPLES, len(data.train), len(data.test))
    if choice.size == "paper":
        published = (what.block, "final", "pool")
        curves = ",".join(name for name in published if name in names)
        n = min(MOST_RANK_EXAMPLES, len(data.train))
    blocks = recipe.rank_blocks
    if "rank_blocks" not in keys(choice):
        # a rank of 10,240 images takes seconds on a GPU: at paper size of no other blocks
        blocks = curves if choice.size == "paper" else f"{blocks},{what.last}"
    return dataclasses.replace(recipe, rank_block=curves, rank_blocks=blocks, rank_examples=n)


def _rhos(choice: Choice, classes: int) -> list[float]:
    usual: tuple[float, ...]
    if choice.size == "paper":
        usual = _PAPER_RHOS.get((choice.setting, classes), _PAPER_RHOS[choice.setting, 10])
    else:
        usual = _RHOS[choice.size]
    return all_rhos(choice, usual)


def _measured(choice: Choice, recipe: Recipe, data: ImageData) -> Measured:
    """The block to judge, the blocks beside it, and numbers of images."""
    names = names_of_blocks(recipe, data)
    beside = match_names(recipe.rank_blocks, names)
    block = judged_block(recipe, data, chosen="rank_block" in keys(choice))
    trained, _ = halves(recipe, data)
    # loaded labels are renumbered in the order of the recipe's, so the left-out ones come last
    queries = int((data.test.labels >= len(trained)).sum())
    if recipe.transfer_data:
        queries = _queries(recipe)
    n = min(MOST_RANK_EXAMPLES, len(data.train), len(data.test))
    return Measured(
        block=block,
        others=tuple(name for name in beside if name != block),
        last="pool" if "pool" in names else names[-1],
        classes=data.classes,
        test_images=len(data.test),
        transfer_images=max(min(queries, n), 1),
        transfer=MAIN if recipe.transfer_data else TRANSFER,
        setting=choice.setting,
    )


def _queries(recipe: Recipe) -> int:
    """Test images of the first data set that features are tried on."""
    from lowland.data import load

    return len(load(recipe.transfer_data[0], held_out=recipe.held_out).test)
