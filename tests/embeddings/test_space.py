"""Components against scikit-learn, closed forms, and what single precision would make of them."""

from __future__ import annotations

import numpy as np
import pytest
from made_vectors import low_rank
from sklearn.decomposition import PCA

from lowland.core.errors import InputError
from lowland.embeddings import open_vectors, vectors
from lowland.embeddings.metric import Metric
from lowland.embeddings.space import find_space


def test_l2_is_the_pca_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "PIECE", 12 * 37)  # ragged pieces
    x = low_rank(300, 12, 12) + 5
    space = find_space(open_vectors(x), Metric("l2"))
    pca = PCA(svd_solver="full").fit(x.astype(np.float64))
    np.testing.assert_allclose(space.mean, pca.mean_, rtol=1e-12)
    np.testing.assert_allclose(
        space.variances, pca.explained_variance_ * (299 / 300), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(np.abs(space.axes @ pca.components_.T), np.eye(12), atol=1e-8)
    assert space.share(3) == pytest.approx(pca.explained_variance_ratio_[:3].sum())
    assert space.mean_square == pytest.approx(((x - x.mean(0)) ** 2).sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "inner-product"])
def test_inner_products_have_the_components_of_second_moments(metric: str) -> None:
    x = low_rank(200, 8, 8) + 1
    space = find_space(open_vectors(x), Metric(metric))
    y = x.astype(np.float64)
    if metric == "cosine":
        y /= np.linalg.norm(y, axis=1, keepdims=True)
    values = np.linalg.svd(y, compute_uv=False) ** 2 / 200
    np.testing.assert_allclose(space.variances, values, rtol=1e-5)
    assert not space.mean.any()
    # the best approximation of all inner products with 3 numbers each (Eckart and Young)
    z = y @ space.axes[:3].T
    lost = np.linalg.norm(y @ y.T - z @ z.T) ** 2
    assert lost == pytest.approx((200 * values[3:] @ (200 * values[3:])), rel=1e-4)


def test_a_large_mean_does_not_spoil_components() -> None:
    """Spread 1 at a mean of 10,000, where sums in float32 have nothing left."""
    faiss = pytest.importorskip("faiss")
    draws = np.random.default_rng(0)
    y = draws.standard_normal((2000, 6)) * np.array([1.0, 0.5, 0.25, 0.125, 0.06, 0.03])
    x = (y + 10_000).astype(np.float32)
    true = np.linalg.eigvalsh(np.cov(x.astype(np.float64).T, bias=True))[::-1]
    space = find_space(open_vectors(x), Metric("l2"))
    np.testing.assert_allclose(space.variances, true, rtol=1e-6)
    theirs = faiss.PCAMatrix(6, 6)
    theirs.train(x)
    found = np.sort(faiss.vector_to_array(theirs.eigenvalues))[::-1]
    assert np.abs(found / found.sum() - true / true.sum()).max() > 0.01  # why ours is ours


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e20, 1e36])
def test_directions_of_any_length(size: float) -> None:
    """Squares of these leave float32."""
    x = low_rank(40, 6, 6)
    y = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    scaled = (x * np.float64(size)).astype(np.float32)
    scaled[0] = x[0]
    np.testing.assert_allclose(Metric("cosine").normalised(scaled, 0, "x"), y, atol=1e-6)


def test_vectors_whose_squares_leave_single_precision_are_refused() -> None:
    x = low_rank(40, 6, 6)
    for size in (1e-20, 1e20):
        scaled = (x * np.float64(size)).astype(np.float32)
        for metric in ("l2", "inner-product"):
            with pytest.raises(InputError, match="leave single precision: multiply all by"):
                find_space(open_vectors(scaled), Metric(metric))
        assert find_space(open_vectors(scaled), Metric("cosine")).mean_square == pytest.approx(1)


def test_no_more_components_than_there_are() -> None:
    space = find_space(open_vectors(low_rank(50, 20, 3)), Metric("l2"))
    assert space.most >= 3
    assert space.share(3) > 1 - 1e-10
    few = find_space(open_vectors(low_rank(5, 20, 20)), Metric("l2"))
    assert few.most == 4  # five points, centred


def test_axes_have_a_sign() -> None:
    x = low_rank(100, 5, 5)
    axes = find_space(open_vectors(x), Metric("l2")).axes
    assert (np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1) > 0).all()


def test_refusals() -> None:
    zero = low_rank(10, 4, 4)
    zero[7] = 0
    with pytest.raises(InputError, match="row 7 is all zeros, which has no direction"):
        find_space(open_vectors(zero), Metric("cosine"))
    with pytest.raises(InputError, match="all vectors are the same"):
        find_space(open_vectors(np.ones((5, 3), np.float32)), Metric("l2"))
    with pytest.raises(InputError, match="8193 dimensions; up to 8192"):
        find_space(open_vectors(np.ones((5, 8193), np.float32)), Metric("l2"))
    with pytest.raises(InputError, match="unknown metric 'cosin': did you mean 'cosine'"):
        Metric("cosin")
