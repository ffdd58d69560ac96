"""Active units: how many units rise above a threshold on at least one example."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.features.matrices import double
from lowland.measure.features.source import Features, open_features

Rule = Literal["maximum", "gelu", "positive", "absolute"]
RULES: tuple[Rule, ...] = get_args(Rule)

SHARES = {"maximum": 0.05, "gelu": 0.1, "positive": 0.0, "absolute": 0.05}
"""Rule -> `share` where nobody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class ActiveUnits(Measurement):
    """The number of active units, and how active they are.

    Attributes:
        rule: "maximum", "gelu", "positive" or "absolute".
        threshold: a unit is above it or not.
        examples: share of examples on which an active unit is above the threshold, at least one.
        by_examples: the number of active units at each share that was asked for; `value` is at
            the first.
        channels: number of channels, where those were counted and not units.
        dimension: number of units, or of channels.
        fraction: active units / units.
        mean_fraction: values above the threshold / all values, over examples and units.
    """

    rule: str
    threshold: float
    examples: float
    by_examples: dict[float, int] = field(hash=False)
    channels: int | None
    dimension: int
    fraction: float
    mean_fraction: float


def active_units(
    features: Any,
    *,
    rule: str = "maximum",
    share: float | None = None,
    examples: float | Sequence[float] = 0.0,
    channels: int | None = None,
    channels_last: bool = False,
) -> ActiveUnits:
    """The number of units whose value exceeds a threshold T on at least one example.

    A unit is one flattened feature (one channel at one position); a channel is active on an
    example if it is at any position. Values equal to T are not above it, except under "absolute".
    The comparison is made in float64.

    Args:
        features: as for `feature_rank`: (n, …), or a function that returns chunks.
        rule: "maximum": T = `share` times the largest value of all units on all examples, the 5%
            rule of arXiv 2305.16292 for ReLU; "gelu": the same with 10%, its rule for GELU;
            "positive": T = 0; "absolute": |value| ≥ T = `share`, 0.05 if not given, its rule for
            tanh and absolute value.
        share: for rules "maximum" and "gelu" in [0, 1); None for the rule's own.
        examples: a unit counts as active if it exceeds T on more than this share of the examples,
            in [0, 1); 0 means on at least one. Several may be given: the paper has 0, 0.01, 0.05
            and 0.1.
        channels: count channels, of which there are so many, each with d/channels positions.
        channels_last: the channels of one position lie side by side, as in (h, w, c), and not the
            positions of one channel, as in (c, h, w).

    Cost: one read of the features, two where T depends on the largest; memory for one number per
    unit beside a piece of them.

    Raises:
        InputError: unknown rule; a share outside [0, 1); channels that do not divide the units;
            features that cannot be read.

    >>> active_units([[1.0, 0.01, 0.0], [0.0, 0.04, 0.5]]).value
    2
    """
    start = time.perf_counter()
    share = check_rule(rule, share)
    shares = _shares_of_examples(examples)
    opened = open_features(features)
    threshold = find_threshold(opened, rule, share)
    n, counts = _counts_above(opened, rule, threshold, channels, channels_last)
    by_examples = {s: int((counts > math.floor(s * n + 1e-9)).sum()) for s in shares}
    value = by_examples[shares[0]]
    return ActiveUnits(
        name="active_units",
        value=value,
        definition=_definition(rule, share, shares[0], channels),
        n=n,
        dtype="float64",
        seconds=time.perf_counter() - start,
        rule=rule,
        threshold=threshold,
        examples=shares[0],
        by_examples=by_examples,
        channels=channels,
        dimension=len(counts),
        fraction=value / len(counts),
        mean_fraction=float(counts.sum()) / (n * len(counts)),
    )


def _definition(rule: str, share: float, examples: float, channels: int | None) -> str:
    which = "units" if channels is None else "channels, at any of their positions,"
    what = {"positive": "above zero", "absolute": f"of magnitude {share:g} or more"}
    above = what.get(rule, f"above {share:g} of the largest value")
    often = f"more than {examples:g} of the" if examples else "at least one of the"
    return f"{which} {above} on {often} examples"


def check_rule(rule: str, share: float | None) -> float:
    """The share that goes with a rule, or an `InputError`."""
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    share = SHARES[rule] if share is None else share
    if rule == "absolute" and share >= 1.0 and math.isfinite(share):
        return share
    _check_share("share", share)
    return share


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise InputError(f"{name}: {value!r} is not in [0, 1); give for example 0.05 for 5%")


def _shares_of_examples(examples: float | Sequence[float]) -> list[float]:
    shares = [examples] if isinstance(examples, float | int) else list(examples)
    if not shares:
        raise InputError("examples: no shares; give at least one, for example 0.0")
    for value in shares:
        _check_share("examples", value)
    return shares


def find_threshold(features: Features, rule: str, share: float) -> float:
    """T of a rule; reads the features if it depends on the largest."""
    if rule in ("maximum", "gelu"):
        return share * max(float(rows.max()) for rows in features.rows())
    return share if rule == "absolute" else 0.0


def is_above(rows: Tensor, rule: str, threshold: float) -> Tensor:
    """Which values count, (b, d) of booleans, compared in float64."""
    values = double(rows)
    return values.abs_() >= threshold if rule == "absolute" else values > threshold


def active_mask(features: Features, rule: str, share: float | None) -> np.ndarray[Any, Any]:
    """Which units are active on at least one example, (d,) of booleans."""
    share = check_rule(rule, share)
    threshold = find_threshold(features, rule, share)
    _, counts = _counts_above(features, rule, threshold, None, False)
    return (counts > 0).numpy()


def _counts_above(
    features: Features, rule: str, threshold: float, channels: int | None, channels_last: bool
) -> tuple[int, Tensor]:
    """The number of examples, and for each unit or channel on how many of them it is above."""
    n = 0
    counts: Tensor | None = None
    for rows in features.rows():
        n += len(rows)
        above = is_above(rows, rule, threshold)
        if channels is not None:
            above = _of_channels(above, channels, channels_last)
        found = above.sum(0).cpu()
        counts = found if counts is None else counts + found
    assert counts is not None  # features without examples are refused
    return n, counts


def _of_channels(above: Tensor, channels: int, channels_last: bool) -> Tensor:
    """(b, d) -> (b, channels): at any position."""
    d = above.shape[1]
    if channels < 1 or d % channels:
        raise InputError(
            f"channels: {channels} do not divide {d} units; give the channels of the block's output"
        )
    shape = (len(above), -1, channels) if channels_last else (len(above), channels, -1)
    return above.reshape(shape).any(1 if channels_last else 2)
