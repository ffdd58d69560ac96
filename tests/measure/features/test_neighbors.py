"""k-nearest-neighbour error against scikit-learn, and its conventions on ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from lowland.core.errors import InputError
from lowland.measure import knn_error
from lowland.measure.features import cosine as cosine_module


def sample(n: int, d: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    labels = rng.integers(0, classes, n) * 3 - 2
    return centres[(labels + 2) // 3] + rng.normal(size=(n, d)), labels


@settings(deadline=None, max_examples=50)
@given(
    r=st.integers(1, 40),
    q=st.integers(1, 30),
    d=st.integers(2, 8),
    k=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_equals_scikit_learn(r, q, d, k, seed, dtype) -> None:
    """An even k gives tied votes in most queries; scikit-learn, too, takes the smallest label."""
    k = min(k, r)
    (x, y), (u, v) = sample(r, d, seed), sample(q, d, seed + 1)
    x, u = x.astype(dtype), u.astype(dtype)
    oracle = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
    oracle.fit(x.astype(np.float64), y)
    expected = 1 - oracle.score(u.astype(np.float64), v)
    record = knn_error(x, y, u, v, k=k)
    assert record.value == pytest.approx(expected)
    assert record.uncertainty == pytest.approx(math.sqrt(expected * (1 - expected) / q))
    assert (record.n, record.reference_size, record.dimension, record.k) == (q, r, d, k)


def test_tied_votes_go_to_the_smallest_label() -> None:
    x = torch.tensor([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [1.0, 0.4]])
    query = torch.tensor([[1.0, 0.0]])
    for labels in ([7, 7, 3, 3], [3, 3, 7, 7], [7, 3, 7, 3]):
        assert knn_error(x, labels, query, [3], k=4).value == 0.0
        assert knn_error(x, labels, query, [7], k=4).value == 1.0


def test_of_equally_near_examples_the_first_count() -> None:
    rng = np.random.default_rng(0)
    row = rng.normal(size=3000)
    scales = rng.uniform(0.1, 10, 50)[:, None]
    labels = np.arange(50)
    for k in (1, 3):
        assert knn_error(row * scales, labels, row[None], [0], k=k).value == 0.0
    assert knn_error(row * scales, labels[::-1], row[None], [49], k=1).value == 0.0


def test_a_zero_vector_is_at_distance_one_from_everything() -> None:
    reference = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.1, 1.0]])
    assert knn_error(reference, [0, 1, 2], [[1.0, 0.0]], [2], k=1).value == 0.0
    assert knn_error(reference, [0, 1, 2], [[0.0, -1.0]], [0], k=1).value == 0.0
    assert knn_error(reference, [0, 1, 2], [[0.0, 0.0]], [0], k=1).value == 0.0


@pytest.mark.parametrize("table", [1, 7, 100, 10**9])
def test_the_split_of_the_work_does_not_matter(table, monkeypatch) -> None:
    """With copies of the same rows, where the last bit of a product decides without a rule."""
    x, y = sample(60, 5, 0)
    x, y = np.tile(x, (3, 1)), np.random.default_rng(1).integers(0, 4, 180) * 3 - 2
    u, v = sample(50, 5, 1)
    expected = [knn_error(x, y, u[i : i + 1], v[i : i + 1], k=4).value for i in range(50)]
    monkeypatch.setattr(cosine_module, "TABLE", table)
    assert knn_error(x, y, u, v, k=4).value == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_scale_does_not_matter(scale) -> None:
    (x, y), (u, v) = sample(60, 5, 0), sample(50, 5, 1)
    assert knn_error(x * scale, y, u / scale, v).value == knn_error(x, y, u, v).value


def test_features_are_flattened_and_of_any_type() -> None:
    (x, y), (u, v) = sample(60, 6, 0), sample(50, 6, 1)
    expected = knn_error(x, y, u, v).value
    maps = torch.tensor(x).reshape(60, 3, 2).requires_grad_()
    assert knn_error(maps, torch.tensor(y), u.reshape(50, 3, 2), list(v)).value == expected


def test_a_label_that_the_reference_lacks_is_an_error() -> None:
    assert knn_error([[1.0]], [0], [[1.0], [1.0]], [0, 5], k=1).value == 0.5


X = torch.eye(3)
BAD = [
    ((X, [0, 1, 2], X, [0, 1, 2]), 4, "k: 4 neighbours of 3 reference examples; give 1 to 3"),
    ((X, [0, 1, 2], X, [0, 1, 2]), 0, "k: 0 neighbours of 3 reference examples; give 1 to 3"),
    ((X, [0, 1], X, [0, 1, 2]), 1, "reference_labels: shape (2,); give one label for each of 3"),
    ((X, [0, 1, 2], X, [[0, 1, 2]]), 1, "query_labels: shape (1, 3); give one label for each"),
    ((X, [0.0, 1, 2], X, [0, 1, 2]), 1, "reference_labels: of type float64; give whole"),
    ((X, ["a", "b", "c"], X, [0, 1, 2]), 1, "reference_labels: of type <U1; give whole numbers"),
    ((X, [0, 1, 2], X[:, :2], [0, 1, 2]), 1, "queries: 2 features per example, the reference"),
    ((X[:0], [], X, [0, 1, 2]), 1, "reference: empty, shape (0, 3)"),
    ((X, [0, 1, 2], X / 0, [0, 1, 2]), 1, "queries: NaN or infinity among them"),
]  # fmt: skip


@pytest.mark.parametrize(("sets", "k", "message"), BAD)
def test_bad_input(sets, k, message) -> None:
    with pytest.raises(InputError) as caught:
        knn_error(*sets, k=k)
    assert str(caught.value).startswith(message)
