"""Fitted probes in the units of the features as given, and what they get wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.measure.features.labels import whole_labels
from lowland.measure.features.matrices import double
from lowland.measure.probes.design import Design, whole_matrix
from lowland.measure.probes.fit import Fits, fit
from lowland.measure.probes.labels import balanced_rows, numbered, numbers_among
from lowland.measure.probes.objective import PENALTIES, Penalty, Problems, Tasks

PIECE = 2**21
"""Elements of features converted to float64 at a time when predicting."""


@dataclass(frozen=True)
class Examples:
    """Features with labels, and groups where those are known."""

    features: Tensor
    labels: Tensor
    groups: Tensor | None

    def rows(self, rows: Tensor) -> Examples:
        """Some of them."""
        groups = None if self.groups is None else self.groups[rows]
        return Examples(self.features[rows.to(self.features.device)], self.labels[rows], groups)


def examples(features: Any, labels: Any, groups: Any, what: str) -> Examples:
    """Features, labels and groups as users have them.

    Raises:
        InputError: of different lengths, or not numbers.
    """
    matrix = whole_matrix(features, f"{what}features")
    n = len(matrix)
    known = None if groups is None else whole_labels(groups, n, f"{what}groups")
    return Examples(matrix, whole_labels(labels, n, f"{what}labels"), known)


@dataclass(frozen=True)
class Settings:
    """How probes are fitted.

    Attributes:
        C: the values, ascending or not.
        penalty: "l2" or "l1".
        standardize: "train" or "none".
        balance: refits on group-balanced draws whose coefficients are averaged; 0 for one fit.
        tolerance: largest certified (F - min F)/F.
        max_reads: how often the features are read at most.
        seed: of the draws.
        device: where to compute; None for where the features are.
    """

    C: tuple[float, ...]
    penalty: Penalty
    standardize: str
    balance: int
    tolerance: float
    max_reads: int
    seed: int
    device: torch.device | str | None

    def __post_init__(self) -> None:
        if not self.C or not all(0 < value < float("inf") for value in self.C):
            raise InputError(f"C: {list(self.C)}; give positive numbers, larger to penalise less")
        if self.penalty not in PENALTIES:
            raise InputError(f"penalty: {self.penalty!r}; give one of {', '.join(PENALTIES)}")
        if not 0 < self.tolerance < 1:
            raise InputError(f"tolerance: {self.tolerance}; give a number between 0 and 1")
        if self.max_reads < 1 or self.balance < 0:
            what = "max_reads" if self.max_reads < 1 else "balance"
            raise InputError(f"{what}: {getattr(self, what)}; give a larger number")


@dataclass(frozen=True)
class Classifiers:
    """One linear classifier for each value of C: label = classes[argmax(W·x + b)].

    Attributes:
        classes: (K,) labels, ascending.
        weight: (values of C, K, d) float64.
        bias: (values of C, K).
        loss: (values of C,) mean training loss in nats, mean over refits.
        objective: C·Σℓ + R, mean over refits.
        gap: the largest relative duality gap of the refits.
        converged: whether all refits are certified.
        reads: how often the features were read.
    """

    classes: Tensor
    weight: Tensor
    bias: Tensor
    loss: tuple[float, ...]
    objective: tuple[float, ...]
    gap: tuple[float, ...]
    converged: tuple[bool, ...]
    reads: int

    def predict(self, features: Tensor) -> Tensor:
        """(values of C, n) labels, on the CPU; of equal logits the smallest label."""
        count, classes, d = self.weight.shape
        place = features.device
        weight = self.weight.to(place).reshape(count * classes, d)
        bias = self.bias.to(place).reshape(-1, 1)
        found = []
        for piece in torch.split(features, max(1, PIECE // d)):
            logits = weight @ double(piece).T + bias
            found.append(logits.view(count, classes, -1).argmax(1).cpu())
        return self.classes[torch.cat(found, 1)]


def fit_classifiers(train: Examples, settings: Settings) -> Classifiers:
    """Probes for every value of C, all refits in one batch.

    Raises:
        InputError: fewer than two classes, or balanced draws without groups.
    """
    classes, numbers = numbered(train.labels)
    design = Design(train.features, settings.standardize, device=settings.device)
    weights = _draws(train, settings)
    tasks = Tasks(
        labels=numbers.expand(1 if weights is None else len(weights), -1).to(design.device),
        weights=None if weights is None else weights.to(design.device),
        classes=len(classes),
    )
    refits, values = len(tasks.labels), len(settings.C)
    C = torch.tensor(settings.C, dtype=torch.float64, device=design.device)
    problems = Problems(
        design=design,
        tasks=tasks,
        task=torch.arange(refits, device=design.device).repeat_interleave(values),
        C=C.repeat(refits),
        penalty=settings.penalty,
    )
    found = fit(problems, tolerance=settings.tolerance, max_reads=settings.max_reads)
    return _classifiers(classes, problems, found, refits)


def _draws(train: Examples, settings: Settings) -> Tensor | None:
    """(refits, n) which examples count in each, or None for all of them."""
    if not settings.balance:
        return None
    if train.groups is None:
        raise InputError("balance: drawing equally from groups needs train_groups")
    generator = torch.Generator().manual_seed(settings.seed)
    weights = torch.zeros(settings.balance, len(train.labels), dtype=torch.float64)
    for row in weights:
        row[balanced_rows(train.groups, generator)] = 1.0
    short = [row for row in weights if len(torch.unique(train.labels[row > 0])) < 2]
    if short:
        raise InputError("balance: a balanced draw has one class only; give groups within classes")
    return weights


def _classifiers(classes: Tensor, problems: Problems, found: Fits, refits: int) -> Classifiers:
    design, count = problems.design, len(found.x) // refits
    weight = found.x[..., :-1] * design.inverse_scale
    bias = found.x[..., -1] - weight @ design.mean
    if problems.columns == 1:
        weight = torch.cat([torch.zeros_like(weight), weight], 1)
        bias = torch.cat([torch.zeros_like(bias), bias], 1)
    mass = problems.tasks.class_weights()[problems.task].sum(1)

    def by_value(values: Tensor) -> Tensor:
        return values.view(refits, count, *values.shape[1:])

    return Classifiers(
        classes=classes,
        weight=by_value(weight).mean(0).cpu(),
        bias=by_value(bias).mean(0).cpu(),
        loss=tuple(by_value(found.loss / mass).mean(0).tolist()),
        objective=tuple(by_value(found.objective).mean(0).tolist()),
        gap=tuple(by_value(found.gap).amax(0).tolist()),
        converged=tuple(by_value(found.converged).all(0).tolist()),
        reads=found.reads,
    )


def wrong(classifiers: Classifiers, asked: Examples) -> Tensor:
    """(values of C, n) what they misclassify; labels that training lacks always are."""
    known = numbers_among(asked.labels, classifiers.classes) >= 0
    return (classifiers.predict(asked.features) != asked.labels) | ~known
