"""Dividing a data set among clients whose data differ."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.seeds import derived_seed


def dirichlet_clients(labels: Tensor, clients: int, alpha: float, *, seed: int = 0) -> list[Tensor]:
    """The rows of each client: classes in shares of its own, q ~ Dirichlet(α·p) (Hsu et al. 2019).

    p are the shares of the classes in `labels`. Every row goes to exactly one client, and all
    clients have equally many, up to one. α → ∞ gives every client the shares p, α → 0 a single
    class. (Where others write Dirichlet(α, ..., α) over k classes, their α is this one over k.)

    The clients take one row each in turn, of a class drawn from their q; a class of which nothing
    is left is no longer drawn, and who wants no other takes any row. So what the last turns get
    is less of q's making than what the first do, for all clients alike.

    Args:
        labels: the class of each row, (n,), whole numbers.
        clients: how many, from 1 to n.
        alpha: α > 0.
        seed: of all draws; the same numpy gives the same rows.

    Returns:
        Row numbers of each client, ascending: ``images[rows[i]]`` is its data.

    Raises:
        InputError: labels are not a list of classes, there are more clients than rows, or α is
            not above 0.

    Cost: one short draw for each row. Source: arXiv 1909.06335 for q; the turns are a choice made
    here. Confidence: good, from memory of the paper.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype}: give one whole number "
            "for each example"
        )
    n = len(labels)
    if isinstance(clients, bool) or not isinstance(clients, int) or not 1 <= clients <= n:
        raise InputError(f"clients is {clients!r}: give a whole number from 1 to {n}, the examples")
    if not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
        raise InputError(f"alpha is {alpha!r}: give a finite number above 0")
    random = np.random.default_rng(derived_seed("clients", seed))
    _, classes, counts = np.unique(labels.cpu().numpy(), return_inverse=True, return_counts=True)
    shares = class_shares(counts / n, clients, alpha, random)
    shuffled = random.permutation(n)
    waiting = [shuffled[classes[shuffled] == c].tolist() for c in range(len(counts))]
    taken: list[list[int]] = [[] for _ in range(clients)]
    for turn, u in enumerate(random.random(n)):
        client = turn % clients
        c = _draw(shares[client] * (counts > 0), counts, u)
        counts[c] -= 1
        taken[client].append(waiting[c].pop())
    return [torch.tensor(sorted(rows)) for rows in taken]


def class_shares(
    prior: np.ndarray, clients: int, alpha: float, random: np.random.Generator
) -> np.ndarray:
    """q of each client, (clients, classes): draws from Dirichlet(α·prior), with mean `prior`."""
    return random.dirichlet(alpha * prior, size=clients)


def _draw(weights: np.ndarray, left: np.ndarray, u: float) -> int:
    """A class with probability in proportion to its weight, or, if all are 0, to what is left."""
    if not weights.any():
        weights = left
    sums = np.cumsum(weights / weights.max())
    last = np.flatnonzero(weights)[-1]  # u·sum may round up to the sum
    return int(min(np.searchsorted(sums, u * sums[-1], side="right"), last))
