"""The runs of the two-layer study: groups of runs that are computed together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowland.core.errors import InputError
from lowland.studies.recipes import changed_sizes
from lowland.studies.study import Choice, Plan, Planned
from lowland.studies.two_layer.activations import ACTIVATIONS, PENALTIES
from lowland.studies.two_layer.claims import claims
from lowland.studies.two_layer.columns import (
    DECAYS,
    GRADIENT_NORM,
    PUBLISHED,
    PUBLISHED_SEED,
    SAM,
    STEP,
    TEACHERS,
    decay_group,
    teacher_group,
)
from lowland.studies.two_layer.draws import STEPS, UNITS
from lowland.studies.two_layer.experiment import PROPOSITION, RUNS
from lowland.studies.two_layer.figures import figures, tables
from lowland.studies.two_layer.panels import panels
from lowland.train import Experiment

DATA = "teacher-student"
TOGETHER = 10
"""Seeds that are computed together."""

_SEEDS = {"smoke": 2, "default": 30, "paper": 100}
_SIZES: Mapping[str, Mapping[str, int]] = {
    "smoke": {"steps": 300, "units": 20, "points": 6},
    "default": {"steps": STEPS, "units": UNITS, "points": 25},
    "paper": {"steps": STEPS, "units": UNITS, "points": 71},
}
_TEACHER_RADII = (0.0, 0.1, 0.2, 0.4)


def plan(choice: Choice) -> Plan:
    """Lay out every group.

    Raises:
        InputError: data, method or settings that this study does not have.
    """
    if choice.data != DATA:
        raise InputError(
            f"two-layer networks are trained on data of their own, not on {choice.data}: leave "
            "--data out"
        )
    if choice.method != "sam":
        raise InputError(f"two-layer networks are trained with sam, not with {choice.method}")
    sizes = changed_sizes("two-layer networks", _SIZES[choice.size], choice.overrides, least=1)
    seeds = choice.seed_range(_SEEDS[choice.size])
    runs = tuple(_runs(choice, sizes, seeds))
    return Plan(
        runs=runs,
        claims=claims(),
        panels=panels(),
        fingerprint="drawn",
        notes=_notes(choice, sizes),
        figures=figures,
        tables=tables,
        aside=tuple(PUBLISHED.values()),
    )


@dataclass(frozen=True)
class _Group:
    """Runs of one kind.

    Attributes:
        name: of the group.
        activation, regularizer, radii: of its runs.
        more: further settings.
    """

    name: str
    activation: str
    regularizer: str
    radii: Sequence[float]
    more: Mapping[str, Any]


def _groups(choice: Choice) -> Iterator[_Group]:
    for name, activation in ACTIVATIONS.items():
        radii = activation.radii if choice.rhos is None else sorted({0.0, *choice.rhos})
        yield _Group(SAM[name], name, "sam", radii, {})
    yield _Group(GRADIENT_NORM, "relu", "gradient-norm", PENALTIES, {})
    for decay in DECAYS:
        yield _Group(decay_group(decay), "relu", "weight-decay", [decay], {"as_rho": False})
    for units in TEACHERS:
        radii = _TEACHER_RADII if choice.rhos is None else sorted({0.0, *choice.rhos})
        yield _Group(teacher_group(units), "relu", "sam", radii, {"teacher_units": units})


def _runs(choice: Choice, sizes: Mapping[str, int], seeds: range) -> Iterator[Planned]:
    """Some seeds after the others, so that a study that stops early has whole seeds."""
    for first in range(seeds.start, seeds.stop, TOGETHER):
        count = min(TOGETHER, seeds.stop - first)
        for group in _groups(choice):
            yield _planned(group, first, count, exact=choice.exact, sizes=sizes)
        checked = Experiment(
            function=PROPOSITION,
            settings={"count": count, "units": sizes["units"]},
            seed=first,
            method="sam",
        )
        yield Planned(group=STEP, recipe=checked, many=True)
    for name, kind, radii in (
        (PUBLISHED["sam"], "sam", ACTIVATIONS["relu"].radii),
        (PUBLISHED["gradient-norm"], "gradient-norm", PENALTIES),
    ):
        group = _Group(name, "relu", kind, radii, {})
        yield _planned(group, PUBLISHED_SEED, 1, exact=True, sizes=sizes)


def _planned(
    group: _Group, first: int, count: int, *, exact: bool, sizes: Mapping[str, int]
) -> Planned:
    experiment = Experiment(
        function=RUNS,
        settings={
            "count": count,
            "activation": group.activation,
            "regularizer": group.regularizer,
            "radii": list(group.radii),
            "exact": exact,
            **sizes,
            **group.more,
        },
        seed=first,
        method=group.regularizer,
    )
    return Planned(group=group.name, recipe=experiment, many=True)


def _notes(choice: Choice, sizes: Mapping[str, int]) -> tuple[str, ...]:
    conventions = (
        "published: ranks of uncentred features, ReLUs active above 0"
        if choice.exact
        else "ranks of centred features (principal components), ReLUs active above a millionth of "
        "the largest value; the published ones are in the table of the published seed"
    )
    return (
        "Data are drawn: 20 training and 1,000 test inputs on the unit sphere in three dimensions, "
        "labels of a teacher of three units with the student's activation. A seed is a teacher, "
        "its data, a student and an order of examples, so intervals speak about all of that.",
        f"{sizes['units']} student units, {sizes['steps']} steps of one example each; SAM or the "
        "gradient norm acts in the first half, weight decay all along.",
        "Step size and initial scale are those of the released runs: ReLU 0.1 and 0.3, tanh 0.005 "
        "and 1.0, absolute value 0.01 and 0.3. The paper states 0.1 and 0.3 for all.",
        f"Conventions: {conventions}.",
        "A run that diverged counts against the claim: as no fall of a rank or a number of units, "
        "no change of a norm, and as the largest loss. It is never left out.",
        "Teachers of other sizes than three are scaled by √(3 / units), so that targets of all "
        "teachers have one size.",
    )
