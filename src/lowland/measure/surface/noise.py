"""Noise with an address: every number is a function of its place, whenever it is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lowland.core.seeds import derived_seed

_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def standard_normal(
    rows: Tensor, shape: Sequence[int], *address: int | str, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Independent standard normal numbers, (len(rows), *shape), on the device of `rows`.

    The numbers of a row depend on its entry in `rows` and on the address alone: not on the other
    rows, nor on how many there are. They are the same on all devices up to rounding: SplitMix64
    seeded by the address and the row, one output for each number, through the inverse of the normal
    distribution function in float64.

    Args:
        rows: int64, (b,), for example the numbers of examples in a data set.
        shape: of what belongs to one row.
        address: what the noise is for: a seed, a name, the number of a draw.
        dtype: of the result.

    Cost: about twenty elementwise operations of 8 bytes a number; no generator is touched.

    >>> few = standard_normal(torch.tensor([7]), (2,), 0, "noise")
    >>> many = standard_normal(torch.arange(10), (2,), 0, "noise")
    >>> torch.equal(few[0], many[7])
    True
    """
    starts = _mixed(rows * _signed(_GOLDEN) + _signed(derived_seed(*address)))
    places = torch.arange(1, math.prod(shape) + 1, device=rows.device) * _signed(_GOLDEN)
    bits = _mixed(starts[:, None] + places)
    uniform = (_shifted(bits, 11).double() + 0.5) * 2.0**-53  # in (0, 1)
    normal: Tensor = torch.special.ndtri(uniform)
    return normal.to(dtype).reshape(len(rows), *shape)


def _mixed(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64, on int64 that overflows as uint64 does."""
    x = (x ^ _shifted(x, 30)) * _signed(_FACTORS[0])
    x = (x ^ _shifted(x, 27)) * _signed(_FACTORS[1])
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """x >> by as unsigned: the sign is not carried down."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(x: int) -> int:
    """The int64 with the same bits."""
    return x - (1 << 64) if x >= 1 << 63 else x
