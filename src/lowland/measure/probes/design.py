"""The matrix that a probe is fitted to: features centred and scaled, in either precision."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.measure.features.matrices import as_matrix, double, resolution
from lowland.measure.features.source import open_features

Standardize = Literal["train", "none"]
STANDARDIZE: tuple[Standardize, ...] = get_args(Standardize)

PIECE = 2**21
"""Elements of one piece where they are converted one after another (16 MiB of float64)."""

KEPT = 2**25
"""Up to so many elements a float64 copy is kept (256 MiB); larger ones are converted each time."""


def whole_matrix(features: Any, what: str) -> Tensor:
    """The matrix (n, d) of an array, lists, or a callable that yields chunks of rows."""
    if callable(features) and not isinstance(features, Tensor):
        return torch.cat(list(open_features(features).rows()))
    return as_matrix(features, what)


class Design:
    """Features X (n, d) as the fit sees them: x ↦ (x - mean) / scale.

    The mean is always taken off: with an intercept that is not penalised it changes no optimum,
    only its coordinates, and the solver's condition with them. The scale is the standard
    deviation (n below the bar, as scikit-learn's StandardScaler has it) or 1. A constant feature
    becomes zero under "train", so that its coefficient is exactly zero.
    """

    def __init__(
        self,
        features: Any,
        standardize: str = "none",
        *,
        device: torch.device | str | None = None,
        what: str = "features",
        like: Design | None = None,
    ) -> None:
        if standardize not in STANDARDIZE:
            raise unknown("standardize", standardize, STANDARDIZE)
        matrix = whole_matrix(features, what)
        place = torch.device(device) if device is not None else matrix.device
        # without float64 there is no certificate
        self.matrix = matrix.to(place if place.type in ("cpu", "cuda") else "cpu")
        self.n, self.d = self.matrix.shape
        self.mean: Tensor
        self.inverse_scale: Tensor
        if like is None:
            self.mean, self.inverse_scale = self._statistics(standardize)
        else:
            self.mean = like.mean.to(self.matrix.device)
            self.inverse_scale = like.inverse_scale.to(self.matrix.device)

    def _statistics(self, standardize: str) -> tuple[Tensor, Tensor]:
        total = torch.zeros(self.d, dtype=torch.float64, device=self.matrix.device)
        for piece in self._pieces():
            total += double(piece).sum(0)
        mean = total / self.n
        if standardize == "none":
            return mean, torch.ones_like(mean)
        squares, largest = torch.zeros_like(mean), torch.zeros_like(mean)
        for piece in self._pieces():
            rows = double(piece)
            largest = torch.maximum(largest, rows.abs().amax(0))
            squares += rows.sub_(mean).square_().sum(0)
        deviation = (squares / self.n).sqrt()
        constant = deviation <= resolution(self.matrix.dtype) * largest
        return mean, torch.where(constant, 0.0, 1.0 / deviation.clamp_min(1e-300))

    def _pieces(self) -> Iterator[Tensor]:
        yield from torch.split(self.matrix, max(1, PIECE // self.d))

    @property
    def device(self) -> torch.device:
        """Where the arithmetic is done."""
        return self.matrix.device

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Rows start..stop, centred and scaled, in this type."""
        if dtype == torch.float32:
            return self._single[start:stop]
        if self.matrix.numel() <= KEPT:
            return self._double[start:stop]
        return self._converted(start, stop)

    def subset(self, indices: Tensor) -> Tensor:
        """Some rows, centred and scaled, in float64."""
        rows = double(self.matrix[indices.to(self.device)])
        return rows.sub_(self.mean).mul_(self.inverse_scale)

    def columns(self, which: Tensor) -> Design:
        """The same examples with some of the features."""
        part = object.__new__(Design)
        part.matrix = self.matrix[:, which].contiguous()
        part.n, part.d = part.matrix.shape
        part.mean, part.inverse_scale = self.mean[which], self.inverse_scale[which]
        return part

    def _converted(self, start: int, stop: int) -> Tensor:
        return double(self.matrix[start:stop]).sub_(self.mean).mul_(self.inverse_scale)

    @functools.cached_property
    def _single(self) -> Tensor:
        rows = torch.empty(self.n, self.d, device=self.device)
        step = max(1, PIECE // self.d)
        for start in range(0, self.n, step):
            rows[start : start + step] = self._converted(start, start + step)
        return rows

    @functools.cached_property
    def _double(self) -> Tensor:
        return self._converted(0, self.n)

    @functools.cached_property
    def reach(self) -> float:
        """The largest ‖x‖ of a row."""
        step = max(1, PIECE // self.d)
        norms = (
            torch.linalg.vector_norm(self._converted(start, start + step), dim=1).max()
            for start in range(0, self.n, step)
        )
        return max(float(norm) for norm in norms)

    @property
    def fits_single(self) -> bool:
        """Whether squares of the features and their sums are safe in float32."""
        return self.reach == 0 or 1e-6 < self.reach / math.sqrt(self.d) < 1e6

    def check_width(self, other: Design, what: str) -> None:
        """Raise `InputError` if `other` has another number of features."""
        if other.d != self.d:
            raise InputError(
                f"{what}: {other.d} features per example, the training features have {self.d}; "
                "take both from the same block"
            )
