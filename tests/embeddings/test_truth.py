"""True neighbours against brute force; ties; recall and its interval."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_vectors import brute_force, low_rank, recall

from lowland.core.errors import InputError
from lowland.embeddings import METRICS, Recall, Target, open_vectors, vectors
from lowland.embeddings.metric import Metric
from lowland.embeddings.queries import choose_queries
from lowland.embeddings.space import find_space
from lowland.embeddings.truth import SPARE, Queries, find_truth, without_own
from lowland.measure.proportions import wilson

pytest.importorskip("faiss")


def truth(x: Any, metric: str, own: Any, k: int = 5, queries: Any = None) -> Queries:
    opened = open_vectors(x)
    space = find_space(opened, Metric(metric))
    raw = opened.take(np.asarray(own)) if queries is None else queries
    own = np.asarray(own) if queries is None else np.full(len(raw), -1)
    return find_truth(opened, space, raw, own, k)


@pytest.mark.parametrize("metric", METRICS)
def test_true_neighbours_are_those_of_brute_force(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "PIECE", 10 * 41)
    x = low_rank(200, 10, 10) + 0.5
    own = np.array([3, 50, 199])
    found = truth(x, metric, own)
    np.testing.assert_array_equal(found.right[:, :5], brute_force(x, x[own], 5, metric, own))
    assert (found.right[:, 5:] == -1).all()
    other = low_rank(20, 10, 10, seed=1)
    given = truth(x, metric, [], queries=other)
    np.testing.assert_array_equal(given.right[:, :5], brute_force(x, other, 5, metric))


def test_a_large_mean_does_not_spoil_distances() -> None:
    x = low_rank(300, 8, 8) + 3000
    own = np.arange(50)
    found = truth(x, "l2", own)
    assert recall(found.right[:, :5], brute_force(x, x[own], 5, "l2", own)) > 0.99


def test_as_near_as_the_last_is_right_too() -> None:
    x = low_rank(50, 4, 4)
    copies = np.concatenate([x, x, x])  # each vector has two others at distance 0
    found = truth(copies, "l2", [0], k=1)
    assert set(found.right[0][found.right[0] >= 0]) == {50, 100}
    assert found.recalls(np.array([[100, 7]]))[0] == 1
    assert found.recalls(np.array([[0, 50]]))[0] == 1  # itself does not count
    assert found.recalls(np.array([[0, 7]]))[0] == 0


def test_as_near_but_for_rounding_is_right_too() -> None:
    """Copies of other lengths have the same direction, but for the last digits."""
    x = low_rank(40, 16, 16)
    copies = np.concatenate([x, x / np.float32(3), x * np.float32(7), x * np.float32(0.1)])
    found = truth(copies, "cosine", np.arange(40), k=1)
    assert ((found.right >= 0).sum(1) == 3).all()


def test_queries_are_drawn_from_everywhere() -> None:
    opened = open_vectors(low_rank(500, 4, 4))
    space = find_space(opened, Metric("l2"))
    drawn = []
    for seed in (0, 0, 1):
        asked = SimpleNamespace(target=Target(1, 0.9), query_count=40, seed=seed)
        drawn.append(choose_queries(opened, space, None, asked, None)[0].own)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert len(set(drawn[0].tolist())) == 40
    assert drawn[0].max() > 400


def test_a_query_with_too_many_ties_is_left_out() -> None:
    x = low_rank(150, 4, 4)
    x[: SPARE + 10] = x[0]
    assert len(truth(x, "l2", [0, 149], k=1)) == 1
    asked = SimpleNamespace(target=Target(1, 0.9), query_count=4, seed=0)
    opened = open_vectors(np.concatenate([np.ones((200, 3)), np.zeros((1, 3))]).astype("f4"))
    space = find_space(opened, Metric("l2"))
    with pytest.raises(InputError, match="queries have more than 64 vectors at the distance"):
        choose_queries(opened, space, None, asked, None)


def of_lines(x: Any, q: Any, k: int) -> Any:
    """Recall by its definition: the best overlap with any valid set of k nearest (q, k)."""
    far = np.abs(np.asarray(x)[None, :, 0] - np.asarray(q)[:, :1])
    limit = np.sort(far, axis=1)[:, k - 1]
    must = [set(np.flatnonzero(row < end)) for row, end in zip(far, limit, strict=True)]
    may = [set(np.flatnonzero(row == end)) for row, end in zip(far, limit, strict=True)]

    def recalls(found: Any) -> list[float]:
        shares = []
        for a, b, row in zip(must, may, found.tolist(), strict=True):
            shares.append((len(a & set(row)) + min(len(b & set(row)), k - len(a))) / k)
        return shares

    return recalls


def test_a_missed_nearest_is_missed_however_many_are_as_near_as_the_last() -> None:
    x = np.array([[1.0], [2.0], [2.0], [2.0], [2.0], [9.0]], np.float32) * 10
    found = truth(x, "l2", [], k=2, queries=np.zeros((1, 1), np.float32))
    assert found.nearer.tolist() == [1]
    for places, share in (([0, 3], 1.0), ([1, 2], 0.5), ([3, 0], 1.0), ([0, 5], 0.5), ([5, 5], 0)):
        assert found.recalls(np.array([places]))[0] == share
    # four of them among which the nearest is: exact scores bring it to the front
    assert found.recalls(np.array([[1, 2, 3, 0]]), 4)[0] == 1.0
    assert found.recalls(np.array([[1, 2, 3, 5]]), 4)[0] == 0.5


def test_recall_is_its_definition_on_ties_of_all_kinds() -> None:
    draws = np.random.default_rng(0)
    x = draws.integers(0, 12, (60, 1)).astype(np.float32)
    q = draws.integers(0, 12, (40, 1)).astype(np.float32)
    for k in (1, 3, 10):
        asked = truth(x, "l2", [], k=k, queries=q)
        assert len(asked) == 40
        for width in (k, k + 5):
            places = np.array([draws.choice(60, width, replace=False) for _ in q])
            places[:, -1] = np.where(draws.random(40) < 0.3, -1, places[:, -1])
            np.testing.assert_allclose(asked.recalls(places, width), of_lines(x, q, k)(places))


def test_recall_at_a_thousand_fits_in_memory() -> None:
    """Pairs of found and right places are 5 × 10⁸ here."""
    count, k, among = 100, 1000, 5000
    right = np.argsort(np.random.default_rng(0).random((count, 20_000)), axis=1)[:, : k + SPARE]
    right[:, k:] = -1
    vectors = np.zeros((count, 1), np.float32)
    asked = Queries(
        raw=vectors,
        prepared=vectors,
        own=np.full(count, -1),
        right=right,
        nearer=np.full(count, k - 1),
        k=k,
    )
    found = np.concatenate([right[:, 100:k], np.full((count, among - k + 100), -1)], 1)
    tracemalloc.start()
    shares = asked.recalls(found, among)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(shares, 0.9)
    assert peak < 100e6


def test_a_query_without_direction_is_named_as_its_file_has_it(tmp_path: Path) -> None:
    q = low_rank(400, 4, 4, seed=2)
    q[389] = 0
    np.save(tmp_path / "q.npy", q)
    opened = open_vectors(low_rank(100, 4, 4))
    space = find_space(opened, Metric("cosine"))
    asked = SimpleNamespace(target=Target(1, 0.9), query_count=390, seed=0)
    with pytest.raises(InputError, match=r"q\.npy: row 389 is all zeros"):
        choose_queries(opened, space, tmp_path / "q.npy", asked, None)


def test_queries_that_are_vectors_are_counted() -> None:
    x, q = low_rank(100, 8, 8), low_rank(30, 8, 8, seed=2)
    q[:7] = x[50:57]
    for metric in ("cosine", "l2"):
        space = find_space(open_vectors(x), Metric(metric))
        asked = SimpleNamespace(target=Target(1, 0.9), query_count=30, seed=0)
        assert choose_queries(open_vectors(x), space, q, asked, None)[1]["copies"] == 7
        assert choose_queries(open_vectors(x), space, None, asked, None)[1]["copies"] == 0


def test_own_place_is_left_out() -> None:
    found = np.array([[4, 7, 2, 9], [4, 7, 2, 9]])
    kept = without_own(found, np.array([7, -1]), 3)
    np.testing.assert_array_equal(kept, [[4, 2, 9], [4, 7, 2]])


def test_reranking_counts_what_it_can_bring_to_the_front() -> None:
    right = np.array([[1, 2, -1]])
    queries = Queries(
        raw=np.zeros((1, 2), "f4"),
        prepared=np.zeros((1, 2), "f4"),
        own=np.array([-1]),
        right=right,
        nearer=np.array([1]),
        k=2,
    )
    found = np.array([[8, 1, 9, 2]])
    assert queries.recalls(found)[0] == 0.5
    assert queries.recalls(found, 4)[0] == 1


def test_recall_has_wilsons_interval_of_independent_neighbours() -> None:
    draws = np.random.default_rng(0)
    alone = Recall.of(draws.binomial(10, 0.9, 500) / 10)
    low, high = wilson(alone.value, 5000)  # 10 independent neighbours each
    assert alone.low == pytest.approx(low, abs=2e-3)
    assert alone.high == pytest.approx(high, abs=2e-3)
    together = Recall.of((draws.random(500) < 0.9).astype(float))  # all 10 or none
    assert together.low == pytest.approx(wilson(together.value, 500)[0], abs=1e-3)
    perfect = Recall.of(np.ones(100))
    assert (perfect.low, perfect.high) == wilson(1.0, 100)
    assert perfect.reaches(1.0)
    assert not alone.reaches(alone.value)


def test_the_interval_covers() -> None:
    """Of 400 sets of correlated queries, the true mean is inside about 95 times in 100."""
    draws = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        p = draws.beta(9, 1, 200)  # queries that are easy and hard
        found = Recall.of(draws.binomial(10, p) / 10)
        inside += found.low <= 0.9 <= found.high
    assert 0.92 <= inside / 400 <= 0.99
    narrow = sum(
        abs(np.mean(draws.binomial(10, draws.beta(9, 1, 200)) / 10) - 0.9)
        <= 1.96 * math.sqrt(0.09 / 2000)
        for _ in range(400)
    )
    assert narrow / 400 < 0.92  # what 10 neighbours as 10 observations would give


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recall@10=99", "give a share, recall@10=0.99"),
        ("recall@10=99%", "give a share, recall@10=0.99"),
        ("recall@0=0.9", "K from 1"),
        ("recall=0.9", "such as recall@10=0.99"),
        ("recall@10=0", "above 0"),
        ("recall@10=nan", "such as"),
        ("recall@10=x", "such as"),
        ("recall@10=-0.1", "such as"),
        ("recall@10=101", "such as"),
        ("recall@0", "K from 1"),
        ("recall@", "such as"),
        ("recall@10=", "such as"),
    ],
)
def test_targets_that_are_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Target.parse(text)


def test_target() -> None:
    assert Target.parse(" recall@5 = 0.875 ") == Target(5, 0.875)
    assert str(Target(10, 1.0)) == "recall@10=1"
    assert Target.parse("recall@7 ") == Target(7, None)
    assert str(Target(7, None)) == "recall@7"
