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
    save_tensors({"v": torch.from_numpy(X)}, str(tmp_path / "t.safetensors"))
    places = np.array([99, 3, 50, 0, 3])
    for path in (*paths.values(), tmp_path / "fortran.npy", tmp_path / "t.safetensors"):
        opened = open_vectors(path)
        starts = [start for start, _ in opened.pieces()]
        assert starts[:3] == [0, 7, 14]
        assert opened.n == 100
        assert opened.dimension == 6
        np.testing.assert_array_equal(whole(path), X)
        np.testing.assert_array_equal(opened.take(places), X[places])
    np.testing.assert_array_equal(whole(X), X)
    np.testing.assert_array_equal(whole(torch.from_numpy(X)), X)


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
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    np.testing.assert_array_equal(whole(pixels), pixels.reshape(4, 64))


def test_lists_of_any_kind_in_parquet(tmp_path: Path) -> None:
    rows = X.tolist()
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16())):
        pq.write_table(pa.table({"v": pa.array(rows, kind)}), tmp_path / "p.parquet")
        np.testing.assert_allclose(whole(tmp_path / "p.parquet"), X, rtol=1e-3)


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
    cases: list[tuple[Any, str | None, str]] = [
        (tmp_path / "a.npz", None, r"unknown file type '.npz'.*\.npy"),
        (tmp_path / "none.npy", None, "none.npy: no such file"),
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
