"""The confidence that a model has in the right class, on a scale where it is near normal."""

from __future__ import annotations

import torch
from torch import Tensor

from lowland.core.errors import InputError


def logit_scaled_confidence(logits: Tensor, targets: Tensor) -> Tensor:
    """φ = log p_y - log(1 - p_y) = z_y - log Σ_{k≠y} exp z_k, for each example, in float64.

    Taken from the logits z without ever forming p, so that it is exact where p rounds to 1: p there
    differs between members and others by less than float32 can hold.

    Args:
        logits: (b, K) outputs before the softmax, K at least 2.
        targets: (b,) numbers of the right classes.

    Raises:
        InputError: other shapes, or targets that are not classes.

    >>> logit_scaled_confidence(torch.tensor([[100.0, 0.0]]), torch.tensor([0])).tolist()
    [100.0]
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"logits: got {shape}; give (examples, classes) with two classes or more")
    if targets.shape != logits.shape[:1] or targets.is_floating_point():
        raise InputError(
            f"targets: got {targets.dtype} {tuple(targets.shape)} for {len(logits)} examples; give "
            "the number of the right class of each"
        )
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < logits.shape[1]:
        raise InputError(f"targets: classes must lie in 0..{logits.shape[1] - 1}")
    z, right = logits.double(), targets.long()[:, None]
    others = z.scatter(1, right, -torch.inf)
    return z.gather(1, right)[:, 0] - torch.logsumexp(others, 1)
