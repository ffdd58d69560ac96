"""The four-file layout of Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from made_images import idx_bytes

from lowland.core.errors import InputError
from lowland.data import load
from lowland.data.fashion_mnist import DEFAULT_FOLDER


def test_train_is_split_and_test_is_the_files(idx_folder: Path) -> None:
    data = load(f"fashion-mnist:{idx_folder}")
    assert (data.shape, data.classes, data.augmentation) == ((1, 6, 5), 3, "shift")
    assert data.source["sizes"] == {"train": 54, "validation": 6, "test": 15}
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 5))
    both = torch.cat([data.train.index, data.validation.index])
    assert sorted(both.tolist()) == list(range(60))
    assert data.test.index.tolist() == list(range(60, 75))
    for split in (data.train, data.validation):
        assert (split.images[:, 0].numpy() == images[split.index]).all()
        assert torch.equal(split.labels, split.index % 3)
    assert torch.equal(data.test.labels, torch.arange(15) % 3)
    assert data.validation.labels.bincount().tolist() == [2, 2, 2]


def test_source_records_the_files(idx_folder: Path) -> None:
    recorded = load(f"fashion-mnist:{idx_folder}").source
    assert recorded["sha256"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in idx_folder.iterdir()
    }
    assert recorded["rule"] == "test from the files; stratified: 10% of train validation"
    assert recorded["split_seed"] == 0


def test_plain_and_gzipped_are_the_same_data(idx_folder: Path) -> None:
    before = load(f"fashion-mnist:{idx_folder}").fingerprint
    plain = idx_folder / "train-images-idx3-ubyte"
    Path(f"{plain}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert load(f"fashion-mnist:{idx_folder}").fingerprint == before


def test_a_missing_file_is_named(idx_folder: Path) -> None:
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        InputError, match=r"has no t10k-labels-idx1-ubyte or .*: install the Debian"
    ):
        load(f"fashion-mnist:{idx_folder}")
    with pytest.raises(InputError, match="nowhere has no train-images-idx3-ubyte"):
        load("fashion-mnist:nowhere")


def test_counts_that_disagree(idx_folder: Path) -> None:
    (idx_folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.arange(14) % 3))
    with pytest.raises(InputError, match="has 14 labels for the 15 images of t10k-images"):
        load(f"fashion-mnist:{idx_folder}")


@pytest.mark.parametrize(
    ("part", "n", "message"),
    [("train", 0, "0 training images are too few"), ("t10k", 0, "the test split is empty")],
)
def test_files_without_images(idx_folder: Path, part: str, n: int, message: str) -> None:
    images = np.zeros((n, 6, 5))
    (idx_folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (idx_folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.zeros(n)))
    with pytest.raises(InputError, match=f"^fashion-mnist:{idx_folder}: {message}"):
        load(f"fashion-mnist:{idx_folder}")


@pytest.mark.skipif(not DEFAULT_FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_real_files() -> None:
    data = load("fashion-mnist", limit=1000)
    assert (data.shape, data.classes) == ((1, 28, 28), 10)
    assert data.source["sizes"] == {"train": 1000, "validation": 6000, "test": 10000}
    assert data.test.labels.bincount().tolist() == [1000] * 10
