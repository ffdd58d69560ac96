"""New last layers on features that stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from lowland.data import ImageData, Split
from lowland.measure import linear_probe
from lowland.studies.domains import columns

VALUES_OF_C = (1.0, 0.1, 0.01)
READ_OFF_C = 0.1
DRAWS = 10
"""Draws of groups of equal size that coefficients are averaged over, as in arXiv 2204.02937."""


def groups(data: ImageData, split: Split) -> Tensor:
    """The group of each image: its label and its spurious annotation, or its domain."""
    name = data.source.get("spurious", "domain")
    values = split.annotations[name]
    return split.labels.to(values) * data.annotations[name] + values


def errors(data: ImageData, validation: Tensor, test: Tensor) -> dict[str, float]:
    """Errors on the domain left out of two new last layers: columns `RETRAINED` and `READ_OFF`.

    Both are logistic regressions on standardized features with an L2 penalty. The first is last-
    layer retraining (Deep Feature Reweighting, arXiv 2204.02937): fitted to the held-out images of
    the training domains with as many of each group, mean of ten draws, C from 1, 0.1 and 0.01 by
    the worst group of a fifth of them. (There the penalty is L1, with seven values of C.) The
    second says what the features have of the domain left out: it is fitted to every other image of
    each class there, at C = 0.1, and tested on the rest; nobody has such labels in practice.

    Args:
        data: with the domain left out as its test split.
        validation, test: features (n, d) of the splits.
    """
    retrained = linear_probe(
        validation,
        data.validation.labels,
        test,
        data.test.labels,
        C=VALUES_OF_C,
        penalty="l2",
        validation=0.2,
        choose="worst group",
        train_groups=groups(data, data.validation),
        balance=DRAWS,
    )
    fitted = halves(data.test.labels)
    read_off = linear_probe(
        test[fitted],
        data.test.labels[fitted],
        test[~fitted],
        data.test.labels[~fitted],
        C=READ_OFF_C,
        penalty="l2",
    )
    return {columns.RETRAINED: retrained.value, columns.READ_OFF: read_off.value}


def halves(labels: Tensor) -> Tensor:
    """(n,) whether an image is the first, third, ... of its class.

    >>> halves(torch.tensor([0, 0, 1, 0, 1])).tolist()
    [True, False, True, True, False]
    """
    first = torch.empty(len(labels), dtype=torch.bool)
    for label in torch.unique(labels).tolist():
        rows = (labels == label).nonzero().flatten()
        first[rows] = torch.arange(len(rows)) % 2 == 0
    return first
