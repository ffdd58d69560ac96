"""Compressing as a whole: what is chosen, written, loaded and found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_vectors import brute_force, low_rank, recall, save_all
from safetensors.numpy import load_file, save_file

from lowland.core.errors import InputError
from lowland.embeddings import METRICS, compress, fastest, folder, load

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


def test_given_queries_are_used(tmp_path: Path) -> None:
    other = low_rank(60, 32, 32, seed=5)
    np.save(tmp_path / "q.npy", other)
    found = compress(X, queries=tmp_path / "q.npy", target="recall@5=0.9", **FEW)
    assert found.queries["source"] == str(tmp_path / "q.npy")
    assert found.queries["count"] == 60
    some = compress(X, queries=other, target="recall@5=0.9", query_count=20, quantizers="float32")
    assert some.queries["source"] == "20 of 60 of queries"


def test_the_same_seed_gives_the_same() -> None:
    one, two = (compress(X, target="recall@10=0.9", **FEW) for _ in range(2))
    assert one.trials == two.trials
    assert one.recall == two.recall
    np.testing.assert_array_equal(one.result.components, two.result.components)


def test_speed_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "FEWEST", 1000)
    tried: list[str] = []
    found = compress(X, target="recall@10=0.9", prefer="speed", query_count=200, tell=tried.append)
    built = [words for words in tried if words.startswith("building")]
    assert [words.split()[1] for words in built] == ["flat", "ivf", "hnsw", "ivf", "hnsw"]
    assert found.validation.reaches(0.9)
    assert found.recall.value > 0.85


def test_the_record_is_plain(tmp_path: Path) -> None:
    found = compress(X, target="recall@10=0.9", out=tmp_path / "out", **FEW)
    record = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert {**found.to_dict(), "provenance": 0} == {**record, "provenance": 0}
    assert record["after"]["index_bytes"] == (tmp_path / "out" / "index.faiss").stat().st_size
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    assert (index.d, index.ntotal) == (32, 1500)


def test_an_unmet_target_says_what_the_best_was_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"is not reached at up to 8 bytes: the best is 0\.\d{4}"):
        compress(X, target="recall@10=0.99", at_most=8, out=out, **FEW)
    with pytest.raises(InputError, match=r"no quantizer stores a vector in 0\.1 bytes"):
        compress(X, target="recall@10=0.99", at_most=0.1, out=out, **FEW)
    with pytest.raises(InputError, match=r"is not reached: the best is .* lower the target"):
        compress(X, target="recall@10=1", quantizers="sq4", query_count=200, out=out)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    compress(X, target="recall@10=0.8", out=out, **FEW)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_json", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        compress(X, target="recall@10=0.95", out=out, **FEW)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.undo()
    compress(X, target="recall@10=0.95", out=out, **FEW)
    assert {path.name: path.read_bytes() for path in out.iterdir()} != before


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    for place, message in (("mine", r"holds other things \(thesis.txt\)"), ("f", "is a file")):
        (tmp_path / "f").touch()
        with pytest.raises(InputError, match=message):
            compress(X, out=tmp_path / place, **FEW)


def test_damaged_folders_are_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    compress(X, target="recall@10=0.8", out=out, **FEW)
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none")
    for name, change, message in (
        ("index.faiss", lambda p: p.write_bytes(p.read_bytes()[:1000]), "no whole index of faiss"),
        ("transform.safetensors", lambda p: p.write_bytes(b"x"), "cannot be read"),
        ("transform.safetensors", lambda p: save_file({"mean": X[0]}, p), "no tensor 'components'"),
        ("compression.json", lambda p: p.write_text("{}"), "no record of a compression"),
    ):
        broken = tmp_path / "broken"
        shutil.copytree(out, broken)
        change(broken / name)
        with pytest.raises(InputError, match=message):
            load(broken)
        shutil.rmtree(broken)
    other = compress(X[:500], target="recall@10=0.8", out=tmp_path / "other", **FEW)
    assert other.features["n"] == 500
    shutil.copy(tmp_path / "other" / "index.faiss", out / "index.faiss")
    with pytest.raises(InputError, match="do not belong together"):
        load(out)


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (X[:1], {}, "1 vector: give at least 4"),
        (X[:10], {}, "k is 10 of 10 vectors: give k below 10"),
        (X, {"target": "recall@1500=0.9"}, "k is 1500 of 1500"),
        (X, {"metric": "dot"}, "unknown metric 'dot'"),
        (X, {"prefer": "size"}, "unknown preference 'size'"),
        (X, {"rerank": 0}, "rerank: 0"),
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
