"""Compressing as a whole: what is chosen, and what is found with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_vectors import brute_force, low_rank, recall, save_all
from safetensors.numpy import load_file, save_file

from lowland.core.errors import InputError
from lowland.embeddings import (
    METRICS,
    compress,
    compressed,
    compressing,
    fastest,
    load,
    vectors,
)
from lowland.embeddings.choosing import Search
from lowland.embeddings.compressed import Compressed
from lowland.embeddings.truth import Queries

faiss = pytest.importorskip("faiss")
X = low_rank(1500, 32, 6, noise=0.02) + 0.2
FEW: dict[str, Any] = {"query_count": 200, "quantizers": "float32,float16,sq8,sq4"}


@pytest.mark.parametrize("metric", METRICS)
def test_it_finds_what_exact_search_finds(metric: str, tmp_path: Path) -> None:
    paths = save_all(tmp_path, X)
    found = compress(
        paths["npy"], metric=metric, target="recall@10=0.9", out=tmp_path / "out", **FEW
    )
    assert found.recall.value >= 0.87
    assert found.recall.low <= found.recall.value <= found.recall.high
    assert found.after.bytes < found.before.bytes / 4
    assert found.queries["validation"] == found.queries["test"] == 100
    loaded = load(tmp_path / "out")
    places = np.arange(0, 1500, 9)
    _, ids = loaded.search(X[places], 11)
    others = [[i for i in row if i != own][:10] for row, own in zip(ids, places, strict=True)]
    assert recall(others, brute_force(X, X[places], 10, metric, places)) == pytest.approx(
        found.recall.value, abs=0.03
    )


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    records = []
    for name, path in save_all(tmp_path, X).items():
        found = compress(path, target="recall@10=0.9", out=tmp_path / name, **FEW)
        records.append((found.quantizer, found.dimensions, found.recall))
        tensors = load_file(tmp_path / name / "transform.safetensors")
        np.testing.assert_array_equal(
            tensors["components"],
            load_file(tmp_path / "npy" / "transform.safetensors")["components"],
        )
    assert records[0] == records[1] == records[2]


def test_the_transform_is_what_the_index_stores(tmp_path: Path) -> None:
    for metric in METRICS:
        found = compress(X, metric=metric, target="recall@10=0.9", out=tmp_path / "o", **FEW)
        loaded = load(tmp_path / "o")
        y = X.astype(np.float64)
        if metric == "cosine":
            y /= np.linalg.norm(y, axis=1, keepdims=True)
        y = (y - loaded.mean) @ loaded.components.T
        np.testing.assert_allclose(loaded.transform(X), y, atol=2e-5)
        chain, stored = faiss.downcast_index(loaded.index).chain, X
        for i in range(chain.size()):
            stored = faiss.downcast_VectorTransform(chain.at(i)).apply(stored)
        np.testing.assert_allclose(stored, y, atol=2e-5)
        assert y.shape == (1500, found.dimensions)


def test_scores_are_those_of_the_vectors() -> None:
    options = {"target": "recall@10=0.98", "query_count": 100, "quantizers": "float16"}
    planted = low_rank(500, 32, 6)  # nothing is lost with 6 components
    for metric in METRICS:
        found = compress(planted, metric=metric, **options).result
        assert found.scale != 1
        scores, ids = found.search(planted[:5], 3)
        for query, row, places in zip(planted[:5].astype(np.float64), scores, ids, strict=True):
            x = planted[places].astype(np.float64)
            if metric == "l2":
                true = ((x - query) ** 2).sum(1)
            else:
                true = x @ query
                if metric == "cosine":
                    true /= np.linalg.norm(x, axis=1) * np.linalg.norm(query)
            np.testing.assert_allclose(row, true, rtol=5e-3, atol=5e-3)


def test_reranking_needs_fewer_bytes_and_gives_exact_scores(tmp_path: Path) -> None:
    path = save_all(tmp_path, X)["npy"]
    plain = compress(path, target="recall@10=0.95", **FEW)
    found = compress(path, target="recall@10=0.95", rerank=5, out=tmp_path / "out", **FEW)
    assert found.after.bytes < plain.after.bytes
    assert found.recall.value >= 0.93
    scores, ids = load(tmp_path / "out").search(X[:4], 10)
    unit = X.astype(np.float64) / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    exact = np.take_along_axis(unit[:4] @ unit.T, ids, 1)
    np.testing.assert_allclose(scores, exact, atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    path.rename(tmp_path / "moved.npy")
    with pytest.raises(InputError, match=r"v.npy: no such file"):
        load(tmp_path / "out")
    again = load(tmp_path / "out", features=tmp_path / "moved.npy")
    np.testing.assert_array_equal(again.search(X[:4], 10)[1], ids)
    with pytest.raises(InputError, match="what was compressed has"):
        load(tmp_path / "out", features=X[:10])
    with pytest.raises(InputError, match="not the vectors that were compressed, though as many"):
        load(tmp_path / "out", features=X[::-1])
    load(tmp_path / "out", features=X)


def test_given_queries_are_used(tmp_path: Path) -> None:
    other = low_rank(60, 32, 32, seed=5)
    np.save(tmp_path / "q.npy", other)
    found = compress(X, queries=tmp_path / "q.npy", target="recall@5=0.9", **FEW)
    assert found.queries["source"] == str(tmp_path / "q.npy")
    assert found.queries["count"] == 60
    some = compress(X, queries=other, target="recall@5=0.9", query_count=20, quantizers="float32")
    assert some.queries["source"] == "20 of 60 of queries"


def test_recall_is_of_queries_that_chose_nothing() -> None:
    found = compress(X, target="recall@10=0.9", query_count=101, quantizers="sq8,sq4")
    assert (found.validation.queries, found.recall.queries) == (50, 51)
    places = np.arange(0, 44, 2)
    asked = Queries(
        raw=X[places],
        prepared=X[places],
        own=places,
        right=places[:, None],
        nearer=np.zeros(22, int),
        k=1,
    )
    one, other = compressing._halves(asked, seed=0)
    assert sorted([*one.own, *other.own]) == places.tolist()
    assert len(one) == len(other) == 11
    np.testing.assert_array_equal(other.raw, X[other.own])
    assert list(one.own) != list(compressing._halves(asked, seed=1)[0].own)


@pytest.mark.parametrize("as_path", [True, False])
def test_the_vectors_are_no_queries(as_path: bool, tmp_path: Path) -> None:
    """Each would find itself, and recall@1 be 1 whatever is stored."""
    path = save_all(tmp_path, X)["npy"]
    source, queries = (path, tmp_path / "." / "v.npy") if as_path else (X, X)
    with pytest.raises(InputError, match=r"are the vectors themselves, .* leave --queries out"):
        compress(source, queries=queries, target="recall@5=0.9", **FEW)


def test_queries_have_a_column_of_their_own(tmp_path: Path) -> None:
    paths = save_all(tmp_path, X)
    save_file({"asked": X[:40] + 0.01, "v": X[:30] + 0.01}, tmp_path / "q.safetensors")

    def count(features: str, **options: Any) -> int:
        queries = tmp_path / "q.safetensors"
        options = {**FEW, **options, "target": "recall@5=0.9", "quantizers": "sq8"}
        return int(compress(paths[features], queries=queries, **options).queries["count"])

    assert count("npy", queries_column="asked") == 40
    assert count("parquet", column="v") == 30
    assert count("parquet", column="v", queries_column="asked") == 40
    with pytest.raises(InputError, match=r"2 tensors \(asked, v\): name one with --queries-column"):
        count("npy")


def test_the_same_seed_gives_the_same() -> None:
    one, two = (compress(X, target="recall@10=0.9", **FEW) for _ in range(2))
    assert one.trials == two.trials
    assert one.recall == two.recall
    np.testing.assert_array_equal(one.result.components, two.result.components)


def test_threads_decide_nothing() -> None:
    """Products are summed in another order, which moves the last digits and no choice."""
    before = faiss.omp_get_max_threads()
    options = {"target": "recall@5=0.9", "query_count": 50, "quantizers": "sq8,pq2x4"}
    try:
        faiss.omp_set_num_threads(1)
        one = compress(X[:700], **options)
        faiss.omp_set_num_threads(2)
        two = compress(X[:700], **options)
    finally:
        faiss.omp_set_num_threads(before)
    assert (one.threads, two.threads) == (1, 2)
    names = ("quantizer", "dimensions", "bytes", "reaches")
    tried = [[tuple(t[name] for name in names) for t in c.trials] for c in (one, two)]
    assert tried[0] == tried[1]
    assert one.recall.value == pytest.approx(two.recall.value, abs=0.01)
    np.testing.assert_allclose(one.result.components, two.result.components, atol=1e-6)


def test_pieces_change_nothing_but_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array, its file, and both in pieces of 100 rows."""
    path = save_all(tmp_path, X)["npy"]
    options = {**FEW, "metric": "l2", "target": "recall@10=0.9"}
    array, file = (compress(source, **options) for source in (X, path))
    monkeypatch.setattr(vectors, "PIECE", 32 * 100)
    pieces = compress(path, **options)
    assert array.trials == file.trials == pieces.trials
    assert array.recall == file.recall == pieces.recall
    np.testing.assert_array_equal(array.result.components, file.result.components)
    np.testing.assert_allclose(array.result.components, pieces.result.components, atol=1e-6)
    codes = [faiss.downcast_index(c.result.index.index).codes for c in (array, file, pieces)]
    whole, same, close = (faiss.vector_to_array(of).astype(int) for of in codes)
    np.testing.assert_array_equal(whole, same)
    assert (whole != close).mean() < 1e-3


def test_a_limit_of_bytes_in_place_of_a_share() -> None:
    found = compress(X, target="recall@10", at_most=9, **FEW)
    assert (found.target, found.k, found.wanted, found.at_most) == ("recall@10", 10, None, 9)
    assert found.after.bytes <= 9
    assert {t["quantizer"] for t in found.trials} == {"float32", "float16", "sq8", "sq4"}
    assert max(t["recall"] for t in found.trials) == found.validation.value
    more = compress(X, target="recall@10", at_most=30, **FEW)
    assert more.validation.value > found.validation.value
    for options in ({}, {"at_most": 9, "prefer": "speed"}):
        with pytest.raises(InputError, match=r"recall@10 names no share: give recall@10=0\.99"):
            compress(X, target="recall@10", **options, **FEW)
    with pytest.raises(InputError, match=r"no quantizer stores a vector in 0\.1 bytes"):
        compress(X, target="recall@10", at_most=0.1, **FEW)


def test_no_more_are_put_in_order_than_a_user_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 times 4, with the query itself 41 and not 44."""
    asked: list[tuple[int, int]] = []
    search = Compressed.search_among

    def spied(self: Any, queries: Any, k: int, among: int) -> Any:
        asked.append((k, among))
        return search(self, queries, k, among)

    monkeypatch.setattr(Compressed, "search_among", spied)
    compress(X, target="recall@10=0.9", rerank=4, **FEW)
    assert asked[0] == (11, 41)
    asked.clear()
    compress(X, target="recall@10=0.9", rerank=4, queries=X[:50] + 0.01, **FEW).result.search(X, 10)
    assert asked[0] == asked[-1] == (10, 40)


def test_reranking_holds_few_vectors_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compress(X, target="recall@10=0.9", rerank=5, **FEW).result
    whole = found.search(X[:60], 10)
    monkeypatch.setattr(compressed, "PIECE", 32 * 50)  # 50 candidates are 1 query, 4 at a time
    taken: list[int] = []
    take = found.features.take
    monkeypatch.setattr(found.features, "take", lambda ids: (taken.append(len(ids)), take(ids))[1])
    scores, ids = found.search(X[:60], 10)
    np.testing.assert_array_equal(ids, whole[1])
    np.testing.assert_array_equal(scores, whole[0])
    assert len(taken) == 15
    assert max(taken) <= 200


def test_places_that_were_not_found_come_last() -> None:
    """Lists and graphs may find fewer than are asked for, and say -1."""
    found = compress(X, target="recall@10=0.9", rerank=3, metric="l2", **FEW).result
    few = np.array([[-1, 7, -1, 5, -1, -1], [9, 8, 7, 6, 5, 4]])
    index = SimpleNamespace(search=lambda rows, k: (np.zeros((2, 6), np.float32), few))
    scores, ids = dataclasses.replace(found, index=index).search(X[:2], 2)
    assert sorted(ids[0]) == [5, 7]
    scores, ids = dataclasses.replace(found, index=index, rerank=2).search(X[:2], 3)
    assert ids[0, 2] == -1
    assert scores[0, 2] == np.inf
    assert (ids[1] >= 0).all()
    assert np.isfinite(scores[1]).all()


def test_queries_without_direction_are_refused() -> None:
    found = compress(X, target="recall@10=0.8", **FEW).result
    queries = X[:3].copy()
    queries[2] = 0
    for search in (found.search, found.transform):
        with pytest.raises(InputError, match="row 2 is all zeros, which has no direction"):
            search(queries)
    np.testing.assert_array_equal(found.search(X[:3] * 1e-25, 5)[1], found.search(X[:3], 5)[1])
    before = queries.copy()
    found.search(queries[:2])
    np.testing.assert_array_equal(queries, before)


def test_a_large_mean_does_not_spoil_searches(tmp_path: Path) -> None:
    """The index subtracts it before it multiplies."""
    far = (low_rank(1000, 32, 32) + 20_000).astype(np.float32)
    compress(far, metric="l2", target="recall@10=0.99", out=tmp_path / "o", **FEW)
    index = faiss.read_index(str(tmp_path / "o" / "index.faiss"))
    places = np.arange(0, 1000, 5)
    _, ids = index.search(far[places], 10)
    assert recall(ids, brute_force(far, far[places], 10, "l2")) > 0.98


def test_speed_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "FEWEST", 1000)
    tried: list[str] = []
    asked: list[float] = []

    class Spied(Search):
        def __init__(self, *parts: Any, recall: float, **options: Any) -> None:
            asked.append(recall)
            super().__init__(*parts, recall=recall, **options)

    monkeypatch.setattr(compressing, "Search", Spied)
    found = compress(X, target="recall@10=0.9", prefer="speed", query_count=200, tell=tried.append)
    built = [words for words in tried if words.startswith("building")]
    assert [words.split()[1] for words in built] == ["flat", "ivf", "hnsw", "ivf", "hnsw"]
    assert found.validation.reaches(0.9)
    assert found.recall.value > 0.85
    assert asked == [0.95]  # half of what may be lost is left to lists and links


def test_an_unmet_target_says_what_the_best_was_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        InputError, match=r"is not reached at up to 8 bytes: the best is 0\.\d{4} ± 0"
    ):
        compress(X, target="recall@10=0.99", at_most=8, out=out, **FEW)
    with pytest.raises(InputError, match=r"no quantizer stores a vector in 0\.1 bytes"):
        compress(X, target="recall@10=0.99", at_most=0.1, out=out, **FEW)
    with pytest.raises(InputError, match=r"is not reached: the best is .* lower the target"):
        compress(X, target="recall@10=1", quantizers="sq4", query_count=200, out=out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (X[:1], {}, "1 vector: give at least 4"),
        (X[:10], {}, "k is 10 of 10 vectors: give k below 10"),
        (X, {"target": "recall@1500=0.9"}, "k is 1500 of 1500"),
        (X, {"metric": "dot"}, "unknown metric 'dot'"),
        (X, {"prefer": "size"}, "unknown preference 'size'"),
        (X, {"rerank": 0}, "rerank: 0"),
        (X, {"rerank": 150}, "rerank: 150 times 10 are all of 1500 vectors: give below 150"),
        (X, {"queries_column": "a"}, "is of a file of --queries"),
        (X, {"target": 0.9}, "target '0.9': give recall@K=SHARE"),
        (X, {"at_most": -1}, "give more than 0"),
        (X, {"query_count": 2}, "2 queries: give at least 4"),
        (X, {"queries": X[:2]}, "queries: 2 queries: give at least 4"),
        (X, {"queries": X[:, :7]}, "queries of 7 dimensions, vectors of 32"),
        (X, {"queries": X * np.nan}, r"queries: row \d+ has NaN"),
        (np.where(X[40, 1] == X, np.inf, X), {}, "row 40 has NaN or infinity"),
    ],
)
def test_bad_input_is_one_line(features: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        compress(features, **{**FEW, **options})
    assert "\n" not in str(caught.value)


def test_what_reaches_the_target_is_taken_though_finer_codes_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With few queries chance decides, and what was not tried for that reason may reach it."""
    monkeypatch.setattr(Search, "fewest_bytes", lambda self, codecs, at_most: None)
    found = compress(X, target="recall@10=0.9", at_most=30, **FEW)
    assert found.validation.reaches(0.9)
    with pytest.raises(InputError, match=r"not reached at up to 3 bytes: the best is 0\.\d{4} ± 0"):
        compress(X, target="recall@10=0.99", at_most=3, **FEW)


def test_where_lists_do_not_fit_codes_alone_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "FEWEST", 1000)
    found = compress(X, target="recall@10=0.9", prefer="speed", at_most=14, **FEW)
    assert found.index == "flat"
    assert found.after.bytes <= 14
    assert found.recall.value > 0.85


def test_parquet_is_not_reranked_by(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"single rows of Parquet .*: save the vectors as .npy"):
        compress(save_all(tmp_path, X)["parquet"], rerank=2)


def test_bad_searches() -> None:
    found = compress(X, target="recall@10=0.8", **FEW).result
    for queries, k, message in (
        (X[:3], 0, "k: 0 neighbours of 1500"),
        (X[:3], 1501, "k: 1501 neighbours"),
        (X[:3, :5], 3, "5 dimensions, the compressed vectors have 32"),
        (X[:3] * np.nan, 3, "row 0 has NaN"),
    ):
        with pytest.raises(InputError, match=message):
            found.search(queries, k)
