"""The grids of the study of retrieval, at each size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lowland.core.errors import InputError
from lowland.studies.blocks import judged_block
from lowland.studies.recipes import all_rhos, at, base_recipe, keys
from lowland.studies.retrieval.claims import claims
from lowland.studies.retrieval.columns import FEW, MAIN, TRANSFER, Setup
from lowland.studies.retrieval.drawings import figures, panels, tables
from lowland.studies.study import Choice, Plan, Planned, grid

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

READ = "lowland.studies.retrieval.readings:read"
READ_RANK = "lowland.studies.retrieval.readings:read_rank"
READ_UNSEEN = "lowland.studies.retrieval.readings:read_unseen"

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
_RHOS = {"smoke": (0.2,), "default": (0.1, 0.2, 0.4), "paper": (0.1, 0.2, 0.4, 0.6)}
_FIXED = (
    "labels",
    "transfer_labels",
    "rank_block",
    "rank_blocks",
    "rank_examples",
    "centers",
    "variances",
)
MOST_DATABASE, MOST_QUERIES = 10_240, 2_000
FEW_CLASSES = 3


def plan(choice: Choice) -> Plan:
    """Lay out the three grids on the data that was chosen.

    Raises:
        InputError: unknown names or unusable values, data that do not fit, or no faiss.
    """
    from lowland.data import load
    from lowland.embeddings.package import faiss

    faiss()
    base = base_recipe(choice, _SIZES[choice.size], fixed=_FIXED)
    data = load(base.data, limit=base.limit, held_out=base.held_out)
    if data.classes < 2 * FEW_CLASSES:
        raise InputError(f"{data.name}: {data.classes} classes: give data of {2 * FEW_CLASSES}")
    block = judged_block(base, data, chosen="rank_block" in keys(choice))
    base = dataclasses.replace(base, rank_block=block, rank_blocks=block, centers=("unit",))
    setup, recipes = _recipes(base, data, block)
    rhos = all_rhos(choice, _RHOS[choice.size])
    seeds = choice.seed_range(_SEEDS[choice.size])
    runs = [
        planned
        for rho, seed in grid(rhos, seeds)
        for planned in _runs(recipes, data, setup, choice.method, rho, seed)
        if planned.group != FEW or rho in (rhos[0], rhos[-1])
    ]
    return Plan(
        runs=tuple(runs),
        claims=claims(setup),
        panels=panels(setup),
        fingerprint=data.fingerprint,
        notes=_notes(choice, data, setup),
        figures=partial(figures, setup=setup),
        tables=partial(tables, setup=setup),
    )


def _recipes(base: Recipe, data: ImageData, block: str) -> tuple[Setup, dict[str, Recipe]]:
    """The recipe of each group, and what is measured."""
    from lowland.data import load

    classes = tuple(range(data.classes))
    seen, unseen = classes[: (len(classes) + 1) // 2], classes[(len(classes) + 1) // 2 :]
    few = data.keep_labels(classes[:FEW_CLASSES])
    database = min(MOST_DATABASE, len(data.train))
    others = load(base.data, labels=unseen, held_out=base.held_out)
    setup = Setup(
        block=block,
        database=database,
        queries=min(MOST_QUERIES, len(data.test)),
        transfer_queries=len(others.test),
        trained=data.classes,
        few=FEW_CLASSES,
    )
    # what is judged of these is read off their end
    ends = dataclasses.replace(base, evaluations=min(2, base.evaluations))
    # as many steps on fewer images
    epochs = round(base.epochs * len(data.train) / len(few.train))
    return setup, {
        MAIN: dataclasses.replace(base, rank_examples=database),
        TRANSFER: dataclasses.replace(ends, labels=seen),
        FEW: dataclasses.replace(
            ends,
            labels=classes[:FEW_CLASSES],
            limit=len(few.train),
            epochs=epochs,
            batch_size=min(base.batch_size, len(few.train)),
        ),
    }


def _runs(
    recipes: Mapping[str, Recipe],
    data: ImageData,
    setup: Setup,
    method: str,
    rho: float,
    seed: int,
) -> list[Planned]:
    """The three readings at one point of the grid."""
    from lowland.train import Reading

    as_many = _as_many(data)
    unseen = tuple(range((data.classes + 1) // 2, data.classes))
    searched = {"database": setup.database, "queries": setup.queries, "as_many": as_many}
    reads: dict[str, tuple[str, dict[str, Any]]] = {
        MAIN: (READ, searched),
        TRANSFER: (READ_UNSEEN, {"labels": unseen, "database": MOST_DATABASE}),
        FEW: (READ_RANK, {"as_many": as_many}),
    }
    return [
        Planned(
            group=group,
            recipe=Reading(
                recipe=at(recipe, method, rho, seed),
                function=reads[group][0],
                settings={"block": setup.block, **reads[group][1]},
            ),
        )
        for group, recipe in recipes.items()
    ]


def _as_many(data: ImageData) -> int:
    """Train images of the few classes, at most as many as are searched."""
    return min(MOST_DATABASE, int((data.train.labels < FEW_CLASSES).sum()))


def _notes(choice: Choice, data: ImageData, setup: Setup) -> tuple[str, ...]:
    sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    half = (data.classes + 1) // 2
    return (
        f"Data: {data.name}, {sizes} images; one fixed split for all seeds.",
        f"Features: {setup.block}, flattened, in which the paper's ranks and nearest neighbours "
        "are measured; pooled ones stand beside. Components by cosine are those of second "
        "moments, by squared distance those of PCA.",
        f"Searched are {setup.database} train images, for the 10 nearest of {setup.queries} test "
        "images; true neighbours are those by all features. Numbers of components are "
        "interpolated between those that were tried.",
        f"Unseen classes: networks trained on classes 0 to {half - 1}, neighbours among classes "
        f"{half} to {data.classes - 1}.",
        "Queries a second depend on the machine and are no part of the results: multiply-adds "
        "are, and `benchmarks/compress.py` has times.",
        f"ρ = 0 is the base optimizer alone; every other ρ is {choice.method}.",
    )
