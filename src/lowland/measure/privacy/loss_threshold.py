"""Membership inference from the loss: low losses give training examples away."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor, nn

from lowland.core.errors import InputError, unknown
from lowland.core.restore import preserved
from lowland.measure.evaluation import (
    Batches,
    Loss,
    labelled,
    losses,
    outputs_of,
    refuse_batch_statistics,
)
from lowland.measure.privacy.attack import (
    MembershipAttack,
    Rule,
    Values,
    as_scores,
    build,
    fixed,
    verdicts,
)
from lowland.measure.privacy.curve import Scores

THRESHOLDS = ("split", "mean", "best")
"""How the threshold may be chosen, beside a number."""


def membership_advantage(
    model: nn.Module,
    loss_fn: Loss,
    members: Batches,
    non_members: Batches,
    *,
    threshold: str | float = "split",
    seed: int = 0,
) -> MembershipAttack:
    """How well the loss of an example tells whether the model was trained on it, in eval mode.

    The value is P(loss <= τ | member) - P(loss <= τ | non-member); 0: the loss tells nothing,
    1: everything. Thresholds τ, intervals and the rest of the record are those of
    `loss_threshold_attack`. Members must have been drawn like non-members: the attack takes any
    other difference between the two for memory. For a small advantage take as many of each.

    The model, its gradients and the random generators are left as they were. A model that has
    diverged, with NaN losses, is refused in one line; infinite losses rank last.

    Args:
        model: called as ``model(inputs)``, or ``model(**inputs)`` for mappings.
        loss_fn: ``loss_fn(outputs, targets)``: one loss per example, (b,).
        members: pairs (inputs, targets) that the model was trained on; in any order, read once.
        non_members: pairs that it was not trained on.
        threshold: "split", "mean", "best" or a loss.
        seed: of the halves for "split".

    Cost: one forward pass over the data, and a copy of the weights.

    Source: Yeom et al. 2018 (arXiv 1709.01604).

    Raises:
        InputError: no members or non-members, a loss that is their mean or of a wrong shape, NaN
            losses, BatchNorm without running statistics, an unknown threshold.
    """
    start = time.perf_counter()
    _check(threshold)
    found: list[Tensor] = []
    with preserved(model), torch.no_grad():
        model.eval()
        refuse_batch_statistics(model)
        for name, batches in (("members", members), ("non_members", non_members)):
            try:
                found.append(_example_losses(model, loss_fn, batches))
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
    return _attack(found[0], found[1], threshold, seed, start)


def _example_losses(model: nn.Module, loss_fn: Loss, batches: Batches) -> Tensor:
    found: list[Tensor] = []
    for inputs, targets in labelled(model, batches):
        loss = losses(loss_fn, outputs_of(model, inputs), targets)
        if loss.ndim == 0:
            raise InputError(
                "loss_fn: it returned the mean of a batch, which says nothing about one example; "
                "return one loss per example (reduction='none')"
            )
        found.append(loss.cpu().double())
    return torch.cat(found)


def loss_threshold_attack(
    member_losses: Values,
    non_member_losses: Values,
    *,
    threshold: str | float = "split",
    seed: int = 0,
) -> MembershipAttack:
    """What calling an example a member achieves if its loss is at most τ: TPR - FPR.

    Thresholds τ by name: "split" and "best" as in `score_attack`, on negative losses; "mean" is the
    mean loss of the members, which Yeom et al. let the attacker know. Its interval is Newcombe's
    for that τ as given. For the mean over a training set of which `member_losses` are a part, give
    that number.

    Args:
        member_losses: one for each training example.
        non_member_losses: one for each example that the model was not trained on.
        threshold: "split", "mean", "best" or a loss.
        seed: of the halves for "split".

    Cost: sorting the losses.

    Source: Yeom et al. 2018 (arXiv 1709.01604).

    Raises:
        InputError: as `score_attack`.

    >>> record = loss_threshold_attack([0.0, 0.0, 0.3], [0.2, 0.5, 0.9], threshold="mean")
    >>> round(record.value, 3), round(record.threshold, 3), round(record.auc, 3)
    (0.667, 0.1, 0.889)
    """
    start = time.perf_counter()
    _check(threshold)
    return _attack(member_losses, non_member_losses, threshold, seed, start)


def _attack(
    member_losses: Values,
    non_member_losses: Values,
    threshold: str | float,
    seed: int,
    start: float,
) -> MembershipAttack:
    members = _turned(as_scores("member_losses", member_losses))
    others = _turned(as_scores("non_member_losses", non_member_losses))
    rule = _rule(members, others, threshold, seed)
    return build("membership_advantage", members, others, rule, "loss <= ", start)


def _rule(members: Scores, others: Scores, threshold: str | float, seed: int) -> Rule:
    if threshold == "mean":
        # Of equal losses the mean is that loss, which a rounded sum could miss.
        mean = float(np.clip(members.mean(), members[0], members[-1]))
        return fixed(members, others, mean, "the members' mean loss")
    return verdicts(members, others, threshold if isinstance(threshold, str) else -threshold, seed)


def _turned(losses_upwards: Scores) -> Scores:
    """Scores, sorted upwards: a member has a low loss."""
    return -losses_upwards[::-1]


def _check(threshold: str | float) -> None:
    if isinstance(threshold, str) and threshold not in THRESHOLDS:
        raise unknown("threshold", threshold, THRESHOLDS)
