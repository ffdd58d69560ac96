"""Graph convolutions on the nearest-neighbour graph of some points, a few of them labelled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowland.core.errors import InputError

MOST_NODES = 6_000
"""Nodes of a graph: its matrix has the square of that many numbers."""


def neighbour_graph(points: Tensor, k: int) -> Tensor:
    """The symmetric k-nearest-neighbour graph, bool (n, n): i and j are joined where either is
    among the k nearest of the other by Euclidean distance.

    Args:
        points: (n, d).
        k: neighbours of each.

    Raises:
        InputError: k is below 1, there are not more than k points, or there are too many.
    """
    n = len(points)
    if k < 1:
        raise InputError(f"neighbours is {k}: use 1 or more")
    if n <= k:
        raise InputError(f"{n} nodes cannot have {k} neighbours each: use {k + 1} nodes or more")
    if n > MOST_NODES:
        raise InputError(f"a graph of {n} nodes is too large here: use {MOST_NODES} or fewer")
    flat = points.double().flatten(1)
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    joined = torch.zeros(n, n, dtype=torch.bool)
    joined.scatter_(1, distances.topk(k, dim=1, largest=False).indices, True)
    return joined | joined.mT


def normalised(adjacency: Tensor) -> Tensor:
    """Â = D^{-1/2}·(A + I)·D^{-1/2}, where D has the row sums of A + I.

    A node without neighbours keeps Â_ii = 1: it sees itself alone.

    Args:
        adjacency: A (n, n): symmetric, weights >= 0, zeros on the diagonal.

    Raises:
        InputError: it is not that.

    >>> normalised(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
        raise InputError(f"adjacency is {tuple(adjacency.shape)}: give a square matrix")
    if not torch.equal(adjacency, adjacency.mT):
        raise InputError("adjacency is not symmetric: join both ways")
    a = adjacency if adjacency.is_floating_point() else adjacency.to(torch.get_default_dtype())
    if bool((a < 0).any()) or bool(a.diagonal().any()):
        raise InputError("adjacency needs weights of 0 or more and zeros on its diagonal")
    with_self = a + torch.eye(len(a), dtype=a.dtype)
    scale = with_self.sum(1).rsqrt()
    return scale[:, None] * with_self * scale


def convolve(mixing: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """Â·(H·W), the layer of Kipf and Welling before its activation: (m, n), (n, a), (a, b)."""
    return mixing @ (h @ weight)


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """What two layers need for the outputs of some nodes: all within one step of them.

    Attributes:
        smoothed: rows of Â·X at the nodes within one step of those asked for, (m, d).
        mixing: rows of Â at those asked for, columns at the nodes within one step, (q, m).
    """

    smoothed: Tensor
    mixing: Tensor

    @classmethod
    def of(cls, mixing: Tensor, features: Tensor, asked: Tensor) -> Neighbourhood:
        """For Â (n, n), X (n, d) and the numbers of the nodes asked for (q,)."""
        rows = mixing[asked]
        within = rows.any(0).nonzero()[:, 0]
        return cls(mixing[within] @ features, rows[:, within])


class GraphNetwork(nn.Module):
    """Â·relu(Â·X·W₁)·W₂ at the nodes of a neighbourhood: logits.

    Two layers H' = σ(Â·H·W), without biases, dropout or buffers. The first product Â·X has no
    weights and is taken once.

    Args:
        near: the nodes that it is asked about.
        classes: number of logits.
        width: hidden units of each node.

    Cost: O(m·d·w + m·w·c + q·m·c) for m nodes within a step of q that are asked for.

    Source: T. Kipf and M. Welling, 2017; weights are Glorot-uniform as there.
    """

    def __init__(self, near: Neighbourhood, classes: int, *, width: int) -> None:
        super().__init__()
        self.near = near
        self.first = nn.Parameter(torch.empty(near.smoothed.shape[1], width))
        self.second = nn.Parameter(torch.empty(width, classes))
        for weight in (self.first, self.second):
            nn.init.xavier_uniform_(weight)

    def forward(self, places: Tensor) -> Tensor:
        """Logits (b, classes) at places (b,) among the nodes that were asked for."""
        hidden = (self.near.smoothed @ self.first).relu()
        return convolve(self.near.mixing, hidden, self.second)[places]
