"""Label noise: wrong labels that are drawn anew at every update."""

from __future__ import annotations

import torch
from torch import Tensor

from lowland.core.transfer import sent


def noisy_labels(
    labels: Tensor, *, classes: int, share: float, generator: torch.Generator
) -> Tensor:
    """Each label with probability `share` replaced by another class, all others equally likely.

    So the expected cross-entropy at logits f is that of the smoothed target with 1 - share on the
    true class and share/(C - 1) on each other one, and a gradient at zero training loss still has a
    variance: that is what makes stochastic gradient descent with label noise look for flat minima
    (Damian, Ma and Lee, Label noise SGD provably prefers flat global minimizers, 2021; Blanc et
    al. 2020 for the squared loss with additive noise).

    Args:
        labels: (n,) from 0 to classes - 1.
        classes: C, two or more.
        share: probability of a wrong label, in [0, 1).
        generator: of all draws, on the CPU; the labels may live on another device.
    """
    n = len(labels)
    wrong = torch.rand(n, generator=generator) < share
    shift = torch.randint(1, classes, (n,), generator=generator) * wrong
    return (labels + sent(shift, labels.device)) % classes
