"""What a search needs, against scikit-learn, brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from lowland.embeddings import CODECS
from lowland.studies.retrieval.coordinates import Coordinates, coordinates
from lowland.studies.retrieval.reconstruction import (
    best_for,
    components_for,
    lost_by_bits,
    relative_errors,
)
from lowland.studies.retrieval.searching import Searches, between

pytest.importorskip("faiss")


def features(n: int, d: int, rank: int, seed: int = 0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, d, generator=torch.Generator().manual_seed(9)) / d**0.5
    scales = torch.linspace(2, 0.5, rank)
    return (torch.randn(n, rank, generator=draws) * scales) @ basis + 0.3


@pytest.mark.parametrize(("n", "d"), [(80, 20), (30, 50)])
def test_centred_coordinates_are_those_of_pca(n: int, d: int) -> None:
    """From the matrix of features and from that of examples, whichever is smaller."""
    x, q = features(n, d, 60).double(), features(7, d, 60, seed=1).double()
    where = coordinates(x, q, "l2")
    pca = PCA(n_components=min(n - 1, d), svd_solver="full").fit(x.numpy())
    assert where.rank == min(n - 1, d)
    theirs = pca.transform(x.numpy()), pca.transform(q.numpy())
    np.testing.assert_allclose(np.abs(where.database), np.abs(theirs[0]), atol=1e-7)
    np.testing.assert_allclose(np.abs(where.queries), np.abs(theirs[1]), atol=1e-7)
    lost = ((q.numpy() - pca.inverse_transform(pca.transform(q.numpy()))) ** 2).sum(1).mean()
    assert where.outside == pytest.approx(lost, abs=1e-9)
    share = np.cumsum(pca.explained_variance_ratio_)
    assert where.share(0.9) == int(np.searchsorted(share, 0.9)) + 1


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_coordinates_keep_neighbours(metric: str) -> None:
    x, q = features(200, 40, 25), features(20, 40, 25, seed=1)
    search = Searches(coordinates(x, q, metric))
    kind = "cosine" if metric == "cosine" else "euclidean"
    near = NearestNeighbors(n_neighbors=10, metric=kind, algorithm="brute").fit(x.double().numpy())
    assert search.recall(near.kneighbors(q.double().numpy())[1]) > 0.99
    assert search.exact(25) == pytest.approx(1.0, abs=1e-2)


def test_planted_rank_is_where_recall_becomes_one() -> None:
    x, q = features(300, 64, 12), features(50, 64, 12, seed=1)
    search = Searches(coordinates(x, q, "l2"))
    found = search.crossing(search.exact, 1.0)
    assert found is not None
    assert 11 < found <= 12
    assert search.exact(11) < 1
    assert search.coded(CODECS["float32"], 12) == search.exact(12)


def test_crossings_lie_between_what_was_tried() -> None:
    where = coordinates(features(200, 40, 40), features(20, 40, 40, seed=1), "l2")
    search = Searches(where)

    def straight(k: int) -> float:  # linear in log k, so that interpolation is exact
        return float(np.log2(k) / np.log2(where.rank))

    for target in (0.3, 0.62, 0.9):
        assert search.crossing(straight, target) == pytest.approx(where.rank**target)
    assert search.crossing(straight, 1.1) is None
    assert search.crossing(lambda k: 1.0, 0.5) == 1
    assert search.crossing(straight, 0.9, step=41) is None
    assert between(1, 0.0, 4, 1.0, 0.5) == 2


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_components_at_a_recall_against_all_pairs_in_float64(metric: str) -> None:
    x, q = (features(n, 30, 20, seed=s).double().numpy() for n, s in ((100, 0), (20, 1)))
    if metric == "cosine":
        x, q = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, q))
    else:
        x, q = x - x.mean(0), q - x.mean(0)
    axes = np.linalg.svd(x, full_matrices=False)[2]

    def nearest(k: int) -> list[set[int]]:
        a, b = x @ axes[:k].T, q @ axes[:k].T
        far = [[-u @ v if metric == "cosine" else ((u - v) ** 2).sum() for v in a] for u in b]
        return [set(np.argsort(row)[:10].tolist()) for row in far]

    true = nearest(30)  # of rows of 30 numbers: all of them
    raw = (torch.tensor(features(n, 30, 20, seed=s).numpy()) for n, s in ((100, 0), (20, 1)))
    search = Searches(coordinates(*raw, metric))
    recalls = [
        np.mean([len(a & b) / 10 for a, b in zip(nearest(k), true, strict=True)])
        for k in search.grid
    ]
    for target in (0.5, 0.8, 0.95):
        above = next(i for i, r in enumerate(recalls) if r >= target)
        sizes, shares = search.grid[above - 1 : above + 1], recalls[above - 1 : above + 1]
        between_them = float(np.exp(np.interp(target, shares, np.log(sizes))))
        assert search.crossing(search.exact, target) == pytest.approx(between_them, rel=1e-6)


def test_only_so_many_components_are_tried() -> None:
    where = coordinates(features(200, 40, 40), features(20, 40, 40, seed=1), "l2")
    whole, some = Searches(where), Searches(where, most=10)
    assert (whole.grid[-1], some.grid[-1]) == (40, 10)
    assert some.exact(10) == whole.exact(10) < 1  # true neighbours are those by all features
    assert some.coded(CODECS["float32"], 8) == whole.coded(CODECS["float32"], 8)
    assert some.crossing(some.exact, 0.99) is None


def test_operations_of_all_lists_are_those_of_everything() -> None:
    where = coordinates(features(400, 30, 20), features(30, 30, 20, seed=1), "l2")
    search = Searches(where)
    lists = 10  # 400 // 39
    some, every = search.operations(20, 0.9), search.operations(20, 1.0 - 1e-9)
    assert some is not None
    assert every is not None
    assert some < every <= 20 * (lists + 400)
    assert search.operations(2, 0.99) is None


def uniform(n: int, r: int, scale: float = 1.0) -> Coordinates:
    draws = np.random.default_rng(0)
    scales = scale * 2.0 ** -np.arange(r)
    database = draws.uniform(-1, 1, (n, r)) * scales
    queries = draws.uniform(-1, 1, (n, r)) * scales
    return Coordinates(metric="l2", database=database, queries=queries, outside=0.0, width=r)


def test_levels_lose_a_twelfth_of_their_square() -> None:
    where = uniform(20_000, 3)
    for bits in (1, 4, 8):
        cells = 2.0 / 2**bits * 2.0 ** -np.arange(3)
        np.testing.assert_allclose(lost_by_bits(where, bits), cells**2 / 12, rtol=0.03)


def test_what_lies_outside_the_levels_takes_the_nearest() -> None:
    where = Coordinates(
        metric="l2",
        database=np.array([[-1.0], [1.0]]),
        queries=np.array([[5.0], [-0.5]]),
        outside=0.0,
        width=1,
    )
    assert lost_by_bits(where, 1)[0] == pytest.approx((5 - 0.5) ** 2 / 2)


def test_what_is_lost_is_codes_and_the_rest() -> None:
    where = uniform(5000, 4)
    squares = (where.queries**2).mean(0)
    errors = relative_errors(where, np.zeros(4))
    for k in range(4):
        assert errors[k] == pytest.approx(squares[k + 1 :].sum() / squares.sum(), abs=1e-12)
    # 3/4, 3/16, 3/64 ... of the variance: 1/16 is left after two, 1/64 after three
    assert [components_for(where, e) for e in (0.3, 0.07, 0.02, 0.001)] == [1, 2, 3, 4]
    outside = Coordinates(**{**vars(where), "outside": 0.1 * squares.sum()})
    assert components_for(outside, 0.05) is None
    assert best_for(outside, 0.05) is None


def test_the_best_product_of_components_and_bits() -> None:
    where = uniform(5000, 4)
    best = best_for(where, 0.07)
    assert best is not None
    tried = [
        (k, bits)
        for bits in range(1, 11)
        for k in range(1, 5)
        if relative_errors(where, lost_by_bits(where, bits))[k - 1] <= 0.07
    ]
    assert best[0] * best[1] == min(k * bits for k, bits in tried)


@pytest.mark.parametrize(("n", "d"), [(120, 20), (30, 50)])
def test_errors_are_those_of_features_put_together_again(n: int, d: int) -> None:
    """From levels to components to features, compared with the features themselves."""
    x, q = (features(m, d, 60, seed=s).double() for m, s in ((n, 0), (40, 1)))
    where = coordinates(x, q, "l2")
    mean = x.mean(0)
    axes = torch.linalg.svd(x - mean, full_matrices=False)[2][: where.rank]
    total = ((q - mean) ** 2).sum()
    for bits in (2, 5):
        lost = relative_errors(where, lost_by_bits(where, bits))
        for k in (1, 7, where.rank):
            known = (x - mean) @ axes[:k].T
            low, high = known.min(0).values, known.max(0).values
            cell = (high - low) / 2**bits
            z = (q - mean) @ axes[:k].T
            levels = ((z - low) / cell).floor().clamp(0, 2**bits - 1)
            again = mean + (low + (levels + 0.5) * cell) @ axes[:k]
            assert lost[k - 1] == pytest.approx(float(((q - again) ** 2).sum() / total), rel=1e-8)


def test_scale_does_not_matter() -> None:
    one, other = uniform(1000, 4), uniform(1000, 4, scale=1e-6)
    assert best_for(one, 0.02) == best_for(other, 0.02)
    assert components_for(one, 0.02) == components_for(other, 0.02)
