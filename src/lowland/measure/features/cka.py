"""Centred kernel alignment: how alike are two sets of features of the same examples?"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.features.alignment import Side, alignment_of, product
from lowland.measure.features.source import InMemory, open_features

Estimator = Literal["unbiased", "biased", "minibatch"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)

FEWEST = 4
"""The unbiased estimator divides by n - 3."""


@dataclass(frozen=True, kw_only=True)
class CKA(Measurement):
    """Linear CKA of two sets of features; NaN where one of them is constant.

    Attributes:
        estimator: "unbiased", "biased" or "minibatch".
        dimensions: numbers of features of both.
    """

    estimator: str
    dimensions: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class CKAMatrix(Measurement):
    """Linear CKA of every block of one model with every block of another.

    `value` is the mean over blocks that have the same name in both; NaN if none has.

    Attributes:
        estimator: "unbiased", "biased" or "minibatch".
        rows: blocks of the first model.
        columns: blocks of the second.
        matrix: (rows, columns), NaN where features are constant.
    """

    estimator: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    matrix: npt.NDArray[np.float64] = field(repr=False, compare=False)

    def between(self, row: str, column: str) -> float:
        """The entry of two blocks by name."""
        return float(self.matrix[self.rows.index(row), self.columns.index(column)])


def cka(first: Any, second: Any, *, estimator: str = "unbiased", batch: int = 256) -> CKA:
    """Linear centred kernel alignment of two sets of features of the same examples.

    CKA = h(X, Y) / √(h(X, X)·h(Y, Y)), where h estimates the Hilbert–Schmidt independence criterion
    of linear kernels K = XXᵀ and L = YYᵀ. It does not change when features are rotated, scaled as
    a whole or shifted. 1 means alike; "biased" is ≥ 0, the others may fall below 0 by chance.

    Args:
        first: as for `feature_rank`.
        second: the same examples in the same order.
        estimator: "unbiased": Song et al. (2012), needs 4 examples; "biased": Kornblith et al.
            (2019), which few examples or many features push towards 1; "minibatch": Nguyen et al.
            (2021), h is the mean of unbiased estimates within consecutive batches, weighted by
            their sizes, which differs from "unbiased" by chance only.
        batch: examples per batch for "minibatch"; a last one of fewer than 4 is left out.

    Cost: n·(d₁² + d₁d₂ + d₂²) multiply-adds in float64; a side with more features than examples
    goes through its n×n products, at n²·d. Memory: n·min(n, d) float64 per side. A stream is read
    twice, more often if it is wider than long, and gathered for "minibatch".

    Raises:
        InputError: unknown estimator, too few examples, or other numbers of them in both.

    >>> cka([[1.0], [2.0], [4.0], [5.0]], [[3.0], [5.0], [9.0], [11.0]]).value
    1.0
    """
    start = time.perf_counter()
    _check(estimator, batch)
    left = _sides(first, "first", estimator, batch)
    right = _sides(second, "second", estimator, batch, left.device)
    _same_examples(left, right, "second")
    return CKA(
        name="cka",
        value=_alignment(left, right, estimator != "biased"),
        definition=_definition(estimator, batch),
        n=left.n,
        dtype="float64",
        seconds=time.perf_counter() - start,
        estimator=estimator,
        dimensions=(left.dimension, right.dimension),
    )


def cka_matrix(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    estimator: str = "unbiased",
    batch: int = 256,
) -> CKAMatrix:
    """`cka` of every block of one model with every block of another.

    Args:
        first: block -> features, as `capture` gives them.
        second: the same of another model or checkpoint, for the same examples in the same order.
        estimator: as for `cka`.
        batch: as for `cka`.

    Cost: as `cka` for each pair, with what belongs to one block done once; the second model's
    blocks are held together.

    Raises:
        InputError: as `cka`, or no blocks.
    """
    start = time.perf_counter()
    _check(estimator, batch)
    if not first or not second:
        raise InputError("cka_matrix: no blocks; give the features of at least one of each model")
    rows: list[list[float]] = []
    right: dict[str, _Sides] = {}
    for name, features in first.items():
        left = _sides(features, f"first[{name!r}]", estimator, batch)
        for other, theirs in second.items():
            what = f"second[{other!r}]"
            if other not in right:
                right[other] = _sides(theirs, what, estimator, batch, left.device)
            _same_examples(left, right[other], what)
        rows.append([_alignment(left, side, estimator != "biased") for side in right.values()])
    matrix = np.array(rows)
    matrix.setflags(write=False)
    columns = tuple(second)
    same = [matrix[i, columns.index(b)] for i, b in enumerate(first) if b in columns]
    return CKAMatrix(
        name="cka_matrix",
        value=float(np.mean(same)) if same else math.nan,
        definition=f"mean over blocks of the same name: {_definition(estimator, batch)}",
        n=left.n,
        dtype="float64",
        seconds=time.perf_counter() - start,
        estimator=estimator,
        rows=tuple(first),
        columns=columns,
        matrix=matrix,
    )


def _definition(estimator: str, batch: int) -> str:
    within = f" within batches of {batch}" if estimator == "minibatch" else ""
    kind = "biased" if estimator == "biased" else "unbiased"
    return f"linear centred kernel alignment, {kind} estimates of HSIC{within}"


def _check(estimator: str, batch: int) -> None:
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)
    if estimator == "minibatch" and batch < FEWEST:
        raise InputError(f"batch: {batch} examples; the unbiased estimator needs {FEWEST} or more")


@dataclass(eq=False)
class _Sides:
    """The features of one block: as a whole, or batch by batch."""

    parts: list[Side]
    dimension: int
    unbiased: bool

    def __post_init__(self) -> None:
        self.n = sum(part.n for part in self.parts)
        self.device = self.parts[0].device
        self.own = _mean_product(self, self, self.unbiased)


def _sides(
    features: Any, what: str, estimator: str, batch: int, device: torch.device | None = None
) -> _Sides:
    opened = open_features(features)
    if estimator == "minibatch":
        matrix = opened.matrix if isinstance(opened, InMemory) else torch.cat(list(opened.rows()))
        parts = [Side.of(InMemory(rows), device) for rows in _batches(matrix, batch)]
        width = matrix.shape[1]
    else:
        parts = [Side.of(opened, device)]
        width = parts[0].dimension
    fewest = 2 if estimator == "biased" else FEWEST
    if not parts or parts[0].n < fewest:
        raise InputError(
            f"{what}: fewer than {fewest} examples; the {estimator} estimator needs so"
        )
    return _Sides(parts, width, estimator != "biased")


def _batches(matrix: Tensor, batch: int) -> Iterator[Tensor]:
    for start in range(0, len(matrix), batch):
        rows = matrix[start : start + batch]
        if len(rows) >= FEWEST:
            yield rows


def _same_examples(left: _Sides, right: _Sides, what: str) -> None:
    if left.n != right.n:
        raise InputError(
            f"{what}: {right.n} examples, the first has {left.n}; rows must be the same examples "
            "in the same order"
        )


def _mean_product(left: _Sides, right: _Sides, unbiased: bool) -> tuple[float, float]:
    """h(X, Y) and the size of the numbers that it was made of, weighted by examples."""
    pairs = [product(a, b, unbiased) for a, b in zip(left.parts, right.parts, strict=True)]
    weights = [part.n / left.n for part in left.parts]
    value = sum(w * p[0] for w, p in zip(weights, pairs, strict=True))
    return value, sum(w * p[1] for w, p in zip(weights, pairs, strict=True))


def _alignment(left: _Sides, right: _Sides, unbiased: bool) -> float:
    return alignment_of(_mean_product(left, right, unbiased)[0], left.own, right.own)
