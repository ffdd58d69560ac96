"""Sources of examples: folders, arrays, tables; splits, labels and orders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_images import png

from lowland.core.errors import InputError
from lowland.data import load, open_examples


def pixels(seed: int, height: int = 4, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def folder(root: Path, layout: dict[str, int]) -> Path:
    """Image files of different sizes under the given names of folders."""
    for place, count in layout.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / place / f"{i}.png").write_bytes(png(pixels(i, 4 + i, 5)))
    return root


def table(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path)
    return f"parquet:{path}"


class TestFolders:
    def test_classes_take_turns_and_sizes_may_differ(self, tmp_path: Path) -> None:
        found = open_examples(f"imagefolder:{folder(tmp_path, {'b': 2, 'a': 3})}")
        assert (found.n, found.classes, found.split) == (5, 2, "all")
        assert found.labels is not None
        assert found.labels.tolist() == [0, 1, 0, 1, 0]
        assert [found.read(i).shape[1] for i in range(5)] == [4, 4, 5, 5, 6]
        np.testing.assert_array_equal(found.read(0), pixels(0, 4).transpose(2, 0, 1))

    def test_splits_above_classes(self, tmp_path: Path) -> None:
        folder(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
        assert open_examples(f"imagefolder:{tmp_path}").n == 4
        held = open_examples(f"imagefolder:{tmp_path}", split="validation")
        assert (held.n, held.split) == (2, "validation")
        with pytest.raises(InputError, match="has no split 'test': it has train, validation"):
            open_examples(f"imagefolder:{tmp_path}", split="test")

    def test_images_alone_have_no_labels(self, tmp_path: Path) -> None:
        found = open_examples(f"imagefolder:{folder(tmp_path, {'.': 3})}")
        assert (found.n, found.labels, found.classes) == (3, None, None)

    @pytest.mark.parametrize(
        ("layout", "message"),
        [
            ({}, "no such folder"),
            ({"a": 0}, "has no images"),
            ({"a": 1, ".": 1}, "has images beside folders, first 0.png"),
        ],
    )
    def test_refused(self, layout: dict[str, int], message: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=message):
            open_examples(f"imagefolder:{folder(tmp_path / 'x', layout)}")

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        found = open_examples(f"imagefolder:{folder(tmp_path, {'a': 1})}")
        (tmp_path / "a" / "0.png").write_bytes(b"no image")
        with pytest.raises(InputError, match=r"0\.png cannot be decoded"):
            found.read(0)


class TestArrays:
    def saved(self, path: Path, **arrays: Any) -> str:
        np.savez(path / "x.npz", **arrays)
        return f"npz:{path / 'x.npz'}"

    @pytest.mark.parametrize("shape", [(6, 4, 5), (6, 4, 5, 3), (6, 3, 4, 5), (6, 1, 4, 5)])
    def test_axes(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        found = open_examples(self.saved(tmp_path, x=x, y=np.arange(6)))
        channels = 3 if 3 in shape[1:] else 1
        assert found.read(2).shape == (channels, 4, 5)
        assert (found.n, found.classes, found.largest) == (6, 6, 255.0)
        assert float(found.read(2).sum()) == x[2].sum()

    def test_floats_and_splits(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).random((6, 4, 4))
        name = self.saved(tmp_path, x_train=x, y_train=np.arange(6), x_test=x[:2])
        assert open_examples(name).largest == 1.0
        test = open_examples(name, split="test")
        assert (test.n, test.labels) == (2, None)
        short = self.saved(tmp_path, xtr=x, ytr=np.arange(6), xte=x[:1], yte=np.arange(1))
        assert open_examples(short, split="test").n == 1

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"a": np.zeros(2)}, "has no array 'x' or 'x_train' (it has a)"),
            ({"x": np.zeros((2, 5))}, "store (n, h, w)"),
            ({"x": np.full((2, 4, 4), -1.0)}, "floating-point values in [0, 1]"),
            ({"x": np.zeros((2, 4, 4)), "y": np.zeros(3, int)}, "one whole number for each of 2"),
            ({"x": np.zeros((2, 4, 4)), "y": np.zeros(2)}, "type float64"),
            ({"x": np.zeros((2, 4, 4)), "y": np.array([0, -1])}, "labels start at 0"),
            ({"x": np.array([None, {}], dtype=object)}, "cannot be read"),
        ],
    )
    def test_refused(self, arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            open_examples(self.saved(tmp_path, **arrays))
        assert message in str(caught.value)

    def test_no_archive(self, tmp_path: Path) -> None:
        (tmp_path / "x.npz").write_bytes(b"PK no")
        with pytest.raises(InputError, match="cannot be read"):
            open_examples(f"npz:{tmp_path / 'x.npz'}")
        np.save(tmp_path / "x.npy", np.zeros(3))
        with pytest.raises(InputError, match="one bare array"):
            open_examples(f"npz:{tmp_path / 'x.npy'}")


class TestTables:
    def test_images_of_any_size_without_labels(self, tmp_path: Path) -> None:
        encoded = [png(pixels(i, 4 + i)) for i in range(3)]
        found = open_examples(table(tmp_path / "x.parquet", image=encoded))
        assert (found.n, found.labels, found.split) == (3, None, "all")
        np.testing.assert_array_equal(found.read(2), pixels(2, 6).transpose(2, 0, 1))

    def test_splits_structs_and_words_as_labels(self, tmp_path: Path) -> None:
        images = [{"bytes": png(pixels(i)), "path": ""} for i in range(4)]
        name = table(
            tmp_path / "x.parquet",
            image=images,
            label=["cat", "dog", "ant", "cat"],
            split=["train2017", "val2017", "TRAIN", "train"],
        )
        train, held = open_examples(name), open_examples(name, split="validation")
        assert train.labels is not None
        assert held.labels is not None
        assert (train.labels.tolist(), held.labels.tolist()) == ([1, 0, 1], [2])
        np.testing.assert_array_equal(train.read(1), pixels(2).transpose(2, 0, 1))

    def test_texts(self, tmp_path: Path) -> None:
        name = table(tmp_path / "x.parquet", captions=[["a b", "c"], ["d", "e"]], title=["x", "y"])
        found = open_examples(name, kind="texts")
        assert [found.read(i) for i in range(2)] == ["a b", "d"]
        assert open_examples(name, kind="texts", column="title").read(1) == "y"

    @pytest.mark.parametrize(
        ("columns", "options", "message"),
        [
            ({"a": [1]}, {}, "has no column 'image' or 'img' with images (it has a)"),
            ({"image": [b"x"]}, {"column": "pic"}, "has no column 'pic'"),
            ({"image": [b"x"]}, {"kind": "texts"}, "has no column 'text' or 'caption'"),
            ({"image": ["x"]}, {}, "the images are of type string: use encoded bytes"),
            ({"text": [1]}, {"kind": "texts"}, "the texts are of type int64"),
            ({"image": [b"x"], "label": [0.5]}, {}, "'label' holds double"),
            ({"image": [b"x"], "label": [-1]}, {}, "labels start at 0"),
            ({"image": [b"x", b"x"], "label": [None, 1]}, {}, "1 empty rows"),
            ({"image": [b"x"], "split": ["dev"]}, {}, "row 0 has split 'dev'"),
            ({"image": [b"x"]}, {"split": "test"}, "marks no splits: leave --split out"),
            ({"image": pa.array([], pa.binary())}, {}, "has no rows"),
        ],
    )
    def test_refused(
        self, columns: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError) as caught:
            open_examples(table(tmp_path / "x.parquet", **columns), **options)
        assert message in str(caught.value)

    def test_rows_that_hold_nothing(self, tmp_path: Path) -> None:
        images = open_examples(table(tmp_path / "x.parquet", image=[png(pixels(0)), None]))
        with pytest.raises(InputError, match="row 1 holds no image bytes"):
            images.read(1)
        texts = open_examples(table(tmp_path / "y.parquet", text=["a", None]), kind="texts")
        with pytest.raises(InputError, match="row 1 holds no text"):
            texts.read(1)


def test_a_data_set_of_lowland() -> None:
    data, found = load("digits"), open_examples("digits", split="test").first(5)
    assert (found.n, found.largest, found.classes) == (5, 16.0, 10)
    assert torch.equal(found.read(3), data.test.images[3])
    assert found.labels is not None
    assert torch.equal(found.labels, data.test.labels[:5])
    record = found.to_dict()
    assert record["source"]["fingerprint"] == data.fingerprint
    assert record["n"] == 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "unknown data 'digit': did you mean 'digits'?"),
        ("parquet:", {}, "lacks its path"),
        ("parquet:/no/file", {}, "/no/file"),
        ("digits", {"split": "tset"}, "unknown split 'tset': did you mean 'test'?"),
        ("digits", {"kind": "texts"}, "has images and labels alone"),
        ("digits", {"column": "x"}, "has images and labels alone"),
        ("npz:x", {"column": "x"}, "--column is for parquet:FILE"),
        ("npz:x", {"kind": "texts"}, "the model reads texts: use parquet:FILE"),
    ],
)
def test_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        open_examples(name, **options)
    assert message in str(caught.value)
