"""Clients with classes in shares of their own: a partition, and its distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data import dirichlet_clients
from lowland.data.clients import class_shares


def labels_of(counts: list[int]) -> Tensor:
    return torch.cat([torch.full((n,), 3 * c - 1) for c, n in enumerate(counts)])


@settings(deadline=None, max_examples=100)
@given(
    counts=st.lists(st.integers(1, 15), min_size=1, max_size=5),
    alpha=st.sampled_from([1e-300, 1e-6, 0.05, 1.0, 1e6]),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_every_row_goes_to_one_client_and_all_have_equally_many(
    counts: list[int], alpha: float, seed: int, data: st.DataObject
) -> None:
    labels = labels_of(counts)
    clients = data.draw(st.integers(1, len(labels)))
    rows = dirichlet_clients(labels, clients, alpha, seed=seed)
    assert sorted(torch.cat(rows).tolist()) == list(range(len(labels)))
    sizes = [len(r) for r in rows]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    assert all(r.dtype == torch.int64 and r.tolist() == sorted(r.tolist()) for r in rows)


def test_the_same_seed_gives_the_same_clients() -> None:
    labels = labels_of([30, 20, 10])
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    one, same, other = (dirichlet_clients(labels, 7, 0.5, seed=s) for s in (1, 1, 2))
    assert all(map(torch.equal, one, same))
    assert not all(map(torch.equal, one, other))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]  # type: ignore[index]


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_shares_have_the_moments_of_the_distribution(alpha: float) -> None:
    """Mean p, and E Σq² = Σp² + (1 − Σp²)/(α + 1); five standard errors."""
    prior = np.array([0.5, 0.3, 0.2])
    q = class_shares(prior, 20_000, alpha, np.random.default_rng(0))
    square = (q**2).sum(1)
    expected = (prior**2).sum() + (1 - (prior**2).sum()) / (alpha + 1)
    assert abs(square.mean() - expected) < 5 * square.std() / len(q) ** 0.5
    assert (np.abs(q.mean(0) - prior) < 5 * q.std(0) / len(q) ** 0.5).all()


def test_large_alpha_gives_everybody_the_shares_of_all() -> None:
    """Random draws of 2,000 rows per client: within five standard deviations of a share."""
    labels = labels_of([5000, 3000, 2000])
    for rows in dirichlet_clients(labels, 5, 1e9):
        found = labels[rows].unique(return_counts=True)[1] / 2000
        assert (found - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 5 * 0.5 / 2000**0.5


def test_small_alpha_gives_a_client_one_class_until_it_is_gone() -> None:
    labels = labels_of([100] * 10)
    rows = dirichlet_clients(labels, 10, 1e-4, seed=3)
    first = [labels[r].unique(return_counts=True)[1].max() for r in rows]
    mixed = dirichlet_clients(labels, 10, 1e4, seed=3)
    largest = [labels[r].unique(return_counts=True)[1].max() for r in mixed]
    assert sum(int(m) for m in first) > 2 * sum(int(m) for m in largest)


@pytest.mark.parametrize(
    ("labels", "clients", "alpha", "says"),
    [
        (torch.zeros(4, 1, dtype=torch.int64), 2, 1.0, "one whole number for each example"),
        (torch.zeros(4), 2, 1.0, "one whole number"),
        (torch.zeros(4, dtype=torch.int64), 0, 1.0, "clients is 0: .* from 1 to 4"),
        (torch.zeros(4, dtype=torch.int64), 5, 1.0, "clients is 5"),
        (torch.zeros(4, dtype=torch.int64), 2.0, 1.0, "clients is 2.0"),
        (torch.zeros(4, dtype=torch.int64), 2, 0.0, "alpha is 0.0: give a finite number above 0"),
        (torch.zeros(4, dtype=torch.int64), 2, float("nan"), "alpha is nan"),
    ],
)
def test_what_cannot_be_divided(labels: Tensor, clients: int, alpha: float, says: str) -> None:
    with pytest.raises(InputError, match=says):
        dirichlet_clients(labels, clients, alpha)
