"""Linear probes: how much of the labels a linear classifier of frozen features finds."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.probes.classifier import (
    Classifiers,
    Examples,
    Settings,
    examples,
    fit_classifiers,
    wrong,
)
from lowland.measure.probes.design import whole_matrix
from lowland.measure.probes.groups import GroupErrors, group_errors
from lowland.measure.probes.labels import stratified_split
from lowland.measure.probes.objective import Penalty
from lowland.measure.proportions import wilson

Choose = Literal["error", "worst group"]
CHOOSE: tuple[Choose, ...] = get_args(Choose)

TOLERANCE = 1e-4
MAX_READS = 1000
HELD_OUT = 0.2
DFR_C = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
"""The values of C of last-layer retraining (arXiv 2204.02937)."""


@dataclass(frozen=True, kw_only=True)
class ProbeFit:
    """The probe at one value of C.

    Attributes:
        C: weight of the loss against the penalty.
        error: share of the test examples that it misclassifies.
        low: lower end of Wilson's 95 % interval of the error.
        high: upper end.
        train_error: share of the training examples that it misclassifies.
        train_loss: mean cross-entropy in nats over the examples that it was fitted to.
        objective: F = C·Σℓ + R. With several refits: the mean over them, as of the loss.
        gap: certified bound of (F - min F)/F. With several refits: the largest.
        converged: whether the gap is at most the tolerance.
        nonzero: coefficients that are not zero, of K·d (of d for two classes). They are those of a
            point within the tolerance, and can be more than the minimum has.
        validation_error: the error that C was chosen by; None where nothing was chosen.
        groups: test errors by group; None where no groups were given.
    """

    C: float
    error: float
    low: float
    high: float
    train_error: float
    train_loss: float
    objective: float
    gap: float
    converged: bool
    nonzero: int
    validation_error: float | None
    groups: GroupErrors | None


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Measurement):
    """The test error of a linear probe; `n` counts test examples, `uncertainty` is binomial.

    Attributes:
        C: the chosen value.
        low: lower end of Wilson's 95 % interval of the error at the chosen C. It is about other
            test examples, for this training set.
        high: upper end.
        fits: the probe at every value of C, in the order given.
        classes: labels, ascending.
        train_size: training examples.
        dimension: number of features.
        weight: (K, d) coefficients at the chosen C, for features as they were given.
        bias: (K,) intercepts.
    """

    C: float
    low: float
    high: float
    fits: tuple[ProbeFit, ...]
    classes: tuple[int, ...]
    train_size: int
    dimension: int
    weight: Tensor
    bias: Tensor

    @property
    def chosen(self) -> ProbeFit:
        """The probe at the chosen value of C."""
        return next(fit for fit in self.fits if fit.C == self.C)

    def predict(self, features: Any) -> Tensor:
        """The label of each example (n,)."""
        matrix = whole_matrix(features, "features")
        if matrix.shape[1] != self.dimension:
            raise InputError(
                f"features: {matrix.shape[1]} per example, the probe was fitted to {self.dimension}"
            )
        logits = matrix.double().cpu() @ self.weight.T + self.bias
        return torch.tensor(self.classes)[logits.argmax(1)]

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values; the coefficients are left out."""
        plain = super().to_dict()
        del plain["weight"], plain["bias"]
        return plain


def linear_probe(
    features: Any,
    labels: Any,
    test_features: Any = None,
    test_labels: Any = None,
    *,
    C: float | Sequence[float] = 1.0,
    penalty: Penalty = "l2",
    standardize: Literal["train", "none"] = "train",
    validation: Any = None,
    choose: Choose = "error",
    train_groups: Any = None,
    test_groups: Any = None,
    balance: int = 0,
    held_out: float = HELD_OUT,
    tolerance: float = TOLERANCE,
    max_reads: int = MAX_READS,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> LinearProbe:
    """The test error of multinomial logistic regression on features, for several C in one batch.

    min over W, b of F = C·Σ_i ℓ_i + R(W), ℓ_i = -log softmax(W·x_i + b) at the label, R = ½‖W‖²
    ("l2") or Σ|W| ("l1"), b not penalised: scikit-learn's `LogisticRegression`. Two classes have
    one row of coefficients (the logit of the larger label), more have K. Every fit comes with a
    duality gap computed in float64: (F - min F)/F is at most `ProbeFit.gap`.

    Args:
        features: (n, …) training features, flattened per example; or a callable of chunks.
        labels: (n,) whole numbers.
        test_features: features to measure the error on; None to hold some of the training
            examples out.
        test_labels: their labels. Labels that training lacks count as errors.
        C: one value or several; `DFR_C` has those of last-layer retraining.
        penalty: "l2" or "l1".
        standardize: "train": subtract the mean and divide by the standard deviation (n below the
            bar) of the training features, constant features becoming zero; "none": as they are.
        validation: what several values of C are compared on: (features, labels),
            (features, labels, groups), or a share of the training examples, by class (by group
            where there are groups), that is held out for the comparison and used again for the
            fit that is reported.
        choose: "error": the C with the least validation error; "worst group": with the least
            error in the worst group. Of equal ones the smallest C.
        train_groups: (n,) group of each training example.
        test_groups: group of each test example, for errors by group.
        balance: so many fits to draws with equally many examples of every group (without
            replacement, as many as the smallest group has), coefficients averaged, as in
            last-layer retraining (DFR); 0 for one fit to all examples.
        held_out: share of every class that becomes the test set where none is given.
        tolerance: largest certified (F - min F)/F.
        max_reads: how often the features are read at most; what is not certified by then has
            `converged` False.
        seed: of splits and draws.
        device: where to compute; default where the features are.

    Cost: 4·n·d·K operations per value of C, refit and read, in float32 with certificates in
    float64; 15 to 200 reads with L2, 20 to 1,000 with L1 (most for large C and correlated
    features). Memory beside the features: a float32 copy, and up to 256 MiB of float64.

    Raises:
        InputError: fewer than two classes, several C without validation, groups missing where they
            are needed, or sizes that do not fit.

    >>> x, y = [[-2.0], [-1.0], [1.0], [2.0]], [0, 0, 1, 1]
    >>> probe = linear_probe(x, y, x, y)
    >>> probe.value, probe.converged
    (0.0, True)
    """
    start = time.perf_counter()
    values = tuple(float(value) for value in np.atleast_1d(C))
    settings = Settings(values, penalty, standardize, balance, tolerance, max_reads, seed, device)
    if choose not in CHOOSE:
        raise unknown("choice", choose, CHOOSE)
    if len(values) > 1 and validation is None:
        raise InputError(
            f"C: {len(values)} values to choose from; give validation=0.2, or (features, labels)"
        )
    train = examples(features, labels, train_groups, "" if train_groups is None else "train_")
    train, asked = _test_set(train, test_features, test_labels, test_groups, held_out, seed)
    if isinstance(validation, float) or len(values) == 1:
        by_validation = _held_out_errors(train, validation, choose, settings)
        fitted = fit_classifiers(train, settings)
    else:
        compared = _given(validation, choose)
        fitted = fit_classifiers(train, settings)
        by_validation = _errors(fitted, compared, choose)
    fits = _fits(fitted, train, asked, settings, by_validation)
    place = min(range(len(fits)), key=lambda i: (by_validation[i], values[i]))
    best = fits[place]
    return LinearProbe(
        name="linear_probe",
        value=best.error,
        definition=_words(
            settings,
            choose if len(values) > 1 else None,
            held_out if test_features is None else None,
        ),
        n=len(asked.labels),
        dtype="float64",
        seconds=time.perf_counter() - start,
        uncertainty=math.sqrt(best.error * (1 - best.error) / len(asked.labels)),
        converged=best.converged,
        seed=seed,
        C=best.C,
        low=best.low,
        high=best.high,
        fits=fits,
        classes=tuple(fitted.classes.tolist()),
        train_size=len(train.labels),
        dimension=train.features.shape[1],
        weight=fitted.weight[place],
        bias=fitted.bias[place],
    )


def _test_set(
    train: Examples, features: Any, labels: Any, groups: Any, held_out: float, seed: int
) -> tuple[Examples, Examples]:
    """The training examples and the test examples."""
    if (features is None) != (labels is None):
        raise InputError("test_features and test_labels go together; give both, or neither")
    if features is None:
        if groups is not None:
            raise InputError("test_groups: without test_features; give those, or train_groups")
        kept, out = _split(train, held_out, seed, "held_out")
        return train.rows(kept), train.rows(out)
    asked = examples(features, labels, groups, "test_")
    if asked.features.shape[1] != train.features.shape[1]:
        raise InputError(
            f"test_features: {asked.features.shape[1]} features per example, the training "
            f"features have {train.features.shape[1]}; take both from the same block"
        )
    return train, asked


def _split(train: Examples, share: float, seed: int, what: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return stratified_split(
        train.labels if train.groups is None else train.groups, share, generator, what
    )


def _held_out_errors(
    train: Examples, share: Any, choose: Choose, settings: Settings
) -> list[float]:
    """The error of each value of C on a held-out share; zeros where there is nothing to choose."""
    if len(settings.C) == 1:
        return [0.0]
    _need_groups(train.groups, choose)
    kept, out = _split(train, share, settings.seed + 1, "validation")
    return _errors(fit_classifiers(train.rows(kept), settings), train.rows(out), choose)


def _given(validation: Any, choose: Choose) -> Examples:
    if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
        raise InputError("validation: give a share such as 0.2, or (features, labels[, groups])")
    groups = validation[2] if len(validation) == 3 else None
    _need_groups(groups, choose)
    return examples(validation[0], validation[1], groups, "validation ")


def _need_groups(groups: Any, choose: Choose) -> None:
    if choose == "worst group" and groups is None:
        raise InputError("choose='worst group': the validation examples have no groups; give them")


def _errors(fitted: Classifiers, asked: Examples, choose: Choose) -> list[float]:
    missed = wrong(fitted, asked)
    if choose == "error" or asked.groups is None:
        return [float(row.double().mean()) for row in missed]
    return [group_errors(row, asked.groups, None).worst_error for row in missed]


def _fits(
    fitted: Classifiers,
    train: Examples,
    asked: Examples,
    settings: Settings,
    by_validation: list[float],
) -> tuple[ProbeFit, ...]:
    missed, missed_train = wrong(fitted, asked), wrong(fitted, train)
    rows = []
    for i, value in enumerate(settings.C):
        errors, n = int(missed[i].sum()), missed.shape[1]
        low, high = wilson(errors / n, n)
        grouped = None
        if asked.groups is not None:
            grouped = group_errors(missed[i], asked.groups, train.groups)
        rows.append(
            ProbeFit(
                C=value,
                error=errors / n,
                low=low,
                high=high,
                train_error=float(missed_train[i].double().mean()),
                train_loss=fitted.loss[i],
                objective=fitted.objective[i],
                gap=fitted.gap[i],
                converged=fitted.converged[i],
                nonzero=int((fitted.weight[i] != 0).sum()),
                validation_error=by_validation[i] if len(settings.C) > 1 else None,
                groups=grouped,
            )
        )
    return tuple(rows)


def _words(settings: Settings, choose: Choose | None, held_out: float | None) -> str:
    where = "test error" if held_out is None else f"error on {held_out:.0%} held out"
    parts = [
        f"{where} of multinomial logistic regression, {settings.penalty.upper()} penalty",
        f"C = {', '.join(f'{value:g}' for value in settings.C)}",
    ]
    if choose is not None:
        parts.append(f"chosen by validation ({choose})")
    if settings.standardize == "train":
        parts.append("features standardised by the training set")
    if settings.balance:
        parts.append(f"mean of {settings.balance} fits to group-balanced draws")
    parts.append(f"within {settings.tolerance:g} of the least objective")
    return "; ".join(parts)
