"""The grid of the study of ReLUs, at each size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lowland.studies.blocks import names_of_blocks
from lowland.studies.recipes import all_rhos, at, base_recipe
from lowland.studies.relu.claims import claims
from lowland.studies.relu.columns import MAIN, Setup
from lowland.studies.relu.drawings import figures, panels, tables
from lowland.studies.study import Choice, Plan, Planned, grid

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

READ = "lowland.studies.relu.readings:read"
SUPERBLOCKS = "block*"
MOST_EXAMPLES = 10_240

_SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"lr": 0.1, "epochs": 2, "limit": 128, "evaluations": 2, "width": 2},
    "default": {"lr": 0.1, "epochs": 20, "evaluations": 10, "width": 8},
    "paper": {
        "lr": 0.05,
        "epochs": 200,
        "evaluations": 40,
        "width": 64,
        "batch_size": 256,
        "held_out": 0.001,
    },
}
_DRAWS = {"smoke": 1, "default": 5, "paper": 1}
_SEEDS = {"smoke": 2, "default": 5, "paper": 5}
_RHOS = {
    "smoke": (0.2,),
    "default": (0.05, 0.1, 0.2, 0.4),
    "paper": (0.1, 0.2, 0.4, 0.6),
}
_FIXED = (
    "model",
    "rank_block",
    "rank_blocks",
    "rank_examples",
    "centers",
    "variances",
    "measures",
    "measure_every",
    "measure_blocks",
)


def plan(choice: Choice) -> Plan:
    """Lay out the grid on the data that was chosen.

    Raises:
        InputError: unknown names or unusable values, or data that do not fit.
    """
    from lowland.data import load
    from lowland.train import Reading

    base = base_recipe(choice, {"model": "resnet18", **_SIZES[choice.size]}, fixed=_FIXED)
    data = load(base.data, labels=base.labels, limit=base.limit)
    recipe = _measuring(base, data)
    setup = _setup(recipe, data)
    runs = [
        Planned(
            group=MAIN,
            recipe=Reading(
                recipe=at(recipe, choice.method, rho, seed),
                function=READ,
                settings={"draws": _DRAWS[choice.size]},
            ),
        )
        for rho, seed in grid(
            all_rhos(choice, _RHOS[choice.size]), choice.seed_range(_SEEDS[choice.size])
        )
    ]
    return Plan(
        runs=tuple(runs),
        claims=claims(setup),
        panels=panels(setup),
        fingerprint=data.fingerprint,
        notes=_notes(choice, recipe, data),
        figures=partial(figures, setup=setup),
        tables=partial(tables, setup=setup),
    )


def _measuring(base: Recipe, data: ImageData) -> Recipe:
    """The recipe with ranks at all superblocks in every evaluation, and active units beside.

    Instruments measure every so many updates, evaluations come at so many: both at the same
    updates if the number of evaluations divides the number of epochs.
    """
    from lowland.data import batch_count

    epochs = base.epochs
    evaluations = max(d for d in range(1, epochs + 1) if epochs % d == 0 and d <= base.evaluations)
    steps = batch_count(len(data.train), batch_size=base.batch_size, drop_last=True) * epochs
    return dataclasses.replace(
        base,
        rank_block=SUPERBLOCKS,
        rank_blocks=SUPERBLOCKS,
        rank_examples=min(MOST_EXAMPLES, len(data.train)),
        evaluations=evaluations,
        measures=("active",),
        measure_every=steps // evaluations,
        measure_blocks=SUPERBLOCKS,
    )


def _setup(recipe: Recipe, data: ImageData) -> Setup:
    """Superblocks and their sizes: the first keeps the image's, each further one halves it."""
    from lowland.models import MODELS

    blocks = tuple(n for n in names_of_blocks(recipe, data) if n.startswith("block"))
    width = recipe.width or MODELS[recipe.model].width
    height, breadth = data.shape[1:]
    units = []
    for number in range(len(blocks)):
        units.append(width * 2**number * height * breadth)
        height, breadth = math.ceil(height / 2), math.ceil(breadth / 2)
    return Setup(blocks=blocks, units=tuple(units))


def _notes(choice: Choice, recipe: Recipe, data: ImageData) -> tuple[str, ...]:
    sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    return (
        f"Data: {data.name}, {sizes} images; one fixed split for all seeds.",
        "Network: post-activation ResNet-18 of four superblocks, each measured after its ReLU. A "
        "unit is one channel at one position.",
        f"Active ReLUs are counted over all {len(data.train)} train images, ranks on "
        f"{recipe.rank_examples} of them: the more images, the more units are active on one.",
        f"ρ = 0 is the base optimizer alone; every other ρ is {choice.method}.",
    )
