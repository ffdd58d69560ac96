"""Neural collapse: do the features of each class shrink to a point, and the points to a simplex?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.features.labels import whole_labels
from lowland.measure.features.matrices import as_matrix, double, largest, resolution, unit_for
from lowland.measure.features.source import Features, open_features

Weigh = Literal["classes", "examples"]
WEIGH: tuple[Weigh, ...] = get_args(Weigh)


@dataclass(frozen=True, kw_only=True)
class NeuralCollapse(Measurement):
    """The four signs of neural collapse; all are 0 where it is complete. `value` is `within`.

    Attributes:
        within: NC1, tr(Σ_W Σ_B⁺)/C; infinite where the class means coincide up to rounding.
        equinorm: NC2, standard deviation over mean of the lengths of the centred class means.
        equiangularity: NC2, standard deviation of the cosines between them.
        maximal_angle: NC2, mean of |cosine + 1/(C - 1)|.
        self_duality: NC3, ‖W/‖W‖ - M/‖M‖‖, Frobenius norms; None without a classifier.
        nearest_mean: NC4, share of examples where the classifier and the nearest class mean
            disagree; None without a classifier.
        classes: number of classes C that have examples.
        smallest_class: examples of the smallest of them.
        weigh: "classes" or "examples".
        dimension: number of features.
    """

    within: float
    equinorm: float
    equiangularity: float
    maximal_angle: float
    self_duality: float | None
    nearest_mean: float | None
    classes: int
    smallest_class: int
    weigh: str
    dimension: int


def neural_collapse(
    features: Any,
    labels: Any,
    *,
    weight: Any = None,
    bias: Any = None,
    weigh: str = "classes",
) -> NeuralCollapse:
    """The measures NC1 to NC4 of Papyan, Han and Donoho (2020) on the features before a classifier.

    With the class means μ_c, the global mean μ_G and M the centred class means μ_c - μ_G: Σ_B is
    the mean over classes of (μ_c - μ_G)(μ_c - μ_G)ᵀ, Σ_W the mean of (φ - μ_c)(φ - μ_c)ᵀ, and
    NC1 = tr(Σ_W Σ_B⁺)/C. The pseudo-inverse is over at most C - 1 directions, without those where
    the means differ by no more than rounding.

    Args:
        features: as for `feature_rank`; usually the classifier's input.
        labels: (n,) whole numbers, one per example.
        weight: (classes, d) of the linear classifier; row c belongs to label c. Rows of classes
            without examples are left out of NC3; NC4 still lets the classifier choose them.
        bias: (classes,), or None for none.
        weigh: with unequal classes, "classes": μ_G is the mean of the class means, and every class
            counts the same in Σ_W and Σ_B; "examples": μ_G is the mean of the examples, and
            classes count by their size. In balanced data they are the same.

    A class of one example has no spread and adds nothing to Σ_W: see `smallest_class`.

    Cost: two reads of the features (a stream is run twice), about 3·n·d·C multiply-adds in float64,
    memory for three matrices (C, d).

    Raises:
        InputError: fewer than two classes, labels or a classifier that do not fit, or features that
            cannot be read.

    >>> record = neural_collapse([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], [0, 0, 1])
    >>> record.within, record.equinorm
    (0.0, 0.0)
    """
    start = time.perf_counter()
    if weigh not in WEIGH:
        raise unknown("choice of weigh", weigh, WEIGH)
    opened = open_features(features)
    names, places = torch.unique(whole_labels(labels, None, "labels"), return_inverse=True)
    if len(names) < 2:
        raise InputError("labels: of one class only; give examples of two or more")
    means = _ClassMeans(opened, places, len(names))
    classifier = _classifier(weight, bias, names, means)
    shares = means.counts / means.counts.sum()
    if weigh == "classes":
        shares = torch.full_like(shares, 1 / len(names))
    center = shares @ means.means
    centred = _beyond_rounding(means.means - center, center, means.resolution)
    basis, between = _directions(centred, shares, means.resolution)
    spread, disagreements = _second_pass(opened, places, means, center, basis, classifier)
    within = float((shares @ (spread / means.counts[:, None]) / between).sum()) / len(names)
    equinorm, equiangularity, maximal = _geometry(centred)
    return NeuralCollapse(
        name="neural_collapse",
        value=within if len(between) else float("inf"),
        definition=(
            "NC1, trace of within-class covariance times pseudo-inverse of between-class "
            f"covariance, over the number of classes; {weigh} weigh the same"
        ),
        n=len(places),
        dtype="float64",
        seconds=time.perf_counter() - start,
        within=within if len(between) else float("inf"),
        equinorm=equinorm,
        equiangularity=equiangularity,
        maximal_angle=maximal,
        self_duality=None if classifier is None else _self_duality(classifier.rows, centred),
        nearest_mean=None if classifier is None else disagreements / len(places),
        classes=len(names),
        smallest_class=int(means.counts.min()),
        weigh=weigh,
        dimension=means.means.shape[1],
    )


class _ClassMeans:
    """Means of the classes (C, d), in units of `unit`, joined from pieces of one pass."""

    def __init__(self, features: Features, places: Tensor, classes: int) -> None:
        self.n = 0
        for rows, of_rows in _labelled_rows(features, places):
            if self.n == 0:
                self.unit = unit_for(largest(rows))
                self.resolution = resolution(rows.dtype)
                self.means = double(rows[0]).zero_().repeat(classes, 1)
                self.counts = self.means.new_zeros(classes)
            self.n += len(rows)
            x = double(rows).div_(self.unit)
            of_rows = of_rows.to(x.device)
            added = torch.bincount(of_rows, minlength=classes).to(x)
            x -= self.means[of_rows]
            self.counts += added
            shift = torch.zeros_like(self.means).index_add_(0, of_rows, x)
            self.means += shift / self.counts.clamp_min(1)[:, None]
        if self.n != len(places):
            raise _fewer(self.n, len(places))


def _labelled_rows(features: Features, places: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of rows with the numbers of their classes."""
    begin = 0
    for rows in features.rows():
        end = begin + len(rows)
        if end > len(places):
            raise _fewer(f"{end} or more", len(places))
        yield rows, places[begin:end]
        begin = end


def _fewer(rows: int | str, labels: int) -> InputError:
    return InputError(f"labels: {labels} for {rows} examples; give one for each")


@dataclass(frozen=True, eq=False)
class _Classifier:
    """A linear classifier of features in units of `unit`.

    Attributes:
        weight: (K, d) and bias (K,), scaled alike.
        rows: (C, d) of the classes that have examples.
        names: (C,) their rows.
    """

    weight: Tensor
    bias: Tensor
    rows: Tensor
    names: Tensor


def _classifier(weight: Any, bias: Any, names: Tensor, means: _ClassMeans) -> _Classifier | None:
    if weight is None:
        if bias is not None:
            raise InputError("bias: given without a weight; give both, or neither")
        return None
    matrix = double(as_matrix(weight, "weight")).to(means.means.device)
    if matrix.shape[1] != means.means.shape[1]:
        raise InputError(
            f"weight: {matrix.shape[1]} columns for {means.means.shape[1]} features; give the "
            "classifier that reads these features"
        )
    if int(names.min()) < 0 or int(names.max()) >= len(matrix):
        raise InputError(
            f"labels: {int(names.min())} to {int(names.max())} for a weight of {len(matrix)} rows; "
            "label c must be its row c"
        )
    offset = matrix.new_zeros(len(matrix))
    if bias is not None:
        offset = double(as_matrix(bias, "bias")).to(matrix.device).flatten() / means.unit
        if len(offset) != len(matrix):
            raise InputError(f"bias: {len(offset)} numbers for a weight of {len(matrix)} rows")
    names = names.to(matrix.device)
    return _Classifier(weight=matrix, bias=offset, rows=matrix[names], names=names)


def _beyond_rounding(centred: Tensor, center: Tensor, noise: float) -> Tensor:
    """The centred means, those that rounding alone keeps from the centre set to exactly zero."""
    lengths: Tensor = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return centred.where(lengths > noise * torch.linalg.vector_norm(center), 0.0)


def _directions(centred: Tensor, shares: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Orthonormal directions (d, r) in which the class means differ, and Σ_B along them (r,)."""
    weighted = centred * shares.sqrt()[:, None]
    _, values, rows = torch.linalg.svd(weighted, full_matrices=False)
    scale = float(values[0])
    allowed = max(noise, max(weighted.shape) * torch.finfo(torch.float64).eps)
    kept = values[: len(centred) - 1] > allowed * scale
    count = int(kept.sum()) if scale > 0 else 0
    return rows[:count].T, values[:count].square()


def _second_pass(
    features: Features,
    places: Tensor,
    means: _ClassMeans,
    center: Tensor,
    basis: Tensor,
    classifier: _Classifier | None,
) -> tuple[Tensor, int]:
    """Per class Σ (uᵀ(φ - μ_c))² along each direction u (C, r), and how often NC4 is violated."""
    spread = means.means.new_zeros(len(means.means), basis.shape[1])
    centred = means.means - center
    half_squares = centred.square().sum(1) / 2
    disagreements = 0
    for rows, of_rows in _labelled_rows(features, places):
        x = double(rows).div_(means.unit)
        of_rows = of_rows.to(x.device)
        if classifier is not None:
            chosen = (x @ classifier.weight.T + classifier.bias).argmax(1)
            nearest = ((x - center) @ centred.T - half_squares).argmax(1)
            disagreements += int((chosen != classifier.names[nearest]).sum())
        x -= means.means[of_rows]
        spread.index_add_(0, of_rows, (x @ basis).square_())
    return spread, disagreements


def _geometry(centred: Tensor) -> tuple[float, float, float]:
    """Of the centred class means (C, d): spread of lengths, spread of cosines, distance from the
    cosine -1/(C - 1) of a simplex; NaN where a mean lies at the centre."""
    lengths = torch.linalg.vector_norm(centred, dim=1)
    equinorm = float(lengths.std(correction=0) / lengths.mean())
    units = (centred / lengths[:, None]).cpu().numpy()
    cosines = (units @ units.T)[~np.eye(len(units), dtype=bool)]
    target = -1.0 / (len(units) - 1)
    return equinorm, float(cosines.std()), float(np.abs(cosines - target).mean())


def _self_duality(rows: Tensor, centred: Tensor) -> float:
    """‖W/‖W‖ - M/‖M‖‖; NaN where either is zero."""
    difference = rows / torch.linalg.norm(rows) - centred / torch.linalg.norm(centred)
    return float(torch.linalg.norm(difference))
