"""What is read off networks: uniformity of importance, and whom the head leans on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lowland.studies.balance.evaluation import Row, worst_groups
from lowland.studies.balance.examples import EASY, HARD, Annotated
from lowland.studies.balance.probing import Probed, probing_errors
from lowland.studies.mechanism import columns
from lowland.studies.mechanism.arms import Head, importance, phantom
from lowland.studies.mechanism.training import head_of
from lowland.studies.mechanism.uniformity import gini, lorenz
from lowland.train.stack import Stack


def read(stack: Stack, data: Annotated, rho: Tensor, *, end: bool = False) -> list[Row]:
    """A row for each network.

    The phantom here is that of the whole train set: ρ·g/‖g‖ with g the gradient of the mean loss
    over all train examples by the head.

    Args:
        stack: the networks.
        data: the examples.
        rho: (K,) radius of the phantom of each.
        end: add Lorenz curves, and the probe of the simple feature.
    """
    parts = {name: getattr(data, name) for name in ("train", "validation", "test", "probing")}
    features = {name: stack(part.x, method="features") for name, part in parts.items()}
    head = head_of(stack.parameters)
    named = _losses(data, head, features)
    there = phantom(features["train"], head, data.train.y.expand(stack.size, -1), rho)
    named |= _uniformity(data, features["train"], head, there, end=end)
    named |= leaning(features["probing"], data.probing.notes, head, there)
    rows = [{name: float(values[k]) for name, values in named.items()} for k in range(stack.size)]  # type: list[Row]
    for k, row in enumerate(rows):
        fitted, asked = (
            Probed(features[name][k], parts[name].notes, parts[name].groups)
            for name in ("probing", "test")
        )
        if bool(fitted.features.isfinite().all() and asked.features.isfinite().all()):
            (row[columns.HARD],) = probing_errors(HARD, fitted, asked)
            if end:
                (row[columns.EASY],) = probing_errors(EASY, fitted, asked)
    return rows


def _losses(data: Annotated, head: Head, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def loss_and_error(name: str, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(features[name])
        own = labels.expand(len(logits), -1)
        losses = cross_entropy(logits.flatten(0, 1), own.flatten(), reduction="none")
        return losses.view(own.shape).mean(1), logits.argmax(-1) != own

    train, _ = loss_and_error("train", data.train.y)
    validation, wrong = loss_and_error("validation", data.validation.y)
    _, wrong_test = loss_and_error("test", data.test.y)
    return {
        columns.TRAIN: train,
        columns.VALIDATION_LOSS: validation,
        columns.VALIDATION: wrong.double().mean(1),
        columns.WORST: worst_groups(wrong_test, data.test.groups),
    }


def _uniformity(
    data: Annotated, features: Tensor, head: Head, there: Head, *, end: bool
) -> dict[str, Tensor]:
    """Gini coefficients of λ and λ̃ over the train examples, and their Lorenz curves."""
    labels = data.train.y.expand(len(features), -1)
    found = {}
    for place, coefficient, curve in (
        (head, columns.GINI, columns.LORENZ),
        (there, columns.GINI_PHANTOM, columns.LORENZ_PHANTOM),
    ):
        # in float64: what is learned has importances below the rounding of 1 - p
        weights = importance(place(features).double(), labels)
        found[coefficient] = gini(weights)
        if end:
            points = lorenz(weights, columns.POINTS)
            for k in range(columns.POINTS):
                found[columns.lorenz_column(curve, k)] = points[:, k]
    return found


def leaning(
    features: Tensor, notes: Mapping[str, Tensor], head: Head, there: Head
) -> dict[str, Tensor]:
    """How the weight of the head is shared between the features, at v and at ṽ.

    a_F = ⟨v, u_F⟩ with v = W_1 - W_0 and u_F the unit vector from the mean of the features where F
    = 0 to the mean where F = 1, over examples in which both are independent. The hard feature's
    share is |a_hard| / (|a_hard| + |a_easy|).
    """
    along = {name: _direction(features, values) for name, values in notes.items()}
    shares, ratios = [], []
    for place in (head, there):
        v = place.weight[:, 1] - place.weight[:, 0]
        hard, easy = ((v * along[name]).sum(-1).abs() for name in (HARD, EASY))
        shares.append(hard / (hard + easy))
        ratios.append((hard / easy).log())
    return {
        columns.HEAD: shares[0],
        columns.HEAD_PHANTOM: shares[1],
        columns.RATIO: ratios[1] - ratios[0],
    }


def _direction(features: Tensor, values: Tensor) -> Tensor:
    """(K, d) the unit vector from the mean where a feature is 0 to the mean where it is 1."""
    step = features[:, values == 1].mean(1) - features[:, values == 0].mean(1)
    return torch.nn.functional.normalize(step, dim=-1)
