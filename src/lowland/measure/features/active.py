"""Active units: how many units rise above a threshold on at least one example."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.features.matrices import double
from lowland.measure.features.source import Features, open_features

Rule = Literal["maximum", "positive"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True, kw_only=True)
class ActiveUnits(Measurement):
    """The number of active units, and how active they are.

    Attributes:
        rule: "maximum" or "positive".
        threshold: a unit is above it or not.
        examples: share of examples on which an active unit is above the threshold, at least one.
        dimension: number of units.
        fraction: active units / units.
        mean_fraction: values above the threshold / all values, over examples and units.
    """

    rule: str
    threshold: float
    examples: float
    dimension: int
    fraction: float
    mean_fraction: float


def active_units(
    features: Any,
    *,
    rule: str = "maximum",
    share: float = 0.05,
    examples: float = 0.0,
) -> ActiveUnits:
    """The number of units whose value exceeds a threshold T on at least one example.

    A unit is one flattened feature (one channel at one position). Values equal to T are not above
    it. The comparison is made in float64.

    Args:
        features: as for `feature_rank`: (n, …), or a function that returns chunks.
        rule: "maximum": T = `share` times the largest value of all units on all examples, the 5%
            rule of arXiv 2305.16292; "positive": T = 0.
        share: for rule "maximum", in [0, 1).
        examples: a unit counts as active if it exceeds T on more than this share of the examples,
            in [0, 1); 0 means on at least one.

    Cost: one read of the features, two under rule "maximum"; memory for one number per unit.

    Raises:
        InputError: unknown rule; a share outside [0, 1); features that cannot be read.

    >>> active_units([[1.0, 0.01, 0.0], [0.0, 0.04, 0.5]]).value
    2
    """
    start = time.perf_counter()
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    _check_share("share", share)
    _check_share("examples", examples)
    opened = open_features(features)
    threshold = share * _maximum(opened) if rule == "maximum" else 0.0
    n, counts = _counts_above(opened, threshold)
    value = int((counts > examples * n).sum())
    what = f"{share:g} of the largest value" if rule == "maximum" else "zero"
    often = f"more than {examples:g} of the" if examples else "at least one of the"
    return ActiveUnits(
        name="active_units",
        value=value,
        definition=f"units above {what} on {often} examples",
        n=n,
        dtype="float64",
        seconds=time.perf_counter() - start,
        rule=rule,
        threshold=threshold,
        examples=examples,
        dimension=len(counts),
        fraction=value / len(counts),
        mean_fraction=float(counts.sum()) / (n * len(counts)),
    )


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise InputError(f"{name}: {value!r} is not in [0, 1); give for example 0.05 for 5%")


def _maximum(features: Features) -> float:
    return max(float(rows.max()) for rows in features.rows())


def _counts_above(features: Features, threshold: float) -> tuple[int, Tensor]:
    """The number of examples, and for each unit on how many of them it exceeds the threshold."""
    n = 0
    counts: Tensor | None = None
    for rows in features.rows():
        n += len(rows)
        above = (double(rows) > threshold).sum(0).cpu()
        counts = above if counts is None else counts + above
    assert counts is not None  # features without examples are refused
    return n, counts
