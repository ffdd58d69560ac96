"""The mean loss of a group of examples, wherever the weights are."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lowland.core.differentiable import activations_kept
from lowland.core.errors import InputError, unknown
from lowland.core.perturbation import wide_dtype
from lowland.core.restore import preserved_randomness
from lowland.measure.averages import batch_number
from lowland.measure.evaluation import Loss, SameDivisor, losses, outputs_of
from lowland.measure.parameters import dense_gradients, gradients_of
from lowland.measure.surface.groups import Chunk
from lowland.measure.surface.loss import classifies, misclassified

LOGITS = ("unit-std", "unit-norm")
"""How outputs may be normalised before the loss."""


class Point(NamedTuple):
    """What a group of examples has at one place.

    Attributes:
        loss: mean loss, float64.
        wrong: examples misclassified; None where nothing is classified.
        n: number of examples.
    """

    loss: float
    wrong: int | None
    n: int

    @property
    def error(self) -> float | None:
        """Share of examples misclassified."""
        return None if self.wrong is None else self.wrong / self.n


class Objective:
    """The mean loss of a group, and its gradient. Every chunk is a forward pass of its own.

    Passes draw the same random numbers, if model or loss draw any.

    Args:
        model: in the mode that it is measured in.
        loss_fn: losses (b,) or their mean.
        chunks: the group.
        logits: see `normalized_logits`; None leaves outputs as they are.
    """

    def __init__(
        self, model: nn.Module, loss_fn: Loss, chunks: Iterable[Chunk], logits: str | None = None
    ) -> None:
        self._model, self._loss_fn = model, loss_fn
        self._chunks, self._logits = chunks, logits

    def point(self, *, last: bool = False) -> Point:
        """The mean loss here. After the `last` pass the random generators have moved on."""
        found, divisor = _Sum(), SameDivisor(self._loss_fn)
        with contextlib.nullcontext() if last else preserved_randomness(), torch.no_grad():
            for inputs, targets in self._chunks:
                divisor.see(targets)
                loss, wrong = self._losses(inputs, targets)
                found.add(batch_number(loss), wrong, len(targets))
        return found.point()

    def gradient(self, weights: Sequence[Tensor]) -> tuple[Point, Sequence[Tensor | None]]:
        """The mean loss here, and its gradient; None for weights that it does not depend on."""
        found, divisor = _Sum(), SameDivisor(self._loss_fn)
        gradients = _WeightedMean()
        plain = activations_kept()
        with preserved_randomness(), torch.enable_grad(), plain, dense_gradients(self._model):
            for inputs, targets in self._chunks:
                divisor.see(targets)
                loss, wrong = self._losses(inputs, targets)
                gradients.add(gradients_of(loss.mean(), weights), len(targets))
                found.add(batch_number(loss), wrong, len(targets))
        return found.point(), gradients.mean()

    def _losses(self, inputs: Any, targets: Tensor) -> tuple[Tensor, int | None]:
        outputs = outputs_of(self._model, inputs)
        if self._logits is not None:
            outputs = normalized_logits(outputs, self._logits)
        loss = losses(self._loss_fn, outputs, targets)
        wrong = misclassified(outputs, targets) if classifies(outputs, targets) else None
        return loss, wrong


def normalized_logits(outputs: Any, how: str) -> Tensor:
    """Outputs f (b, K) made independent of their scale, before the softmax.

    "unit-std" is f / std(f), the formula of arXiv 2302.07011, with the standard deviation over the
    K classes (K below the bar). "unit-norm" is (f - mean f) / ‖f - mean f‖, what its released
    experiments compute: smaller by √K. Both guard the division by 1e-10.

    >>> normalized_logits(torch.tensor([[2.0, -2.0]]), "unit-std").tolist()
    [[1.0, -1.0]]
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"logits: the outputs are {shape}, not (examples, classes); give None")
    centered = outputs - outputs.mean(1, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(centered, dim=1, keepdim=True)
    if how == "unit-norm":
        return centered / norms.clamp_min(1e-10)
    return outputs / (norms / math.sqrt(outputs.shape[1])).clamp_min(1e-10)


def check_logits(logits: str | None) -> None:
    """Raise `InputError` for a normalisation that does not exist."""
    if logits is not None and logits not in LOGITS:
        raise unknown("logits", logits, LOGITS)


def logits_words(logits: str | None) -> str:
    """For definitions: the normalisation of outputs, if any."""
    return "" if logits is None else f", outputs normalised to {logits}"


def rise(low: float, high: float) -> float:
    """high - low, where a pass that overflowed counts as infinite.

    Infinite outputs make the cross-entropy NaN; beside a finite `low` that is no missing number but
    a loss beyond all bounds.

    >>> rise(1.0, math.nan), rise(math.nan, 1.0)
    (inf, nan)
    """
    return math.inf if math.isfinite(low) and math.isnan(high) else high - low


class _Sum:
    """Mean losses of chunks, weighted by their examples."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._sizes: list[int] = []
        self._wrong: list[int | None] = []

    def add(self, loss: float, wrong: int | None, n: int) -> None:
        self._losses.append(loss)
        self._wrong.append(wrong)
        self._sizes.append(n)

    def point(self) -> Point:
        n = sum(self._sizes)
        wrong = [w for w in self._wrong if w is not None]
        loss = self._losses[0]  # of a single chunk as it is: n·loss/n would round
        if len(self._losses) > 1:
            loss = sum(v * m for v, m in zip(self._losses, self._sizes, strict=True)) / n
        return Point(loss, sum(wrong) if len(wrong) == len(self._wrong) else None, n)


class _WeightedMean:
    """Gradients of chunks, weighted by their examples; a single chunk's are left as they are."""

    def __init__(self) -> None:
        self._sums: list[Tensor | None] = []
        self._n = 0
        self._chunks = 0

    def add(self, gradients: Sequence[Tensor | None], n: int) -> None:
        self._chunks += 1
        if self._chunks == 1:
            self._sums, self._n = list(gradients), n
            return
        if self._chunks == 2:
            self._sums = [_times(g, self._n) for g in self._sums]
        self._n += n
        for i, gradient in enumerate(gradients):
            total = self._sums[i]
            if gradient is None:
                continue
            if total is None:
                self._sums[i] = _times(gradient, n)
            else:
                total.add_(gradient, alpha=n)

    def mean(self) -> Sequence[Tensor | None]:
        if self._chunks > 1:
            for total in self._sums:
                if total is not None:
                    total.div_(self._n)
        return self._sums


def _times(gradient: Tensor | None, n: int) -> Tensor | None:
    return None if gradient is None else gradient.to(wide_dtype(gradient.dtype)) * n
