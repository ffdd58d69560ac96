"""Annotated data of any other kind: networks trained by ordinary recipes, and read at the end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lowland.core.errors import InputError
from lowland.studies.balance.claims import claims
from lowland.studies.balance.columns import ALONE, GIVEN, REDUNDANT, Setting, Setup, group_of
from lowland.studies.balance.drawings import figures, panels, tables
from lowland.studies.balance.names import with_settings
from lowland.studies.recipes import all_rhos, at, base_recipe
from lowland.studies.study import Choice, Plan, Planned

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

READ = "lowland.studies.balance.readings:read"
MADE = {"cifar-mnist-dominoes": {REDUNDANT: 1.0, "spurious 0.99": 0.99, "spurious 0.95": 0.95}}
"""Kinds that are made at any correlation, and with the hard half alone."""

NETWORK = "resnet"
FITTED = 5
"""The fewest images of a joint value that probes are fitted to: one is held out to choose C."""
_SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"width": 8, "lr": 0.05, "epochs": 1, "limit": 200, "evaluations": 2},
    "default": {"width": 16, "lr": 0.05, "epochs": 10, "evaluations": 10},
    "paper": {
        "model": "preact-resnet18",
        "width": 64,
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "epochs": 100,
        "batch_size": 128,
        "evaluations": 20,
    },
}
_SEEDS = {"smoke": 2, "default": 10, "paper": 5}
_RHOS = {"smoke": (0.1,), "default": (0.05, 0.1, 0.2), "paper": (0.01, 0.05, 0.1, 0.2)}
_FIXED = ("labels", "label_noise", "rank_block", "rank_blocks", "rank_examples", "centers")


def recipe_plan(choice: Choice) -> Plan:
    """Lay out the grid on annotated data that are no dominoes of digits.

    Raises:
        InputError: unknown names or unusable values, or data without annotations.
    """
    from lowland.data import load
    from lowland.studies.balance.examples import feature_names
    from lowland.train import Reading

    base = base_recipe(choice, {**_SIZES[choice.size], "centers": ("unit",)}, fixed=_FIXED)
    data = load(first_of(choice.data), limit=base.limit, held_out=base.held_out)
    setup = data_setup(choice.data, len(data.test))
    feature_names(data)  # refused here, before anything is trained
    _check_probes(data)
    base = base.changed(rank_examples=max(min(64, len(data.train)), 10))
    rhos = all_rhos(choice, _RHOS[choice.size])
    runs = []
    for seed in choice.seed_range(_SEEDS[choice.size]):
        for setting in (*setup.settings, *([setup.alone] if setup.alone else [])):
            own = base.changed(data=setting.data)
            runs += [
                Planned(
                    group=group_of(NETWORK, setting),
                    recipe=Reading(recipe=at(own, choice.method, rho, seed), function=READ),
                )
                for rho in (rhos if setting is not setup.alone else [0.0])
            ]
    return Plan(
        runs=tuple(runs),
        claims=claims(setup),
        panels=panels(setup),
        fingerprint=data.fingerprint,
        notes=_notes(choice, base, data),
        figures=partial(figures, setup=setup),
        tables=partial(tables, setup=setup),
    )


def _check_probes(data: ImageData) -> None:
    """Refuse what no probe can be fitted to, before anything is trained."""
    from lowland.data import decorrelated

    fitted = decorrelated(data)
    core, spurious = (data.source[key] for key in ("core", "spurious"))
    each = len(fitted) // (data.annotations[core] * data.annotations[spurious])
    if each < FITTED:
        raise InputError(
            f"{data.name} has {each} images of the rarest combination of {core} and {spurious} to "
            f"fit probes to: {FITTED} or more are needed; add some, or raise held_out"
        )


def first_of(data: str) -> str:
    """The first setting of some data, by name."""
    return data_setup(data, 0).settings[0].data


def data_setup(data: str, test_images: int) -> Setup:
    """The settings of some data: three correlations where they are made, as they are otherwise."""
    kind = data.partition(":")[0]
    made = MADE.get(kind)
    return Setup(
        kind=kind,
        networks={NETWORK: "residual network"},
        settings=tuple(
            Setting(name, with_settings(data, correlation=f"{share:g}"))
            for name, share in made.items()
        )
        if made
        else (Setting(GIVEN, data),),
        alone=Setting(ALONE, with_settings(data, correlation="1", easy="none")) if made else None,
        over_time=False,
        test_images=test_images,
    )


def _notes(choice: Choice, base: Recipe, data: ImageData) -> tuple[str, ...]:
    sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    return (
        f"Data: {data.name}, {sizes} images; the hard feature is {data.source['core']!r}, the "
        f"simple one {data.source['spurious']!r}.",
        f"Network: {base.model}; probes of its penultimate features at the end of training, so "
        "that claims about the course of training have no data here. They are fitted where the "
        "features say nothing of each other; errors are means over the groups.",
        f"ρ = 0 is the base optimizer alone; every other ρ is {choice.method}.",
    )
