"""The likelihood-ratio attack: on confidences, or on models and data."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.core.restore import preserved
from lowland.measure.evaluation import (
    Batches,
    labelled,
    outputs_of,
    refuse_batch_statistics,
    refuse_shuffled,
)
from lowland.measure.privacy.attack import MembershipAttack, score_attack
from lowland.measure.privacy.confidence import logit_scaled_confidence
from lowland.measure.privacy.likelihood_ratio import chosen_variance, likelihood_ratio_scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodRatioAttack(MembershipAttack):
    """What an attack by shadow models achieves.

    Attributes:
        shadows: number of shadow models.
        mode: "online" or "offline".
        variance: "example", "pooled" or "total": what "auto" came to.
    """

    shadows: int
    mode: str
    variance: str


def likelihood_ratio_attack(
    target: Tensor,
    members: Tensor | Sequence[bool],
    shadow: Tensor,
    membership: Tensor,
    *,
    mode: str = "online",
    variance: str = "auto",
    center: str = "mean",
    threshold: str | float = "split",
    seed: int = 0,
) -> LikelihoodRatioAttack:
    """What the attack by `likelihood_ratio_scores` achieves on examples of known membership.

    Intervals are those of `score_attack`, with examples as units, for this target model and these
    shadow models: the noise of training other shadow models, or another target, is not in them.

    Args:
        target: (n,) confidences of the model attacked.
        members: (n,), true where it was trained on the example.
        shadow: (S, n) confidences of the shadow models.
        membership: (S, n), true where the shadow model was trained on the example.
        mode: "online" or "offline".
        variance: "auto", "example", "pooled" or "total".
        center: "mean" or "median".
        threshold: "split", "best", or a number: 0 is the likelihood ratio 1 of "online".
        seed: of the halves for "split".

    Cost: that of the scores, and of sorting them.

    Source: Carlini et al. 2022 (arXiv 2112.03570).

    Raises:
        InputError: as `likelihood_ratio_scores` and `score_attack`; members of another length.
    """
    start = time.perf_counter()
    inside = torch.as_tensor(members)
    if inside.shape != torch.as_tensor(target).shape:
        raise InputError(
            f"members: got {tuple(inside.shape)} for {len(target)} examples; give one true or "
            "false for each"
        )
    scores = likelihood_ratio_scores(
        target, shadow, membership, mode=mode, variance=variance, center=center
    )
    inside = inside.to(scores.device).bool()
    record = score_attack(scores[inside], scores[~inside], threshold=threshold, seed=seed)
    how = chosen_variance(variance, len(shadow))
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    fields |= {
        "name": "likelihood_ratio_advantage",
        "definition": (
            f"{record.definition}; score: {mode} Gaussian likelihood ratio of {len(shadow)} shadow "
            f"models, {how} variance, {center} as center; intervals over examples, without the "
            "noise of training shadow models"
        ),
        "seconds": time.perf_counter() - start,
    }
    return LikelihoodRatioAttack(**fields, shadows=len(shadow), mode=mode, variance=how)


def likelihood_ratio_advantage(
    model: nn.Module,
    shadows: Iterable[nn.Module],
    batches: Batches,
    *,
    members: Tensor | Sequence[bool],
    membership: Tensor,
    mode: str = "online",
    variance: str = "auto",
    center: str = "mean",
    threshold: str | float = "split",
    seed: int = 0,
) -> LikelihoodRatioAttack:
    """How well shadow models help to tell on which examples `model` was trained, in eval mode.

    All models give logits (b, K) for the same examples, in the same order. Model and shadow models
    are left as they were.

    Args:
        model: the model attacked.
        shadows: the shadow models; an iterator may load one after the other.
        batches: pairs (inputs, classes) in a fixed order, read once for each model.
        members: (n,), true where `model` was trained on the example.
        membership: (S, n), true where the shadow model was trained on it.
        mode: as `likelihood_ratio_scores`.
        variance: as `likelihood_ratio_scores`.
        center: as `likelihood_ratio_scores`.
        threshold: as `score_attack`.
        seed: of the halves for "split".

    Cost: S + 1 forward passes over the data; a copy of one model's weights at a time.

    Source: Carlini et al. 2022 (arXiv 2112.03570).

    Raises:
        InputError: batches that are shuffled, that can be read only once or come in another order,
            outputs that are no logits, another number of shadow models or examples than in
            `membership`, and as `likelihood_ratio_attack`.
    """
    start = time.perf_counter()
    refuse_shuffled(batches)
    target, labels = _pass(model, batches)
    found: list[Tensor] = []
    for shadow in shadows:
        values, again = _pass(shadow, batches)
        if not torch.equal(again, labels):
            raise InputError("batches: other targets at the second pass; keep their order fixed")
        found.append(values)
    if tuple(membership.shape) != (len(found), len(labels)):
        raise InputError(
            f"membership: got {tuple(membership.shape)} for {len(found)} shadow models and "
            f"{len(labels)} examples; give one row for each model"
        )
    record = likelihood_ratio_attack(
        target,
        members,
        torch.stack(found) if found else torch.empty(0, len(labels)),
        membership,
        mode=mode,
        variance=variance,
        center=center,
        threshold=threshold,
        seed=seed,
    )
    return dataclasses.replace(record, seconds=time.perf_counter() - start)


def _pass(model: nn.Module, batches: Batches) -> tuple[Tensor, Tensor]:
    """Confidences and targets of all examples, on the CPU."""
    confidences: list[Tensor] = []
    classes: list[Tensor] = []
    with preserved(model), torch.no_grad():
        model.eval()
        refuse_batch_statistics(model)
        for inputs, targets in labelled(model, batches):
            outputs = outputs_of(model, inputs)
            confidences.append(logit_scaled_confidence(outputs, targets).cpu())
            classes.append(targets.cpu())
    return torch.cat(confidences), torch.cat(classes)
