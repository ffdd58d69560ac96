"""Vectors are read the same from everywhere, in pieces; what cannot be used is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_vectors import save_all
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from lowland.core.errors import InputError
from lowland.embeddings import open_vectors, vectors

X = np.random.default_rng(0).standard_normal((100, 6)).astype(np.float32)


def whole(source: Any, **how: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([rows for _, rows in open_vectors(source, **how).pieces()])


def test_every_format_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "PIECE", 6 * 7)
    paths = save_all(tmp_path, X)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(X))
    np.save(tmp_path / "other.npy", X.astype(">f4"))  # the other order of bytes
    save_tensors({"v": torch.from_numpy(X)}, str(tmp_path / "t.safetensors"))
    places = np.array([99, 3, 50, 0, 3])
    others = [tmp_path / name for name in ("fortran.npy", "other.npy", "t.safetensors")]
    for path in (*paths.values(), *others):
        opened = open_vectors(path)
        starts = [start for start, _ in opened.pieces()]
        assert starts[:3] == [0, 7, 14]
        assert opened.n == 100
        assert opened.dimension == 6
        np.testing.assert_array_equal(whole(path), X)
        np.testing.assert_array_equal(opened.take(places), X[places])
    np.testing.assert_array_equal(whole(X), X)
    np.testing.assert_array_equal(whole(torch.from_numpy(X)), X)
    np.testing.assert_array_equal(whole(np.repeat(X, 2, 1)[::-1, ::2]), X[::-1])


def test_pieces_are_fresh() -> None:
    before = X.copy()
    for _, rows in open_vectors(X).pieces():
        rows += 1
    np.testing.assert_array_equal(X, before)


def test_bfloat16_and_small_integers_are_exact(tmp_path: Path) -> None:
    halves = torch.from_numpy(X).bfloat16()
    save_tensors({"v": halves, "w": halves[:5].clone()}, str(tmp_path / "b.safetensors"))
    opened = open_vectors(tmp_path / "b.safetensors", column="v")
    assert opened.dtype == "bfloat16"
    got = np.concatenate([rows for _, rows in opened.pieces()])
    np.testing.assert_array_equal(got, halves.float().numpy())
    np.testing.assert_array_equal(whole(halves), halves.float().numpy())
    eights = torch.from_numpy(X).to(torch.float8_e4m3fn)
    np.testing.assert_array_equal(whole(eights), eights.float().numpy())
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    np.testing.assert_array_equal(whole(pixels), pixels.reshape(4, 64))


def test_lists_of_any_kind_in_parquet(tmp_path: Path) -> None:
    rows = X.tolist()
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16())):
        pq.write_table(pa.table({"v": pa.array(rows, kind)}), tmp_path / "p.parquet")
        np.testing.assert_allclose(whole(tmp_path / "p.parquet"), X, rtol=1e-3)


def test_row_groups_of_any_size_in_parquet(tmp_path: Path) -> None:
    rows = pa.table({"v": pa.array(X.tolist(), pa.list_(pa.float32()))})
    with pq.ParquetWriter(tmp_path / "p.parquet", rows.schema) as writer:
        for low, high in ((0, 0), (0, 1), (1, 1), (1, 60), (60, 100), (100, 100)):
            writer.write_table(rows.slice(low, high - low))
    assert pq.ParquetFile(tmp_path / "p.parquet").metadata.num_row_groups == 6
    np.testing.assert_array_equal(whole(tmp_path / "p.parquet"), X)


def test_a_column_is_read_by_its_name(tmp_path: Path) -> None:
    """Parquet has columns in columns, by the same names: x inside of v is v.x too."""
    path = lists(tmp_path / "p.parquet", **{"v.x": (X + 5).tolist(), "v": X.tolist()})
    np.testing.assert_array_equal(whole(path, column="v"), X)
    np.testing.assert_array_equal(whole(path, column="v.x"), X + 5)


def test_tensors_in_parquet(tmp_path: Path) -> None:
    of = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 6)
    kind = pa.fixed_shape_tensor(pa.float32(), (2, 3))
    path = lists(tmp_path / "p.parquet", v=pa.ExtensionArray.from_storage(kind, of))
    np.testing.assert_array_equal(whole(path), X)


def test_a_row_group_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows in one group, as many writers have it, of 16 MB."""
    x = np.random.default_rng(0).standard_normal((60_000, 64), dtype=np.float32)
    path = lists(
        tmp_path / "p.parquet", v=pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 64)
    )
    assert pq.ParquetFile(path).metadata.num_row_groups == 1
    monkeypatch.setattr(vectors, "PIECE", 2**16)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    held = [pool.bytes_allocated() - before for _ in open_vectors(path).pieces()]
    assert len(held) == 59
    assert max(held) < path.stat().st_size / 3


@pytest.mark.parametrize("kind", ["npy", "safetensors", "parquet"])
def test_several_files_are_one(kind: str, tmp_path: Path) -> None:
    paths = []
    for i, part in enumerate((X[:40], X[40:41], X[41:])):
        (tmp_path / str(i)).mkdir()
        saved = save_all(tmp_path / str(i), part)[kind]
        paths.append(saved.rename(tmp_path / f"part-{i}.{kind}"))
        (tmp_path / "notes.txt").touch()
    places = np.array([99, 40, 3, 41, 39, 3])
    for source in (paths, tmp_path):
        opened = open_vectors(source)
        assert (opened.n, opened.dimension, opened.dtype) == (100, 6, "float32")
        assert opened.name == f"{paths[0]} and 2 more"
        assert list(opened.paths) == paths
        assert opened.direct == (kind != "parquet")
        assert [start for start, _ in opened.pieces()] == [0, 40, 41]
        np.testing.assert_array_equal(whole(source), X)
        np.testing.assert_array_equal(opened.take(places), X[places])
    assert open_vectors([paths[0]]).name == str(paths[0])
    assert open_vectors(paths).fingerprint() == open_vectors(X).fingerprint()


def test_several_files_that_are_not_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", X[:, :5])
    with pytest.raises(InputError, match=r"b\.npy: 5 dimensions, .*a\.npy has 6: give files of"):
        open_vectors(tmp_path)
    bad = X.copy()
    bad[3] = np.inf
    np.save(tmp_path / "b.npy", bad)
    with pytest.raises(InputError, match=r"b\.npy: row 3 has NaN or infinity"):
        whole(tmp_path)
    with pytest.raises(InputError, match=r"b\.npy: row 3 has NaN or infinity"):
        open_vectors(tmp_path).take(np.array([1, 103]))
    save_file({"v": X}, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match=r"a folder of \.npy and \.safetensors files: name some"):
        open_vectors(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"queries .*none: a folder without \.npy, \.safeten"):
        open_vectors(tmp_path / "none", what="queries")
    with pytest.raises(InputError, match="a list of paths and of other things"):
        open_vectors([str(tmp_path / "a.npy"), X])
    with pytest.raises(InputError, match=r"queries .*d\.npy: no such file"):
        open_vectors([tmp_path / "a.npy", tmp_path / "d.npy"], what="queries")


def test_rows_are_taken_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training sample is held once, not once as it is stored and once in float32 beside."""
    monkeypatch.setattr(vectors, "PIECE", 6 * 8)
    opened = open_vectors(X.astype(np.float64))
    asked: list[int] = []
    take = opened._stored.take
    monkeypatch.setattr(opened._stored, "take", lambda ids: (asked.append(len(ids)), take(ids))[1])
    places = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(opened.take(places), X[places])
    assert max(asked) == 8


def test_a_fingerprint_knows_vectors_again() -> None:
    prints = {
        open_vectors(x).fingerprint()
        for x in (X, X[:99], X[:, :5], np.roll(X, 1, 0), X.reshape(-1, 12))
    }
    assert len(prints) == 5
    assert open_vectors(torch.from_numpy(X)).fingerprint() in prints


def lists(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    npy, tensors = tmp_path / "a.npy", tmp_path / "a.safetensors"
    broken = tmp_path / "broken.npy"
    np.save(broken, X)
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / "x.parquet").write_bytes(b"no")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    np.save(tmp_path / "object.npy", np.array([{}, {}]), allow_pickle=True)
    save_file({"a": X, "b": X}, tmp_path / "two.safetensors")
    bad = X.copy()
    bad[17, 2] = np.nan
    rough = lists(tmp_path / "r.parquet", v=[[1.0, 2.0], [1.0]])
    empty = lists(tmp_path / "e.parquet", v=[[1.0, 2.0], None])
    hole = lists(tmp_path / "h.parquet", v=[[1.0, 2.0], [1.0, None]])
    two = lists(tmp_path / "t.parquet", a=[[1.0]], b=[[1.0]])
    words = lists(tmp_path / "w.parquet", text=["a"])
    np.save(npy, X)
    save_file({"v": X}, tensors)
    np.savez(tmp_path / "a.npz", a=X)
    np.savez(tmp_path / "several.npz", a=X, b=X)
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    np.save(tmp_path / "brain.npy", X.astype(np.float16).view("V2"))
    np.save(tmp_path / "text.npy", X.astype("U8"))
    np.save(tmp_path / "none.npy", X[:0])
    wide = lists(tmp_path / "wide.parquet", **{f"f{i}": X[:, 0] for i in range(384)})
    sparse = torch.from_numpy(X).to_sparse()
    masked = np.ma.masked_array(X, mask=X > 1)
    cases: list[tuple[Any, str | None, str]] = [
        (tmp_path / "a.npz", None, r"unknown file type '.npz'.*\.npy"),
        (tmp_path / "absent.npy", None, "features .*absent.npy: no such file"),
        (tmp_path / "absent", None, "features .*absent: no such file or folder"),
        (tmp_path / "none.npy", None, r"empty, shape \(0, 6\): give vectors"),
        (tmp_path / "several.npy", None, "an archive of arrays .*: save one of them as .npy"),
        (tmp_path / "brain.npy", None, r"holds void16, .*\(bfloat16 is saved so\): save float16"),
        (tmp_path / "text.npy", None, "holds str256, of which NumPy knows no numbers"),
        ([[1.0, 2.0], [3.0]], None, "no dense array of numbers, one row per vector"),
        ([["a", "b"]], None, "features: holds str32"),
        (None, None, r"features: shape \(\): give one row per vector"),
        (sparse, None, "no dense array of numbers, .*Sparse"),
        (masked, None, "100 numbers are masked: fill them"),
        (wide, None, r"such are: none; it has f0, f1, f2, f3, f4 and 379 more"),
        (broken, None, "not a whole .npy file"),
        (tmp_path / "object.npy", None, "not a whole .npy file of numbers"),
        (tmp_path / "x.parquet", None, "not a whole Parquet file"),
        (tmp_path / "x.safetensors", None, "not a whole .safetensors file"),
        (tmp_path / "two.safetensors", None, r"2 tensors \(a, b\): name one with --column"),
        (tmp_path / "two.safetensors", "c", "unknown tensor of .* 'c'.*known: a, b"),
        (npy, "v", "holds one array: leave --column out"),
        (bad, None, "features: row 17 has NaN or infinity"),
        (X.astype(np.float64) * 1e300, None, "row 0 has NaN or infinity"),
        (X[0], None, r"shape \(6,\): give one row per vector"),
        (X[:0], None, "empty, shape"),
        (X.astype(np.int64), None, "holds int64, which looks like labels"),
        (X > 0, None, "holds bool: give real numbers"),
        (X.astype(np.complex64), None, "holds complex64: give real numbers"),
        (rough, None, "row 1 of 'v' has 1 numbers, the first has 2"),
        (empty, None, "row 1 of 'v' is empty: fill it"),
        (hole, None, "row 1 has an empty number: fill it"),
        (two, None, r"several columns of lists of numbers \(such are: a, b\): name one"),
        (two, "c", "no column 'c' of lists of numbers"),
        (words, None, r"no column of lists of numbers \(such are: none; it has text\)"),
    ]
    for source, column, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            whole(source, column=column)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300
