"""Distinct units: how many are left when those that repeat another one are taken away."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.features.active import active_mask
from lowland.measure.features.matrices import double, largest, resolution, unit_for
from lowland.measure.features.source import Features, InMemory, open_features

Constant = Literal["apart", "distinct"]
CONSTANT: tuple[Constant, ...] = get_args(Constant)

BLOCK = 1024
"""Units compared at a time with those before them. In memory; fewer where `TABLE` says so."""

LONGEST = 2**15
"""So many examples leave float32 products a digit to decide with (see `_Table.sure`)."""

TABLE = 2**25
"""Correlations held at a time (256 MiB); four times as many for a stream, to read it less often."""


@dataclass(frozen=True, kw_only=True)
class DistinctUnits(Measurement):
    """The number of units that repeat no other.

    Attributes:
        correlation: units correlated by more than this with one that was kept are duplicates.
        signed: whether a correlation below -`correlation` does not count.
        considered: units that were looked at; all, the active ones, or a sample of either.
        duplicates: of those, how many repeat another.
        constant: of those, how many have the same value on every example.
        dimension: number of units of the block.
        fraction: distinct units / units considered.
    """

    correlation: float
    signed: bool
    considered: int
    duplicates: int
    constant: int
    dimension: int
    fraction: float


def distinct_units(
    features: Any,
    *,
    correlation: float = 0.95,
    signed: bool = False,
    constant: str = "apart",
    rule: str | None = None,
    share: float | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> DistinctUnits:
    """The number of units left after duplicates are removed, first come first kept.

    Units are gone through in the order of their index. One whose correlation over examples with a
    unit that was kept is above `correlation` (in magnitude, unless `signed`) is a duplicate. So a
    unit is compared with what stays, not with what has been removed. A constant unit correlates
    with nothing; it is no duplicate.

    Args:
        features: as for `feature_rank`.
        correlation: in (0, 1). arXiv 2305.16292 has 0.95 for networks, there on at most 1,000
            sampled units, and 0.999 for two layers.
        signed: count only positive correlations.
        constant: "apart": constant units are left out of `value` and counted in `constant`;
            "distinct": each counts as distinct, as where comparisons with an undefined
            correlation are false.
        rule: look only at the units that are active under this rule of `active_units`.
        share: for `rule`.
        sample: look only at so many units, drawn without replacement; all if there are fewer.
        seed: of that draw.

    Cost: n·d²/2 multiply-adds, fewer where units are removed, in float64, or in float32 on a CPU
    where that provably decides alike; memory for `TABLE`
    correlations beside a piece of the features. A stream is read 1 + ⌈d²/(4·`TABLE`)⌉ times, and
    as often as `active_units` does for `rule`.

    Raises:
        InputError: an option out of range, no unit left to look at, or features that cannot be
            read.

    >>> x = [[1.0, -2.0, 0.0, 3.0], [2.0, -4.0, 0.0, 3.1], [3.0, -6.0, 0.0, 3.0]]
    >>> record = distinct_units(x)
    >>> record.value, record.duplicates, record.constant
    (2, 1, 1)
    """
    start = time.perf_counter()
    _check(correlation, constant, sample)
    opened = open_features(features)
    chosen = None if rule is None else torch.from_numpy(active_mask(opened, rule, share))
    moments = _Moments(opened)
    chosen = torch.ones(moments.dimension, dtype=torch.bool) if chosen is None else chosen
    units, drew = _drawn(chosen.nonzero()[:, 0], sample, seed)
    varies = moments.varies()[units]
    kept = _kept(opened, moments, units[varies], correlation, signed)
    still = int((~varies).sum())
    value = len(kept) + (still if constant == "distinct" else 0)
    return DistinctUnits(
        name="distinct_units",
        value=value,
        definition=_definition(correlation, signed, constant, rule, len(units) if drew else None),
        n=moments.n,
        dtype="float64",
        seconds=time.perf_counter() - start,
        seed=seed if drew else None,
        correlation=correlation,
        signed=signed,
        considered=len(units),
        duplicates=int(varies.sum()) - len(kept),
        constant=still,
        dimension=moments.dimension,
        fraction=value / len(units),
    )


def _check(correlation: float, constant: str, sample: int | None) -> None:
    if not 0.0 < correlation < 1.0:
        raise InputError(f"correlation: {correlation!r} is not in (0, 1); give for example 0.95")
    if constant not in CONSTANT:
        raise unknown("choice of constant", constant, CONSTANT)
    if sample is not None and sample < 1:
        raise InputError(f"sample: {sample!r} units; give one or more, or None for all")


def _definition(
    correlation: float, signed: bool, constant: str, rule: str | None, sampled: int | None
) -> str:
    size = "correlation" if signed else "|correlation|"
    which = f"{sampled} sampled " if sampled is not None else ""
    which += f"units active under the rule {rule!r}" if rule else "units"
    still = "counted apart" if constant == "apart" else "counted as distinct"
    return (
        f"{which} without those of {size} above {correlation:g} with a unit kept before, in order "
        f"of index; constant units {still}"
    )


def _drawn(units: Tensor, sample: int | None, seed: int) -> tuple[Tensor, bool]:
    """The units to look at in order, and whether they were drawn."""
    if len(units) == 0:
        raise InputError("rule: no unit is active under it; leave it out, or lower the share")
    if sample is None or sample >= len(units):
        return units, False
    places = np.random.default_rng(seed).choice(len(units), sample, replace=False)
    return units[torch.from_numpy(np.sort(places))], True


class _Moments:
    """Mean, spread and largest magnitude of every unit, from one pass."""

    def __init__(self, features: Features) -> None:
        self.n = 0
        for rows in features.rows():
            if self.n == 0:
                self.unit = unit_for(largest(rows))
                self.resolution = resolution(rows.dtype)
                self.mean = double(rows[0]).zero_()
                self.squares, self.magnitude = self.mean.clone(), self.mean.clone()
            self._add(double(rows).div_(self.unit))
        self.dimension = len(self.mean)

    def _add(self, x: Tensor) -> None:
        """Chan, Golub and LeVeque (1979): squares about a mean, joined from pieces."""
        before, self.n = self.n, self.n + len(x)
        torch.maximum(self.magnitude, x.abs().amax(0), out=self.magnitude)
        mean = x.mean(0)
        shift = mean - self.mean
        self.mean += shift * (len(x) / self.n)
        self.squares += (x - mean).square_().sum(0) + shift.square() * (before * len(x) / self.n)

    def varies(self) -> Tensor:
        """Which units are not constant up to rounding."""
        noise = self.n * (self.resolution * self.magnitude).square()
        return (self.squares > noise).cpu()

    def standardised(self, rows: Tensor, units: Tensor, dtype: torch.dtype) -> Tensor:
        """The units' columns minus their mean, over the root of their squares: products of two
        such columns, summed over all examples, are correlations."""
        columns = rows[:, units]
        plain = columns.dtype != torch.bool and columns.device == self.mean.device
        if self.unit != 1.0 or not plain:
            columns = double(columns).div_(self.unit)
        return (columns - self.mean[units]).div_(self.squares[units].sqrt()).to(dtype)


def _kept(
    features: Features, moments: _Moments, units: Tensor, correlation: float, signed: bool
) -> Tensor:
    """The units that repeat none before them. Block by block, each against all kept so far."""
    units = units.to(moments.mean.device)
    kept = units[:0]
    count = max(1, len(units))
    in_memory = isinstance(features, InMemory)
    width = min(BLOCK, TABLE // count) if in_memory else 4 * TABLE // count
    fast = in_memory and _is_fast(moments)
    for block in torch.split(units, max(1, width)) if len(units) else ():
        against = torch.cat([kept, block])
        table = _Table(features, moments, block, against)
        above = (table.sure if fast else table.exact)(correlation, signed)
        repeats = above[:, : len(kept)].any(1).cpu().numpy()
        among = above[:, len(kept) :].cpu().numpy()
        for place in range(len(block)):
            if not repeats[place]:
                repeats[place + 1 :] |= among[place, place + 1 :]
        kept = torch.cat([kept, block[torch.from_numpy(~repeats).to(block.device)]])
    return kept


def _is_fast(moments: _Moments) -> bool:
    """Whether float32 products are twice as fast, and really made in float32."""
    plain = torch.get_float32_matmul_precision() == "highest"
    return moments.mean.device.type == "cpu" and plain and moments.n <= LONGEST


@dataclass(frozen=True, eq=False)
class _Table:
    """Correlations of a block of units (rows) with those before it and itself (columns)."""

    features: Features
    moments: _Moments
    block: Tensor
    against: Tensor

    def exact(self, limit: float, signed: bool) -> Tensor:
        """Which are above the limit, from products in float64."""
        products = self._products(torch.float64)
        return (products if signed else products.abs_()) > limit

    def sure(self, limit: float, signed: bool) -> Tensor:
        """The same from products in float32, and in float64 where those might be wrong.

        The columns have length 1, so that by Cauchy and Schwarz the error of a product of n
        numbers is below 1.01·(n + 8)·2⁻²⁴, in whatever order it is summed (n·2⁻²⁴ ≤ 2⁻⁹ here).
        """
        products = self._products(torch.float32)
        products = products if signed else products.abs_()
        error = 1.01 * (self.moments.n + 8) * 2.0**-24
        above = products > limit + error
        doubtful = (products > limit - error) & ~above
        rows, columns = doubtful.nonzero(as_tuple=True)
        if len(rows) > doubtful.numel() // 16:
            return self.exact(limit, signed)
        for part in torch.split(torch.stack([rows, columns]), BLOCK, dim=1):
            values = self._pairs(self.block[part[0]], self.against[part[1]])
            above[part[0], part[1]] = (values if signed else values.abs_()) > limit
        return above

    def _products(self, dtype: torch.dtype) -> Tensor:
        before = len(self.against) - len(self.block)
        products = torch.zeros(len(self.block), len(self.against), dtype=dtype)
        products = products.to(self.moments.mean.device)
        for rows in self.features.rows():
            columns = self.moments.standardised(rows, self.against, dtype)
            products.addmm_(columns[:, before:].T, columns)
        return products

    def _pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """The correlation of each of the left units with the right one at its place."""
        values = self.moments.mean.new_zeros(len(left))
        for rows in self.features.rows():
            a = self.moments.standardised(rows, left, torch.float64)
            values += (a * self.moments.standardised(rows, right, torch.float64)).sum(0)
        return values
