"""The runs of the methods study at each size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lowland.studies.blocks import judged_block
from lowland.studies.methods import footprint
from lowland.studies.methods.arms import ALL, PLAIN, SAM, Arm, chosen_arms
from lowland.studies.methods.claims import claims
from lowland.studies.methods.columns import EQUAL_COMPUTE, EQUAL_EPOCHS, Setup
from lowland.studies.methods.comparison import comparison
from lowland.studies.methods.experiments import EXPERIMENTS
from lowland.studies.methods.notes import notes
from lowland.studies.methods.panels import panels
from lowland.studies.recipes import base_recipe, keys
from lowland.studies.study import Choice, Plan, Planned

if TYPE_CHECKING:
    from lowland.train import Recipe

MOST_RANK_EXAMPLES = 10_240
PROTOCOLS = (EQUAL_EPOCHS, EQUAL_COMPUTE)

_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "standard": {"momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"},
}
# without augmentation so short a training fits the images, which is where flatness can matter
_SHORT: Mapping[str, Any] = {"augment": False, "evaluations": 1}
_SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {**_SHORT, "lr": 0.1, "epochs": 1, "limit": 60, "batch_size": 20, "width": 2},
    "default": {**_SHORT, "lr": 0.2, "epochs": 6, "batch_size": 64, "width": 8},
    "paper": {
        "model": "preact-resnet18",
        "width": 64,
        "lr": 0.1,
        "epochs": 200,
        "batch_size": 128,
        "evaluations": 10,
    },
}
_SEEDS = {"smoke": 2, "default": 6, "paper": 5}
_RHOS = {"smoke": (0.1,), "default": (0.05, 0.1, 0.2), "paper": (0.05, 0.1, 0.2)}

EXPERIMENTS_APART = (
    "Claims on widths, functionals of sharpness, imbalanced regression and clients have runs of "
    "their own, on data and networks of their own: --data and --set do not change them, and the "
    "table of arms does not have them."
)

_FIXED = ("method_options", "transfer_labels", "rank_examples", "rank_blocks", "centers")


def plan(choice: Choice) -> Plan:
    """Lay out the runs of every arm on the data that was chosen.

    Raises:
        InputError: unknown names or unusable values, or data that do not fit.
    """
    from lowland.data import batch_count, load

    arms = chosen_arms(choice.method)
    recipe = _base_recipe(choice)
    data = load(recipe.data, labels=recipe.labels, limit=recipe.limit)
    block = judged_block(recipe, data, chosen="rank_block" in keys(choice))
    n = min(MOST_RANK_EXAMPLES, len(data.train), len(data.test))
    recipe = dataclasses.replace(recipe, rank_block=block, rank_blocks=block, rank_examples=n)
    setup = Setup(
        arms=arms,
        block=block,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        steps_per_epoch=batch_count(len(data.train), batch_size=recipe.batch_size, drop_last=True),
        test_images=len(data.test),
    )
    rhos = choice.rhos or _RHOS[choice.size]
    seeds = choice.seed_range(_SEEDS[choice.size])
    runs = list(_runs(setup, recipe, rhos, seeds, smoke=choice.size == "smoke"))
    own, said = claims(setup), notes(setup, data, recipe)
    experiments = EXPERIMENTS if choice.method == ALL else ()
    for experiment in experiments:
        runs += experiment.planned(choice.size, list(seeds))
        own += tuple(experiment.claims())
    if experiments:
        said += (EXPERIMENTS_APART,)
    return Plan(
        runs=tuple(runs),
        claims=own,
        panels=panels(setup),
        fingerprint=data.fingerprint,
        notes=said,
        compare=lambda runs: comparison(runs, setup),
    )


def _base_recipe(choice: Choice) -> Recipe:
    """What all runs have in common."""
    from lowland.train.stepped import NO_METHOD

    values: dict[str, Any] = {"method": NO_METHOD, "centers": ("unit",)}
    values |= {**_SIZES[choice.size], **_SETTINGS[choice.setting]}
    return base_recipe(choice, values, fixed=_FIXED)


def _runs(
    setup: Setup, base: Recipe, rhos: Sequence[float], seeds: Sequence[int], *, smoke: bool
) -> Iterator[Planned]:
    """Seed by seed, so that a study that stops early has whole seeds; memory comes last."""
    for seed in seeds:
        for arm in setup.arms:
            # the ends of a range of its own are enough to see that it works
            radii = arm.radii(rhos)[:: max(1, len(arm.rhos) - 1) if smoke else 1]
            for protocol in PROTOCOLS:
                group, epochs = setup.group(arm, protocol), setup.epochs_of(arm, protocol)
                if protocol == EQUAL_COMPUTE and group == arm.name:
                    continue  # the runs at equal epochs are as long
                for rho in radii:
                    recipe = dataclasses.replace(_of(arm, base, rho), epochs=epochs, seed=seed)
                    yield Planned(group=group, recipe=recipe)
        # for the panels, which draw one group
        yield Planned(group=SAM, recipe=dataclasses.replace(base, seed=seed))
    for arm in setup.arms:
        radii = arm.radii(rhos)
        recipe = _of(arm, base, radii[len(radii) // 2])
        yield footprint.planned(arm.name, recipe, steps=1 if smoke else footprint.STEPS)


def _of(arm: Arm, base: Recipe, rho: float) -> Recipe:
    """The recipe of an arm at one ρ."""
    if arm.name == PLAIN:
        return base
    return dataclasses.replace(
        base,
        method=arm.method,
        rho=rho,
        method_options=tuple(sorted(arm.options.items())),
        lr=arm.own.get("lr", base.lr),
        momentum=arm.own.get("momentum", base.momentum),
        weight_decay=arm.own.get("weight_decay", base.weight_decay),
    )
