"""Scores of membership from shadow models: a Gaussian likelihood ratio for each example."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown

MODES = ("online", "offline")
VARIANCES = ("auto", "example", "pooled", "total")
CENTERS = ("mean", "median")

FEW_SHADOWS = 64
"""With fewer shadow models "auto" pools variances."""


class Gaussians(NamedTuple):
    """A normal distribution for each example: center (n,), deviation (n,) or ()."""

    center: Tensor
    deviation: Tensor

    def log_density(self, x: Tensor) -> Tensor:
        """Up to the constant -½·log 2π."""
        z = (x - self.center) / self.deviation
        return -0.5 * z * z - self.deviation.log()


def likelihood_ratio_scores(
    target: Tensor,
    shadow: Tensor,
    membership: Tensor,
    *,
    mode: str = "online",
    variance: str = "auto",
    center: str = "mean",
) -> Tensor:
    """LiRA: how much likelier an example's confidence is if the model was trained on it, (n,).

    Each shadow model was trained on a part of the examples. For each example normal distributions
    are fitted to the confidences of the models trained on it (in) and of the others (out).

    * "online": log N(φ; μ_in, σ_in²) - log N(φ; μ_out, σ_out²), 0 where both are as likely.
    * "offline": (φ - μ_out)/σ_out, which ranks as the published Φ of it does, and does not round to
      1; it needs no shadow model trained on the example.

    Variances by name: "example": of each example (divisor count - 1); "pooled": one for in, one for
    out, the mean over examples of the variance *within* them, Σ squares / Σ (count - 1); "total":
    one for both, the variance of all in-confidences with what lies between examples in it, which is
    what the authors' release uses with a fixed variance (offline, of all out-confidences); "auto":
    "pooled" below 64 shadow models, else "example", as published. The release takes medians as
    centers (``center="median"``) and the two-sided density offline; the paper, and this, do not.

    Args:
        target: (n,) confidences of the model attacked, `logit_scaled_confidence`.
        shadow: (S, n) confidences of S shadow models.
        membership: (S, n), true where the shadow model was trained on the example.
        mode: "online" or "offline".
        variance: "auto", "example", "pooled" or "total".
        center: "mean" or "median" over shadow models.

    Returns:
        float64 scores, higher for members.

    Cost: a few passes over S·n numbers, in float64.

    Source: Carlini et al. 2022 (arXiv 2112.03570).

    Raises:
        InputError: shapes that do not agree, confidences that are not finite, an example without
            the shadow models that the mode needs, or too few of them for a variance.
    """
    for kind, given, known in (
        ("mode", mode, MODES),
        ("variance", variance, VARIANCES),
        ("center", center, CENTERS),
    ):
        if given not in known:
            raise unknown(kind, given, known)
    target, shadow, trained = _matrices(target, shadow, membership)
    how = chosen_variance(variance, len(shadow))
    # a deviation that is zero up to rounding becomes that rounding
    floor = (max(shadow.abs().max(), target.abs().max()) * 2**-52).clamp_min(1e-150)
    out = _fitted(shadow, ~trained, "out", how, center, floor)
    if mode == "offline":
        return (target - out.center) / out.deviation
    inside = _fitted(shadow, trained, "in", how, center, floor)
    if how == "total":
        out = out._replace(deviation=inside.deviation)
    return inside.log_density(target) - out.log_density(target)


def chosen_variance(variance: str, shadows: int) -> str:
    """What "auto" stands for with so many shadow models."""
    if variance != "auto":
        return variance
    return "pooled" if shadows < FEW_SHADOWS else "example"


def _fitted(
    shadow: Tensor, rows: Tensor, side: str, variance: str, center: str, floor: Tensor
) -> Gaussians:
    """The distributions over the shadow models of one side, marked in `rows` (S, n)."""
    counts = rows.sum(0)
    _refuse_without(counts, side)
    chosen = torch.where(rows, shadow, torch.nan)
    means = chosen.nanmean(0)
    squares = (chosen - means).square().nansum(0)
    middle = means if center == "mean" else _medians(chosen, counts)
    if variance == "example":
        _refuse_single(counts, side)
        found = squares / (counts - 1)
    elif variance == "pooled":
        degrees = int((counts - 1).sum())
        if degrees == 0:
            raise InputError(
                f"variance: no example has two '{side}' shadow models, so that nothing tells how "
                "confidences vary; train more shadow models"
            )
        found = squares.sum() / degrees
    else:
        found = shadow[rows].var(correction=0)
    return Gaussians(middle, found.sqrt().clamp_min(floor))


def _medians(chosen: Tensor, counts: Tensor) -> Tensor:
    """Of each column's numbers that are not NaN; the mean of the middle two of an even count."""
    upwards = chosen.sort(0).values  # NaN last
    low = upwards.gather(0, (counts - 1).div(2, rounding_mode="floor")[None])
    high = upwards.gather(0, counts.div(2, rounding_mode="floor")[None])
    return ((low + high) / 2)[0]


def _refuse_without(counts: Tensor, side: str) -> None:
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        remedy = (
            "take mode='offline', which needs none of them"
            if side == "in"
            else "train some without"
        )
        raise InputError(
            f"membership: {len(empty)} of {len(counts)} examples have no '{side}' shadow model, "
            f"first example {int(empty[0])}; leave them out, or {remedy}"
        )


def _refuse_single(counts: Tensor, side: str) -> None:
    single = (counts == 1).nonzero()[:, 0]
    if len(single):
        raise InputError(
            f"variance: {len(single)} examples have a single '{side}' shadow model, first example "
            f"{int(single[0])}; variance='example' needs two, variance='pooled' does not"
        )


def _matrices(target: Tensor, shadow: Tensor, membership: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    target, shadow, trained = (torch.as_tensor(x).detach() for x in (target, shadow, membership))
    if target.ndim != 1 or shadow.ndim != 2 or trained.shape != shadow.shape:
        raise InputError(
            f"shadow and membership: got {tuple(shadow.shape)} and {tuple(trained.shape)} for a "
            f"target {tuple(target.shape)}; give (S, n), (S, n) and (n,)"
        )
    if shadow.shape[1] != len(target) or shadow.numel() == 0:
        raise InputError(
            f"shadow: {tuple(shadow.shape)} confidences for {len(target)} examples; give (S, n) "
            "with at least one shadow model and one example"
        )
    for name, values in (("target", target), ("shadow", shadow)):
        wrong = int((~values.double().isfinite()).sum())
        if wrong:
            raise InputError(
                f"{name}: {wrong} of {values.numel()} confidences are not finite; leave out the "
                "model that has diverged, or these examples"
            )
    if trained.dtype != torch.bool and not ((trained == 0) | (trained == 1)).all():
        raise InputError("membership: entries must be true or false")
    device = target.device
    return target.double(), shadow.to(device).double(), trained.to(device).bool()
