"""The grid of the study of transformer blocks: two networks × ρ × seed, at each size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lowland.core.errors import InputError
from lowland.studies.blocks import names_of_blocks
from lowland.studies.recipes import all_rhos, at, base_recipe, own_settings
from lowland.studies.study import Choice, Plan, Planned, grid
from lowland.studies.vit_blocks.claims import claims
from lowland.studies.vit_blocks.columns import MIXER, POOL, SHARES, VIT, Setup
from lowland.studies.vit_blocks.drawings import figures, panels, tables

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

READ = "lowland.studies.vit_blocks.readings:read"

_COMMON: Mapping[str, Any] = {
    "base": "adam",
    "schedule": "cosine",
    "augment": False,
    "centers": ("unit",),
    "rank_block": POOL,
    "rank_blocks": POOL,
}
_SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"lr": 1e-3, "epochs": 2, "limit": 128, "evaluations": 2, "width": 8},
    "default": {"lr": 1e-3, "evaluations": 4, "width": 48},
    "paper": {"lr": 5e-4, "epochs": 100, "batch_size": 128, "evaluations": 20},
}
_EPOCHS = {VIT: 16, MIXER: 8}
"""Of the default size: a ViT, which must learn what is near what, needs more."""
_EXAMPLES = {"smoke": 128, "default": 1280, "paper": 12_800}
_SEEDS = {"smoke": 2, "default": 6, "paper": 5}
_RHOS: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "smoke": {VIT: (0.1,), MIXER: (0.1,)},
    "default": {VIT: (0.05, 0.1), MIXER: (0.2, 0.4)},
    "paper": {VIT: (0.1, 0.2, 0.25, 0.3), MIXER: (0.1, 0.2, 0.25, 0.3)},
}
_NETWORKS = {
    "small": {VIT: "vit-mini", MIXER: "mixer-mini"},
    "large": {VIT: "vit-ti4", MIXER: "mixer-ti4"},
}
LARGE = 16
"""Images of so many pixels a side, and the paper size, have networks of twelve blocks."""

_FIXED = ("model", "rank_block", "rank_blocks", "rank_examples", "centers", "variances")


def plan(choice: Choice) -> Plan:
    """Lay out both grids on the data that was chosen.

    Raises:
        InputError: unknown names or unusable values, data that do not fit, or a network that has
            no block after 1/2 or 3/4 of its blocks.
    """
    from lowland.data import load
    from lowland.models import MODELS
    from lowland.train import Reading

    models, changes = own_settings(choice.overrides, (VIT, MIXER))
    values = {**_COMMON, **_SIZES[choice.size]}
    base = base_recipe(choice, values, fixed=_FIXED, overrides=changes)
    data = load(base.data, labels=base.labels, limit=base.limit)
    recipes = {
        group: _of_group(choice, base, group, models.get(group), data) for group in (VIT, MIXER)
    }
    setup = Setup(
        blocks={group: _blocks(recipe, data) for group, recipe in recipes.items()},
        width=recipes[VIT].width or MODELS[recipes[VIT].model].width,
    )
    n = min(_EXAMPLES[choice.size], len(data.train))
    seeds = choice.seed_range(_SEEDS[choice.size])
    runs = [
        Planned(
            group=group,
            recipe=Reading(
                recipe=at(recipe, choice.method, rho, seed),
                function=READ,
                settings={"kind": group, "examples": n},
            ),
        )
        for group, recipe in recipes.items()
        for rho, seed in grid(all_rhos(choice, _RHOS[choice.size][group]), seeds)
    ]
    return Plan(
        runs=tuple(runs),
        claims=claims(setup),
        panels=panels(),
        fingerprint=data.fingerprint,
        notes=_notes(choice, recipes, setup, data, n),
        figures=partial(figures, setup=setup),
        tables=partial(tables, setup=setup),
    )


def _of_group(
    choice: Choice, base: Recipe, group: str, chosen: str | None, data: ImageData
) -> Recipe:
    """The recipe of a ViT or a Mixer."""
    if chosen is not None and not chosen.startswith(group):
        raise InputError(f"--set {group}={chosen}: name a network that begins with {group!r}")
    large = choice.size == "paper" or data.shape[1] >= LARGE
    model = chosen or _NETWORKS["large" if large else "small"][group]
    recipe = dataclasses.replace(base, model=model, rank_examples=_EXAMPLES[choice.size])
    if choice.size != "default" or any(o.startswith("epochs") for o in choice.overrides):
        return recipe
    return dataclasses.replace(recipe, epochs=_EPOCHS[group])


def _blocks(recipe: Recipe, data: ImageData) -> tuple[str, ...]:
    names = tuple(n for n in names_of_blocks(recipe, data) if n.startswith("block"))
    setup = Setup(blocks={recipe.model: names})
    for share in SHARES.values():
        try:
            setup.after(recipe.model, share)
        except InputError as error:
            raise InputError(f"{recipe.model}: {error}") from None
    return names


def _notes(
    choice: Choice, recipes: Mapping[str, Recipe], setup: Setup, data: ImageData, n: int
) -> tuple[str, ...]:
    sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    networks = " and ".join(
        f"{recipe.model} ({len(setup.blocks[group])} blocks, {recipe.epochs} epochs)"
        for group, recipe in recipes.items()
    )
    return (
        f"Data: {data.name}, {sizes} images; one fixed split for all seeds. Ranks are of {n} train "
        "images, without augmentation.",
        f"Networks: {networks}, trained here from scratch as classifiers, with Adam. The public "
        "networks of §3.2 were trained on ImageNet; the ViT of §5 is the image encoder of "
        "contrastive training on images and captions, fine-tuned from ImageNet, which "
        "low-rank/contrastive is about. So this is whether the sentences hold elsewhere too.",
        "The rank is the number of principal components that hold 99% of the variance. The "
        "published convention subtracts each example's mean over features instead of the mean "
        "example; it is beside every effect as published centring. In the first blocks most of the "
        "energy is the mean example, so that it reads ranks near 1 there.",
        "An example is the class token of the ViT, as published, and the mean token of the Mixer, "
        "as the paper says; the released command took the Mixer's first token, which is beside.",
        f"With at most {data.classes} classes the features of the last blocks tend to as many "
        "dimensions late in training (neural collapse); the public networks have more classes "
        "than features.",
        f"ρ = 0 is the base optimizer alone; every other ρ is {choice.method}.",
    )
