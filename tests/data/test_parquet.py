"""Parquet files of encoded images: layouts, splits and faults."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_images import png
from PIL import Image

from lowland.core.errors import InputError
from lowland.data import load

Writer = Callable[..., str]
Columns = dict[str, Any]


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 6, 8, 3), dtype=np.uint8)


def whole(data) -> torch.Tensor:
    """All images in the order of the file."""
    images = torch.cat([split.images for split in data.splits.values()])
    rows = torch.cat([split.index for split in data.splits.values()])
    assert sorted(rows.tolist()) == list(range(len(rows)))
    return images[rows.argsort()]


def test_pixels_labels_and_record(parquet: Writer, columns: Columns) -> None:
    name = parquet(columns)
    data = load(name)
    assert (data.shape, data.classes, data.augmentation) == ((3, 6, 8), 2, "shift-flip")
    assert (whole(data).permute(0, 2, 3, 1).numpy() == pixels()).all()
    for split in data.splits.values():
        assert torch.equal(split.labels, split.index % 2)
    path = Path(name.partition(":")[2])
    assert data.source == {
        "sha256": {"made.parquet": hashlib.sha256(path.read_bytes()).hexdigest()},
        "rule": "all rows are train; stratified: 20% of train test; "
        "stratified: 10% of train validation",
        "split_seed": 0,
        "sizes": {"train": 29, "validation": 3, "test": 8},
    }


def test_a_split_column_is_followed(parquet: Writer, columns: Columns) -> None:
    marks = ["train"] * 20 + ["valid"] * 8 + ["test"] * 12
    data = load(parquet({**columns, "split": marks}))
    assert data.train.index.tolist() == list(range(20))
    assert data.validation.index.tolist() == list(range(20, 28))
    assert data.test.index.tolist() == list(range(28, 40))
    assert data.source["rule"] == "from the column 'split'"


def test_validation_is_held_out_where_the_file_has_none(parquet: Writer, columns: Columns) -> None:
    data = load(parquet({**columns, "split": ["train"] * 30 + ["test"] * 10}))
    assert data.test.index.tolist() == list(range(30, 40))
    assert data.source["sizes"] == {"train": 27, "validation": 3, "test": 10}
    assert data.source["rule"].endswith("stratified: 10% of train validation")


def test_a_file_with_validation_and_no_test_is_tested_on_it(
    parquet: Writer, columns: Columns
) -> None:
    data = load(parquet({**columns, "split": ["train"] * 30 + ["val"] * 10}))
    assert data.test.index.tolist() == list(range(30, 40))
    assert len(data.validation) == 3
    assert "its validation rows are test" in data.source["rule"]


def test_struct_of_bytes_and_path(parquet: Writer, columns: Columns) -> None:
    plain = load(parquet(columns)).fingerprint
    struct = [{"bytes": image, "path": "x.png"} for image in columns["image"]]
    assert load(parquet({**columns, "image": struct})).fingerprint == plain


def test_more_rows_than_a_chunk(
    parquet: Writer, columns: Columns, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = parquet(columns)
    before = load(name).fingerprint
    monkeypatch.setattr("lowland.data.decode._CHUNK", 7)
    assert load(name).fingerprint == before


def test_grey_stays_grey_and_is_not_mirrored(parquet: Writer, columns: Columns) -> None:
    grey = pixels()[..., 0]
    data = load(parquet({**columns, "image": [png(image) for image in grey]}))
    assert (data.shape, data.augmentation) == ((1, 6, 8), "shift")
    assert (whole(data)[:, 0].numpy() == grey).all()


def test_one_colour_image_makes_all_rgb(parquet: Writer, columns: Columns) -> None:
    grey = pixels()[..., 0]
    images = replaced([png(image) for image in grey], 5, columns["image"][5])
    data = load(parquet({**columns, "image": images}))
    assert data.shape == (3, 6, 8)
    out = whole(data).numpy()
    assert (np.delete(out, 5, 0) == np.delete(grey, 5, 0)[:, None]).all()
    assert (out[5] == pixels()[5].transpose(2, 0, 1)).all()


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "WEBP"])
def test_other_formats_are_what_pillow_makes_of_them(
    kind: str, parquet: Writer, columns: Columns
) -> None:
    images = [png(image, kind) for image in pixels()]
    out = whole(load(parquet({**columns, "image": images})))
    expected = [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in images]
    assert (out.permute(0, 2, 3, 1).numpy() == np.stack(expected)).all()


def replaced(values: list[Any], row: int, value: Any) -> list[Any]:
    return [*values[:row], value, *values[row + 1 :]]


def deep() -> bytes:
    return png(np.full((6, 8), 40000, np.uint16))


ONE = {
    "no label column": (lambda c: {"image": c["image"]}, "has no column 'label' (it has image)"),
    "no image column": (lambda c: {"label": c["label"]}, "has no column 'image'"),
    "text labels": (lambda c: {**c, "label": ["a"] * 40}, "column 'label' holds string"),
    "float labels": (lambda c: {**c, "label": [0.5] * 40}, "column 'label' holds double"),
    "null labels": (lambda c: {**c, "label": replaced(c["label"], 3, None)}, "has 1 empty rows"),
    "unsigned labels": (
        lambda c: {**c, "label": pa.array([0, 2**63] * 20, pa.uint64())},
        "column 'label' holds uint64",
    ),
    "negative labels": (lambda c: {**c, "label": [-1, 0] * 20}, "from -1 to 0: renumber them"),
    "labels from 1": (lambda c: {**c, "label": [1, 2] * 20}, "without gaps"),
    "one class": (lambda c: {**c, "label": [0] * 40}, "one class only"),
    "no rows": (
        lambda c: {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int8())},
        "0 training images are too few",
    ),
    "text images": (lambda c: {**c, "image": ["a.png"] * 40}, "column 'image' holds string"),
    "other struct": (lambda c: {**c, "image": [{"url": b"x"}] * 40}, "column 'image' holds struct"),
    "null image": (lambda c: {**c, "image": replaced(c["image"], 9, None)}, "row 9 holds no image"),
    "null struct": (
        lambda c: {**c, "image": replaced([{"bytes": i} for i in c["image"]], 9, {"bytes": None})},
        "row 9 holds no image",
    ),
    "undecodable": (
        lambda c: {**c, "image": replaced(c["image"], 7, b"junk")},
        "row 7 cannot be d",
    ),
    "first row": (
        lambda c: {**c, "image": replaced(c["image"], 0, b"")},
        "row 0 cannot be decoded",
    ),
    "cut short": (
        lambda c: {**c, "image": replaced(c["image"], 5, c["image"][5][:-40])},
        "row 5 cannot be decoded",
    ),
    "other size": (
        lambda c: {**c, "image": replaced(c["image"], 4, png(np.zeros((6, 9), np.uint8)))},
        "row 4 is 9x6 pixels, the first is 8x6: resize all images to one size",
    ),
    "16 bit": (lambda c: {**c, "image": replaced(c["image"], 2, deep())}, "row 2 has mode I;16"),
    "format not listed": (
        lambda c: {**c, "image": replaced(c["image"], 2, png(pixels()[0], "GIF"))},
        "row 2 cannot be decoded (cannot identify image file",
    ),
    "strange split": (
        lambda c: {**c, "split": replaced(["train"] * 40, 6, "extra")},
        "row 6 has split 'extra': use train, test, validation, valid, val, or drop the column",
    ),
    "null split": (
        lambda c: {**c, "split": replaced(["train"] * 40, 6, None)},
        "row 6 has split None",
    ),
    "no train": (lambda c: {**c, "split": ["test"] * 40}, "0 training images are too few"),
}


@pytest.mark.parametrize("case", ONE)
def test_faults_are_one_line_that_names_the_file(
    case: str, parquet: Writer, columns: Columns
) -> None:
    change, message = ONE[case]
    name = parquet(change(columns))
    with pytest.raises(InputError) as caught:
        load(name)
    assert message in str(caught.value)
    assert name.partition(":")[2] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_first_bad_row_is_named(parquet: Writer, columns: Columns) -> None:
    images = replaced(replaced(columns["image"], 31, b"junk"), 12, b"junk")
    with pytest.raises(InputError, match="row 12 cannot be decoded"):
        load(parquet({**columns, "image": images}))


@pytest.mark.parametrize("cut", [0, 3, 4, 100, -1, -5, -300])
def test_truncated_and_foreign_files(cut: int, parquet: Writer, columns: Columns) -> None:
    name = parquet(columns)
    path = Path(name.partition(":")[2])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"is not a whole Parquet file \(.*\): fetch it again"):
        load(name)


def test_damage_in_the_middle_is_an_input_error_or_harmless(
    parquet: Writer, columns: Columns
) -> None:
    name = parquet(columns)
    path = Path(name.partition(":")[2])
    content = path.read_bytes()
    passed = 0
    for place in range(4, len(content), len(content) // 60):
        path.write_bytes(content[:place] + b"\xff" * 16 + content[place + 16 :])
        with contextlib.suppress(InputError):  # any other exception is a failure
            load(name)
            passed += 1
    assert passed < 30


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file or directory: name a Parquet file"):
        load(f"parquet:{tmp_path}/none.parquet")
    with pytest.raises(InputError, match="is a directory: name a Parquet file"):
        load(f"parquet:{tmp_path}")
