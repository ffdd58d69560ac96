"""The grid: four arms and SAM, in the toy and on dominoes of digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from lowland.core.errors import InputError
from lowland.studies.balance.names import with_settings
from lowland.studies.balance.plan import DATA, changed
from lowland.studies.mechanism.claims import claims
from lowland.studies.mechanism.columns import ALONE, Place
from lowland.studies.mechanism.drawings import figures, panels, tables
from lowland.studies.mechanism.experiment import ARMS_RUNS, SAM_RUNS, TOY
from lowland.studies.mechanism.toy import SIZES as TOY_SIZES
from lowland.studies.recipes import all_rhos
from lowland.studies.study import Choice, Plan, Planned
from lowland.train import Experiment

SAM_SHARE = 0.2
"""SAM's radii over those of the phantom: on all parameters a smaller ρ does as much."""

_SEEDS = {"smoke": 2, "default": 10, "paper": 30}
_RHOS = {"smoke": (0.3,), "default": (0.1, 0.3, 1.0), "paper": (0.05, 0.1, 0.2, 0.5, 1.0)}
_TOGETHER = 5
_SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"epochs": 2, "evaluations": 2, "width": 8, "toy_epochs": 1},
    "default": {"epochs": 30, "evaluations": 4, "width": 32, "toy_epochs": 30},
    "paper": {"epochs": 60, "evaluations": 10, "width": 64, "toy_epochs": 80},
}
_COMMON = {"lr": 0.2, "toy_lr": 0.1, "batch_size": 64}


def plan(choice: Choice) -> Plan:
    """Lay out the arms.

    Raises:
        InputError: data, method or settings that this study does not have.
    """
    if choice.data.partition(":")[0] != DATA:
        raise InputError(
            f"the arms are trained in the toy and on dominoes of digits, not on {choice.data}: "
            f"give --data {DATA}, or none"
        )
    if choice.method != "sam":
        raise InputError(f"the arms are taken from sam, not from {choice.method}")
    from lowland.data import load

    sizes = changed({**_COMMON, **_SIZES[choice.size]}, choice.overrides)
    data = load(with_settings(choice.data, correlation="1"))
    where = places(len(data.test))
    return Plan(
        runs=tuple(_runs(choice, where, sizes)),
        claims=claims(where),
        panels=panels(where),
        fingerprint=data.fingerprint,
        notes=_notes(sizes, len(data.train)),
        figures=partial(figures, places=where),
        tables=partial(tables, places=where),
    )


def places(test_images: int) -> tuple[Place, ...]:
    """Where the arms are trained, on digits with so many test images."""
    both, mostly = (
        "both features tell the label",
        "the simple feature agrees with 0.95 of the labels",
    )
    drawn = TOY_SIZES["test"]
    return (
        Place("toy, redundant", TOY, 1.0, f"toy, {both}", drawn),
        Place("toy, spurious", TOY, 0.95, f"toy, {mostly}", drawn),
        Place("mlp, redundant", "mlp", 1.0, f"digits, fully connected, {both}", test_images),
        Place(
            "mlp, spurious",
            "mlp",
            0.95,
            f"digits, fully connected, {mostly}",
            test_images,
        ),
        Place("cnn, redundant", "cnn", 1.0, f"digits, convolutional, {both}", test_images),
    )


def _runs(choice: Choice, where: tuple[Place, ...], sizes: Mapping[str, Any]) -> Iterator[Planned]:
    """Some seeds after the others, so that a study that stops early has whole seeds."""
    radii = all_rhos(choice, _RHOS[choice.size])[1:]
    whole = [0.0, *(SAM_SHARE * radius for radius in radii)]
    seeds = choice.seed_range(_SEEDS[choice.size])
    for first in range(seeds.start, seeds.stop, _TOGETHER):
        count = min(_TOGETHER, seeds.stop - first)
        for place in where:
            common = {
                "count": count,
                "data": with_settings(choice.data, correlation=f"{place.correlation:g}"),
                "network": place.network,
                "correlation": place.correlation,
                **_training(place, sizes),
            }
            yield _planned(place.name, ARMS_RUNS, first, common | {"radii": radii})
            yield _planned(place.sam, SAM_RUNS, first, common | {"radii": whole, "alone": False})
            if place is where[0]:  # a toy
                alone = {"radii": [0.0], "alone": True}
                yield _planned(ALONE, SAM_RUNS, first, common | alone)


def _planned(group: str, function: str, first: int, settings: Mapping[str, Any]) -> Planned:
    experiment = Experiment(function=function, settings=settings, seed=first, method="sam")
    return Planned(group=group, recipe=experiment, many=True)


def _training(place: Place, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The toy has a learning rate and a length of its own."""
    shared = {name: sizes[name] for name in ("batch_size", "evaluations", "width")}
    if place.network == TOY:
        return {**shared, "lr": sizes["toy_lr"], "epochs": sizes["toy_epochs"]}
    return {**shared, "lr": sizes["lr"], "epochs": sizes["epochs"]}


def _notes(sizes: Mapping[str, Any], train: int) -> tuple[str, ...]:
    return (
        "Toy: a half-space in eight dimensions (simple) and an exclusive or in eight others "
        "(hard), drawn for every seed; 1,000 train examples. Digits: dominoes of scikit-learn's "
        f"digits, {train} train images, one fixed split.",
        f"SGD without momentum at a constant learning rate, {sizes['lr']:g} ({sizes['toy_lr']:g} "
        f"in the toy), batches of {sizes['batch_size']}, {sizes['epochs']} epochs "
        f"({sizes['toy_epochs']} in the toy), networks of width {sizes['width']}.",
        "The head of every arm descends its own gradient with the residuals of the arm, so that "
        "the corners are plain SGD and last-layer SAM.",
        "Gini coefficients and the phantom in figures are of the whole train set; in training "
        "the phantom is that of the batch.",
        "The head's share of a feature is |⟨v, u⟩| over the sum for both, u the unit vector "
        "between the mean features of its two values where the features are independent. The "
        "ratio ṽ_hard/ṽ_simple over v_hard/v_simple does not depend on the lengths of u.",
        f"SAM's radii are {SAM_SHARE:g} of the phantom's. Each has ρ chosen on validation data of "
        "the other seeds.",
        "Dimensions, hyperparameters and numbers of the published experiments are not known; "
        "these were chosen on seeds from 1000 on.",
    )
