"""Dominoes of MNIST and CIFAR-10, from small files in every format they are read from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_images import idx_bytes, png

from lowland.core.errors import InputError
from lowland.data import decorrelated, load, open_examples, places

LEVELS = 20
"""The grey level of a made image of class c, its first pixels saying which one it is."""


def made(n: int, start: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images of ten classes in turn; a pixel counts them, the others are 20·class."""
    labels = np.arange(n, dtype=np.uint8) % 10
    images = np.broadcast_to((LEVELS * labels).reshape(-1, *[1] * len(shape)), (n, *shape)).copy()
    number = start + np.arange(n)
    images.reshape(n, -1)[:, :2] = np.stack([number // 250, number % 250], 1)
    return images, labels


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    (x, y), (xt, yt) = made(400, 0, (28, 28)), made(100, 400, (28, 28))
    np.savez(tmp_path / "mnist.npz", xtr=x, ytr=y, xte=xt, yte=yt)
    for part, images, labels in (("train", x, y), ("t10k", xt, yt)):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return tmp_path


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rows: dict[str, list[Any]] = {"image": [], "label": [], "split": []}
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for i, file in enumerate(files):
        images, labels = made(100, 100 * i, (3, 32, 32))
        records = np.concatenate([labels[:, None], images.reshape(100, -1)], axis=1)
        (folder / file).write_bytes(records.tobytes())
        rows["image"] += [png(image.transpose(1, 2, 0)) for image in images]
        rows["label"] += labels.tolist()
        rows["split"] += ["test" if "test" in file else "train"] * 100
    pq.write_table(pa.table(rows), tmp_path / "cifar.parquet")
    return tmp_path


def named(mnist: Path, cifar: Path, settings: str = "") -> str:
    return f"cifar-mnist-dominoes:mnist={mnist},cifar={cifar},correlation=0.8{settings}"


def test_every_format_gives_the_same_dominoes(mnist: Path, cifar: Path) -> None:
    data = load(named(mnist / "mnist.npz", cifar / "cifar.parquet"))
    other = load(named(mnist, cifar / "cifar-10-batches-bin"))
    assert data.fingerprint == other.fingerprint
    assert data.shape == (3, 64, 32)
    assert data.source["sizes"] == {"train": 90, "validation": 10, "test": 40}
    for split in data.splits.values():
        above, below = split.images[:, :, 16, 16], split.images[:, :, 48, 16]
        assert torch.equal(above, (LEVELS * split.annotations["easy"])[:, None].expand(-1, 3))
        pictures = torch.tensor([1, 9])[split.labels]
        assert torch.equal(below.long(), (LEVELS * pictures)[:, None].expand(-1, 3))
        assert not split.images[:, :, :2].any()  # the frame of the digit
    agree = data.train.labels == data.train.annotations["easy"]
    assert int(agree.sum()) == 72
    assert decorrelated(data).annotations["easy"].float().mean() == 0.5


def test_test_images_are_in_test_alone(mnist: Path, cifar: Path) -> None:
    data = load(named(mnist, cifar))
    for split in data.splits.values():
        digits = 250 * split.images[:, 0, 2, 2].long() + split.images[:, 0, 2, 3].long()
        pictures = 250 * split.images[:, 0, 32, 0].long() + split.images[:, 0, 32, 1].long()
        assert bool((digits >= 400).all()) == (split is data.test) == bool((digits >= 400).any())
        assert bool((pictures >= 500).all()) == (split is data.test)
        assert bool((pictures >= 500).any()) == (split is data.test)


def test_files_that_change_are_read_again(mnist: Path, cifar: Path) -> None:
    name = named(mnist / "mnist.npz", cifar)
    assert places(name) == (str(mnist / "mnist.npz"), str(cifar))
    before = load(name).fingerprint
    assert load(name).fingerprint == before
    x, y = made(400, 0, (28, 28))
    np.savez(mnist / "mnist.npz", xtr=x + 1, ytr=y, xte=x, yte=y)
    assert load(name).fingerprint != before


def test_sources_that_do_not_fit_are_named(mnist: Path, cifar: Path) -> None:
    file, pictures = mnist / "mnist.npz", cifar / "cifar.parquet"
    x, _ = made(20, 0, (28, 28))
    marks = np.arange(20) % 2
    np.savez(mnist / "few.npz", xtr=x, ytr=marks, xte=x, yte=0 * marks)
    table = pq.read_table(pictures)
    pq.write_table(
        table.filter([label % 8 != 1 for label in table["label"].to_pylist()]),
        cifar / "few.parquet",
    )
    for (first, second), message in {
        (file, mnist / "no"): f"data {mnist / 'no'}: no such file or folder: name an .npz",
        (pictures, pictures): "has images of 3x32x32, not 1x28x28: name the files of MNIST",
        (mnist, file): "has images of 1x28x28, not 3x32x32: name the files of CIFAR-10",
        (mnist / "few.npz", pictures): "no test image has easy = 1: add images that have",
        (file, cifar / "few.parquet"): "few.parquet has no images of label 1 or 9",
    }.items():
        with pytest.raises(InputError) as caught:
            load(named(first, second))
        assert message in str(caught.value)


def test_arrays_are_a_data_set(mnist: Path) -> None:
    data = load(f"npz:{mnist / 'mnist.npz'}")
    assert data.source["sizes"] == {"train": 360, "validation": 40, "test": 100}
    assert (data.shape, data.classes, data.augmentation) == ((1, 28, 28), 10, "shift")
    assert data.test.index.tolist() == list(range(400, 500))
    assert torch.equal(data.test.images[:, 0, 9, 9].long(), LEVELS * data.test.labels)
    x, y = made(100, 0, (8, 8, 3))
    np.savez(mnist / "all.npz", x=x, y=y)
    assert load(f"npz:{mnist / 'all.npz'}").source["sizes"] == {
        "train": 72,
        "validation": 8,
        "test": 20,
    }


def test_arrays_of_one_split_alone_are_examples(tmp_path: Path) -> None:
    x, y = made(20, 0, (8, 8))
    np.savez(tmp_path / "x.npz", x_test=x, y_test=y)
    assert open_examples(f"npz:{tmp_path / 'x.npz'}").split == "test"
    with pytest.raises(InputError, match="has no split 'train': it has test"):
        open_examples(f"npz:{tmp_path / 'x.npz'}", split="train")


def test_arrays_that_cannot_be_trained_on(tmp_path: Path) -> None:
    x, y = made(20, 0, (8, 8))
    for arrays, message in (
        ({"x": x / 255.0, "y": y}, "x holds floating-point values: store bytes to train on"),
        ({"x": x}, "has no array 'y' with the labels of 'x': store them"),
        ({"a": x}, "has no array 'x' or 'x_train' (it has a)"),
        (
            {"x_train": x, "y_train": y, "xte": x, "yte": y},
            "has x_train and xte: name all of one kind, x_train, x_val and x_test, or xtr and xte",
        ),
        ({"x": np.array([{}, {}], dtype=object), "y": y}, "Object arrays cannot be loaded"),
    ):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(InputError) as caught:
            load(f"npz:{tmp_path / 'x.npz'}")
        assert message in str(caught.value)
    with pytest.raises(InputError, match="data set 'npz:' lacks its file: npz:FILE"):
        load("npz:")
