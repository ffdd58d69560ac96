"""The runs of the toys study: draws that are computed together, group by group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lowland.core.errors import InputError
from lowland.studies.recipes import changed_sizes
from lowland.studies.study import Choice, Plan, Planned
from lowland.studies.toys.claims import claims
from lowland.studies.toys.columns import (
    BEALE,
    BEALE_RADII,
    DIMENSION,
    DRIFT,
    DRIFT_RADII,
    ESCAPE,
    EXAMPLES,
    FEATURES,
    HYPERBOLA,
    HYPERBOLA_RADII,
    MOMENTUM,
    NEAR_BEALE,
    NETWORK_RADII,
    OVER,
    PL_QUADRATIC,
    PL_SUMS,
    PUBLISHED,
    QUADRATICS,
    RIDGE,
    RIDGE_DIMENSION,
    RIDGE_EXAMPLES,
    RIDGE_FEATURES,
    RIDGES,
    SENSING,
    SENSING_RADII,
    SENSING_RATES,
    THRESHOLDS,
    WIDTHS,
    network_group,
)
from lowland.studies.toys.figures import figures, tables
from lowland.train import Experiment

DATA = "generated"
TOGETHER = 10
"""Draws that are computed together."""
BINS = 40

_PACKAGE = "lowland.studies.toys"
_SEEDS = {"smoke": 2, "default": 10, "paper": 30}
_SIZES: Mapping[str, Mapping[str, int]] = {
    "smoke": {
        "hyperbola": 40, "beale": 200, "drift": 60, "pl": 40, "sums": 30, "particles": 20,
        "draws": 8, "epochs": 2, "momentum": 40, "sensing": 10,
    },
    "default": {
        "hyperbola": 500, "beale": 100_000, "drift": 20_000, "pl": 6_000, "sums": 4_000,
        "particles": 2_000, "draws": 200, "epochs": 60, "momentum": 4_000, "sensing": 600,
    },
    "paper": {
        "hyperbola": 500, "beale": 100_000, "drift": 20_000, "pl": 20_000, "sums": 20_000,
        "particles": 10_000, "draws": 2_000, "epochs": 200, "momentum": 4_000, "sensing": 2_000,
    },
}  # fmt: skip
"""Steps of the saddle, of Beale's function, of the drift, of the PL quadratic and sums; particles
of a variance; training sets of a linear model; epochs of the networks; steps under momentum and of
matrix sensing."""


def plan(choice: Choice) -> Plan:
    """Lay out every group.

    Raises:
        InputError: data, method, ρ or settings that this study does not have.
    """
    if choice.data != DATA:
        raise InputError(
            f"the toys are defined by generators of their own, not on {choice.data}: leave --data "
            "out"
        )
    if choice.method != "sam":
        raise InputError(f"the toys fix their methods: leave --method {choice.method} out")
    if choice.rhos is not None:
        raise InputError("the toys fix their ρ, from the published ones: leave --rho out")
    sizes = changed_sizes("the toys", _SIZES[choice.size], choice.overrides, least=2)
    seeds = choice.seed_range(_SEEDS[choice.size])
    return Plan(
        runs=tuple(_runs(sizes, seeds)),
        claims=claims(),
        panels=(),
        fingerprint="generated",
        notes=_notes(sizes),
        figures=figures,
        tables=tables,
        aside=tuple(PUBLISHED.values()),
    )


def _runs(sizes: Mapping[str, int], seeds: range) -> Iterator[Planned]:
    """The published starts, then ten draws after the others."""
    drawn = {**sizes, "beale": max(2, sizes["beale"] // 4), "drift": max(2, sizes["drift"] // 2)}
    starts = dict(_paths(drawn))
    for group, (function, settings) in _paths(sizes):
        one = {**settings, "count": 1, "points": 25, "published": True}
        yield _planned(PUBLISHED[group], function, one, 0)
    for first in range(seeds.start, seeds.stop, TOGETHER):
        count = min(TOGETHER, seeds.stop - first)
        for group, (function, settings) in [*starts.items(), *_others(sizes)]:
            yield _planned(group, function, {**settings, "count": count}, first)


Group = tuple[str, tuple[str, dict[str, Any]]]


def _paths(sizes: Mapping[str, int]) -> Iterator[Group]:
    """Trajectories in the plane, which have a published start."""
    yield (
        HYPERBOLA,
        (
            "saddles:hyperbola",
            {"radii": list(HYPERBOLA_RADII), "steps": sizes["hyperbola"], "points": 5},
        ),
    )
    yield (
        BEALE,
        (
            "saddles:beale_descents",
            {"radii": list(BEALE_RADII), "steps": sizes["beale"], "points": 5},
        ),
    )
    yield (
        DRIFT,
        (
            "normalisation:drift",
            {"radii": list(DRIFT_RADII), "steps": sizes["drift"], "points": 5},
        ),
    )


def _others(sizes: Mapping[str, int]) -> Iterator[Group]:
    yield THRESHOLDS, ("saddles:thresholds", {"steps": sizes["hyperbola"]})
    yield NEAR_BEALE, ("saddles:beale_saddle", {"steps": 3 * sizes["hyperbola"]})
    yield ESCAPE, ("escape:escapes", {"particles": sizes["particles"]})
    yield MOMENTUM, ("momentum:momentum", {"steps": sizes["momentum"]})
    steps = {"steps": 200, "bounded_steps": 2 * sizes["hyperbola"]}
    yield QUADRATICS, ("normalisation:stability", steps)
    cells = {"radii": list(SENSING_RADII), "rates": list(SENSING_RATES)}
    yield SENSING, ("sensing:sensing", {**cells, "steps": sizes["sensing"]})
    for decreasing, group in PL_QUADRATIC.items():
        settings = {"steps": sizes["pl"], "points": 25, "decreasing": decreasing}
        yield group, ("unified:quadratic", settings)
    for (kind, decreasing), group in PL_SUMS.items():
        settings = {"steps": sizes["sums"], "points": 41, "decreasing": decreasing}
        # without interpolation the paths differ, and there are few features
        paths = {"fits": 4, "does-not-fit": 16}[kind]
        yield group, ("unified:finite_sum", {**settings, "kind": kind, "paths": paths})
    linear = {"draws": sizes["draws"], "bins": BINS}
    places = {"examples": EXAMPLES, "dimension": DIMENSION, "features": list(OVER)}
    yield FEATURES, ("membership:over_features", {**linear, **places})
    many = {"examples": RIDGE_EXAMPLES, "dimension": RIDGE_DIMENSION}
    grid = {"features": list(RIDGE_FEATURES), "ridges": list(RIDGES)}
    few = max(2, sizes["draws"] // 20)
    yield RIDGE, ("membership:over_ridge", {**linear, **many, **grid, "draws": few})
    for width in WIDTHS:
        training = {"examples": 200, "epochs": sizes["epochs"], "evaluations": 8}
        yield (
            network_group(width),
            (
                "networks:attacks",
                {**training, "width": width, "radii": list(NETWORK_RADII)},
            ),
        )


def _planned(group: str, function: str, settings: Mapping[str, Any], first: int) -> Planned:
    experiment = Experiment(
        function=f"{_PACKAGE}.{function}", settings=settings, seed=first, method="sam"
    )
    return Planned(group=group, recipe=experiment, many=True)


def _notes(sizes: Mapping[str, int]) -> tuple[str, ...]:
    return (
        "All data and losses are defined by generators. Most of the toys are deterministic: what a "
        "seed draws is the problem (eigenvalues, a basis, a start, a training set), so that "
        "verdicts speak about all problems of that kind. The published starts are aside.",
        "Steps are taken by the library's own engine, many runs as the rows of one tensor; only "
        "Beale's function, with its 100,000 steps, is a recursion written out.",
        "Three forms on saddles: USAM (ε = ρ·g) is what is analysed; SAM (ε = ρ·g/‖g‖) is what the "
        "published figures ran; and where gradients are not zeroed between the passes the step is "
        "along g + g̃, twice as long.",
        "From the published starts trajectories have the published number of steps; from drawn "
        "ones Beale's has a quarter of it and the drift half: enough for SAM to be at the saddle, "
        "or far along the valley.",
        "Matrix sensing is shown, not judged: the published sizes and grid are not known, and "
        "where a grid ends decides who looks robust on it.",
        "Settings of the PL runs are the authors' own: ρ and η from μ, L, n and b.",
        f"Advantages by histogram have {BINS} bins of equal width over the central 99% of draws "
        "and are biased upwards; what they find between halves of one sample is drawn beside.",
        f"Steps: {', '.join(f'{name} {value:,}' for name, value in sizes.items())}.",
    )
