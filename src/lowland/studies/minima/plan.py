"""The runs of the minima study: draws that are computed together, group by group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lowland.core.errors import InputError
from lowland.studies.minima.claims import claims
from lowland.studies.minima.columns import (
    EXAMPLES,
    FEATURES,
    LEAVING,
    LEVEL,
    LR,
    MATRICES,
    MINIMA,
    ONE_DIMENSION,
    RADII,
    RATE_EXAMPLES,
    RATE_RADII,
    UNITS,
    rate_group,
)
from lowland.studies.minima.figures import figures, tables
from lowland.studies.recipes import changed_sizes
from lowland.studies.study import Choice, Plan, Planned
from lowland.train import Experiment

DATA = "generated"
TOGETHER = 10
"""Draws that are computed together."""

_PACKAGE = "lowland.studies.minima"
_SEEDS = {"smoke": 2, "default": 10, "paper": 30}
_SIZES: Mapping[str, Mapping[str, int]] = {
    "smoke": {"steps": 60, "units": 4, "examples": 4, "rate": 40, "particles": 500},
    "default": {
        "steps": 6_000, "units": UNITS, "examples": EXAMPLES, "rate": 3_000, "particles": 20_000
    },
    "paper": {
        "steps": 20_000, "units": UNITS, "examples": EXAMPLES, "rate": 10_000,
        "particles": 100_000,
    },
}  # fmt: skip
"""Steps, units and examples of the networks, steps of least squares, particles in one dimension."""


def plan(choice: Choice) -> Plan:
    """Lay out every group.

    Raises:
        InputError: data, method or settings that this study does not have.
    """
    if choice.data != DATA:
        raise InputError(
            f"these networks learn data of a generator of their own, not {choice.data}: leave "
            "--data out"
        )
    if choice.method != "sam":
        raise InputError(f"SAM and USAM are compared with SGD: leave --method {choice.method} out")
    if choice.rhos is not None:
        raise InputError("SAM and USAM have a scale of ρ each, fixed in pilots: leave --rho out")
    sizes = changed_sizes("the minima", _SIZES[choice.size], choice.overrides, least=2)
    seeds = choice.seed_range(_SEEDS[choice.size])
    return Plan(
        runs=tuple(_runs(sizes, seeds)),
        claims=claims(),
        panels=(),
        fingerprint="generated",
        notes=_notes(sizes),
        figures=figures,
        tables=tables,
    )


def _runs(sizes: Mapping[str, int], seeds: range) -> Iterator[Planned]:
    """Ten draws after the others, so that a study that stops early has whole seeds."""
    for first in range(seeds.start, seeds.stop, TOGETHER):
        count = min(TOGETHER, seeds.stop - first)
        for group, function, settings in _groups(sizes):
            experiment = Experiment(
                function=f"{_PACKAGE}.{function}",
                settings={**settings, "count": count},
                seed=first,
                method="sam",
            )
            yield Planned(group=group, recipe=experiment, many=True)


def _groups(sizes: Mapping[str, int]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    network = {key: sizes[key] for key in ("steps", "units", "examples")} | {"lr": LR}
    for method, group in MINIMA.items():
        arms = {"method": method, "radii": list(RADII[method]), "level": LEVEL, "every": 50}
        yield group, "moments:minima", {**network, **arms}
    yield LEAVING, "leaving:leaving", {**network, "after": max(20, sizes["steps"] // 20)}
    for features in FEATURES:
        grid = {"radii": list(RATE_RADII), "examples": RATE_EXAMPLES, "lr": 0.5}
        steps = {"steps": sizes["rate"], "points": 25, "features": features}
        yield rate_group(features), "rates:descents", {**grid, **steps}
    simulated = {"particles": sizes["particles"], "steps": 3}
    yield ONE_DIMENSION, "quadratics:one_dimension", simulated
    yield MATRICES, "quadratics:matrices", {}


def _notes(sizes: Mapping[str, int]) -> tuple[str, ...]:
    return (
        "All data are defined by generators: labels of a random teacher of three tanh units for "
        "the networks, random targets for least squares. A seed draws the problem, the start and "
        "the order of examples, which all ρ of a seed share.",
        f"Networks: 4 inputs, {sizes['units']} tanh units, one output, squared error, "
        f"{sizes['examples']} examples, {sizes['steps']:,} steps of one example at η = {LR:g}, "
        "without momentum or decay, so that the linear theory of one example per step applies.",
        "Moments are compared where each run first reaches a loss of "
        f"{LEVEL:g}, or the lowest that all ρ of the seed reach where that is higher; beside, at "
        "the end, and at the minimum next to the end that fits every example, found by "
        "Gauss-Newton steps. Hessians of single examples are written out in float64.",
        "M₂ − H² is positive semidefinite. M₃ − H³ and M₄ − H⁴ need not be: the largest "
        "eigenvalue is taken with its sign, the largest in size is beside.",
        "USAM is what the theory is about. SAM's ε keeps its length, so that with a constant ρ "
        "it cannot converge: its noise does not vanish at the minimum.",
    )
