"""Few-shot probes: linear probes fitted to a handful of examples of each class."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.core.student import student_t
from lowland.measure.probes.classifier import (
    Examples,
    Settings,
    examples,
    fit_classifiers,
    wrong,
)
from lowland.measure.probes.design import Design
from lowland.measure.probes.linear import MAX_READS, TOLERANCE
from lowland.measure.probes.objective import Penalty


@dataclass(frozen=True, kw_only=True)
class ShotError:
    """Errors with one number of examples per class.

    Attributes:
        shots: training examples of each class.
        error: mean test error over the draws.
        standard_error: of that mean, from the spread of the draws; None for one draw.
        low: lower end of the 95 % interval over draws (Student's t), at least 0.
        high: upper end, at most 1. It is about other draws, for the same pool and test examples.
        errors: test error of each draw.
        converged: whether every fit is certified.
    """

    shots: int
    error: float
    standard_error: float | None
    low: float | None
    high: float | None
    errors: tuple[float, ...]
    converged: bool


@dataclass(frozen=True, kw_only=True)
class FewShotProbe(Measurement):
    """Test error with the most shots asked for; `uncertainty` is its standard error over draws.

    Attributes:
        by_shots: errors for every number of shots, in the order given.
        draws: draws for each.
        classes: how many classes there are.
    """

    by_shots: tuple[ShotError, ...]
    draws: int
    classes: int


def few_shot_probe(
    features: Any,
    labels: Any,
    test_features: Any,
    test_labels: Any,
    *,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    draws: int = 10,
    C: float = 1.0,
    penalty: Penalty = "l2",
    standardize: Literal["train", "none"] = "train",
    tolerance: float = TOLERANCE,
    max_reads: int = MAX_READS,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> FewShotProbe:
    """Test error of logistic regression on k examples of every class, drawn several times.

    Each draw takes k examples of every class without replacement and fits `linear_probe`'s
    objective at one C. Draws are nested: those with fewer shots are the first of those with more.
    "train" standardises by all training features, whose labels are not used for that.

    Args:
        features: (n, …) pool to draw from.
        labels: (n,) whole numbers.
        test_features: features to measure the error on, the same for all draws.
        test_labels: their labels.
        shots: examples per class; every class must have as many.
        draws: how often they are drawn.
        C: weight of the loss, a sum over the drawn examples.
        penalty: "l2" or "l1".
        standardize: "train" or "none", as for `linear_probe`.
        tolerance: largest certified (F - min F)/F of each fit.
        max_reads: reads of the drawn features at most, for each fit.
        seed: of the draws.
        device: where to compute.

    Cost: draws·Σ shots fits to shots·K examples; 20 to 100 reads each.

    Raises:
        InputError: a class with fewer examples than shots, or as for `linear_probe`.

    >>> x, y = [[-2.0], [-1.0], [1.0], [2.0]], [0, 0, 1, 1]
    >>> few_shot_probe(x, y, x, y, shots=[1, 2], draws=3).value
    0.0
    """
    start = time.perf_counter()
    if draws < 1 or not shots or min(shots) < 1:
        what = "draws" if draws < 1 else "shots"
        raise InputError(f"{what}: {draws if draws < 1 else list(shots)}; give at least 1")
    settings = Settings((float(C),), penalty, "none", 0, tolerance, max_reads, seed, device)
    pool = examples(features, labels, None, "")
    asked = examples(test_features, test_labels, None, "test_")
    scaled = Design(pool.features, standardize, device=device)
    test = Design(asked.features, like=scaled, device=device, what="test_features")
    scaled.check_width(test, "test_features")
    asked = Examples(test.subset(torch.arange(test.n)), asked.labels, None)
    order = _orders(pool.labels, max(shots), draws, seed)
    by_shots = []
    for k in shots:
        errors, converged = [], True
        for chosen in order:
            rows = chosen[:, :k].flatten()
            fitted = fit_classifiers(
                Examples(scaled.subset(rows), pool.labels[rows], None), settings
            )
            errors.append(float(wrong(fitted, asked)[0].double().mean()))
            converged &= fitted.converged[0]
        by_shots.append(_over_draws(k, errors, converged))
    most = max(by_shots, key=lambda row: row.shots)
    return FewShotProbe(
        name="few_shot_probe",
        value=most.error,
        definition=(
            f"mean test error of logistic regression ({penalty.upper()}, C = {C:g}) on "
            f"{most.shots} examples of every class over {draws} draws"
            + ("; features standardised by the pool" if standardize == "train" else "")
        ),
        n=len(asked.labels),
        dtype="float64",
        seconds=time.perf_counter() - start,
        uncertainty=most.standard_error,
        converged=all(row.converged for row in by_shots),
        seed=seed,
        by_shots=tuple(by_shots),
        draws=draws,
        classes=len(torch.unique(pool.labels)),
    )


def _orders(labels: Tensor, most: int, draws: int, seed: int) -> list[Tensor]:
    """For each draw the rows (K, most) of `most` examples of every class."""
    classes, counts = torch.unique(labels, return_counts=True)
    if int(counts.min()) < most:
        fewest = int(counts.argmin())
        raise InputError(
            f"shots: {most} of every class, but label {int(classes[fewest])} has "
            f"{int(counts[fewest])} examples; give fewer shots"
        )
    generator = torch.Generator().manual_seed(seed)
    orders = []
    for _ in range(draws):
        shuffled = torch.randperm(len(labels), generator=generator)
        own = labels[shuffled]
        orders.append(torch.stack([shuffled[own == label][:most] for label in classes]))
    return orders


def _over_draws(shots: int, errors: list[float], converged: bool) -> ShotError:
    n = len(errors)
    mean = math.fsum(errors) / n
    if n == 1:
        return ShotError(
            shots=shots,
            error=mean,
            standard_error=None,
            low=None,
            high=None,
            errors=tuple(errors),
            converged=converged,
        )
    spread = math.sqrt(math.fsum((error - mean) ** 2 for error in errors) / (n - 1) / n)
    half = student_t(0.95, n - 1) * spread
    return ShotError(
        shots=shots,
        error=mean,
        standard_error=spread,
        low=max(0.0, mean - half),
        high=min(1.0, mean + half),
        errors=tuple(errors),
        converged=converged,
    )
