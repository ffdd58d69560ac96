"""The paper size: ResNet-18 and ViT as recipes, over width, ρ and seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lowland.core.errors import InputError
from lowland.studies.recipes import all_rhos, at, base_recipe, own_settings
from lowland.studies.study import Choice, Plan, Planned
from lowland.studies.workloads.claims import claims
from lowland.studies.workloads.drawings import figures, panels, tables
from lowland.studies.workloads.kinds import WORKLOADS, Sweep, Workload, chosen, group, whole_numbers
from lowland.studies.workloads.notes import published_notes

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

SETTINGS = ("workloads", "widths")

RHOS = (0.01, 0.05, 0.1, 0.2, 0.4)
SEEDS = 3

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "resnet": {
        "model": "resnet18",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "halves",
    },
    "vit": {
        "model": "vit",
        "base": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "schedule": "cosine",
    },
}
"""Those of the ResNet are the paper's; those of the ViT were chosen here, as it names none."""

WIDTHS = {"resnet": (4, 8, 16, 32, 64), "vit": (48, 96, 192, 384)}
"""Base filters, 64 times a factor, and sizes of a token."""

_COMMON: Mapping[str, Any] = {
    "epochs": 200,
    "batch_size": 128,
    "evaluations": 10,
    "centers": ("unit",),
}
_FIXED = ("model", "width", "schedule", "momentum", "base", "rank_examples")


def plan(choice: Choice) -> Plan:
    """Lay out both sweeps on the images that were chosen.

    Raises:
        InputError: captions, a workload that has no published network, or other unusable values.
    """
    from lowland.data import load
    from lowland.studies.workloads.texts import CAPTIONS

    if choice.data.startswith(CAPTIONS):
        raise InputError(
            "the paper size trains ResNet-18 and ViT on images: leave --size out for captions"
        )
    own, changes = own_settings(choice.overrides, SETTINGS)
    workloads = _with_networks(own.get("workloads"))
    asked = whole_numbers("widths", own["widths"]) if "widths" in own else None
    if asked is not None and len(asked) < 2:
        raise InputError(f"--set widths={own['widths']}: a slope needs two widths or more")
    base = base_recipe(choice, _COMMON, fixed=_FIXED, overrides=changes)
    given = {change.partition("=")[0].strip() for change in changes}
    data = load(base.data, labels=base.labels, limit=base.limit, held_out=base.held_out)
    rhos, seeds = all_rhos(choice, RHOS), choice.seed_range(SEEDS)
    sweeps, recipes, runs = [], [], []
    for workload in workloads:
        of_network = {k: v for k, v in NETWORKS[workload.name].items() if k not in given}
        recipe = dataclasses.replace(base, **of_network, rank_examples=_examples(data))
        widths = asked or WIDTHS[workload.name]
        sweeps.append(_sweep(workload, recipe, widths, data))
        recipes.append(recipe)
        runs += [
            Planned(
                group=group(workload, width),
                recipe=at(dataclasses.replace(recipe, width=width), choice.method, rho, seed),
            )
            for seed in seeds
            for width in widths
            for rho in rhos
        ]
    return Plan(
        runs=tuple(runs),
        claims=claims(sweeps),
        panels=panels(sweeps),
        fingerprint=data.fingerprint,
        notes=published_notes(data, sweeps, recipes),
        figures=partial(figures, sweeps=sweeps),
        tables=partial(tables, sweeps=sweeps),
    )


def _with_networks(names: str | None) -> list[Workload]:
    if names is None:
        return [WORKLOADS[name] for name in NETWORKS]
    found = chosen(names, captions=False)
    if other := [one.name for one in found if one.name not in NETWORKS]:
        raise InputError(
            f"workload {other[0]} has no published setting: use {' or '.join(NETWORKS)} in the "
            "paper size, or the default size"
        )
    return found


def _examples(data: ImageData) -> int:
    return min(10_240, len(data.train), len(data.test))


def _sweep(workload: Workload, recipe: Recipe, widths: Sequence[int], data: ImageData) -> Sweep:
    from lowland.models import create

    counts = {}
    with torch.random.fork_rng(devices=[]):
        for width in widths:
            model = create(recipe.model, shape=data.shape, classes=data.classes, width=width)
            counts[width] = sum(p.numel() for p in model.parameters())
    return Sweep(workload=workload, parameters=counts, judged=len(data.validation))
