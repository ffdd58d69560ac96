"""Instruments of features as ``torchmetrics.Metric``: batch by batch, and over devices.

    metric = FeatureRank(variance=0.99).to(device)
    for images, _ in loader:
        metric.update(model.features(images))
    metric.compute()

What is kept is small where it can be: sums instead of features. Devices are joined when `compute`
is called, also where some of them have seen no data, and the result is that of one process with
all the data. States may be merged, pickled, and (after ``metric.persistent(True)``) saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.measure.features.active import check_rule, is_above
from lowland.measure.features.labels import whole_labels
from lowland.measure.features.matrices import as_matrix, double, largest, resolution
from lowland.measure.features.neighbors import knn_error
from lowland.measure.features.rank import check_share, feature_rank, threshold_rank
from lowland.measure.features.spectrum import CENTERS

try:
    from torchmetrics import Metric
    from torchmetrics.utilities.distributed import gather_all_tensors
except ModuleNotFoundError as error:
    if error.name != "torchmetrics":
        raise
    raise ImportError(
        "lowland.integrations.torchmetrics needs torchmetrics: pip install 'lowland[metrics]'"
    ) from None

LARGEST = 1e140
"""Features up to here have squares that can be summed in float64."""

_Metric: Any = Metric


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows (n, …) of every process, some of which may have none and not know their shape."""
    kinds: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(kinds, (tuple(rows.shape), rows.dtype), group)
    known = [(shape, dtype) for shape, dtype in kinds if 0 not in shape]
    if known and 0 in rows.shape:
        shape, dtype = known[0]
        rows = torch.empty((0, *shape[1:]), dtype=dtype, device=rows.device)
    gathered: list[Tensor] = gather_all_tensors(rows, group)
    return gathered


class _Accumulator(_Metric):  # type: ignore[misc]
    """A metric whose states are lists of rows, joined by `cat` over batches and devices.

    `kept` is what of its options decides what is kept. It is a state too, always the same: a
    ``MetricCollection`` lets metrics share states that were equal after the first batch, and those
    of other options may be equal there by chance.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = None

    def __init__(self, *states: str, kept: Sequence[float] = (), **options: Any) -> None:
        options.setdefault("dist_sync_fn", gather_rows)
        super().__init__(**options)
        for state in states:
            self.add_state(state, default=[], dist_reduce_fx="cat")
        if kept:
            self.add_state("kept", torch.tensor(kept, dtype=torch.float32), dist_reduce_fx="max")

    def _rows(self, state: str) -> Tensor | None:
        """All rows of a state, whether it is still a list or was joined; None if there are none."""
        held = getattr(self, state)
        rows = torch.cat(list(held)) if isinstance(held, list) and held else held
        return rows if isinstance(rows, Tensor) and rows.numel() else None

    def _need(self, state: str) -> Tensor:
        rows = self._rows(state)
        if rows is None:
            raise InputError(f"{type(self).__name__}: no features yet; call update first")
        return rows


def _same_width(before: int, now: int) -> None:
    if before != now:
        raise InputError(
            f"features: {now} per example after {before}; give every batch those of one block, or "
            "call reset first"
        )


class FeatureRank(_Accumulator):
    """`lowland.measure.feature_rank` of all features that it was given; several for several shares.

    Args:
        variance: as for `feature_rank`.
        center: as for `feature_rank`.
        widest: up to so many features d the state is their mean and the d×d sums of squares about
            it, (d² + d + 3)·8 bytes whatever the number of examples (128 MiB at 4,096), joined as
            Chan, Golub and LeVeque (1979) do; the rank is that of their eigenvalues. Wider
            features are kept as they are, n·d numbers, for `feature_rank`.
        options: of ``torchmetrics.Metric``.

    ``update(features)``: (b, …). Cost: b·d² multiply-adds per update, d³ to compute. When devices
    are joined each holds the states of all.
    """

    def __init__(
        self,
        variance: float | Sequence[float] = 0.99,
        center: str = "unit",
        *,
        widest: int = 4096,
        **options: Any,
    ) -> None:
        super().__init__("moments", "features", kept=[center == "example"], **options)
        several = isinstance(variance, Sequence) and not isinstance(variance, str)
        self.variance = [check_share(v) for v in (variance if several else [variance])]  # type: ignore[union-attr]
        self.several = several
        if center not in CENTERS:
            raise unknown("center", center, CENTERS)
        self.center = center
        self.widest = widest

    def update(self, features: Any) -> None:
        """Add the features of a batch, (b, …)."""
        rows = as_matrix(features, "features")
        if rows.shape[1] > self.widest:
            self.features.append(rows.clone())
            return
        if largest(rows) > LARGEST:
            raise InputError("features: their squares leave float64; divide them by their largest")
        held = [] if (before := self._rows("moments")) is None else [before]
        if before is not None:
            _same_width(_dimension(before), rows.shape[1])
        self.moments = [joined_moments(torch.cat([*held, moments_of(rows, self.center)]))]

    def compute(self) -> Tensor:
        """The rank, or the ranks at several shares, as whole numbers."""
        wide = self._rows("features")
        if wide is not None:
            ranks = feature_rank(wide, self.variance, self.center).ranks
            found = [ranks[share] for share in self.variance]
        else:
            energies, noise = energies_of(joined_moments(self._need("moments")), self.center)
            found = [threshold_rank(energies, share, noise=noise) for share in self.variance]
        result = torch.tensor(found, device=self.device)
        return result if self.several else result[0]


HEAD = 3
"""Numbers before the mean: n, the resolution of the type, Σ‖φ‖² before centring."""


def moments_of(rows: Tensor, center: str) -> Tensor:
    """(1, 3 + d + d²): the `HEAD`, the mean, and the squares about it."""
    x = double(rows)
    head = x.new_tensor([len(x), resolution(rows.dtype), float(torch.linalg.vector_norm(x)) ** 2])
    if center == "example":
        x -= x.mean(1, keepdim=True)
    mean = x.mean(0)
    x -= mean
    return torch.cat([head, mean, (x.T @ x).flatten()])[None]


def joined_moments(parts: Tensor) -> Tensor:
    """The moments (1, 3 + d + d²) of all examples from those of parts of them (k, 3 + d + d²)."""
    total = parts[:1].clone()
    mean, squares = total[0, HEAD : HEAD + _dimension(total)], total[0, HEAD + _dimension(total) :]
    for part in parts[1:]:
        n, m = float(total[0, 0]), float(part[0])
        shift = part[HEAD : HEAD + len(mean)] - mean
        squares += part[HEAD + len(mean) :]
        squares += (torch.outer(shift, shift) * (n * m / (n + m))).flatten()
        mean += shift * (m / (n + m))
        total[0, 1] = torch.maximum(total[0, 1], part[1])
        total[0, 0] += m
        total[0, 2] += part[2]
    return total


def _dimension(moments: Tensor) -> int:
    """d of vectors of length 3 + d + d²."""
    return round(math.sqrt(moments.shape[1] - HEAD + 0.25) - 0.5)


def energies_of(moments: Tensor, center: str) -> tuple[np.ndarray[Any, Any], float]:
    """Squared singular values of the centred features, descending, and what of them is noise."""
    d = _dimension(moments)
    n, eps, energy = int(moments[0, 0]), float(moments[0, 1]), float(moments[0, 2])
    mean, squares = moments[0, HEAD : HEAD + d], moments[0, HEAD + d :].reshape(d, d)
    if center != "unit":
        squares = squares + n * torch.outer(mean, mean)
    values = torch.linalg.eigvalsh(squares).flip(0)[: min(n, d)].clamp_min(0.0).cpu().numpy()
    total = float(values.sum())
    if center != "none" and total <= eps**2 * energy:
        return np.zeros_like(values), 0.0
    solver = max(n, d) * np.finfo(np.float64).eps * float(values[0])
    return values, max(solver, eps**2 * total)


class ActiveUnits(_Accumulator):
    """`lowland.measure.active_units` of all features that it was given: how many are active.

    Args:
        rule: as for `active_units`.
        share: as for `active_units`.
        examples: as for `active_units`, one share; under the rules "maximum" and "gelu" only 0,
            for the threshold is not known before all features were seen.
        channels: as for `active_units`.
        channels_last: as for `active_units`.
        options: of ``torchmetrics.Metric``.

    ``update(features)``: (b, …). The state is one or two numbers per unit.
    """

    def __init__(
        self,
        rule: str = "maximum",
        *,
        share: float | None = None,
        examples: float = 0.0,
        channels: int | None = None,
        channels_last: bool = False,
        **options: Any,
    ) -> None:
        self.rule, self.share = rule, check_rule(rule, share)
        self.relative = rule in ("maximum", "gelu")
        kind = (0.0, 0.0) if self.relative else (1.0 + (rule == "absolute"), self.share)
        kept = [*kind, float(channels or 0), float(channels_last)]
        super().__init__("largest", "counts", kept=kept, **options)
        if not 0.0 <= examples < 1.0 or (self.relative and examples > 0):
            raise InputError(
                f"examples: {examples!r}; give a share in [0, 1), under the rules 'maximum' and "
                "'gelu' only 0 (for more, lowland.measure.active_units)"
            )
        self.examples = examples
        self.channels, self.channels_last = channels, channels_last

    def update(self, features: Any) -> None:
        """Add the features of a batch, (b, …)."""
        rows = as_matrix(features, "features")
        if self.relative:
            new = self._of_channels(double(rows)).amax(0, keepdim=True)
            before = self._rows("largest")
            if before is not None:
                _same_width(before.shape[1], new.shape[1])
            self.largest = [new if before is None else torch.maximum(before.amax(0), new)]
            return
        threshold = self.share if self.rule == "absolute" else 0.0
        above = self._of_channels(is_above(rows, self.rule, threshold).long())
        new = torch.cat([above.new_tensor([len(rows)]), above.sum(0)])[None]
        before = self._rows("counts")
        if before is not None:
            _same_width(before.shape[1] - 1, new.shape[1] - 1)
        self.counts = [new if before is None else before.sum(0, keepdim=True) + new]

    def compute(self) -> Tensor:
        """The number of active units, or channels."""
        if self.relative:
            largest = self._need("largest").amax(0)
            return (largest > self.share * largest.max()).sum()
        counts = self._need("counts").sum(0)
        return (counts[1:] > int(self.examples * float(counts[0]) + 1e-9)).sum()

    def _of_channels(self, values: Tensor) -> Tensor:
        """The largest over positions of each channel, (b, channels)."""
        if self.channels is None:
            return values
        b, d = values.shape
        if self.channels < 1 or d % self.channels:
            raise InputError(f"channels: {self.channels} do not divide {d} units")
        if self.channels_last:
            return values.reshape(b, -1, self.channels).amax(1)
        return values.reshape(b, self.channels, -1).amax(2)


class KNNError(_Accumulator):
    """`lowland.measure.knn_error` of queries against a reference, both given batch by batch.

    Args:
        k: as for `knn_error`.
        options: of ``torchmetrics.Metric``.

    ``update(features, labels, reference=False)``: (b, …) and (b,); with ``reference=True`` they
    join the reference set, else the queries. The state is all features in their own type. Of
    equally near examples those of the first device come first. Called like a function, it returns
    the error of this batch of queries against the reference of this device so far, and None for a
    batch of the reference.
    """

    higher_is_better = False

    def __init__(self, k: int = 10, **options: Any) -> None:
        super().__init__("reference", "reference_labels", "queries", "query_labels", **options)
        self.k = k

    def update(self, features: Any, labels: Any, reference: bool = False) -> None:
        """Add a batch to the reference or to the queries."""
        rows = as_matrix(features, "features").clone()
        of_rows = whole_labels(labels, len(rows), "labels").to(rows.device)
        (self.reference if reference else self.queries).append(rows)
        (self.reference_labels if reference else self.query_labels).append(of_rows)

    def compute(self) -> Tensor:
        """The share of queries that their neighbours misclassify."""
        return self._error(self._need("queries"), self._need("query_labels"))

    def forward(self, features: Any, labels: Any, reference: bool = False) -> Tensor | None:
        """Add a batch; the error of its queries against this device's reference so far."""
        self.update(features, labels, reference)
        return None if reference else self._error(self.queries[-1], self.query_labels[-1])

    def _error(self, queries: Tensor, labels: Tensor) -> Tensor:
        known = self._rows("reference")
        if known is None:
            raise InputError("KNNError: no reference yet; call update(..., reference=True) first")
        found = knn_error(known, self._need("reference_labels"), queries, labels, k=self.k)
        return torch.tensor(found.value, dtype=torch.float64, device=self.device)
