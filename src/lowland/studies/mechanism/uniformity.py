"""How evenly importance is spread over examples: Lorenz curve and Gini coefficient."""

from __future__ import annotations

import torch
from torch import Tensor


def gini(values: Tensor) -> Tensor:
    """Gini coefficient of non-negative values along the last axis: 0 for equal ones.

    G = Σ_ij |x_i - x_j| / (2·n²·mean x) = Σ_i (2i - n - 1)·x_(i) / (n·Σ x), x_(1) ≤ x_(2) ≤ …;
    one value among zeros has (n - 1)/n. NaN where all are zero.

    Args:
        values: (..., n).

    Cost: a sort, in float64.

    >>> gini(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    tensor(0.7500, dtype=torch.float64)
    """
    x = values.double().sort(-1).values
    n = x.shape[-1]
    rank = torch.arange(1, n + 1, dtype=x.dtype, device=x.device)
    return ((2 * rank - n - 1) * x).sum(-1) / (n * x.sum(-1))


def lorenz(values: Tensor, points: int) -> Tensor:
    """The Lorenz curve: which share of the sum the smallest share p of the values holds.

    Linear between the values, so that p = 0 gives 0, p = 1 gives 1, and equal values give p.

    Args:
        values: (..., n), not negative.
        points: at p = 0, 1/(points - 1), ..., 1.

    Returns:
        (..., points).

    >>> lorenz(torch.tensor([3.0, 1.0]), 3)
    tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """
    x = values.double().sort(-1).values
    n = x.shape[-1]
    held = torch.cat([torch.zeros_like(x[..., :1]), x.cumsum(-1)], -1) / x.sum(-1, keepdim=True)
    place = torch.linspace(0, n, points, dtype=x.dtype, device=x.device)
    below = place.floor().long().clamp_max(n - 1)
    share = place - below
    return held[..., below] + share * (held[..., below + 1] - held[..., below])
